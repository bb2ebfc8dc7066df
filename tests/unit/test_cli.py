"""The command line: exit codes, what goes to which stream, and what each refusal says."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from tailrace.cli import OnProgress, Parts, app
from tailrace.config import Config, load_config
from tailrace.console import Reporter, duration
from tailrace.errors import ConfigError, TailraceError, Terminal
from tailrace.lake.attach import connect
from tailrace.lake.discovery import Attribute, insert_sql
from tailrace.lake.schema import create_control_tables
from tailrace.model import (
    BaseProgress,
    BaseResult,
    Difference,
    Differences,
    DrainResult,
    Gap,
    Maintenance,
    MaintenanceStep,
    Reconciliation,
    Sizes,
    TableSize,
    TableStatus,
)
from tailrace.transform.generate import CREATED, EDITED, UNCHANGED, UPDATED, Written

STATUS = TableStatus(
    model="orders",
    table_name="Orders",
    epoch=1,
    state="live",
    rows=20_345,
    items_read=20_000,
    last_pass_at=datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC),
    lag_seconds=12.5,
    shards_open=4,
    base_parts_done=8,
    base_parts_total=8,
    proven_until=datetime(2026, 11, 23, 12, tzinfo=UTC),
    idle_reads_a_day=9216,
)


GAP = Gap(
    datetime(2026, 11, 20, 12, tzinfo=UTC),
    datetime(2026, 11, 21, 12, tzinfo=UTC),
    datetime(2026, 11, 22, 12, tzinfo=UTC),
    "an outage",
)

EQUAL = Differences(20_000, 0, 0, 0, 20_000, 0, ())
UNEQUAL = Differences(
    19_998,
    1,
    1,
    0,
    20_000,
    1,
    (
        Difference("missing", '{"pk":{"S":"a"}}', '{"pk":{"S":"a"},"n":{"N":"1"}}', None),
        Difference("extra", '{"pk":{"S":"[b]\\u001b"}}', None, '{"pk":{"S":"[b]\x1b[2J"}}'),
    ),
)


class FakeEngine:
    """One table that needs a base, then is live after one pass."""

    def __init__(self, parts: FakeParts, progress: OnProgress | None) -> None:
        self.parts, self.progress = parts, progress
        self.stop = threading.Event()

    def base(self, model: str, *, restart: bool = False) -> BaseResult:
        self.parts.bases.append((model, restart))
        if self.parts.base_fails:
            raise Terminal("No such bucket: b.", "Make the bucket.")
        if self.progress:
            for items in (0, 5_000, 20_000):
                self.progress(BaseProgress(model, items, items * 100, 1, 8, 20_000, 4e3, 3.0))
        return BaseResult(model, 1, "scan", "base_complete", 20_000, 2_000_000, 8, 5.0)

    def repair(self, model: str) -> BaseResult | None:
        if not self.parts.gaps:
            return None
        return BaseResult(model, 2, "export", "base_complete", 12, 1_000, 1, 5.0)

    def drain(self, models: Sequence[str]) -> dict[str, DrainResult | Exception]:
        done = DrainResult("orders", 1, "live", rows=345, reached_tip=True)
        return {model: self.parts.pass_fails.get(model) or done for model in models}

    def status(self, models: Sequence[str] | None = None) -> list[TableStatus]:
        state = (
            replace(STATUS, gaps=self.parts.gaps, lost=self.parts.lost)
            if self.parts.has_base
            else TableStatus("orders", "Orders", None, "none", 0, 0, None, None, 0, 0, 0)
        )
        return [state]

    def unmerged(self, models: Sequence[str]) -> list[str]:
        return list(models)

    def maintain(
        self, *, full: bool = True, tell: Callable[[MaintenanceStep], None] = lambda _: None
    ) -> Maintenance:
        step = MaintenanceStep("files", 12, 0.5)
        tell(step)
        before, after = (
            Sizes((TableSize("changes.orders", 500, 0, files, 0, 10**7),), snapshots, 7, 10**6)
            for files, snapshots in ((14, 900), (2, 3))
        )
        return Maintenance(before, after, (step,), self.parts.maintenance_failures, 0.6)

    def reconcile(
        self,
        model: str,
        method: str | None = None,
        *,
        sample: int = 0,
        max_rcu: float | None = None,
    ) -> Reconciliation:
        self.parts.reconciled.append((model, method, sample, max_rcu))
        if self.progress:
            self.progress(BaseProgress(model, 5_000, 100, 1, 8, 20_000, 4e3, 3.0))
        if self.parts.reconcile_fails:
            raise self.parts.reconcile_fails
        began = datetime(2026, 11, 23, 12, tzinfo=UTC)
        ended = datetime(2026, 11, 23, 12, 1, tzinfo=UTC)
        return Reconciliation(model, "scan", began, ended, self.parts.found, 1_250.0, 72.04)


class FakeParts(Parts):
    """Real configuration and warehouse; the engine, dbt and the generator are played."""

    def __init__(self, *, has_base: bool = False, base_fails: bool = False) -> None:
        self.has_base, self.base_fails = has_base, base_fails
        self.pass_fails: dict[str, Exception | None] = {}
        self.build_fails: Exception | None = None
        self.built: list[str] = []
        self.bases: list[tuple[str, bool]] = []
        self.reconciled: list[tuple[str, str | None, int, float | None]] = []
        self.reconcile_fails: Exception | None = None
        self.maintenance_failures: tuple[str, ...] = ()
        self.found = EQUAL
        self.files: list[Written] = []
        self.gaps: tuple[Gap, ...] = ()
        self.lost = ""

    @contextlib.contextmanager
    def engine(self, config: Config, progress: OnProgress | None = None) -> Iterator[Any]:
        yield FakeEngine(self, progress)

    def build(self, config: Config, models: Sequence[str]) -> list[str]:
        if self.build_fails:
            raise self.build_fails
        print("dbt says something")
        self.built += models
        return ["orders has a new column: total"]

    def generate(self, config: Config, *, check: bool) -> list[Written]:
        return self.files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tailrace.yaml").write_text("tables:\n  - name: Orders\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAILRACE_CONFIG", raising=False)
    monkeypatch.delenv("TAILRACE_DEBUG", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real DuckLake with one model in it."""
    folder = tmp_path_factory.mktemp("lake")
    (folder / "tailrace.yaml").write_text("tables:\n  - name: Orders\n")
    connection = connect(load_config(folder / "tailrace.yaml").warehouse)
    connection.execute("CREATE SCHEMA analytics")
    connection.execute("CREATE TABLE analytics.orders (pk VARCHAR, total DECIMAL(38, 2))")
    connection.execute("INSERT INTO analytics.orders VALUES ('a', 1.50), ('b,\"\n', NULL)")
    connection.close()
    return folder


@pytest.fixture
def warehouse(lake: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(lake)
    return lake


def run(*words: str, parts: Parts | None = None, input: str | None = None) -> Result:
    return CliRunner().invoke(app, words, obj=parts or FakeParts(), input=input)


# ------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "command",
    [
        ["sync"],
        ["status"],
        ["sql", "SELECT 1"],
        ["generate"],
        ["base", "orders"],
        ["reconcile", "orders"],
    ],
)
def test_every_command_refuses_a_missing_configuration_with_2(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAILRACE_CONFIG", raising=False)
    result = run(*command)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: There is no configuration at tailrace.yaml." in result.stderr
    assert "What to do:" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["sync"],
        ["status"],
        ["sql", "SELECT 1"],
        ["generate"],
        ["base", "orders"],
        ["reconcile", "orders"],
    ],
)
def test_every_command_takes_the_configuration_by_option_before_variable(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.yaml").write_text("tables: [")
    monkeypatch.setenv("TAILRACE_CONFIG", "broken.yaml")
    assert run(*command).exit_code == 2
    named = run(*command, "--config", str(folder / "tailrace.yaml"))
    assert "broken.yaml" not in named.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["sync", "--fast"],
        ["sql"],
        ["init"],
        ["status", "--format", "xml"],
        ["reconcile"],
        ["reconcile", "orders", "--method", "guess"],
        ["reconcile", "orders", "--sample", "0"],
        ["reconcile", "orders", "--method", "scan", "--sample", "10"],
        ["reconcile", "ordrs"],
    ],
)
def test_wrong_use_exits_2(words: list[str], folder: Path) -> None:
    assert run(*words).exit_code == 2


def test_an_unknown_table_exits_2_and_names_the_known_ones(folder: Path) -> None:
    result = run("sync", "--table", "ordrs")
    assert result.exit_code == 2
    assert "did you mean orders?" in result.stderr


# ----------------------------------------------------------------------------------------- sync


def test_sync_does_base_pass_and_models_and_keeps_stdout_empty(folder: Path) -> None:
    parts = FakeParts()
    result = run("sync", "--table", "Orders", parts=parts)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert parts.built == ["orders"]
    assert "orders: base read by scan, 20,000 items in 5 s" in result.stderr
    assert "orders: live, at the tip, 345 changes" in result.stderr
    assert "dbt says something" in result.stderr
    assert "orders has a new column: total" in result.stderr


def test_progress_is_plain_lines_where_there_is_no_terminal(folder: Path) -> None:
    result = run("sync")
    lines = [line for line in result.stderr.splitlines() if "items/s" in line]
    assert lines == [
        "orders: 0 of about 20,000 items, 0.0 MB, parts 1/8, 4,000 items/s, 3 s left"
    ], "one line in ten seconds, not one a page"


def test_an_export_that_aws_still_works_on_is_said_to_be_waited_for(folder: Path) -> None:
    reporter = Reporter()
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        reporter.progress(BaseProgress("orders", 0, 0, 0, 0, 20_000, 0.0, None))
    assert stderr.getvalue() == "orders: waiting for the export of about 20,000 items\n"


def test_a_failed_base_exits_1_with_message_and_remedy_and_no_trace(folder: Path) -> None:
    result = run("sync", parts=FakeParts(base_fails=True))
    assert result.exit_code == 1
    assert "Error: No such bucket: b.\nWhat to do: Make the bucket.\n" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failed_pass_exits_1_after_the_other_tables_were_done(folder: Path) -> None:
    (folder / "tailrace.yaml").write_text("tables: [{name: Orders}, {name: customers}]")
    parts = FakeParts(has_base=True)
    parts.pass_fails = {"orders": Terminal("Records were lost.", "Repair it."), "customers": None}
    result = run("sync", parts=parts)
    assert result.exit_code == 1
    assert parts.built == ["customers"]
    assert "Error: Records were lost.\nWhat to do: Repair it.\n" in result.stderr


@pytest.mark.parametrize(("error", "code"), [(Terminal("Broken.", "X"), 1), (ConfigError("B."), 2)])
def test_models_that_fail_are_told_once_after_what_was_landed(
    folder: Path, error: Exception, code: int
) -> None:
    (folder / "tailrace.yaml").write_text("tables: [{name: Orders}, {name: customers}]")
    parts = FakeParts(has_base=True)
    parts.build_fails = error
    result = run("sync", parts=parts)
    assert result.exit_code == code
    assert result.stderr.count("Error: B") == 1
    assert "orders: live, at the tip, 345 changes" in result.stderr


def test_a_failure_beside_a_running_base_ends_the_command_at_once(folder: Path) -> None:
    script = f"""
        import sys, threading, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import tailrace.sync
        from tests.unit.test_cli import FakeEngine, FakeParts
        from tailrace.cli import app
        from tailrace.errors import ConfigError, Terminal

        tailrace.sync.Pace.__init__.__defaults__ = (0.1, 1.0, time.sleep)
        tailrace.sync.STOP_SECONDS = 0.1

        class Slow(FakeEngine):
            def base(self, model):
                holder = threading.Thread(target=time.sleep, args=(60,))
                holder.start()
                holder.join()

            def status(self, models=None):
                return [each.__class__(**{{**each.__dict__, "epoch": 1, "state": "open"}})
                        for each in super().status(models)]

            def drain(self, models):
                raise Terminal("No permission.", "Ask.")

        class SlowParts(FakeParts):
            def engine(self, config, progress=None):
                import contextlib
                return contextlib.nullcontext(Slow(self, progress))

        app(["sync"], obj=SlowParts())
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Error: No permission.\nWhat to do: Ask.\n" in done.stderr
    assert time.monotonic() - began < 30


# ------------------------------------------------------------------------------------- maintain


def test_maintain_shows_what_it_did_and_exits_1_where_some_of_it_failed(folder: Path) -> None:
    (folder / "warehouse").mkdir()
    (folder / "warehouse" / "catalog.sqlite").touch()
    parts = FakeParts()
    shown = run("maintain", parts=parts)
    assert shown.exit_code == 0
    assert "files: 12 in 0.5 s" in shown.stderr
    assert "changes.orders" in shown.stdout
    as_json = json.loads(run("maintain", "--format", "json", parts=parts).stdout)
    assert (as_json["before"]["snapshots"], as_json["after"]["snapshots"]) == (900, 3)
    parts.maintenance_failures = ("files: out of \x1b[2J memory",)
    failed = run("maintain", parts=parts)
    assert failed.exit_code == 1
    assert "files: out of \\x1b[2J memory" in failed.stderr


# ------------------------------------------------------------------------------------ reconcile


@pytest.fixture
def reconciling(folder: Path) -> FakeParts:
    """A warehouse stands where the configuration says."""
    (folder / "warehouse").mkdir()
    (folder / "warehouse" / "catalog.sqlite").touch()
    return FakeParts()


def test_reconcile_exits_0_where_all_is_equal_and_shows_the_counts(reconciling: FakeParts) -> None:
    result = run("reconcile", "Orders", parts=reconciling)
    assert result.exit_code == 0
    assert reconciling.reconciled == [("orders", None, 1_000, None)]
    assert "orders by scan, from 2026-11-23 12:00:00Z to 2026-11-23 12:01:00Z" in result.stdout
    assert "1,250 RCU" in result.stdout
    assert "orders: equal" in result.stdout
    assert "5,000 of about 20,000 items" in result.stderr


def test_reconcile_exits_1_and_shows_both_sides_of_each_difference(reconciling: FakeParts) -> None:
    reconciling.found = UNEQUAL
    result = run("reconcile", "orders", parts=reconciling)
    assert result.exit_code == 1
    assert "orders: 3 differences" in result.stdout
    assert "These are the first 2." in result.stdout
    [row] = [line for line in result.stdout.splitlines() if '"S":"a"' in line]
    assert '{"pk":{"S":"a"},"n":{"N":"1"}}' in row
    assert "(not there)" in row
    assert "\x1b" not in result.stdout, "data steers no terminal"


def test_reconcile_as_json_is_one_object_and_nothing_else(reconciling: FakeParts) -> None:
    reconciling.found = UNEQUAL
    result = run("reconcile", "orders", "--format", "json", parts=reconciling)
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert (shown["model"], shown["method"], shown["equal"]) == ("orders", "scan", False)
    assert shown["began_at"] == "2026-11-23T12:00:00+00:00"
    assert shown["counts"] == {
        "source_items": 19_999,
        "warehouse_items": 19_999,
        "equal": 19_998,
        "missing": 1,
        "extra": 1,
        "different": 0,
        "latest_items": 20_000,
        "latest_different": 1,
        "unsettled": 0,
    }
    assert shown["differences"][0] == {
        "kind": "missing",
        "key": '{"pk":{"S":"a"}}',
        "source": '{"pk":{"S":"a"},"n":{"N":"1"}}',
        "warehouse": None,
    }


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--method", "export"], ("orders", "export", 1_000, None)),
        (["--method", "sample"], ("orders", "sample", 1_000, None)),
        (["--sample", "50"], ("orders", "sample", 50, None)),
        (["--method", "scan", "--max-rcu", "12.5"], ("orders", "scan", 1_000, 12.5)),
    ],
)
def test_reconcile_passes_on_how_to_read_the_table(
    reconciling: FakeParts, words: list[str], asked: tuple[str, str, int, float | None]
) -> None:
    assert run("reconcile", "orders", *words, parts=reconciling).exit_code == 0
    assert reconciling.reconciled == [asked]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Terminal("orders: has no epoch yet.", "Read its base first."), 1),
        (ConfigError("orders: an export needs a bucket.", "Scan."), 2),
    ],
)
def test_reconcile_says_why_it_cannot(
    reconciling: FakeParts, error: TailraceError, code: int
) -> None:
    reconciling.reconcile_fails = error
    result = run("reconcile", "orders", parts=reconciling)
    assert (result.exit_code, result.stdout) == (code, "")
    assert f"Error: {error.message}" in result.stderr
    assert f"What to do: {error.remedy}" in result.stderr


def test_reconcile_without_a_warehouse_says_what_to_do(folder: Path) -> None:
    result = run("reconcile", "orders")
    assert result.exit_code == 1
    assert "There is no warehouse yet" in result.stderr


# --------------------------------------------------------------------------------------- repair


def test_repair_closes_a_gap_and_says_what_comes_next(folder: Path) -> None:
    result = run("repair", "orders", parts=torn())
    assert result.exit_code == 0
    assert "epoch 2, by export, base_complete: 12 items in 5 s. `tailrace sync`" in result.stderr


def test_repair_without_a_gap_does_nothing(folder: Path) -> None:
    result = run("repair", "orders", parts=FakeParts(has_base=True))
    assert (result.exit_code, result.stderr) == (0, "orders: there is no gap to repair.\n")


# --------------------------------------------------------------------------------------- status


def test_status_without_a_warehouse_shows_every_table_as_untouched(folder: Path) -> None:
    result = run("status", "--format", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {
            "table": "Orders",
            "model": "orders",
            "epoch": None,
            "state": "none",
            "rows": 0,
            "items_read": 0,
            "base_parts_done": 0,
            "base_parts_total": 0,
            "last_pass_at": None,
            "proven_until": None,
            "lag_seconds": None,
            "shards_open": 0,
            "idle_reads_a_day": 0,
            "gaps": [],
            "lost": None,
        }
    ]
    assert "There is no warehouse yet" in result.stderr
    assert not (folder / "warehouse").exists()


def torn() -> FakeParts:
    parts = FakeParts(has_base=True)
    parts.gaps = (GAP,)
    return parts


def test_status_as_json_has_stable_keys(warehouse: Path) -> None:
    result = run("status", "--format", "json", parts=torn())
    assert json.loads(result.stdout) == [
        {
            "table": "Orders",
            "model": "orders",
            "epoch": 1,
            "state": "live",
            "rows": 20_345,
            "items_read": 20_000,
            "base_parts_done": 8,
            "base_parts_total": 8,
            "last_pass_at": "2026-11-23T12:00:05+00:00",
            "proven_until": "2026-11-23T12:00:00+00:00",
            "lag_seconds": 12.5,
            "shards_open": 4,
            "idle_reads_a_day": 9216,
            "gaps": [
                {
                    "since": "2026-11-20T12:00:00+00:00",
                    "until": "2026-11-21T12:00:00+00:00",
                    "reason": "an outage",
                }
            ],
            "lost": None,
        }
    ]


def test_status_as_a_table_is_not_cut_in_a_pipe(warehouse: Path) -> None:
    result = run("status", parts=FakeParts(has_base=True))
    for word in ("Orders", "orders", "live", "8/8", "20,345", "2026-11-23 12:00:05Z", "12 s"):
        assert word in result.stdout


def test_status_shows_a_gap_and_how_to_repair_it(warehouse: Path) -> None:
    result = run("status", parts=torn())
    assert "may be missing: an outage. Repair: tailrace repair orders" in result.stdout
    assert "$0.06/month" in result.stdout


def test_status_tells_what_readers_lack_while_another_source_takes_over(warehouse: Path) -> None:
    parts = FakeParts(has_base=True)
    parts.lost = "the table did not stream to it for a while"
    assert (
        f"lacks changes: {parts.lost}. Readers have them once" in run("status", parts=parts).stdout
    )
    [found] = json.loads(run("status", "--format", "json", parts=parts).stdout)
    assert found["lost"] == parts.lost


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (180, "3 min"), (7_200, "2.0 h"), (259_200, "3.0 d")]
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ------------------------------------------------------------------------------------------ sql


def test_sql_prints_json_and_nothing_else(warehouse: Path) -> None:
    result = run("sql", "SELECT * FROM analytics.orders ORDER BY pk", "--format", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"pk": "a", "total": 1.5}, {"pk": 'b,"\n', "total": None}]
    assert '"total": 1.50}' in result.stdout
    assert result.stderr == ""


def test_sql_finds_a_model_by_its_name_alone_and_everything_else_by_its_schema(
    warehouse: Path,
) -> None:
    con = connect(load_config(warehouse / "tailrace.yaml").warehouse)
    create_control_tables(con)
    con.close()
    query = """SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lake.analytics.orders),
        (SELECT count(*) FROM tailrace.ledger)"""
    assert run("sql", query, "--format", "csv").stdout.splitlines()[1:] == ["2,2,0"]
    assert run("sql", "SHOW TABLES", "--format", "csv").stdout.splitlines() == ["name", "orders"]


def test_sql_prints_csv(warehouse: Path) -> None:
    result = run("sql", "SELECT * FROM analytics.orders ORDER BY pk", "--format", "csv")
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        ["pk", "total"],
        ["a", "1.50"],
        ['b,"\n', ""],
    ]


def test_attributes_are_listed_as_the_warehouse_knows_them(warehouse: Path) -> None:
    con = connect(load_config(warehouse / "tailrace.yaml").warehouse)
    create_control_tables(con)
    con.execute(insert_sql("orders", 2, [Attribute("total", "N", 3, 2, '{"pk":{"S":"a"}}')]))
    con.close()
    result = run("attributes", "orders", "--format", "json")
    assert result.exit_code == 0, result.stderr
    [shown] = json.loads(result.stdout)
    assert shown.pop("first_seen")
    assert shown == {
        "attribute": "total", "type": "N", "digits": 3, "scale": 2, "last_seen": None,
        "items": None, "example_key": '{"pk":{"S":"a"}}',
    }  # fmt: skip


def test_sql_prints_a_table_that_is_not_cut_in_a_pipe(warehouse: Path) -> None:
    result = run("sql", "SELECT repeat('x', 500) AS long, chr(27) || '[2J' AS nasty, NULL AS n")
    assert "x" * 500 in result.stdout
    assert "\\x1b[2J" in result.stdout
    assert "NULL" in result.stdout


def test_sql_says_when_a_table_is_only_the_beginning(warehouse: Path) -> None:
    result = run("sql", "SELECT * FROM range(1001)")
    assert "The first 1,000 rows" in result.stderr
    assert len(json.loads(run("sql", "FROM range(2500)", "-f", "json").stdout)) == 2_500


def test_sql_is_read_from_standard_input_for_a_dash(warehouse: Path) -> None:
    assert json.loads(run("sql", "-", "-f", "json", input="SELECT 1 AS a").stdout) == [{"a": 1}]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", "Parser Error"),
        ("SELECT * FROM analytics.nothing", "Catalog Error"),
        ("SELECT 'x'::INT FROM analytics.orders", "Conversion Error"),
        ("DROP TABLE analytics.orders", "read-only"),
        ("INSERT INTO analytics.orders VALUES ('c', 1)", "read-only"),
    ],
)
def test_an_sql_error_exits_1_with_duckdbs_own_words(
    warehouse: Path, query: str, message: str
) -> None:
    result = run("sql", query, "--format", "json")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "What to do:" in result.stderr
    assert result.stdout == ""


def test_sql_without_a_warehouse_says_so_and_makes_none(folder: Path) -> None:
    result = run("sql", "SELECT 1")
    assert result.exit_code == 1
    assert f"There is no warehouse yet: {folder}/warehouse/catalog.sqlite" in result.stderr
    assert not (folder / "warehouse").exists()


def test_an_empty_query_is_wrong_use(folder: Path) -> None:
    assert run("sql", "  ").exit_code == 2


# ------------------------------------------------------------------------------------- generate


def test_generate_tells_what_it_wrote_and_what_it_left_alone(folder: Path) -> None:
    parts = FakeParts()
    parts.files = [
        Written(Path("orders.sql"), CREATED),
        Written(Path("orders.yml"), EDITED),
        Written(Path("customers.sql"), UNCHANGED),
    ]
    result = run("generate", parts=parts)
    assert result.exit_code == 0
    assert result.stderr == "orders.sql: created\norders.yml: edited by hand, left alone\n"


def test_generate_check_exits_1_where_a_file_differs_and_0_where_none_does(folder: Path) -> None:
    parts = FakeParts()
    result = run("generate", "--check", parts=parts)
    assert (result.exit_code, result.stderr) == (0, "The dbt files are up to date.\n")
    parts.files = [Written(Path("orders.sql"), UPDATED)]
    result = run("generate", "--check", parts=parts)
    assert result.exit_code == 1
    assert "orders.sql: would be updated\n" in result.stderr
    assert "Run `tailrace generate`" in result.stderr


def test_sync_writes_the_dbt_files_of_a_table_that_has_none_and_no_others(folder: Path) -> None:
    parts = FakeParts(has_base=True)
    parts.files = [Written(Path("orders.sql"), CREATED)]
    assert "orders.sql: created\n" in run("sync", parts=parts).stderr
    models = folder / "dbt_project" / "models" / "elsewhere"
    models.mkdir(parents=True)
    (models / "orders_latest.sql").write_text("")
    assert "created" not in run("sync", parts=parts).stderr


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("is_in_duckdb", [False, True])
@pytest.mark.parametrize(
    ("signalled", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted. "), (signal.SIGTERM, 143, "Terminated. ")],
)
def test_a_signal_ends_a_command_which_says_that_nothing_is_lost(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    signalled: int,
    code: int,
    said: str,
    is_in_duckdb: bool,
) -> None:
    def drain(engine: FakeEngine, models: Sequence[str]) -> dict[str, DrainResult | Exception]:
        threading.Timer(0.2, os.kill, (os.getpid(), signalled)).start()
        if is_in_duckdb:
            endless = "SELECT count(*) FROM range(10_000_000_000_000) WHERE range % 7 = 3"
            # One thread: others would first end their part of the query, which here has no end.
            duckdb.connect(config={"threads": 1}).execute(endless).fetchall()
        time.sleep(10)
        raise AssertionError("still running")

    monkeypatch.setattr(FakeEngine, "drain", drain)
    before = signal.getsignal(signal.SIGTERM)
    result = run("sync", parts=FakeParts(has_base=True))
    assert result.exit_code == code
    assert said + "What was committed stays; the same command goes on" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_unexpected_failure_is_one_line_and_a_trace_only_for_those_who_ask(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeParts):
        def engine(self, config: Config, progress: OnProgress | None = None) -> Any:
            raise KeyError("surprise")

    result = run("sync", parts=Broken())
    assert result.exit_code == 1
    assert "Error: Unexpected KeyError: 'surprise'" in result.stderr
    assert "TAILRACE_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("TAILRACE_DEBUG", "1")
    assert "Traceback" in run("sync", parts=Broken()).stderr


def test_help_starts_quickly_and_without_the_heavy_libraries() -> None:
    code = (
        "import sys, tailrace.cli as c\n"
        "try: c.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'duckdb', 'boto3', 'dagster', 'dbt', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sync" in done.stdout


def test_a_reader_that_goes_away_is_no_error(warehouse: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m tailrace.cli sql 'FROM range(200000)' -f csv | head -n 2",
        shell=True,
        cwd=warehouse,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "range\n0\n"
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------ base


def test_base_reads_one_table_anew_and_says_what_comes_next(folder: Path) -> None:
    parts = FakeParts(has_base=True)
    result = run("base", "Orders", "--restart", parts=parts)
    assert result.exit_code == 0
    assert parts.bases == [("orders", True)]
    assert "tailrace sync" in result.stderr


def test_base_of_a_table_that_is_not_configured_is_wrong_use(folder: Path) -> None:
    assert run("base", "nonsense").exit_code == 2

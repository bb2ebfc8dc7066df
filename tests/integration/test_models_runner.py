"""Running dbt in this process: what is run, what is kept, what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from models_world import Table, query, write_config

from tailrace.config import CONFIG_VARIABLE, Config
from tailrace.errors import ConfigError, Retryable, Terminal
from tailrace.lake.turns import turn
from tailrace.transform import runner
from tailrace.transform.generate import generate
from tailrace.transform.plugin import working_on
from tailrace.transform.runner import build, manifest_path

MODEL = "parcels"


@pytest.fixture(scope="module")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    folder = tmp_path_factory.mktemp("runner")
    (folder / "warehouse").mkdir()
    config = write_config(folder, folder / "dbt_project", [MODEL])
    generate(config)
    with working_on(config) as con:
        con.execute("USE lake")
        table = Table(config, con, MODEL)
        table.open(1)
        table.base(1, {"pk": {"S": "1"}})
        table.go_live(1)
        build(config, [MODEL]).raise_failures()
        yield table


@pytest.fixture
def latest_sql(parcels: Table) -> Iterator[Path]:
    """The file of the merged model; whatever a test does to it is undone."""
    file = parcels.config.dbt.project_dir / "models" / MODEL / f"{MODEL}_latest.sql"
    before = file.read_text()
    yield file
    file.write_text(before)


def nodes(config: Config) -> list[str]:
    result = build(config, [MODEL])
    result.raise_failures()
    return [node.name for node in result.nodes]


def test_a_minute_fills_the_tables_only_and_changed_code_builds_the_whole_chain(
    parcels: Table, latest_sql: Path
) -> None:
    tables = [f"{MODEL}_states", f"{MODEL}_latest"]
    assert nodes(parcels.config) == tables
    latest_sql.write_text(latest_sql.read_text() + "-- mine\n")
    views = {f"stg_{MODEL}_changes", MODEL, f"{MODEL}_history", f"{MODEL}_changes"}
    assert set(nodes(parcels.config)) == views | set(tables)
    assert nodes(parcels.config) == tables


def test_a_broken_model_is_named_with_what_the_database_said_and_nothing_changes(
    parcels: Table, latest_sql: Path
) -> None:
    latest_sql.write_text(latest_sql.read_text() + "where no_such_column\n")
    result = build(parcels.config, [MODEL])
    assert [node.name for node in result.nodes if node.failed] == [f"{MODEL}_latest"]
    [failure] = result.failures
    assert isinstance(failure, Terminal)
    assert f"{MODEL}_latest" in failure.message
    assert "no_such_column" in failure.message
    assert f"dbt run --select {MODEL}_latest" in failure.remedy
    with pytest.raises(Terminal, match="no_such_column"):
        result.raise_failures()
    assert query(parcels.con, f"SELECT pk FROM analytics.{MODEL}") == [{"pk": "1"}]


def test_a_project_that_dbt_cannot_read_is_refused_with_the_file(
    parcels: Table, latest_sql: Path
) -> None:
    latest_sql.write_text("{{ config( }}")
    with pytest.raises(Terminal, match=f"{MODEL}_latest"):
        build(parcels.config, [MODEL])


def test_a_catalog_that_stays_busy_is_worth_another_try(
    parcels: Table, latest_sql: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that takes no lock commits in the middle of each merge."""
    monkeypatch.setattr(runner, "BUILD_ATTEMPTS", 2)
    busy = "select error('database is locked')"
    latest_sql.write_text(latest_sql.read_text().replace("unique_key", f'pre_hook="{busy}", u'))
    result = build(parcels.config, [MODEL])
    assert result.attempts == 2
    assert [type(failure) for failure in result.failures] == [Retryable]


def test_failing_data_tests_are_named_with_their_rows(parcels: Table) -> None:
    parcels.con.execute(f"UPDATE analytics.{MODEL}_latest SET _op = 'OTHER'")
    result = build(parcels.config, [MODEL], tests=True)
    parcels.con.execute(f"UPDATE analytics.{MODEL}_latest SET _op = 'READ'")
    [failure] = result.failures
    assert "accepted_values" in failure.message
    assert "found 1 rows" in failure.message


def test_the_manifest_is_written_once_and_again_when_the_project_changes(
    parcels: Table, latest_sql: Path
) -> None:
    path = manifest_path(parcels.config)
    assert f"model.tailrace.{MODEL}" in json.loads(path.read_text())["nodes"]
    written = path.stat().st_mtime_ns
    assert manifest_path(parcels.config).stat().st_mtime_ns == written
    latest_sql.write_text(latest_sql.read_text() + "-- mine\n")
    assert manifest_path(parcels.config).stat().st_mtime_ns > written


def test_missing_dbt_files_and_a_missing_warehouse_say_what_to_run(tmp_path: Path) -> None:
    config = write_config(tmp_path, tmp_path / "dbt_project", [MODEL])
    with pytest.raises(ConfigError) as refused:
        build(config, [MODEL])
    assert "tailrace generate" in str(refused.value)
    generate(config)
    with pytest.raises(Terminal) as missing:
        build(config, [MODEL])
    assert "tailrace sync" in str(missing.value)


def test_dbt_prints_nothing(parcels: Table, capfd: pytest.CaptureFixture[str]) -> None:
    build(parcels.config, [MODEL])
    assert capfd.readouterr().out == ""


def by_hand(config: Config, *arguments: str) -> subprocess.Popen[str]:
    """dbt as a person starts it."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "dbt"), *arguments],
        cwd=config.dbt.project_dir,
        env=os.environ | {CONFIG_VARIABLE: str(config.path), "DO_NOT_TRACK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def at_the_lock(process: subprocess.Popen[str]) -> bool:
    return any(
        file.endswith(".lock")
        for descriptor in os.listdir(f"/proc/{process.pid}/fd")
        for file in opened(process, descriptor)
    )


def opened(process: subprocess.Popen[str], descriptor: str) -> Iterator[str]:
    """The file of a descriptor, unless it has been closed since it was listed."""
    with suppress(FileNotFoundError):
        yield os.readlink(f"/proc/{process.pid}/fd/{descriptor}")


def test_dbt_by_hand_waits_for_its_turn_to_write_and_reads_at_once(parcels: Table) -> None:
    config = parcels.config
    item = {"pk": {"S": "2"}}
    parcels.stream(1, (10, item, item))
    with turn(config.warehouse):
        reading = by_hand(config, "test", "--select", f"{MODEL}_states")
        assert reading.wait(120) == 0, reading.communicate()[0]
        writing = by_hand(config, "run")
        while not at_the_lock(writing):
            assert writing.poll() is None, writing.communicate()[0]
            time.sleep(0.05)
        time.sleep(1.0)
        assert writing.poll() is None
        assert query(parcels.con, f"SELECT pk FROM analytics.{MODEL}") == [{"pk": "1"}]
    assert writing.wait(120) == 0, writing.communicate()[0]
    found = query(parcels.con, f"SELECT pk FROM analytics.{MODEL} ORDER BY pk")
    assert found == [{"pk": "1"}, {"pk": "2"}]

"""What Dagster loads: the assets, how they hang together, what keeps their writers apart, and how
a mistake in the configuration shows."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import WorkerStatus

from assets import manifest, names
from assets.coverage import coverage_result
from assets.freshness import ERROR_SECONDS, WARN_SECONDS, freshness_result
from assets.maintenance import maintenance_metadata
from assets.manifest import manifest_for
from assets.metadata import base_metadata, changes_metadata, failure, progress_text
from assets.reconciliation import reconciliation_result
from assets.schema_drift import schema_drift_result
from orchestration.code_location import build_definitions
from orchestration.launcher import LOCKS
from tailrace.config import Config, load_config
from tailrace.errors import AccessDenied, ConfigError
from tailrace.model import (
    BaseProgress,
    BaseResult,
    Difference,
    Differences,
    DrainResult,
    Gap,
    Maintenance,
    MaintenanceStep,
    NewAttribute,
    PassRecord,
    Reconciliation,
    SchemaDrift,
    Sizes,
    TableSize,
    TableStatus,
)

ROOT = Path(__file__).parents[2]
HOLD_LOCK = """
import fcntl, os, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(os.getpid(), file=file, flush=True)
    print("held", flush=True)
    time.sleep(60)
"""
TABLES = "tables: [{name: Orders-2, model: orders}, {name: customers}]"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two tables and a dbt project that was generated for them."""
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "tailrace.yaml").write_text(TABLES)
    return load_config(folder / "tailrace.yaml")


@pytest.fixture(scope="module")
def defs(config: Config) -> Iterator[dg.Definitions]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(manifest.DEV_VARIABLE, "1")
        patch.setenv(names.OWNERS_VARIABLE, "team:shop, ana@example.com")
        yield build_definitions(config)


def test_the_definitions_are_loadable(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_assets_their_sources_and_their_pools(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    shown = {
        key.to_user_string(): (
            {parent.to_user_string() for parent in graph.get(key).parent_keys},
            graph.get(key).pools,
        )
        for key in graph.get_all_asset_keys()
        if graph.get(key).group_name == "orders"
    }
    assert shown == {
        "orders/base": (set(), {"base_orders"}),
        "orders/changes": ({"orders/base"}, {"drain"}),
        "orders/stg_orders_changes": ({"orders/changes"}, {"merge"}),
        "orders/orders_states": ({"orders/stg_orders_changes", "orders/changes"}, {"merge"}),
        "orders/orders_latest": (
            {"orders/stg_orders_changes", "orders/changes", "orders/orders_states"},
            {"merge"},
        ),
        "orders/orders": ({"orders/orders_latest"}, {"merge"}),
        "orders/orders_history": ({"orders/orders_states", "orders/changes"}, {"merge"}),
        "orders/orders_changes": ({"orders/orders_states", "orders/changes"}, {"merge"}),
    }


def test_every_asset_has_a_group_kinds_owners_and_a_description(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name == key.path[0]
        assert node.kinds in ({"dynamodb", "ducklake"}, {"dbt", "ducklake"})
        assert node.owners == ["team:shop", "ana@example.com"]
        assert node.description, key


def test_a_table_s_dbt_tests_and_its_freshness_are_checks(defs: dg.Definitions) -> None:
    checks = defs.resolve_asset_graph().asset_check_keys
    shown = {(key.asset_key.to_user_string(), key.name) for key in checks}
    assert {("orders/changes", "coverage"), ("orders/changes", "freshness")} <= shown
    assert ("orders/orders_latest", "unique_orders_latest__key") in shown


def test_the_minute_s_job_runs_no_data_tests_and_no_base(defs: dg.Definitions) -> None:
    minute = defs.resolve_job_def("minute")
    keys = {key.to_user_string() for key in minute.asset_layer.executable_asset_keys}
    assert "orders/changes" in keys
    assert "orders/base" not in keys
    checks = {key.name for key in minute.asset_layer.asset_graph.asset_check_keys}
    assert checks == {"coverage", "freshness", "schema_drift"}


def test_the_sensor_is_on_and_the_schedule_of_data_tests_is_off(defs: dg.Definitions) -> None:
    sensor = defs.resolve_sensor_def("drain_sensor")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 60
    schedule = defs.resolve_schedule_def("dbt_tests_hourly")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_a_reconciliation_is_part_of_its_own_job_and_of_no_other(defs: dg.Definitions) -> None:
    def checks(job: str) -> set[str]:
        graph = defs.resolve_job_def(job).asset_layer.asset_graph
        return {key.name for key in graph.asset_check_keys}

    assert checks("reconcile") == {"reconciliation"}
    assert not defs.resolve_job_def("reconcile").asset_layer.executable_asset_keys
    for other in ("bootstrap", "minute", "dbt_tests"):
        assert "reconciliation" not in checks(other)
    key = dg.AssetCheckKey(dg.AssetKey(["orders", "changes"]), "reconciliation")
    op = defs.resolve_asset_graph().get(key)
    assert op is not None
    schedule = defs.resolve_schedule_def("reconcile_weekly")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_maintenance_is_on_each_hour_among_the_merges_and_does_everything_once_a_day(
    defs: dg.Definitions,
) -> None:
    job = defs.resolve_job_def("maintenance")
    assert [node.definition.pool for node in job.nodes] == ["merge"]
    schedule = defs.resolve_schedule_def("maintenance_hourly")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    full = {}
    for hour in range(24):
        at = datetime(2026, 11, 26, hour, 41, tzinfo=UTC)
        with dg.build_schedule_context(scheduled_execution_time=at) as context:
            [request] = schedule.evaluate_tick(context).run_requests or []
        full[hour] = request.run_config["ops"]["maintain"]["config"]["full"]
    assert [hour for hour, value in full.items() if value] == [3]


def test_maintenance_shows_sizes_before_and_after() -> None:
    table = TableSize("changes.orders", 500, 0, 14, 3, 10**7)
    before = Sizes((table,), 900, 7, 10**6)
    after = Sizes((replace(table, files=2, delete_files=0),), 3, 0, 10**5)
    metadata = maintenance_metadata(
        Maintenance(before, after, (MaintenanceStep("files", 14, 0.5),), (), 0.6)
    )
    assert (metadata["files before"], metadata["files after"]) == (17, 2)
    assert (metadata["snapshots before"], metadata["snapshots after"]) == (900, 3)
    assert metadata["tables"].records[0].data["files after"] == 2


def test_production_wants_a_manifest_that_was_built_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(manifest.DEV_VARIABLE, raising=False)
    (tmp_path / "tailrace.yaml").write_text(TABLES)
    lacking = load_config(tmp_path / "tailrace.yaml")
    with pytest.raises(ConfigError, match="no dbt models for orders, customers"):
        manifest_for(lacking)
    models = tmp_path / "dbt_project" / "models"
    models.mkdir(parents=True)
    for node in (node for table in lacking.tables for node in table.nodes):
        (models / f"{node}.sql").write_text("select 1")
    with pytest.raises(ConfigError, match=r"(?s)no dbt manifest at .*python -m assets\.manifest"):
        manifest_for(lacking)
    (models.parent / "target").mkdir()
    (models.parent / "target" / "manifest.json").write_text("{}")
    assert manifest_for(lacking) == models.parent / "target" / "manifest.json"


def test_a_mistake_in_the_configuration_is_the_reason_that_dagster_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tailrace.yaml").write_text("tables: [{name: orders, sgements: 4}]")
    monkeypatch.setenv("TAILRACE_CONFIG", str(tmp_path / "tailrace.yaml"))
    monkeypatch.delitem(sys.modules, "orchestration.definitions", raising=False)
    with pytest.raises(ConfigError, match="sgements"):
        importlib.import_module("orchestration.definitions")


def test_the_committed_instance_settings_are_valid(tmp_path: Path) -> None:
    settings = (ROOT / "orchestration" / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(settings)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_launcher.supports_check_run_worker_health
        pools = instance.get_concurrency_config().pool_config
        assert pools.default_pool_limit == 1
        assert str(pools.pool_granularity) == "PoolGranularity.OP"


def test_a_run_counts_as_alive_for_as_long_as_its_process_is(tmp_path: Path) -> None:
    shutil.copy(ROOT / "orchestration" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = instance.create_run_for_job(dg.GraphDefinition(name="nothing").to_job())
        health = instance.run_launcher.check_run_worker_health
        assert health(run).status is WorkerStatus.FAILED
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD_LOCK, str(tmp_path / LOCKS / run.run_id)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        assert health(run).status is WorkerStatus.RUNNING
        process.kill()
        process.wait()
        assert health(run).status is WorkerStatus.FAILED
        assert "its process is gone" in str(health(run).msg)


def test_the_workspace_names_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    [entry] = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"]["module_name"] == "orchestration.definitions"


# ------------------------------------------------------------------- what people see of a result


def test_a_reconciliation_shows_counts_and_a_few_keys_and_no_item() -> None:
    shown = tuple(
        Difference("different", f'{{"pk":{{"S":"k{number}"}}}}', '{"secret": 1}', '{"secret": 2}')
        for number in range(20)
    )
    found = Differences(80, 0, 0, 300, 100, 0, shown)
    result = reconciliation_result(Reconciliation("orders", "scan", NOW, NOW, found, 12.0, 3.0))
    assert not result.passed
    assert result.description == (
        "300 differences. `tailrace reconcile orders` shows both sides of each."
    )
    assert result.metadata["different"].value == 300
    assert len(result.metadata["first differences"].records) == 10
    assert "secret" not in repr(result)


def test_an_equal_reconciliation_says_how_much_was_compared() -> None:
    found = Differences(80, 0, 0, 0, None, 0, ())
    result = reconciliation_result(Reconciliation("orders", "scan", NOW, NOW, found, 0.0, 65.0))
    assert result.passed
    assert result.description == "80 items compared by scan in 1 min 5 s: all are equal."


STATUS = TableStatus("orders", "Orders-2", 1, "live", 120, 100, NOW, 12.0, 4, 8, 8)


@pytest.mark.parametrize(
    ("lag_seconds", "passed", "severity"),
    [
        (12.0, True, "WARN"),
        (WARN_SECONDS + 1, False, "WARN"),
        (ERROR_SECONDS, False, "ERROR"),
        (None, False, "ERROR"),
    ],
)
def test_freshness_is_the_age_of_the_last_complete_pass(
    lag_seconds: float | None, passed: bool, severity: str
) -> None:
    status = TableStatus("orders", "o", 1, "live", 1, 1, NOW, lag_seconds, 1, 1, 1)
    result = freshness_result(status)
    assert (result.passed, result.severity.value) == (passed, severity)
    assert result.asset_key == dg.AssetKey(["orders", "changes"])


def test_drift_is_told_with_an_example_and_a_frozen_schema_says_what_it_refuses() -> None:
    late = NewAttribute("late", "S", NOW, '{"pk":{"S":"a"}}')
    total = NewAttribute("total", "S", NOW, None, ("N",))
    result = schema_drift_result(SchemaDrift("orders", False, (late, total), 9))
    assert (result.passed, result.severity.value) == (False, "WARN")
    assert (result.description or "").splitlines() == [
        "New attributes or types:",
        '- `late` (S), seen 2026-11-23 12:00 UTC in {"pk":{"S":"a"}}',
        "- `total` (S), so far N, seen 2026-11-23 12:00 UTC",
    ]
    refused = replace(total, column="BIGINT")
    result = schema_drift_result(SchemaDrift("orders", True, (refused,) * 21, 9))
    lines = (result.description or "").splitlines()
    assert lines[0] == "Refused by the frozen schema; the log has them:"
    assert lines[1].startswith("- `total` (S), which its column, BIGINT, does not hold")
    assert lines[-1] == "- and 1 more: tailrace attributes orders"
    quiet = schema_drift_result(SchemaDrift("orders", False, (), 9))
    assert quiet.passed
    assert quiet.description == "Nothing new for a day; 9 attributes are known."


def test_a_pass_shows_its_numbers_and_the_passes_before_it() -> None:
    result = DrainResult(
            "orders", 1, "live", 20, 4096, 4, 4, True,
            newest_change=NOW, lag_seconds=1.25, seconds=2.0, calls=17,
        )  # fmt: skip
    record = PassRecord("p", NOW, NOW, True, 4, 4, 17)
    shown = changes_metadata(result, STATUS, [record])
    assert shown["rows"] == 20
    assert shown["lag seconds"] == 1.2
    assert shown["dagster/row_count"] == 120
    assert shown["last passes"].records[0].data["began"] == "2026-11-23 12:00:00"


def test_a_pass_over_a_table_without_epoch_shows_what_it_knows() -> None:
    shown = changes_metadata(DrainResult("orders", None, "none"), STATUS, [])
    assert shown["state"] == "none"
    assert "epoch" not in shown
    assert "lag seconds" not in shown


def test_a_base_shows_its_progress() -> None:
    result = BaseResult("orders", 1, "scan", "base_complete", 100, 5000, 8, 2.0)
    shown = base_metadata(result, STATUS, [])
    assert shown["progress"] == "8 of 8 parts"
    assert shown["rows a second"] == 50


def test_progress_is_one_line_that_says_how_long_it_will_take() -> None:
    at = BaseProgress("orders", 5000, 3_400_000, 3, 8, 20_000, 1000.0, 75.0)
    assert progress_text(at) == (
        "orders: 5,000 of about 20,000 items, 3.4 MB, 3 of 8 parts done, 1,000 items/s,"
        " 1 min 15 s left"
    )


def test_a_failure_names_each_table_and_what_to_do() -> None:
    errors = {
        "orders": AccessDenied("dynamodb:Scan was refused on table Orders-2.", "Allow it."),
        "customers": ZeroDivisionError("division by zero"),
    }
    text = failure(errors).description or ""
    assert "orders: dynamodb:Scan was refused on table Orders-2.\nWhat to do: Allow it." in text
    assert "customers: ZeroDivisionError: division by zero\nWhat to do:" in text


GAP = Gap(NOW - timedelta(days=2), NOW - timedelta(days=1), NOW, "an outage")


@pytest.mark.parametrize(
    ("gaps", "passed", "said"),
    [
        ((), True, "Every change made before 2026-11-23 12:00:00 UTC is in the log."),
        ((GAP,), False, "Changes made from 2026-11-21 12:00:00 to 2026-11-22 12:00:00 UTC may be"),
    ],
)
def test_coverage_says_since_when_changes_may_be_missing(
    gaps: tuple[Gap, ...], passed: bool, said: str
) -> None:
    status = replace(STATUS, proven_until=NOW, gaps=gaps)
    result = coverage_result(status)
    assert result.passed == passed
    assert (result.description or "").startswith(said)
    assert ("missing since" in result.metadata) == bool(gaps)

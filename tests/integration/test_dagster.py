"""The assets, jobs and the sensor on a real DuckLake and the local AWS: what a person who clicks,
the sensor and a killed process leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import dagster as dg
import pytest

from assets import manifest, names
from orchestration.code_location import build_definitions
from sandbox import workload
from tailrace.capture import reconcile
from tailrace.config import CONFIG_VARIABLE, Config, load_config
from tailrace.errors import TailraceError, Terminal
from tailrace.lake.attach import connect
from tests.integration.replica import assert_equal, without_margin
from tests.integration.servers import Aws

# What Dagster's code server does for a run: load the definitions, execute the job.
RUN = """
import sys
sys.path[:0] = ["tests/integration", "."]
import dagster as dg
import test_dagster
with dg.DagsterInstance.get() as instance:
    job = dg.reconstructable(getattr(test_dagster, sys.argv[1]))
    with dg.execute_job(job, instance) as result:
        sys.exit(not result.success)
"""


@cache
def definitions(config_path: str) -> dg.Definitions:
    return build_definitions(load_config(config_path))


def job(name: str) -> dg.JobDefinition:
    return definitions(os.environ[CONFIG_VARIABLE]).resolve_job_def(name)


def bootstrap() -> dg.JobDefinition:
    return job("bootstrap")


def minute() -> dg.JobDefinition:
    return job("minute")


def dbt_tests() -> dg.JobDefinition:
    return job("dbt_tests")


class Home:
    """A tailrace.yaml with one table or more, and a Dagster instance beside it."""

    def __init__(self, config: Config, instance: dg.DagsterInstance) -> None:
        self.config = config
        self.instance = instance

    def run(
        self, job: object, models: Sequence[str] = (), tags: dict[str, str] | None = None
    ) -> dg.JobExecutionResult:
        keys = [key for model in models for key in self._keys(job, model)]
        with dg.execute_job(
            dg.reconstructable(job),  # type: ignore[arg-type]
            self.instance,
            asset_selection=keys or None,
            tags=tags,
        ) as result:
            return result

    def _keys(self, job: object, model: str) -> list[dg.AssetKey]:
        if job is bootstrap:
            return [names.base_key(model)]
        return [names.changes_key(model), *names.dbt_keys(self.config.table(model))]

    def tick(self) -> dg.SensorResult:
        defs = definitions(str(self.config.path))
        sensor = defs.resolve_sensor_def("drain_sensor")
        with dg.build_sensor_context(
            instance=self.instance, resources=defs.resources, definitions=defs
        ) as context:
            return sensor(context)  # type: ignore[return-value]

    def obey(self, request: dg.RunRequest) -> dg.JobExecutionResult:
        """The run that the sensor asked for."""
        with dg.execute_job(
            dg.reconstructable(globals()[str(request.job_name)]),
            self.instance,
            run_config=request.run_config,
            asset_selection=request.asset_selection,
            tags=dict(request.tags),
        ) as result:
            return result

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        con = connect(self.config.warehouse, read_only=True)
        try:
            return con.execute(sql).fetchall()
        finally:
            con.close()

    def killed_in(self, job: str, line: str) -> None:
        """Starts a run in a process of its own and kills it once its log says `line`."""
        with self._running(job, line) as process:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL

    def terminated_in(self, job: str, line: str) -> None:
        """Starts a run likewise, and ends it as the launcher does for a person who terminates it:
        nothing in it looks like a failure."""
        with self._running(job, line) as process:
            [run] = self.instance.get_runs(limit=1)
            self.instance.report_run_canceling(run)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=15)
        ended = self.instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status == dg.DagsterRunStatus.CANCELED
        failures = [
            event.step_failure_data.error.to_string()
            for entry in self.instance.all_logs(run.run_id)
            if (event := entry.dagster_event) and event.is_step_failure
        ]
        assert len(failures) == 1
        assert "DagsterExecutionInterruptedError" in failures[0]
        assert "What to do" not in failures[0]

    @contextmanager
    def _running(self, job: str, line: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, job],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"DAGSTER_HOME": self.instance.root_directory},
        )
        assert process.stderr is not None
        seen = []
        for text in process.stderr:
            seen.append(text)
            if line in text:
                break
        assert process.poll() is None, "".join(seen)
        yield process


@pytest.fixture(scope="module")
def dbt_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dbt project for all tests here: parsing one takes seconds."""
    return tmp_path_factory.mktemp("dbt") / "project"


@pytest.fixture
def home(
    aws: Aws, tmp_path: Path, dbt_project: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    with housed(aws, tmp_path, dbt_project, monkeypatch) as home:
        yield home


@contextmanager
def housed(
    aws: Aws,
    folder: Path,
    dbt_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: str = "",
) -> Iterator[Home]:
    """Two tables that are filled, to be read by scan; `more` is said of each in tailrace.yaml."""
    without_margin(monkeypatch)
    # What a person materializes, its checks are evaluated with: a sample is compared each time.
    monkeypatch.setattr(reconcile, "SLACK", timedelta(0))
    monkeypatch.setenv(manifest.DEV_VARIABLE, "1")
    orders, customers = aws.name("orders"), aws.name("customers")
    workload.create_shop(aws.dynamodb, orders, customers)
    workload.seed_shop(aws.dynamodb, orders, customers, order_count=300, customer_count=60)
    path = folder / "tailrace.yaml"
    path.write_text(
        f"""
        dbt: {{project_dir: {dbt_project}}}
        tables:
          - {{name: {orders}, model: orders, base: {{method: scan, segments: 2}}{more}}}
          - {{name: {customers}, model: customers, base: {{method: scan, segments: 1}}{more}}}
        """
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    root = folder / "dagster"
    root.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(root))
    with dg.DagsterInstance.from_config(str(root)) as instance:
        yield Home(load_config(path), instance)


def churned(aws: Aws, home: Home, model: str, writes: int = 200, seed: int = 1) -> None:
    workload.churn(aws.dynamodb, home.config.table(model).name, writes, 50, seed)


def fail_next_drain(aws: Aws, times: int = 1) -> None:
    """Makes a run fail for one table of two, or for both."""
    assert aws.server is not None
    code = "AccessDeniedException"
    aws.server.control("fault", operation="DescribeStream", code=code, times=times)


def asked_for(home: Home) -> dg.RunRequest:
    """The run over changes that the sensor asks for now."""
    [request] = [each for each in home.tick().run_requests or () if each.job_name == "minute"]
    return request


def models_built(result: dg.JobExecutionResult) -> list[dg.AssetMaterialization]:
    nodes = [f"{model}_models" for model in ("orders", "customers")]
    ran = {event.step_key for event in result.all_events}
    return [
        materialization
        for node in nodes
        if node in ran
        for materialization in result.asset_materializations_for_node(node)
    ]


def test_from_the_first_tick_to_rows_that_an_analyst_queries(aws: Aws, home: Home) -> None:
    first = home.tick()
    assert [(r.job_name, r.run_key) for r in first.run_requests or ()] == [
        ("bootstrap", "base-orders-first"),
        ("bootstrap", "base-customers-first"),
    ]
    assert home.run(bootstrap, ["orders"]).success
    assert home.run(bootstrap, ["customers"]).success

    [request] = home.tick().run_requests or ()
    assert request.job_name == "minute"
    assert request.tags["tailrace/due"] == "orders,customers"
    assert home.run(minute, ["orders", "customers"], request.tags).success
    for model in home.config.models:
        assert_equal(home.config, aws.dynamodb, home.config.table(model).name, model)

    churned(aws, home, "orders")
    [request] = home.tick().run_requests or ()
    assert request.tags["tailrace/due"] == "orders"
    assert {key.path[0] for key in request.asset_selection or ()} == {"orders"}
    done = home.run(minute, ["orders"], request.tags)
    assert {event.asset_key.to_user_string() for event in models_built(done)} == {
        "orders/stg_orders_changes",
        "orders/orders_states",
        "orders/orders_latest",
        "orders/orders",
        "orders/orders_history",
        "orders/orders_changes",
    }
    assert_equal(home.config, aws.dynamodb, home.config.table("orders").name, "orders")

    idle = home.tick()
    assert not idle.run_requests
    assert idle.skip_reason is not None
    assert idle.skip_reason.skip_message == "Nothing new in the streams."

    evaluations = [
        event.asset_check_evaluation_data
        for event in home.run(dbt_tests).all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    assert len(evaluations) > 10
    assert all(evaluation.passed for evaluation in evaluations)


def test_the_sensor_sees_a_table_through_an_outage_and_its_repair(
    own_aws: Aws, tmp_path: Path, dbt_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run but what its ticks ask for; the other table is repaired beside it."""
    repair = f", repair: {{bucket: {own_aws.bucket()}}}"
    assert own_aws.server is not None
    with housed(own_aws, tmp_path, dbt_project, monkeypatch, repair) as home:
        own_aws.server.control("advance", seconds=3600)
        assert jobs(ticked(home)) == [["bootstrap", "bootstrap"], ["minute"]]
        own_aws.server.control("advance", seconds=30 * 3600)
        for model in home.config.models:
            churned(own_aws, home, model, 60)
        [found] = home.tick().run_requests or ()
        result = home.obey(found)
        assert coverage(result) == {"orders": False, "customers": False}
        repairs = home.tick()
        assert [(each.job_name, each.run_key) for each in repairs.run_requests or ()] == [
            ("bootstrap", f"repair-{model}-after-{last_base(home, model)}")
            for model in home.config.models
        ]
        assert {each.check_name for each in repairs.asset_events} == {"coverage"}
        done = ticked(home)
        assert jobs(done) == [["bootstrap", "bootstrap"], ["minute"]]
        [(_, last)] = done[-1]
        assert coverage(last) == {"orders": True, "customers": True}
        for model in home.config.models:
            assert_equal(home.config, own_aws.dynamodb, home.config.table(model).name, model)
        assert home.rows(
            "SELECT model, kind FROM lake.tailrace.epochs WHERE epoch = 2 AND state = 'live'"
            " ORDER BY ALL"
        ) == [("customers", "incremental"), ("orders", "incremental")]


def ticked(home: Home) -> list[list[tuple[str, dg.JobExecutionResult]]]:
    """Obeys the sensor until a tick of it asks for nothing: the jobs and what became of them, tick
    by tick."""
    done: list[list[tuple[str, dg.JobExecutionResult]]] = []
    for _ in range(6):
        requests = home.tick().run_requests or ()
        if not requests:
            return done
        done.append([(str(each.job_name), home.obey(each)) for each in requests])
    raise AssertionError(f"it asks on and on: {done}")


def jobs(done: list[list[tuple[str, dg.JobExecutionResult]]]) -> list[list[str]]:
    assert all(result.success for tick in done for _, result in tick)
    return [[name for name, _ in tick] for tick in done]


def last_base(home: Home, model: str) -> str:
    planned = home.instance.get_latest_planned_materialization_info(names.base_key(model))
    assert planned is not None
    return planned.run_id


def coverage(result: dg.JobExecutionResult) -> dict[str, bool]:
    evaluations = [event.asset_check_evaluation_data for event in result.all_events
                   if event.event_type_value == "ASSET_CHECK_EVALUATION"]  # fmt: skip
    return {
        each.asset_key.path[0]: each.passed for each in evaluations if each.check_name == "coverage"
    }


def test_a_table_that_cannot_be_drained_holds_up_no_other(aws: Aws, home: Home) -> None:
    for model in home.config.models:
        assert home.run(bootstrap, [model]).success
    fail_next_drain(aws)
    result = home.run(minute)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_key == "drain"
    assert "Allow dynamodb:DescribeStream" in str(failed.step_failure_data.user_failure_data)
    [drained] = result.asset_materializations_for_node("drain")
    [model] = (event.asset_key.path[0] for event in [drained])
    assert_equal(home.config, aws.dynamodb, home.config.table(model).name, model)
    assert {event.asset_key.path[0] for event in models_built(result)} == {model}


def test_a_table_that_keeps_failing_is_left_alone_for_a_while_and_the_others_are_not(
    aws: Aws, home: Home
) -> None:
    for model in home.config.models:
        assert home.run(bootstrap, [model]).success
    fail_next_drain(aws)
    result = home.run(minute, tags=dict(asked_for(home).tags))
    [drained] = result.asset_materializations_for_node("drain")
    sound = drained.asset_key.path[0]
    [broken] = set(home.config.models) - {sound}

    for model in home.config.models:
        churned(aws, home, model)
    request = asked_for(home)
    assert request.tags["tailrace/failures"] == f"{broken}=1"
    fail_next_drain(aws, times=2)
    assert not home.run(minute, tags=dict(request.tags)).success

    request = asked_for(home)
    assert request.tags["tailrace/due"] == sound
    assert request.tags["tailrace/failures"] == f"{sound}=1"
    assert f"{broken}: its drain failed 2 times in a row" in str(home.tick().cursor)

    assert home.run(minute).success  # a person, once it is mended
    churned(aws, home, broken, seed=2)
    request = asked_for(home)
    assert request.tags["tailrace/due"] == broken
    assert "tailrace/failures" not in request.tags


def test_models_that_cannot_be_built_are_left_alone_for_a_while(
    aws: Aws, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Terminal("dbt could not build it", "Mend it.")

    monkeypatch.setattr("tailrace.transform.runner.build", broken)
    assert home.run(bootstrap, ["orders"]).success
    for _ in range(2):
        assert not home.run(minute, tags=dict(asked_for(home).tags)).success
    skipped = home.tick()
    assert all(request.job_name != "minute" for request in skipped.run_requests or ())
    assert "orders: building its models failed 2 times in a row" in str(skipped.cursor)


def test_a_warehouse_that_cannot_be_opened_turns_the_tick_red(home: Home) -> None:
    catalog = home.config.path.parent / "warehouse" / "catalog.sqlite"
    catalog.parent.mkdir(parents=True, exist_ok=True)
    catalog.write_text("this is no catalog" * 100)
    with pytest.raises(TailraceError, match="could not be opened"):
        home.tick()


def test_a_base_that_a_person_terminates_ends_at_once_and_the_next_goes_on_from_there(
    aws: Aws, home: Home
) -> None:
    as_it_is = home.config.path.read_text()
    home.config.path.write_text(as_it_is.replace("segments: 2", "segments: 2, max_rcu: 2"))
    home.terminated_in("bootstrap", "orders: ")
    home.config.path.write_text(as_it_is)
    assert not [each for each in home.tick().run_requests or () if "orders" in str(each.run_key)]
    churned(aws, home, "orders")
    assert home.run(bootstrap, ["orders"]).success
    assert home.run(minute, ["orders"]).success
    assert home.rows(
        "SELECT epoch, max_by(state, batch) FROM lake.tailrace.epochs WHERE model = 'orders'"
        " GROUP BY epoch"
    ) == [(1, "live")]
    assert_equal(home.config, aws.dynamodb, home.config.table("orders").name, "orders")


def test_a_drain_whose_process_is_killed_goes_on_and_ends_equal(aws: Aws, home: Home) -> None:
    assert home.run(bootstrap, ["orders"]).success
    churned(aws, home, "orders", 400)
    home.killed_in("minute", 'Started execution of step "drain"')
    churned(aws, home, "orders", 100, seed=2)
    assert home.run(minute, ["orders"]).success
    assert_equal(home.config, aws.dynamodb, home.config.table("orders").name, "orders")

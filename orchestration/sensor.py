"""The one sensor: once a minute it looks whether anything is due and asks for a run. It drains
nothing itself, and remembers nothing that the ledger and the run storage do not know better."""

# No postponed annotations here: Dagster reads what an op needs from its signature.

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from assets import names
from assets.freshness import freshness_evaluation, is_stale
from assets.resource import TailraceResource
from orchestration import decision, jobs
from orchestration.decision import BaseRequest, Decision, LastBase, RunInProgress, Situation
from tailrace.model import TableStatus

INTERVAL_VARIABLE = "TAILRACE_SENSOR_SECONDS"
INTERVAL_SECONDS = 60
DUE_TAG = "tailrace/due"
ATTEMPT_TAG = "tailrace/attempt"
REASON_TAG = "tailrace/reason"

UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def build_drain_sensor(
    *, models: Sequence[str], targets: Sequence[dg.JobDefinition]
) -> dg.SensorDefinition:
    """The sensor over all tables, on by default."""

    @dg.sensor(
        name="drain_sensor",
        jobs=[job for job in targets if job.name in (jobs.BOOTSTRAP, jobs.MINUTE)],
        minimum_interval_seconds=int(os.environ.get(INTERVAL_VARIABLE, INTERVAL_SECONDS)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Every minute: looks into the streams, and asks for one run that drains the"
        " tables where something is due and builds their models. Starts the base of a table that"
        " has none, and goes on with one that was interrupted.",
    )
    def drain_sensor(
        context: dg.SensorEvaluationContext, tailrace: TailraceResource
    ) -> dg.SensorResult:
        try:
            decided, statuses = _look(context.instance, tailrace, models)
        except Exception as error:
            context.log.exception("the sensor could not look")
            return dg.SensorResult(skip_reason=f"Could not look: {error}")
        return _result(decided, statuses)

    return drain_sensor


def _look(
    instance: DagsterInstance, tailrace: TailraceResource, models: Sequence[str]
) -> tuple[Decision, Sequence[TableStatus]]:
    now = datetime.now(UTC)
    runs = list(_in_progress(instance, models))
    with tailrace.engine() as engine:
        statuses = engine.status(models)
        states = {status.model: status.state for status in statuses}
        begun = [model for model in models if states[model] != decision.NONE]
        idle = decision.draining(runs) is None and bool(begun)
        at = Situation(
            now=now,
            states=states,
            runs=runs,
            due=engine.peek(begun) if idle else {},
            unmerged=engine.unmerged(begun) if idle else (),
            bases={m: _last_base(instance, m) for m in decision.needs_base(states, runs)},
        )
        return decision.decide(at), statuses


def _result(decided: Decision, statuses: Sequence[TableStatus]) -> dg.SensorResult:
    """Runs to ask for; a table that is stale and that no run is asked for turns its check red."""
    requests = [_base_run(base) for base in decided.bases]
    said = [f"{base.model}/base: {base.reason}." for base in decided.bases]
    reasons = decided.minute.reasons if decided.minute else {}
    if reasons:
        requests.append(_minute_run(reasons))
        said.append(f"{decision.reason_tag(reasons)}.")
    said = [*said, *decided.notes] or ["Nothing is due."]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(said),
        cursor=" ".join(said),
        asset_events=[
            freshness_evaluation(status)
            for status in statuses
            if status.lag_seconds is not None and is_stale(status) and status.model not in reasons
        ],
    )


def _base_run(base: BaseRequest) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=jobs.BOOTSTRAP,
        run_key=base.run_key,
        asset_selection=[names.base_key(base.model)],
        tags={ATTEMPT_TAG: str(base.attempt), REASON_TAG: f"{base.model}: {base.reason}"},
    )


def _minute_run(reasons: Mapping[str, str]) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=jobs.MINUTE,
        asset_selection=[key for model in reasons for key in jobs.minute_keys(model)],
        asset_check_keys=[names.freshness_key(model) for model in reasons],
        tags={DUE_TAG: ",".join(reasons), REASON_TAG: decision.reason_tag(reasons)},
    )


def _in_progress(instance: DagsterInstance, models: Sequence[str]) -> Iterator[RunInProgress]:
    for record in instance.get_run_records(RunsFilter(statuses=UNFINISHED)):
        run = record.dagster_run
        since = record.start_time or record.create_timestamp.timestamp()
        yield RunInProgress(run.run_id, _keys(run, models), datetime.fromtimestamp(since, UTC))


def _keys(run: DagsterRun, models: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """What a run materializes: its selection, else all that its job does."""
    if run.asset_selection is not None:
        return frozenset(tuple(key.path) for key in run.asset_selection)
    if run.job_name == jobs.BOOTSTRAP:
        return frozenset((model, decision.BASE) for model in models)
    if run.job_name == jobs.MINUTE:
        return frozenset((model, decision.CHANGES) for model in models)
    return frozenset()


def _last_base(instance: DagsterInstance, model: str) -> LastBase | None:
    planned = instance.get_latest_planned_materialization_info(names.base_key(model))
    record = instance.get_run_record_by_id(planned.run_id) if planned else None
    if record is None:
        return None
    run = record.dagster_run
    return LastBase(
        run_id=run.run_id,
        succeeded=run.status == DagsterRunStatus.SUCCESS,
        canceled=run.status == DagsterRunStatus.CANCELED,
        attempt=int(run.tags.get(ATTEMPT_TAG, "0")),
        ended_at=datetime.fromtimestamp(
            record.end_time or record.update_timestamp.timestamp(), UTC
        ),
    )

"""What the sensors see of Dagster's runs, and how they ask for a base."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.execution.stats import StepEventStatus

from assets import names
from orchestration import decision, jobs
from orchestration.decision import (
    BaseRequest,
    LastBase,
    LastFailure,
    MinuteRequest,
    RunInProgress,
)
from tailrace.config import Table

ATTEMPT_TAG = "tailrace/attempt"
DUE_TAG = "tailrace/due"
FAILURES_TAG = "tailrace/failures"
REASON_TAG = "tailrace/reason"

# Longer than a table that fails is left alone, and than the run that failed may have taken.
FAILURES_COUNT_FOR = timedelta(hours=1)
FAILED_RUNS_MOST = 100

UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def base_run(base: BaseRequest) -> dg.RunRequest:
    """The run of a table's base, or of its repair."""
    op = "__".join(names.base_key(base.model).path)
    return dg.RunRequest(
        job_name=jobs.BOOTSTRAP,
        run_key=base.run_key,
        run_config={"ops": {op: {"config": {"repair": True}}}} if base.repair else None,
        asset_selection=[names.base_key(base.model)],
        tags={ATTEMPT_TAG: str(base.attempt), REASON_TAG: f"{base.model}: {base.reason}"},
    )


def minute_run(minute: MinuteRequest, tables: Sequence[Table]) -> dg.RunRequest:
    """The run over the changes and models of some tables."""
    tags = {
        DUE_TAG: ",".join(minute.models),
        REASON_TAG: decision.reason_tag(minute.reasons),
        FAILURES_TAG: ",".join(f"{model}={times}" for model, times in minute.failures.items()),
    }
    return dg.RunRequest(
        job_name=jobs.MINUTE,
        asset_selection=[
            key
            for table in tables
            if table.model in minute.models
            for key in jobs.minute_keys(table)
        ],
        asset_check_keys=[key for model in minute.models for key in names.check_keys(model)],
        tags={name: text for name, text in tags.items() if text},
    )


def in_progress(instance: DagsterInstance, models: Sequence[str]) -> Iterator[RunInProgress]:
    """The runs that are queued, starting or running, with what they materialize."""
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


def last_base(instance: DagsterInstance, model: str) -> LastBase | None:
    """The newest run of a table's base that was asked for, if there is one."""
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
        ended_at=_ended_at(record),
    )


def last_failures(
    instance: DagsterInstance, models: Sequence[str], wanted: Collection[str], now: datetime
) -> dict[str, LastFailure]:
    """Of the tables `wanted`, those for which the newest run over their changes, or over their
    models, failed within the last hour. One query where nothing did."""
    if not wanted:
        return {}
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=now - FAILURES_COUNT_FOR)
    records = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(failed, limit=FAILED_RUNS_MOST)
    }
    touched = {
        key[0]
        for record in records.values()
        for key in _keys(record.dagster_run, models)
        if key[-1] != decision.BASE
    }
    found = {model: _last_failure(instance, model, records) for model in wanted if model in touched}
    return {model: failure for model, failure in found.items() if failure}


def _last_failure(
    instance: DagsterInstance, model: str, failed: Mapping[str, RunRecord]
) -> LastFailure | None:
    changes, merged = names.changes_key(model), names.merged_key(model)
    record = _newest_run(instance, changes, failed)
    if record and not _materialized_in(instance, changes, record):
        return _failure(record, model, "its drain")
    record = _newest_run(instance, merged, failed)
    if record and _broke_off(instance, names.models_op(model), record):
        return _failure(record, model, "building its models")
    return None


def _newest_run(
    instance: DagsterInstance, key: dg.AssetKey, failed: Mapping[str, RunRecord]
) -> RunRecord | None:
    """The newest run that was to materialize an asset, if it is one of those that failed."""
    planned = instance.get_latest_planned_materialization_info(key)
    return failed.get(planned.run_id) if planned else None


def _materialized_in(instance: DagsterInstance, key: dg.AssetKey, record: RunRecord) -> bool:
    event = instance.get_latest_materialization_event(key)
    return event is not None and event.run_id == record.dagster_run.run_id


def _broke_off(instance: DagsterInstance, step: str, record: RunRecord) -> bool:
    """True where a step of a run failed, or was killed."""
    steps = instance.get_run_step_stats(record.dagster_run.run_id, [step])
    broken = (StepEventStatus.FAILURE, StepEventStatus.IN_PROGRESS)
    return any(each.status in broken for each in steps)


def _failure(record: RunRecord, model: str, what: str) -> LastFailure:
    run = record.dagster_run
    before = dict(each.split("=") for each in run.tags.get(FAILURES_TAG, "").split(",") if each)
    times = int(before.get(model, "0")) + 1
    return LastFailure(run.run_id, what, times, _ended_at(record))


def _ended_at(record: RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)

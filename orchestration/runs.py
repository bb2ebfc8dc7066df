"""What the sensors see of Dagster's runs, and how they ask for a base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from assets import names
from orchestration import decision, jobs
from orchestration.decision import BaseRequest, LastBase, RunInProgress

ATTEMPT_TAG = "tailrace/attempt"
REASON_TAG = "tailrace/reason"

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
        ended_at=datetime.fromtimestamp(
            record.end_time or record.update_timestamp.timestamp(), UTC
        ),
    )

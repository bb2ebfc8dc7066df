"""The one sensor: once a minute it looks whether anything is due and asks for a run. It drains
nothing itself, and remembers nothing that the ledger and the run storage do not know better."""

# No postponed annotations here: Dagster reads what an op needs from its signature.

import os
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterInstance

from assets.coverage import coverage_evaluation
from assets.freshness import freshness_evaluation, is_stale
from assets.resource import TailraceResource
from orchestration import decision, jobs
from orchestration.decision import Decision, Situation
from orchestration.runs import base_run, in_progress, last_base, last_failures, minute_run
from tailrace.config import Table
from tailrace.model import TableStatus

if TYPE_CHECKING:
    from tailrace.engine import Engine

INTERVAL_VARIABLE = "TAILRACE_SENSOR_SECONDS"
INTERVAL_SECONDS = 60


def build_drain_sensor(
    *, tables: Sequence[Table], targets: Sequence[dg.JobDefinition]
) -> dg.SensorDefinition:
    """The sensor over all tables, on by default."""
    models = [table.model for table in tables]
    repaired = [table.model for table in tables if table.repair.automatic]

    @dg.sensor(
        name="drain_sensor",
        jobs=[job for job in targets if job.name in (jobs.BOOTSTRAP, jobs.MINUTE)],
        minimum_interval_seconds=int(os.environ.get(INTERVAL_VARIABLE, INTERVAL_SECONDS)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Every minute: looks into the streams, and asks for one run that drains the"
        " tables where something is due and builds their models. Starts the base of a table that"
        " has none, goes on with one that was interrupted, and repairs gaps. A table that keeps"
        " failing is tried ever more rarely, at last every 15 minutes; the others do not wait.",
    )
    def drain_sensor(
        context: dg.SensorEvaluationContext, tailrace: TailraceResource
    ) -> dg.SensorResult:
        return _result(*_look(context.instance, tailrace, models, repaired), tables)

    return drain_sensor


def _look(
    instance: DagsterInstance,
    tailrace: TailraceResource,
    models: Sequence[str],
    repaired: Collection[str],
) -> tuple[Decision, Sequence[TableStatus]]:
    """What to do, and how the tables stand. What concerns one table is that table's run to tell;
    what stops the look at all of them is raised: the tick is red, and says why."""
    now = datetime.now(UTC)
    runs = list(in_progress(instance, models))

    def look(engine: "Engine") -> tuple[Decision, Sequence[TableStatus]]:
        statuses = engine.status(models)
        states = {status.model: status.state for status in statuses}
        gaps = decision.to_repair(statuses, repaired)
        begun = [model for model in models if states[model] != decision.NONE]
        idle = decision.draining(runs) is None and bool(begun)
        due = engine.peek(begun) if idle else {}
        unmerged = engine.unmerged(begun) if idle else []
        wanted = decision.wanted(due, unmerged)
        at = Situation(
            now=now,
            states=states,
            runs=runs,
            due=due,
            unmerged=unmerged,
            failures=last_failures(instance, models, wanted, now),
            gaps=gaps,
            bases={m: last_base(instance, m) for m in decision.needs_base(states, gaps, runs)},
        )
        return decision.decide(at), statuses

    return tailrace.look(look)


def _result(
    decided: Decision, statuses: Sequence[TableStatus], tables: Sequence[Table]
) -> dg.SensorResult:
    """Runs to ask for; a table that is stale or torn, and for which no run is asked, turns its
    checks red."""
    requests = [base_run(base) for base in decided.bases]
    said = [f"{base.model}/base: {base.reason}." for base in decided.bases]
    reasons = decided.minute.reasons if decided.minute else {}
    if decided.minute:
        requests.append(minute_run(decided.minute, tables))
        said.append(f"{decision.reason_tag(reasons)}.")
    said = [*said, *decided.notes] or ["Nothing is due."]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(said),
        cursor=" ".join(said),
        asset_events=[
            evaluation
            for status in statuses
            if status.model not in reasons
            for evaluation in _red(status)
        ],
    )


def _red(status: TableStatus) -> Iterator[dg.AssetCheckEvaluation]:
    if status.gaps:
        yield coverage_evaluation(status)
    if status.lag_seconds is not None and is_stale(status):
        yield freshness_evaluation(status)

"""The jobs. All run their steps in one process, because a process a step costs three seconds, and
a step waits for the outputs it needs rather than for the whole step before it: a table that
cannot be drained leaves only its own models unbuilt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

import dagster as dg

from assets import names
from assets.maintenance import JOB as MAINTENANCE
from assets.maintenance import OP as MAINTAIN
from assets.maintenance import build_maintenance_op
from assets.reconciliation import JOB as RECONCILE
from tailrace.config import Table

executor = dg.in_process_executor.configured(
    {"step_dependency_config": {"require_upstream_step_success": False}}, name="in_process"
)

BOOTSTRAP = "bootstrap"
MINUTE = "minute"
DBT_TESTS = "dbt_tests"

# The hour, in UTC, of the maintenance that does everything.
FULL_HOUR = 3


def build_jobs(tables: Sequence[Table]) -> tuple[dg.JobDefinition, ...]:
    """The jobs over all tables; whoever launches one selects tables.

    (Dagster's type of an unresolved job is not public, hence the name in the signature.)"""
    models = [table.model for table in tables]
    minute_assets = [key for table in tables for key in minute_keys(table)]
    checks = [key for model in models for key in names.check_keys(model)]
    dbt_keys = [key for table in tables for key in names.dbt_keys(table)]
    return (
        dg.define_asset_job(
            BOOTSTRAP,
            selection=dg.AssetSelection.assets(*(names.base_key(model) for model in models)),
            description="Starts an epoch of a table, or goes on with an unfinished one.",
        ),
        dg.define_asset_job(
            MINUTE,
            selection=dg.AssetSelection.assets(*minute_assets).without_checks()
            | dg.AssetSelection.checks(*checks),
            description="Drains the streams, then builds the dbt models where something landed.",
        ),
        dg.define_asset_job(
            DBT_TESTS,
            selection=dg.AssetSelection.checks_for_assets(*dbt_keys),
            description="Brings the dbt models up to date and runs their data tests.",
        ),
        dg.define_asset_job(
            RECONCILE,
            selection=dg.AssetSelection.checks(
                *(names.reconciliation_key(model) for model in models)
            ),
            description="Compares the warehouse with the DynamoDB tables, each read as its base"
            " is: by a fresh export, or by a scan. Costs money; see docs/operations.md.",
        ),
        _maintenance_job(),
    )  # type: ignore[return-value]


def _maintenance_job() -> dg.JobDefinition:
    op = build_maintenance_op()

    @dg.job(
        name=MAINTENANCE,
        executor_def=executor,
        description="Keeps the warehouse small and quick: files, snapshots, the ledger.",
    )
    def maintenance() -> None:
        op()

    return maintenance


def _maintenance_run(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    full = context.scheduled_execution_time.astimezone(UTC).hour == FULL_HOUR
    return dg.RunRequest(run_config={"ops": {MAINTAIN: {"config": {"full": full}}}})


def build_schedules() -> list[dg.ScheduleDefinition]:
    """The schedules. What costs money, or reads whole tables, is off until someone switches it
    on."""
    return [
        dg.ScheduleDefinition(
            name="maintenance_hourly",
            job_name=MAINTENANCE,
            cron_schedule="41 * * * *",
            execution_fn=_maintenance_run,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Merges small files and expires snapshots each hour, and at"
            f" {FULL_HOUR:02}:41 UTC does everything that maintenance does. On by default.",
        ),
        dg.ScheduleDefinition(
            name="dbt_tests_hourly",
            job_name=DBT_TESTS,
            cron_schedule="7 * * * *",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Runs the data tests of all dbt models. Off by default: they read whole"
            " tables.",
        ),
        dg.ScheduleDefinition(
            name="reconcile_weekly",
            job_name=RECONCILE,
            cron_schedule="23 3 * * 0",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Compares the warehouse with the tables, on Sundays. Off by default: each"
            " time it requests an export, or scans, each table.",
        ),
    ]


def minute_keys(table: Table) -> list[dg.AssetKey]:
    """What the minute's run materializes of one table."""
    return [names.changes_key(table.model), *names.dbt_keys(table)]

"""Everything Dagster shows and runs for the tables of one configuration, put together."""

from __future__ import annotations

import dagster as dg

from assets.base import build_base_asset
from assets.changes import build_changes_assets
from assets.manifest import manifest_for
from assets.models import build_model_assets
from assets.reconciliation import build_reconciliation_check
from assets.resource import TailraceResource
from orchestration.jobs import build_jobs, build_schedules, executor
from orchestration.sensor import build_drain_sensor
from tailrace.config import Config


def build_definitions(config: Config) -> dg.Definitions:
    """All definitions for the tables of one configuration."""
    manifest = manifest_for(config)
    jobs = build_jobs(config.tables)
    return dg.Definitions(
        assets=[
            *(build_base_asset(table=table) for table in config.tables),
            build_changes_assets(tables=config.tables),
            *(build_model_assets(table=table, manifest=manifest) for table in config.tables),
        ],
        asset_checks=[build_reconciliation_check(table=table) for table in config.tables],
        jobs=jobs,
        schedules=build_schedules(),
        sensors=[build_drain_sensor(tables=config.tables, targets=jobs)],
        resources={"tailrace": TailraceResource(config_path=str(config.path))},
        executor=executor,
    )

"""The check `reconciliation`: the warehouse compared with the table itself, item by item. It costs
time and money, so it is part of no other run; its job and schedule are orchestration's."""

# No postponed annotations here: Dagster reads the config class from the op's signature.
from typing import Any

import dagster as dg
from pydantic import Field

from assets import names
from assets.base import telling
from assets.metadata import duration, failure
from assets.resource import TailraceResource
from tailrace.config import Table
from tailrace.model import SAMPLE_ITEMS, Reconciliation

JOB = "reconcile"
SAMPLE = "sample"
KEYS_SHOWN = 10

# The minute's run drains as well: where one of its passes comes in time, it is not run into. Any
# other run than the job's may hold the sensor's own run up: it waits for none.
PATIENCE_SECONDS = 90.0


class ReconciliationConfig(dg.Config):
    """What a person may set in the launchpad."""

    method: str | None = Field(
        None,
        description="export, scan or sample. Left out, the job `reconcile` reads the table as its"
        " base is read, and any other run, such as one from the asset's page, a sample: nobody"
        " should pay for an export by a click.",
    )
    sample: int = Field(SAMPLE_ITEMS, description="How many random items a sample compares.")
    max_rcu: float | None = Field(
        None,
        description="Most read capacity units a second, of a scan or a sample. Left out, the"
        " base's.",
    )


def build_reconciliation_check(*, table: Table) -> dg.AssetChecksDefinition:
    """The check on one table's changes."""

    @dg.asset_check(
        asset=names.changes_key(table.model),
        name=names.RECONCILIATION,
        pool=names.RECONCILE_POOL,
        op_tags={"tailrace/table": table.model},
        description=(
            f"Compares the warehouse with DynamoDB table `{table.name}` by keys and content, as of"
            " one time, while both go on changing. Run by the job `reconcile`."
        ),
    )
    def reconciliation(
        context: dg.AssetCheckExecutionContext,
        config: ReconciliationConfig,
        tailrace: TailraceResource,
    ) -> dg.AssetCheckResult:
        by_job = context.run.job_name == JOB
        method = config.method or (None if by_job else SAMPLE)
        try:
            with tailrace.engine(telling(context.log.info)) as engine:
                result = engine.reconcile(
                    table.model,
                    method,
                    sample=config.sample,
                    max_rcu=config.max_rcu,
                    patience_seconds=PATIENCE_SECONDS if by_job else 0.0,
                )
        except Exception as error:
            raise failure({table.model: error}) from error
        return reconciliation_result(result)

    return reconciliation


def reconciliation_result(result: Reconciliation) -> dg.AssetCheckResult:
    """What the check says: counts, and keys of a few differences, but no item's content."""
    found = result.found
    metadata: dict[str, Any] = {
        "method": result.method,
        "from": dg.MetadataValue.timestamp(result.began_at),
        "to": dg.MetadataValue.timestamp(result.ended_at),
        "items of the table": found.source_items,
        "items of the warehouse": found.warehouse_items,
        "equal": found.equal,
        "missing": found.missing,
        "extra": found.extra,
        "different": found.different,
        "seconds": round(result.seconds, 1),
    }
    if found.latest_items is not None:
        metadata |= {
            "items of the latest model": found.latest_items,
            "of them not what the log says": found.latest_different,
        }
    if found.unsettled:
        metadata["changed meanwhile, not judged"] = found.unsettled
    if result.capacity_units:
        metadata["capacity units"] = round(result.capacity_units, 1)
    if found.shown:
        keys = [
            dg.TableRecord({"kind": each.kind, "key": each.key})
            for each in found.shown[:KEYS_SHOWN]
        ]
        metadata["first differences"] = dg.MetadataValue.table(keys)
    return dg.AssetCheckResult(
        asset_key=names.changes_key(result.model),
        check_name=names.RECONCILIATION,
        passed=result.is_equal,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_said(result),
        metadata=metadata,
    )


def _said(result: Reconciliation) -> str:
    if result.is_equal:
        return (
            f"{result.found.equal:,} items compared by {result.method} in"
            f" {duration(result.seconds)}: all are equal."
        )
    return (
        f"{result.found.count:,} differences. `tailrace reconcile {result.model}` shows both sides"
        " of each."
    )

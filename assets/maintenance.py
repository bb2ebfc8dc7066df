"""The op of the job `maintenance`: keeps the warehouse small and quick, and shows its sizes before
and after. When it runs is orchestration's business, what it does tailrace.lake.maintenance's."""

# No postponed annotations here: Dagster reads the config class from the op's signature.
from typing import Any

import dagster as dg
from pydantic import Field

from assets import names
from assets.metadata import size
from assets.resource import TailraceResource
from tailrace.model import Maintenance, Sizes

JOB = "maintenance"
OP = "maintain"  # another name: Dagster has one namespace for ops and jobs


class MaintenanceConfig(dg.Config):
    """What a person may set in the launchpad."""

    full: bool = Field(
        True,
        description="Whether it also sums up the ledger, drops rows of change logs that are not to"
        " be kept (`log:` in tailrace.yaml), and looks for files without an owner.",
    )


def build_maintenance_op() -> dg.OpDefinition:
    """The op, in the pool of the merges: so neither makes the other's commits fail."""

    @dg.op(
        name=OP,
        pool=names.MERGE_POOL,
        out=dg.Out(dg.Nothing),
        description="Flushes, merges and rewrites small files, expires snapshots, and removes"
        " files that nobody needs any more. May be run at any time, and killed.",
    )
    def maintain(
        context: dg.OpExecutionContext, config: MaintenanceConfig, tailrace: TailraceResource
    ) -> None:
        with tailrace.engine() as engine:
            done = engine.maintain(
                full=config.full,
                tell=lambda step: context.log.info(
                    f"{step.name}: {step.done:,} in {step.seconds:.1f} s"
                ),
            )
        context.add_output_metadata(maintenance_metadata(done))
        if done.failures:
            raise dg.Failure(
                description="\n".join(done.failures)
                + "\nWhat to do: nothing is lost, and the rest was done. It is tried again the next"
                " time; if it stays, report it.",
                metadata=maintenance_metadata(done),
                allow_retries=False,
            )

    return maintain


def maintenance_metadata(done: Maintenance) -> dict[str, Any]:
    """Sizes before and after, and what each step did."""
    metadata: dict[str, Any] = {"seconds": round(done.seconds, 1)}
    for when, sizes in (("before", done.before), ("after", done.after)):
        metadata |= {
            f"files {when}": sizes.files,
            f"old files {when}": sizes.old_files,
            f"bytes {when}": sizes.bytes,
            f"rows {when}": sizes.rows,
            f"snapshots {when}": sizes.snapshots,
            f"catalog bytes {when}": sizes.catalog_bytes,
        }
    steps = [
        dg.TableRecord({"step": each.name, "done": each.done, "seconds": round(each.seconds, 1)})
        for each in done.steps
    ]
    metadata["steps"] = dg.MetadataValue.table(steps) if steps else "none"
    tables = _tables(done.before, done.after)
    metadata["tables"] = dg.MetadataValue.table(tables) if tables else "none yet"
    return metadata


def _tables(before: Sizes, after: Sizes) -> list[dg.TableRecord]:
    was = {each.name: each for each in before.tables}
    return [
        dg.TableRecord(
            {
                "table": each.name,
                "rows": each.rows,
                "files before": was[each.name].files if each.name in was else 0,
                "files after": each.files,
                "size": size(each.bytes),
            }
        )
        for each in after.tables
        if each.rows or each.files
    ]

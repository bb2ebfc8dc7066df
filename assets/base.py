"""`<model>/base`: materializing it starts an epoch, or goes on with the one that is unfinished."""

# No postponed annotations here: Dagster reads the config class from the op's signature.
import threading
import time
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from assets import names
from assets.metadata import base_metadata, failure, progress_text
from assets.resource import TailraceResource
from tailrace.config import ExportBase, Table
from tailrace.model import BaseProgress

PROGRESS_EVERY_SECONDS = 5.0


class BaseConfig(dg.Config):
    """What a person may set in the launchpad."""

    restart: bool = Field(
        False,
        description="Give an unfinished base up and start a new epoch. Left out, the base goes on"
        " where it stopped, which is nearly always what you want.",
    )
    repair: bool = Field(
        False,
        description="Only close the table's gaps: read what changed since before the first one, by"
        " incremental exports where point-in-time recovery reaches back so far and a bucket is"
        " named, else by a new base.",
    )


def build_base_asset(*, table: Table) -> dg.AssetsDefinition:
    """The asset of one table's base."""

    @dg.asset(
        key=names.base_key(table.model),
        group_name=table.model,
        kinds={"dynamodb", "ducklake"},
        owners=names.owners(),
        pool=names.base_pool(table),
        description=_description(table),
        metadata={"table": table.name, "method": table.base.method},
        tags={"tailrace/method": table.base.method},
        op_tags={"tailrace/table": table.model},
    )
    def base(
        context: dg.AssetExecutionContext, config: BaseConfig, tailrace: TailraceResource
    ) -> dg.MaterializeResult:
        told = telling(context.log.info)
        try:
            with tailrace.engine(told) as engine:
                result = (
                    engine.repair(table.model)
                    if config.repair
                    else engine.base(table.model, restart=config.restart)
                )
                [status] = engine.status([table.model])
                parts = engine.base_parts(table.model)
        except Exception as error:
            raise failure({table.model: error}) from error
        if result is None:
            context.log.info(f"{table.model}: there is no gap to repair")
            return dg.MaterializeResult()
        context.log.info(
            f"{table.model}: the base of epoch {result.epoch} is {result.state};"
            f" {result.items:,} items were read in this run"
        )
        return dg.MaterializeResult(metadata=base_metadata(result, status, parts))

    return base


def telling(tell: Callable[[str], object]) -> Callable[[BaseProgress], None]:
    """Passes progress on at most every PROGRESS_EVERY_SECONDS, from whichever thread."""
    lock = threading.Lock()
    told_at = float("-inf")

    def progress(at: BaseProgress) -> None:
        nonlocal told_at
        with lock:
            now = time.monotonic()
            finished = at.seconds_left == 0.0
            if not finished and now - told_at < PROGRESS_EVERY_SECONDS:
                return
            told_at = now
        tell(progress_text(at))

    return progress


def _description(table: Table) -> str:
    by = (
        f"a point-in-time export to s3://{table.base.bucket}/{table.base.prefix}"
        if isinstance(table.base, ExportBase)
        else f"a parallel scan in {table.base.segments} segments"
    )
    return (
        f"The whole of DynamoDB table `{table.name}`, read by {by}.\n\n"
        "Materialize it to start an epoch, or to go on with a base that was interrupted."
        " Materializing the base of a live table reads it anew behind the readers' backs: they go"
        " on seeing the old epoch, kept fresh, until the new one is live."
    )

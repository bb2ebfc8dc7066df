"""`<model>/changes` of all tables: one op drains those selected in threads, because a process a
table would cost more than its pass. The checks `coverage` and `freshness` are evaluated with it, or
alone."""

# No postponed annotations here: Dagster reads what an op needs from its signature.

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import names
from assets.coverage import coverage_result, coverage_spec
from assets.freshness import freshness_result, freshness_spec
from assets.metadata import changes_metadata, changes_version, failure
from assets.resource import TailraceResource
from assets.schema_drift import NEW_FOR, schema_drift_result, schema_drift_spec
from tailrace.config import Table
from tailrace.errors import TailraceError
from tailrace.model import TableStatus, gap_text

if TYPE_CHECKING:
    from tailrace.engine import Engine


def build_changes_assets(*, tables: Sequence[Table]) -> dg.AssetsDefinition:
    """The assets of all tables' changes, and their checks, in one op."""

    @dg.multi_asset(
        name="drain",
        specs=[_changes_spec(table=table) for table in tables],
        check_specs=[
            spec(table=table)
            for table in tables
            for spec in (coverage_spec, freshness_spec, schema_drift_spec)
        ],
        can_subset=True,
        pool=names.DRAIN_POOL,
    )
    def drain(context: dg.AssetExecutionContext, tailrace: TailraceResource) -> Iterator[Any]:
        selected = {key.path[0] for key in context.selected_asset_keys}
        to_drain = [table.model for table in tables if table.model in selected]
        try:
            yield from _drained(context, tailrace, to_drain, context.selected_asset_check_keys)
        except TailraceError as error:
            raise failure(dict.fromkeys(to_drain, error)) from error

    return drain


def _drained(
    context: dg.AssetExecutionContext,
    tailrace: TailraceResource,
    to_drain: Sequence[str],
    to_check: Collection[dg.AssetCheckKey],
) -> Iterator[Any]:
    """Materializations of what could be drained, then the checks, then the failure of the rest:
    a table that fails holds up no other, and its own models alone are left out."""
    errors: dict[str, BaseException] = {}
    with tailrace.engine() as engine:
        for model, outcome in engine.drain(to_drain, thrifty=True).items() if to_drain else ():
            if isinstance(outcome, BaseException):
                errors[model] = outcome
                explained = isinstance(outcome, TailraceError)
                context.log.error(f"{outcome}", exc_info=None if explained else outcome)
                continue
            [status] = engine.status([model])
            context.log.info(_told(model, outcome))
            yield dg.MaterializeResult(
                asset_key=names.changes_key(model),
                metadata=changes_metadata(outcome, status, engine.passes(model)),
                data_version=changes_version(outcome, status),
            )
        done = [model for model in to_drain if model not in errors]
        tailrace.note_drained(done, engine.unmerged(done))
        checked = sorted({key.asset_key.path[0] for key in to_check})
        for status in engine.status(checked) if checked else ():
            yield from _checks(engine, status, to_check)
    if errors:
        raise failure(errors) from next(iter(errors.values()))


def _checks(
    engine: "Engine", status: TableStatus, to_check: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    changes = names.changes_key(status.model)
    for name, result in ((names.COVERAGE, coverage_result), (names.FRESHNESS, freshness_result)):
        if dg.AssetCheckKey(changes, name) in to_check:
            yield result(status)
    if dg.AssetCheckKey(changes, names.SCHEMA_DRIFT) in to_check:
        yield schema_drift_result(engine.drift(status.model, NEW_FOR))


def _told(model: str, outcome: Any) -> str:
    if outcome.epoch is None:
        return f"{model}: has no epoch yet; materialize {model}/base first"
    tip = "to the tip" if outcome.reached_tip else "not to the tip yet"
    live = "; the table is live now" if outcome.went_live else ""
    gap = f"; {gap_text(outcome.gaps)}" if outcome.gaps else ""
    notices = "".join(f"; {notice}" for notice in outcome.notices)
    return (
        f"{model}: {outcome.rows:,} changes from {outcome.shards_read} {outcome.pieces}, {tip},"
        f" {outcome.seconds:.1f} s{live}{gap}{notices}"
    )


def _changes_spec(*, table: Table) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=names.changes_key(table.model),
        deps=[names.base_key(table.model)],
        group_name=table.model,
        kinds={"dynamodb", "ducklake"},
        owners=names.owners(),
        skippable=True,
        description=(
            f"The change log `changes.{table.model}`: every change of DynamoDB table"
            f" `{table.name}`, as its stream sent it, in order, once.\n\n"
            "Materializing it drains the stream once, from where the ledger stands to the tip,"
            f" for at most {table.stream.pass_seconds:.0f} s."
        ),
        metadata=_static_metadata(table),
    )


def _static_metadata(table: Table) -> Mapping[str, Any]:
    return {
        "table": table.name,
        "dagster/table_name": f"lake.changes.{table.model}",
        "source": table.stream.source,
    }

"""The check `schema_drift`: which attributes, and types of them, are new, and which a frozen schema
refuses; each with a key that holds it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg

from assets import names
from tailrace.config import Table
from tailrace.model import NewAttribute, SchemaDrift

# How long something new is worth a warning: whoever looks once a day sees it.
NEW_FOR = timedelta(hours=24)
SHOWN = 20


def schema_drift_spec(*, table: Table) -> dg.AssetCheckSpec:
    """The check on one table's changes."""
    frozen = table.schema_mode == "frozen"
    text = (
        "Which attributes, types and wider numbers the frozen schema keeps out of the models: they"
        " are in the log. `schema: evolve` in tailrace.yaml lets them in."
        if frozen
        else "Warns for a day of each attribute, or type of one, that the table did not have"
        " before. Nothing needs to be done: they are columns already."
    )
    return dg.AssetCheckSpec(
        name=names.SCHEMA_DRIFT, asset=names.changes_key(table.model), description=text
    )


def schema_drift_result(drift: SchemaDrift) -> dg.AssetCheckResult:
    """What the check says of one table now."""
    metadata: dict[str, Any] = {"attributes": drift.attributes}
    if drift.new:
        metadata["new"] = dg.MetadataValue.table([_record(each) for each in drift.new[:SHOWN]])
    return dg.AssetCheckResult(
        asset_key=names.changes_key(drift.model),
        check_name=names.SCHEMA_DRIFT,
        passed=not drift.new,
        severity=dg.AssetCheckSeverity.WARN,
        description=_said(drift),
        metadata=metadata,
    )


def _record(each: NewAttribute) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "attribute": each.path,
            "type": each.type,
            "types before": ", ".join(each.before),
            "first seen": f"{each.seen_at:%Y-%m-%d %H:%M:%S %Z}",
            "in": each.example_key or "",
        }
    )


def _said(drift: SchemaDrift) -> str:
    if not drift.new:
        what = "The frozen schema refuses nothing" if drift.frozen else "Nothing new for a day"
        return f"{what}; {drift.attributes} attributes are known."
    lines = [f"- {_line(each, drift.frozen)}" for each in drift.new[:SHOWN]]
    if len(drift.new) > SHOWN:
        lines.append(f"- and {len(drift.new) - SHOWN:,} more: tailrace attributes {drift.model}")
    if not drift.frozen:
        return "\n".join(["New attributes or types:", *lines])
    return "\n".join(["Refused by the frozen schema; the log has them:", *lines])


def _line(each: NewAttribute, frozen: bool) -> str:
    what = f"`{each.path}` ({each.type})"
    if frozen and each.column:
        what += f", which its column, {each.column}, does not hold"
    elif each.before:
        what += f", so far {', '.join(each.before)}"
    seen = f"{each.seen_at:%Y-%m-%d %H:%M %Z}"
    return f"{what}, seen {seen}" + (f" in {each.example_key}" if each.example_key else "")

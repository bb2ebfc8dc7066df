"""The check `coverage`: whether changes may be missing, since when, and what is done about it."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets import names
from tailrace.config import Table
from tailrace.model import TableStatus, gap_text


def coverage_spec(*, table: Table) -> dg.AssetCheckSpec:
    """The check on one table's changes. It does not stop the models: rows behind a gap are true,
    and newer than what they replace (docs/adr/0005)."""
    return dg.AssetCheckSpec(
        name=names.COVERAGE,
        asset=names.changes_key(table.model),
        description=(
            "Whether every change is proven to be in the log. A gap turns it red, and only the"
            " repair of the gap, once it is live, turns it green again."
        ),
    )


def coverage_result(status: TableStatus) -> dg.AssetCheckResult:
    """What the check says of one table now, for a step."""
    return dg.AssetCheckResult(**_verdict(status))


def coverage_evaluation(status: TableStatus) -> dg.AssetCheckEvaluation:
    """What the check says of one table now, for a sensor."""
    return dg.AssetCheckEvaluation(**_verdict(status))


def _verdict(status: TableStatus) -> dict[str, Any]:
    metadata: dict[str, Any] = {"state": status.state}
    if status.proven_until is not None:
        metadata["proven until"] = dg.MetadataValue.timestamp(status.proven_until)
    if status.gaps:
        metadata["missing since"] = dg.MetadataValue.timestamp(
            min(gap.since for gap in status.gaps)
        )
    return {
        "asset_key": names.changes_key(status.model),
        "check_name": names.COVERAGE,
        "passed": not status.gaps and status.proven_until is not None,
        "severity": dg.AssetCheckSeverity.ERROR if status.gaps else dg.AssetCheckSeverity.WARN,
        "description": _said(status),
        "metadata": metadata,
    }


def _said(status: TableStatus) -> str:
    if status.gaps:
        text = gap_text(status.gaps)
        return (
            f"{text[:1].upper()}{text[1:]}. `drain_sensor` has them read again, unless"
            f" `repair.automatic` is off; by hand: materialize {status.model}/base with"
            f" `repair: true`, or `tailrace repair {status.model}`."
        )
    if status.proven_until is None:
        return "No pass has reached the tip of the stream yet."
    return f"Every change made before {status.proven_until:%Y-%m-%d %H:%M:%S} UTC is in the log."

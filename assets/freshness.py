"""The check `freshness`: how old a table's last complete pass is, whatever its last run said."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets import names
from assets.metadata import duration
from tailrace.config import Table
from tailrace.model import TableStatus

WARN_SECONDS = 5 * 60.0
# A pass is asked for every five minutes even when nothing is new: an hour without one means that
# nothing is draining this table.
ERROR_SECONDS = 60 * 60.0


def freshness_spec(*, table: Table) -> dg.AssetCheckSpec:
    """The check on one table's changes."""
    return dg.AssetCheckSpec(
        name=names.FRESHNESS,
        asset=names.changes_key(table.model),
        description=(
            "The age of the last pass that read every shard to its tip: all changes made before"
            f" it are in the log. Warns from {duration(WARN_SECONDS)}, fails from"
            f" {duration(ERROR_SECONDS)}."
        ),
    )


def freshness_result(status: TableStatus) -> dg.AssetCheckResult:
    """What the check says of one table now, for a step."""
    return dg.AssetCheckResult(**_verdict(status))


def freshness_evaluation(status: TableStatus) -> dg.AssetCheckEvaluation:
    """What the check says of one table now, for a sensor."""
    return dg.AssetCheckEvaluation(**_verdict(status))


def _verdict(status: TableStatus) -> dict[str, Any]:
    late = status.lag_seconds is None or _age(status) >= ERROR_SECONDS
    metadata: dict[str, float | str] = {"state": status.state}
    if status.lag_seconds is not None:
        metadata["lag seconds"] = round(status.lag_seconds, 1)
    return {
        "asset_key": names.changes_key(status.model),
        "check_name": names.FRESHNESS,
        "passed": not is_stale(status),
        "severity": dg.AssetCheckSeverity.ERROR if late else dg.AssetCheckSeverity.WARN,
        "description": _said(status),
        "metadata": metadata,
    }


def is_stale(status: TableStatus) -> bool:
    """Whether the last complete pass is missing, or older than WARN_SECONDS."""
    return status.lag_seconds is None or _age(status) > WARN_SECONDS


def _age(status: TableStatus) -> float:
    """The age of the last complete pass: of its proof, less what the source takes to deliver."""
    return (status.lag_seconds or 0.0) - status.delay_seconds


def _said(status: TableStatus) -> str:
    if status.epoch is None:
        return f"There is no epoch yet: materialize {status.model}/base."
    if status.lag_seconds is None:
        return "No pass has reached the tip of the stream yet."
    return f"The last complete pass began {duration(_age(status))} ago."

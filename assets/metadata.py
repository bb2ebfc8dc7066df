"""What the engine's results look like in Dagster: numbers it plots, tables it shows, failures it
explains. Nothing here reads anything; secrets have no way in, because results hold none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from tailrace.errors import TailraceError
from tailrace.model import (
    BaseProgress,
    BaseResult,
    DrainResult,
    PartProgress,
    PassRecord,
    TableStatus,
)

ROW_COUNT = "dagster/row_count"
PARTS_SHOWN = 50  # an export of a large table has thousands of files


def base_metadata(
    result: BaseResult, status: TableStatus, parts: Sequence[PartProgress]
) -> dict[str, Any]:
    """For a materialization of `<model>/base`."""
    return {
        ROW_COUNT: status.items_read,
        "rows read": result.items,
        "bytes read": result.bytes,
        "seconds": round(result.seconds, 1),
        "rows a second": round(result.items / result.seconds) if result.seconds else 0,
        "epoch": result.epoch,
        "state": result.state,
        "method": result.method,
        "progress": f"{status.base_parts_done} of {status.base_parts_total} parts",
        "parts": _table(
            {
                "part": part.part.id.rpartition("/")[2],
                "rows": part.rows,
                "bytes": part.bytes,
                "finished": part.finished,
            }
            for part in parts[:PARTS_SHOWN]
        ),
    }


def changes_metadata(
    result: DrainResult, status: TableStatus, passes: Iterable[PassRecord]
) -> dict[str, Any]:
    """For a materialization of `<model>/changes`."""
    is_of_shards = result.pieces == "shards"
    metadata: dict[str, Any] = {
        ROW_COUNT: status.rows,
        "rows": result.rows,
        "bytes": result.bytes,
        "epoch": result.epoch,
        "state": result.state,
        "reached the tip": result.reached_tip,
        "shards open": result.shards_open if is_of_shards else None,
        f"{result.pieces} read": result.shards_read,
        "calls to AWS": result.calls,
        "seconds": round(result.seconds, 1),
        "last passes": _table(
            {
                "began": f"{each.began_at:%Y-%m-%d %H:%M:%S}",
                "seconds": round((each.ended_at - each.began_at).total_seconds(), 1),
                "complete": each.complete,
                **({"shards open": each.shards_open} if is_of_shards else {}),
                f"{result.pieces} read": each.shards_read,
                "calls": each.calls,
            }
            for each in passes
        ),
    }
    if result.lag_seconds is not None:
        metadata["lag seconds"] = round(result.lag_seconds, 1)
    if result.notices:
        metadata["notices"] = "\n".join(result.notices)
    if result.newest_change is not None:
        metadata["newest change"] = dg.MetadataValue.timestamp(result.newest_change)
    return {name: value for name, value in metadata.items() if value is not None}


def changes_version(result: DrainResult, status: TableStatus) -> dg.DataVersion:
    """The same after a pass that found nothing, so that nothing downstream looks out of date."""
    return dg.DataVersion(f"epoch {result.epoch}, {result.state}, {status.rows} rows")


def progress_text(at: BaseProgress) -> str:
    """One line of a base's run log."""
    if not at.parts_total:
        return f"{at.model}: waiting for DynamoDB to finish the export"
    of = f" of about {at.expected_items:,}" if at.expected_items else ""
    left = "" if at.seconds_left is None else f", {duration(at.seconds_left)} left"
    return (
        f"{at.model}: {at.items:,}{of} items, {size(at.bytes)}, {at.parts_done} of"
        f" {at.parts_total} parts done, {at.rate:,.0f} items/s{left}"
    )


def duration(seconds: float) -> str:
    """A span of time as a person says it: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """An amount of bytes as a person says it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def failure(errors: Mapping[str, BaseException]) -> dg.Failure:
    """One failure for the tables that failed, `errors` by model: what happened and what to do."""
    lines = [_explained(model, error) for model, error in errors.items()]
    return dg.Failure(
        description="\n\n".join(lines),
        metadata={"tables": ", ".join(errors)},
        allow_retries=False,
    )


def _explained(model: str, error: BaseException) -> str:
    text = str(error) or "no reason given"
    if not isinstance(error, TailraceError):
        text = (
            f"{type(error).__name__}: {text}\nWhat to do: this is not a failure that Tailrace"
            " knows. Nothing committed is lost: run it again; if it stays, report it with the"
            " trace in this run's log."
        )
    return text if text.startswith(f"{model}:") else f"{model}: {text}"


def age(since: datetime | None, now: datetime) -> str:
    """How long ago something was."""
    return "never" if since is None else f"{duration((now - since).total_seconds())} ago"


def _table(rows: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue | str:
    """A table that the UI shows by itself; pandas would cost a second of each minute to import."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    return dg.MetadataValue.table(records) if records else "none yet"

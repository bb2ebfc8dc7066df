"""What a sample of a table's items suggests for their types: texts and numbers that are moments.

Tailrace never takes a text for a moment by itself; `tailrace init` asks here what to suggest to the
person who decides. Reading the sample is left to the caller.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

SAMPLE_ITEMS = 100

# What DuckDB reads as a moment, too: extended format, a point before the fraction.
ISO_8601 = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?\s?(Z|[+-]\d\d(:?\d\d)?)?)?"
)

# Numbers within these years are taken for moments: identifiers often begin at a round 10^9.
EARLIEST = datetime(2005, 1, 1, tzinfo=UTC).timestamp()
LATEST = datetime(2050, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Suggestion:
    """A type for an attribute, and why: `count` values of it were seen, and all look like that."""

    attribute: str
    type: str
    looks_like: str
    count: int


def suggestions(lines: bytes, key: Collection[str]) -> list[Suggestion]:
    """For items in DynamoDB JSON, one a line, the attributes of which every value looks like a
    moment, in the order of their names; those of the `key` are left as they are."""
    values: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines.splitlines():
        for name, value in msgspec.json.decode(line).items():
            if name not in key and "NULL" not in value:
                values[name].append(value)
    found = ((name, _looks_like(each), len(each)) for name, each in sorted(values.items()))
    return [Suggestion(name, *like, count) for name, like, count in found if like]


def _looks_like(values: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The type that all of these values suggest, and what they look like."""
    if all(_is_iso(each.get("S")) for each in values):
        return "timestamp", "ISO 8601"
    if all(_is_epoch(each.get("N"), 1) for each in values):
        return "epoch_seconds", "seconds since 1970"
    if all(_is_epoch(each.get("N"), 1_000) for each in values):
        return "epoch_milliseconds", "milliseconds since 1970"
    return None


def _is_iso(text: str | None) -> bool:
    if text is None or not ISO_8601.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text[:19])  # the date and the time of day exist
    except ValueError:
        return False
    return True


def _is_epoch(number: str | None, per_second: int) -> bool:
    return number is not None and EARLIEST <= float(number) / per_second < LATEST

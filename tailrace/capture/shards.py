"""The shard graph: which shards may be read now. Pure.

A shard is read only once its parent is finished, so that a key's records land in the order in
which they were written; unrelated lineages never wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from tailrace.model import Part, Shard

# A shard takes its last records about when its child is born.
CLOSING_MARGIN = timedelta(minutes=1)

BORN = re.compile(r"shardId-([0-9]+)-")


def part_of(source: str, stream_arn: str, shard: str) -> Part:
    """A shard as the ledger knows it."""
    return Part("stream", source, stream_arn, shard)


def readable(shards: Iterable[Shard], finished: Collection[str]) -> list[Shard]:
    """The unfinished shards of which each parent is finished or no longer listed (trimmed)."""
    listed = list(shards)
    known = {each.id for each in listed}
    return [
        each
        for each in listed
        if each.id not in finished
        and all(parent not in known or parent in finished for parent in each.parents)
    ]


def childless(shards: Iterable[Shard], finished: Collection[str]) -> list[Shard]:
    """Finished shards that nothing in the listing continues: a child is yet to appear."""
    listed = list(shards)
    parents = {parent for each in listed for parent in each.parents}
    return [each for each in listed if each.id in finished and each.id not in parents]


def closed_before(shards: Iterable[Shard], instant: datetime) -> set[str]:
    """The shards that were surely closed before `instant`: a child was born before, by the time
    in its id (shardId-<milliseconds>-…). A shard whose children's ids have none is not among
    them."""
    return {
        parent
        for each in shards
        if (born := _born_at(each.id)) is not None and born < instant
        for parent in each.parents
    }


def born_since(shards: Iterable[Shard], instant: datetime) -> set[str]:
    """The shards that were surely born at `instant` or later, by the time in their ids."""
    return {
        each.id for each in shards if (born := _born_at(each.id)) is not None and born >= instant
    }


def _born_at(shard: str) -> datetime | None:
    found = BORN.match(shard)
    try:
        return datetime.fromtimestamp(int(found[1]) / 1000, UTC) if found else None
    except (OverflowError, OSError, ValueError):
        return None


def unrelated(shards: Iterable[Shard], to: Collection[str]) -> list[Shard]:
    """The shards that neither are among `to` nor descend from them."""
    left, related = list(shards), set(to)
    while found := {x.id for x in left if x.id in related or related.intersection(x.parents)}:
        related |= found
        left = [each for each in left if each.id not in related]
    return left

"""The shard graph: which shards may be read now. Pure.

A shard is read only once its parent is finished, so that a key's records land in the order in
which they were written; unrelated lineages never wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from tailrace.model import Part, Shard

SOURCE = "dynamodb_streams"

BORN = re.compile(r"shardId-([0-9]+)-")


def part_of(stream_arn: str, shard: str) -> Part:
    """A shard as the ledger knows it."""
    return Part("stream", SOURCE, stream_arn, shard)


def readable(shards: Iterable[Shard], finished: Collection[str]) -> list[Shard]:
    """The unfinished shards whose parent is finished, or no longer listed (trimmed), or none."""
    listed = list(shards)
    known = {each.id for each in listed}
    return [
        each
        for each in listed
        if each.id not in finished
        and (each.parent is None or each.parent not in known or each.parent in finished)
    ]


def childless(shards: Iterable[Shard], finished: Collection[str]) -> list[Shard]:
    """Finished shards that nothing in the listing continues: a child is yet to appear."""
    listed = list(shards)
    parents = {each.parent for each in listed}
    return [each for each in listed if each.id in finished and each.id not in parents]


def closed_before(shards: Iterable[Shard], instant: datetime) -> set[str]:
    """The shards that were surely closed before `instant`: a child was born before, by the time
    in its id (shardId-<milliseconds>-…). A shard whose children's ids have none is not among
    them."""
    return {
        each.parent
        for each in shards
        if each.parent and (born := _born_at(each.id)) is not None and born < instant
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
    while found := {each.id for each in left if each.id in related or each.parent in related}:
        related |= found
        left = [each for each in left if each.id not in related]
    return left

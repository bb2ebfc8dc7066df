"""The shard graph: which shards may be read now. Pure.

A shard is read only once its parent is finished, so that a key's records land in the order in
which they were written; unrelated lineages never wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tailrace.model import Shard


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


def unrelated(shards: Iterable[Shard], to: Collection[str]) -> list[Shard]:
    """The shards that neither are among `to` nor descend from them."""
    left, related = list(shards), set(to)
    while found := {each.id for each in left if each.id in related or each.parent in related}:
        related |= found
        left = [each for each in left if each.id not in related]
    return left

"""Which shards may be read now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.capture.shards import childless, readable
from tailrace.model import Shard


def shards(*pairs: tuple[str, str | None]) -> list[Shard]:
    return [Shard(id, parent, closed=False) for id, parent in pairs]


CHAIN = shards(("a", None), ("b", "a"), ("c", "b"))
SPLIT = shards(("a", None), ("b", "a"), ("c", "a"), ("x", None))


@pytest.mark.parametrize(
    ("listed", "finished", "expected"),
    [
        pytest.param(CHAIN, set(), ["a"], id="a child waits for its parent"),
        pytest.param(CHAIN, {"a"}, ["b"], id="and its grandchild for it"),
        pytest.param(CHAIN, {"a", "b", "c"}, [], id="nothing is read twice"),
        pytest.param(SPLIT, set(), ["a", "x"], id="lineages do not wait for each other"),
        pytest.param(SPLIT, {"a"}, ["b", "c", "x"], id="both halves of a split"),
        pytest.param(shards(("b", "trimmed")), set(), ["b"], id="a parent that is gone"),
        pytest.param(shards(("b", "a"), ("a", None)), set(), ["a"], id="listed child first"),
        pytest.param([], {"a"}, [], id="no shards"),
    ],
)
def test_readable(listed: list[Shard], finished: set[str], expected: list[str]) -> None:
    assert [each.id for each in readable(listed, finished)] == expected


@pytest.mark.parametrize(
    ("listed", "finished", "expected"),
    [
        pytest.param(CHAIN, set(), [], id="an unfinished leaf is not childless"),
        pytest.param(CHAIN, {"a", "b"}, [], id="what a listed child continues"),
        pytest.param(CHAIN, {"a", "b", "c"}, ["c"], id="a finished leaf"),
        pytest.param(SPLIT, {"a", "b", "x"}, ["b", "x"], id="one half of a split"),
    ],
)
def test_childless(listed: list[Shard], finished: set[str], expected: list[str]) -> None:
    assert [each.id for each in childless(listed, finished)] == expected


@st.composite
def lineages(draw: st.DrawFn) -> list[Shard]:
    """A forest in any order, some of its roots' parents trimmed."""
    size = draw(st.integers(0, 12))
    found = []
    for number in range(size):
        parent = draw(st.one_of(st.none(), st.just("trimmed"), st.integers(0, max(0, number - 1))))
        known = isinstance(parent, int) and number > 0
        found.append(Shard(str(number), str(parent) if known else _root(parent), closed=False))
    return draw(st.permutations(found))


def _root(parent: object) -> str | None:
    return "trimmed" if parent == "trimmed" else None


@given(lineages(), st.randoms(use_true_random=False))
def test_every_shard_is_read_once_and_never_before_its_parent(
    listed: list[Shard], random: object
) -> None:
    parents = {each.id: each.parent for each in listed}
    finished: list[str] = []
    while ready := readable(listed, finished):
        shard = random.choice(ready)  # type: ignore[attr-defined]
        assert parents[shard.id] not in parents or parents[shard.id] in finished
        finished.append(shard.id)
    assert sorted(finished) == sorted(parents)
    leaves = {each for each in parents if each not in parents.values()}
    assert {each.id for each in childless(listed, finished)} == leaves

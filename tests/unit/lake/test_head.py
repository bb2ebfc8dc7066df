"""The head that a writer remembers is the head that anyone else reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailrace.config import Warehouse
from tailrace.errors import Stale
from tailrace.lake.log import ChangeLog
from tailrace.lines import Lines
from tailrace.model import (
    BASE_COMPLETE,
    OPEN,
    Commit,
    Epoch,
    KeyAttribute,
    Part,
    PartProgress,
    PassRecord,
    Shape,
    Staged,
    TableDescription,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TABLE = TableDescription("t", "arn", "id", (KeyAttribute("pk", "S"),), "stream", "NEW_IMAGE")
EPOCH = Epoch(1, "full", "scan", OPEN, "id", "stream", NOW, NOW, {})
SEGMENT = Part("base", "scan", "arn", "0")
SHARD = Part("stream", "dynamodb_streams", "stream", "shard-1")
PASS = PassRecord("p", NOW, NOW, complete=True, shards_open=1, shards_read=1, calls=3)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(catalog=f"sqlite:{tmp_path}/catalog.sqlite", data_path=f"{tmp_path}/data")


@pytest.fixture
def logs(warehouse: Warehouse) -> Iterator[tuple[ChangeLog, ChangeLog]]:
    with ChangeLog(warehouse) as one, ChangeLog(warehouse) as other:
        one.open_epoch("t", TABLE, EPOCH)
        yield one, other


def move(part: Part, start: str | None, end: str | None, *, finished: bool = False) -> PartProgress:
    return PartProgress(part, start, end, finished, 0, 0)


def test_it_is_the_same_after_every_kind_of_commit(logs: tuple[ChangeLog, ChangeLog]) -> None:
    one, other = logs
    complete = Epoch(1, "full", "scan", BASE_COMPLETE, "id", "stream", NOW, NOW, {})
    for commit in (
        Commit(EPOCH, (move(SEGMENT, None, "a"), move(SHARD, None, "1"))),
        Commit(EPOCH, (move(SEGMENT, "a", "b"),)),
        Commit(EPOCH, (move(SEGMENT, "b", None, finished=True),)),
        Commit(EPOCH, (move(SHARD, "1", "2"),), pass_record=PASS),
        Commit(EPOCH, state=BASE_COMPLETE, at=NOW),
        Commit(complete, (move(SHARD, "2", "3", finished=True),)),
    ):
        one.commit("t", commit)
        assert one.head("t") == other.head("t")


def test_it_is_read_again_where_others_have_committed(logs: tuple[ChangeLog, ChangeLog]) -> None:
    one, other = logs
    one.commit("t", Commit(EPOCH, (move(SHARD, None, "1"),)))
    other.commit("t", Commit(EPOCH, (move(SHARD, "1", "2"),)))
    with pytest.raises(Stale):
        one.commit("t", Commit(EPOCH, (move(SHARD, "1", "2"),)))
    assert one.head("t") == other.head("t")
    one.commit("t", Commit(EPOCH, (move(SHARD, "2", "3"),)))
    assert one.head("t") == other.head("t")


def test_a_commit_that_fails_leaves_it(logs: tuple[ChangeLog, ChangeLog]) -> None:
    one, other = logs
    one.commit("t", Commit(EPOCH, (move(SHARD, None, "1"),)))
    text = json.dumps({"other": {"S": "no key"}})
    broken = Staged(Shape.ITEMS, (Lines.of(text.encode()),), 1, NOW)
    part = PartProgress(SEGMENT, None, "a", False, 1, 10)
    with pytest.raises(Exception, match="key attribute"):
        one.commit("t", Commit(EPOCH, (part,), broken))
    assert one.head("t") == other.head("t")
    one.commit("t", Commit(EPOCH, (move(SHARD, "1", "2"),)))
    assert one.head("t") == other.head("t")

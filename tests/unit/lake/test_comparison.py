"""What a comparison calls equal, and that it finds whatever is not."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailrace.capture.stage import texts_of
from tailrace.changes import LOOKED_UP
from tailrace.config import Warehouse
from tailrace.errors import Terminal
from tailrace.lake.comparison import Comparison
from tailrace.lake.log import ChangeLog
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Difference,
    Differences,
    Epoch,
    Head,
    KeyAttribute,
    Part,
    PartProgress,
    Shape,
    Staged,
    TableDescription,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOSTILE = 'o\'Brien "x" /~ €.$[0]'
KEY = (KeyAttribute(HOSTILE, "S"), KeyAttribute("sk", "N"))
TABLE = TableDescription("orders", "arn:table", "id-1", KEY, "arn:stream", "NEW_IMAGE")
SHARD = Part("stream", "dynamodb_streams", "arn:stream", "shard-1")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def key(number: int) -> dict[str, Any]:
    return {HOSTILE: {"S": f"k'{number}\\"}, "sk": {"N": str(number)}}


def item(number: int, text: str = "a", **attributes: Any) -> dict[str, Any]:
    return key(number) | {"text": {"S": text}} | attributes


def key_text(number: int) -> str:
    return json.dumps(key(number), separators=(",", ":"), ensure_ascii=False)


class Lake:
    """A table of its own in the warehouse that all tests share, written to as the engine does, and
    what is read of its source."""

    def __init__(self, log: ChangeLog, warehouse: Warehouse, folder: Path) -> None:
        self.log = log
        self.warehouse = warehouse
        self.folder = folder
        self.model = f"orders_{uuid.uuid4().hex}"
        self.sequence = 0
        self.epoch = Epoch(0, "full", "scan", OPEN, "id-1", "arn:stream", NOW, NOW, {})

    def head(self) -> Head:
        return self.log.head(self.model)

    def open(self, kind: str = "full") -> None:
        self.epoch = replace(self.epoch, number=self.epoch.number + 1, kind=kind)
        self.log.open_epoch(self.model, TABLE, self.epoch)

    def base(self, *items: dict[str, Any], seconds: float = 0) -> None:
        part = Part("base", "scan", "arn:table", str(len(list(self.folder.iterdir()))))
        staged = replace(self.staged(*items), read_at=at(seconds))
        self._commit(part, staged, finished=True)

    def changed(self, seconds: float, item: dict[str, Any], gone: int) -> None:
        """An incremental base: one key changed, another was deleted."""
        written = {
            "Metadata": {"WriteTimestampMicros": {"N": f"{at(seconds).timestamp():.0f}000000"}}
        }
        lines = (
            written | {"Keys": {each.name: item[each.name] for each in KEY}, "NewImage": item},
            written | {"Keys": key(gone)},
        )
        staged = self.staged(*lines, shape=Shape.INCREMENTAL_LINES)
        self._commit(Part("base", "export", "arn:export", "file"), staged, finished=True)

    def live(self) -> None:
        for state in (BASE_COMPLETE, LIVE):
            epoch = self.head().epoch
            assert epoch is not None
            self.log.commit(self.model, Commit(epoch, state=state, at=NOW))

    def put(self, seconds: float, item: dict[str, Any], **more: Any) -> None:
        self._record(seconds, item, {"NewImage": item}, "MODIFY", **more)

    def remove(self, seconds: float, number: int) -> None:
        self._record(seconds, key(number), {}, "REMOVE")

    def _record(
        self,
        seconds: float,
        item: dict[str, Any],
        image: dict[str, Any],
        event: str,
        **more: Any,
    ) -> None:
        start = str(self.sequence) if self.sequence else None
        self.sequence += 1
        change = {
            "ApproximateCreationDateTime": at(seconds).timestamp(),
            "Keys": {each.name: item[each.name] for each in KEY},
            "SequenceNumber": str(self.sequence),
        }
        record = {"eventName": event, "dynamodb": change | image} | more
        staged = self.staged(record, shape=Shape.STREAM_RECORDS)
        self._commit(SHARD, staged, start=start, end=str(self.sequence))

    def _commit(
        self,
        part: Part,
        staged: Staged,
        start: str | None = None,
        end: str | None = None,
        *,
        finished: bool = False,
    ) -> None:
        epoch = self.head().epoch
        assert epoch is not None
        moved = PartProgress(part, start, end, finished, staged.rows, 0)
        self.log.commit(self.model, Commit(epoch, (moved,), staged))

    def staged(self, *lines: dict[str, Any], shape: Shape = Shape.ITEMS) -> Staged:
        text = "\n".join(map(json.dumps, lines))
        return Staged(shape, (texts_of(shape, text.encode()),), len(lines))

    def execute(self, sql: str) -> None:
        self.log.query(sql)

    def compare(
        self,
        *items: dict[str, Any],
        seconds: float = 100,
        until: float | None = None,
        before: int = 99,
    ) -> Differences:
        """The whole source, read from `seconds` to `until`, after batch `before` had landed."""
        span = (at(seconds), at(seconds if until is None else until))
        with self.comparison() as comparison:
            if items:
                comparison.add(self.staged(*items), *span)
            return comparison.differences(self.head(), span, before, 100)

    def comparison(self) -> Comparison:
        return Comparison(self.warehouse, self.model, KEY, self.folder)

    def build_latest(self, *rows: tuple[int, str, int, dict[str, Any] | None]) -> None:
        """orders_latest as dbt would leave it: (number, version, batch, image) a row."""
        self.execute(
            f"CREATE TABLE analytics.{self.model}_latest (_key VARCHAR, _version VARCHAR,"
            " _batch BIGINT, _op VARCHAR, _image JSON)"
        )
        for number, version, batch, image in rows:
            op = "REMOVE" if image is None else "MODIFY"
            text = None if image is None else json.dumps(image)
            self.log.query(
                f"INSERT INTO analytics.{self.model}_latest VALUES (?, ?, ?, ?, ?)",
                [key_text(number), version, batch, op, text],
            )


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("warehouse")
    return Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")


@pytest.fixture(scope="module")
def log(warehouse: Warehouse) -> Iterator[ChangeLog]:
    with ChangeLog(warehouse) as log:
        yield log


@pytest.fixture
def empty(log: ChangeLog, warehouse: Warehouse, tmp_path: Path) -> Lake:
    """A live table of no items."""
    lake = Lake(log, warehouse, tmp_path)
    lake.open()
    lake.live()
    return lake


@pytest.fixture
def lake(log: ChangeLog, warehouse: Warehouse, tmp_path: Path) -> Lake:
    """A live table of two items."""
    lake = Lake(log, warehouse, tmp_path)
    lake.open()
    lake.base(item(1), item(2))
    lake.live()
    return lake


def kinds(found: Differences) -> list[tuple[str, str]]:
    return [(each.kind, each.key) for each in found.shown]


# ------------------------------------------------------------------------------------- equality


def test_what_is_the_same_is_equal(lake: Lake) -> None:
    found = lake.compare(item(2), item(1))
    assert found == Differences(2, 0, 0, 0, None, 0, ())
    assert (found.source_items, found.warehouse_items, found.count) == (2, 2, 0)


def test_an_empty_table_equals_an_empty_log(empty: Lake) -> None:
    assert empty.compare().count == 0


SAME = [
    ({"N": "1"}, {"N": "1.0"}),
    ({"N": "1E0"}, {"N": "1"}),
    ({"SS": ["a", "b"]}, {"SS": ["b", "a"]}),
    ({"NS": ["1", "2.50"]}, {"NS": ["2.5", "1"]}),
    ({"BS": ["AQ==", "Ag=="]}, {"BS": ["Ag==", "AQ=="]}),
    (
        {"M": {"a": {"S": "x"}, "b": {"NS": ["1", "2"]}}},
        {"M": {"b": {"NS": ["2", "1"]}, "a": {"S": "x"}}},
    ),
]
DIFFERENT = [
    (
        {"N": "12345678901234567890123456789012345678"},
        {"N": "1234567890123456789012345678901234567"},
    ),
    ({"N": "9007199254740993"}, {"N": "9007199254740992"}),
    ({"N": "0.1"}, {"N": "0.1000000000000000055511151231257827"}),
    ({"S": "1"}, {"N": "1"}),
    ({"S": "1"}, {"S": "1.0"}),
    ({"SS": ["a", "b"]}, {"SS": ["a"]}),
    ({"L": [{"N": "1"}, {"N": "2"}]}, {"L": [{"N": "2"}, {"N": "1"}]}),
    ({"NULL": True}, {"S": ""}),
    ({"S": "é"}, {"S": "e\u0301"}),
]


def test_content_is_compared_as_dynamodb_would(lake: Lake) -> None:
    pairs = [*SAME, *DIFFERENT]
    lake.open()
    lake.base(*(item(number, x=held) for number, (held, _) in enumerate(pairs)))
    lake.live()
    found = lake.compare(*(item(number, x=value) for number, (_, value) in enumerate(pairs)))
    differing = range(len(SAME), len(pairs))
    assert sorted(kinds(found)) == sorted(("different", key_text(each)) for each in differing)
    assert (found.equal, found.different) == (len(SAME), len(DIFFERENT))


def test_the_order_of_members_means_nothing_and_names_are_exact(lake: Lake) -> None:
    reordered = dict(reversed(item(1).items()))
    assert lake.compare(reordered, item(2)).count == 0
    renamed = key(1) | {"TEXT": {"S": "a"}}
    assert kinds(lake.compare(renamed, item(2))) == [("different", key_text(1))]


# ---------------------------------------------------------------------------------- differences


def test_each_kind_of_difference_is_found_with_both_sides(lake: Lake) -> None:
    lake.put(10, item(3, "in the warehouse"))
    found = lake.compare(item(1), item(3, "in the table"), item(4))
    assert (found.equal, found.missing, found.extra, found.different) == (1, 1, 1, 1)
    assert [
        (each.kind, each.key, _parsed(each.source), _parsed(each.warehouse)) for each in found.shown
    ] == [
        ("missing", key_text(4), item(4), None),
        ("extra", key_text(2), None, item(2)),
        ("different", key_text(3), item(3, "in the table"), item(3, "in the warehouse")),
    ]


def test_a_tombstone_where_the_table_has_an_item_is_missing(lake: Lake) -> None:
    lake.remove(10, 1)
    assert kinds(lake.compare(item(1), item(2))) == [("missing", key_text(1))]
    assert lake.compare(item(2)).count == 0


def test_the_count_is_whole_where_not_all_is_shown(lake: Lake) -> None:
    with lake.comparison() as comparison:
        found = comparison.differences(lake.head(), (at(100), at(100)), 99, 1)
    assert found.extra == 2
    assert len(found.shown) == 1


def test_an_image_that_is_no_item_is_a_difference_and_no_failure(lake: Lake) -> None:
    image = """'{"x": 5}'"""
    lake.execute(f"UPDATE changes.{lake.model} SET image = {image} WHERE key LIKE '%1%'")
    assert kinds(lake.compare(item(1), item(2))) == [("different", key_text(1))]


def test_fewer_items_than_were_counted_are_refused(lake: Lake) -> None:
    short = replace(lake.staged(item(1)), rows=2)
    with lake.comparison() as comparison, pytest.raises(Terminal, match="2 items were staged"):
        comparison.add(short, at(1), at(1))


def test_an_item_without_its_key_is_refused(lake: Lake) -> None:
    with lake.comparison() as comparison, pytest.raises(Terminal, match="without its key"):
        comparison.add(lake.staged({"other": {"S": "a"}}), at(1), at(1))


# ------------------------------------------------------------------------------------ in flight


def test_a_state_is_right_if_it_was_so_within_the_span_and_not_before_or_after(
    lake: Lake,
) -> None:
    """A change at the very edge counts as made before the beginning, and within the end."""
    lake.open()
    lake.base(*(item(number) for number in range(6)))
    lake.live()
    history = ((10, "b"), (98, "c"), (104, "d"), (110, "e"), (111, "f"))
    for number in range(6):
        for seconds, text in history:
            lake.put(seconds, item(number, text))
    shown = [item(number, text) for number, text in enumerate("abcdef")]
    found = lake.compare(*shown, seconds=98, until=110)
    assert kinds(found) == [("different", key_text(each)) for each in (0, 1, 5)]


def test_an_item_that_came_within_the_span_may_be_seen_or_not(lake: Lake) -> None:
    lake.put(100, item(3))
    assert lake.compare(item(1), item(2), seconds=98, until=110).count == 0
    assert lake.compare(item(1), item(2), item(3), seconds=98, until=110).count == 0
    assert kinds(lake.compare(item(1), item(2), item(3), seconds=90, until=99)) == [
        ("missing", key_text(3))
    ]
    assert kinds(lake.compare(item(1), item(2), seconds=101, until=110)) == [("extra", key_text(3))]


def test_an_item_that_went_within_the_span_may_be_seen_or_not(lake: Lake) -> None:
    lake.remove(100, 2)
    assert lake.compare(item(1), seconds=98, until=110).count == 0
    assert lake.compare(item(1), item(2), seconds=98, until=110).count == 0
    assert lake.compare(item(1), item(2), seconds=90, until=99).count == 0
    assert kinds(lake.compare(item(1), seconds=90, until=99)) == [("extra", key_text(2))]
    assert kinds(lake.compare(item(1), item(2), seconds=101, until=110)) == [
        ("missing", key_text(2))
    ]


def test_each_page_has_its_own_span(lake: Lake) -> None:
    lake.put(100, item(1, "b"))
    with lake.comparison() as comparison:
        comparison.add(lake.staged(item(2)), at(90), at(95))
        comparison.add(lake.staged(item(1, "a")), at(105), at(110))
        found = comparison.differences(lake.head(), (at(90), at(110)), 99, 100)
    assert kinds(found) == [("different", key_text(1))]


def test_what_landed_after_the_head_is_not_looked_at(lake: Lake) -> None:
    head = lake.head()
    lake.put(10, item(1, "late"))
    with lake.comparison() as comparison:
        comparison.add(lake.staged(item(1), item(2)), at(100), at(100))
        assert comparison.differences(head, (at(100), at(100)), 99, 100).count == 0


# --------------------------------------------------------------------------------------- epochs


def test_the_base_of_an_epoch_that_is_not_live_is_not_seen_but_its_stream_is(lake: Lake) -> None:
    lake.open()
    lake.base(item(1, "unseen"), item(3), seconds=20)
    lake.put(30, item(2, "seen"))
    assert lake.compare(item(1), item(2, "seen")).count == 0


def test_what_a_source_that_takes_over_tells_of_before_waits_until_it_is_live(lake: Lake) -> None:
    lake.epoch = replace(lake.epoch, detail={"overlaps": True})
    lake.open()
    lake.put(-3600, item(1, "older than what readers have seen"))
    lake.put(30, item(2, "newer"))
    assert lake.compare(item(1), item(2)).count == 0
    lake.base(item(1), item(2), seconds=20)
    lake.live()
    assert lake.compare(item(1), item(2, "newer")).count == 0


def test_what_a_new_full_base_does_not_hold_counts_as_deleted(lake: Lake) -> None:
    lake.put(5, item(3))
    lake.open()
    lake.base(item(1, "anew"), seconds=20)
    lake.live()
    assert lake.compare(item(1, "anew")).count == 0
    assert kinds(lake.compare(item(1, "anew"), item(2))) == [("missing", key_text(2))]


def test_an_incremental_epoch_inherits_what_came_before_it(lake: Lake) -> None:
    lake.put(10, item(3))
    lake.open("incremental")
    lake.changed(20, item(1, "repaired"), gone=3)
    lake.live()
    assert lake.compare(item(1, "repaired"), item(2)).count == 0
    assert kinds(lake.compare(item(1), item(2), item(3))) == [
        ("missing", key_text(3)),
        ("different", key_text(1)),
    ]


def test_what_a_stream_without_items_lands_meanwhile_is_not_judged(lake: Lake) -> None:
    lake.put(100, item(1, "newer than its record"), **{LOOKED_UP: True})
    before = lake.head().batch
    shown = (item(1, "between"), item(2))
    assert kinds(lake.compare(*shown, before=before)) == [("different", key_text(1))]
    found = lake.compare(*shown, before=before - 1)
    assert (found.equal, found.count, found.unsettled) == (1, 0, 1)


def test_a_stream_row_beats_a_base_row_of_its_epoch(lake: Lake) -> None:
    lake.put(-60, item(1, "a"))
    assert lake.compare(item(1), item(2)).count == 0


# --------------------------------------------------------------------------------------- sample


def test_keys_that_are_looked_up_find_what_should_not_be_there(lake: Lake) -> None:
    lake.put(10, item(3))
    lake.remove(11, 1)
    with lake.comparison() as comparison:
        keys, items = comparison.sample(lake.head(), 10)
        assert (sorted(keys), items) == ([key_text(2), key_text(3)], 2)
        comparison.look_up(keys, lake.staged(item(3)), at(100), at(101))
        found = comparison.differences(lake.head(), None, 99, 100)
    assert (found.equal, kinds(found)) == (1, [("extra", key_text(2))])


def test_a_sample_says_nothing_of_keys_that_it_did_not_read(lake: Lake) -> None:
    with lake.comparison() as comparison:
        comparison.add(lake.staged(item(1)), at(100), at(100))
        found = comparison.differences(lake.head(), None, 99, 100)
    assert (found.equal, found.count) == (1, 0)


def test_a_sample_is_as_large_as_asked_for(lake: Lake) -> None:
    with lake.comparison() as comparison:
        keys, items = comparison.sample(lake.head(), 1)
    assert (len(keys), items) == (1, 2)


# --------------------------------------------------------------------------------------- latest

BASE = "0000010" + "0" * 40
FIRST = "0000011" + "1".rjust(40, "0")
SECOND = "0000011" + "2".rjust(40, "0")


def test_a_latest_model_that_is_what_the_log_says_is_equal(lake: Lake) -> None:
    lake.put(10, item(1, "b"))
    lake.remove(11, 2)
    lake.build_latest((1, FIRST, 5, item(1, "b")), (2, SECOND, 6, None))
    found = lake.compare(item(1, "b"))
    assert (found.latest_items, found.count) == (1, 0)


def test_a_latest_model_is_compared_as_of_its_own_watermark(lake: Lake) -> None:
    lake.build_latest((1, BASE, 4, item(1)), (2, BASE, 4, item(2)))
    lake.put(10, item(1, "not merged yet"))
    assert lake.compare(item(1, "not merged yet"), item(2)).count == 0


def test_each_wrong_row_of_a_latest_model_is_found_with_both_sides(lake: Lake) -> None:
    lake.open()
    lake.base(*(item(number) for number in range(6)))
    lake.live()
    second = BASE.replace("000001", "000002")
    lake.build_latest(
        (0, second, 8, item(0)),
        # 1 is not there at all
        (2, second, 8, key(2)),
        (3, second, 8, None),
        (4, BASE, 8, item(4)),
        (5, second, 8, item(5)),
        (5, second, 8, item(5)),
        (9, second, 8, item(9)),
    )
    found = lake.compare(*(item(number) for number in range(6)))
    assert (found.equal, found.latest_different, found.latest_items) == (6, 6, 6)
    sides = [(each.key, _parsed(each.source), _parsed(each.warehouse)) for each in found.shown]
    assert sides == [
        (key_text(1), item(1), None),
        (key_text(2), item(2), key(2)),
        (key_text(3), item(3), None),
        (key_text(4), second, BASE),
        (key_text(5), None, item(5)),
        (key_text(9), None, item(9)),
    ]


def test_a_latest_model_follows_epochs_as_of_its_watermark(lake: Lake) -> None:
    lake.build_latest((1, BASE, 4, item(1)), (2, BASE, 4, item(2)))
    lake.open()
    lake.base(item(1, "anew"), seconds=20)
    lake.live()
    assert lake.compare(item(1, "anew")).latest_different == 0
    lake.execute(f"UPDATE analytics.{lake.model}_latest SET _batch = 8")
    found = lake.compare(item(1, "anew"))
    assert [Difference(e.kind, e.key, None, None) for e in found.shown] == [
        Difference("latest", key_text(1), None, None),
        Difference("latest", key_text(2), None, None),
    ]


def _parsed(text: str | None) -> Any:
    return json.loads(text) if text is not None and text.startswith("{") else text

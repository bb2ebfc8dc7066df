"""One behaviour, two implementations of the Log port: the real ChangeLog and the simulation's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tailrace.capture.ports import Log
from tailrace.capture.stage import texts_of
from tailrace.config import Warehouse
from tailrace.errors import Stale, Terminal
from tailrace.lake.log import ChangeLog
from tailrace.lines import Lines
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Epoch,
    Gap,
    KeyAttribute,
    Part,
    PartProgress,
    PassRecord,
    Position,
    Shape,
    Staged,
    TableDescription,
)
from tests.simulation.memory_log import MemoryLog, Store

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TABLE = TableDescription(
    "orders",
    "arn:table",
    "id-1",
    (KeyAttribute("pk", "S"), KeyAttribute("sk", "N")),
    "arn:stream",
    "NEW_IMAGE",
)
SEGMENT = Part("base", "scan", "arn:table", "0")
SHARD = Part("stream", "dynamodb_streams", "arn:stream", "shard-1")

Rows = list[tuple[int, str, int, str, str, dict[str, Any] | None]]


@dataclass(frozen=True)
class Subject:
    """A log, a model in it that nobody has used, and a way to see its rows."""

    log: Log
    model: str
    rows: Callable[[], Rows]

    def stage(
        self, lines: list[Any], shape: Shape = Shape.ITEMS, rows: int | None = None
    ) -> Staged:
        text = "\n".join(map(json.dumps, lines)).encode()
        return Staged(shape, (texts_of(shape, text),), len(lines) if rows is None else rows, NOW)

    def commit(self, **parts: Any) -> int:
        return self.log.commit(self.model, Commit(**{"epoch": epoch()} | parts))


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLog]:
    home = tmp_path_factory.mktemp("warehouse")
    with ChangeLog(
        Warehouse(catalog=f"sqlite:{home}/catalog.sqlite", data_path=f"{home}/data")
    ) as log:
        yield log


@pytest.fixture(params=["memory", "ducklake"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "memory":
        store = Store()
        log = MemoryLog(store)
        return Subject(log, "orders", lambda: [tuple(row[:6]) for row in store.rows])
    real: ChangeLog = request.getfixturevalue("warehouse")
    model = f"orders_{uuid.uuid4().hex}"

    def rows() -> Rows:
        found = real.query(
            "SELECT batch, version, epoch, op, key, image::VARCHAR"
            f" FROM changes.{model} ORDER BY batch, version, key"
        )
        return [(*row[:5], json.loads(row[5]) if row[5] else None) for row in found]

    return Subject(real, model, rows)


def epoch(number: int = 1, state: str = OPEN, **detail: Any) -> Epoch:
    return Epoch(number, "full", "scan", state, "id-1", "arn:stream", NOW, NOW, detail)


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"pk": {"S": f"p{number}"}, "sk": {"N": str(number)}} | more


def record(
    number: int, sequence: str, op: str = "MODIFY", at: float = NOW.timestamp()
) -> dict[str, Any]:
    change = {"Keys": item(number), "SequenceNumber": sequence, "ApproximateCreationDateTime": at}
    image = {} if op == "REMOVE" else {"NewImage": item(number, v={"N": "1"})}
    return {"eventName": op, "dynamodb": change | image}


def moved(part: Part, start: str | None, end: str | None, rows: int = 0) -> PartProgress:
    return PartProgress(part, start, end, end is None, rows, 0)


def test_an_empty_log_has_an_empty_head(subject: Subject) -> None:
    head = subject.log.head(subject.model)
    assert (head.batch, head.epoch, head.live, head.positions, head.last_pass) == (
        0, None, None, {}, None,
    )  # fmt: skip


def test_rows_of_each_shape_land_with_key_version_and_image(subject: Subject) -> None:
    log = subject.log
    assert log.open_epoch(subject.model, TABLE, epoch()) == 1
    subject.commit(
        parts=(moved(SEGMENT, None, "k", 1),), staged=subject.stage([item(1, a={"S": "x"})])
    )
    subject.commit(
        parts=(moved(replace(SEGMENT, id="f"), None, "md5", 1),), staged=subject.stage([item(2)])
    )
    records = [record(1, "9"), record(1, "10", "REMOVE")]
    batch = subject.commit(
        parts=(moved(SHARD, None, "10", 2),),
        staged=subject.stage(records, Shape.STREAM_RECORDS),
    )
    key = '{"pk":{"S":"p%s"},"sk":{"N":"%s"}}'
    assert batch == 4
    assert subject.rows() == [
        (2, "0000010" + "0" * 40, 1, "READ", key % (1, 1), item(1, a={"S": "x"})),
        (3, "0000010" + "0" * 40, 1, "READ", key % (2, 2), item(2)),
        (4, "0000011" + "0" * 39 + "9", 1, "MODIFY", key % (1, 1), item(1, v={"N": "1"})),
        (4, "0000011" + "0" * 38 + "10", 1, "REMOVE", key % (1, 1), None),
    ]


def test_kinesis_records_are_ordered_by_their_time_then_by_what_tells_them_apart(
    subject: Subject,
) -> None:
    """A narrow position of another epoch, or of the base, meets a wide one and never beats it."""
    subject.log.open_epoch(subject.model, TABLE, epoch())
    millis = int(NOW.timestamp() * 1000)
    precise = record(1, "", "INSERT", millis * 1000 + 1) | {"sequenceNumber": "7"}
    precise["dynamodb"]["ApproximateCreationDateTimePrecision"] = "MICROSECOND"
    records = [
        record(1, "", "MODIFY", millis) | {"sequenceNumber": "9" * 56},
        record(1, "", "REMOVE", millis) | {"sequenceNumber": "8"},
        precise,
        record(1, "", "MODIFY", millis - 1) | {"eventID": "0a1b-ff"},
    ]
    subject.commit(
        parts=(moved(SHARD, None, "9", 4),),
        staged=subject.stage(records, Shape.KINESIS_RECORDS),
    )
    subject.commit(parts=(moved(SEGMENT, None, "k", 1),), staged=subject.stage([item(1)]))
    time = "0000011" + str(millis * 1000)
    by_version = sorted((version, op) for _, version, _, op, *_ in subject.rows())
    assert by_version == [
        ("0000010" + "0" * 40, "READ"),
        ("0000011" + str(millis * 1000 - 1000) + "0" * 50 + "0a1bff", "MODIFY"),
        (time + "0" * 55 + "8", "REMOVE"),
        (time + "9" * 56, "MODIFY"),
        ("0000011" + str(millis * 1000 + 1) + "0" * 55 + "7", "INSERT"),
    ]


@pytest.mark.parametrize(
    ("kind", "export_time", "minutes", "beaten"),
    [
        pytest.param("full", NOW, -6, True, id="older than the opening"),
        pytest.param("full", NOW, -4, False, id="perhaps not older"),
        pytest.param("full", NOW - timedelta(hours=1), -30, False, id="younger than the export"),
        pytest.param("full", NOW - timedelta(hours=1), -66, True, id="older than the export"),
        pytest.param("incremental", NOW, -66, False, id="an incremental base holds not all keys"),
    ],
)
def test_a_base_beats_records_that_are_surely_older(
    subject: Subject, kind: str, export_time: datetime, minutes: float, beaten: bool
) -> None:
    detail = {"export_time": export_time.isoformat()}
    opened = replace(epoch(7, **detail), kind=kind)
    for number in range(1, 7):
        subject.log.open_epoch(subject.model, TABLE, epoch(number))
    subject.log.open_epoch(subject.model, TABLE, opened)
    old = record(1, "9", at=(NOW + timedelta(minutes=minutes)).timestamp())
    subject.commit(
        epoch=opened,
        parts=(moved(SHARD, None, "9", 1),),
        staged=subject.stage([old], Shape.STREAM_RECORDS),
    )
    of_kinesis = record(1, "9", at=int((NOW + timedelta(minutes=minutes)).timestamp() * 1000))
    subject.commit(
        epoch=opened,
        parts=(moved(SHARD, "9", "10", 1),),
        staged=subject.stage([of_kinesis | {"sequenceNumber": "9"}], Shape.KINESIS_RECORDS),
    )
    for _, version, number, *_ in subject.rows():
        assert (version < "0000070" + "0" * 40) == beaten
        assert version > "0000061" + "9" * 40
        assert number == (6 if beaten else 7)


@pytest.mark.parametrize(
    ("staged", "commit"),
    [
        pytest.param({}, {"parts": (moved(SEGMENT, None, "k9", 1),)}, id="moved on"),
        pytest.param({}, {"parts": (moved(SEGMENT, "k9", "k8", 1),)}, id="never there"),
        pytest.param({}, {"epoch": epoch(2), "parts": ()}, id="unknown epoch"),
        pytest.param(
            {},
            {"epoch": epoch(state=BASE_COMPLETE), "state": LIVE, "at": NOW},
            id="state has moved",
        ),
        pytest.param(
            {}, {"epoch": epoch(export="other"), "state": OPEN, "at": NOW}, id="another plan"
        ),
        pytest.param(
            {},
            {"epoch": epoch(export="other"), "parts": (moved(SEGMENT, "k1", "k2", 1),)},
            id="base rows by another plan",
        ),
    ],
)
def test_what_was_staged_elsewhere_is_dropped_whole(
    subject: Subject, staged: dict[str, Any], commit: dict[str, Any]
) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.commit(parts=(moved(SEGMENT, None, "k1"),))
    before = subject.log.head(subject.model)
    with pytest.raises(Stale):
        subject.commit(**{"staged": subject.stage([item(9)])} | commit)
    assert subject.rows() == []
    assert subject.log.head(subject.model) == before


def test_a_finished_part_takes_nothing_more(subject: Subject) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.commit(parts=(moved(SHARD, None, None),))
    with pytest.raises(Stale):
        subject.commit(parts=(moved(SHARD, None, "1"),))


def test_base_rows_need_the_state_they_were_read_in_but_stream_rows_do_not(
    subject: Subject,
) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.commit(state=BASE_COMPLETE, at=NOW)
    with pytest.raises(Stale):
        subject.commit(parts=(moved(SEGMENT, None, "k"),))
    subject.commit(parts=(moved(SHARD, None, "1"),))
    assert subject.log.head(subject.model).positions == {SHARD: Position("1")}


def test_an_older_epochs_commits_are_stale_and_an_epoch_opens_once(subject: Subject) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.log.open_epoch(subject.model, TABLE, epoch(2))
    with pytest.raises(Stale):
        subject.log.open_epoch(subject.model, TABLE, epoch(2))
    with pytest.raises(Stale):
        subject.commit(parts=(moved(SHARD, None, "1"),))


def test_a_new_epoch_takes_over_shards_but_not_segments(subject: Subject) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.commit(parts=(moved(SHARD, None, "7"), moved(SEGMENT, None, "k")))
    subject.log.open_epoch(subject.model, TABLE, epoch(2))
    assert subject.log.head(subject.model).positions == {SHARD: Position("7")}


def test_a_shard_that_is_still_open_counts_as_seen_by_the_new_epoch(subject: Subject) -> None:
    """What it loses from then on is not older than the new base."""
    closed, ended = replace(SHARD, id="shard-2"), replace(SHARD, id="shard-3")
    subject.log.open_epoch(subject.model, TABLE, epoch(), {SHARD: 1, closed: 1})
    subject.commit(parts=(moved(SHARD, None, "7"), moved(ended, None, None)))
    subject.log.open_epoch(subject.model, TABLE, epoch(2), {SHARD: 2, closed: 1, ended: 2})
    found = subject.log.head(subject.model).positions
    assert {part: (at.at, at.epoch) for part, at in found.items()} == {
        SHARD: ("7", 2),
        closed: (None, 1),
        ended: (None, 1),
    }


def test_bad_rows_are_refused_and_leave_no_trace(subject: Subject) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    cut = json.dumps(item(1))[:20].encode()
    broken = Staged(Shape.ITEMS, (Lines.of(cut),), 1, NOW)
    for staged in (subject.stage([item(1)], rows=2), subject.stage([{"pk": {"S": "a"}}]), broken):
        with pytest.raises(Terminal):
            subject.commit(parts=(moved(SEGMENT, None, "k", 1),), staged=staged)
    head = subject.log.head(subject.model)
    assert (subject.rows(), head.positions, head.batch) == ([], {}, 1)


def test_records_that_come_again_land_once_where_that_may_be(subject: Subject) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    millis = int(NOW.timestamp() * 1000)
    all_ = [record(n, "", "MODIFY", millis + n) | {"eventID": f"{n:032x}"} for n in range(5)]
    objects = Part("stream", "firehose", "arn:stream", "objects")
    stands, counts = None, []
    for number, some in enumerate((all_[:3:2], [*all_[1:4], all_[3]], all_[:1], all_[4:])):
        staged = subject.stage(some, Shape.KINESIS_RECORDS)
        read = moved(objects, stands, str(number), len(some))
        subject.commit(parts=(read,), staged=replace(staged, repeats=True))
        stands = str(number)
        counts.append(len(subject.rows()))
    assert counts == [2, 4, 4, 5]
    assert sorted(row[4] for row in subject.rows()) == [
        json.dumps(
            {name: each["dynamodb"]["Keys"][name] for name in ("pk", "sk")}, separators=(",", ":")
        )
        for each in all_
    ]


MILLIS = int(NOW.timestamp() * 1000)


def change(sequence: int, old: str, new: str, number: int = 1, at: int = MILLIS) -> dict[str, Any]:
    """A record of Kinesis in which an item goes from one state to another ("" where there is
    none)."""
    event = "MODIFY" if old and new else "INSERT" if new else "REMOVE"
    dynamodb = {"Keys": item(number), "ApproximateCreationDateTime": at}
    for member, state in (("NewImage", new), ("OldImage", old)):
        if state:
            dynamodb[member] = item(number, v={"S": state})
    return {"eventName": event, "sequenceNumber": str(sequence), "dynamodb": dynamodb}


@pytest.mark.parametrize(
    ("commits", "states"),
    [
        pytest.param([[change(5, "a", "b"), change(9, "a", "b")]], ["b"], id="twice at once"),
        pytest.param([[change(5, "a", "b")], [change(9, "a", "b")]], ["b"], id="twice, late"),
        pytest.param(
            [[change(5, "a", "b"), change(7, "b", "c")], [change(9, "a", "b")]],
            ["b", "c"],
            id="an old one again after what followed it",
        ),
        pytest.param([[change(5, "b", "c"), change(9, "a", "b")]], ["b", "c"], id="out of order"),
        pytest.param(
            [[change(9, "b", "c")], [change(5, "c", "d")]], ["c", "d"], id="the later is late"
        ),
        pytest.param(
            [[change(5, "b", "c")], [change(9, "a", "b")]], ["b", "c"], id="the earlier is late"
        ),
        pytest.param(
            [[change(5, "", "a"), change(7, "a", "")]], ["a", ""], id="a circle: as they came"
        ),
        pytest.param([[change(9, "b", ""), change(5, "a", "b")]], ["b", ""], id="deleted"),
    ],
)
def test_of_changes_of_one_millisecond_the_old_images_tell_the_later(
    subject: Subject, commits: list[list[dict[str, Any]]], states: list[str]
) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    stands: str | None = None
    apart = [change(1, "x", "y", 2), change(2, "b", "z", 1, MILLIS - 1)]
    for number, records in enumerate([apart, *commits]):
        staged = replace(subject.stage(records, Shape.KINESIS_RECORDS), repeats=True)
        subject.commit(parts=(moved(SHARD, stands, str(number), len(records)),), staged=staged)
        stands = str(number)
    rows = sorted(row[1:] for row in subject.rows() if '"p1"' in row[4])
    found = [row[4]["v"]["S"] if row[4] else "" for row in rows]
    assert found == ["z", *states]
    assert len(subject.rows()) == len(states) + 2


def test_the_objects_that_were_read_are_known_from_a_position_on(subject: Subject) -> None:
    """Their names stand in the ledger and not in the head, however many there are."""
    subject.log.open_epoch(subject.model, TABLE, epoch())
    objects = Part("stream", "firehose", "arn:aws:s3:::b/p", "objects")
    hostile = 'p/it\'s "a" {"objects":["x"]} é/2.gz'
    for start, end, keys in ((None, "12:00/1", ["p/1.gz"]), ("12:00/1", "12:07/3", [hostile, "3"])):
        progress = replace(moved(objects, start, end, 0), detail={"objects": keys})
        subject.commit(parts=(progress,))
    subject.commit(parts=(moved(SHARD, None, "13:00/9", 0),))
    assert subject.log.delivered(subject.model, objects, "") == {"p/1.gz", hostile, "3"}
    assert subject.log.delivered(subject.model, objects, "12:01/0") == {hostile, "3"}
    assert subject.log.delivered(subject.model, replace(objects, origin="other"), "") == set()
    assert subject.log.head(subject.model).positions[objects].at == "12:07/3"


def test_a_stream_is_drained_beside_the_one_that_takes_over_until_that_has_its_base(
    subject: Subject,
) -> None:
    """What either proved says nothing of the other."""
    log, model = subject.log, subject.model
    old = epoch(state=LIVE)
    new = replace(epoch(2, source="kinesis", overlaps=True, beside=1), stream_arn="arn:new")
    new_shard = Part("stream", "kinesis", "arn:new", "shard-1")
    log.open_epoch(model, TABLE, epoch())
    subject.commit(state=BASE_COMPLETE, at=NOW)
    subject.commit(epoch=epoch(state=BASE_COMPLETE), state=LIVE, at=NOW, pass_record=proof(0))
    log.open_epoch(model, replace(TABLE, stream_arn="arn:new"), new)

    head = log.head(model)
    assert head.shown == head.beside
    assert head.shown is not None
    assert head.shown.number == 1
    subject.commit(
        epoch=new, parts=(moved(new_shard, None, "5"),), pass_record=proof(2), state=OPEN, at=NOW
    )
    subject.commit(
        epoch=old,
        parts=(moved(SHARD, None, "7", 1),),
        staged=subject.stage([record(1, "7")], Shape.STREAM_RECORDS),
        pass_record=proof(1),
    )
    head = log.head(model)
    assert head.last_proof == head.of(old).last_proof == proof(1)
    assert head.of(new).last_proof == proof(2)
    assert [each.number for each in head.of(new).epochs] == [2]
    assert head.of(new).live is None

    subject.commit(epoch=new, state=BASE_COMPLETE, at=NOW)
    ready = replace(new, state=BASE_COMPLETE)
    assert log.head(model).beside is None
    with pytest.raises(Stale):
        subject.commit(epoch=old, parts=(moved(SHARD, "7", "8"),))
    subject.commit(epoch=ready, state=LIVE, at=NOW, pass_record=proof(3))
    head = log.head(model)
    assert head.shown == head.live == head.epoch
    assert head.last_proof == proof(3)


def test_a_take_over_that_was_begun_anew_is_proven_by_its_stream_once_it_is_live(
    subject: Subject,
) -> None:
    """The one that was given up has the same stream, and is never live."""
    log, model = subject.log, subject.model

    def taking_over(number: int, state: str = OPEN) -> Epoch:
        opened = epoch(number, state, source="kinesis", overlaps=True, beside=1)
        return replace(opened, stream_arn="arn:new")

    log.open_epoch(model, TABLE, epoch())
    subject.commit(state=BASE_COMPLETE, at=NOW)
    subject.commit(epoch=epoch(state=BASE_COMPLETE), state=LIVE, at=NOW, pass_record=proof(0))
    for number in (2, 3):
        log.open_epoch(model, replace(TABLE, stream_arn="arn:new"), taking_over(number))
        subject.commit(epoch=taking_over(number), pass_record=proof(number))
        assert log.head(model).last_proof == proof(0)
    subject.commit(epoch=taking_over(3), state=BASE_COMPLETE, at=NOW)
    ready = taking_over(3, BASE_COMPLETE)
    subject.commit(epoch=ready, state=LIVE, at=NOW, pass_record=proof(4))
    assert log.head(model).last_proof == proof(4)
    subject.commit(epoch=replace(ready, state=LIVE), pass_record=proof(5))
    head = log.head(model)
    assert head.last_pass == head.last_proof == proof(5)


def test_a_pass_proves_nothing_beside_another_source_once_another_run_has_found_a_loss(
    subject: Subject,
) -> None:
    log, model = subject.log, subject.model
    log.open_epoch(model, TABLE, epoch())
    subject.commit(state=BASE_COMPLETE, at=NOW)
    subject.commit(epoch=epoch(state=BASE_COMPLETE), state=LIVE, at=NOW, pass_record=proof(0))
    taking_over = epoch(2, source="kinesis", overlaps=True, beside=1)
    log.open_epoch(model, TABLE, replace(taking_over, stream_arn="arn:new"))
    before = epoch(state=LIVE)
    subject.commit(epoch=before, pass_record=proof(1))
    lost = replace(proof(2), complete=False, lost="switched off")
    subject.commit(epoch=before, pass_record=lost)
    assert log.head(model).lost_beside(before) == "switched off"
    with pytest.raises(Stale, match="changes of it are lost"):
        subject.commit(epoch=before, pass_record=proof(3))
    head = log.head(model)
    assert (head.last_pass, head.last_proof) == (lost, proof(1))


@pytest.mark.parametrize("was_live", [True, False])
def test_what_a_take_over_lost_that_was_given_up_is_no_gap_of_the_stream_before(
    subject: Subject, was_live: bool
) -> None:
    """Nothing is accounted for by it, and an older gap can still be stored."""
    log, model = subject.log, subject.model
    hours = [NOW + timedelta(hours=number) for number in range(4)]
    log.open_epoch(model, TABLE, epoch())
    taking_over = replace(epoch(2, source="kinesis"), stream_arn="arn:new")
    if was_live:
        subject.commit(state=BASE_COMPLETE, at=NOW)
        subject.commit(epoch=epoch(state=BASE_COMPLETE), state=LIVE, at=NOW)
        taking_over = replace(taking_over, detail=taking_over.detail | {"beside": 1})
    log.open_epoch(model, replace(TABLE, stream_arn="arn:new"), taking_over)
    others = Gap(hours[1], hours[2], hours[2], "lost of the new one")
    subject.commit(epoch=taking_over, gap=others)
    assert log.head(model).of(taking_over).gaps == (others,)
    if was_live:
        assert log.head(model).of(epoch(state=LIVE)).gaps == ()
    again = epoch(3)
    log.open_epoch(model, TABLE, again)
    assert log.head(model).of(again).gaps == ()
    own = Gap(hours[0], hours[1] + timedelta(minutes=1), hours[2], "lost of the one before")
    subject.commit(epoch=again, gap=own)
    head = log.head(model)
    assert head.gaps == (own, others)
    assert head.of(again).gaps == (own,)
    with pytest.raises(Stale, match="another run has found one already"):
        subject.commit(epoch=again, gap=others)


def test_an_epoch_that_has_to_follow_at_once_is_not_opened_behind_another_commit(
    subject: Subject,
) -> None:
    subject.log.open_epoch(subject.model, TABLE, epoch())
    batch = subject.commit(parts=(moved(SHARD, None, "1"),))
    with pytest.raises(Stale):
        subject.log.open_epoch(subject.model, TABLE, epoch(2), {}, batch - 1)
    assert subject.log.open_epoch(subject.model, TABLE, epoch(2), {}, batch) == batch + 1


@pytest.mark.parametrize(
    ("minutes", "version"),
    [
        pytest.param(0, "0000031", id="of the newest epoch"),
        pytest.param(-30, "0000021", id="of the one before"),
        pytest.param(-90, "0000011", id="of the first"),
        pytest.param(-150, "000001-", id="older than the first base"),
    ],
)
def test_where_time_is_the_order_a_change_counts_to_the_epoch_in_which_it_was_made(
    subject: Subject, minutes: int, version: str
) -> None:
    for number in (1, 2, 3):
        begins = NOW + timedelta(hours=number - 3)
        opened = epoch(number, changes_from=(begins - timedelta(minutes=5)).isoformat())
        subject.log.open_epoch(subject.model, TABLE, opened)
    at = int((NOW + timedelta(minutes=minutes)).timestamp() * 1000)
    subject.commit(
        epoch=opened,
        parts=(moved(SHARD, None, "1", 1),),
        staged=subject.stage([change(1, "a", "b", at=at)], Shape.KINESIS_RECORDS),
    )
    [(_, found, *_)] = subject.rows()
    assert found.startswith(version + str(at))


def test_a_take_over_that_was_given_up_does_not_part_the_changes_of_the_source_before(
    subject: Subject,
) -> None:
    """A late record is still one of the live epoch: it overwrites nothing that readers saw."""
    hours = (NOW - timedelta(hours=2), NOW - timedelta(hours=1), NOW)
    opened = [
        epoch(number, changes_from=begins.isoformat())
        for number, begins in enumerate(hours, start=1)
    ]
    opened[1] = replace(opened[1], stream_arn="arn:new", detail={"overlaps": True, "beside": 1})
    subject.log.open_epoch(subject.model, TABLE, opened[0])
    subject.commit(epoch=opened[0], state=BASE_COMPLETE, at=NOW)
    ready = replace(opened[0], state=BASE_COMPLETE)
    subject.commit(epoch=ready, state=LIVE, at=NOW, pass_record=proof(0))
    for each in opened[1:]:
        subject.log.open_epoch(subject.model, TABLE, each)
    at = int((NOW - timedelta(minutes=90)).timestamp() * 1000)
    subject.commit(
        epoch=opened[2],
        parts=(moved(SHARD, None, "1", 1),),
        staged=subject.stage([change(1, "a", "b", at=at)], Shape.KINESIS_RECORDS),
    )
    [(_, found, *_)] = subject.rows()
    assert found.startswith(f"0000011{at}")


def test_what_a_source_tells_again_once_it_is_returned_to_counts_where_it_landed_before(
    subject: Subject,
) -> None:
    """Until the other source was live it was still drained."""
    minutes = (-60, -10, 60)
    opened = [
        epoch(number, changes_from=(NOW + timedelta(minutes=begins)).isoformat())
        for number, begins in enumerate(minutes, start=1)
    ]
    opened[1] = replace(opened[1], stream_arn="arn:new", detail={"overlaps": True, "beside": 1})
    for each in opened[:2]:
        subject.log.open_epoch(subject.model, TABLE, each)
        at = NOW + timedelta(minutes=10 * (each.number - 1))
        subject.commit(epoch=each, state=BASE_COMPLETE, at=at)
        subject.commit(epoch=replace(each, state=BASE_COMPLETE), state=LIVE, at=at)
    subject.log.open_epoch(subject.model, TABLE, opened[2])
    times = [MILLIS + minutes * 60_000 for minutes in (-70, -30, 5, 30, 61)]
    changes = [change(1, "a", "b", number, at) for number, at in enumerate(times)]
    subject.commit(
        epoch=opened[2],
        parts=(moved(SHARD, None, "1", 5),),
        staged=subject.stage(changes, Shape.KINESIS_RECORDS),
    )
    found = [version[:7] for _, version, *_ in subject.rows()]
    assert found == ["000001-", "0000011", "0000011", "000003-", "0000031"]


def proof(number: int) -> PassRecord:
    at = NOW + timedelta(minutes=number)
    return PassRecord(f"pass-{number}", at, at, True, 1, 1, 3)


def test_the_head_tells_states_details_and_the_last_pass(subject: Subject) -> None:
    later = NOW + timedelta(hours=1)
    record = PassRecord("p1", NOW, later, True, 2, 2, 9)
    subject.log.open_epoch(subject.model, TABLE, epoch())
    subject.commit(state=OPEN, at=later, detail={"segments": 4})
    subject.commit(epoch=epoch(segments=4), state=BASE_COMPLETE, at=later)
    complete = epoch(state=BASE_COMPLETE, segments=4)
    subject.commit(epoch=complete, state=LIVE, at=later, pass_record=record)
    head = subject.log.head(subject.model)
    live = replace(epoch(state=LIVE, segments=4), changed_at=later)
    assert (head.batch, head.table, head.last_pass) == (4, TABLE, record)
    assert head.epoch == head.live == live
    subject.log.open_epoch(subject.model, TABLE, epoch(2))
    unfinished = replace(record, id="p2", complete=False)
    subject.commit(epoch=epoch(2), pass_record=unfinished)
    head = subject.log.head(subject.model)
    assert (head.last_pass, head.last_proof) == (unfinished, record)
    assert head.live == live
    assert head.epoch == epoch(2)

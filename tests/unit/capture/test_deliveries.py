"""A pass over delivered objects reads each once, however late it came, and tells what is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import NOW, FakeClock, Killed, dies_at, landed

from tailrace.capture import coverage, deliveries
from tailrace.capture.deliveries import Delay, mark, read_mark
from tailrace.capture.drain import Budget
from tailrace.changes import Changes, records_of
from tailrace.errors import Retryable, SourceMissing, Stale, Terminal
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Contents,
    Delivery,
    DrainResult,
    Epoch,
    KeyAttribute,
    TableDescription,
)
from tests.simulation.memory_log import MemoryLog, Store

ARN = "arn:aws:s3:::bucket/orders/"
TABLE = TableDescription(
    "orders", "arn:table", "id-1", (KeyAttribute("pk", "S"),), ARN, "NEW_IMAGE"
)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DELAY = Delay(delivery=20 * MINUTE, late=24 * HOUR)
PART = deliveries.part_of(ARN)


def record(number: int, at: datetime) -> dict[str, Any]:
    item = {"pk": {"S": f"k{number}"}}
    time = int(at.timestamp() * 1000)
    change = {"ApproximateCreationDateTime": time, "Keys": item, "NewImage": item}
    return {"eventID": f"{number:032x}", "eventName": "INSERT", "dynamodb": change}


@dataclass
class Bucket:
    """Objects of one record each, by key; `before_read` may raise or change the world."""

    clock: FakeClock
    objects: dict[str, tuple[datetime, list[dict[str, Any]]]] = field(default_factory=dict)
    contents: dict[str, Contents] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    coarse: set[str] = field(default_factory=set)
    reads: list[str] = field(default_factory=list)
    since: list[datetime] = field(default_factory=list)
    before_read: Callable[[str], None] = lambda key: None
    is_gone: bool = False
    size: int = 1_000
    calls: int = 0

    def put(self, number: int, at: datetime | None = None, made: datetime | None = None) -> str:
        at = at or self.clock.aws_now()
        key = f"orders/{at:%Y/%m/%d/%H}/{number}"
        self.objects[key] = (at, [record(number, made or at - MINUTE)])
        return key

    def listed(self, since: datetime) -> list[Delivery]:
        self.calls += 1
        self.since.append(since)
        if self.is_gone:
            raise SourceMissing("NoSuchBucket")
        found = [
            Delivery(key, self.size, at, key in self.failed)
            for key, (at, _) in self.objects.items()
            if at >= since
        ]
        return sorted(found, key=lambda each: each.at)

    def require_layout(self) -> None:
        pass

    def read(self, delivery: Delivery) -> Contents:
        self.reads.append(delivery.key)
        self.before_read(delivery.key)
        if delivery.key in self.contents:
            return self.contents[delivery.key]
        if delivery.key not in self.objects:
            return Contents(damage=f"{delivery.key} was deleted before it was read")
        records = self.objects[delivery.key][1]
        changes = Changes.of_kinesis(records_of(msgspec.json.Encoder().encode_lines(records)))
        times = [each["dynamodb"]["ApproximateCreationDateTime"] / 1000 for each in records]
        made = [datetime.fromtimestamp(each, NOW.tzinfo) for each in times]
        coarse = len(records) if delivery.key in self.coarse else 0
        return Contents(
            (changes,), len(changes), changes.bytes, min(made), max(made), coarse=coarse
        )


@dataclass
class Site:
    """A table whose newest epoch has a delivery stream."""

    clock: FakeClock
    store: Store
    bucket: Bucket
    folder: Path
    log: MemoryLog

    def drain(self, seconds: float = 40.0, most_bytes: int = 2**30) -> DrainResult:
        budget = Budget(seconds, most_bytes)
        return deliveries.drain(self.log, self.bucket, self.clock, "orders", budget, DELAY)

    def reach(self, *states: str) -> None:
        for state in states:
            epoch = self.log.head("orders").epoch
            assert epoch is not None
            self.log.commit("orders", Commit(epoch, state=state, at=self.clock.aws_now()))

    def keys(self) -> list[str]:
        return landed(self.store)

    def pass_time(self, span: timedelta) -> None:
        self.clock.elapsed += span.total_seconds()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    clock, store = FakeClock(), Store()
    log = MemoryLog(store)
    epoch = Epoch(1, "full", "scan", OPEN, "id-1", ARN, NOW, NOW)
    log.open_epoch("orders", TABLE, epoch)
    return Site(clock, store, Bucket(clock), tmp_path, log)


def test_each_object_is_read_once_and_late_ones_under_old_keys_are_found(site: Site) -> None:
    site.pass_time(HOUR)
    for number in range(3):
        site.bucket.put(number)
    assert (site.drain().rows, site.drain().rows) == (3, 0)
    late = site.bucket.put(9)
    at, records = site.bucket.objects.pop(late)
    site.bucket.objects["orders/2026/10/31/13/late"] = (at, records)
    result = site.drain()
    assert (result.rows, result.reached_tip, site.keys()) == (1, True, ["k0", "k1", "k2", "k9"])
    assert len(site.bucket.reads) == 4


def test_what_was_delivered_before_the_coverage_begins_is_not_read(site: Site) -> None:
    site.bucket.put(1, NOW - 2 * HOUR)
    site.bucket.put(2, NOW - 10 * MINUTE)  # begun before: it may hold what came since
    site.bucket.put(3, NOW)
    site.drain()
    assert site.keys() == ["k2", "k3"]
    assert site.bucket.since == [NOW - DELAY.delivery - DELAY.late]


def test_a_list_begins_so_far_before_the_newest_object_that_was_read(site: Site) -> None:
    """Where Firehose stopped for days, it goes on under keys of the time when it stopped."""
    site.pass_time(5 * HOUR)
    newest = site.clock.aws_now()
    site.bucket.put(1)
    site.drain()
    for _ in range(8):
        site.pass_time(12 * HOUR)
        site.drain()
    assert site.bucket.since[-1] == newest - DELAY.late
    assert site.log.delivered("orders", PART, "") == set(site.bucket.objects)


def test_a_pass_keeps_to_its_budget_and_the_next_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BATCH_OBJECTS", 2)
    for number in range(7):
        site.bucket.put(number, NOW + timedelta(seconds=number))
    site.pass_time(HOUR)
    first = site.drain(most_bytes=1)
    assert (first.rows, first.reached_tip, first.lag_seconds) == (2, False, None)
    second = site.drain()
    assert (second.rows, second.reached_tip) == (5, True)
    assert site.keys() == [f"k{number}" for number in range(7)]


def test_a_pass_gets_on_however_long_its_list_took(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BATCH_OBJECTS", 1)
    for number in range(3):
        site.bucket.put(number)
    assert [site.drain(seconds=0.0).rows for _ in range(4)] == [1, 1, 1, 0]


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_at_any_commit_it_goes_on_and_lands_each_record_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    monkeypatch.setattr(deliveries, "BATCH_OBJECTS", 2)
    for each in range(6):
        site.bucket.put(each, NOW + timedelta(seconds=each))
    broken = site.bucket.put(6, NOW + timedelta(seconds=6))
    site.bucket.contents[broken] = Contents(damage="is damaged")
    site.pass_time(HOUR)
    site.log = MemoryLog(site.store, dies_at(moment, number))
    with pytest.raises(Killed):
        site.drain()
    site.log = MemoryLog(site.store)
    assert site.drain().reached_tip
    assert site.keys() == [f"k{each}" for each in range(6)]
    assert len(site.store.gaps) == 1


def test_two_runs_at_once_land_nothing_twice(site: Site) -> None:
    site.bucket.put(1)
    site.bucket.put(2)
    other = replace(site, bucket=replace(site.bucket), folder=site.folder / "other")
    other.folder.mkdir()
    runs: list[int] = []

    def overtaken(key: str) -> None:
        if not runs:
            runs.append(1)
            runs.append(other.drain().rows)

    site.bucket.before_read = overtaken
    with pytest.raises(Stale):
        site.drain()
    assert (runs, site.keys()) == ([1, 2], ["k1", "k2"])


def test_an_epoch_goes_live_when_all_that_the_base_met_is_surely_delivered(site: Site) -> None:
    site.pass_time(10 * MINUTE)
    site.bucket.put(1)
    site.reach(BASE_COMPLETE)
    for minutes, state in ((0, BASE_COMPLETE), (20, BASE_COMPLETE), (1, LIVE)):
        site.pass_time(minutes * MINUTE)
        result = site.drain()
        assert (result.reached_tip, result.state) == (True, state)
    assert result.went_live
    assert result.lag_seconds == DELAY.delivery.total_seconds()
    proof = site.log.head("orders").last_proof
    assert proof is not None
    assert proof.proves_until == site.clock.aws_now() - DELAY.delivery


def _lost(site: Site) -> list[tuple[datetime, datetime, str]]:
    return [(gap.since, gap.until, gap.reason) for gap in site.store.gaps]


@pytest.mark.parametrize("how", ["damaged", "gone", "failed"])
def test_what_is_lost_of_an_object_is_a_gap_until_a_base_covers_it(site: Site, how: str) -> None:
    site.reach(BASE_COMPLETE, LIVE)
    site.pass_time(2 * HOUR)
    site.drain()
    site.pass_time(HOUR)
    whole, broken = site.bucket.put(1), site.bucket.put(2)
    if how == "gone":
        site.bucket.before_read = lambda _: site.bucket.objects.pop(broken, None) and None
    elif how == "failed":
        site.bucket.failed.add(broken)
    else:
        site.bucket.contents[broken] = Contents(damage=f"{broken} is not whole")
    result = site.drain()
    now = site.clock.aws_now()
    [(since, until, reason)] = _lost(site)
    assert (since, until) == (now - HOUR - DELAY.delivery, now)
    assert broken in reason
    assert (result.reached_tip, len(result.gaps), result.rows) == (True, 1, 1)
    what = "that Firehose could not process" if how == "failed" else "that are damaged or gone"
    assert result.notices == (f"objects {what}: 1",)
    # Neither this object again, nor another one of the same time, is another gap.
    site.bucket.before_read = lambda _: None
    site.bucket.failed.add(site.bucket.put(3))
    assert site.drain().rows == 0
    assert len(_lost(site)) == 1
    assert site.log.delivered("orders", PART, "") >= {whole, broken}


def test_what_is_lost_from_before_the_base_is_no_gap(site: Site) -> None:
    site.bucket.failed.add(site.bucket.put(1, NOW - MINUTE))
    assert site.drain().gaps == ()


def test_two_objects_lost_in_one_pass_are_one_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BATCH_OBJECTS", 1)
    site.reach(BASE_COMPLETE, LIVE)
    site.pass_time(2 * HOUR)
    site.drain()
    for number in range(3):
        site.bucket.failed.add(site.bucket.put(number, site.clock.aws_now() - number * MINUTE))
    site.drain()
    [(since, until, _)] = _lost(site)
    now = site.clock.aws_now()
    assert since <= now - 2 * MINUTE - DELAY.delivery
    assert until == now


def test_objects_that_break_the_promised_delay_are_told(site: Site) -> None:
    site.pass_time(2 * HOUR)
    site.bucket.put(1, made=site.clock.aws_now() - HOUR)
    assert site.drain().notices == ("objects delivered more than 1200 s late: 1",)


def test_records_of_others_are_told_and_kept_in_the_ledger(site: Site) -> None:
    key = site.bucket.put(1)
    site.bucket.contents[key] = Contents(others={"customers": 3}, foreign=2)
    result = site.drain()
    assert result.notices == ("records of table customers: 3", "records that are not DynamoDB's: 2")
    assert (result.reached_tip, result.gaps, site.drain().notices) == (True, (), ())


def test_two_precisions_of_time_in_one_delivery_stream_are_told(site: Site) -> None:
    site.bucket.put(1)
    site.bucket.coarse.add(site.bucket.put(2))
    assert site.drain().notices == (
        "records with times in milliseconds, beside others in microseconds: 1",
    )
    site.bucket.coarse.add(site.bucket.put(3))
    assert site.drain().notices == ()


def test_a_pause_of_days_loses_nothing_while_what_was_read_is_still_there(site: Site) -> None:
    site.reach(BASE_COMPLETE, LIVE)
    site.bucket.put(1)
    site.drain()
    site.pass_time(4 * 24 * HOUR)
    site.bucket.put(2)
    assert (site.drain().gaps, site.keys()) == ((), ["k1", "k2"])


def test_a_pause_of_days_is_a_gap_where_a_lifecycle_has_removed_what_was_read(site: Site) -> None:
    site.reach(BASE_COMPLETE, LIVE)
    site.bucket.put(1)
    site.drain()
    proof = site.log.head("orders").last_proof
    assert proof is not None
    site.pass_time(4 * 24 * HOUR)
    site.bucket.objects.clear()
    site.bucket.put(2, site.clock.aws_now() - HOUR)
    site.pass_time(MINUTE)
    [gap] = site.drain().gaps
    assert gap.since == max(NOW, proof.proves_until)
    assert gap.until == site.clock.aws_now() - HOUR - MINUTE
    assert "none of the objects read before is left" in gap.reason
    assert (site.drain().gaps, site.keys()) == ((gap,), ["k1", "k2"])


def test_a_bucket_that_is_gone_is_one_gap(site: Site) -> None:
    site.reach(BASE_COMPLETE, LIVE)
    site.drain()
    site.pass_time(HOUR)
    site.bucket.is_gone = True
    for _ in range(2):
        result = site.drain()
        assert (len(result.gaps), result.reached_tip) == (1, False)


def test_a_bucket_that_was_gone_proves_nothing_until_another_source_has_taken_over(
    site: Site,
) -> None:
    """Were it made anew, nobody could tell what it lacks."""
    site.reach(BASE_COMPLETE, LIVE)
    site.drain()
    detail = {"beside": 1, "overlaps": True}
    other = Epoch(2, "full", "scan", OPEN, "id-1", "arn:s", site.clock.aws_now(), NOW, detail)
    site.log.open_epoch("orders", TABLE, other)
    proof = site.log.head("orders").last_proof
    beside = site.log.head("orders").beside
    for is_gone in (True, True, False):
        site.pass_time(HOUR)
        site.bucket.is_gone = is_gone
        budget = Budget(40.0, 2**30)
        found = deliveries.drain(
            site.log, site.bucket, site.clock, "orders", budget, DELAY, epoch=beside
        )
        assert (found.gaps, found.reached_tip) == ((), False)
        assert site.log.head("orders").last_proof == proof
    [notice] = found.notices
    assert "the bucket of arn:aws:s3:::" in notice
    assert len(site.store.passes) == 3


def test_a_fetch_that_fails_is_tried_again_and_a_refusal_ends_the_pass(site: Site) -> None:
    site.bucket.put(1)
    tries: list[str] = []

    def fails_once(key: str) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise Retryable("SlowDown")

    site.bucket.before_read = fails_once
    assert site.drain().rows == 1

    def refuses(key: str) -> None:
        raise Terminal("is an ORC file")

    site.bucket.put(2)
    site.bucket.before_read = refuses
    with pytest.raises(Terminal, match="ORC"):
        site.drain()
    assert site.keys() == ["k1"]


def test_a_drain_is_due_once_something_was_delivered_or_the_proof_grows_old(site: Site) -> None:
    def due() -> str:
        return deliveries.due(site.log, site.bucket, site.clock, "orders", 300.0, DELAY)

    assert due() == "no pass yet"
    site.drain()
    assert due() == ""
    site.bucket.put(1)
    assert due() == "new objects: 1"
    site.drain()
    assert due() == ""
    site.pass_time(6 * MINUTE)
    assert due() == "the last pass is 360 s old"


@pytest.mark.parametrize("was_live", [True, False])
def test_an_epoch_of_another_source_in_between_begins_anew_unless_it_was_given_up(
    site: Site, was_live: bool
) -> None:
    """What was delivered meanwhile is older than the new base; but readers of the old one still see
    this source."""
    site.bucket.put(1)
    site.drain()
    site.reach(BASE_COMPLETE, LIVE)
    site.pass_time(HOUR)
    elsewhere = Epoch(2, "full", "scan", OPEN, "id-1", "arn:stream", site.clock.aws_now(), NOW)
    site.log.open_epoch("orders", TABLE, elsewhere)
    if was_live:
        site.reach(BASE_COMPLETE, LIVE)
    site.pass_time(HOUR)
    site.bucket.put(2)
    site.pass_time(HOUR)
    again = replace(elsewhere, number=3, stream_arn=ARN, opened_at=site.clock.aws_now())
    site.log.open_epoch("orders", TABLE, again)
    site.bucket.put(3)
    met = ["k3"] if was_live else ["k2", "k3"]
    assert (site.drain().rows, site.keys()) == (len(met), ["k1", *met])


def test_positions_sort_by_time_then_by_count() -> None:
    marks = [mark(NOW, 5), mark(NOW, 10), mark(NOW + MINUTE, 1)]
    assert marks == sorted(marks)
    assert read_mark(marks[1]) == (NOW, 10)
    assert read_mark(None) == (None, 0)


def test_a_lost_time_is_covered_by_a_base_or_an_open_gap_alone(site: Site) -> None:
    gap = coverage.Gap(NOW + HOUR, NOW + 2 * HOUR, NOW + 2 * HOUR, "lost")
    site.reach(BASE_COMPLETE, LIVE)
    epoch = site.log.head("orders").epoch
    assert epoch is not None
    assert not coverage.is_covered(site.log.head("orders"), gap)
    site.log.commit("orders", Commit(epoch, gap=gap))
    head = site.log.head("orders")
    assert coverage.is_covered(head, gap)
    assert not coverage.is_covered(head, replace(gap, since=NOW + 30 * MINUTE))
    assert coverage.is_covered(head, replace(gap, since=NOW - HOUR, until=NOW))

"""One pass over a stream: what it reads, in which order, where it stops, and what it proves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailrace.capture.coverage import closes_gaps
from tailrace.capture.drain import (
    EMPTY_PAGES_AT_TIP,
    ITERATORS_PER_SHARD,
    Budget,
    drain,
    due,
    note_replaced,
)
from tailrace.errors import IteratorExpired, Retryable, SourceMissing
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    DrainResult,
    Gap,
    Part,
    PartProgress,
    Position,
    TableDescription,
)
from tests.simulation.memory_log import MemoryLog, Store
from tests.unit.capture.fakes import (
    NOW,
    STREAM,
    TABLE,
    FakeClock,
    FakeShard,
    FakeStream,
    Killed,
    dies_at,
    expired,
    landed,
    open_log,
    reach,
)

PLENTY = Budget(3600, 10**9)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., DrainResult]:
    def run(
        log: MemoryLog,
        stream: FakeStream,
        clock: FakeClock | None = None,
        budget: Budget = PLENTY,
        freshness_seconds: float = 0.0,
    ) -> DrainResult:
        clock = clock or FakeClock()
        return drain(log, stream, clock, "orders", budget, freshness_seconds=freshness_seconds)

    return run


Run = Callable[..., DrainResult]


def keys(*numbers: int) -> list[str]:
    return [f"k{number}" for number in numbers]


def position(store: Store, shard: str) -> Position:
    return store.positions[Part("stream", "dynamodb_streams", STREAM, shard)][1]


def test_a_table_without_an_epoch_has_nothing_to_drain(run: Run) -> None:
    result = run(MemoryLog(Store()), FakeStream())
    assert (result.epoch, result.state, result.reached_tip) == (None, "none", False)


def test_parents_come_before_their_children_in_one_pass(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(
        FakeShard("c", [5, 6], parent="b"),
        FakeShard("b", [3, 4], parent="a", closed=True),
        FakeShard("a", [1, 2], closed=True),
    )
    result = run(log, stream)
    assert landed(store) == keys(1, 2, 3, 4, 5, 6)
    assert (result.reached_tip, result.rows, result.shards_read, result.shards_open) == (
        True, 6, 3, 1,
    )  # fmt: skip


def test_a_child_waits_for_the_next_pass_where_its_parent_is_still_open(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1]), FakeShard("b", [2], parent="a"))
    assert run(log, stream).reached_tip is False
    assert landed(store) == keys(1)
    stream.all["a"].closed = True
    assert run(log, stream).reached_tip is True
    assert landed(store) == keys(1, 2)


def test_a_lineage_whose_parent_is_slow_holds_up_no_other(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1]), FakeShard("b", [9], parent="a"), FakeShard("x", [5]))
    run(log, stream)
    assert sorted(landed(store)) == keys(1, 5)


def test_empty_pages_are_not_the_end_of_an_open_shard(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1, 2, 3], empties={0: 2, 2: EMPTY_PAGES_AT_TIP - 1}))
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2, 3)


def test_a_closed_shard_is_read_to_its_real_end(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(
        FakeShard("a", [1, 2, 3, 4, 5], closed=True, empties={0: 9, 4: 9}),
        FakeShard("b", parent="a"),
    )
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2, 3, 4, 5)
    assert position(store, "a") == Position("5", finished=True, newest=NOW - timedelta(minutes=1))


def test_a_shard_that_closed_behind_the_listing_is_finished_too(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1, 2]))

    def divide(read: int) -> None:
        stream.all["a"].closed = True
        stream.all.setdefault("b", FakeShard("b", [3], parent="a"))

    stream.before_read = divide
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2, 3)


def test_an_expired_iterator_is_renewed_at_the_same_position(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1, 2, 3, 4, 5]))
    stream.before_read = expired(1, 3, 4)
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2, 3, 4, 5)
    assert stream.started == [("a", None), ("a", None), ("a", "2"), ("a", "2")]


def test_an_iterator_that_always_expires_ends_the_pass(run: Run) -> None:
    log, _ = open_log()
    stream = FakeStream(FakeShard("a", [1]))
    stream.before_read = expired(*range(1_000))
    with pytest.raises(IteratorExpired):
        run(log, stream)
    assert stream.reads == ITERATORS_PER_SHARD


def test_a_spent_budget_stops_the_pass_and_the_next_one_goes_on(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", list(range(1, 8)), closed=True), FakeShard("b", parent="a"))
    results = [run(log, stream, budget=Budget(3600, 200)) for _ in range(4)]
    assert [each.reached_tip for each in results][:2] == [False, False]
    assert run(log, stream).reached_tip
    assert landed(store) == keys(*range(1, 8))


def test_a_budget_of_time_stops_it_too(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", list(range(1, 100))))
    clock = FakeClock()
    assert run(log, stream, clock, Budget(2.0, 10**9)).reached_tip is False
    assert clock.elapsed == pytest.approx(2.0, abs=0.3)
    assert len(landed(store)) < 30


def test_nothing_of_a_closed_leaf_is_proven_until_its_child_appears(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1], closed=True))
    assert run(log, stream).reached_tip is False
    stream.all["b"] = FakeShard("b", [2], parent="a")
    assert run(log, stream).reached_tip is True
    assert landed(store) == keys(1, 2)


def test_a_child_that_appears_during_the_pass_is_read_in_it(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1], closed=True))

    def appear(listing: int) -> None:
        if listing == 2:
            stream.all["b"] = FakeShard("b", [2], parent="a")

    stream.before_listing = appear
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2)


def test_a_table_goes_live_with_the_first_complete_pass_after_its_base(run: Run) -> None:
    log, _ = open_log()
    stream = FakeStream(FakeShard("a", [1]))
    assert run(log, stream).state == OPEN
    reach(log, BASE_COMPLETE)
    result = run(log, stream)
    assert (result.state, result.went_live) == (LIVE, True)
    assert log.head("orders").live is not None
    again = run(log, stream)
    assert (again.state, again.went_live) == (LIVE, False)


def test_a_pass_that_began_before_the_base_was_complete_does_not_go_live(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1]))

    def complete(read: int) -> None:
        if read == 1:
            reach(log, BASE_COMPLETE)

    stream.before_read = complete
    result = run(log, stream)
    assert (result.reached_tip, result.went_live) == (True, False)
    assert landed(store) == keys(1)
    assert log.head("orders").live is None


def test_an_incomplete_pass_does_not_go_live(run: Run) -> None:
    log, _ = open_log()
    reach(log, BASE_COMPLETE)
    result = run(log, FakeStream(FakeShard("a", [1], closed=True)))
    assert (result.state, result.went_live) == (BASE_COMPLETE, False)


def test_a_pass_goes_on_where_a_killed_one_had_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.capture.stage.FLUSH_SECONDS", 0.0)
    log, store = open_log(hook=dies_at("after commit", 2))
    stream = FakeStream(FakeShard("a", list(range(1, 8))))
    with pytest.raises(Killed):
        run(log, stream)
    assert landed(store) == keys(1, 2, 3, 4)
    run(MemoryLog(store), stream)
    assert landed(store) == keys(*range(1, 8))


# ------------------------------------------------------------------------------------- outages


def later(hours: float) -> FakeClock:
    clock = FakeClock()
    clock.elapsed = hours * 3600
    return clock


def live_log(run: Run, *shards: FakeShard) -> tuple[MemoryLog, Store, FakeStream]:
    log, store = open_log()
    reach(log, BASE_COMPLETE)
    stream = FakeStream(*shards)
    assert run(log, stream).went_live
    return log, store, stream


def reasons(store: Store) -> list[str]:
    return [gap.reason for gap in store.gaps]


@pytest.mark.parametrize(("hours", "gap"), [(22.9, False), (23.1, True), (400, True)])
def test_an_outage_of_more_than_23_hours_is_a_gap_behind_which_the_drain_goes_on(
    run: Run, hours: float, gap: bool
) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))
    stream.all["a"].numbers.append(2)
    result = run(log, stream, later(hours))
    assert result.reached_tip
    assert landed(store) == keys(1, 2)
    assert len(result.gaps) == gap
    if gap:
        assert f"was complete for {hours:.0f} hours" in result.gaps[0].reason
        assert result.gaps[0].since == NOW
        assert result.gaps[0].until == NOW + timedelta(hours=hours - 23)


def test_no_later_success_hides_a_gap_and_none_is_told_twice(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))
    for hours in (30, 31, 50):
        assert len(run(log, stream, later(hours)).gaps) == 1
    assert len(run(log, stream, later(80)).gaps) == 2
    assert len(store.gaps) == 2


def test_passes_that_prove_nothing_do_not_end_an_outage(run: Run) -> None:
    log, _, stream = live_log(run, FakeShard("a", [1]))
    stream.all["a"].numbers += range(2, 50)
    for hours in (8, 16):
        assert run(log, stream, later(hours), Budget(3600, 1)).reached_tip is False
    assert len(run(log, stream, later(24)).gaps) == 1


def reopened(log: MemoryLog, store: Store, opened_at: datetime, state: str = OPEN) -> None:
    number = max(store.newest())
    opened = replace(store.newest()[number], number=number + 1, state=OPEN, opened_at=opened_at)
    log.open_epoch("orders", TABLE, opened)
    if state != OPEN:
        reach(log, BASE_COMPLETE)


def test_a_gap_is_closed_by_a_younger_base_once_it_is_live(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))
    assert len(run(log, stream, later(30)).gaps) == 1
    reopened(log, store, later(30).aws_now())
    assert not closes_gaps(log.head("orders")), "its base may yet be given up"
    reach(log, BASE_COMPLETE)
    assert closes_gaps(log.head("orders"))
    result = run(log, stream, later(31))
    assert (result.went_live, result.gaps) == (True, ())
    assert not closes_gaps(log.head("orders"))


def test_a_base_that_is_complete_closes_no_gap_that_was_found_since(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1, 2]))
    assert len(run(log, stream, later(30)).gaps) == 1
    reopened(log, store, later(30).aws_now(), BASE_COMPLETE)
    found_at = later(31).aws_now()
    gap = Gap(found_at - timedelta(minutes=1), found_at, found_at, "a shard vanished")
    epoch = log.head("orders").epoch
    assert epoch is not None
    log.commit("orders", Commit(epoch, gap=gap))
    assert not closes_gaps(log.head("orders"))


def test_an_outage_before_a_new_epoch_stays_a_gap_until_that_is_live(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))
    reopened(log, store, later(30).aws_now())
    assert len(run(log, stream, later(30)).gaps) == 1


def test_an_expired_position_is_a_gap_since_its_last_change(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1, 2]))
    stream.all["a"].trimmed = 3
    stream.all["a"].numbers += [3, 4]
    result = run(log, stream, later(1))
    assert landed(store) == keys(1, 2, 4)
    assert result.reached_tip
    assert result.gaps[0].since == NOW - timedelta(minutes=1)
    assert "records of shard a expired" in result.gaps[0].reason


def test_the_gap_is_stored_before_anything_behind_it(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1, 2]))
    stream.all["a"].trimmed = 3
    stream.all["a"].numbers += [3, 4]
    with pytest.raises(Killed):
        run(MemoryLog(store, dies_at("after commit", 1)), stream, later(1))
    assert (len(store.gaps), landed(store)) == (1, keys(1, 2))
    assert len(run(log, stream, later(1)).gaps) == 1


def test_what_expired_beside_another_source_is_known_before_anything_behind_it(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1, 2]))
    proof = log.head("orders").last_proof
    detail = {"beside": 1, "overlaps": True}
    other = replace(store.newest()[1], number=2, state=OPEN, stream_arn="other", detail=detail)
    log.open_epoch("orders", TABLE, other)
    stream.all["a"].trimmed = 3
    stream.all["a"].numbers += [3, 4]

    def beside(log: MemoryLog) -> DrainResult:
        epoch = log.head("orders").beside
        return drain(log, stream, later(1), "orders", PLENTY, epoch=epoch)

    with pytest.raises(Killed):
        beside(MemoryLog(store, dies_at("after commit", 1)))
    assert landed(store) == keys(1, 2)
    for _ in range(2):
        found = beside(log)
        assert (found.reached_tip, found.gaps, landed(store)) == (False, (), keys(1, 2, 4))
        [notice] = found.notices
        assert "records of shard a expired" in notice
    assert log.head("orders").last_proof == proof


def test_a_position_that_expired_because_nothing_happened_for_a_day_is_no_gap(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1, 2]))
    for hours in (12, 24):
        run(log, stream, later(hours))
    stream.all["a"].trimmed = 2
    stream.all["a"].numbers.append(3)
    result = run(log, stream, later(25))
    assert (result.reached_tip, result.gaps) == (True, ())
    assert landed(store) == keys(1, 2, 3)


def test_an_expired_position_is_no_gap_where_the_base_was_read_since(run: Run) -> None:
    log, store = open_log()
    stream = FakeStream(FakeShard("a", [1, 2]))
    run(log, stream)
    stream.all["a"].trimmed = 3
    stream.all["a"].numbers += [3, 4]
    reopened(log, store, NOW + timedelta(hours=1))
    result = run(log, stream, later(1))
    assert (result.reached_tip, result.gaps) == (True, ())
    assert landed(store) == keys(1, 2, 4)


def test_a_shard_that_vanishes_unfinished_is_a_gap(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]), FakeShard("b"))
    stream.all["c"] = FakeShard("c", [2], parent="b")
    del stream.all["b"]
    result = run(log, stream, later(1))
    assert "shard b vanished" in result.gaps[0].reason
    assert landed(store) == keys(1, 2)
    assert result.reached_tip
    assert len(run(log, stream, later(2)).gaps) == 1


@pytest.mark.parametrize(("born", "gaps"), [(8, 1), (12, 2)])
def test_what_a_shard_held_that_closed_before_all_that_is_accounted_for_is_no_gap(
    run: Run, born: int, gaps: int
) -> None:
    """It was noted when an epoch was opened, and was gone before a pass came by."""
    log, _, stream = live_log(run, FakeShard("a", [1]))
    epoch, found_at = log.head("orders").epoch, later(10).aws_now()
    assert epoch is not None
    part = Part("stream", "dynamodb_streams", STREAM, "b")
    noted = PartProgress(part, None, None, False, 0, 0)
    gap = Gap(NOW, found_at, found_at, "the stream was replaced")
    log.commit("orders", Commit(epoch, (noted,), gap=gap))
    child = f"shardId-{later(born).aws_now().timestamp() * 1000:020.0f}-0a1b2c3d"
    stream.all[child] = FakeShard(child, [2], parent="b")
    assert len(run(log, stream, later(14)).gaps) == gaps


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(("born", "until"), [(2, 7), (29, 30)])
def test_what_vanished_before_its_time_during_an_outage_is_in_the_gap_as_well(
    run: Run, seen: bool, born: int, until: int
) -> None:
    """An outage's gap ends 23 hours ago: what is younger cannot have expired."""
    log, _, stream = live_log(run, FakeShard("a", [1]), *([FakeShard("b")] if seen else []))
    stream.all.pop("b", None)
    child = f"shardId-{later(born).aws_now().timestamp() * 1000:020.0f}-0a1b2c3d"
    stream.all[child] = FakeShard(child, [2], parent="b")
    [gap] = run(log, stream, later(30)).gaps
    assert (gap.since, gap.until) == (NOW, NOW + timedelta(hours=until))


def test_a_generation_that_came_and_went_unseen_is_a_gap(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1], closed=True), FakeShard("b", parent="a"))
    stream.all["b"].closed = True
    assert not run(log, stream, later(0.1)).reached_tip  # its child is not listed yet
    stream.all["d"] = FakeShard("d", [3], parent="c")
    result = run(log, stream, later(0.2))
    assert "shard c came and went unseen" in result.gaps[0].reason
    assert landed(store) == keys(1, 3)


def test_a_generation_that_came_and_went_unseen_is_noted_once(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1], closed=True), FakeShard("b", parent="a"))
    stream.all["b"].closed = True
    assert not run(log, stream, later(0.1)).reached_tip
    stream.all["d"] = FakeShard("d", [3], parent="c")

    def killed(read: int) -> None:
        raise Killed

    stream.before_read = killed
    for hours in (0.2, 0.3):
        with pytest.raises(Killed):
            run(log, stream, later(hours))
    assert len(store.gaps) == 1


def test_parents_older_than_the_first_listing_are_no_gap(run: Run) -> None:
    _, _, stream = live_log(run, FakeShard("b", [1], parent="a"))
    assert stream.all["b"].parent == "a"


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_listing_that_lags_proves_nothing_and_its_children_wait(run: Run, missing: str) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))
    stream.all["a"].closed = True
    stream.all["b"] = FakeShard("b", [2], parent="a", closed=True)
    stream.all["c"] = FakeShard("c", [3], parent="b")
    stream.unlisted = {missing}
    result = run(log, stream, later(0.1))
    assert (result.reached_tip, result.gaps) == (False, ())
    assert "k3" not in landed(store)
    stream.unlisted = set()
    assert run(log, stream, later(0.2)).reached_tip
    assert landed(store) == keys(1, 2, 3)


def test_a_stream_that_is_gone_is_a_gap(run: Run) -> None:
    log, store, stream = live_log(run, FakeShard("a", [1]))

    def gone(listing: int) -> None:
        raise SourceMissing("ResourceNotFoundException")

    stream.before_listing = gone
    for _ in range(2):
        result = run(log, stream)
        assert (result.ended, result.reached_tip) == (True, False)
    assert reasons(store) == [f"its stream {STREAM} is gone"]


@pytest.mark.parametrize(
    ("now", "reason", "until"),
    [
        (None, "the table was deleted", timedelta(hours=1)),
        (replace(TABLE, stream_arn=None), "was switched off", timedelta(hours=1)),
        (replace(TABLE, stream_arn=f"{STREAM[:-23]}2026-11-01T12:30:00.000"),
         "the stream was replaced", timedelta(minutes=31)),
        (replace(TABLE, table_id="id-2", stream_arn=f"{STREAM[:-23]}2026-11-01T12:00:30.000"),
         "the table was recreated", timedelta(seconds=90)),
    ],
)  # fmt: skip
def test_a_stream_that_is_no_longer_the_tables_is_a_gap(
    run: Run, now: TableDescription | None, reason: str, until: timedelta
) -> None:
    log, store, _ = live_log(run, FakeShard("a", [1]))
    for _ in range(2):
        [gap] = note_replaced(log, later(1), "orders", now)
        assert reason in gap.reason
        assert (gap.since, gap.until) == (NOW, NOW + until)
    assert len(store.gaps) == 1


def test_a_stream_that_is_still_the_tables_is_no_gap(run: Run) -> None:
    log, _, _ = live_log(run, FakeShard("a", [1]))
    assert note_replaced(log, later(1), "orders", TABLE) == []


# ------------------------------------------------------------------------------- many shards


def many(count: int = 12) -> list[FakeShard]:
    return [FakeShard(f"s{number}", [number]) for number in range(1, count + 1)]


def test_silent_shards_of_a_large_stream_are_read_only_where_proof_is_due(run: Run) -> None:
    log, store, stream = live_log(run, *many())
    clock = later(1)
    assert run(log, stream, clock, freshness_seconds=300).reached_tip
    stream.all["s3"].numbers.append(100)
    stream.started.clear()
    clock.elapsed += 60
    result = run(log, stream, clock, freshness_seconds=300)
    assert (result.reached_tip, result.shards_read, stream.started) == (False, 0, [])
    clock.elapsed += 120
    assert run(log, stream, clock, freshness_seconds=300).reached_tip
    assert "k100" in landed(store)


def test_a_shard_that_has_just_changed_is_read_in_every_pass(run: Run) -> None:
    log, store, stream = live_log(run, *many())
    stream.all["s3"].numbers.append(100)
    clock = later(0.01)  # the shards' last changes were a minute before
    run(log, stream, clock, freshness_seconds=300)
    assert "k100" in landed(store)


def test_children_of_one_shard_among_many_are_asked_for_alone(run: Run) -> None:
    log, store, stream = live_log(run, *many(150))
    listings = stream.listings
    stream.all["s7"].closed = True
    stream.all["x"] = FakeShard("x", [1000], parent="s7")
    stream.unlisted = {"x"}
    assert run(log, stream, later(0.1)).reached_tip
    assert (stream.asked_children, stream.listings) == (["s7"], listings + 1)
    assert "k1000" in landed(store)


def test_a_fault_in_one_shard_keeps_what_the_others_had_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.capture.stage.FLUSH_SECONDS", 0.0)
    log, store, stream = live_log(run, FakeShard("a", [1]))
    stream.all["a"].numbers += [2, 3, 4, 5]

    def fails(read: int) -> None:
        if read > first + 1:
            raise Retryable("InternalServerError")

    first = stream.reads
    stream.before_read = fails
    with pytest.raises(Retryable):
        run(log, stream)
    stream.before_read = lambda read: None
    assert run(log, stream).reached_tip
    assert landed(store) == keys(1, 2, 3, 4, 5)


# ---------------------------------------------------------------------------------- is it due?


@pytest.mark.parametrize(
    ("change", "hours", "reason"),
    [
        pytest.param({}, 0.01, "", id="nothing is new"),
        pytest.param({}, 1.0, "the last", id="the proof is old"),
        pytest.param({"numbers": [1, 2]}, 0.01, "new records in shard a", id="a record"),
        pytest.param({"closed": True}, 0.01, "shard a was closed", id="a closed shard"),
    ],
)
def test_a_drain_is_due_where_something_is_new(
    run: Run, change: dict[str, Any], hours: float, reason: str
) -> None:
    log, _, stream = live_log(run, FakeShard("a", [1]))
    stream.all["a"] = replace(stream.all["a"], **change)
    found = due(log, stream, later(hours), "orders", freshness_seconds=300)
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_an_idle_shard_that_never_held_a_record_makes_no_drain_due(run: Run) -> None:
    log, _, stream = live_log(run, FakeShard("a", [1], closed=True), FakeShard("b", parent="a"))
    assert due(log, stream, later(0.01), "orders", freshness_seconds=300) == ""
    stream.all["b"].numbers.append(2)
    assert "shard b" in due(log, stream, later(0.01), "orders", freshness_seconds=300)


@pytest.mark.parametrize(("hours", "gap"), [(2.5, False), (3.5, True)])
def test_the_first_pass_comes_in_time_for_an_export_older_than_its_epoch(
    run: Run, hours: float, gap: bool
) -> None:
    taken = FakeClock().aws_now() - timedelta(hours=20)
    log, _ = open_log("export", export_time=taken.isoformat())
    reach(log, BASE_COMPLETE)
    stream = FakeStream(FakeShard("a", [1]))
    result = run(log, stream, later(hours))
    assert (result.went_live, len(result.gaps)) == (True, gap)

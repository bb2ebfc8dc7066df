"""Single scenes, told on purpose: what a seed found once, and what seeds come by too rarely."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NoReturn
from unittest.mock import patch

import pytest

import sandbox.streams
import tailrace.engine
from tailrace import lines
from tailrace.capture import bootstrap, stage
from tailrace.capture.coverage import closes_gaps
from tailrace.engine import Engine
from tailrace.errors import Retryable, Terminal
from tailrace.model import BASE_COMPLETE, LIVE, OPEN, BaseResult, DrainResult
from tailrace.sources import export
from tests.simulation.memory_log import MemoryLog
from tests.simulation.story import Story
from tests.simulation.truth import micros
from tests.simulation.world import (
    DELIVERED,
    FATAL,
    HOUR,
    MODEL,
    REGION,
    TABLE,
    Weather,
    World,
)


@pytest.fixture
def story() -> Iterator[Story]:
    """A live table of one stream, drained to its tip, in fair weather."""
    story = Story(1)
    with story.world as world:
        _make_live(world)
        assert world.store.newest()[1].state == LIVE
        yield story


@pytest.fixture
def on_kinesis() -> Iterator[Story]:
    """A live table whose changes come by Kinesis, likewise."""
    story = Story(1, kinesis=True)
    with story.world as world:
        world.source = "kinesis"
        _make_live(world)
        yield story


def _make_live(world: World) -> None:
    world.weather = Weather()
    world.create("NEW_IMAGE")
    world.configure("scan", pass_seconds=600)
    world.process("base", lambda engine: engine.base(MODEL))
    world.process("drain", lambda engine: engine.drain_table(MODEL))


def test_a_source_that_fails_holds_up_no_drain_of_the_one_that_takes_over() -> None:
    story = Story(1, kinesis=True)
    with story.world as world:
        _make_live(world)
        world.source = "kinesis"
        world.configure("scan", pass_seconds=600)
        with patch.object(bootstrap, "read_scan", side_effect=Retryable("interrupted")):
            world.process("base", lambda engine: engine.base(MODEL))
        assert world.store.newest()[2].state == OPEN
        for _ in range(20):
            world.write()
        refused = lambda asked: FATAL if asked == "GetRecords" else ""  # noqa: E731
        with patch.object(world, "_fault", refused):
            found = world.process("drain", lambda engine: engine.drain_table(MODEL))
        assert isinstance(found, DrainResult)
        assert (found.epoch, found.reached_tip) == (2, True)
        assert found.rows > 10
        [told] = found.notices
        assert told.startswith("dynamodb_streams, which readers see until then, could not be")
        assert "AWS refused the credentials" in told
        assert found.lag_seconds is not None
        story._settle()
        story.truth.check_equal()


@pytest.mark.parametrize("mended", [Engine.repair, Engine.base])
@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ("dynamodb_streams", "kinesis", "kinesis:ListShards"),
        ("kinesis", "dynamodb_streams", "DescribeStream"),
        ("dynamodb_streams", "firehose", "ListObjects"),
    ],
)
def test_a_take_over_that_lost_what_readers_have_seen_gets_a_younger_base(
    before: str, after: str, asked: str, mended: Callable[[Engine, str], BaseResult]
) -> None:
    """Its own base would take the keys back that the source before has shown since."""
    story = Story(1, kinesis=True, firehose=after == "firehose")
    with story.world as world:
        world.source = before
        _make_live(world)
        world.source = after
        world.configure("export", pass_seconds=600)
        with patch.object(bootstrap, "read_export", side_effect=Retryable("interrupted")):
            world.process("base", lambda engine: engine.base(MODEL))
        for _ in range(30):
            world.write()
        with patch.object(world, "_fault", lambda operation: FATAL * (operation == asked)):
            world.process("drain", lambda engine: engine.drain_table(MODEL))
        world.clock.advance(60 * HOUR)
        for place in [each for each in world.objects if each[0] == DELIVERED]:
            del world.objects[place]
        world.process("base", lambda engine: engine.base(MODEL))
        found = world.process("drain", lambda engine: engine.drain_table(MODEL))
        assert (found.state, found.void, found.went_live) == (BASE_COMPLETE, True, False)
        assert found.gaps
        world.clock.advance(HOUR / 2)
        assert "waits for a pass" not in world.process("peek", lambda e: e.peek([MODEL])[MODEL])
        assert not closes_gaps(MemoryLog(world.store).head(MODEL))
        again = world.process("repair", lambda engine: mended(engine, MODEL))
        assert (again.epoch, again.state) == (3, BASE_COMPLETE)
        story._settle()
        assert [each.state for each in world.store.newest().values()] == [
            LIVE,
            BASE_COMPLETE,
            LIVE,
        ]
        assert not world.process("drain", lambda engine: engine.drain_table(MODEL)).gaps
        story.truth.check_equal()


@pytest.fixture
def taken_over(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A live table that is about to be taken over from its source by another one, whose base is
    begun; both are drained, and what each told is proven."""
    before, after = request.param
    story = Story(1, kinesis=True, firehose="firehose" in (before, after))
    with story.world as world:
        world.source = before
        _make_live(world)
        _drained(world)
        world.source = after
        world.configure("scan", pass_seconds=600)
        with patch.object(bootstrap, "read_scan", side_effect=Retryable("interrupted")):
            world.process("base", lambda engine: engine.base(MODEL))
        assert [each.state for each in world.store.newest().values()] == [LIVE, OPEN]
        for _ in range(5):
            world.write()
        assert _drained(world).reached_tip
        yield story


def _drained(world: World) -> DrainResult:
    world.clock.advance(world.weather.delivery_seconds + 2)
    found = world.process("drain", lambda engine: engine.drain_table(MODEL))
    assert isinstance(found, DrainResult)
    return found


def _off_for_an_hour(world: World) -> None:
    world.disable_kinesis()
    for _ in range(5):
        world.clock.advance(HOUR / 5)
        world.write()
    _drained(world)
    world.enable_kinesis()


def _vanishes(world: World) -> None:
    stream = world.table.stream
    assert stream is not None
    for _ in range(5):
        world.write()
    stream.divide(stream.open_shards()[0], 1, world.clock.tick())
    world.vanish()
    _drained(world)


def _damaged(world: World) -> None:
    for _ in range(5):
        world.write()
    place = max(each for each in world.objects if each[0] == DELIVERED)
    world.objects[place] = world.objects[place][:-20]
    _drained(world)


def _emptied(world: World) -> None:
    with patch.object(world, "_fault", lambda operation: FATAL * (operation == "ListObjects")):
        for _ in range(3):
            world.write()
            world.clock.advance(10 * HOUR)
            _drained(world)
    for place in [each for each in world.objects if each[0] == DELIVERED]:
        del world.objects[place]
    _drained(world)


@pytest.mark.parametrize(
    ("taken_over", "lose", "told"),
    [
        (("firehose", "dynamodb_streams"), _off_for_an_hour, "did not stream to it for a while"),
        (("kinesis", "dynamodb_streams"), _off_for_an_hour, "did not stream to it for a while"),
        (("dynamodb_streams", "kinesis"), _vanishes, "vanished before it was read"),
        (("firehose", "dynamodb_streams"), _damaged, "cannot be read"),
        (("firehose", "dynamodb_streams"), _emptied, "none of the objects read before is left"),
    ],
    indirect=["taken_over"],
)
def test_a_source_that_lost_changes_proves_nothing_until_the_one_that_takes_over_is_live(
    taken_over: Story, lose: Callable[[World], None], told: str
) -> None:
    """The new epoch will hold them, but readers lack them until then."""
    story, world = taken_over, taken_over.world
    begun = world.clock.seconds()
    lose(world)
    for _ in range(2):
        world.write()
        world.clock.advance(60.0)
        found = _drained(world)
        assert (found.reached_tip, found.gaps, found.void) == (True, (), False)
        [notice] = found.notices
        assert told in notice
        head = MemoryLog(world.store).head(MODEL)
        assert head.last_pass is not None
        assert told in head.last_pass.lost
        proof = head.last_proof
        assert proof is not None
        assert proof.proves_until.timestamp() < begun
        assert found.lag_seconds is not None
        assert found.lag_seconds > world.clock.seconds() - begun
    story._settle()
    assert world.store.newest()[2].state == LIVE
    assert not world.store.gaps
    found = _drained(world)
    assert found.lag_seconds is not None
    assert found.lag_seconds < 60
    story.truth.check_equal()


@pytest.mark.parametrize(
    "taken_over",
    [("firehose", "dynamodb_streams"), ("kinesis", "dynamodb_streams")],
    indirect=True,
)
def test_what_a_source_lost_is_a_gap_once_a_take_over_from_it_was_given_up(
    taken_over: Story,
) -> None:
    story, world = taken_over, taken_over.world
    before = len(world.unsent)
    _off_for_an_hour(world)
    world.source = "firehose" if world.firehose else "kinesis"
    world.configure("scan", pass_seconds=600)
    with patch.object(bootstrap, "read_scan", side_effect=Retryable("interrupted")):
        world.process("base", lambda engine: engine.base(MODEL))
    for _ in range(2):
        found = _drained(world)
        assert found.reached_tip
        [gap] = found.gaps
        assert "did not stream to it" in gap.reason
        lost = [each.micros for each in world.unsent[before:]]
        assert lost
        assert micros(gap.since) <= min(lost)
        assert max(lost) <= micros(gap.until)
        assert not found.notices
    world.process("base", lambda engine: engine.base(MODEL))
    story._settle()
    assert [each.state for each in world.store.newest().values()] == [LIVE, OPEN, LIVE]
    assert not _drained(world).gaps
    story.truth.check_equal()


@pytest.mark.parametrize("raised", ["before the outage", "after it"])
def test_what_had_expired_when_the_retention_was_raised_is_a_gap(
    on_kinesis: Story, raised: str
) -> None:
    story, world = on_kinesis, on_kinesis.world
    if raised == "before the outage":
        story._keep(48)
        world.process("drain", lambda engine: engine.drain_table(MODEL))
    for _ in range(20):
        world.write()
    world.clock.advance(30 * HOUR)
    story._keep(48)
    found = world.process("drain", lambda engine: engine.drain_table(MODEL))
    assert found.reached_tip
    assert bool(found.gaps) == (raised == "after it")
    story._settle()
    story.truth.check_equal()


def test_a_shard_that_expired_unread_in_an_outage_adds_nothing_to_its_gap(
    on_kinesis: Story,
) -> None:
    """Whatever Kinesis lists no more is as old as what it does not keep."""
    story, world = on_kinesis, on_kinesis.world
    world.reshard()
    for _ in range(20):
        world.write()
    world.clock.advance(30 * HOUR)
    for _ in range(2):
        found = world.process("drain", lambda engine: engine.drain_table(MODEL))
        world.clock.advance(HOUR)
    [gap] = found.gaps
    assert "was complete for 30 hours" in gap.reason
    assert (gap.found_at - gap.until).total_seconds() == 23 * HOUR
    story._settle()
    story.truth.check_equal()


def test_what_came_late_to_a_stream_that_is_no_longer_the_tables_lies_in_its_gap(
    on_kinesis: Story,
) -> None:
    """It is of a time that a pass has proven, and nobody reads it any more."""
    story, world = on_kinesis, on_kinesis.world
    world.weather.late, world.weather.late_seconds, world.quiet = 1.0, 240.0, False
    for _ in range(5):
        world.write()
    world.quiet = True
    world.clock.advance(1.0)
    world.configure("scan", pass_seconds=600)
    assert world.process("drain", lambda engine: engine.drain_table(MODEL)).reached_tip
    world.disable_kinesis()
    [gap] = world.process("drain", lambda engine: engine.drain_table(MODEL)).gaps
    late = [each.change.micros for each in world.sent if each.arrived is None]
    assert len(late) == 5
    assert micros(gap.since) <= min(late)
    world.clock.advance(30 * HOUR)
    world.enable_kinesis()
    world.process("drain", lambda engine: engine.drain_table(MODEL))
    story._settle()
    story.truth.check_equal()


def test_a_stream_that_is_switched_off_again_at_once_leaves_two_gaps() -> None:
    """A Firehose's proof lags, and lies before the first of them."""
    story = Story(1, kinesis=True, firehose=True)
    with story.world as world:
        world.source = "firehose"
        _make_live(world)
        world.weather.buffer_seconds = 600.0
        world.configure("scan", pass_seconds=600)
        for gaps in (1, 3):
            world.disable_kinesis()
            for _ in range(5):
                world.clock.advance(HOUR)
                world.write()
            found = world.process("drain", lambda engine: engine.drain_table(MODEL))
            assert len(found.gaps) == gaps
            world.enable_kinesis()
            for _ in range(2):
                world.clock.advance(2.0)
                found = world.process("drain", lambda engine: engine.drain_table(MODEL))
            assert found.reached_tip
        story._settle()
        story.truth.check_equal()


def test_a_stream_that_is_off_again_before_a_pass_was_complete_leaves_another_gap(
    on_kinesis: Story,
) -> None:
    story, world = on_kinesis, on_kinesis.world
    refused = lambda asked: FATAL * (asked == "kinesis:GetRecords")  # noqa: E731
    for gaps in (1, 3):
        world.disable_kinesis()
        world.clock.advance(HOUR)
        world.write()
        found = world.process("drain", lambda engine: engine.drain_table(MODEL))
        assert len(found.gaps) == gaps
        world.enable_kinesis()
        world.clock.advance(2.0)
        with patch.object(world, "_fault", refused):
            world.process("drain", lambda engine: engine.drain_table(MODEL))
    for _ in range(2):
        world.clock.advance(2.0)
        found = world.process("drain", lambda engine: engine.drain_table(MODEL))
        assert (found.reached_tip, len(found.gaps)) == (True, 4)
    story._settle()
    story.truth.check_equal()


def test_a_base_told_to_stop_does_not_leave_a_replaced_stream_behind(story: Story) -> None:
    world = story.world
    for _ in range(20):
        world.write()
    world.disable_stream()
    world.enable_stream("NEW_IMAGE")

    def stopped(engine: Engine) -> BaseResult:
        engine.stop.set()
        return engine.base(MODEL)

    found = world.process("base", stopped)
    assert isinstance(found, Retryable)
    assert list(world.store.newest()) == [1]
    story._settle()
    assert len(world.records) > 10
    assert all(story.truth.landed(arn, sequence) for arn, sequence, _ in world.records)
    story.truth.check_equal()


def test_a_replaced_stream_is_not_read_on_once_another_run_has_opened_the_next_epoch(
    story: Story,
) -> None:
    """What follows then has no end that a run could wait for."""
    world = story.world
    world.disable_stream()
    world.enable_stream("NEW_IMAGE")
    drain_table, drained = Engine.drain_table, 0

    def overtaken(engine: Engine, model: str) -> DrainResult:
        nonlocal drained
        drained += 1
        if drained == 1:
            world.process("other base", lambda other: other.base(MODEL))
        return drain_table(engine, model)

    with patch.object(Engine, "drain_table", overtaken):
        found = world.process("base", lambda engine: engine.base(MODEL))
    assert found.state == BASE_COMPLETE
    assert drained <= 4
    story._settle()
    story.truth.check_equal()


def test_a_full_disk_is_called_that_and_loses_nothing(story: Story) -> None:
    """A file of an export that is too large for the memory goes to disk."""
    world = story.world
    for _ in range(20):
        world.write()
    world.configure("export")

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    def base(engine: Engine) -> BaseResult:
        with patch.object(export, "IN_MEMORY_BYTES", 0), patch.object(lines, "TemporaryFile", full):
            return engine.base(MODEL)

    found = world.process("base", base)
    assert isinstance(found, Terminal), found
    assert "The disk is full: [Errno 28] No space left on device" in str(found)
    assert "(TMPDIR) and run again" in str(found)
    _drained_to_the_tip(story)


@pytest.mark.parametrize("operation", ["GetShardIterator", "GetRecords"])
def test_credentials_that_expire_during_a_pass_are_called_that_and_lose_nothing(
    story: Story, operation: str
) -> None:
    """What was committed before stays: the next pass, with new ones, goes on from there."""
    world = story.world
    for _ in range(60):
        world.write()
    world.divide()
    calls = 0

    def expired(asked: str) -> str:
        nonlocal calls
        calls += asked == operation
        return FATAL if asked == operation and calls > 1 else ""

    with patch.object(world, "_fault", expired), patch.object(stage, "FLUSH_SECONDS", 0.0):
        found = world.process("drain", lambda engine: engine.drain_table(MODEL))
    assert isinstance(found, Terminal)
    assert "AWS refused the credentials" in found.message
    _drained_to_the_tip(story)


def _drained_to_the_tip(story: Story) -> None:
    found = story.world.process("drain", lambda engine: engine.drain_table(MODEL))
    assert isinstance(found, DrainResult)
    assert (found.reached_tip, found.gaps) == (True, ())
    assert len(story.world.records) > 10
    assert all(story.truth.landed(arn, sequence) for arn, sequence, _ in story.world.records)
    story.truth.check_equal()


def test_what_cannot_be_had_of_a_replaced_stream_is_a_gap_before_a_new_epoch_is_opened(
    story: Story,
) -> None:
    world = story.world
    for _ in range(20):
        world.write()
    world.disable_stream()
    world.enable_stream("NEW_IMAGE")
    with patch.object(tailrace.engine, "LAST_PASSES", 0):
        world.process("base", lambda engine: engine.base(MODEL))
    [gap] = world.store.gaps
    assert "the stream was replaced" in gap.reason
    assert list(world.store.newest()) == [1, 2]
    lost = [change for arn, at, change in world.records if not story.truth.landed(arn, at)]
    assert lost
    assert all(micros(gap.since) <= change.micros <= micros(gap.until) for change in lost)
    story._settle()
    story.truth.check_equal()


@pytest.mark.parametrize("given_up", [False, True])
def test_what_was_looked_up_for_the_last_records_of_a_stream_is_not_told_again(
    given_up: bool,
) -> None:
    """Those of the next stream would take a reader back, were they to count at once."""
    story = Story(1)
    with (
        story.world as world,
        patch.object(sandbox.streams, "MAX_RECORD_BYTES", 1),
        patch.object(stage, "FLUSH_SECONDS", 0.0),
    ):
        world.weather, world.keys = Weather(), ["k"]
        world.create("KEYS_ONLY")
        world.configure("scan", pass_seconds=600)
        world.process("base", lambda engine: engine.base(MODEL))
        world.process("drain", lambda engine: engine.drain_table(MODEL))
        _put(world, 1)
        world.disable_stream()
        world.enable_stream("NEW_IMAGE")
        _put(world, 2, 3, 4)
        if given_up:
            with patch.object(bootstrap, "read_scan", side_effect=Retryable("interrupted")):
                world.process("base", lambda engine: engine.base(MODEL))
        world.process("base", lambda engine: engine.base(MODEL, restart=given_up))
        story._settle()
        story.truth.check_equal()


def test_what_vanished_between_an_export_and_the_epoch_that_it_is_the_base_of_is_a_gap() -> None:
    """The list that the epoch was opened with names nothing that was gone by then."""
    story = Story(1)
    with story.world as world:
        world.weather = Weather()
        world.create("NEW_IMAGE")
        world.configure("export", pass_seconds=600)
        world.clock.advance(HOUR)
        stream = world.table.stream
        assert stream is not None
        for shard in stream.open_shards():
            for _ in range(5):
                world.write()
            stream.divide(shard, 1, world.clock.tick())
        world.clock.advance(60.0)
        for shard in [each for each in stream.shards.values() if each.closed_at]:
            del stream.shards[shard.id]
        world.process("base", lambda engine: engine.base(MODEL))
        epoch = world.store.newest()[1]
        assert epoch.base_at < epoch.opened_at
        found = _drained(world)
        [gap] = found.gaps
        assert "came and went unseen" in gap.reason
        assert gap.since == epoch.base_at
        story._settle()
        story.truth.check_equal()


def test_a_repair_goes_on_with_no_base_that_is_not_to_be_read_any_more(story: Story) -> None:
    """What an export has planned no scan can go on with."""
    world = story.world
    world.configure("export", pass_seconds=600)
    with patch.object(bootstrap, "read_export", side_effect=Retryable("interrupted")):
        world.process("base", lambda engine: engine.base(MODEL))
    world.clock.advance(30 * HOUR)
    assert _drained(world).gaps
    world.configure("scan", pass_seconds=600)
    found = world.process("repair", lambda engine: engine.repair(MODEL))
    assert (found.epoch, found.method, found.state) == (3, "scan", BASE_COMPLETE)
    story._settle()
    story.truth.check_equal()


def _put(world: World, *values: int) -> None:
    for value in values:
        item = {"pk": {"S": "k"}, "v": {"N": str(value)}}
        world.dynamo.answer("PutItem", REGION, {"TableName": TABLE, "Item": item})
        world.clock.advance(1.0)

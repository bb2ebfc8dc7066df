"""What every kind of stream has to hold to: one suite, run over all of them, in the simulated world
and in fair weather. What each promises of its own is in tests/unit/sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import sandbox.kinesis
import sandbox.streams
from tailrace.capture import deliveries
from tailrace.engine import Engine
from tailrace.model import LIVE, DrainResult
from tests.simulation.truth import Truth, visible
from tests.simulation.world import HOUR, MODEL, Crash, World

STREAMS, KINESIS, FIREHOSE = "dynamodb_streams", "kinesis", "firehose"
SOURCES = (STREAMS, KINESIS, FIREHOSE)


@dataclass
class Site:
    """A world in which a table of twenty items is written to, and may be read from each source."""

    world: World
    truth: Truth

    def run(self, work: Callable[[Engine], Any]) -> Any:
        found = self.world.process("run", work)
        if isinstance(found, BaseException):
            raise found
        return found

    def use(self, source: str, **settings: Any) -> None:
        self.world.source = source
        self.world.configure("scan", **{"pass_seconds": 40.0} | settings)

    def base(self) -> None:
        self.run(lambda engine: engine.base(MODEL))

    def drain(self) -> DrainResult:
        found = self.run(lambda engine: engine.drain_table(MODEL))
        assert isinstance(found, DrainResult)
        return found

    def go_live(self) -> None:
        self.base()
        self.settle()
        assert self.drain().state == LIVE

    def settle(self) -> None:
        """Until all that was written has come to every source."""
        self.world.clock.advance(self.world.weather.delivery_seconds + 2)

    def write(self, times: int) -> None:
        for _ in range(times):
            self.world.write()
        self.settle()

    def equal(self) -> bool:
        """Whether readers see the table as it is; every law was asserted after each commit."""
        self.truth.check_equal()
        return bool(visible(self.world.store))

    def landed(self) -> list[str]:
        """The versions of the stream's rows."""
        return [row.version for row in self.world.store.rows if not row.is_base]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    world = World(7, kinesis=True, firehose=True)
    truth = Truth(world)
    world.on_commit = truth.check
    with world:
        monkeypatch.setattr(sandbox.streams, "MAX_RECORD_BYTES", 1500)
        monkeypatch.setattr(sandbox.kinesis, "MAX_BYTES", 1500)
        monkeypatch.setattr(deliveries, "BATCH_OBJECTS", 2)
        world.keys = [f"k{number}" for number in range(20)]
        world.create("NEW_AND_OLD_IMAGES")
        world.clock.advance(HOUR)
        yield Site(world, truth)


@pytest.fixture(params=SOURCES)
def fed(request: pytest.FixtureRequest, site: Site) -> Site:
    """A site whose table is live, read from one source."""
    site.use(request.param)
    site.go_live()
    return site


def test_changes_land_in_their_order_across_shards_that_divide(fed: Site) -> None:
    for _ in range(6):
        fed.write(8)
        fed.world.divide()
        fed.world.reshard()
    fed.drain()
    assert fed.drain().reached_tip
    assert fed.equal()


def test_every_record_lands_once_however_often_a_pass_is_cut_short(fed: Site) -> None:
    fed.use(fed.world.source, pass_seconds=1.0)
    fed.write(150 if fed.world.source == FIREHOSE else 60)
    passes = 0
    while not fed.drain().reached_tip:
        passes += 1
    assert passes > 1
    assert max(Counter(fed.landed()).values()) == 1
    assert fed.equal()


def test_a_killed_pass_is_gone_on_with(fed: Site) -> None:
    fed.write(40)
    fed.world.quiet, fed.world.weather.crash = False, 0.2
    killed = 0
    for _ in range(6):
        found = fed.world.process("run", lambda engine: engine.drain_table(MODEL))
        killed += isinstance(found, Crash)
    fed.world.quiet = True
    assert killed
    assert fed.drain().reached_tip
    assert fed.equal()


@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "ExpiredIteratorException",
        "InternalServerError",
    ],
)
def test_faults_of_the_source_are_outlasted(fed: Site, code: str) -> None:
    fed.write(20)
    prefix = "kinesis:" if fed.world.source == KINESIS else ""
    if fed.world.source == FIREHOSE:
        fed.world._faults |= {"ListObjects": ("SlowDown", 6), "GetObject": ("InternalError", 6)}
        fed.world.quiet = False
    fed.world.dynamo.fault(f"{prefix}GetRecords", code, times=6)
    assert fed.drain().reached_tip
    assert fed.equal()


def test_an_outage_beyond_the_retention_is_a_gap_and_one_within_it_is_none(fed: Site) -> None:
    fed.write(5)
    fed.world.clock.advance(20 * HOUR)
    assert not fed.drain().gaps
    fed.write(5)
    fed.world.clock.advance(50 * HOUR)
    if fed.world.source == FIREHOSE:  # what it delivered is kept until a lifecycle takes it
        assert not fed.drain().gaps
        assert fed.equal()
        fed.world.clock.advance(50 * HOUR)
        fed.world.objects.clear()
    found = fed.drain().gaps
    assert len(found) == 1
    if fed.world.source != FIREHOSE:
        assert "complete for 50 hours; it keeps 24 hours" in found[0].reason
    fed.run(lambda engine: engine.repair(MODEL))
    fed.settle()
    assert not fed.drain().gaps
    assert fed.equal()


def test_a_stream_that_the_table_leaves_is_a_gap_until_it_is_repaired(fed: Site) -> None:
    is_own = fed.world.source == STREAMS
    leave = fed.world.disable_stream if is_own else fed.world.disable_kinesis
    leave()
    fed.write(5)
    assert [gap.reason for gap in fed.drain().gaps if "was switched off" in gap.reason]
    fed.world.enable_stream("NEW_IMAGE") if is_own else fed.world.enable_kinesis()
    fed.write(5)
    fed.run(lambda engine: engine.repair(MODEL))
    fed.settle()
    assert not fed.drain().gaps
    assert fed.equal()


@pytest.mark.parametrize("before", SOURCES)
@pytest.mark.parametrize("after", SOURCES)
def test_a_table_is_taken_over_from_any_source_to_any_other(
    site: Site, before: str, after: str
) -> None:
    """Readers go on seeing the old source, kept fresh, and never step back."""
    site.use(before)
    site.go_live()
    site.write(10)
    site.use(after)
    drained: list[DrainResult] = []

    def meanwhile() -> None:
        if len(site.world.store.newest()) == 2 and len(site.world.processes) == 1 and not drained:
            site.write(6)
            drained.append(site.drain())
            site.truth.check_equal()

    site.world.sensor = meanwhile
    site.base()
    site.world.sensor = lambda: None
    assert drained[0].rows > 10
    site.write(10)
    assert site.drain().went_live
    epochs = site.world.store.newest()
    assert [each.source for each in epochs.values()] == [before, after]
    site.write(10)
    assert site.drain().reached_tip
    assert site.equal()


def test_a_source_that_is_named_and_not_yet_moved_to_is_told(site: Site) -> None:
    site.use(STREAMS)
    site.go_live()
    site.use(KINESIS)
    [told] = site.drain().notices
    assert told.startswith("stream.source is kinesis, but the table is still read from dynamodb_st")


def test_the_old_source_is_drained_until_the_new_base_is_complete_and_no_longer(site: Site) -> None:
    site.use(STREAMS)
    site.go_live()
    site.use(KINESIS)
    site.base()
    site.write(10)
    rows = len(site.world.store.rows)
    site.drain()
    assert {row.landed for row in site.world.store.rows[rows:]} == {2}

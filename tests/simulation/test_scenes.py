"""Single scenes, told on purpose: what a seed found once, and what seeds come by too rarely."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tailrace.engine import Engine
from tailrace.errors import Retryable
from tailrace.model import LIVE, BaseResult
from tests.simulation.story import Story
from tests.simulation.world import MODEL, Weather


@pytest.fixture
def story() -> Iterator[Story]:
    """A live table of one stream, drained to its tip, in fair weather."""
    story = Story(1)
    with story.world as world:
        world.weather = Weather()
        world.create("NEW_IMAGE")
        world.configure("scan", pass_seconds=600)
        world.process("base", lambda engine: engine.base(MODEL))
        world.process("drain", lambda engine: engine.drain_table(MODEL))
        assert world.store.newest()[1].state == LIVE
        yield story


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

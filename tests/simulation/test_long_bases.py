"""A base may take longer than the stream keeps its records: drains go on beside it."""

from __future__ import annotations

from unittest.mock import patch

import pytest

import sandbox.tables
from tailrace.model import LIVE
from tests.simulation.story import Story
from tests.simulation.world import HOUR, Weather


@pytest.mark.parametrize(
    ("method", "hours"), [pytest.param("scan", 60, id="scan"), pytest.param("export", 30)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_base_of_days_loses_nothing(seed: int, method: str, hours: int) -> None:
    story = Story(seed)
    with story.world as world, patch.object(sandbox.tables, "PAGE_BYTES", 120):
        world.keys = [f"k{number}" for number in range(60)]
        world.dynamo.set(shards=2, export_seconds=hours * HOUR)
        world.create("NEW_IMAGE")
        for _ in range(150):
            world.write()
        world.configure(method, pass_seconds=600)
        world.weather = Weather(
            write=0.3, divide=0.02, empty=0.2, slow_base_seconds=12 * HOUR, sensor_seconds=2 * HOUR
        )
        world.quiet = False
        began = world.clock.seconds()
        while story._state() in ("none", "open"):
            story._base()
        assert world.clock.seconds() - began >= hours * HOUR
        drained = len(world.store.passes)
        world.quiet = True
        story._settle()
        story.truth.check_equal()
        assert drained > hours / 12, "the stream was drained beside the base"
        assert world.store.gaps == []
        assert [epoch.state for epoch in world.store.newest().values()] == [LIVE]

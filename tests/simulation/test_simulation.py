"""The laws hold in every story: TAILRACE_SEEDS of them (`make simulate SEEDS=…`), else 200."""

from __future__ import annotations

import os

import pytest

from tests.simulation.story import tell

SEEDS = int(os.environ.get("TAILRACE_SEEDS", "200"))
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_law_holds_in_the_stories_from_seed(first: int) -> None:
    broken = [told for seed in range(first, min(first + CHUNK, SEEDS)) if (told := tell(seed))]
    assert not broken, "\n\n".join(broken)

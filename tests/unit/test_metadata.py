"""What Dagster shows of a pass."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from assets.metadata import changes_metadata
from tailrace.model import DrainResult, PassRecord, TableStatus

NOW = datetime(2026, 11, 1, tzinfo=UTC)
STATUS = TableStatus("orders", "orders", 1, "live", 9, 5, NOW, 1.0, 1, 1, 1)


@pytest.mark.parametrize(
    ("pieces", "counts"),
    [("shards", {"shards open": 1, "shards read": 7}), ("objects", {"objects read": 7})],
)
def test_what_a_pass_has_read_is_called_what_it_is(pieces: str, counts: dict[str, int]) -> None:
    result = DrainResult("orders", 1, "live", shards_read=7, shards_open=1, pieces=pieces)
    record = PassRecord("p", NOW, NOW, True, shards_open=1, shards_read=7, calls=2)
    shown = changes_metadata(result, STATUS, [record])
    passes = shown["last passes"].records[0].data
    for of in (shown, passes):
        named = {name: of[name] for name in of if name.partition(" ")[2] in ("open", "read")}
        assert named == counts

"""What proving coverage costs: a pass over many idle shards, and the drain with and without it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench import items, replay, tailrace_side
from bench.measure import in_child, median, stopwatch
from bench.report import Figure
from sandbox.server import start_server
from sandbox.workload import create_table
from tailrace.capture import bootstrap, drain
from tailrace.capture.stage import Stage
from tailrace.config import AwsConfig
from tailrace.model import Epoch, Head, Part, Shard
from tailrace.sources.aws import Aws
from tailrace.sources.streams import DynamoDbStream
from tailrace.sources.tables import describe_table


@dataclass(frozen=True)
class Size:
    """Idle shards of a stream, records of the other, and pairs of drains."""

    shards: int = 200
    records: int = 100_000
    pairs: int = 3


SMALL = Size(20, 800, 1)


def run(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """The idle pass, then the drains in pairs."""
    return [*_idle(size, tell), *_drains(size, cache, tell)]


def _idle(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    tell(f"proof: passes over {size.shards} idle shards")
    server = start_server(shards=size.shards)
    try:
        create_table(server.client("dynamodb"), "idle", {"pk": "S"})
        spent = in_child(idle_pass, endpoint=server.endpoint_url)
    finally:
        server.stop()
    walls = spent["walls"]
    calls = f"{spent['calls']} calls, {spent['cpu']:.1f} CPU s"
    return [
        Figure(
            "proof", f"a pass over {size.shards} idle shards", median(walls), "s", tuple(walls),
            "≤ 10", median(walls) <= 10, calls,
        )
    ]  # fmt: skip


def idle_pass(endpoint: str) -> dict[str, Any]:
    """Three passes over a stream on which nothing happens, after a first one."""
    os.environ |= replay.CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
    walls = []
    aws = Aws(AwsConfig(region="us-east-1"))
    table = describe_table(aws, "idle")
    assert table.stream_arn is not None
    with tailrace_side._run() as run:
        # Its clock does not wait between the calls; a pass that counts has to.
        run = replace(run, clock=_RealClock(aws))
        shards = DynamoDbStream(aws).shards(table.stream_arn)
        bootstrap.open_scan_epoch(run, table, 1, False, shards)
        for _ in range(4):
            stream = DynamoDbStream(aws)
            with stopwatch() as spent:
                result = drain.drain(run.log, stream, run.clock, run.model, tailrace_side.BUDGET)
            assert result.reached_tip, result
            walls.append(spent["wall"])
        return {"walls": walls[1:], "calls": result.calls, "cpu": spent["cpu"]}


class _RealClock(tailrace_side.NoWaiting):
    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    def aws_now(self) -> datetime:
        """AWS's time."""
        return self._aws.now()


def _drains(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    folder = cache / f"records-{size.records}"
    if not folder.exists():
        tell(f"proof: writing pages of {size.records:,} records")
        items.record_pages(folder, size.records)
    proven, unproven = [], []
    os.environ.update(replay.CREDENTIALS)
    with replay.serving(folder) as url:
        for number in range(size.pairs):
            tell(f"proof: pair {number + 1} of {size.pairs}")
            proven.append(in_child(tailrace_side.drain_stream, endpoint=url))
            unproven.append(in_child(drain_without_proof, endpoint=url))
    costs = [(a["cpu"] / b["cpu"] - 1) * 100 for a, b in zip(proven, unproven, strict=True)]
    return [
        Figure(
            "proof", "CPU of a drain, over one that proves nothing", median(costs), "%",
            tuple(costs), "≤ 10", median(costs) <= 10, f"{size.records:,} records",
        )
    ]  # fmt: skip


def drain_without_proof(endpoint: str) -> dict[str, Any]:
    """A drain that looks for no gap, notes no shards and stores no pass."""

    def account(
        log: Any,
        model: str,
        head: Head,
        epoch: Epoch,
        shards: Sequence[Shard],
        held: Collection[str],
        now: datetime,
    ) -> Head:
        return head

    flush = Stage.flush

    def unproven(stage: Stage, **what: Any) -> None:
        flush(stage, **(what | {"pass_record": None}))

    def see(stage: Stage, part: Part) -> None:
        return None

    with (
        patch.object(drain, "_account", account),
        patch.object(drain, "_held", lambda *_: set()),
        patch.object(Stage, "see", see),
        patch.object(Stage, "flush", unproven),
    ):
        return tailrace_side.drain_stream(endpoint)

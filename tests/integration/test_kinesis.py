"""A table that is read from a Kinesis stream: on a real DuckLake and a real dbt, over the sandbox's
Kinesis, and over moto's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.capture import bootstrap
from tailrace.config import Config
from tailrace.engine import Engine
from tests.integration.replica import (
    assert_equal,
    doubled,
    drain_until_caught_up,
    write_config,
    written_to,
)

ITEMS = 200
STREAM = "{source: kinesis, late_seconds: 0}"


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local reads are never stale; what is left is the second by which AWS's time is coarse."""
    monkeypatch.setattr(bootstrap, "SCAN_MARGIN_SECONDS", 1.1)


def make_table(aws: Any, *, stream: str = "", microseconds: bool = True) -> tuple[str, str]:
    """A table that streams to a Kinesis stream; returns the two's names."""
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"})
    kinesis = aws.server.client("kinesis")
    if not stream:
        stream = aws.name("changes")
        kinesis.create_stream(StreamName=stream, ShardCount=2)
    arn = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"][
        "StreamARN"
    ]
    precision = "MICROSECOND" if microseconds else "MILLISECOND"
    aws.dynamodb.enable_kinesis_streaming_destination(
        TableName=name,
        StreamArn=arn,
        EnableKinesisStreamingConfiguration={"ApproximateCreationDateTimePrecision": precision},
    )
    return name, stream


def configured(folder: Path, name: str, stream: str = STREAM, model: str = "events") -> Config:
    base = "{method: scan, segments: 2}"
    return write_config(
        folder, f"  - {{name: {name}, model: {model}, base: {base}, stream: {stream}}}\n"
    )


@pytest.mark.parametrize("moto", [False, True], ids=["sandbox", "moto"])
def test_a_table_is_replicated_from_kinesis_while_it_is_written_to(
    own_aws: Any, tmp_path: Path, moto: bool
) -> None:
    own_aws.server.control("set", moto_kinesis=moto)
    name, stream = make_table(own_aws)
    churn(own_aws.dynamodb, name, ITEMS, ITEMS, seed=1)
    config = configured(tmp_path, name)
    kinesis = own_aws.server.client("kinesis")
    with Engine.open(config) as engine, written_to(own_aws.dynamodb, name):
        engine.base("events")
        drain_until_caught_up(engine, "events")
        if not moto:  # whose reshards move records
            shards = [each["ShardId"] for each in kinesis.list_shards(StreamName=stream)["Shards"]]
            kinesis.merge_shards(
                StreamName=stream, ShardToMerge=shards[0], AdjacentShardToMerge=shards[1]
            )
        time.sleep(0.3)
        drain_until_caught_up(engine, "events")
    with Engine.open(config) as engine:
        drain_until_caught_up(engine, "events")
        (status,) = engine.status()
        assert not status.gaps
        assert status.lag_seconds is not None
        assert status.lag_seconds < 60
        assert status.idle_reads_a_day == 0  # AWS bills shard hours, and no calls
    assert not doubled(config, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")

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
from tailrace.model import DrainResult
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


def make_table(
    aws: Any, stem: str = "events", stream: str = "", *, microseconds: bool = True
) -> tuple[str, str]:
    """A table that streams to a Kinesis stream; returns the two's names."""
    name = aws.name(stem)
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


def configured(folder: Path, name: str, stream: str = STREAM) -> Config:
    base = "{method: scan, segments: 2, consistent: true}"
    return write_config(
        folder, f"  - {{name: {name}, model: events, base: {base}, stream: {stream}}}\n"
    )


def test_a_table_is_replicated_from_kinesis_while_it_is_written_to(
    own_aws: Any, tmp_path: Path
) -> None:
    name, stream = make_table(own_aws)
    churn(own_aws.dynamodb, name, ITEMS, ITEMS, seed=1)
    config = configured(tmp_path, name)
    kinesis = own_aws.server.client("kinesis")
    with Engine.open(config) as engine, written_to(own_aws.dynamodb, name, pause_seconds=0.2):
        engine.base("events")
        drain_until_caught_up(engine, "events")
        shards = [each["ShardId"] for each in kinesis.list_shards(StreamName=stream)["Shards"]]
        kinesis.merge_shards(
            StreamName=stream, ShardToMerge=shards[0], AdjacentShardToMerge=shards[1]
        )
    with Engine.open(config) as engine:
        drain_until_caught_up(engine, "events")
        (status,) = engine.status()
        assert not status.gaps
        assert status.lag_seconds is not None
        assert status.lag_seconds < 60
    assert not doubled(config, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")
    churn(own_aws.dynamodb, name, 50, ITEMS, seed=2)
    with Engine.open(configured(tmp_path, name, STREAM.replace("0", "2"))) as engine:
        found = engine.reconcile("events")
    assert found.is_equal
    assert found.seconds > 2, "what may come late was waited for"


def test_the_kinesis_of_moto_is_read_too(own_aws: Any, tmp_path: Path) -> None:
    own_aws.server.control("set", moto_kinesis=True)
    name, _ = make_table(own_aws, microseconds=False)
    config = configured(tmp_path, name)
    with Engine.open(config) as engine:
        engine.base("events")
        changes = churn(own_aws.dynamodb, name, ITEMS, ITEMS, seed=1)
        result = drain_until_caught_up(engine, "events")
    assert changes
    assert result.state == "live"
    assert not doubled(config, "events")


def test_tables_that_share_a_stream_are_drained_together_and_the_rest_of_it_is_told(
    own_aws: Any, tmp_path: Path
) -> None:
    one, stream = make_table(own_aws)
    two, _ = make_table(own_aws, "people", stream)
    other, _ = make_table(own_aws, "others", stream)
    base = "base: {method: scan, segments: 1}"
    config = write_config(
        tmp_path,
        f"  - {{name: {one}, model: events, {base}, stream: {STREAM}}}\n"
        f"  - {{name: {two}, model: people, {base}, stream: {STREAM}}}\n",
    )
    with Engine.open(config) as engine:
        for model in ("events", "people"):
            engine.base(model)
        for name in (one, two, other):
            churn(own_aws.dynamodb, name, 40, 40, seed=1)
        time.sleep(1.1)
        drained = engine.drain(["events", "people"])
        for result in drained.values():
            assert isinstance(result, DrainResult)
            assert result.went_live
            assert result.rows == 40
            [told] = result.notices
            assert told.endswith(f"other tables, which are not read: {other} (40).")
        assert [result.rows for result in engine.drain(["events", "people"]).values()] == [0, 0]

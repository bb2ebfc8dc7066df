"""Changes that Firehose delivers to S3: found, read and replicated on a real DuckLake, over the
sandbox's S3."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sandbox.compare import compare
from sandbox.workload import churn, create_table
from tailrace.capture import bootstrap
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.errors import SourceMissing, Terminal
from tailrace.lake.attach import connect
from tailrace.lake.converted import record_lines
from tailrace.model import DrainResult
from tailrace.sources.aws import Aws
from tailrace.sources.firehose import FirehoseObjects
from tailrace.transform.runner import build
from tests.integration.replica import assert_equal, doubled, write_config, written_to

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local reads are never stale; what is left is the second by which AWS's time is coarse."""
    monkeypatch.setattr(bootstrap, "SCAN_MARGIN_SECONDS", 1.1)


class Site:
    """Tables that stream to one Kinesis stream, and a Firehose behind it."""

    def __init__(self, aws: Any, *tables: str) -> None:
        self.aws = aws
        self.stream = aws.name("changes")
        self.bucket = aws.name("delivered")
        self.names = {table: aws.name(table) for table in tables}
        aws.s3.create_bucket(Bucket=self.bucket)
        kinesis = aws.server.client("kinesis")
        kinesis.create_stream(StreamName=self.stream, ShardCount=2)
        described = kinesis.describe_stream_summary(StreamName=self.stream)
        self.arn = described["StreamDescriptionSummary"]["StreamARN"]
        for number, name in enumerate(self.names.values()):
            create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"})
            precision = ("MICROSECOND", "MILLISECOND")[number % 2]
            aws.dynamodb.enable_kinesis_streaming_destination(
                TableName=name,
                StreamArn=self.arn,
                EnableKinesisStreamingConfiguration={
                    "ApproximateCreationDateTimePrecision": precision
                },
            )

    def deliver(self, **how: Any) -> list[str]:
        where = {"stream": self.stream, "bucket": self.bucket, "prefix": "cdc/"}
        keys: list[str] = self.aws.server.control("deliver_to_s3", **where, **how)
        return keys

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Delivers all the time, packed one way and another, until the block ends."""
        ways = [{}, {"objects": 3, "newlines": True}, {"compression": "ZIP"}]
        ways += [{"compression": "UNCOMPRESSED", "objects": 2}]
        stopping = threading.Event()

        def deliver() -> None:
            for number in range(100_000):
                if stopping.wait(0.1):
                    return
                self.deliver(**ways[number % len(ways)])

        thread = threading.Thread(target=deliver)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
            self.deliver()

    def config(self, folder: Path, source: str = "", **models: str) -> Config:
        delivery = f"{{source: firehose, bucket: {self.bucket}, prefix: cdc/, delivery_seconds: 1}}"
        tables = [
            f"  - {{name: {self.names[table]}, model: {table},"
            f" base: {{method: scan, segments: 2}}, stream: {source or delivery}}}\n"
            for table in self.names
        ]
        return write_config(folder, "".join(tables))


def until_live(engine: Engine, model: str) -> DrainResult:
    """Passes until the table is live and a pass that began then has read all there was."""
    for _ in range(400):
        result = engine.drain_table(model)
        if result.state == "live" and result.reached_tip and not result.went_live:
            return result
        threading.Event().wait(0.05)
    raise AssertionError(f"{model} did not go live: {result}")


def test_two_tables_are_replicated_from_one_delivery_stream_while_they_are_written_to(
    own_aws: Any, tmp_path: Path
) -> None:
    site = Site(own_aws, "events", "orders")
    for name in site.names.values():
        churn(own_aws.dynamodb, name, 50, 50, seed=1)
    config = site.config(tmp_path)
    with (
        Engine.open(config) as engine,
        site.delivering(),
        written_to(own_aws.dynamodb, *site.names.values(), keys=50, pause_seconds=0.1),
    ):
        for model in site.names:
            engine.base(model)
        for model in site.names:
            until_live(engine, model)
    with Engine.open(config) as engine:
        for model, name in site.names.items():
            result = engine.drain_table(model)
            assert result.reached_tip
            assert [each.partition(":")[0] for each in result.notices] <= [
                f"records of table {other}" for other in site.names.values() if other != name
            ]
            (status,) = engine.status([model])
            assert not status.gaps
            assert engine.peek([model]) == {model: ""}
    build(config, list(site.names))
    with connect(config.warehouse, read_only=True) as con:
        for model, name in site.names.items():
            assert not doubled(config, model)
            found = compare(own_aws.dynamodb, name, con, model)
            assert found.equal, found.differences[:5]


def test_a_table_moves_from_its_stream_to_firehose_and_on_to_kinesis(
    own_aws: Any, tmp_path: Path
) -> None:
    """Each move opens an epoch; the old source is drained until the new one is live."""
    site = Site(own_aws, "events")
    name = site.names["events"]
    churn(own_aws.dynamodb, name, 50, 50, seed=1)
    moves = ["{source: dynamodb_streams}", "", "{source: kinesis, late_seconds: 0}", ""]
    with site.delivering(), written_to(own_aws.dynamodb, name, keys=50, pause_seconds=0.1):
        for source in moves:
            config = site.config(tmp_path, source)
            with Engine.open(config) as engine:
                engine.base("events")
                until_live(engine, "events")
    with Engine.open(config) as engine:
        until_live(engine, "events")
        (status,) = engine.status()
        assert (status.epoch, status.gaps) == (len(moves), ())
    assert_equal(config, own_aws.dynamodb, name, "events")


def test_a_destination_that_is_disabled_is_a_gap(own_aws: Any, tmp_path: Path) -> None:
    site = Site(own_aws, "events")
    name = site.names["events"]
    config = site.config(tmp_path)
    with Engine.open(config) as engine:
        engine.base("events")
        until_live(engine, "events")
        own_aws.dynamodb.disable_kinesis_streaming_destination(TableName=name, StreamArn=site.arn)
        result = engine.drain_table("events")
        assert not result.reached_tip
        [gap] = result.gaps
        assert "switched off" in gap.reason
        with pytest.raises(Terminal, match="streams to no Kinesis stream that is ACTIVE"):
            engine.base("events")


def test_no_epoch_is_opened_on_a_bucket_or_a_prefix_that_is_wrong(aws: Any, tmp_path: Path) -> None:
    site = Site(aws, "events")
    site.deliver()
    for place, refused in (
        ("bucket: no-such-bucket-here, prefix: cdc/", "was not found"),
        (f"bucket: {site.bucket}, prefix: cdc", "exactly what the delivery stream has"),
    ):
        config = site.config(tmp_path, f"{{source: firehose, {place}}}")
        with Engine.open(config) as engine:
            with pytest.raises(Terminal, match=refused):
                engine.base("events")
            assert engine.status()[0].epoch is None


# ----------------------------------------------------------------------------- finding and reading


def record(number: int, table: str = "orders") -> bytes:
    item = {"pk": {"S": f"k{number}"}}
    change = {"ApproximateCreationDateTime": 1_700_000_000_000 + number, "Keys": item}
    event = {"eventID": f"{number:032x}", "eventName": "INSERT", "tableName": table}
    return json.dumps(event | {"dynamodb": change | {"NewImage": item}}).encode()


@pytest.fixture
def bucket(aws: Any) -> str:
    name: str = aws.name("objects")
    aws.s3.create_bucket(Bucket=name)
    return name


def objects(bucket: str, prefix: str = "cdc/") -> FirehoseObjects:
    return FirehoseObjects(Aws(), "orders", bucket, prefix, record_lines)


def key(at: datetime, name: str, prefix: str = "cdc/") -> str:
    return f"{prefix}{at:%Y/%m/%d/%H}/{name}"


def test_objects_are_listed_from_their_hour_on_and_error_outputs_told(
    aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, old = NOW - timedelta(hours=20), NOW - timedelta(days=4)
    keys = [key(NOW, "a"), key(late, "late"), key(old, "old"), key(NOW, "b"), key(NOW, "folder/")]
    keys += ["cdc/processing-failed/2026/11/01/00/x", "elsewhere/2026/11/01/00/y"]
    for each in keys:
        aws.s3.put_object(Bucket=bucket, Key=each, Body=record(1))
    source = objects(bucket)
    listed = source.listed(NOW - timedelta(hours=24))
    assert {each.key for each in listed} == {keys[0], keys[1], keys[3], keys[5]}
    assert [each.key for each in listed if each.is_failed] == [keys[5]]
    assert source.calls == 1
    assert source.listed(datetime.now(UTC) + timedelta(hours=1)) == []
    with pytest.raises(SourceMissing, match="was not found"):
        objects("no-such-bucket-here").listed(NOW)


def test_a_list_of_many_pages_is_read_whole(
    aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key(NOW, f"{number:02d}") for number in range(7)]
    for each in keys:
        aws.s3.put_object(Bucket=bucket, Key=each, Body=b"")
    source = objects(bucket)
    client = source._aws.client("s3")
    whole = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **asked: whole(MaxKeys=3, **asked))
    assert [each.key for each in source.listed(NOW - timedelta(hours=1))] == keys
    assert source.calls == 3


@pytest.mark.parametrize("prefix", ["cdc", "cdc/orders/", "cdc/!{timestamp:yyyy-MM-dd}/"])
def test_a_prefix_that_is_not_the_delivery_streams_is_refused(
    aws: Any, bucket: str, prefix: str
) -> None:
    own = "cdc/orders" if prefix == "cdc/orders/" else "cdc/"
    aws.s3.put_object(Bucket=bucket, Key=key(NOW, "a", own + "/" * (own[-1] != "/")), Body=b"")
    source = objects(bucket, prefix)
    if prefix == "cdc/orders/":
        source.require_layout()
        return
    with pytest.raises(Terminal, match="exactly what the delivery stream has"):
        source.require_layout()


def test_what_an_object_holds_is_read_whatever_it_is(aws: Any, bucket: str, tmp_path: Path) -> None:
    parquet = tmp_path / "a.parquet"
    dynamodb = json.loads(record(3))["dynamodb"]
    duckdb.sql(
        f"COPY (SELECT 'e' AS eventid, 'INSERT' AS eventname, 'orders' AS tablename,"
        f" '{json.dumps(dynamodb)}' AS dynamodb) TO '{parquet}' (FORMAT parquet)"
    )
    whole = gzip.compress(record(1) * 3)
    odd = record(1) + b'{"hello":1}' + record(2, "customers") + b"not json\n" + record(3)
    bodies = {
        "gz": (whole, 3, ""),
        "plain": (record(1) + record(2), 2, ""),
        "empty": (b"", 0, ""),
        "parquet": (parquet.read_bytes(), 1, ""),
        "odd": (odd, 2, ""),
        "cut": (whole[:-30], None, "is not a whole gzip file"),
        "half": (record(1) + record(2)[:-9], 1, "cannot be read"),
        "bad.parquet": (parquet.read_bytes()[:-9], 0, "is not a whole Parquet file"),
    }
    for name, (body, _, _) in bodies.items():
        aws.s3.put_object(Bucket=bucket, Key=key(NOW, name), Body=body)
    source = objects(bucket)
    listed = {each.key.rpartition("/")[2]: each for each in source.listed(NOW - timedelta(hours=1))}
    for name, (_, rows, damage) in bodies.items():
        contents = source.read(listed[name])
        assert rows in (None, contents.rows), name
        assert sum(map(len, contents.changes)) == contents.rows
        assert bool(damage) == bool(contents.damage)
        if damage:
            assert damage in contents.damage
            assert f"s3://{bucket}/{listed[name].key}" in contents.damage
        if name == "odd":
            assert (contents.others, contents.foreign) == ({"customers": 1}, 2)
            assert (contents.oldest, contents.newest) == tuple(
                datetime.fromtimestamp(1_700_000_000 + number / 1000, UTC) for number in (1, 3)
            )
    aws.s3.delete_object(Bucket=bucket, Key=listed["gz"].key)
    gone = source.read(listed["gz"])
    assert "was deleted before it was read" in gone.damage
    aws.s3.put_object(Bucket=bucket, Key=listed["gz"].key, Body=b"ORC\n")
    with pytest.raises(Terminal, match="is an ORC file"):
        source.read(listed["gz"])


def test_objects_of_motos_firehose_are_found_and_read(aws: Any, bucket: str) -> None:
    """Another program's idea of what Firehose writes."""
    firehose = aws.server.client("firehose")
    name = aws.name("hose")
    firehose.create_delivery_stream(
        DeliveryStreamName=name,
        ExtendedS3DestinationConfiguration={
            "RoleARN": "arn:aws:iam::123456789012:role/firehose",
            "BucketARN": f"arn:aws:s3:::{bucket}",
            "Prefix": "cdc/",
        },
    )
    records = [{"Data": record(number)} for number in range(3)]
    firehose.put_record_batch(DeliveryStreamName=name, Records=records)
    source = objects(bucket)
    found = source.listed(datetime.now(UTC) - timedelta(hours=1))
    assert sum(source.read(each).rows for each in found) == 3

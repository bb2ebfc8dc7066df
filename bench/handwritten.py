"""What a user writes by hand: boto3, its TypeDeserializer, a pandas frame, a DuckDB file.

Written well: large frames, one INSERT each, nested values as JSON text. It has no ledger, no
checkpoints and no history; it is the floor of what a replication has to do.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bench.measure import stopwatch

FRAME_ROWS = 25_000


def load_export(files: list[str], database: str, items: int) -> dict[str, Any]:
    """Loads the first `items` of an export's files: json, TypeDeserializer, pandas, DuckDB."""
    _imports()

    def lines() -> Iterator[dict[str, Any]]:
        for file in files:
            with gzip.open(file, "rb") as stream:
                for line in stream:
                    yield json.loads(line)["Item"]

    with stopwatch() as spent:
        rows = (_plain(item) for item in islice(lines(), items))
        count = _into_duckdb(rows, database)
    return {"rows": count} | spent


def typed(images: list[str], database: str) -> dict[str, Any]:
    """Makes a table of items in DynamoDB JSON."""
    _imports()
    with stopwatch() as spent:
        count = _into_duckdb((_plain(json.loads(image)) for image in images), database)
    return {"rows": count} | spent


def scan(endpoint: str, database: str, items: int) -> dict[str, Any]:
    """Reads the first `items` of a table by boto3's paginator."""
    boto3 = _imports()
    client = boto3.client("dynamodb", endpoint_url=endpoint)
    with stopwatch() as spent:
        pages = client.get_paginator("scan").paginate(TableName="bench")
        rows = (_plain(item) for page in pages for item in page["Items"])
        count = _into_duckdb(islice(rows, items), database)
    return {"rows": count} | spent


def drain(endpoint: str, stream_arn: str, database: str, items: int) -> dict[str, Any]:
    """Reads the first `items` records of a stream, shard after shard."""
    boto3 = _imports()
    client = boto3.client("dynamodbstreams", endpoint_url=endpoint)

    def records() -> Iterator[dict[str, Any]]:
        shards = client.describe_stream(StreamArn=stream_arn)["StreamDescription"]["Shards"]
        for shard in shards:
            iterator = client.get_shard_iterator(
                StreamArn=stream_arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while page := client.get_records(ShardIterator=iterator):
                if not page["Records"]:
                    break
                yield from page["Records"]
                iterator = page["NextShardIterator"]

    with stopwatch() as spent:
        count = _into_duckdb((_change(record) for record in islice(records(), items)), database)
    return {"rows": count} | spent


def _imports() -> Any:
    import boto3
    import duckdb  # noqa: F401
    import pandas  # noqa: F401
    from boto3.dynamodb.types import TypeDeserializer

    global _deserialize
    _deserialize = TypeDeserializer().deserialize
    return boto3


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    row = {name: _deserialize(value) for name, value in item.items()}
    for name, value in row.items():
        if isinstance(value, dict | list | set):
            row[name] = json.dumps(value, default=_json)
    return row


def _json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _change(record: dict[str, Any]) -> dict[str, Any]:
    change = record["dynamodb"]
    row = _plain(change.get("NewImage", change["Keys"]))
    old = {name: _deserialize(value) for name, value in change.get("OldImage", {}).items()}
    return row | {
        "event": record["eventName"],
        "sequence": change["SequenceNumber"],
        "changed_at": change["ApproximateCreationDateTime"],
        "old": json.dumps(old, default=_json),
    }


def _into_duckdb(rows: Iterable[dict[str, Any]], database: str) -> int:
    import duckdb
    import pandas as pd

    Path(database).unlink(missing_ok=True)
    os.makedirs(Path(database).parent, exist_ok=True)
    con = duckdb.connect(database)
    count = 0
    for chunk in _chunks(rows):
        frame = pd.DataFrame(chunk)
        if not count:
            con.register("frame", frame)
            con.execute("CREATE TABLE items AS SELECT * FROM frame LIMIT 0")
        con.register("frame", frame)
        con.execute("INSERT INTO items BY NAME SELECT * FROM frame")
        count += len(frame)
    con.close()
    return count


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) >= FRAME_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

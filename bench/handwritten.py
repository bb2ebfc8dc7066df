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


TYPED = """pk VARCHAR, order_id VARCHAR, state VARCHAR, revision BIGINT, total DECIMAL(38,2),
    currency VARCHAR, paid BOOLEAN, email VARCHAR, created_at TIMESTAMPTZ, weight_grams BIGINT,
    channel VARCHAR, note VARCHAR, tags VARCHAR[], address JSON, lines JSON, trace VARCHAR,
    _changed_at TIMESTAMPTZ"""


def typed(con: Any, log: str, database: str, items: int) -> dict[str, Any]:
    """Makes the table that the models make, with columns of the same types, of the first `items`
    rows of a change log that `con` has attached. DuckDB finds each key's newest row."""
    pd = _imports_pandas()
    newest = f"""
        SELECT image, changed_at FROM (FROM {log} LIMIT {items}) WHERE op <> 'REMOVE'
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY version DESC) = 1"""

    def frames() -> Iterator[Any]:
        found = con.execute(newest)
        while rows := found.fetchmany(FRAME_ROWS):
            frame = pd.DataFrame([_typed_row(json.loads(image)) for image, _ in rows])
            frame["_changed_at"] = [changed_at for _, changed_at in rows]
            for name in ("revision", "weight_grams", "created_at"):
                frame[name] = frame[name].astype("int64")
            frame["created_at"] = pd.to_datetime(frame["created_at"], unit="s", utc=True)
            yield frame

    with stopwatch() as spent:
        count = _frames_into_duckdb(frames(), database, TYPED)
    return {"rows": count} | spent


def _imports_pandas() -> Any:
    _imports()
    import pandas

    return pandas


def _typed_row(item: dict[str, Any]) -> dict[str, Any]:
    row = {name: _deserialize(value) for name, value in item.items()}
    for name, value in row.items():
        if isinstance(value, dict | list):
            row[name] = json.dumps(value, default=_json_number)
        elif isinstance(value, set):
            row[name] = sorted(value)
    return row


def _json_number(value: Any) -> Any:
    """As AWS's examples have it: of more digits than a float's, the rest is lost."""
    return (
        sorted(value) if isinstance(value, set) else int(value) if value % 1 == 0 else float(value)
    )


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
    import pandas as pd

    return _frames_into_duckdb(map(pd.DataFrame, _chunks(rows)), database)


def _frames_into_duckdb(frames: Iterable[Any], database: str, columns: str = "") -> int:
    """Rows written; `columns` in SQL, or those of the first frame."""
    import duckdb

    Path(database).unlink(missing_ok=True)
    os.makedirs(Path(database).parent, exist_ok=True)
    con = duckdb.connect(database)
    count = 0
    for frame in frames:
        con.register("frame", frame)
        if not count:
            con.execute(
                f"CREATE TABLE items ({columns})"
                if columns
                else "CREATE TABLE items AS SELECT * FROM frame LIMIT 0"
            )
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

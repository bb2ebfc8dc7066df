"""Warehouses that are made where they stand, by SQL: what is measured comes after. Changes land
through the change log's own commit, and the models are the real ones."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import ROOT
from tailrace.capture.stage import texts_of
from tailrace.config import Config, load_config
from tailrace.lake.log import ChangeLog
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Epoch,
    Head,
    KeyAttribute,
    Part,
    PartProgress,
    Position,
    Shape,
    Staged,
    TableDescription,
)

STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/made/stream/2026-01-01T00:00:00.000"
SHARD = Part("stream", "dynamodb_streams", STREAM, "shardId-0")

# An order of about 300 bytes: the merge reads whole images, 15 columns come of them.
SMALL_ITEM = """
    '{"pk":{"S":"k-' || n || '"},"state":{"S":"' || ['open','paid','sent'][1 + n % 3]
    || '"},"total":{"N":"' || n % 100000 || '.' || 10 + n % 90 || '"},"count":{"N":"' || n % 9
    || '"},"paid":{"BOOL":' || (n % 2 = 0) || '},"city":{"S":"' || hash(n) % 997
    || '"},"note":{"S":"' || md5(n::VARCHAR) || md5((n + 1)::VARCHAR)
    || '"},"address":{"M":{"zip":{"S":"' || n % 99999 || '"}}}}'"""


def config_of(folder: Path, tables: Sequence[str]) -> Config:
    """The settings of a new warehouse in `folder`, with a dbt project of its own for `tables`,
    each as it stands in tailrace.yaml."""
    from tailrace.transform.generate import generate

    shutil.copytree(
        ROOT / "dbt_project",
        folder / "dbt_project",
        ignore=shutil.ignore_patterns("target", "logs", "models"),
    )
    (folder / "dbt_project" / "models").mkdir()
    shutil.copy(ROOT / "dbt_project/models/docs.md", folder / "dbt_project/models/docs.md")
    file = folder / "tailrace.yaml"
    file.write_text(
        "warehouse: {catalog: 'sqlite:catalog.sqlite', data_path: data}\n"
        f"tables: [{', '.join(tables)}]\n"
    )
    config = load_config(file)
    generate(config)
    return config


def base(config: Config, model: str, rows: int, item: str = SMALL_ITEM) -> None:
    """A live table of `rows` base rows; `item` is the SQL of the image of item `n`, whose key is
    pk."""
    now = datetime.now(UTC)
    table = TableDescription(
        model, f"arn:{model}", f"id-{model}", (KeyAttribute("pk", "S"),), STREAM, "NEW_IMAGE"
    )
    epoch = Epoch(1, "full", "scan", OPEN, table.table_id, STREAM, now, now, {"segments": 1})
    with ChangeLog(config.warehouse) as log:
        log.open_epoch(model, table, epoch)
        log._con.execute(f"""
            INSERT INTO changes.{model}
            SELECT 1, '0000010' || repeat('0', 40), 1, 'READ', '{{"pk":{{"S":"k-' || n || '"}}}}',
                {item}, NULL, now(), false, false, now()
            FROM range({rows}) AS made(n)""")
        log.commit(model, Commit(epoch, state=BASE_COMPLETE, at=now))
        _seen(log, model)
        complete = head_epoch(log.head(model))
        log.commit(model, Commit(complete, state=LIVE, at=now))


def _seen(log: ChangeLog, model: str) -> None:
    from tailrace.lake import discovery

    found = discovery.discover(
        log._con, f"(SELECT key, image FROM changes.{model} LIMIT 100000)", []
    )
    log._con.execute(discovery.insert_sql(model, 1, found))


def change(config: Config, model: str, rows: int, changes: int, number: int) -> None:
    """Lands changes spread over all keys: five of six update, one in twelve deletes, one in
    twelve is a new key."""
    picks = random.Random(number)
    made_at = int(time.time()) + 60  # surely younger than the base
    first = 10**20 + number * 10**9
    lines = []
    for position in range(changes):
        kind = position % 12
        key = rows + number * changes + position if kind == 0 else picks.randrange(rows)
        event = "REMOVE" if kind == 1 else "MODIFY"
        lines.append(_record(key, first + position, event, made_at))
    staged = texts_of(Shape.STREAM_RECORDS, "".join(lines).encode())
    with ChangeLog(config.warehouse) as log:
        head = log.head(model)
        part = PartProgress(
            SHARD,
            head.positions.get(SHARD, Position()).at,
            str(first + changes),
            False,
            changes,
            staged.bytes,
        )
        shape = Staged(Shape.STREAM_RECORDS, (staged,), changes)
        log.commit(model, Commit(head_epoch(head), (part,), shape))


def head_epoch(head: Head) -> Epoch:
    """The newest epoch."""
    assert head.epoch is not None
    return head.epoch


def _record(key: int, position: int, event: str, made_at: int) -> str:
    keys = {"pk": {"S": f"k-{key}"}}
    image = keys | {
        "state": {"S": "changed"},
        "total": {"N": f"{position % 100_000}.25"},
        "count": {"N": str(position % 9)},
        "paid": {"BOOL": True},
        "city": {"S": str(position % 997)},
        "note": {"S": f"{position:064x}"},
        "address": {"M": {"zip": {"S": str(position % 99_999)}}},
    }
    change: dict[str, Any] = {
        "ApproximateCreationDateTime": made_at,
        "Keys": keys,
        "SequenceNumber": str(position),
    }
    if event != "REMOVE":
        change["NewImage"] = image
    return json.dumps({"eventName": event, "dynamodb": change}) + "\n"

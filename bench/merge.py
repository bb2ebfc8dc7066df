"""Merging 60,000 changes by the real dbt models: into a table of five million rows against one
of one million.

Both tables stand in one warehouse and are merged in turns, so that a busy machine slows both. The
base is made by SQL and not read from anywhere; the changes land through the change log's own
commit."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import ROOT, in_child, median, stopwatch
from bench.report import Figure
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

STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/merge/stream/2026-01-01T00:00:00.000"
SHARD = Part("stream", "dynamodb_streams", STREAM, "shardId-0")
ONE, FIVE = "one", "five"

# An order of about 300 bytes: the merge reads whole images, 15 columns come of them.
_ITEM = """
    '{"pk":{"S":"k-' || n || '"},"state":{"S":"' || ['open','paid','sent'][1 + n % 3]
    || '"},"total":{"N":"' || n % 100000 || '.' || 10 + n % 90 || '"},"count":{"N":"' || n % 9
    || '"},"paid":{"BOOL":' || (n % 2 = 0) || '},"city":{"S":"' || hash(n) % 997
    || '"},"note":{"S":"' || md5(n::VARCHAR) || md5((n + 1)::VARCHAR)
    || '"},"address":{"M":{"zip":{"S":"' || n % 99999 || '"}}}}'"""


@dataclass(frozen=True)
class Size:
    """Rows of the two tables, changes of a merge, and how many merges are timed."""

    rows: int = 1_000_000
    many_rows: int = 5_000_000
    changes: int = 60_000
    rounds: int = 3


SMALL = Size(2_000, 10_000, 300, 1)


def run(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """The time of a merge into many rows, over the time of one into fewer."""
    tell(f"merge: {size.changes:,} changes into {size.rows:,} and into {size.many_rows:,} rows")
    found = in_child(
        merges, rows=size.rows, many_rows=size.many_rows, changes=size.changes, rounds=size.rounds
    )
    few, many = found[ONE], found[FIVE]
    ratios = [b / a for a, b in zip(few, many, strict=True)]
    return [
        Figure("merge", f"into {size.rows:,} rows", median(few), "s", tuple(few)),
        Figure("merge", f"into {size.many_rows:,} rows", median(many), "s", tuple(many)),
        Figure(
            "merge", "many over few", median(ratios), "×", tuple(ratios), "≤ 2",
            median(ratios) <= 2, f"{size.changes:,} changes, real models",
        ),
        Figure("merge", "peak memory", found["peak_mb"], "MB"),
    ]  # fmt: skip


def merges(rows: int, many_rows: int, changes: int, rounds: int) -> dict[str, Any]:
    """Wall seconds of each merge of each table; the first of each, which imports dbt, is not
    counted."""
    from tailrace.transform import runner

    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    spent: dict[str, list[float]] = {ONE: [], FIVE: []}
    try:
        config = _config(folder)
        sizes = {ONE: rows, FIVE: many_rows}
        for model, count in sizes.items():
            _base(config, model, count)
            runner.build(config, [model]).raise_failures()
        for number in range(rounds + 1):
            for model, count in sizes.items():
                _changes(config, model, count, changes, number, folder)
                with stopwatch() as watch:
                    runner.build(config, [model]).raise_failures()
                if number:
                    spent[model].append(watch["wall"])
        _check(config, sizes, changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return dict(spent)


def _config(folder: Path) -> Config:
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
        f"tables: [{{name: {ONE}}}, {{name: {FIVE}}}]\n"
    )
    config = load_config(file)
    generate(config)
    return config


def _base(config: Config, model: str, rows: int) -> None:
    """A live table of `rows` base rows, made where it stands: what is measured comes after."""
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
                {_ITEM}, NULL, now(), false, false, now()
            FROM range({rows}) AS made(n)""")
        log.commit(model, Commit(epoch, state=BASE_COMPLETE, at=now))
        _seen(log, model)
        complete = _head_epoch(log.head(model))
        log.commit(model, Commit(complete, state=LIVE, at=now))


def _seen(log: ChangeLog, model: str) -> None:
    from tailrace.lake import discovery

    found = discovery.discover(
        log._con, f"(SELECT key, image FROM changes.{model} LIMIT 100000)", []
    )
    log._con.execute(discovery.insert_sql(model, 1, found))


def _changes(
    config: Config, model: str, rows: int, changes: int, number: int, folder: Path
) -> None:
    """Lands changes spread over all keys: five of six update, one in twelve deletes, one in
    twelve is a new key."""
    picks = random.Random(number)
    first = 10**20 + number * 10**9
    lines = []
    for position in range(changes):
        kind = position % 12
        key = rows + number * changes + position if kind == 0 else picks.randrange(rows)
        lines.append(_record(key, first + position, "REMOVE" if kind == 1 else "MODIFY"))
    staged = folder / "changes.ndjson"
    staged.write_text("".join(lines))
    with ChangeLog(config.warehouse) as log:
        head = log.head(model)
        part = PartProgress(
            SHARD,
            head.positions.get(SHARD, Position()).at,
            str(first + changes),
            False,
            changes,
            staged.stat().st_size,
        )
        shape = Staged(Shape.STREAM_RECORDS, (str(staged),), changes)
        log.commit(model, Commit(_head_epoch(head), (part,), shape))


def _head_epoch(head: Head) -> Epoch:
    assert head.epoch is not None
    return head.epoch


def _record(key: int, position: int, event: str) -> str:
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
        "ApproximateCreationDateTime": 1_790_000_000,
        "Keys": keys,
        "SequenceNumber": str(position),
    }
    if event != "REMOVE":
        change["NewImage"] = image
    return json.dumps({"eventName": event, "dynamodb": change}) + "\n"


def _check(config: Config, sizes: dict[str, int], changes: int) -> None:
    """Every changed key's newest row is what the table holds."""
    with ChangeLog(config.warehouse) as log:
        for model, rows in sizes.items():
            ((keys, wrong),) = log.query(f"""
                SELECT count(*), count(*) FILTER (latest._version <> newest.version)
                FROM (SELECT key, max(version) AS version FROM changes.{model} GROUP BY key)
                    AS newest
                LEFT JOIN analytics.{model}_latest AS latest ON latest._key = newest.key""")
            assert not wrong, f"{model}: {wrong} of {keys} keys are not the newest"
            assert keys >= rows + changes // 12, f"{model}: {keys} keys"

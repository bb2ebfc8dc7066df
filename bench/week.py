"""A week of minutes: what is left of 10,080 ticks, and how fast queries are then.

The ticks are as quick as they come, over a real DuckLake: what a drain and the two models commit in
a minute, by the change log's own commit and by the statements that the models run, without dbt's
time. Maintenance runs as its schedule has it, by simulated time: what stays for a day stays for the
last 1,440 ticks. The base is small, so that what grows shows."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from bench.measure import median
from bench.report import Figure
from tailrace.capture.stage import texts_of
from tailrace.config import Warehouse
from tailrace.lake import maintenance
from tailrace.lake.attach import connect
from tailrace.lake.log import ChangeLog
from tailrace.lines import Lines
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Epoch,
    Head,
    KeyAttribute,
    Maintenance,
    Part,
    PartProgress,
    PassRecord,
    Position,
    Shape,
    Sizes,
    Staged,
    TableDescription,
)

MODEL = "orders"
STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000"
SHARDS = [Part("stream", "dynamodb_streams", STREAM, f"shardId-{n}") for n in range(2)]

KEY = '{"pk":{"S":"k-77"}}'
QUERIES = {
    "count": f"SELECT count(*) FROM analytics.{MODEL}",
    "filter": f"SELECT count(*) FROM analytics.{MODEL} WHERE total > 500",
    "group by": f"SELECT state, sum(total) FROM analytics.{MODEL} GROUP BY ALL",
    "look-up": f"FROM analytics.{MODEL} WHERE pk = 'k-77'",
    "log of a key": f"SELECT count(*) FROM changes.{MODEL} WHERE key = '{KEY}'",
}
# The log keeps all, so that looking into it takes longer the longer it is.
OF_LOG = "log of a key"

# How often the first day's may stand there at the end. Steps of the ledger are kept for a week.
MOST = 1.5
MOST_LEDGER_ROWS = 7.0


@dataclass(frozen=True)
class Size:
    """The ticks of an hour and of a day, days, keys, changes a tick, and how often each query is
    timed."""

    hour: int = 60
    day: int = 1_440
    days: int = 7
    keys: int = 20_000
    changes: int = 40
    rounds: int = 9

    @property
    def ticks(self) -> int:
        return self.days * self.day


SMALL = Size(hour=10, day=20, days=4, keys=300, changes=20, rounds=1)


def run(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """Files, snapshots and catalog at the end of the first day and at the end, and the time of
    queries at the start and then."""
    tell(f"week: {size.ticks:,} ticks of {size.changes} changes")
    found = lived(size, tell)
    figures = []
    for name in ("files", "old files", "snapshots", "catalog MB", "ledger rows"):
        first, last = found["first day"][name], found["end"][name]
        most = MOST_LEDGER_ROWS if name == "ledger rows" else MOST
        figures += [
            Figure("week", f"{name}, after the first day", first, ""),
            Figure(
                "week", f"{name}, at the end", last, "", (), f"≤ {most:g} × the first day's",
                last <= most * first + 10,
            ),
        ]  # fmt: skip
    for name in QUERIES:
        start, end = (median(found[when][name]) for when in ("queries at start", "queries at end"))
        note = f"{start * 1000:.1f} ms, then {end * 1000:.1f} ms"
        if name == OF_LOG:
            note += f"; {1 + size.ticks * size.changes / size.keys:.0f} times the rows"
        figures.append(
            Figure(
                "week", f"{name}: end over start", end / start, "×", (),
                "" if name == OF_LOG else f"≤ {MOST:g}",
                None if name == OF_LOG else end / start <= MOST, note,
            )
        )  # fmt: skip
    figures += [
        Figure("week", "maintenance, light", median(found["light"]), "s", tuple(found["light"])),
        Figure("week", "maintenance, full", median(found["full"]), "s", tuple(found["full"])),
        Figure("week", "a tick", found["tick"], "s"),
    ]
    return figures


def lived(size: Size, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Lives through the ticks; what was left, and the seconds of queries and maintenance."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    warehouse = Warehouse(
        catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data", threads=1
    )
    found: dict[str, Any] = {"light": [], "full": []}
    try:
        with ChangeLog(warehouse) as log, _models(log, warehouse, size) as con:
            began: list[float] = []
            found["queries at start"] = _timed(warehouse, size.rounds)
            for tick in range(size.ticks):
                began.append(time.time())
                _tick(log, con, size, tick)
                if (tick + 1) % size.hour:
                    continue
                full = (tick + 1) % size.day == 0
                done = _maintained(warehouse, began, size, full=full)
                found["full" if full else "light"].append(done.seconds)
                if full:
                    found["end"] = _left(log, done.after)
                    say(f"week: after {tick + 1:,} ticks {found['end']}")
                    found.setdefault("first day", found["end"])
            found["tick"] = (time.time() - began[0]) / size.ticks
            found["queries at end"] = _timed(warehouse, size.rounds)
            _check(con)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _maintained(warehouse: Warehouse, began: list[float], size: Size, *, full: bool) -> Maintenance:
    def since(ticks: int) -> timedelta:
        """The real time that so many simulated minutes took; longer than all of it at first."""
        if len(began) <= ticks:
            return timedelta(days=1)
        return timedelta(seconds=time.time() - began[-ticks])

    day = size.day
    limits = maintenance.Limits(since(day), since(day // 4), since(day), since(7 * day))
    done = maintenance.maintain(warehouse, limits, full=full)
    assert not done.failures, done.failures
    return done


def _left(log: ChangeLog, sizes: Sizes) -> dict[str, float]:
    ((ledger,),) = log.query("SELECT count(*) FROM tailrace.ledger")
    return {
        "files": sizes.files,
        "old files": sizes.old_files,
        "snapshots": sizes.snapshots,
        "catalog MB": sizes.catalog_bytes / 10**6,
        "ledger rows": ledger,
    }


def _timed(warehouse: Warehouse, rounds: int) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {}
    with connect(warehouse, read_only=True) as con:
        for number in range(rounds + 1):
            for name, sql in QUERIES.items():
                begun = time.perf_counter()
                con.execute(sql).fetchall()
                if number:
                    spent.setdefault(name, []).append(time.perf_counter() - begun)
    return spent


# ------------------------------------------------------------------------------------ a minute


def _models(log: ChangeLog, warehouse: Warehouse, size: Size) -> duckdb.DuckDBPyConnection:
    """A live table, and a connection on which its models have been built."""
    now = datetime.now(UTC)
    key = (KeyAttribute("pk", "S"),)
    table = TableDescription(MODEL, "arn", "id", key, STREAM, "NEW_IMAGE")
    epoch = Epoch(1, "full", "scan", OPEN, "id", STREAM, now, now, {"segments": 1})
    log.open_epoch(MODEL, table, epoch)
    text = "\n".join(json.dumps(_item(n, 0)) for n in range(size.keys))
    items = Staged(Shape.ITEMS, (Lines.of(text.encode()),), size.keys, now)
    base = PartProgress(Part("base", "scan", "arn", "0"), None, None, True, size.keys, 0)
    log.commit(MODEL, Commit(epoch, (base,), items))
    log.commit(MODEL, Commit(epoch, state=BASE_COMPLETE, at=now))
    log.commit(MODEL, Commit(_epoch(log.head(MODEL)), state=LIVE, at=now))
    con = connect(warehouse)
    con.execute("SET ducklake_max_retry_count = 0")
    for name in ("states", "latest"):
        con.execute(f"CREATE TABLE analytics.{MODEL}_{name} AS {_typed(0)}")
    con.execute(
        f"CREATE VIEW analytics.{MODEL} AS SELECT * EXCLUDE (_key, _version, _batch, _op, _image)"
        f" FROM analytics.{MODEL}_latest WHERE _op <> 'REMOVE'"
    )
    return con


def _typed(after: int) -> str:
    return f"""
        SELECT key AS _key, version AS _version, batch AS _batch, op AS _op, image AS _image,
            image->'pk'->>'S' AS pk, image->'state'->>'S' AS state,
            (image->'total'->>'N')::BIGINT AS total, image->'note'->>'S' AS note,
            changed_at AS _changed_at
        FROM changes.{MODEL} WHERE batch > {after}
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY version DESC) = 1"""


def _tick(log: ChangeLog, con: duckdb.DuckDBPyConnection, size: Size, tick: int) -> None:
    land(log, size, tick)
    merge(con)


def land(log: ChangeLog, size: Size, tick: int) -> None:
    """Commits the changes of a minute, as a drain does."""
    dice = random.Random(tick)
    keys = dice.sample(range(size.keys), size.changes)
    text = "".join(_record(key, tick, place) for place, key in enumerate(keys))
    head = log.head(MODEL)
    shard = SHARDS[tick % len(SHARDS)]
    stands = head.positions.get(shard, Position()).at
    now = datetime.now(UTC)
    part = PartProgress(shard, stands, f"{tick}", False, size.changes, 9_000, now, now)
    shape = Shape.STREAM_RECORDS
    records = Staged(shape, (texts_of(shape, text.encode()),), size.changes)
    proof = PassRecord(f"{tick}", now, now, True, 2, 2, 6)
    log.commit(MODEL, Commit(_epoch(head), (part,), records, pass_record=proof))


def merge(con: duckdb.DuckDBPyConnection) -> None:
    """Brings the models up to date, with the statements that dbt runs."""
    ((merged,),) = con.execute(f"SELECT max(_batch) FROM analytics.{MODEL}_latest").fetchall()
    con.execute(f"CREATE OR REPLACE TEMP TABLE newest AS {_typed(merged)}")
    ((appended,),) = con.execute(f"SELECT max(_batch) FROM analytics.{MODEL}_states").fetchall()
    if appended == merged:
        con.execute(f"INSERT INTO analytics.{MODEL}_states BY NAME FROM newest")
    con.execute(
        f"MERGE INTO analytics.{MODEL}_latest AS merged USING newest ON newest._key = merged._key"
        " WHEN MATCHED AND newest._version > merged._version THEN UPDATE BY NAME"
        " WHEN NOT MATCHED THEN INSERT BY NAME"
    ).fetchall()


def _check(con: duckdb.DuckDBPyConnection) -> None:
    """The merged table is what the log says."""
    ((keys, wrong),) = con.execute(f"""
        SELECT count(*), count(*) FILTER (latest._version IS DISTINCT FROM newest.version)
        FROM (SELECT key, max(version) AS version FROM changes.{MODEL} GROUP BY key) AS newest
        FULL JOIN analytics.{MODEL}_latest AS latest ON latest._key = newest.key""").fetchall()
    assert not wrong, f"{wrong} of {keys} keys are not the newest"


def _epoch(head: Head) -> Epoch:
    assert head.epoch is not None
    return head.epoch


def _item(key: int, tick: int) -> dict[str, Any]:
    return {
        "pk": {"S": f"k-{key}"},
        "state": {"S": ("open", "paid", "sent")[(key + tick) % 3]},
        "total": {"N": str((key * 7 + tick) % 1_000)},
        "note": {"S": f"{hash((key, tick)) & 2**64 - 1:064x}"},
    }


def _record(key: int, tick: int, place: int) -> str:
    change = {
        "ApproximateCreationDateTime": 1_790_000_000 + 60 * tick,
        "Keys": {"pk": {"S": f"k-{key}"}},
        "NewImage": _item(key, tick),
        "SequenceNumber": str(10**20 + tick * 1_000 + place),
    }
    return json.dumps({"eventName": "MODIFY", "dynamodb": change}) + "\n"

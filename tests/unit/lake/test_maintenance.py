"""Maintenance makes fewer files, rows and snapshots, and changes nothing that anybody can see."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailrace.capture.stage import texts_of
from tailrace.config import Warehouse
from tailrace.lake import maintenance
from tailrace.lake.attach import connect
from tailrace.lake.log import ChangeLog
from tailrace.lake.maintenance import Limits, maintain
from tailrace.lake.schema import inline_ledger_sql
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    Commit,
    Epoch,
    Gap,
    KeyAttribute,
    Maintenance,
    Part,
    PartProgress,
    PassRecord,
    Shape,
    Staged,
    TableDescription,
)
from tests.integration.replica import files_needed, files_on_disk

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TABLE = TableDescription("t", "arn", "id", (KeyAttribute("pk", "S"),), "stream", "NEW_IMAGE")
EPOCH = Epoch(1, "full", "scan", OPEN, "id", "stream", NOW, NOW, {})
LIVING = Epoch(1, "full", "scan", LIVE, "id", "stream", NOW, NOW, {})
SEGMENTS = [Part("base", "scan", "arn", str(n)) for n in range(2)]
SHARDS = [Part("stream", "dynamodb_streams", "stream", f"shard-{n}") for n in range(3)]
NO_TIME = timedelta()
AT_ONCE = Limits(keep=NO_TIME, grace=NO_TIME, orphans=NO_TIME, ledger=NO_TIME)
MINUTES = 20


def warehouse_in(folder: Path) -> Warehouse:
    return Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse after a base, and some minutes of a table of which every key changes."""
    folder = tmp_path_factory.mktemp("lived")
    warehouse = warehouse_in(folder)
    with ChangeLog(warehouse) as log:
        log.open_epoch("t", TABLE, EPOCH)
        for part in SEGMENTS:
            log.commit("t", Commit(EPOCH, (PartProgress(part, None, None, True, 0, 0),)))
        log.commit("t", Commit(EPOCH, state=BASE_COMPLETE, at=NOW))
        complete = Epoch(1, "full", "scan", BASE_COMPLETE, "id", "stream", NOW, NOW, {})
        log.commit("t", Commit(complete, state=LIVE, at=NOW))
        gap = Gap(NOW, NOW, NOW, "for this test")
        log.commit("t", Commit(LIVING, gap=gap))
        with connect(warehouse) as con:
            con.execute("CREATE TABLE analytics.t_latest (key VARCHAR, n BIGINT)")
            con.execute("CREATE TABLE analytics.t_states (key VARCHAR, n BIGINT)")
            for minute in range(MINUTES):
                _minute(log, con, minute)
    return folder


@pytest.fixture
def warehouse(original: Path, tmp_path: Path) -> Warehouse:
    """A copy of it that is the test's own."""
    return copied(original, tmp_path)


def copied(original: Path, folder: Path) -> Warehouse:
    warehouse = warehouse_in(folder)
    shutil.copytree(original / "data", folder / "data")
    shutil.copy(original / "catalog.sqlite", folder / "catalog.sqlite")
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as con, con:
        con.execute(
            "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'", [f"{folder}/data/"]
        )
    return warehouse


def _minute(log: ChangeLog, con: duckdb.DuckDBPyConnection, minute: int) -> None:
    shard = SHARDS[minute % len(SHARDS)]
    head = log.head("t")
    stands = head.positions[shard].at if shard in head.positions else None
    text = "\n".join(json.dumps(_record(minute, n)) for n in range(30))
    staged = Staged(Shape.STREAM_RECORDS, (texts_of(Shape.STREAM_RECORDS, text.encode()),), 30)
    progress = PartProgress(shard, stands, f"{minute:05}", False, 30, 3_000, NOW, NOW)
    complete = minute % 10 != MINUTES % 10
    record = PassRecord(f"pass-{minute}", NOW + timedelta(minutes=minute), NOW, complete, 3, 3, 9)
    log.commit("t", Commit(LIVING, (progress,), staged))
    log.commit("t", Commit(LIVING, pass_record=record))
    changes = f"SELECT 'k' || ((n * 7 + {minute}) % 40) AS key, {minute} AS n FROM range(20) r(n)"
    con.execute(f"INSERT INTO analytics.t_states {changes}")
    con.execute(
        f"MERGE INTO analytics.t_latest AS merged USING ({changes}) AS newest"
        " ON newest.key = merged.key WHEN MATCHED THEN UPDATE BY NAME"
        " WHEN NOT MATCHED THEN INSERT BY NAME"
    ).fetchall()


def _record(minute: int, number: int) -> dict[str, Any]:
    key = {"pk": {"S": f"k{number}"}}
    return {
        "eventName": "MODIFY",
        "dynamodb": {
            "Keys": key,
            "NewImage": key | {"n": {"N": str(minute)}},
            "SequenceNumber": f"{minute * 100 + number}",
            "ApproximateCreationDateTime": NOW.timestamp(),
        },
    }


def seen(warehouse: Warehouse) -> dict[str, Any]:
    """Everything that a reader can see of the tables."""
    tables = ("changes.t", "analytics.t_latest", "analytics.t_states", "tailrace.epochs")
    with connect(warehouse, read_only=True) as con:
        return {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in tables}


def done(result: Maintenance, name: str) -> int:
    assert result.failures == ()
    return sum(step.done for step in result.steps if step.name == name)


def test_it_changes_sizes_and_nothing_that_anyone_sees(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LEDGER_ROWS", 1)
    monkeypatch.setattr(maintenance, "FLUSH_ROWS", 10)
    before = seen(warehouse)
    with ChangeLog(warehouse) as log:
        head = log.head("t")
        unrelated = log.query("SELECT sum(row_count), sum(byte_count) FROM tailrace.ledger")
    result = maintain(warehouse, AT_ONCE)
    assert result.failures == ()
    assert seen(warehouse) == before
    with ChangeLog(warehouse) as log:
        assert log.head("t") == head
        assert log.query("SELECT sum(row_count), sum(byte_count) FROM tailrace.ledger") == unrelated
        assert len(log.query("FROM tailrace.ledger WHERE kind = 'pass'")) == 2
        assert len(log.query("FROM tailrace.ledger WHERE kind = 'stream'")) == 2 * len(SHARDS)
    waiting = {each.name: each.inlined_rows for each in result.before.tables if each.inlined_rows}
    assert waiting.keys() == {"tailrace.ledger"}  # what analysts query is in files alone
    assert done(result, "flush") == waiting["tailrace.ledger"] > 2 * MINUTES
    assert done(result, "ledger") == (MINUTES - 2) + (MINUTES - len(SHARDS))
    assert (result.before.rows, result.after.snapshots) == (result.after.rows + 2 * MINUTES - 8, 1)
    assert result.before.files > 40 > 20 > result.after.files
    assert result.after.old_files == 0
    assert files_on_disk(warehouse) == files_needed(warehouse)


def test_objects_that_may_be_listed_again_are_not_forgotten(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LEDGER_ROWS", 1)
    objects = Part("stream", "firehose", "arn:aws:s3:::b/p*", "objects")
    with ChangeLog(warehouse) as log:
        stands = None
        for day in range(1, 21, 3):
            at = f"2026-11-{day:02}T12:00:00Z/{day:012}"
            read = PartProgress(objects, stands, at, False, 0, 0, detail={"objects": [f"o{day}"]})
            log.commit("t", Commit(LIVING, (read,)))
            stands = at
    assert done(maintain(warehouse, AT_ONCE), "ledger") > 4
    with ChangeLog(warehouse) as log:
        assert log.head("t").positions[objects].at == stands
        assert log.delivered("t", objects, "") == {"o13", "o16", "o19"}


def test_a_second_one_finds_nothing_to_do(warehouse: Warehouse) -> None:
    maintain(warehouse, AT_ONCE)
    files = files_on_disk(warehouse)
    again = maintain(warehouse, AT_ONCE)
    assert [step.name for step in again.steps if step.done and step.name != "catalog"] == []
    assert files_on_disk(warehouse) == files


def test_commits_go_on_from_what_it_left(
    original: Path, warehouse: Warehouse, tmp_path: Path
) -> None:
    other = copied(original, tmp_path / "other")
    for each, kept in ((warehouse, True), (other, False)):
        with ChangeLog(each) as log, connect(each) as con:
            for minute in range(MINUTES, MINUTES + 4):
                if kept:
                    assert maintain(each, AT_ONCE).failures == ()
                _minute(log, con, minute)
    assert without_landed_at(seen(warehouse)) == without_landed_at(seen(other))


def without_landed_at(tables: dict[str, Any]) -> dict[str, Any]:
    return {**tables, "changes.t": [row[:-1] for row in tables["changes.t"]]}


def test_what_a_reader_or_time_travel_may_need_stays(warehouse: Warehouse) -> None:
    with connect(warehouse, read_only=True) as reader:
        reader.execute("BEGIN")
        query = "SELECT count(*), sum(n) FROM analytics.t_latest"
        expected = reader.execute(query).fetchall()
        ((snapshot,),) = reader.execute(
            "SELECT id FROM ducklake_current_snapshot('lake')"
        ).fetchall()
        with connect(warehouse) as writer:
            writer.execute("UPDATE analytics.t_latest SET n = n + 1").fetchall()
        result = maintain(warehouse, Limits(keep=timedelta(days=1)))
        assert done(result, "files") > 0
        assert (done(result, "snapshots"), done(result, "clean"), done(result, "orphans")) == (
            (0, 0, 0)
        )
        assert reader.execute(query).fetchall() == expected
    with connect(warehouse, read_only=True) as reader:
        at = f"AT (VERSION => {snapshot})"
        assert reader.execute(f"{query} {at}").fetchall() == expected


def test_snapshots_and_files_stay_for_their_time_to_the_second(warehouse: Warehouse) -> None:
    """DuckLake compares the times in a SQLite catalog as texts of two forms: by itself it would
    take everything of today for older than any time of today."""
    hour, moment = timedelta(hours=1), timedelta(milliseconds=1)
    kept = maintain(warehouse, Limits(keep=hour, grace=hour))
    assert (done(kept, "snapshots"), done(kept, "clean")) == (0, 0)
    assert kept.after.old_files > 0
    time.sleep(0.05)
    expired = maintain(warehouse, Limits(keep=moment, grace=hour))
    assert done(expired, "snapshots") == kept.after.snapshots - 1
    assert done(expired, "clean") == 0
    time.sleep(0.05)
    cleaned = maintain(warehouse, Limits(keep=hour, grace=moment))
    assert done(cleaned, "clean") == expired.after.old_files
    assert cleaned.after.old_files == 0


def test_files_of_writers_that_were_killed_go_and_those_of_others_stay(
    warehouse: Warehouse,
) -> None:
    known = next(iter(files_on_disk(warehouse)))
    orphan = Path(known).with_name("ducklake-killed.parquet")
    orphan.write_bytes(b"x")
    young = maintain(warehouse, Limits())
    assert (done(young, "orphans"), orphan.exists()) == (0, True)
    assert done(maintain(warehouse, Limits(orphans=NO_TIME)), "orphans") == 1
    assert not orphan.exists()
    for number in range(maintenance.ORPHANS_MOST + 1):
        orphan.with_name(f"foreign-{number}.parquet").touch()
    refused = maintain(warehouse, Limits(orphans=NO_TIME))
    [failure] = refused.failures
    assert "belong to nothing that the catalog knows" in failure
    assert orphan.with_name("foreign-7.parquet").exists()


def test_a_light_one_leaves_the_ledger_and_orphans(warehouse: Warehouse) -> None:
    names = [step.name for step in maintain(warehouse, AT_ONCE, full=False).steps]
    assert names == ["files", "snapshots", "clean", "catalog"]


def test_a_step_that_fails_does_not_hold_up_the_rest(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "droppable_sql", lambda *_: "no_such_column = 1")
    result = maintain(warehouse, AT_ONCE, log_days={"t": 2, "u": 2})
    assert [failure.partition(":")[0] for failure in result.failures] == ["log t", "log u"]
    assert result.after.snapshots == 1


def test_the_ledger_waits_in_the_catalog_again_after_one_that_was_killed(
    warehouse: Warehouse,
) -> None:
    with connect(warehouse) as con:
        con.execute(inline_ledger_sql(0))
    maintain(warehouse, AT_ONCE)
    with ChangeLog(warehouse) as log, connect(warehouse) as con:
        folder = Path(warehouse.data_path, "tailrace")
        files = list(folder.rglob("*"))
        _minute(log, con, MINUTES)
        assert list(folder.rglob("*")) == files


def test_writers_go_on_while_it_runs(warehouse: Warehouse) -> None:
    stopping = threading.Event()
    results: list[Maintenance] = []

    def keep() -> None:
        while not stopping.is_set():
            results.append(maintain(warehouse, AT_ONCE))

    keeper = threading.Thread(target=keep)
    keeper.start()
    with ChangeLog(warehouse) as log:
        for minute in range(10):
            head = log.head("t")
            shard = SHARDS[0]
            progress = PartProgress(shard, head.positions[shard].at, f"at {minute}", False, 0, 0)
            log.commit("t", Commit(LIVING, (progress,)))
    stopping.set()
    keeper.join()
    assert [failure for result in results for failure in result.failures] == []
    with ChangeLog(warehouse) as log:
        assert log.head("t").positions[SHARDS[0]].at == "at 9"

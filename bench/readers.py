"""Readers beside writers: four processes query all the time, as docs/analysts.md has it, while
drains, merges and maintenance run. How many saw an error, half of a commit, or an older state than
before; and how long a writer took at the most, with readers and without.

`python -m bench readers --seconds 600` is the long form. Every drain changes every key, so all rows
of a table come of one batch, and that may only grow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from bench import week
from bench.measure import ROOT
from bench.report import Figure
from tailrace.config import Warehouse
from tailrace.lake import log as change_log
from tailrace.lake import maintenance
from tailrace.lake.attach import extension_path
from tailrace.lake.log import ChangeLog, is_lost_race
from tailrace.lake.turns import turn

READERS = 4
KEYS = 200
MERGES_A_MAINTENANCE = 4
# Longer than any of these queries takes.
STAYS = timedelta(seconds=15)
PATIENCE_SECONDS = 120

QUERIES = (
    "SELECT count(*), min(_batch), max(_batch) FROM analytics.orders_latest",
    f"SELECT {KEYS}, max(_batch), max(_batch) FROM analytics.orders_states"
    f" HAVING count(*) % {KEYS} = 0",
    f"SELECT {KEYS}, max(batch), max(batch) FROM changes.orders HAVING count(*) % {KEYS} = 0",
    "SELECT count(*), any_value(batch), any_value(batch) FROM analytics.orders,"
    " (SELECT max(_batch) AS batch FROM analytics.orders_latest)",
)


@dataclass
class Found:
    """What a reader saw, and how often."""

    queries: int = 0
    errors: list[str] = field(default_factory=list)
    partial: int = 0
    steps_back: int = 0
    slowest: float = 0.0


def run(seconds: float, tell: Callable[[str], None]) -> list[Figure]:
    """Figures of a run of so many seconds with readers, after a quarter of that in which the
    readers keep the machine as busy, but with another warehouse."""
    tell(f"readers: {READERS}, {seconds / 4:.0f} s elsewhere, then {seconds:.0f} s here")
    alone = beside_readers(seconds / 4, elsewhere=True)
    found = beside_readers(seconds)
    for text in [*found["errors"][:5], *found["writer errors"][:5]]:
        tell(f"readers: {text}")
    waited = max(found["slowest commit"] - alone["slowest commit"], 0.0)
    return [
        Figure("readers", "queries", found["queries"], ""),
        Figure("readers", "errors", len(found["errors"]), "", (), "0", not found["errors"]),
        Figure("readers", "partial states", found["partial"], "", (), "0", not found["partial"]),
        Figure("readers", "steps back", found["steps back"], "", (), "0", not found["steps back"]),
        Figure("readers", "slowest query", found["slowest query"], "s"),
        Figure("readers", "drains", found["drains"], ""),
        Figure("readers", "merges", found["merges"], ""),
        Figure("readers", "maintenance runs", found["maintained"], ""),
        Figure(
            "readers", "locked catalogs, seen by writers", found["locked"], "", (), "",
            None, f"readers elsewhere: {alone['locked']}",
        ),
        Figure("readers", "slowest commit, readers elsewhere", alone["slowest commit"], "s"),
        Figure(
            "readers", "slowest commit", found["slowest commit"], "s", (),
            "≤ 1 s more", waited <= 1,
        ),
        Figure("readers", "SQLite's journal at the most", found["journal MB"], "MB"),
    ]  # fmt: skip


def beside_readers(seconds: float, *, elsewhere: bool = False) -> dict[str, Any]:
    """Writes for so many seconds while readers read the same warehouse, or one like it."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    warehouse = Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")
    size = week.Size(keys=KEYS, changes=KEYS)
    try:
        with ChangeLog(warehouse) as log, week._models(log, warehouse, size) as con:
            writers = _Writers(warehouse, log, con, size, folder)
            read_from = _copied(size, folder / "other") if elsewhere else folder
            command = [sys.executable, "-m", "bench.readers", str(read_from / "catalog.sqlite")]
            processes = [
                subprocess.Popen(
                    [*command, str(number), str(seconds)],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for number in range(READERS)
            ]
            writers.write(seconds, processes)
            said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
            week._check(con)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seen = [Found(**json.loads(text)) for text in said]
    return writers.found() | {
        "queries": sum(each.queries for each in seen),
        "errors": [error for each in seen for error in each.errors],
        "partial": sum(each.partial for each in seen),
        "steps back": sum(each.steps_back for each in seen),
        "slowest query": max((each.slowest for each in seen), default=0.0),
    }


def _copied(size: week.Size, folder: Path) -> Path:
    """Another warehouse of the kind, which nobody writes to."""
    folder.mkdir()
    warehouse = Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")
    with ChangeLog(warehouse) as log, week._models(log, warehouse, size):
        return folder


class _Writers:
    """A thread that drains, and one that merges and keeps the warehouse."""

    def __init__(
        self,
        warehouse: Warehouse,
        log: ChangeLog,
        con: duckdb.DuckDBPyConnection,
        size: week.Size,
        folder: Path,
    ) -> None:
        self._warehouse, self._log, self._con = warehouse, log, con
        self._size, self._folder = size, folder
        self._stopping = threading.Event()
        self._commits: list[float] = []
        self._errors: list[str] = []
        self._drains = self._merges = self._maintained = self._locked = 0
        self._journal = 0
        self._waited = 0.0

    def write(self, seconds: float, readers: list[subprocess.Popen[str]]) -> None:
        """Works for so many seconds, and until the last reader is done."""
        change_log.is_lost_race = self._noted  # type: ignore[assignment]
        change_log.turn = self._timed_turn
        drainer = threading.Thread(target=self._drain)
        drainer.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end or any(reader.poll() is None for reader in readers):
                self._merge()
                if self._merges % MERGES_A_MAINTENANCE == 0:
                    self._maintain()
                if time.monotonic() > end + PATIENCE_SECONDS:
                    break
        finally:
            self._stopping.set()
            drainer.join()
            change_log.is_lost_race = is_lost_race
            change_log.turn = turn
        self._merge()

    def found(self) -> dict[str, Any]:
        return {
            "drains": self._drains,
            "merges": self._merges,
            "maintained": self._maintained,
            "locked": self._locked,
            "writer errors": self._errors,
            "slowest commit": max(self._commits, default=0.0),
            "journal MB": self._journal / 10**6,
        }

    def _noted(self, error: BaseException) -> bool:
        self._locked += "database is locked" in str(error)
        return is_lost_race(error)

    @contextmanager
    def _timed_turn(self, warehouse: Warehouse) -> Iterator[None]:
        """A drain waits for other writers here, which is not what is measured."""
        begun = time.perf_counter()
        with turn(warehouse):
            self._waited += time.perf_counter() - begun
            yield

    def _drain(self) -> None:
        tick = 0
        while not self._stopping.is_set():
            tick += 1
            self._waited = 0.0
            begun = time.perf_counter()
            try:
                week.land(self._log, self._size, tick)
            except Exception as error:
                self._errors.append(str(error))
                return
            self._commits.append(time.perf_counter() - begun - self._waited)
            self._drains += 1
            journal = self._folder / "catalog.sqlite-wal"
            with suppress(FileNotFoundError):
                self._journal = max(self._journal, journal.stat().st_size)
            time.sleep(0.05)

    def _merge(self) -> None:
        for _ in range(20):
            try:
                with turn(self._warehouse):
                    week.merge(self._con)
                self._merges += 1
                return
            except duckdb.Error as error:
                if not self._noted(error):
                    raise
        self._errors.append("a merge lost 20 races")

    def _maintain(self) -> None:
        limits = maintenance.Limits(STAYS, STAYS, STAYS, STAYS)
        done = maintenance.maintain(self._warehouse, limits, full=self._maintained % 3 == 0)
        self._errors += done.failures
        self._maintained += 1


# --------------------------------------------------------------------------------- a reader


def read(catalog: str, number: int, seconds: float) -> Found:
    """Queries for so many seconds. Two of the readers connect anew all the time; one asks twice
    in a transaction, with time between."""
    found = Found()
    newest: dict[str, int] = {}
    end = time.monotonic() + seconds
    con = _attached(catalog)
    while time.monotonic() < end:
        try:
            if number % 2 and found.queries % 40 < len(QUERIES):
                con.close()
                con = _attached(catalog)
            for query in QUERIES:
                begun = time.perf_counter()
                rows = con.execute(query).fetchall()
                found.slowest = max(found.slowest, time.perf_counter() - begun)
                found.queries += 1
                _judge(found, rows, newest, query)
            if number == 0:
                _ask_twice(con, found)
        except duckdb.Error as error:
            found.errors.append(f"reader {number}: {error}")
            with suppress(duckdb.Error):
                con.execute("ROLLBACK")
    con.close()
    return found


def _judge(found: Found, rows: list[Any], newest: dict[str, int], query: str) -> None:
    if len(rows) != 1 or rows[0][0] != KEYS or rows[0][1] != rows[0][2] or rows[0][1] is None:
        found.partial += 1
        found.errors.append(f"half of a commit: {query} gave {rows}")
        return
    batch = rows[0][1]
    found.steps_back += batch < newest.get(query, 0)
    newest[query] = batch


def _ask_twice(con: duckdb.DuckDBPyConnection, found: Found) -> None:
    con.execute("BEGIN TRANSACTION READ ONLY")
    first = con.execute(QUERIES[0]).fetchall()
    time.sleep(1.5)
    found.partial += con.execute(QUERIES[0]).fetchall() != first
    found.queries += 2
    con.execute("COMMIT")


def _attached(catalog: str) -> duckdb.DuckDBPyConnection:
    """As docs/analysts.md says, but for where the extensions come from."""
    con = duckdb.connect()
    for name in ("sqlite_scanner", "ducklake"):
        con.execute(f"LOAD '{extension_path(name)}'")
    con.execute(f"ATTACH 'ducklake:sqlite:{catalog}' AS lake (READ_ONLY)")
    con.execute("USE lake.analytics")
    return con


if __name__ == "__main__":
    print(json.dumps(vars(read(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))

"""Keeping the warehouse small and quick while everybody goes on working with it.

Every minute leaves small files, deleted rows, snapshots and rows in the ledger. Each step here
finds for itself what is left to do and does it in short commits of its own, taking turns with the
other writers: so it may be killed anywhere, lose a race, and be run again. What a step replaces
stays on disk for as long as a query that began before may run. Which rows of a change log are not
needed any more is tailrace.lake.retention's business; when all this runs is the caller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

import duckdb

from tailrace.config import Warehouse
from tailrace.errors import Retryable, Terminal
from tailrace.lake.attach import (
    CATALOG,
    connect,
    extension_path,
    sqlite_path,
    without_password,
)
from tailrace.lake.log import is_lost_race
from tailrace.lake.retention import droppable_sql
from tailrace.lake.schema import CHANGES, CONTROL, INLINED_ROWS, LEDGER, inline_ledger_sql
from tailrace.lake.sql import bound, ident, literal, literals, value
from tailrace.lake.turns import turn
from tailrace.model import Maintenance, MaintenanceStep, Sizes, TableSize

Result = TypeVar("Result")

# DuckLake's catalog as DuckDB sees it beside the lake.
METADATA = f"__ducklake_metadata_{CATALOG}"

# Rows of small commits wait in the catalog until they are worth a file.
FLUSH_ROWS = 1_000

# Files are of one level up to the next of these sizes. Eight of a level become one of the next: so
# a row is written anew about once a level, and a table has few files at any size.
LEVEL_BYTES = (10**6, 8 * 10**6, 64 * 10**6, 512 * 10**6)
LEVEL_FILES = 8

# A file of which so much is deleted is written anew without it.
REWRITE_SHARE = 0.3

# The most that one commit writes anew, if it has a choice: others wait for their turn meanwhile.
COMMIT_BYTES = 256 * 10**6
COMMITS_A_TABLE = 50

# The ledger keeps the last of each shard, segment and file, and the sums; single steps this long.
LEDGER_DAYS = 7
LEDGER_ROWS = 1_000

# The objects that were read are needed for a week before the newest (stream.late_hours), and a day
# for times that lie across midnight.
OBJECTS_DAYS = 8

# A race lost so often in a row: the step is left for the next time.
ATTEMPTS = 8
WAIT_SECONDS = 0.2
WAIT_MAX_SECONDS = 5.0

# How long writers wait, at the most, for readers that keep SQLite's journal from being emptied.
CHECKPOINT_WAIT_MS = 500

# A transaction that is open on PostgreSQL may commit under the number that follows its snapshot:
# none after it may be free again before it has ended. Clocks differ less than this.
OPEN_TRANSACTION_MARGIN = timedelta(hours=1)


@dataclass(frozen=True)
class Limits:
    """How long things stay: `keep` snapshots, for time travel; `grace` files that are not the
    newest any more, because a query may have begun before; `orphans` files that nothing refers to,
    because a commit may be about to. With no grace at all nothing waits."""

    keep: timedelta = timedelta(days=1)
    grace: timedelta = timedelta(hours=6)
    orphans: timedelta = timedelta(days=1)
    ledger: timedelta = timedelta(days=LEDGER_DAYS)


@dataclass(frozen=True)
class _File:
    """A data file of a table as it is now: rows in it, and how many of them are deleted."""

    path: str
    bytes: int
    rows: int
    deleted: int

    @property
    def share_deleted(self) -> float:
        return self.deleted / self.rows if self.rows else 0.0


def maintain(
    warehouse: Warehouse,
    limits: Limits,
    *,
    full: bool = True,
    log_days: Mapping[str, float] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[MaintenanceStep], None] = lambda _: None,
) -> Maintenance:
    """Does what is left to do; the sizes before and after, and each step.

    A light one (not `full`) merges, expires and cleans, which reads the catalog and small
    files only. `log_days` are the models whose change logs do not keep all rows, and for how many
    days they do. What fails, or stays busy, stands in `failures`, and does not hold up the rest."""
    begun = time.monotonic()
    with _Upkeep(warehouse, limits, stopped) as upkeep:
        before = upkeep.sizes()
        steps = []
        for name, work in upkeep.steps(full, log_days or {}):
            step = upkeep.step(name, work)
            steps.append(step)
            tell(step)
        after = upkeep.sizes()
        return Maintenance(
            before, after, tuple(steps), tuple(upkeep.failures), time.monotonic() - begun
        )


def sizes(warehouse: Warehouse) -> Sizes:
    """How large the warehouse is now."""
    con = connect(warehouse, read_only=True)
    try:
        return _sizes(con, warehouse)
    finally:
        con.close()


class _Upkeep:
    """A connection of its own for one run; opened anew where a step has broken it."""

    def __init__(self, warehouse: Warehouse, limits: Limits, stopped: Callable[[], bool]) -> None:
        self._warehouse = warehouse
        self._limits = limits
        self._stopped = stopped
        self.failures: list[str] = []
        self._con = self._opened()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        con = connect(self._warehouse)
        con.execute("SET ducklake_max_retry_count = 0")
        return con

    def __enter__(self) -> _Upkeep:
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def sizes(self) -> Sizes:
        return _sizes(self._con, self._warehouse)

    def steps(
        self, full: bool, log_days: Mapping[str, float]
    ) -> Iterator[tuple[str, Callable[[], Iterator[int]]]]:
        """What to do, in order: each yields how many rows, files or snapshots a commit of it has
        done with."""
        if full:
            # Rarely: at the moment of a flush, a reader of a SQLite catalog may see the ledger
            # without the rows that were inlined (tailrace.lake.log.ChangeLog.head reads again).
            yield "flush", self._flush
            yield "ledger", self._compact_ledger
        for model, days in (log_days if full else {}).items():
            yield f"log {model}", partial(self._drop_rows, model, days)
        yield "files", self._compact_files
        yield "snapshots", self._expire
        yield "clean", self._clean
        if full:
            yield "orphans", self._clean_orphans
        if sqlite_path(self._warehouse):
            yield "catalog", self._checkpoint

    def step(self, name: str, work: Callable[[], Iterator[int]]) -> MaintenanceStep:
        """Runs a step to its end, or to where it fails."""
        begun, done = time.monotonic(), 0
        try:
            for count in work():
                done += count
                if self._stopped():
                    break
        except (duckdb.Error, Retryable, Terminal) as error:
            text = without_password(str(error).strip().partition("\n\nStack Trace")[0])
            self.failures.append(f"{name}: {text}")
            # DuckDB takes nothing more of a database in which something internal went wrong.
            with suppress(duckdb.Error):
                self._con.close()
            self._con = self._opened()
        return MaintenanceStep(name, done, time.monotonic() - begun)

    # ------------------------------------------------------------------------- inlined rows

    def _flush(self) -> Iterator[int]:
        """Writes rows that wait in the catalog into files, where they are many. A run that was
        killed while it deleted from the ledger has left its inlining off."""
        ((limit,),) = self._fetch(
            "SELECT max(value) FROM ducklake_options('lake')"
            " WHERE option_name = 'data_inlining_row_limit' AND scope = 'TABLE'"
            f" AND scope_entry = {literal(f'{CONTROL}.{LEDGER}')}"
        )
        if limit != str(INLINED_ROWS):
            self._inline_ledger(INLINED_ROWS)
        for (schema, table), rows in _inlined_rows(self._con).items():
            if rows >= FLUSH_ROWS:
                yield self._flushed(schema, table)

    def _flushed(self, schema: str, table: str) -> int:
        flushed = self._commit(
            lambda: self._fetch(
                f"CALL ducklake_flush_inlined_data({literal(CATALOG)}, schema_name => "
                f"{literal(schema)}, table_name => {literal(table)})"
            )
        )
        return sum(int(row[2]) for row in flushed)

    def _inline_ledger(self, rows: int) -> None:
        self._commit(lambda: self._fetch(inline_ledger_sql(rows)))

    @contextmanager
    def _in_files_alone(self, schema: str, table: str) -> Iterator[None]:
        """All rows of the table are in files, and what is deleted meanwhile is noted in files as
        well: notes of deletions in the catalog have been counted twice by DuckLake."""
        if (schema, table) != (CONTROL, LEDGER):
            yield
            return
        self._inline_ledger(0)
        try:
            self._flushed(schema, table)
            yield
        finally:
            self._inline_ledger(INLINED_ROWS)

    # -------------------------------------------------------------------------------- files

    def _compact_files(self) -> Iterator[int]:
        """Makes one file of many small ones, and writes files anew of which much is deleted."""
        for schema, table, files in _tables(self._con):
            if files < 2 and not self._is_due(schema, table):
                continue
            for _ in range(COMMITS_A_TABLE):
                done = self._compact_some(schema, table)
                if not done:
                    break
                yield done

    def _is_due(self, schema: str, table: str) -> bool:
        return any(each.share_deleted >= REWRITE_SHARE for each in self._files(schema, table))

    def _compact_some(self, schema: str, table: str) -> int:
        """One commit's worth of a table's files; how many they were."""
        files = self._files(schema, table)
        small, bound_bytes = _small_files(files)
        if small and not any(each.deleted for each in small):
            merged = self._commit(
                lambda: self._fetch(
                    f"CALL ducklake_merge_adjacent_files({literal(CATALOG)}, {literal(table)},"
                    f" schema => {literal(schema)}, max_compacted_files => 1,"
                    f" max_file_size => {bound_bytes})"
                )
            )
            return sum(int(row[2]) for row in merged)
        if not small and not _worn_files(files):
            return 0
        with self._in_files_alone(schema, table):
            return self._commit(lambda: self._write_anew(schema, table))

    def _write_anew(self, schema: str, table: str) -> int:
        """Writes the rows of some files into new ones, by an UPDATE that changes nothing: DuckLake
        itself rewrites all files of a table in one commit, however large, or none that is small
        and has deletions. How many files they were."""
        column = self._first_column(schema, table)
        with self._transaction():
            files = self._files(schema, table)
            chosen = _within(COMMIT_BYTES, _small_files(files)[0] or _worn_files(files))
            if not chosen:
                return 0
            ((written,),) = self._fetch(
                f"UPDATE {ident(CATALOG, schema, table)} SET {column} = {column}"
                f" WHERE filename IN (SELECT unnest({literals(each.path for each in chosen)}))"
            )
            expected = sum(each.rows - each.deleted for each in chosen)
            if written != expected:
                raise Terminal(
                    f"{schema}.{table}: {expected} rows were to be written anew, but {written}"
                    " would have been.",
                    "Nothing was changed. Report it, with the catalog's copy if you can.",
                )
        return len(chosen)

    def _first_column(self, schema: str, table: str) -> str:
        ((name,),) = self._fetch(
            bound(
                "SELECT column_name FROM information_schema.columns WHERE table_catalog = ?"
                " AND table_schema = ? AND table_name = ? ORDER BY ordinal_position LIMIT 1",
                [CATALOG, schema, table],
            )
        )
        return ident(name)

    def _files(self, schema: str, table: str) -> list[_File]:
        rows = self._fetch(f"""
            WITH listed AS (
                SELECT data_file FROM ducklake_list_files({literal(CATALOG)}, {literal(table)},
                    schema => {literal(schema)}))
            SELECT listed.data_file, file.file_size_bytes, file.record_count,
                coalesce(gone.delete_count, 0)
            FROM listed
            JOIN {METADATA}.ducklake_data_file AS file
                ON parse_filename(file.path) = parse_filename(listed.data_file)
                AND file.end_snapshot IS NULL
            LEFT JOIN {METADATA}.ducklake_delete_file AS gone
                ON gone.data_file_id = file.data_file_id AND gone.end_snapshot IS NULL""")
        return [_File(str(path), int(size), int(n), int(gone)) for path, size, n, gone in rows]

    # --------------------------------------------------------------------- rows that may go

    def _compact_ledger(self) -> Iterator[int]:
        """Sums up old steps of each part, and forgets old passes. What a head is read from stays:
        the last row of each part, the last pass, and the last one that was complete; and so do the
        names of objects that may be listed again."""
        old = f"landed_at < {value(datetime.now(UTC) - self._limits.ledger)}"
        # A base's part belongs to an epoch; a shard is one part across epochs.
        part = "model, kind, source, origin, part, CASE WHEN kind = 'base' THEN epoch END"
        # Their position begins with the day of the newest (tailrace.capture.deliveries.mark).
        newest = f"left(max(position_to) OVER (PARTITION BY {part}), 10)"
        oldest = f"strftime(TRY_CAST({newest} AS DATE) - {OBJECTS_DAYS}, '%Y-%m-%d')"
        names = f"kind = 'stream' AND detail IS NOT NULL AND position_to >= {oldest}"
        ranked = f"""
            SELECT rowid AS id, *, {old}
                AND row_number() OVER (PARTITION BY {part} ORDER BY batch DESC) > 1
                AND row_number() OVER (PARTITION BY {part}, detail->>'$.complete'
                    ORDER BY batch DESC) > (kind = 'pass')::INTEGER
                AND NOT coalesce({names}, false) AS may_go
            FROM {ident(CONTROL, LEDGER)}"""
        ((count,),) = self._fetch(f"SELECT count(*) FROM ({ranked}) WHERE may_go")
        if count < LEDGER_ROWS:
            return

        def summed_up() -> None:
            with self._transaction():
                self._fetch(f"CREATE OR REPLACE TEMP TABLE gone AS {ranked} QUALIFY may_go")
                self._fetch(
                    f"DELETE FROM {ident(CONTROL, LEDGER)} WHERE rowid IN (SELECT id FROM gone)"
                )
                self._fetch(f"""
                    INSERT INTO {ident(CONTROL, LEDGER)}
                    SELECT model,
                        coalesce(max(batch) FILTER (WHERE row_count > 0), max(batch)), max(epoch),
                        kind, source, origin, part, arg_min(position_from, batch),
                        arg_max(position_to, batch), bool_or(finished), sum(row_count)::BIGINT,
                        sum(byte_count)::BIGINT, min(oldest_change), max(newest_change), NULL,
                        NULL, max(landed_at)
                    FROM gone WHERE kind <> 'pass' GROUP BY {part}""")

        with self._in_files_alone(CONTROL, LEDGER):
            self._commit(summed_up)
        yield int(count)

    def _drop_rows(self, model: str, days: float) -> Iterator[int]:
        """Deletes the rows of a change log that are not to be kept and not needed any more."""
        condition = droppable_sql(self._con, model, days)
        log = ident(CATALOG, CHANGES, model)
        if condition is None or not self._fetch(f"SELECT 1 FROM {log} WHERE {condition} LIMIT 1"):
            return
        ((count,),) = self._commit(lambda: self._fetch(f"DELETE FROM {log} WHERE {condition}"))
        yield int(count)

    # --------------------------------------------------------------- snapshots and old files

    def _expire(self) -> Iterator[int]:
        """Forgets old snapshots. Named one by one: DuckLake compares times in a SQLite catalog as
        texts of two forms, and so by the day alone."""
        before = datetime.now(UTC) - self._limits.keep
        opened = self._oldest_transaction()
        if opened is not None:
            before = min(before, opened - OPEN_TRANSACTION_MARGIN)
        ((found,),) = self._fetch(
            "SELECT list(snapshot_id ORDER BY snapshot_id) FROM ducklake_snapshots('lake')"
            f" WHERE snapshot_time < {value(before)}"
            " AND snapshot_id < (SELECT id FROM ducklake_current_snapshot('lake'))"
        )
        if found:
            call = f"CALL ducklake_expire_snapshots({literal(CATALOG)}, versions => {found})"
            self._commit(lambda: self._fetch(call))
            yield len(found)

    def _oldest_transaction(self) -> datetime | None:
        """Since when the oldest transaction is open on PostgreSQL. (One on SQLite cannot commit
        once another has.)"""
        if sqlite_path(self._warehouse):
            return None
        ((opened,),) = self._fetch(
            f"SELECT * FROM postgres_query({literal(METADATA)}, 'SELECT min(xact_start) FROM"
            " pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()')"
        )
        return opened if isinstance(opened, datetime) else None

    def _clean(self) -> Iterator[int]:
        """Deletes files that no snapshot has any more, after the time of grace."""
        which = "cleanup_all => true"
        if self._limits.grace > timedelta():
            which = f"older_than => {value(datetime.now(UTC) - self._limits.grace)}"

        def cleaned() -> int:
            if sqlite_path(self._warehouse):
                # DuckLake notes these times with a space and asks for them with a T, as texts:
                # every file of a day would be older than any time of that day.
                self._fetch(
                    f"UPDATE {METADATA}.ducklake_files_scheduled_for_deletion"
                    " SET schedule_start = replace(schedule_start, ' ', 'T')"
                    " WHERE contains(schedule_start, ' ')"
                )
            return len(self._fetch(f"CALL ducklake_cleanup_old_files({literal(CATALOG)}, {which})"))

        yield self._commit(cleaned)

    def _clean_orphans(self) -> Iterator[int]:
        """Deletes files that no commit has taken in: their writers were killed."""
        which = "cleanup_all => true"
        if self._limits.orphans > timedelta():
            which = f"older_than => {value(datetime.now(UTC) - self._limits.orphans)}"
        orphans = f"ducklake_delete_orphaned_files({literal(CATALOG)}, {which}"
        found = [row[0] for row in self._fetch(f"SELECT * FROM {orphans}, dry_run => true)")]
        if not found:
            return
        known = {PurePath(row[0]).name for row in self._fetch(_KNOWN_FILES)}
        _refuse_foreign(found, known, self._warehouse.data_path)
        yield len(self._commit(lambda: self._fetch(f"CALL {orphans})")))

    def _checkpoint(self) -> Iterator[int]:
        """Brings SQLite's journal back into its file and empties it, unless a reader needs it for
        longer than writers should wait."""
        path = sqlite_path(self._warehouse)
        con = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        try:
            con.execute(f"LOAD {literal(extension_path('sqlite_scanner'))}")
            con.execute(
                f"ATTACH {literal(str(path))} AS catalog"
                f" (TYPE sqlite, BUSY_TIMEOUT {CHECKPOINT_WAIT_MS})"
            )
            with turn(self._warehouse):
                ((busy, _, _),) = con.execute(
                    "SELECT * FROM sqlite_query('catalog', 'PRAGMA wal_checkpoint(TRUNCATE)')"
                ).fetchall()
        finally:
            con.close()
        yield 0 if int(busy) else 1

    # ------------------------------------------------------------------------- transactions

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        return self._con.execute(sql).fetchall()

    def _commit(self, body: Callable[[], Result]) -> Result:
        """Runs what makes one commit, again after each lost race.

        Raises Retryable where the race stays lost."""
        wait = WAIT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with turn(self._warehouse):
                    return body()
            except duckdb.Error as error:
                if not is_lost_race(error):
                    raise
                if attempt == ATTEMPTS:
                    raise Retryable(
                        f"the warehouse stayed busy: {ATTEMPTS} commits lost the race",
                        "It is done the next time.",
                    ) from error
            time.sleep(random.uniform(0, wait))  # noqa: S311
            wait = min(wait * 2, WAIT_MAX_SECONDS)
        raise AssertionError("unreachable")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.execute("BEGIN")
        try:
            yield
            self._con.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):
                self._con.execute("ROLLBACK")
            raise


# ------------------------------------------------------------------------------- which files


def _small_files(files: Sequence[_File]) -> tuple[list[_File], int]:
    """The files to make one of, and the size below which they are: those of the highest level of
    which there are many, and all that are smaller. Empty where there are few of every level."""
    for lower, upper in reversed(list(zip((0, *LEVEL_BYTES), LEVEL_BYTES, strict=False))):
        if sum(lower <= each.bytes < upper for each in files) >= LEVEL_FILES:
            return [each for each in files if each.bytes < upper], upper
    return [], 0


def _worn_files(files: Sequence[_File]) -> list[_File]:
    """The files of which much is deleted."""
    return [each for each in files if each.share_deleted >= REWRITE_SHARE]


def _within(most_bytes: int, files: Sequence[_File]) -> list[_File]:
    """The smallest of the files that are together of a size, and at least one."""
    chosen: list[_File] = []
    total = 0
    for each in sorted(files, key=lambda file: file.bytes):
        if chosen and total + each.bytes > most_bytes:
            break
        chosen.append(each)
        total += each.bytes
    return chosen


# ------------------------------------------------------------------------------------- sizes

_KNOWN_FILES = f"""
    SELECT path FROM {METADATA}.ducklake_data_file
    UNION ALL SELECT path FROM {METADATA}.ducklake_delete_file
    UNION ALL SELECT path FROM {METADATA}.ducklake_files_scheduled_for_deletion"""

# More files without an owner than this, and than have one, are not what killed writers have left.
ORPHANS_MOST = 1_000


def _refuse_foreign(orphans: Sequence[str], known: set[str], folder: str) -> None:
    """Raises Terminal where what looks like orphans is not: files that the catalog knows under
    another path, or another warehouse's in the same folder."""
    mistaken = [path for path in orphans if PurePath(path).name in known]
    if mistaken:
        raise Terminal(
            f"DuckLake takes {mistaken[0]} for a file that nothing refers to, but the catalog has"
            " it.",
            "Nothing was deleted. Is the data path a link, or written in two ways? Report it.",
        )
    if len(orphans) > max(ORPHANS_MOST, len(known)):
        raise Terminal(
            f"{len(orphans):,} files in {folder} belong to nothing that the catalog knows, which"
            f" has {len(known):,}.",
            "Nothing was deleted. If two warehouses share the folder, give one of them another;"
            " else remove what is not this warehouse's by hand.",
        )


def _tables(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, int]]:
    """Every table of the lake, by schema and name, and how many data files it has now."""
    return [
        (str(schema), str(table), int(files))
        for schema, table, files in con.execute(f"""
            SELECT holder.schema_name, found.table_name, count(file.data_file_id)
            FROM {METADATA}.ducklake_table AS found
            JOIN {METADATA}.ducklake_schema AS holder
                ON holder.schema_id = found.schema_id AND holder.end_snapshot IS NULL
            LEFT JOIN {METADATA}.ducklake_data_file AS file
                ON file.table_id = found.table_id AND file.end_snapshot IS NULL
            WHERE found.end_snapshot IS NULL GROUP BY ALL ORDER BY ALL""").fetchall()
    ]


def _inlined_rows(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], int]:
    """How many rows of each table wait in the catalog."""
    found = con.execute(f"""
        SELECT holder.schema_name, found.table_name, inlined.table_name
        FROM {METADATA}.ducklake_inlined_data_tables AS inlined
        JOIN {METADATA}.ducklake_table AS found
            ON found.table_id = inlined.table_id AND found.end_snapshot IS NULL
        JOIN {METADATA}.ducklake_schema AS holder
            ON holder.schema_id = found.schema_id AND holder.end_snapshot IS NULL
        ORDER BY ALL""").fetchall()
    waiting: dict[tuple[str, str], int] = {}
    for schema, table, name in found:
        ((rows,),) = con.execute(
            f"SELECT count(*) FROM {ident(METADATA, name)} WHERE end_snapshot IS NULL"
        ).fetchall()
        waiting[(schema, table)] = waiting.get((schema, table), 0) + int(rows)
    return waiting


def _sizes(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Sizes:
    inlined = _inlined_rows(con)
    rows = con.execute(f"""
        WITH files AS (
            SELECT file.table_id, count(*) AS files, count(gone.delete_file_id) AS delete_files,
                sum(file.file_size_bytes) + coalesce(sum(gone.file_size_bytes), 0) AS bytes,
                sum(file.record_count) - coalesce(sum(gone.delete_count), 0) AS rows
            FROM {METADATA}.ducklake_data_file AS file
            LEFT JOIN {METADATA}.ducklake_delete_file AS gone
                ON gone.data_file_id = file.data_file_id AND gone.end_snapshot IS NULL
            WHERE file.end_snapshot IS NULL GROUP BY ALL)
        SELECT holder.schema_name, found.table_name, coalesce(files.rows, 0),
            coalesce(files.files, 0), coalesce(files.delete_files, 0), coalesce(files.bytes, 0)
        FROM {METADATA}.ducklake_table AS found
        JOIN {METADATA}.ducklake_schema AS holder
            ON holder.schema_id = found.schema_id AND holder.end_snapshot IS NULL
        LEFT JOIN files ON files.table_id = found.table_id
        WHERE found.end_snapshot IS NULL ORDER BY ALL""").fetchall()
    tables = tuple(
        TableSize(
            name=f"{schema}.{table}",
            rows=int(count) + inlined.get((schema, table), 0),
            inlined_rows=inlined.get((schema, table), 0),
            files=int(files),
            delete_files=int(delete_files),
            bytes=int(size),
        )
        for schema, table, count, files, delete_files, size in rows
    )
    ((snapshots, known),) = con.execute(
        f"SELECT (SELECT count(*) FROM {METADATA}.ducklake_snapshot),"
        f" (SELECT count(*) FROM ({_KNOWN_FILES}))"
    ).fetchall()
    current = sum(each.files + each.delete_files for each in tables)
    return Sizes(tables, int(snapshots), int(known) - current, _catalog_bytes(con, warehouse))


def _catalog_bytes(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> int:
    path = sqlite_path(warehouse)
    if path is not None:
        parts = (path, path.with_name(f"{path.name}-wal"))
        return sum(part.stat().st_size for part in parts if part.exists())
    ((size,),) = con.execute(
        f"SELECT * FROM postgres_query({literal(METADATA)},"
        " 'SELECT sum(pg_total_relation_size(oid))::BIGINT FROM pg_class"
        " WHERE relkind = ''r'' AND starts_with(relname, ''ducklake_'')')"
    ).fetchall()
    return int(size or 0)

"""The change log and its ledger: what was staged becomes true in one DuckLake transaction.

The fence. A commit reads the ledger's head inside its transaction and DuckLake is told not to
retry (`ducklake_max_retry_count = 0`), so it can only become the snapshot that follows the one it
read: whatever anyone else committed meanwhile makes it fail, and it is tried again from a fresh
head. Two commits can therefore never both succeed from one position, however long one of them was
paused. That writers take turns (tailrace.lake.turns) only saves work; no law rests on it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, TypeVar

import duckdb

from tailrace.changes import Changes
from tailrace.config import Warehouse
from tailrace.errors import Retryable, Stale, Terminal
from tailrace.lake import discovery
from tailrace.lake.attach import catalog_file, connect, renew_s3_secret
from tailrace.lake.landing import rows_sql, span_sql
from tailrace.lake.schema import CHANGES, INLINED_ROWS, create_control_tables, create_log
from tailrace.lake.sql import Value, bound, ident, literal
from tailrace.lake.staged import columns_of, staging
from tailrace.lake.ties import Tied, settled
from tailrace.lake.turns import turn
from tailrace.lake.version import span_of, time_sql
from tailrace.lines import Lines
from tailrace.model import (
    LIVE,
    Commit,
    Epoch,
    Era,
    Gap,
    Head,
    KeyAttribute,
    Part,
    PartProgress,
    PassRecord,
    Position,
    Staged,
    TableDescription,
    passes_shown,
)

COMMIT_ATTEMPTS = 40
COMMIT_WAIT_SECONDS = 0.05
COMMIT_WAIT_MAX_SECONDS = 2.0
SECRET_SECONDS = 600.0

# What a lost race or a busy catalog says; anything else is not worth another try.
LOST_RACE = (
    "ducklake_max_retry_count",
    "database is locked",
    "Transaction conflict",
    "could not serialize access",
    "deadlock detected",
)

# What DuckDB says, on our behalf, of a staged row in which a key attribute is missing.
NO_KEY = "tailrace: a row without its key"
NO_VERSION = "tailrace: a row without its place in the order"

Result = TypeVar("Result")


class ChangeLog:
    """The warehouse as a writer sees it. Safe for threads of one process; any number of
    processes may hold one on the same warehouse. Close it (a context manager) when done."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._con = connect(warehouse)
        self._file = catalog_file(warehouse)
        self._threads = warehouse.threads or os.cpu_count() or 1
        self._secret_renewed_at = time.monotonic()
        self._con.execute("SET ducklake_max_retry_count = 0")
        self._mutex = threading.RLock()
        self._known: dict[str, dict[tuple[str, str], discovery.Attribute]] = {}
        self._heads: dict[str, tuple[int, Head]] = {}
        self._transact(create_control_tables)

    def __enter__(self) -> ChangeLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; an open transaction is rolled back."""
        self._con.close()

    def is_outdated(self) -> bool:
        """True where the catalog's file was removed or replaced since it was opened."""
        return catalog_file(self._warehouse) != self._file

    # ------------------------------------------------------------------------------- reading

    def head(self, model: str) -> Head:
        """Where the ledger of a table stands now; an empty Head for a table never seen."""
        with self._mutex:
            # Beside a SQLite catalog DuckLake reads files, then rows inlined there: a flush that
            # comes between hides rows from whoever is not in a turn.
            for _ in range(COMMIT_ATTEMPTS):
                head = self._head(self._con, model)
                marked = self._heads.get(model)
                if marked is not None and marked[0] == self._snapshot(self._con):
                    return head
            return head

    @staticmethod
    def _snapshot(con: duckdb.DuckDBPyConnection) -> int:
        ((snapshot,),) = con.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchall()
        return int(snapshot)

    def passes(self, model: str, last: int) -> list[PassRecord]:
        """The last passes over a table's stream, newest first."""
        rows = self.query(
            "SELECT detail::VARCHAR FROM tailrace.ledger"
            " WHERE model = ? AND kind = 'pass' ORDER BY batch DESC LIMIT ?",
            [model, last],
        )
        return [record for row in rows if (record := _pass_record(row[0]))]

    def delivered(self, model: str, part: Part, since: str) -> set[str]:
        """The keys of the objects that were read of a part, in commits that took it to the
        position `since` or further."""
        rows = self.query(
            "SELECT unnest(from_json(json_extract(detail, '/objects'), '[\"VARCHAR\"]'))"
            " FROM tailrace.ledger WHERE model = ? AND kind = 'stream' AND source = ?"
            " AND origin = ? AND part = ? AND detail IS NOT NULL AND position_to >= ?",
            [model, part.source, part.origin, part.id, since],
        )
        return {row[0] for row in rows}

    def query(
        self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of a read-only query over the warehouse; see tailrace.lake.sql.bound."""
        with self._mutex:
            return self._con.execute(bound(sql, parameters) if parameters else sql).fetchall()

    # ------------------------------------------------------------------------------- writing

    def open_epoch(
        self,
        model: str,
        table: TableDescription,
        epoch: Epoch,
        seen: Mapping[Part, int] | None = None,
        after: int | None = None,
    ) -> int:
        """Opens the epoch that follows the table's newest; returns the batch. `seen` are the
        shards that its stream has now, each with the epoch it is counted to. `after` is the batch
        after which it has to come at once, where that matters.

        Raises Stale where another run has opened it first, or has committed since `after`."""

        def body(con: duckdb.DuckDBPyConnection) -> int:
            create_log(con, model)
            return self._in_transaction(
                con, lambda: self._open_epoch(con, model, table, epoch, seen or {}, after)
            )

        return self._transact(body)

    def commit(self, model: str, commit: Commit) -> int:
        """Makes a commit true as a whole, or not at all; returns its batch.

        Raises Stale where the ledger has moved on, Retryable where the catalog stayed busy,
        Terminal where a staged row is not what the shape promises."""

        def body(con: duckdb.DuckDBPyConnection) -> int:
            try:
                batch = self._in_transaction(con, lambda: self._commit(con, model, commit))
            except _RepeatsError as found:  # seldom: so that all others need not be looked up
                again = found
                batch = self._in_transaction(con, lambda: self._commit(con, model, commit, again))
            self._move_head(model, commit)
            return batch

        return self._transact(body)

    def _head(self, con: duckdb.DuckDBPyConnection, model: str) -> Head:
        """The head as of the snapshot that `con` sees now, which a transaction keeps.

        A head is read again only where the warehouse has moved on. The snapshot is asked for
        before the head is read: where a commit comes between, the head is newer than its mark,
        and since snapshots only go forward, none can ask for it by that mark again."""
        snapshot = self._snapshot(con)
        marked = self._heads.get(model)
        if marked is None or marked[0] != snapshot:
            marked = (snapshot, _read_head(con, model))
            self._heads[model] = marked
        return marked[1]

    def _move_head(self, model: str, commit: Commit) -> None:
        """Takes the known head along with a commit that only moved parts, as most do; after any
        other it is read again. By the fence the commit became the snapshot that follows the head's;
        were it another one, the mark would not be found again."""
        snapshot, head = self._heads.pop(model)
        only_parts = commit.pass_record is commit.state is commit.gap is None
        if not commit.parts or not only_parts:
            return
        self._heads[model] = (snapshot + 1, _moved(head, commit))

    def _open_epoch(
        self,
        con: duckdb.DuckDBPyConnection,
        model: str,
        table: TableDescription,
        epoch: Epoch,
        seen: Mapping[Part, int],
        after: int | None,
    ) -> int:
        head = self._head(con, model)
        newest = head.epoch.number if head.epoch else 0
        if after is not None and head.batch != after:
            raise Stale(
                f"{model}: an epoch was to be opened after batch {after}, not {head.batch}."
            )
        if epoch.number != newest + 1:
            raise Stale(f"{model}: epoch {epoch.number} was to be opened, but {newest} is open.")
        batch = head.batch + 1
        con.execute(
            bound(
                "INSERT INTO tailrace.tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    model,
                    batch,
                    table.name,
                    table.arn,
                    table.table_id,
                    json.dumps([asdict(each) for each in table.key]),
                    table.stream_arn,
                    table.view_type,
                    epoch.opened_at,
                ],
            ),
        )
        _insert_epoch(con, model, batch, epoch, epoch.state, epoch.opened_at)
        for part, number in seen.items():
            stands = head.positions.get(part, Position(epoch=-1))
            if not stands.finished and stands.epoch < number:
                progress = PartProgress(part, stands.at, stands.at, False, 0, 0)
                seen_of = Commit(replace(epoch, number=number), (progress,))
                _insert_parts(con, model, batch, seen_of)
        return batch

    def _commit(
        self,
        con: duckdb.DuckDBPyConnection,
        model: str,
        commit: Commit,
        again: _RepeatsError | None = None,
    ) -> int:
        head = self._head(con, model)
        _check_fence(model, head, commit)
        assert head.table is not None
        batch = head.batch + 1
        if commit.staged is not None and commit.staged.rows:
            eras = head.eras(commit.epoch)
            landed = self._land(con, model, commit, batch, head.table.key, eras, again)
            commit = replace(commit, parts=_less(commit.parts, commit.staged.rows - landed))
        if commit.parts:
            _insert_parts(con, model, batch, commit)
        if commit.pass_record is not None:
            _insert_pass(con, model, batch, commit.epoch, commit.pass_record)
        if commit.state is not None:
            assert commit.at is not None
            detail = commit.epoch.detail if commit.detail is None else commit.detail
            noted = replace(commit.epoch, detail=detail)
            _insert_epoch(con, model, batch, noted, commit.state, commit.at)
        if commit.gap is not None:
            _insert_gap(con, model, batch, commit.epoch, commit.gap)
        return batch

    def _land(
        self,
        con: duckdb.DuckDBPyConnection,
        model: str,
        commit: Commit,
        batch: int,
        key: tuple[KeyAttribute, ...],
        eras: Sequence[Era],
        again: _RepeatsError | None,
    ) -> int:
        """Lands what is staged; returns the rows. With what a first try found, each record lands
        once, not if it stands in the log, and where old images tell that it belongs. Raises
        _RepeatsError where that is needed."""
        from tailrace.lake.walk import walk_all  # numba, which whoever only reads need not load

        staged, epoch = commit.staged, commit.epoch
        assert staged is not None
        log = ident(CHANGES, model)
        rows = rows_sql(staged.shape, key, epoch.number, staged.read_at, eras)
        known = list(self._attributes(con, model).values())
        try:
            texts = columns_of(staged)
            found: list[discovery.Attribute] = []
            if not known:
                with staging(con, texts):
                    found = discovery.discover(con, discovery.first_sql(rows), [])
            walked = walk_all(texts, known or found, key, self._threads)
            if again is not None:
                rows = _settled_sql(_once_sql(rows, log, again.span), again.ties)
            with staging(con, texts, walked.keys):
                landed = con.execute(
                    f"INSERT INTO {log} SELECT {batch},"
                    f" coalesce(version, error({literal(NO_VERSION)})), epoch, op,"
                    f" coalesce(key, error({literal(NO_KEY)})), image, old_image, changed_at,"
                    f" ttl_expired, looked_up, now() FROM ({rows})"
                ).fetchone()
            if not walked.familiar:
                batch_sql = f"(SELECT key, image FROM {log} WHERE batch = {batch})"
                found = discovery.discover(con, batch_sql, known)
        except (duckdb.InvalidInputException, ValueError) as error:
            if NO_KEY in str(error):
                raise _without_key(model, key) from error
            if NO_VERSION in str(error):
                raise _without_version(model) from error
            raise _malformed(model, staged) or error from error
        count = int(landed[0]) if landed else 0
        if count != staged.rows and again is None:
            raise Terminal(
                f"{model}: {staged.rows} rows were staged, but {count} were read.",
                "Nothing was committed. Run again. If it happens again, report it.",
            )
        if staged.repeats and again is None:
            _require_once(con, log, batch, _span(con, staged, epoch.number, eras))
        if found:
            con.execute(discovery.insert_sql(model, batch, found))
            # Learned only once committed: a rolled-back batch teaches nothing.
            self._learned = (model, found)
        return count

    def _attributes(
        self, con: duckdb.DuckDBPyConnection, model: str
    ) -> dict[tuple[str, str], discovery.Attribute]:
        if model not in self._known:
            rows = con.execute(
                bound(
                    "SELECT path, type, max(integer_digits), max(scale), min(example_key)"
                    " FROM tailrace.attributes WHERE model = ? GROUP BY path, type",
                    [model],
                ),
            ).fetchall()
            self._known[model] = {(row[0], row[1]): discovery.Attribute(*row) for row in rows}
        return self._known[model]

    # -------------------------------------------------------------------------- transactions

    _learned: tuple[str, list[discovery.Attribute]] | None = None

    def _in_transaction(self, con: duckdb.DuckDBPyConnection, body: Callable[[], Result]) -> Result:
        self._learned = None
        con.execute("BEGIN")
        try:
            result = body()
            con.execute("COMMIT")
        except BaseException:
            con.interrupt()  # else its other threads first end their part of what broke off
            with suppress(duckdb.Error):
                con.execute("ROLLBACK")
            raise
        if self._learned:
            model, found = self._learned
            self._known[model].update({(each.path, each.type): each for each in found})
        return result

    def _transact(self, body: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
        """Runs a transaction, again after each lost race, up to COMMIT_ATTEMPTS times."""
        wait = COMMIT_WAIT_SECONDS
        with self._mutex:
            if time.monotonic() - self._secret_renewed_at > SECRET_SECONDS:
                renew_s3_secret(self._con, self._warehouse)
                self._secret_renewed_at = time.monotonic()
            for attempt in range(1, COMMIT_ATTEMPTS + 1):
                try:
                    with turn(self._warehouse):
                        return body(self._con)
                except duckdb.Error as error:
                    with suppress(duckdb.Error):
                        self._con.execute("ROLLBACK")
                    if not is_lost_race(error):
                        raise _explained(error) from error
                    if attempt == COMMIT_ATTEMPTS:
                        raise Retryable(
                            f"The warehouse's catalog stayed busy: {COMMIT_ATTEMPTS} commits"
                            f" lost the race. The last one said: {error}",
                            "Look for a program that writes to the warehouse all the time;"
                            " then run again: nothing was lost.",
                        ) from error
                    time.sleep(random.uniform(0, wait))  # noqa: S311
                    wait = min(wait * 2, COMMIT_WAIT_MAX_SECONDS)
        raise AssertionError("unreachable")


class _RepeatsError(Exception):
    """Records landed that stand in the log already, or twice: their versions lie in `span`. `ties`
    is what becomes of those that only bear the same time, by key and version (None: nothing)."""

    def __init__(self, span: tuple[str, str], ties: Mapping[tuple[str, str], str | None]) -> None:
        super().__init__(span)
        self.span = span
        self.ties = ties


def _span(
    con: duckdb.DuckDBPyConnection, staged: Staged, epoch: int, eras: Sequence[Era]
) -> tuple[str, str]:
    """Between which versions everything lies that has the time of a staged change, or lies between
    two of them."""
    times = [each.micros for each in staged.texts if isinstance(each, Changes) and len(each)]
    first, last = min(int(each.min()) for each in times), max(int(each.max()) for each in times)
    ((least, greatest),) = con.execute(span_sql(epoch, eras, first, last)).fetchall()
    return span_of(least, greatest)


def _require_once(
    con: duckdb.DuckDBPyConnection, log: str, batch: int, span: tuple[str, str]
) -> None:
    """Raises _RepeatsError where a record of the batch has the key and the time of another row, and
    is that again, or stands in the wrong place beside it. `span` is between which versions the
    batch lies: they begin with their time, so few files are looked into."""
    within = f"version BETWEEN {literal(span[0])} AND {literal(span[1])}"
    place = f"hash(key, {time_sql('version')})"
    ((is_alone,),) = con.execute(
        f"SELECT count(*) = count(DISTINCT {place}) FROM {log} WHERE {within}"
    ).fetchall()
    if is_alone:  # as nearly always: each has a key and a time that no other one has
        return
    tied = (
        f"SELECT key, {time_sql('version')} AS time, count(DISTINCT version) > 1 AS tied,"
        f" count(*) > count(DISTINCT version) AS repeated FROM {log} WHERE {within} GROUP BY ALL"
        f" HAVING count(*) > 1 AND bool_or(batch = {batch})"
    )
    ((repeated, ties),) = con.execute(
        f"SELECT bool_or(repeated), bool_or(tied) FROM ({tied})"
    ).fetchall()
    places: dict[tuple[str, str], str | None] = {}
    if ties:
        groups: dict[tuple[str, str], list[Tied]] = {}
        for key, time_, *row in con.execute(
            "SELECT key, time, version, any_value(op), any_value(image)::VARCHAR,"
            f" any_value(old_image)::VARCHAR, min(batch) = {batch}"
            f" FROM (SELECT *, {time_sql('version')} AS time FROM {log} WHERE {within}) AS r"
            f" SEMI JOIN (FROM ({tied}) WHERE tied) AS t USING (key, time) GROUP BY ALL"
        ).fetchall():
            groups.setdefault((key, time_), []).append(Tied(*row))
        for (key, _), group in groups.items():
            places |= {(key, version): becomes for version, becomes in settled(group).items()}
    if repeated or places:
        raise _RepeatsError(span, places)


def _less(parts: tuple[PartProgress, ...], rows: int) -> tuple[PartProgress, ...]:
    """The parts with so many rows less in all: those that did not land."""
    left = []
    for part in parts:
        taken = min(rows, part.rows)
        rows -= taken
        left.append(replace(part, rows=part.rows - taken) if taken else part)
    return tuple(left)


def _settled_sql(rows: str, ties: Mapping[tuple[str, str], str | None]) -> str:
    """The rows with the versions that `ties` gives them, without those that it drops."""
    if not ties:
        return rows
    values = ", ".join(
        f"({literal(key)}, {literal(version)}, {literal(becomes)}::VARCHAR)"
        for (key, version), becomes in ties.items()
    )
    return f"""
        SELECT r.* REPLACE (coalesce(tie.becomes, r.version) AS version)
        FROM ({rows}) AS r
        LEFT JOIN (VALUES {values}) AS tie (key, version, becomes)
            ON tie.key = r.key AND tie.version = r.version
        WHERE tie.version IS NULL OR tie.becomes IS NOT NULL"""


def _once_sql(rows: str, log: str, span: tuple[str, str]) -> str:
    """The rows of which the log has none, each once."""
    return f"""
        SELECT * EXCLUDE copy
        FROM (SELECT *, row_number() OVER (PARTITION BY version, key) AS copy FROM ({rows})) AS r
        WHERE copy = 1 AND NOT EXISTS (
            FROM {log} AS known
            WHERE known.version BETWEEN {literal(span[0])} AND {literal(span[1])}
                AND known.version = r.version AND known.key = r.key)"""


def is_lost_race(error: BaseException) -> bool:
    """True where a commit failed only because another one was first, or the catalog busy."""
    return any(text in str(error) for text in LOST_RACE)


def _explained(error: duckdb.Error) -> Exception:
    text = str(error)
    if "No space left" in text or "disk is full" in text:
        return Terminal(
            f"The disk is full: {text}",
            "Free some space and run again: the ledger stands where it stood.",
        )
    return Terminal(
        f"The warehouse refused a commit: {text}",
        "Nothing was committed. Check the data path's permissions and the catalog.",
    )


def _without_key(model: str, key: tuple[KeyAttribute, ...]) -> Terminal:
    return Terminal(
        f"{model}: rows lack a key attribute ({', '.join(each.name for each in key)}).",
        "The table was probably recreated with another key: materialize its base again.",
    )


def _malformed(model: str, staged: Staged) -> Terminal | None:
    """The error of the first text that is no JSON, if one is."""
    for texts in staged.texts:
        for lines in (texts,) if isinstance(texts, Lines) else (texts.keys, texts.images):
            for number, text in enumerate(lines, start=1):
                try:
                    json.loads(text or b"{}")
                except ValueError as error:
                    place = f"{lines.name} holds a text that" if lines.name else f"Text {number}"
                    return Terminal(
                        f"{model}: {place} is no JSON: {error}",
                        "Nothing of it was committed. Run again; if AWS sends it again, report it.",
                    )
    return None


def _without_version(model: str) -> Terminal:
    return Terminal(
        f"{model}: records have no time of change, or neither a sequence number nor an eventID:"
        " they are not DynamoDB's.",
        "Nothing was committed. Look at what else writes to the stream.",
    )


def _check_fence(model: str, head: Head, commit: Commit) -> None:
    newest, epoch = head.epoch, commit.epoch
    beside = head.beside
    if beside is not None and beside.number == epoch.number:
        newest = beside  # a stream that is drained until the new source is live
        if commit.pass_record and commit.pass_record.complete and head.lost_beside(beside):
            raise Stale(
                f"{model}: a pass was to prove what {beside.source} brought, but another run has"
                " found that changes of it are lost.",
                "Run again.",
            )
    # Stream rows may land in any state of their epoch; base rows and a change of state only in
    # the one they were staged under, and by the plan that holds: two runs that plan an export at
    # once would otherwise load two exports into one epoch.
    bound = commit.state is not None or any(each.part.kind == "base" for each in commit.parts)
    moved_on = newest is not None and (newest.state, newest.detail) != (epoch.state, epoch.detail)
    if newest is None or newest.number != epoch.number or (bound and moved_on):
        found = f"epoch {newest.number} ({newest.state})" if newest else "no epoch"
        raise Stale(
            f"{model}: staged under epoch {epoch.number} ({epoch.state}), but the ledger is at"
            f" {found}: another run has moved on.",
            "Nothing was lost. Run again.",
        )
    gap = commit.gap
    if gap is not None and any(each.until > gap.since for each in head.of(newest).gaps):
        raise Stale(
            f"{model}: a gap since {gap.since} was to be stored, but another run has found"
            " one already.",
            "Nothing was lost. Run again.",
        )
    for each in commit.parts:
        stands = head.positions.get(each.part, Position())
        if stands.finished or stands.at != each.position_from:
            raise Stale(
                f"{model}: {each.part.id} was read from {each.position_from}, but the ledger"
                f" stands at {'its end' if stands.finished else stands.at}: another run was first.",
                "Nothing was lost. Run again.",
            )


def _read_head(con: duckdb.DuckDBPyConnection, model: str) -> Head:
    epochs = con.execute(
        bound(
            """SELECT epoch, kind, method, arg_max(state, batch), table_id, stream_arn,
            min(recorded_at), max(recorded_at), arg_max(detail, batch)::VARCHAR, max(batch)
        FROM tailrace.epochs WHERE model = ? GROUP BY ALL ORDER BY epoch""",
            [model],
        ),
    ).fetchall()
    newest = epochs[-1][0] if epochs else None
    rows = con.execute(
        bound(
            """SELECT kind, source, origin, part, arg_max(position_to, batch), bool_or(finished),
            max(newest_change), max(epoch), max(batch), arg_max(pass, batch)::VARCHAR,
            (arg_max(pass, batch) FILTER (WHERE pass->>'$.complete' = 'true'))::VARCHAR
        FROM (FROM tailrace.ledger SELECT *, CASE kind WHEN 'pass' THEN detail END AS pass)
        WHERE model = ? AND (kind <> 'base' OR epoch = ?) GROUP BY ALL""",
            [model, newest],
        ),
    ).fetchall()
    found = tuple(_epoch(row) for row in epochs)
    passes = {
        row[2] or "": (_pass_record(row[9]), _pass_record(row[10]))
        for row in rows
        if row[0] == "pass"
    }
    last_pass, last_proof = passes_shown(found, passes)
    gaps = con.execute(
        bound(
            "SELECT since, until, found_at, reason, epoch, batch FROM tailrace.gaps"
            " WHERE model = ? ORDER BY since",
            [model],
        ),
    ).fetchall()
    return Head(
        batch=max(
            (*(row[-1] for row in epochs), *(row[8] for row in rows), *(row[-1] for row in gaps)),
            default=0,
        ),
        table=_table(con, model),
        epochs=found,
        positions={Part(*row[:4]): Position(*row[4:8]) for row in rows if row[0] != "pass"},
        last_pass=last_pass,
        last_proof=last_proof,
        gaps=tuple(Gap(*row[:5]) for row in gaps),
        passes=passes,
    )


def _moved(head: Head, commit: Commit) -> Head:
    """The head after a commit of parts alone, as _read_head would read it."""
    positions = dict(head.positions)
    for each in commit.parts:
        stood = positions.get(each.part, Position())
        at = stood.at if each.position_to is None else each.position_to
        newest = max(filter(None, (stood.newest, each.newest)), default=None)
        finished = stood.finished or each.finished
        positions[each.part] = Position(at, finished, newest, commit.epoch.number)
    return replace(head, batch=head.batch + 1, positions=positions)


def _epoch(row: tuple[Any, ...]) -> Epoch:
    number, kind, method, state, table_id, stream_arn, opened_at, changed_at, detail, _ = row
    values = json.loads(detail) if detail else {}
    return Epoch(number, kind, method, state, table_id, stream_arn, opened_at, changed_at, values)


def _table(con: duckdb.DuckDBPyConnection, model: str) -> TableDescription | None:
    row = con.execute(
        bound(
            """SELECT table_name, table_arn, table_id, key_schema::VARCHAR, stream_arn, view_type
        FROM tailrace.tables WHERE model = ? ORDER BY batch DESC LIMIT 1""",
            [model],
        ),
    ).fetchone()
    if row is None:
        return None
    key = tuple(KeyAttribute(**each) for each in json.loads(row[3]))
    return TableDescription(row[0], row[1], row[2], key, row[4], row[5])


def _insert_parts(con: duckdb.DuckDBPyConnection, model: str, batch: int, commit: Commit) -> None:
    rows = [
        bound(
            "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, now())",
            [
                model,
                batch,
                commit.epoch.number,
                each.part.kind,
                each.part.source,
                each.part.origin,
                each.part.id,
                each.position_from,
                each.position_to,
                each.finished,
                each.rows,
                each.bytes,
                each.oldest,
                each.newest,
                commit.pass_record.id if commit.pass_record else None,
                json.dumps(each.detail, ensure_ascii=False) if each.detail else None,
            ],
        )
        for each in commit.parts
    ]
    for start in range(0, len(rows), INLINED_ROWS):  # as many as stay in the catalog at a time
        some = rows[start : start + INLINED_ROWS]
        con.execute(f"INSERT INTO tailrace.ledger VALUES {', '.join(some)}")


def _insert_pass(
    con: duckdb.DuckDBPyConnection, model: str, batch: int, epoch: Epoch, record: PassRecord
) -> None:
    detail = asdict(record) | {
        "began_at": record.began_at.isoformat(),
        "ended_at": record.ended_at.isoformat(),
    }
    con.execute(
        bound(
            f"""INSERT INTO tailrace.ledger
            (model, batch, epoch, kind, origin, pass_id, detail, landed_at)
        VALUES ({literal(model)}, {batch}, {epoch.number}, 'pass', ?, ?, ?, now())""",
            [epoch.stream_arn, record.id, json.dumps(detail)],
        ),
    )


def _insert_gap(
    con: duckdb.DuckDBPyConnection, model: str, batch: int, epoch: Epoch, gap: Gap
) -> None:
    con.execute(
        bound(
            "INSERT INTO tailrace.gaps VALUES (?, ?, ?, ?, ?, ?, ?)",
            [model, batch, epoch.number, gap.since, gap.until, gap.found_at, gap.reason],
        ),
    )


def _pass_record(detail: str | None) -> PassRecord | None:
    if detail is None:
        return None
    values = json.loads(detail)
    times = {name: datetime.fromisoformat(values[name]) for name in ("began_at", "ended_at")}
    return PassRecord(**(values | times))


def _insert_epoch(
    con: duckdb.DuckDBPyConnection,
    model: str,
    batch: int,
    epoch: Epoch,
    state: str,
    at: datetime,
) -> None:
    con.execute(
        bound(
            "INSERT INTO tailrace.epochs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                model,
                batch,
                epoch.number,
                epoch.kind,
                epoch.method,
                state,
                epoch.table_id,
                epoch.stream_arn,
                json.dumps(epoch.detail),
                at,
            ],
        ),
    )


__all__ = ["LIVE", "ChangeLog", "is_lost_race"]

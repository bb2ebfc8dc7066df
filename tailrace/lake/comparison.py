"""The source beside the warehouse, in SQL: what was read of a table, and when, against what the
change log says of each key at that time, and `<model>_latest` against the log.

When an item was read is known as a span of time, and the log's times are whole seconds. So a key
has a set of right states: the one it had when the span began, and each one since, until it ended.
Which row is a key's state is decided as dbt decides it: the greatest version of the visible rows.
What was read waits in temporary tables, which go to disk beyond `memory_limit`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from tailrace.canonical import same_item
from tailrace.config import Warehouse
from tailrace.errors import Terminal
from tailrace.lake.attach import connect, renew_s3_secret
from tailrace.lake.landing import rows_sql
from tailrace.lake.schema import ANALYTICS, CHANGES
from tailrace.lake.sql import bound, ident, literal, literals, value
from tailrace.lake.staged import columns_of, staging
from tailrace.lake.version import epoch_sql, floor_sql, is_base_sql
from tailrace.model import LIVE, Difference, Differences, Head, KeyAttribute, Staged

KINDS = ("missing", "extra", "different", "latest")
UNSETTLED = "unsettled"

NO_KEY = "tailrace: an item without its key"


class Comparison:
    """One comparison of a model with its source, which puts what it cannot hold in memory into
    `folder`. A context manager with a connection of its own, which writes nothing to the
    warehouse; safe for threads."""

    def __init__(
        self, warehouse: Warehouse, model: str, key: Sequence[KeyAttribute], folder: Path
    ) -> None:
        self._warehouse = warehouse
        self._model = model
        self._log = ident(CHANGES, model)
        self._key = key
        self._mutex = threading.RLock()
        self._con = connect(warehouse, read_only=True)
        self._con.execute(f"SET temp_directory = {literal(str(folder / 'spilled'))}")
        self._con.create_function("same_item", same_item, ["VARCHAR", "VARCHAR"], "BOOLEAN")
        # An image that is NULL says that the key was not there.
        self._con.execute(
            "CREATE TEMP TABLE seen (key VARCHAR, image VARCHAR, digest UHUGEINT,"
            " began TIMESTAMPTZ, ended TIMESTAMPTZ)"
        )
        self._con.execute(
            "CREATE TEMP TABLE wrong (kind VARCHAR, key VARCHAR, item BIGINT, version VARCHAR,"
            " other VARCHAR)"
        )

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    # ------------------------------------------------------------------------------- reading

    def add(self, staged: Staged, began: datetime, ended: datetime) -> None:
        """Takes in items that the source held at some time from `began` to `ended`.

        Raises Terminal where not as many were staged."""
        with self._mutex, staging(self._con, columns_of(staged)):
            done = self._insert(
                f"SELECT key, image, {value(began)}, {value(ended)} FROM ({self._rows(staged)})"
            )
        if done != staged.rows:
            raise Terminal(
                f"{self._model}: {staged.rows} items were staged, but {done} were read.",
                "Run again. If it happens again, report it.",
            )

    def look_up(self, keys: Sequence[str], found: Staged, began: datetime, ended: datetime) -> None:
        """Takes in what became of `keys`, the log's key texts, when they were asked for: those
        that are not among the `found` items were not there."""
        rows = self._rows(found) if found.rows else "SELECT NULL AS key, NULL AS image LIMIT 0"
        with self._mutex, staging(self._con, columns_of(found)):
            self._insert(
                f"SELECT asked.key, found.image, {value(began)}, {value(ended)}"
                f" FROM unnest({literals(keys)}) AS asked(key)"
                f" LEFT JOIN ({rows}) AS found ON found.key = asked.key"
            )

    def sample(self, head: Head, count: int) -> tuple[list[str], int]:
        """At most `count` random keys of the items in the warehouse, and how many items there
        are."""
        newest = (
            f"SELECT key, absent FROM ({self._states(head.batch, _live(head))})"
            " QUALIFY row_number() OVER (PARTITION BY key ORDER BY version DESC) = 1"
        )
        rows = self._fetch(f"""
            WITH alive AS MATERIALIZED (SELECT key FROM ({newest}) WHERE NOT absent)
            SELECT key, (SELECT count(*) FROM alive) FROM alive
            USING SAMPLE reservoir({count} ROWS)""")
        return [row[0] for row in rows], int(rows[0][1]) if rows else 0

    def _rows(self, staged: Staged) -> str:
        return rows_sql(staged.shape, self._key, 0, None)

    def _insert(self, rows: str) -> int:
        try:
            done = self._con.execute(
                f"INSERT INTO seen SELECT coalesce(key, error({literal(NO_KEY)})), image,"
                " md5_number(image::VARCHAR), began, ended"
                f" FROM ({rows}) AS t(key, image, began, ended)"
            ).fetchone()
        except duckdb.Error as error:
            raise Terminal(
                f"{self._model}: what was read of the table could not be taken in: {error}",
                "Nothing was changed. See that the disk of TMPDIR has room for the table; run"
                " again.",
            ) from error
        return int(done[0]) if done else 0

    # ----------------------------------------------------------------------------- comparing

    def differences(
        self, head: Head, whole: tuple[datetime, datetime] | None, before: int, shown: int
    ) -> Differences:
        """Compares, with the log as of `head`. `whole` is the span in which all of the source was
        read: a key that was not seen then was not there; None where only some of it was read.
        `before` is the last batch that landed before anything was read. At most `shown`
        differences are given with both sides."""
        with self._mutex:
            renew_s3_secret(self._con, self._warehouse)
            self._note_states(head, whole)
            self._judge()
            self._leave_out_unsettled(head, before)
            latest_items = self._compare_latest()
            counts = dict(self._fetch("SELECT kind, count(DISTINCT key) FROM wrong GROUP BY kind"))
            return Differences(
                equal=self._count(
                    "SELECT count(DISTINCT key) FROM seen WHERE digest NOTNULL AND key NOT IN"
                    " (SELECT key FROM wrong WHERE kind <> 'latest')"
                ),
                missing=counts.get("missing", 0),
                extra=counts.get("extra", 0),
                different=counts.get("different", 0),
                latest_items=latest_items,
                latest_different=counts.get("latest", 0),
                shown=tuple(self._shown(shown)) if counts else (),
                unsettled=counts.get(UNSETTLED, 0),
            )

    def _states(self, batch: int, live: Mapping[int, str]) -> str:
        """SELECT of the rows visible after `batch`, `live` being the epochs that were live then by
        number, with their kinds: key, version, changed_at, image, and `absent`. What is older than
        the newest full base and not in it was deleted meanwhile."""
        floor = max((number for number, kind in live.items() if kind == "full"), default=0)
        waiting = bound(
            "SELECT epoch FROM tailrace.epochs WHERE model = ?"
            " AND (detail->>'$.overlaps') = 'true'",
            [self._model],
        )
        visible = (
            f"{epoch_sql('version')} IN ({', '.join(map(str, live))})"
            f" OR NOT {is_base_sql('version')} AND {epoch_sql('version')} NOT IN ({waiting})"
        )
        return f"""
            SELECT key, version, changed_at, image::VARCHAR AS image,
                op = 'REMOVE' OR version < {floor_sql(floor)} AS absent
            FROM {self._log} WHERE batch <= {batch} AND ({visible if live else "false"})"""

    def _note_states(self, head: Head, whole: tuple[datetime, datetime] | None) -> None:
        """The right states of each key that was read, or of every key of the log."""
        began, ended = map(value, whole) if whole else ("NULL", "NULL")
        self._con.execute(f"""
            CREATE TEMP TABLE states AS
            WITH spans AS (
                SELECT key, min(began) AS began, max(ended) AS ended FROM seen GROUP BY key),
            held AS (
                SELECT log.key, log.version, log.absent,
                    CASE WHEN NOT log.absent THEN md5_number(log.image) END AS digest,
                    log.changed_at <= coalesce(spans.began, {began}::TIMESTAMPTZ) AS settled
                FROM ({self._states(head.batch, _live(head))}) AS log
                {"LEFT" if whole else "INNER"} JOIN spans ON spans.key = log.key
                WHERE log.changed_at <= coalesce(spans.ended, {ended}::TIMESTAMPTZ))
            FROM held QUALIFY version >=
                coalesce(max(version) FILTER (WHERE settled) OVER (PARTITION BY key), '')""")
        if whole:
            self._con.execute(
                f"INSERT INTO seen SELECT DISTINCT key, NULL, NULL, {began}, {ended} FROM states"
                " ANTI JOIN seen USING (key)"
            )

    def _judge(self) -> None:
        """What was read and is none of its key's right states. Bytes that are the same need no
        parsing; the rest is compared by value, if it differs only in the writing."""
        self._con.execute("""
            INSERT INTO wrong
            WITH judged AS (
                SELECT seen.rowid AS item, any_value(seen.key) AS key,
                    bool_or(seen.digest IS NULL) AS is_absent,
                    bool_or(states.key NOTNULL AND states.digest IS NOT DISTINCT FROM seen.digest
                        AND states.absent = (seen.digest IS NULL)) AS is_same,
                    coalesce(bool_or(states.settled), false) AS had_state,
                    coalesce(bool_or(NOT states.absent), false) AS is_held,
                    coalesce(max(states.version) FILTER (WHERE NOT states.absent),
                        max(states.version)) AS version
                FROM seen LEFT JOIN states ON states.key = seen.key
                GROUP BY seen.rowid)
            SELECT CASE WHEN is_absent THEN 'extra' WHEN is_held THEN 'different'
                ELSE 'missing' END, key, item, version, NULL
            FROM judged WHERE NOT is_same AND (had_state OR NOT is_absent)""")
        self._con.execute(f"""
            DELETE FROM wrong WHERE kind = 'different' AND item IN (
                SELECT wrong.item
                FROM wrong
                JOIN seen ON seen.rowid = wrong.item
                JOIN states ON states.key = wrong.key AND NOT states.absent
                JOIN {self._log} AS log ON log.key = states.key AND log.version = states.version
                WHERE same_item(seen.image, log.image::VARCHAR))""")

    def _leave_out_unsettled(self, head: Head, before: int) -> None:
        """An image that was looked up may be newer than its change: the state between is unseen.
        Whatever landed before the source was read was looked up before."""
        self._con.execute(f"""
            UPDATE wrong SET kind = {literal(UNSETTLED)} WHERE key IN (
                SELECT key FROM {self._log}
                WHERE looked_up AND batch > {before} AND batch <= {head.batch})""")

    # ---------------------------------------------------------------------------- the model

    def _compare_latest(self) -> int | None:
        """Compares <model>_latest with the log folded up to its own watermark, if it is built."""
        built = self._fetch(
            bound(
                "SELECT 1 FROM information_schema.tables WHERE table_catalog = 'lake'"
                " AND table_schema = ? AND table_name = ?",
                [ANALYTICS, f"{self._model}_latest"],
            )
        )
        if not built:
            return None
        # One statement, so that a merge that ends meanwhile is seen whole or not at all.
        self._con.execute(f"""
            CREATE TEMP TABLE latest AS
            SELECT _key AS key, _version AS version, _op = 'REMOVE' AS absent, _batch AS batch,
                CASE WHEN _op <> 'REMOVE' THEN coalesce(_image::VARCHAR, '') END AS image,
                row_number() OVER (PARTITION BY _key ORDER BY _version DESC) AS place
            FROM {ident(ANALYTICS, f"{self._model}_latest")}""")
        watermark = self._count("SELECT coalesce(max(batch), 0) FROM latest")
        live = self._fetch(
            bound(
                "SELECT epoch, kind FROM tailrace.epochs WHERE model = ? AND state = 'live'"
                " AND batch <= ?",
                [self._model, watermark],
            )
        )
        self._con.execute(f"""
            CREATE TEMP TABLE folded AS
            SELECT key, version, absent, CASE WHEN NOT absent THEN md5_number(image) END AS digest
            FROM ({self._states(watermark, dict(live))})
            QUALIFY row_number() OVER (PARTITION BY key ORDER BY version DESC) = 1""")
        self._con.execute("""
            INSERT INTO wrong
            SELECT 'latest', coalesce(latest.key, folded.key), latest.rowid, folded.version,
                latest.version
            FROM latest
            FULL JOIN folded ON folded.key = latest.key AND latest.place = 1
            WHERE coalesce(latest.absent, true) <> coalesce(folded.absent, true)
                OR md5_number(latest.image) IS DISTINCT FROM folded.digest
                OR (NOT folded.absent AND latest.version <> folded.version)""")
        self._con.execute(f"""
            DELETE FROM wrong WHERE kind = 'latest' AND version = other AND item IN (
                SELECT wrong.item
                FROM wrong
                JOIN latest ON latest.rowid = wrong.item AND NOT latest.absent
                JOIN folded ON folded.key = wrong.key AND NOT folded.absent
                JOIN {self._log} AS log ON log.key = wrong.key AND log.version = wrong.version
                WHERE wrong.kind = 'latest' AND same_item(latest.image, log.image::VARCHAR))""")
        return self._count("SELECT count(*) FROM latest WHERE NOT absent")

    # ------------------------------------------------------------------------------- showing

    def _shown(self, most: int) -> list[Difference]:
        order = literals(KINDS)
        first = f"""
            WITH first AS (
                SELECT *, list_position({order}, kind) AS place FROM wrong
                WHERE kind <> {literal(UNSETTLED)} ORDER BY place, key LIMIT {most})"""
        rows = self._fetch(f"""
            {first}
            SELECT first.kind, first.key, seen.image,
                CASE WHEN NOT states.absent THEN log.image::VARCHAR END
            FROM first
            JOIN seen ON seen.rowid = first.item
            LEFT JOIN states ON states.key = first.key AND states.version = first.version
            LEFT JOIN {self._log} AS log ON log.key = first.key AND log.version = first.version
            WHERE first.kind <> 'latest' ORDER BY first.place, first.key""")
        if self._fetch("SELECT 1 FROM wrong WHERE kind = 'latest' LIMIT 1"):
            rows += self._fetch(f"""
                {first}
                SELECT first.kind, first.key,
                    CASE WHEN folded.absent THEN NULL
                        WHEN same_item(log.image::VARCHAR, latest.image) THEN first.version
                        ELSE log.image::VARCHAR END,
                    CASE WHEN NOT folded.absent AND same_item(log.image::VARCHAR, latest.image)
                        THEN first.other ELSE latest.image END
                FROM first
                LEFT JOIN latest ON latest.rowid = first.item
                LEFT JOIN folded ON folded.key = first.key AND folded.version = first.version
                LEFT JOIN {self._log} AS log ON log.key = first.key
                    AND log.version = first.version
                WHERE first.kind = 'latest' ORDER BY first.place, first.key""")
        return [Difference(*row) for row in dict.fromkeys(rows)]

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        with self._mutex:
            return self._con.execute(sql).fetchall()

    def _count(self, sql: str) -> int:
        return int(self._fetch(sql)[0][0])


def _live(head: Head) -> dict[int, str]:
    return {each.number: each.kind for each in head.epochs if each.state == LIVE}

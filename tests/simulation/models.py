"""What dbt's own SQL makes of a story's log, merge after merge, in a plain DuckDB.

The checker of the laws works out in Python what readers see (truth.visible); this asks the macros
that they really read through: the staged changes, the merge into <model>_latest and the states of
<model>_states. Types of columns are left out, and so are DuckLake and dbt.
"""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import duckdb

from tailrace.model import LIVE
from tests.simulation.memory_log import Store
from tests.simulation.truth import Violation, visible
from tests.unit.transform import macros

MACROS = macros.load(this="latest")
LATEST = ("_key", "_version", "_epoch", "_batch", "_op", "_changed_at", "_ttl_expired", "_image")
STATES = ("_key", "_version", "_batch", "_op", "_changed_at", "_by_ttl")


class Models:
    """The models of one store. How often they are merged depends on `seed`."""

    def __init__(self, store: Store, seed: int = 0) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._often = self._random.choice((1.0, 0.3, 0.1))
        self._rows = self._epochs = 0
        self._con = con = duckdb.connect(config={"threads": 1})
        con.execute(
            "CREATE TABLE log (batch BIGINT, version VARCHAR, epoch INTEGER, op VARCHAR,"
            " key VARCHAR, image JSON, old_image JSON, changed_at TIMESTAMPTZ,"
            " ttl_expired BOOLEAN, landed_at TIMESTAMPTZ)"
        )
        con.execute(
            "CREATE TABLE epochs (model VARCHAR, batch BIGINT, epoch INTEGER, kind VARCHAR,"
            " state VARCHAR, detail JSON, recorded_at TIMESTAMPTZ)"
        )
        log, epochs = (SimpleNamespace(include=lambda name=name, **_: name) for name in _TABLES)
        con.execute(
            "CREATE VIEW changes AS " + MACROS.duckdb__staged_changes("orders", log, epochs)
        )
        for name, columns in (("latest", LATEST), ("states", STATES)):
            types = {"_epoch": "INTEGER", "_batch": "BIGINT", "_image": "JSON"}
            types |= {"_changed_at": "TIMESTAMPTZ", "_ttl_expired": "BOOLEAN", "_by_ttl": "BOOLEAN"}
            told = ", ".join(f"{each} {types.get(each, 'VARCHAR')}" for each in columns)
            con.execute(f"CREATE TABLE {name} ({told})")

    def maybe_merge(self) -> None:
        """Now and then, `merge`."""
        if self._random.random() < self._often:
            self.merge()

    def merge(self) -> None:
        """What a run of dbt would do now: merges what has landed since, and asserts that readers
        see what the laws' checker does. Raises Violation."""
        self._land()
        self._con.execute("BEGIN")
        self._merge_states()
        self._merge_latest()
        self._con.execute("COMMIT")
        self._check("merged", "latest", "states")

    def rebuild(self) -> None:
        """Builds both tables anew, beside those that were merged, and asserts that they say the
        same. Raises Violation."""
        self.merge()
        for name, sql in (("latest", self._latest_sql(0)), ("states", self._states_sql(0))):
            self._con.execute(f"CREATE OR REPLACE TABLE {name}_anew AS {sql}")
        self._check("built anew", "latest_anew", "states_anew")
        told = "SELECT _key, _version, _op FROM {} ORDER BY ALL"
        merged = self._con.execute(told.format("states")).fetchall()
        anew = self._con.execute(told.format("states_anew")).fetchall()
        if merged != anew:
            only = sorted(set(merged) ^ set(anew))
            raise Violation(f"states: merged and built anew differ in {only or 'how often'}")

    # ------------------------------------------------------------------------------------ merging

    def _land(self) -> None:
        store = self._store
        rows = [
            (r.batch, r.version, r.epoch, r.op, r.key, _json(r.image), _json(r.old_image))
            for r in store.rows[self._rows :]
        ]
        if rows:
            self._con.executemany(
                "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, NULL, false, now())", rows
            )
        epochs = [
            ("orders", batch, e.number, e.kind, e.state, json.dumps(e.detail), e.changed_at)
            for batch, e in store.epochs[self._epochs :]
        ]
        if epochs:
            self._con.executemany("INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?, ?)", epochs)
        self._rows, self._epochs = len(store.rows), len(store.epochs)

    def _watermark(self, table: str) -> int:
        [(batch,)] = self._con.execute(f"SELECT coalesce(max(_batch), 0) FROM {table}").fetchall()
        return int(batch)

    def _plan(self, watermark: int) -> dict[str, Any]:
        """As the macro merge_plan has it."""
        batches = [0, *(row.batch for row in self._store.rows[-1:])]
        batches += [batch for batch, _ in self._store.epochs[-1:]]
        live: dict[int, dict[str, Any]] = {}
        for batch, epoch in self._store.epochs:
            if epoch.state == LIVE:
                told = {"epoch": epoch.number, "kind": epoch.kind, "batch": batch}
                live.setdefault(epoch.number, told | {"recorded_at": str(epoch.changed_at)})
        return {
            "rebuild": not watermark,
            "watermark": watermark,
            "head": max(batches),
            "live": [each for _, each in sorted(live.items())],
            "columns": [],
            "raw": False,
            "own": False,
        }

    def _latest_sql(self, watermark: int) -> str:
        sql: str = MACROS.duckdb__latest_state("changes", self._plan(watermark))
        return sql

    def _states_sql(self, watermark: int) -> str:
        sql: str = MACROS.duckdb__every_state("changes", self._plan(watermark))
        return sql

    def _merge_latest(self) -> None:
        """As the materialization latest_version does."""
        con, sql = self._con, self._latest_sql(self._watermark("latest"))
        con.execute(f"CREATE OR REPLACE TEMP TABLE newest AS {sql}")
        wins = MACROS.version_wins("newest._version", "latest._version")
        con.execute(
            "MERGE INTO latest USING newest ON newest._key = latest._key"
            f" WHEN MATCHED AND {wins} THEN UPDATE BY NAME"
            " WHEN NOT MATCHED THEN INSERT BY NAME"
        )
        [(delta,)] = con.execute("SELECT max(_batch) FROM newest").fetchall()
        if delta and delta > self._watermark("latest"):
            key = "(SELECT max(_key) FROM latest)"
            con.execute(f"UPDATE latest SET _batch = {delta} WHERE _key = {key}")

    def _merge_states(self) -> None:
        """As the materialization state_log does."""
        watermark = self._watermark("states")
        self._con.execute(f"INSERT INTO states BY NAME {self._states_sql(watermark)}")

    # ----------------------------------------------------------------------------------- checking

    def _check(self, how: str, latest: str, states: str) -> None:
        expected = visible(self._store)
        items = {(row.key, row.version): row.image for row in self._store.rows}
        living = f"SELECT _key, _version FROM {latest} WHERE _op <> 'REMOVE'"
        last = (
            "SELECT _key, _version FROM (SELECT _key, max(_version) AS _version, arg_max(_op,"
            f" _version) AS _op FROM {states} GROUP BY _key) WHERE _op <> 'REMOVE'"
        )
        for name, sql in ((latest, living), (states, last)):
            found = {
                key: json.dumps(items[key, version], sort_keys=True)
                for key, version in self._con.execute(sql).fetchall()
            }
            wanted = {
                key: json.dumps(json.loads(item), sort_keys=True) for key, item in expected.items()
            }
            if found != wanted:
                differ = {k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)}
                key = min(differ)
                raise Violation(
                    f"{name}, {how}, shows {key} as {found.get(key)}; by the rule it is"
                    f" {wanted.get(key)}."
                )


_TABLES = ("log", "epochs")


def _json(image: dict[str, Any] | None) -> str | None:
    return None if image is None else json.dumps(image)

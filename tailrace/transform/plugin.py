"""What dbt-duckdb loads to reach the warehouse (`plugins:` in profiles.yml).

It attaches the DuckLake that tailrace.yaml names, from the pinned extensions, whether dbt was
started by hand or by `runner`. Which models exist and how they are built is dbt's business.

A dbt that was started by hand, and writes, waits for its turn like any other writer, and keeps it
until its process ends: else each commit of a drain would make its merges fail, and its merges that
of a run. (`runner` takes turns itself.)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.flags import get_flags

from tailrace.config import CONFIG_VARIABLE, DEFAULT_FILE, Config, Warehouse, load_config
from tailrace.lake import structure
from tailrace.lake.attach import CATALOG, attach_sql, load_extensions
from tailrace.lake.sql import bound
from tailrace.lake.turns import turn

# All connections of this name are one DuckDB in this process (profiles.yml has it too): loading
# the extensions, whose signatures are checked, takes longer than a small merge.
INSTANCE = ":memory:tailrace"

# The commands of dbt that write to the warehouse.
WRITERS = {"build", "clone", "retry", "run", "run-operation", "seed", "snapshot"}

_given: Config | None = None
_turn_by_hand = ExitStack()


@contextmanager
def working_on(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """Makes dbt in this process work on the warehouse of `config`, whatever the environment says,
    and yields a connection of the DuckDB it will use. One at a time in a process: `runner` sees
    to that. Raises duckdb.Error where the warehouse cannot be opened."""
    global _given
    before, _given = _given, config
    con = duckdb.connect(INSTANCE, config=_settings(config.warehouse))
    try:
        _attach(con, config.warehouse)
        yield con
    finally:
        con.close()
        _given = before


def _settings(warehouse: Warehouse) -> dict[str, Any]:
    settings = {
        "autoinstall_known_extensions": "false",
        "memory_limit": warehouse.memory_limit,
        "temp_directory": os.path.join(tempfile.gettempdir(), f"tailrace-{os.getpid()}"),
    }
    if warehouse.threads:
        settings["threads"] = str(warehouse.threads)
    return settings


def _attach(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
    there = con.execute(
        bound("SELECT count(*) FROM duckdb_databases() WHERE database_name = ?", [CATALOG])
    ).fetchone()
    if there and there[0]:
        return
    con.execute("SET preserve_insertion_order = false")
    load_extensions(con, warehouse)
    # A commit by anyone else makes a merge fail and be tried again, as in lake.log: so two merges
    # can never both insert the same new key.
    con.execute("SET ducklake_max_retry_count = 0")
    con.execute(attach_sql(warehouse))


def _config() -> Config:
    if _given is not None:
        return _given
    beside = Path("..") / DEFAULT_FILE
    by_hand = not os.environ.get(CONFIG_VARIABLE) and not Path(DEFAULT_FILE).exists()
    return load_config(beside if by_hand and beside.exists() else None)


class Plugin(BasePlugin):
    """dbt-duckdb calls the methods in this order, once for the instance and once a cursor."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Reads tailrace.yaml; raises ConfigError where it is missing or wrong."""
        self._config = _config()
        self._warehouse = self._config.warehouse

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        """Bounds the instance's memory, as everywhere else."""
        config.update(_settings(self._warehouse))

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Attaches the lake, unless `working_on` has; by hand, once it is this process's turn."""
        if _given is None and get_flags().WHICH in WRITERS:
            _turn_by_hand.close()
            _turn_by_hand.enter_context(turn(self._warehouse))
        _attach(conn, self._warehouse)
        if _given is None and get_flags().WHICH in WRITERS:
            for failure in structure.learn_all(conn, self._config.tables).values():
                raise failure

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Session settings are not inherited by cursors."""
        cursor.execute("SET TimeZone = 'UTC'")

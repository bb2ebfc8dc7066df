"""What dbt-duckdb loads to reach the warehouse (`plugins:` in profiles.yml).

It attaches the DuckLake that tailrace.yaml names, from the pinned extensions, whether dbt was
started by hand or by `runner`. Which models exist and how they are built is dbt's business.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from tailrace.config import CONFIG_VARIABLE, DEFAULT_FILE, Config, config_path, load_config
from tailrace.lake.attach import attach_sql, load_extensions

_given: Config | None = None


@contextmanager
def using(config: Config) -> Iterator[None]:
    """Makes dbt in this process work on the warehouse of `config`, whatever the environment
    says. One at a time in a process: `runner` sees to that."""
    global _given
    before, _given = _given, config
    try:
        yield
    finally:
        _given = before


def _config() -> Config:
    if _given is not None:
        return _given
    return load_config(_config_file())


def _config_file() -> Path:
    if not os.environ.get(CONFIG_VARIABLE) and not Path(DEFAULT_FILE).exists():
        beside = Path("..") / DEFAULT_FILE
        if beside.exists():
            return beside
    return config_path(None)


class Plugin(BasePlugin):
    """dbt-duckdb calls the methods in this order, once for the instance and once a cursor."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        self._warehouse = _config().warehouse

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        """The same instance settings as the engine's own connections."""
        config["autoinstall_known_extensions"] = "false"
        config["memory_limit"] = self._warehouse.memory_limit
        config["temp_directory"] = os.path.join(tempfile.gettempdir(), f"tailrace-{os.getpid()}")
        if self._warehouse.threads:
            config["threads"] = str(self._warehouse.threads)

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Loads the extensions and attaches the lake. A commit by anyone else makes a merge
        fail and be tried again, instead of being merged with it: see `lake.log`."""
        conn.execute("SET preserve_insertion_order = false")
        load_extensions(conn, self._warehouse)
        conn.execute("SET ducklake_max_retry_count = 0")
        conn.execute(attach_sql(self._warehouse))

    def configure_cursor(self, cursor: DuckDBPyConnection) -> None:
        """Session settings are not inherited by cursors."""
        cursor.execute("SET TimeZone = 'UTC'")

"""Connections to one warehouse keep out of each other's way, and load no extension but DuckDB's."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest

from tailrace.config import Warehouse
from tailrace.errors import Terminal
from tailrace.lake import attach
from tailrace.lake.attach import connect, extension_path
from tailrace.transform.plugin import _settings


def test_connections_of_one_process_do_not_spill_into_one_folder(tmp_path: Path) -> None:
    """DuckDB names its files alike in each: two instances that share them crash."""
    warehouse = Warehouse(catalog=f"sqlite:{tmp_path}/catalog.sqlite", data_path=f"{tmp_path}/data")
    folders = {_settings(warehouse)["temp_directory"]}
    for _ in range(2):
        con = connect(warehouse)
        row = con.execute("SELECT current_setting('temp_directory')").fetchone()
        con.close()
        assert row is not None
        folders.add(row[0])
    assert len(folders) == 3
    assert all(str(os.getpid()) in folder for folder in folders)


def test_an_extension_that_was_altered_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb, "connect", duckdb.connect.__wrapped__)  # the tests' own is lax
    content = bytearray(Path(extension_path("ducklake")).read_bytes())
    content[len(content) // 2] ^= 1
    altered = tmp_path / "ducklake.duckdb_extension"
    altered.write_bytes(content)
    paths = {"ducklake": str(altered), "sqlite_scanner": extension_path("sqlite_scanner")}
    monkeypatch.setattr(attach, "extension_path", paths.__getitem__)
    warehouse = Warehouse(catalog=f"sqlite:{tmp_path}/catalog.sqlite", data_path=f"{tmp_path}/data")
    with pytest.raises(Terminal, match="signature"):
        connect(warehouse)

"""Connections to one warehouse keep out of each other's way."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.config import Warehouse
from tailrace.lake.attach import connect
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

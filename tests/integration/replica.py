"""A user's folder for a test: tailrace.yaml, a warehouse, a dbt project of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.compare import Comparison, compare
from sandbox.workload import churn
from tailrace.capture import bootstrap
from tailrace.config import Config, Warehouse, load_config
from tailrace.engine import Engine
from tailrace.lake.attach import connect
from tailrace.model import DrainResult
from tailrace.transform.generate import generate
from tailrace.transform.runner import build


def write_config(folder: Path, tables: str) -> Config:
    """tailrace.yaml in `folder` with these `tables:` entries, and its dbt models."""
    path = folder / "tailrace.yaml"
    path.write_text(f"aws: {{region: us-east-1}}\ntables:\n{tables}")
    config = load_config(path)
    generate(config)
    return config


def without_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local reads are never stale: no waiting before a scan."""
    monkeypatch.setattr(bootstrap, "SCAN_MARGIN_SECONDS", 0.0)


@contextmanager
def written_to(
    dynamodb: Any, *tables: str, keys: int = 200, pause_seconds: float = 0.02
) -> Iterator[None]:
    """A writer for each table, that changes it until the block ends; it rests that long after
    every 25 changes of each of its two threads."""
    stopping = threading.Event()

    def write(table: str) -> None:
        for seed in range(100_000):
            if stopping.is_set():
                return
            rest = lambda: stopping.wait(pause_seconds)  # noqa: E731
            churn(dynamodb, table, 500, keys, seed=seed, pause=rest)

    with ThreadPoolExecutor(len(tables)) as pool:
        writers = [pool.submit(write, table) for table in tables]
        try:
            yield
        finally:
            stopping.set()
        for writer in writers:
            writer.result()


def doubled(config: Config, model: str) -> list[Any]:
    """What stands in a change log more than once, by (version, key)."""
    con = connect(config.warehouse, read_only=True)
    try:
        return con.execute(
            f"SELECT version, key, count(*) FROM changes.{model} GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
    finally:
        con.close()


def drain_until_caught_up(engine: Engine, model: str, passes: int = 60) -> DrainResult:
    """Passes until one that began live read every shard to its tip."""
    for _ in range(passes):
        result = engine.drain_table(model)
        if result.state == "live" and result.reached_tip and not result.went_live:
            return result
    raise AssertionError(f"{model} did not catch up in {passes} passes: {result}")


def compared(config: Config, dynamodb: Any, table_name: str, model: str) -> Comparison:
    """The warehouse against the table, item by item, after building the models."""
    build(config, [model])
    con = connect(config.warehouse, read_only=True)
    try:
        return compare(dynamodb, table_name, con, model)
    finally:
        con.close()


def assert_equal(config: Config, dynamodb: Any, table_name: str, model: str) -> None:
    """Fails with both sides of the first differences."""
    found = compared(config, dynamodb, table_name, model)
    assert found.equal, found.differences[:5]
    assert found.items_in_table > 0


def files_on_disk(warehouse: Warehouse) -> set[str]:
    """Every file in the warehouse's folder."""
    return {str(path) for path in Path(warehouse.data_path).rglob("*.parquet")}


def files_needed(warehouse: Warehouse) -> set[str]:
    """Every file that the warehouse's tables are made of now."""
    needed = set()
    with connect(warehouse, read_only=True) as con:
        tables = con.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_catalog = 'lake' AND table_type = 'BASE TABLE'"
        ).fetchall()
        for schema, table in tables:
            listed = f"ducklake_list_files('lake', '{table}', schema => '{schema}')"
            for files in con.execute(f"SELECT data_file, delete_file FROM {listed}").fetchall():
                needed |= {*files} - {None}
    return needed

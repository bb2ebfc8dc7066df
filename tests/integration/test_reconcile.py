"""Reconciliation against a local AWS: equal while somebody writes, by every method; and every
damage to the warehouse is found, with both sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table, put_all
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.transform.runner import build
from tests.integration.replica import drain_until_caught_up, without_margin, write_config

METHODS = ["export", "scan", "sample"]
HOSTILE = 'o\'Brien "x" /~ €.$[0]'


def item(number: int, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": f"{HOSTILE} {number}"}, "sk": {"N": str(number)}} | attributes


def replicated(aws: Any, folder: Path, items: list[dict[str, Any]]) -> tuple[Config, str]:
    """A live table of these items, with its models built."""
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=True)
    put_all(aws.dynamodb, name, items)
    base = f"{{method: export, bucket: {aws.bucket()}}}"
    config = write_config(folder, f"  - {{name: {name}, model: events, base: {base}}}\n")
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
    build(config, ["events"])
    return config, name


@contextmanager
def written_to(aws: Any, name: str) -> Iterator[None]:
    """A writer that changes the table until the block ends."""
    stopping = threading.Event()

    def write() -> None:
        for seed in range(1000):
            if stopping.is_set():
                return
            churn(aws.dynamodb, name, 500, 200, seed=seed, pause=lambda: stopping.wait(0.02))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


@pytest.mark.parametrize("method", METHODS)
def test_a_table_that_is_written_to_all_the_while_is_equal(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    without_margin(monkeypatch)
    config, name = replicated(aws, tmp_path, [item(number) for number in range(500)])
    with Engine.open(config) as engine, written_to(aws, name):
        for _ in range(2):
            result = engine.reconcile("events", method, sample=300)
            assert result.is_equal, result.found.shown[:3]
    assert result.found.equal == result.found.source_items >= 300


def test_zz_time(aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    without_margin(monkeypatch)
    t = time.monotonic()
    config, name = replicated(aws, tmp_path, [item(number) for number in range(500)])
    print("replicated", time.monotonic() - t)
    with Engine.open(config) as engine:
        for method in METHODS:
            t = time.monotonic()
            result = engine.reconcile("events", method, sample=300)
            print(method, time.monotonic() - t, result)
    with Engine.open(config) as engine, written_to(aws, name):
        for method in METHODS:
            t = time.monotonic()
            result = engine.reconcile("events", method, sample=300)
            print(method, time.monotonic() - t, result)

"""The main job on a real DuckLake, a real dbt and two local DynamoDBs: a table that is written
to while its base is read and its stream drained ends equal, item by item."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.engine import Engine
from tailrace.transform.runner import build
from tests.integration.replica import (
    assert_equal,
    drain_until_caught_up,
    without_margin,
    write_config,
)

WRITES = 20_000
KEYS = 2_000


@pytest.fixture(params=["aws", "dynamodb_local"])
def source(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def _busy_table(source: Any, folder: Path, base: str) -> tuple[Any, str]:
    name = source.name("events")
    create_table(source.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=source.server is not None)
    config = write_config(folder, f"  - {{name: {name}, model: events, base: {base}}}\n")
    return config, name


def _replicate_while_written(config: Any, source: Any, name: str) -> None:
    """Writes in a thread; base in another; drains all the while."""
    first_half = threading.Event()

    def halfway() -> None:
        first_half.set()

    writer = threading.Thread(
        target=lambda: churn(source.dynamodb, name, WRITES, KEYS, seed=7, pause=halfway)
    )
    writer.start()
    first_half.wait(30)
    with Engine.open(config) as engine:
        failures: list[BaseException] = []

        def base() -> None:
            try:
                engine.base("events")
            except BaseException as error:
                failures.append(error)

        reader = threading.Thread(target=base)
        reader.start()
        while reader.is_alive() or writer.is_alive():
            engine.drain_table("events")
            reader.join(0.3)
        writer.join()
        assert not failures, failures
        drain_until_caught_up(engine, "events")


def test_a_table_scanned_and_drained_while_it_is_written_ends_equal(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    config, name = _busy_table(source, tmp_path, "{method: scan, segments: 4}")
    _replicate_while_written(config, source, name)
    assert_equal(config, source.dynamodb, name, "events")


def test_a_table_exported_and_drained_while_it_is_written_ends_equal(
    aws: Any, tmp_path: Path
) -> None:
    config, name = _busy_table(aws, tmp_path, f"{{method: export, bucket: {aws.bucket()}}}")
    _replicate_while_written(config, aws, name)
    assert_equal(config, aws.dynamodb, name, "events")


def test_a_second_base_drops_keys_that_vanished_and_loses_nothing(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    config, name = _busy_table(aws, tmp_path, "{method: scan, segments: 2}")
    churn(aws.dynamodb, name, 600, 200, seed=3)
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
        assert_equal(config, aws.dynamodb, name, "events")
        churn(aws.dynamodb, name, 600, 250, seed=4)
        second = engine.base("events")
        assert second.epoch == 2
        drain_until_caught_up(engine, "events")
    assert_equal(config, aws.dynamodb, name, "events")


def test_an_empty_table_goes_live_is_built_once_and_then_rests(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    config, _ = _busy_table(aws, tmp_path, "{method: scan, segments: 2}")
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
        assert engine.unmerged(["events"]) == ["events"]
        build(config, ["events"])
        assert engine.unmerged(["events"]) == []

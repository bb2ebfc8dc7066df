"""Reconciliation against a local AWS: equal while somebody writes, by every method; and every
damage to the warehouse is found, with both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import manifest, reconciliation
from orchestration.code_location import build_definitions
from sandbox.workload import create_table, put_all
from tailrace.capture import reconcile
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.errors import ConfigError, Terminal
from tailrace.lake.attach import connect
from tailrace.sources.aws import Aws as AwsSource
from tailrace.sources.scan import TableScan
from tailrace.transform.runner import build
from tests.integration.replica import (
    drain_until_caught_up,
    without_margin,
    write_config,
    written_to,
)

SCANNED = "  - {{name: {}, model: events, base: {{method: scan}}}}\n"


def item(number: int, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": f"k {number}"}, "sk": {"N": str(number)}} | attributes


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


def test_a_table_that_is_written_to_all_the_while_is_equal_by_every_method(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    config, name = replicated(aws, tmp_path, [item(number) for number in range(500)])
    with Engine.open(config) as engine, written_to(aws.dynamodb, name):
        for method in ("export", "scan", "sample"):
            result = engine.reconcile("events", method, sample=300)
            assert result.is_equal, (method, result.found.shown[:3])
            assert result.method == method
            assert result.found.equal >= 300
            assert result.found.latest_items == 500
    assert result.capacity_units >= 300, "a key that is looked up consistently costs a unit"


PHANTOM = {"pk": {"S": "k 9999"}, "sk": {"N": "1"}}
DAMAGE = """
    DELETE FROM changes.events WHERE key = '{"pk":{"S":"k 1"},"sk":{"N":"1"}}';
    UPDATE changes.events SET image = '{"pk":{"S":"k 2"},"sk":{"N":"2"},"v":{"S":"wrong"}}'
        WHERE key = '{"pk":{"S":"k 2"},"sk":{"N":"2"}}';
    INSERT INTO changes.events SELECT * REPLACE ('{"pk":{"S":"k 9999"},"sk":{"N":"1"}}' AS key,
            '{"pk":{"S":"k 9999"},"sk":{"N":"1"}}' AS image)
        FROM changes.events WHERE key = '{"pk":{"S":"k 3"},"sk":{"N":"3"}}';
    UPDATE analytics.events_latest SET _image = '{"pk":{"S":"k 4"},"sk":{"N":"4"}}'
        WHERE _key = '{"pk":{"S":"k 4"},"sk":{"N":"4"}}'
"""


def test_every_damage_is_found_with_both_sides(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    items = [item(number, v={"S": "right"}) for number in range(400)]
    config, name = replicated(aws, tmp_path, items)
    aws.dynamodb.delete_item(TableName=name, Key=item(5))
    with Engine.open(config) as engine:
        assert engine.reconcile("events").is_equal
        con = connect(config.warehouse)
        for statement in DAMAGE.split(";"):
            con.execute(statement)
        con.close()
        expected = [
            ("missing", item(1), items[1], None),
            ("extra", PHANTOM, None, PHANTOM),
            ("different", item(2), items[2], item(2, v={"S": "wrong"})),
            ("latest", item(1), None, items[1]),
            ("latest", item(2), item(2, v={"S": "wrong"}), items[2]),
            ("latest", item(4), items[4], item(4)),
            ("latest", PHANTOM, PHANTOM, None),
        ]
        for method in ("export", "scan", "sample"):
            found = engine.reconcile("events", method, sample=2_000).found
            shown = [
                (e.kind, _parsed(e.key), _parsed(e.source), _parsed(e.warehouse))
                for e in found.shown
            ]
            assert shown == expected, method
            assert (found.source_items, found.warehouse_items) == (399, 399)
    result = _check(config, monkeypatch)
    assert not result.passed
    assert {"missing", "extra", "different"} <= set(result.metadata)
    assert "wrong" not in str(result.metadata)


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _check(config: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check's evaluation by Dagster's job."""
    monkeypatch.setenv(manifest.DEV_VARIABLE, "1")
    monkeypatch.setattr(reconciliation, "PATIENCE_SECONDS", 0.0)
    job = build_definitions(config).resolve_job_def("reconcile")
    with dg.DagsterInstance.ephemeral() as instance:
        run = job.execute_in_process(instance=instance, raise_on_error=False)
        assert run.success, "the step does not fail, the check does"
        [evaluation] = run.get_asset_check_evaluations()
        return evaluation


def test_tables_that_cannot_be_reconciled_are_refused(aws: Any, tmp_path: Path) -> None:
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"})
    config = write_config(tmp_path, SCANNED.format(name))
    with Engine.open(config) as engine:
        with pytest.raises(Terminal, match="has no epoch yet"):
            engine.reconcile("events")
        for method, more, said in (
            ("export", {}, "an export needs a bucket"),
            ("guess", {}, "there are export, scan, sample"),
            ("scan", {"max_rcu": 0.0}, "more than 0 units"),
            ("sample", {"sample": 0}, "at least 1 item"),
        ):
            with pytest.raises(ConfigError) as refused:
                engine.reconcile("events", method, **more)
            assert said in str(refused.value)


def test_a_table_whose_stream_was_replaced_is_refused_until_it_is_repaired(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"})
    config = write_config(tmp_path, SCANNED.format(name))
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
        assert engine.reconcile("events").is_equal, "an empty table, and a model not built yet"
        view = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        aws.dynamodb.update_table(TableName=name, StreamSpecification={"StreamEnabled": False})
        aws.dynamodb.update_table(TableName=name, StreamSpecification=view)
        with pytest.raises(Terminal, match="its stream was replaced"):
            engine.reconcile("events")
        drain_until_ended(engine)
        with pytest.raises(Terminal, match="may be missing") as refused:
            engine.reconcile("events")
        assert "tailrace repair events" in refused.value.remedy
        engine.repair("events")
        drain_until_caught_up(engine, "events")
        assert engine.reconcile("events").is_equal


def drain_until_ended(engine: Engine) -> None:
    """Reads what is left of a stream that was switched off."""
    for _ in range(60):
        if engine.drain_table("events").gaps:
            return
    raise AssertionError("no gap was noted")


def test_a_stream_that_carries_no_items_is_reconciled_while_it_is_written_to(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"}, view_type="KEYS_ONLY")
    put_all(aws.dynamodb, name, [item(number) for number in range(200)])
    config = write_config(tmp_path, SCANNED.format(name))
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
        with written_to(aws.dynamodb, name):
            found = engine.reconcile("events").found
        assert found.count == 0, found.shown[:3]
        assert found.equal >= 200
        drain_until_caught_up(engine, "events")
        at_rest = engine.reconcile("events").found
        assert (at_rest.count, at_rest.unsettled) == (0, 0)


def test_keys_beyond_what_one_answer_holds_are_asked_for_again(aws: Any) -> None:
    name = aws.name("large")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"})
    put_all(aws.dynamodb, name, [item(number, v={"S": "x" * 390_000}) for number in range(60)])
    scan = TableScan(AwsSource(), name, consistent=True)
    keys = [json.dumps(item(number)) for number in range(70)]
    page = scan.items(keys)
    assert 0 < page.count < 60
    left = [json.loads(key) for key in page.unprocessed]
    assert left == [item(number) for number in range(page.count, 70)]
    assert page.capacity_units == pytest.approx(page.count * 96, rel=0.01)
    rest = scan.items(page.unprocessed)
    assert (page.count + rest.count, rest.unprocessed) == (60, ())

"""What becomes of a table after an outage, another stream, another table: on a real DuckLake and a
real dbt, over the local AWS, whose clock these tests move."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.capture import reconcile
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.errors import Terminal
from tailrace.lake.attach import connect
from tailrace.lake.maintenance import Limits, maintain
from tailrace.transform.runner import build
from tests.integration.replica import (
    assert_equal,
    drain_until_caught_up,
    without_margin,
    write_config,
)

HOUR = 3600.0
DAY = timedelta(days=1)
ITEMS = 300
SCAN = "{method: scan, segments: 2}"


@pytest.fixture
def live(
    own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Config, str]]:
    """Makes a table that is live."""
    without_margin(monkeypatch)

    def make(*, bucket: bool = True, pitr: bool = True, view: str = "NEW_AND_OLD_IMAGES") -> Any:
        name = own_aws.name("events")
        create_table(own_aws.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=pitr, view_type=view)
        own_aws.server.control("advance", seconds=HOUR)
        churn(own_aws.dynamodb, name, ITEMS, ITEMS, seed=1)
        repair = f", repair: {{bucket: {own_aws.bucket()}}}" if bucket else ""
        kept = ", log: {keep: needed}"
        config = write_config(
            tmp_path, f"  - {{name: {name}, model: events, base: {SCAN}{repair}{kept}}}\n"
        )
        with Engine.open(config) as engine:
            engine.base("events")
            drain_until_caught_up(engine, "events")
        return config, name

    return make


def asked(config: Config, sql: str) -> list[Any]:
    con = connect(config.warehouse, read_only=True)
    try:
        return con.execute(sql).fetchall()
    finally:
        con.close()


def shortened(config: Config) -> None:
    """Builds the models, and drops of the log all that may go."""
    build(config, ["events"]).raise_failures()
    done = maintain(config.warehouse, Limits(DAY, DAY, DAY), log_days={"events": 0.0})
    assert done.failures == ()
    assert sum(step.done for step in done.steps if step.name.startswith("log")) > 0


def repaired(config: Config, engine: Engine) -> None:
    """Repairs until no gap is left, and drains to the tip."""
    assert engine.status(["events"])[0].gaps
    engine.repair("events")
    drain_until_caught_up(engine, "events")
    (status,) = engine.status(["events"])
    assert not status.gaps
    assert status.shards_open > 0
    assert status.idle_reads_a_day == status.shards_open * (3 * 288 + 1440)


@pytest.mark.parametrize(
    ("days", "bucket", "pitr", "kind"),
    [
        (1.25, True, True, "incremental"),
        (20, True, True, "incremental"),
        (1.25, False, True, "full"),
        (20, True, False, "full"),
    ],
)
def test_an_outage_ends_equal_and_without_a_full_read_where_exports_reach(
    own_aws: Any, live: Any, days: float, bucket: bool, pitr: bool, kind: str
) -> None:
    config, name = live(bucket=bucket, pitr=pitr)
    for seed in range(4):
        own_aws.server.control("advance", seconds=days / 4 * 24 * HOUR)
        churn(own_aws.dynamodb, name, 60, 60, seed=10 + seed)
    with Engine.open(config) as engine:
        result = engine.drain_table("events")
        assert "was complete for" in result.gaps[0].reason
        build(config, ["events"])
        assert asked(config, "SELECT count(*) FROM analytics.events")[0][0] > 0
        repaired(config, engine)
        assert engine.repair("events") is None
    assert_equal(config, own_aws.dynamodb, name, "events")
    [(found, read)] = asked(
        config,
        "SELECT any_value(e.kind), sum(l.row_count) FROM tailrace.epochs e JOIN tailrace.ledger l"
        " USING (epoch) WHERE e.epoch = 2 AND l.kind = 'base' AND e.state = 'live'",
    )
    assert found == kind
    assert (read <= 60 * 21) if kind == "incremental" else (read > ITEMS / 2)


def test_a_gap_that_lies_before_point_in_time_recovery_is_closed_by_a_new_base(
    own_aws: Any, live: Any
) -> None:
    config, name = live(pitr=False)
    own_aws.server.control("advance", seconds=30 * HOUR)
    churn(own_aws.dynamodb, name, 60, 60, seed=2)
    own_aws.dynamodb.update_continuous_backups(
        TableName=name,
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
    )
    with Engine.open(config) as engine:
        engine.drain_table("events")
        result = engine.repair("events")
        assert result is not None
        assert result.method == "scan"
        drain_until_caught_up(engine, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")


def test_a_shortened_log_is_repaired_reconciled_and_built_anew(
    own_aws: Any, live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went of it none of them misses."""
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    config, name = live()
    past = "SELECT * FROM analytics.events_history ORDER BY ALL"
    with Engine.open(config) as engine:
        churn(own_aws.dynamodb, name, 100, 60, seed=2)
        drain_until_caught_up(engine, "events")
        shortened(config)
        assert engine.reconcile("events").is_equal
        own_aws.server.control("advance", seconds=30 * HOUR)
        churn(own_aws.dynamodb, name, 60, 60, seed=3)
        engine.drain_table("events")
        repaired(config, engine)
        assert_equal(config, own_aws.dynamodb, name, "events")
        shortened(config)
        told = asked(config, past)
        done = subprocess.run(
            f"{Path(sys.executable).parent}/dbt run --full-refresh --select events*".split(),
            cwd=config.dbt.project_dir,
            env=os.environ | {"TAILRACE_CONFIG": str(config.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert "from its own rows: a full refresh was asked for" in done.stdout
        assert asked(config, past) == told
        assert_equal(config, own_aws.dynamodb, name, "events")
        found = engine.reconcile("events")
        assert found.is_equal
        assert found.found.latest_items == found.found.equal > 0
    assert asked(config, "SELECT kind FROM tailrace.epochs WHERE epoch = 2")[0] == ("incremental",)


@pytest.mark.parametrize("view", ["NEW_AND_OLD_IMAGES", "NEW_IMAGE", "KEYS_ONLY"])
def test_a_stream_that_was_switched_off_and_on_is_repaired(
    own_aws: Any, live: Any, view: str
) -> None:
    config, name = live()
    churn(own_aws.dynamodb, name, 50, 60, seed=2)
    stream = {"StreamEnabled": True, "StreamViewType": view}
    own_aws.dynamodb.update_table(TableName=name, StreamSpecification={"StreamEnabled": False})
    churn(own_aws.dynamodb, name, 100, 60, seed=3)
    with Engine.open(config) as engine:
        assert "switched off" in engine.drain_table("events").gaps[0].reason
        with pytest.raises(Terminal, match="has no stream"):
            engine.repair("events")
        own_aws.dynamodb.update_table(TableName=name, StreamSpecification=stream)
        churn(own_aws.dynamodb, name, 100, 60, seed=4)
        repaired(config, engine)
    assert_equal(config, own_aws.dynamodb, name, "events")
    [(old_stream,)] = asked(
        config, "SELECT count(*) FROM changes.events WHERE epoch = 1 AND op <> 'READ'"
    )
    assert old_stream > 0  # it was read to its end


def test_a_recreated_table_begins_a_new_epoch_and_its_history_stays(
    own_aws: Any, live: Any
) -> None:
    config, name = live()
    own_aws.dynamodb.delete_table(TableName=name)
    with Engine.open(config) as engine:
        assert "the table was deleted" in engine.drain_table("events").gaps[0].reason
        before = asked(config, "SELECT count(*) FROM changes.events")
        create_table(own_aws.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=True)
        churn(own_aws.dynamodb, name, 40, 20, seed=5)
        repaired(config, engine)
    assert_equal(config, own_aws.dynamodb, name, "events")
    assert asked(config, "SELECT count(*) FROM changes.events") > before
    assert asked(config, "SELECT kind FROM tailrace.epochs WHERE epoch = 2")[0] == ("full",)


def test_a_keys_only_stream_brings_the_items_and_marks_them(own_aws: Any, live: Any) -> None:
    config, name = live(view="KEYS_ONLY")
    churn(own_aws.dynamodb, name, 400, 80, seed=6)
    with Engine.open(config) as engine:
        drain_until_caught_up(engine, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")
    found = asked(config, "SELECT DISTINCT looked_up FROM changes.events WHERE op <> 'READ'")
    assert found == [(True,)]


def test_items_that_expired_are_marked_through_to_the_models(own_aws: Any, live: Any) -> None:
    config, name = live()
    own_aws.dynamodb.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
    )
    for number in range(3):
        key = {"pk": {"S": "gone"}, "sk": {"N": str(number)}}
        expires = {"expires": {"N": str(int(time.time()))}}
        own_aws.dynamodb.put_item(TableName=name, Item=key | expires)
    own_aws.dynamodb.delete_item(TableName=name, Key={"pk": {"S": "gone"}, "sk": {"N": "0"}})
    own_aws.server.control("advance", seconds=HOUR)
    assert own_aws.server.control("expire_items", table=name)
    with Engine.open(config) as engine:
        drain_until_caught_up(engine, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")
    assert asked(
        config,
        "SELECT sk, _op, _ttl_expired FROM analytics.events_latest WHERE pk = 'gone' ORDER BY sk",
    ) == [(0, "REMOVE", False), (1, "REMOVE", True), (2, "REMOVE", True)]

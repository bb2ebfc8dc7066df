"""The same job with the files on S3, and with the catalog in PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.config import Config, load_config
from tailrace.engine import Engine
from tailrace.errors import Stale
from tailrace.lake import maintenance
from tailrace.lake.attach import connect
from tailrace.lake.log import ChangeLog
from tailrace.model import Commit, Part, PartProgress
from tailrace.transform.generate import generate
from tests.integration.replica import (
    assert_equal,
    drain_until_caught_up,
    files_needed,
    files_on_disk,
    without_margin,
)

NO_TIME = timedelta()


def _config(folder: Path, warehouse: str, name: str) -> Config:
    path = folder / "tailrace.yaml"
    path.write_text(
        f"aws: {{region: us-east-1}}\nwarehouse: {warehouse}\n"
        f"tables: [{{name: {name}, model: events, base: {{method: scan, segments: 2}}}}]\n"
    )
    config = load_config(path)
    generate(config)
    return config


def _replicate(config: Config, aws: Any, name: str) -> None:
    create_table(aws.dynamodb, name, {"pk": "S"})
    churn(aws.dynamodb, name, 400, 100, seed=5)
    with Engine.open(config) as engine:
        engine.base("events")
        churn(aws.dynamodb, name, 300, 120, seed=6)
        drain_until_caught_up(engine, "events")
    assert_equal(config, aws.dynamodb, name, "events")


def test_data_files_may_lie_on_s3(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    name, bucket = aws.name("events"), aws.bucket()
    config = _config(tmp_path, f"{{data_path: 's3://{bucket}/lake'}}", name)
    _replicate(config, aws, name)
    keys = [each["Key"] for each in aws.s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert any(key.startswith("lake/") and key.endswith(".parquet") for key in keys)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this session's own, on loopback; yields libpq's connection string."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
        Path(found).parent for found in [shutil.which("initdb")] if found
    ]
    if not binaries:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL's server (initdb) is not installed")
        pytest.skip("PostgreSQL's server (initdb) is not installed: apt-get install postgresql")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    # Not under pytest's own folders: those are closed to other users.
    with TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "postgres")
        data, port = folder / "data", _free_port()
        subprocess.run(
            [*user, binaries[-1] / "initdb", "-D", data, "-U", "tailrace", "-A", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )
        server = subprocess.Popen(
            [*user, binaries[-1] / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h",
             "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )  # fmt: skip
        _wait_for(port)
        yield f"host=127.0.0.1 port={port} user=tailrace"
        server.terminate()
        server.wait(30)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(150):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.5)
                return
        time.sleep(0.2)
    raise AssertionError(f"PostgreSQL does not listen on {port}")


def _database(postgres: str, name: str) -> str:
    import duckdb

    from tailrace.lake.attach import extension_path

    con = duckdb.connect()
    con.execute(f"LOAD '{extension_path('postgres_scanner')}'")
    con.execute(f"ATTACH 'dbname=postgres {postgres}' AS admin (TYPE postgres)")
    con.execute(f"CALL postgres_execute('admin', 'CREATE DATABASE {name}', use_transaction=false)")
    con.close()
    return f"postgres:dbname={name} {postgres}"


def test_the_catalog_may_be_in_postgresql(
    aws: Any, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    name = aws.name("events")
    catalog = _database(postgres, "job")
    config = _config(tmp_path, f"{{catalog: '{catalog}'}}", name)
    _replicate(config, aws, name)
    # Maintenance works there too. What is open may commit under the number after its snapshot: so
    # no later one is given up before it has ended.
    monkeypatch.setattr(maintenance, "OPEN_TRANSACTION_MARGIN", NO_TIME)
    at_once = maintenance.Limits(NO_TIME, NO_TIME, NO_TIME, NO_TIME)
    with Engine.open(config) as engine:
        with connect(config.warehouse) as other, connect(config.warehouse) as writer:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM analytics.events").fetchall()
            writer.execute("CREATE TABLE analytics.another AS SELECT 1 AS one").fetchall()
            [later] = writer.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchall()
            writer.execute("DROP TABLE analytics.another").fetchall()
            kept = engine.maintain(limits=at_once)
            found = writer.execute("SELECT snapshot_id FROM ducklake_snapshots('lake')").fetchall()
            assert later in found
        expired = engine.maintain(limits=at_once)
    assert (kept.failures, expired.failures) == ((), ())
    assert expired.after.snapshots <= len(found) < kept.before.snapshots
    assert files_needed(config.warehouse) <= files_on_disk(config.warehouse)
    assert_equal(config, aws.dynamodb, name, "events")


def test_of_two_writers_on_postgresql_one_wins_each_position(
    aws: Any, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S"})
    config = _config(tmp_path, f"{{catalog: '{_database(postgres, 'fence')}'}}", name)
    with Engine.open(config) as engine:
        engine.base("events")
    logs = [ChangeLog(config.warehouse) for _ in range(2)]
    epoch = logs[0].head("events").epoch
    assert epoch is not None
    part = Part("stream", "dynamodb_streams", epoch.stream_arn, "shard-x")
    won: list[int] = []
    start = threading.Barrier(2)

    def write(log: ChangeLog) -> None:
        for step in range(8):
            before = f"{step - 1}" if step else None
            start.wait()
            progress = PartProgress(part, before, f"{step}", False, 0, 0)
            try:
                log.commit("events", Commit(epoch, (progress,)))
            except Stale:
                continue
            won.append(step)

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(8))
    for log in logs:
        log.close()

"""`kill -9` of real runs at random moments of base, drain and merge: started again, the warehouse
ends equal and every record stands in the log once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.config import Config
from tailrace.lake.attach import connect
from tests.integration.replica import assert_equal, write_config

KILLS = int(os.environ.get("TAILRACE_KILLS", "6"))
SYNC = (
    "from tailrace.capture import bootstrap; bootstrap.SCAN_MARGIN_SECONDS = 0\n"
    "from tailrace.cli import main; main()"
)


def start_sync(config: Config, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SYNC, "sync", "--config", str(config.path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@pytest.mark.parametrize("method", ["scan", "export"])
def test_runs_killed_at_random_moments_lose_and_double_nothing(
    aws: Any, tmp_path: Path, method: str
) -> None:
    dice = random.Random(method)
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=True)
    churn(aws.dynamodb, name, 4_000, 1_500, seed=1)
    base = (
        "{method: scan, segments: 3}"
        if method == "scan"
        else f"{{method: export, bucket: {aws.bucket()}}}"
    )
    config = write_config(tmp_path, f"  - {{name: {name}, model: events, base: {base}}}\n")
    killed = 0
    for round_number in range(KILLS):
        run = start_sync(config)
        churn(aws.dynamodb, f"{name}", 300, 1_500, seed=100 + round_number)
        try:
            run.communicate(timeout=dice.uniform(0.5, 6.0))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            killed += 1
    assert killed
    last = start_sync(config, "--until-caught-up")
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output.decode()
    assert_equal(config, aws.dynamodb, name, "events")
    con = connect(config.warehouse, read_only=True)
    try:
        doubled = con.execute(
            """SELECT count(*) FROM (
                SELECT version, key FROM changes.events GROUP BY ALL HAVING count(*) > 1)"""
        ).fetchone()
    finally:
        con.close()
    assert doubled == (0,)

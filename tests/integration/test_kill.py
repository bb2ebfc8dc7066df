"""`kill -9` of real runs at random moments of base, drain, merge, repair and maintenance, over a
real DuckLake that others write for: whatever is started next goes on, the warehouse ends equal,
every record stands in the log once, and no file is missing or left over.

Each moment is thrown by dice over the run's usual duration; a failure names the seed that throws
the same again (TAILRACE_KILL_SEED)."""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.capture import reconcile
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.lake.attach import sqlite_path
from tests.integration.replica import (
    assert_equal,
    doubled,
    files_needed,
    files_on_disk,
    without_margin,
    write_config,
    written_to,
)
from tests.integration.warm import AT_ONCE, FINISHED, KILLED, Outcome, Warm

# A merge and a repair take longest.
KILLS = {"scan": 12, "export": 11, "drain": 11, "merge": 8, "repair": 8, "maintain": 8}
# Between which parts of its usual duration a run is killed; a merge begins with dbt's own start.
MOMENTS = {"merge": (0.6, 1.3)}
RUNS_PER_KILL_MOST = 6
KEYS = 1_500
OUTAGE_SECONDS = 30 * 3600.0
TABLES = ("scanned", "exported")


@dataclass
class Killer:
    """Starts runs and kills them. `kills` counts by kind; `torn` those kills before which the run
    had committed something, `finished` the runs that were quicker than their killer."""

    aws: Any
    warm: Warm
    config: Config
    dice: random.Random
    usual: dict[str, float]
    kills: Counter[str] = field(default_factory=Counter)
    torn: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    # Base and repair of one table: what was begun is ended before the other begins, and there is
    # nothing to repair before the first base.
    unfinished: str | None = "export"
    repaired: bool = True

    def kill_all(self) -> None:
        """Kills as many runs of each kind as KILLS says, in an order thrown by the dice."""
        for _ in range(RUNS_PER_KILL_MOST * sum(KILLS.values())):
            missing = [kind for kind in KILLS if self.kills[kind] < KILLS[kind]]
            if not missing:
                return
            self.start(self._possible(self.dice.choice(missing)))

    def start(self, kind: str) -> None:
        """One run, that is killed if it does not finish before the moment that is thrown."""
        if kind == "repair" and self.repaired:
            self.aws.server.control("advance", seconds=OUTAGE_SECONDS)
        before = snapshot(self.config)
        first_merge = kind == "merge" and not self.finished[kind]  # it builds everything: no usual
        span = MOMENTS.get(kind, (0.0, 1.0))
        moment = None if first_merge else self.usual[kind] * self.dice.uniform(*span)
        outcome = self.warm.run(kind, self.config.path, moment)
        self._count(kind, outcome, snapshot(self.config) > before)

    def _possible(self, kind: str) -> str:
        if kind in ("merge", "maintain") and not snapshot(self.config):
            return "scan"  # there is no warehouse yet
        same_table = ("export", "repair")
        return self.unfinished if self.unfinished and kind in same_table else kind

    def _count(self, kind: str, outcome: Outcome, committed: bool) -> None:
        if outcome.how == KILLED:
            self.kills[kind] += 1
            self.torn[kind] += committed
        else:
            assert outcome.how == FINISHED
            self.finished[kind] += 1
        if kind in ("export", "repair"):
            self.unfinished = kind if outcome.how == KILLED else None
        if kind == "repair":
            self.repaired = outcome.how == FINISHED

    def __str__(self) -> str:
        each = (
            f"{kind}: {self.kills[kind]} kills, {self.torn[kind]} of them after a commit of the"
            f" run, within {self.usual[kind]:.1f} s; {self.finished[kind]} finished before"
            for kind in KILLS
        )
        return "\n".join([f"{self.kills.total()} kills", *each])


def snapshot(config: Config) -> int:
    """The warehouse's newest snapshot: how many commits it has seen."""
    path = sqlite_path(config.warehouse)
    assert path is not None
    if not path.exists():
        return 0
    con = sqlite3.connect(path, timeout=30)
    try:
        ((newest,),) = con.execute("SELECT max(snapshot_id) FROM ducklake_snapshot").fetchall()
    except sqlite3.OperationalError:  # killed before the catalog had its tables
        return 0
    finally:
        con.close()
    return int(newest or 0)


def usual_seconds(warm: Warm, aws: Any, config: Config) -> dict[str, float]:
    """How long each kind of run takes if nobody kills it, on a warehouse for this alone."""
    seconds = {kind: warm.run(kind, config.path).seconds for kind in ("scan", "export")}
    for kind in ("drain", "merge", "drain", "merge"):  # the first merge has to build everything
        seconds[kind] = warm.run(kind, config.path).seconds
    aws.server.control("advance", seconds=OUTAGE_SECONDS)
    for kind in ("repair", "maintain"):
        seconds[kind] = warm.run(kind, config.path).seconds
    return seconds


def written_config(aws: Any, folder: Path) -> Config:
    folder.mkdir()
    scanned, exported = (aws.name(table) for table in TABLES)
    bucket = aws.name("exports")
    return write_config(
        folder,
        f"  - {{name: {scanned}, model: scanned, base: {{method: scan, segments: 8}},"
        f" repair: {{bucket: {bucket}}}}}\n"
        f"  - {{name: {exported}, model: exported, base: {{method: export, bucket: {bucket}}}}}\n",
    )


def test_runs_killed_at_random_moments_lose_and_double_nothing(
    own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = os.environ.get("TAILRACE_KILL_SEED") or secrets.token_hex(4)
    print(f"the dice of this test: TAILRACE_KILL_SEED={seed}")
    own_aws.bucket()
    own_aws.server.control("set", export_files=6)
    names = [own_aws.name(table) for table in TABLES]
    for name in names:
        create_table(own_aws.dynamodb, name, {"pk": "S", "sk": "N"}, pitr=True)
    own_aws.server.control("advance", seconds=3600)
    for name in names:
        churn(own_aws.dynamodb, name, 2_000, KEYS, seed=1)
    config = written_config(own_aws, tmp_path / "killed")
    with (
        Warm(tmp_path / "runs.log", own_aws.server.environment) as warm,
        written_to(own_aws.dynamodb, *names, keys=KEYS, pause_seconds=1.0),
    ):
        usual = usual_seconds(warm, own_aws, written_config(own_aws, tmp_path / "measured"))
        killer = Killer(own_aws, warm, config, random.Random(seed), usual)
        killer.kill_all()
        print(killer)
        assert all(killer.kills[kind] >= 8 for kind in KILLS), str(killer)
        assert killer.kills.total() >= 50, str(killer)
        assert killer.torn.total() >= 10, str(killer)
        warm.run("catch up", config.path)
    without_margin(monkeypatch)
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    with Engine.open(config) as engine:
        for table, name in zip(TABLES, names, strict=True):
            engine.drain_table(table)
            assert_equal(config, own_aws.dynamodb, name, table)
            assert doubled(config, table) == []
        # What a killed run left behind goes, what the warehouse needs is there.
        assert engine.maintain(limits=AT_ONCE).failures == ()
        assert files_on_disk(config.warehouse) == files_needed(config.warehouse)
        for table in TABLES:
            reconciled = engine.reconcile(table, "scan")
            assert reconciled.is_equal, reconciled.found.shown[:3]

"""Merging 60,000 changes by the real dbt models: into tables of five and ten million rows against
one of one million, and what the history adds to it.

The tables stand in one warehouse and are merged in turns, so that a busy machine slows all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import world
from bench.measure import in_child, median, stopwatch
from bench.report import Figure
from tailrace.config import load_config
from tailrace.lake.log import ChangeLog

# The merge of each is compared with the first one's.
TABLES = ("few", "more", "most")


@dataclass(frozen=True)
class Size:
    """Rows of the tables, changes of a merge, and how many merges are timed."""

    rows: tuple[int, ...] = (1_000_000, 5_000_000, 10_000_000)
    changes: int = 60_000
    rounds: int = 3


SMALL = Size((2_000, 5_000, 10_000), 300, 1)


def run(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """The time of a merge into many rows, over the time of one into fewer."""
    sizes = ", ".join(f"{rows:,}" for rows in size.rows)
    tell(f"merge: {size.changes:,} changes into {sizes} rows")
    folder = tempfile.mkdtemp(prefix="tailrace-bench-")
    try:
        in_child(make, folder=folder, rows=size.rows)
        tell("merge: in turns")
        found = in_child(
            merges, folder=folder, rows=size.rows, changes=size.changes, rounds=size.rounds
        )
        in_child(check, folder=folder, rows=size.rows, changes=size.changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    walls = found["walls"]
    figures = [
        Figure("merge", f"into {rows:,} rows", median(walls[model]), "s", tuple(walls[model]))
        for model, rows in zip(TABLES, size.rows, strict=True)
    ]
    note = f"{size.changes:,} changes, real models"
    for model, rows in list(zip(TABLES, size.rows, strict=True))[1:]:
        ratios = [b / a for a, b in zip(walls[TABLES[0]], walls[model], strict=True)]
        name = f"{rows:,} rows over {size.rows[0]:,}"
        figures.append(_ratio(name, ratios, note))
    for model, rows in zip(TABLES, size.rows, strict=True):
        shares = [
            wall / (wall - states)
            for wall, states in zip(walls[model], found["states"][model], strict=True)
        ]
        figures.append(_ratio(f"history and current over current, {rows:,} rows", shares, ""))
    return [*figures, Figure("merge", "peak memory", found["peak_mb"], "MB")]


def _ratio(name: str, ratios: list[float], note: str) -> Figure:
    value = median(ratios)
    return Figure("merge", name, value, "×", tuple(ratios), "≤ 2", value <= 2, note)


def make(folder: str, rows: list[int]) -> dict[str, Any]:
    """The tables, as their bases left them, and their models."""
    from tailrace.transform import runner

    config = world.config_of(Path(folder), [f"{{name: {model}}}" for model in TABLES])
    for model, count in zip(TABLES, rows, strict=True):
        world.base(config, model, count)
        runner.build(config, [model]).raise_failures()
    return {}


def merges(folder: str, rows: list[int], changes: int, rounds: int) -> dict[str, Any]:
    """Wall seconds of each merge of each table, and of its history's part in it; the first of
    each, which imports dbt, is not counted."""
    from tailrace.transform import runner

    walls: dict[str, list[float]] = {model: [] for model in TABLES}
    states: dict[str, list[float]] = {model: [] for model in TABLES}
    sizes = dict(zip(TABLES, rows, strict=True))
    config = load_config(Path(folder) / "tailrace.yaml")
    for number in range(rounds + 1):
        for model, count in sizes.items():
            world.change(config, model, count, changes, number)
            with stopwatch() as watch:
                built = runner.build(config, [model])
            built.raise_failures()
            if number:
                seconds = {node.name: node.seconds for node in built.nodes}
                walls[model].append(watch["wall"])
                states[model].append(seconds[f"{model}_states"])
    return {"walls": walls, "states": states}


def check(folder: str, rows: list[int], changes: int) -> dict[str, Any]:
    """Every changed key's newest row is what the table holds."""
    config = load_config(Path(folder) / "tailrace.yaml")
    with ChangeLog(config.warehouse) as log:
        for model, count in zip(TABLES, rows, strict=True):
            ((keys, wrong),) = log.query(f"""
                SELECT count(*), count(*) FILTER (latest._version <> newest.version)
                FROM (SELECT key, max(version) AS version FROM changes.{model} GROUP BY key)
                    AS newest
                LEFT JOIN analytics.{model}_latest AS latest ON latest._key = newest.key""")
            assert not wrong, f"{model}: {wrong} of {keys} keys are not the newest"
            assert keys >= count + changes // 12, f"{model}: {keys} keys"
    return {}

"""Measuring a piece of work in a process of its own: wall, CPU and peak memory.

Every piece is a function that prepares, works inside `stopwatch()`, and returns what the watch
shows. It runs in a fresh interpreter, so that neither side's imports or memory touch the other's.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIECE_SECONDS_MOST = 1_800

Spent = dict[str, float]


def cpu_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@contextmanager
def stopwatch() -> Iterator[Spent]:
    """Wall and CPU seconds of the block, in the dict it yields, once the block has ended."""
    spent: Spent = {}
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield spent
    spent["wall"] = time.perf_counter() - wall
    spent["cpu"] = cpu_seconds() - cpu


def peak_mb() -> float:
    """The most memory this process ever held. Not getrusage's ru_maxrss: that one starts at the
    size of the process it was spawned by."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(piece: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """What a piece returns, run in a fresh interpreter; with `peak_mb` of that process."""
    name = f"{piece.__module__}:{piece.__qualname__}"
    done = subprocess.run(
        [sys.executable, "-m", "bench.measure", name, json.dumps(arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PIECE_SECONDS_MOST,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"bench: {name} failed with {done.returncode}; its error is above.")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """The least and the greatest value, for people."""
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "one run"


def main() -> None:
    """Runs the piece that the command line names and prints its result as JSON."""
    module, _, function = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(json.dumps(result | {"peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()

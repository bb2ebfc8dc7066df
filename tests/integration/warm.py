"""A warm process for tests that kill runs. It has imported what a run needs and opened nothing;
each run is a fork of it, and begins in milliseconds instead of seconds.

`python -m tests.integration.warm` reads a JSON line a run from standard input, forks, kills the run
where it was asked to, and answers with a line that says how the run ended. What a run has to say
goes to standard error. `Warm` is the same from the other side.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import dbt.adapters.duckdb
import dbt.cli.main
import dbt.task.run  # noqa: F401

from tailrace.capture import bootstrap, stage
from tailrace.config import Config, load_config
from tailrace.engine import Engine
from tailrace.lake import maintenance
from tailrace.model import BASE_COMPLETE, LIVE, OPEN, DrainResult
from tailrace.transform.runner import build

ROOT = Path(__file__).parents[2]
# Runs follow one another here: nobody reads or writes what is not needed any more.
NO_TIME = timedelta()
AT_ONCE = maintenance.Limits(keep=NO_TIME, grace=NO_TIME, orphans=NO_TIME, ledger=NO_TIME)
RUN_SECONDS_MOST = 300.0
POLL_SECONDS = 0.002
PASSES = 20

FINISHED, KILLED, FAILED = "finished", "killed", "failed"

Began = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and after how many seconds of work."""

    how: str
    seconds: float


class Warm:
    """A warm process, and what its runs said in `log`. A context manager."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.warm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, **environment},
            )

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, kind: str, config: Path, kill_after: float | None = None) -> Outcome:
        """A run of a kind of RUNS, killed after so many seconds of work if it still works then.

        Fails with what the run said where it ended by itself and not well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"kind": kind, "config": str(config), "kill_after": kill_after}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the warm process ended:\n{self.said()}"
        outcome = Outcome(**json.loads(answer))
        assert outcome.how != FAILED, f"a run of {kind} failed:\n{self.said()}"
        return outcome

    def said(self) -> str:
        """The end of what the runs said."""
        return self._log.read_text()[-6_000:]


# ------------------------------------------------------------------------------------ the runs


def _base(config: Config, model: str, began: Began) -> None:
    """A new base, or the rest of the one that was begun; the one before is taken live first."""
    with Engine.open(config) as engine:
        for _ in range(PASSES):
            if engine.states([model])[model] != BASE_COMPLETE:
                break
            engine.drain_table(model)
        began()
        engine.base(model)


def _drain(config: Config, began: Began) -> None:
    with Engine.open(config) as engine:
        began()
        _drained(engine)


def _merge(config: Config, began: Began) -> None:
    began()
    build(config, _models(config)).raise_failures()


def _repair(config: Config, model: str, began: Began) -> None:
    with Engine.open(config) as engine:
        began()
        _mended(engine, model)


def _maintain(config: Config, began: Began) -> None:
    with Engine.open(config) as engine:
        began()
        done = engine.maintain(limits=AT_ONCE)
        assert done.failures == (), done.failures


def _catch_up(config: Config, began: Began) -> None:
    """Every base to its end, no gap left, every stream to its tip."""
    with Engine.open(config) as engine:
        began()
        for model, state in engine.states(_models(config)).items():
            if state == OPEN:
                engine.base(model)
            _mended(engine, model)
        for _ in range(PASSES):
            if all(result.reached_tip for result in _drained(engine)):
                return
    raise AssertionError(f"not caught up in {PASSES} passes")


def _models(config: Config) -> list[str]:
    return [table.model for table in config.tables]


def _drained(engine: Engine) -> list[DrainResult]:
    results = []
    for result in engine.drain(_models(engine.config)).values():
        if isinstance(result, Exception):
            raise result
        results.append(result)
    return results


def _mended(engine: Engine, model: str) -> None:
    for _ in range(PASSES):
        engine.drain_table(model)
        [status] = engine.status([model])
        if status.state == LIVE and not status.gaps:
            return
        engine.repair(model)
    raise AssertionError(f"{model} is {status.state} after {PASSES} repairs, gaps: {status.gaps}")


# What works on one table of two works on that which has its name, or is repaired by exports.
RUNS: dict[str, Callable[[Config, Began], None]] = {
    "scan": lambda config, began: _base(config, "scanned", began),
    "export": lambda config, began: _base(config, "exported", began),
    "drain": _drain,
    "merge": _merge,
    "repair": lambda config, began: _repair(config, "exported", began),
    "maintain": _maintain,
    "catch up": _catch_up,
}


# ----------------------------------------------------------------------------- the warm process


def main() -> None:
    """Runs what is asked for until standard input ends."""
    # Commits page by page and file by file, so that a kill can come between any two of them.
    bootstrap.SCAN_MARGIN_SECONDS = 0.0
    bootstrap.EXPORT_POLL_SECONDS = 0.05
    bootstrap.EXPORT_BATCH_FILES = 1
    stage.FLUSH_SECONDS = 0.0
    # And there is always something to tidy up.
    maintenance.FLUSH_ROWS = maintenance.LEDGER_ROWS = 1
    maintenance.LEVEL_FILES = 2
    for line in sys.stdin:
        print(json.dumps(asdict(_forked(**json.loads(line)))), flush=True)


def _forked(kind: str, config: str, kill_after: float | None) -> Outcome:
    listening, telling = os.pipe()
    child = os.fork()
    if not child:
        _run(kind, Path(config), telling)
    os.close(telling)
    with os.fdopen(listening, "rb") as began:
        works = bool(began.read(1))
    began_at = time.monotonic()
    limit = RUN_SECONDS_MOST if kill_after is None else kill_after
    while True:
        # The run is this process's own child and not waited for yet: no other has its id.
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - began_at
        if ended:
            well = works and os.waitstatus_to_exitcode(status) == 0
            return Outcome(FINISHED if well else FAILED, seconds)
        if works and seconds >= limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(FAILED if kill_after is None else KILLED, seconds)
        time.sleep(POLL_SECONDS)


def _run(kind: str, config: Path, telling: int) -> NoReturn:
    """What the fork does. Standard output is the warm process's own to answer on."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

        def began() -> None:
            os.write(telling, b".")
            os.close(telling)

        RUNS[kind](load_config(config), began)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

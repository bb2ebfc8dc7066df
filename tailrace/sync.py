"""One synchronisation of some tables, without a daemon: bases, passes, models, in that order.

It decides when what is called, and when enough has been done. How a base is read, what a pass
proves and how models are built is left to the engine and to `build`, which are handed in.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tailrace.errors import Retryable, TailraceError, Terminal
from tailrace.model import BaseResult, DrainResult, Gap, TableStatus, gap_text

DRAIN_EVERY_SECONDS = 60.0  # streams keep 24 hours: a base of any length needs drains beside it
REST_SECONDS_MOST = 10.0  # between passes that found nothing, e.g. while a child shard appears
FRUITLESS_PASSES_MOST = 60
STOP_SECONDS = 10.0  # a base that is told to stop gets this long to finish its page
LIVE = "live"
NEEDS_BASE = ("none", "open")


class Replicates(Protocol):
    """What synchronising asks of `tailrace.engine.Engine`. `stop` ends its work early."""

    @property
    def stop(self) -> threading.Event: ...
    def base(self, model: str, *, restart: bool = False) -> BaseResult: ...
    def repair(self, model: str) -> BaseResult | None: ...
    def drain(self, models: Sequence[str]) -> Mapping[str, DrainResult | Exception]: ...
    def status(self, models: Sequence[str] | None = None) -> Sequence[TableStatus]: ...
    def unmerged(self, models: Sequence[str]) -> Sequence[str]: ...


@dataclass
class SyncResult:
    """What was done: bases read, each model's last pass and the rows of all of them, models
    built, and what failed, and is not mended since, for which model. A pass's notices are those of
    all its passes."""

    bases: dict[str, BaseResult] = field(default_factory=dict)
    passes: dict[str, DrainResult] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    built: tuple[str, ...] = ()
    failures: dict[str, Exception] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """How time passes: injected by tests."""

    drain_every_seconds: float = DRAIN_EVERY_SECONDS
    rest_seconds_most: float = REST_SECONDS_MOST
    sleep: Callable[[float], None] = time.sleep


def synchronise(
    engine: Replicates,
    build: Callable[[Sequence[str]], None],
    models: Sequence[str],
    *,
    until_caught_up: bool = False,
    repairs: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    pace: Pace | None = None,
) -> SyncResult:
    """Bring `models` up to date: a base for each that has none and, with `repairs`, for each that
    has a gap what closes it; one pass over each stream (or, `until_caught_up`, passes until each
    is live, without a gap, and a pass begun here reached the tip); then the models that have
    unmerged rows. A gap that is left stands in `failures`.

    A table that fails is left out of the rest and stands in `failures`; the others go on, and
    their models are built. Where `build` fails, its error stands there for all it was to build."""
    pace = pace or Pace()
    result = SyncResult()
    _read_bases(engine, models, repairs, result, tell, pace)
    going = [model for model in models if model not in result.failures]
    if until_caught_up:
        _catch_up(engine, going, repairs, result, tell, pace)
    elif going:
        _pass(engine, going, result)
    due = [model for model in going if model not in result.failures]
    due = list(engine.unmerged(due)) if due else []
    if due:
        tell(f"Building the models of {', '.join(due)}")
        try:
            build(due)
            result.built = tuple(due)
        except TailraceError as error:
            result.failures.update(dict.fromkeys(due, error))
    for model, last in result.passes.items():
        if last.gaps:
            result.failures.setdefault(model, _incomplete(model, last.gaps))
    return result


def caught_up(last: DrainResult | None) -> bool:
    """Whether a pass leaves its table live, read to the tip and without a gap."""
    return last is not None and last.state == LIVE and last.reached_tip and not last.gaps


def _incomplete(model: str, gaps: Sequence[Gap]) -> Terminal:
    return Terminal(
        f"{model}: {gap_text(gaps)}",
        f"`tailrace repair {model}` reads them again; what is newer is shown meanwhile.",
    )


def _read_bases(
    engine: Replicates,
    models: Sequence[str],
    repairs: bool,
    result: SyncResult,
    tell: Callable[[str], None],
    pace: Pace,
) -> None:
    """Read the bases that are missing or repair a gap, in a thread, and drain beside it, so that
    the streams' 24 hours do not limit how long a base takes."""
    due = [
        each.model
        for each in engine.status(models)
        if each.state in NEEDS_BASE or (repairs and each.gaps and not each.closes_gaps)
    ]
    if not due:
        return
    reading = _Bases(engine, due, result, tell)
    reading.start()
    try:
        while True:
            reading.join(pace.drain_every_seconds)
            if not reading.is_alive():
                break
            _drain_beside(engine, models, result, tell)
    except BaseException:
        engine.stop.set()
        reading.join(STOP_SECONDS)
        raise
    if reading.broken is not None:
        raise reading.broken


class _Bases(threading.Thread):
    """Reads bases one after the other: each is parallel in itself. A daemon, because a process
    that ends may leave it at any point; what it committed stays."""

    def __init__(
        self,
        engine: Replicates,
        models: Sequence[str],
        result: SyncResult,
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(name="bases", daemon=True)
        self._engine, self._models, self._result, self._tell = engine, models, result, tell
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            for model in self._models:
                self._read(model)
        except BaseException as error:
            self.broken = error

    def _read(self, model: str) -> None:
        try:
            [status] = self._engine.status([model])
            base = self._engine.repair(model) if status.gaps else self._engine.base(model)
        except TailraceError as error:
            self._result.failures[model] = error
            if not self._engine.stop.is_set():
                self._tell(f"{model}: the base failed: {error.message}")
        else:
            if base is None:
                return
            self._result.bases[model] = base
            self._tell(
                f"{model}: base read by {base.method}, {base.items:,} items in {base.seconds:.0f} s"
            )


def _drain_beside(
    engine: Replicates, models: Sequence[str], result: SyncResult, tell: Callable[[str], None]
) -> None:
    begun = [each.model for each in engine.status(models) if each.epoch is not None]
    begun = [model for model in begun if model not in result.failures]
    if not begun:
        return
    for model, error in _pass(engine, begun, result).items():
        del result.failures[model]  # the passes after the base decide
        tell(f"{model}: a pass beside the base failed, the next is in a minute: {error}")


def _pass(engine: Replicates, models: Sequence[str], result: SyncResult) -> dict[str, Exception]:
    """One pass over the streams of `models`. What failed is returned and stands in `failures`,
    where a pass that succeeds removes it."""
    failed: dict[str, Exception] = {}
    for model, outcome in engine.drain(models).items():
        if isinstance(outcome, Exception):
            failed[model] = outcome
            continue
        result.failures.pop(model, None)
        told = result.passes[model].notices if model in result.passes else ()
        notices = tuple(dict.fromkeys([*told, *outcome.notices]))
        result.passes[model] = replace(outcome, notices=notices)
        result.rows[model] = result.rows.get(model, 0) + outcome.rows
    result.failures.update(failed)
    return failed


def _catch_up(
    engine: Replicates,
    models: Sequence[str],
    repairs: bool,
    result: SyncResult,
    tell: Callable[[str], None],
    pace: Pace,
) -> None:
    """Pass after pass over what is not caught up. A pass counts only if it began here, after the
    bases: one that ran beside a base proves nothing about it."""
    behind = list(models)
    fruitless = 0
    while behind:
        before = sum(result.rows.values())
        failed = _pass(engine, behind, result)
        rows = sum(result.rows.values()) - before
        for model, error in failed.items():
            tell(f"{model}: a pass failed: {error}")
        behind = [model for model in behind if _goes_on(model, repairs, result, failed)]
        torn = [each for each in behind if _is_torn(result.passes.get(each))]
        if torn:
            _read_bases(engine, torn, repairs, result, tell, pace)
            behind = [model for model in behind if model not in result.failures or model in failed]
        fruitless = 0 if rows else fruitless + 1
        if behind and fruitless >= FRUITLESS_PASSES_MOST + _waits(behind, result, pace):
            result.failures.update({model: _stuck(model, result) for model in behind})
            return
        if behind and fruitless:
            pace.sleep(min(0.5 * 2 ** min(fruitless, 10), pace.rest_seconds_most))
        elif behind:
            tell(f"Still behind: {', '.join(behind)} ({rows:,} changes in this pass)")


def _waits(models: Sequence[str], result: SyncResult, pace: Pace) -> int:
    """The passes that find nothing while what their sources may still bring is waited for."""
    delays = [result.passes[model].delay_seconds for model in models if model in result.passes]
    return math.ceil(max(delays, default=0.0) / pace.rest_seconds_most)


def _goes_on(
    model: str, repairs: bool, result: SyncResult, failed: Mapping[str, Exception]
) -> bool:
    if model in failed:
        return isinstance(failed[model], Retryable)
    last = result.passes.get(model)
    if _is_torn(last) and not repairs:
        return False
    return not caught_up(last)


def _is_torn(last: DrainResult | None) -> bool:
    """Whether a pass left a gap that no unfinished epoch is about to close."""
    if last is None or not last.gaps:
        return False
    return last.state == LIVE or last.ended or last.void


def _stuck(model: str, result: SyncResult) -> Retryable:
    last = result.passes.get(model)
    state = f" It is {last.state}, with {last.shards_open} open shards." if last else ""
    trouble = result.failures.get(model)
    why = f" The last pass failed: {trouble}" if trouble else ""
    return Retryable(
        f"{model}: {FRUITLESS_PASSES_MOST} passes found nothing new, and yet did not reach the "
        f"tip of its stream.{state}{why}",
        "Look at `tailrace status`; run the command again, it goes on where it stopped.",
    )

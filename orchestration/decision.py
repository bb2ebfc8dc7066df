"""What the sensor decides each minute, as pure functions: which runs to ask for, and why not.

It sees what the ledger says of the tables and what Dagster says of the runs, and touches neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from assets.metadata import duration
from tailrace.model import OPEN, TableStatus, gap_text

NONE = "none"
CHANGES, BASE = "changes", "base"

# A base that fails again and again is tried after 1, 2, 4 … minutes, at last every hour.
RETRY_FIRST = timedelta(minutes=1)
RETRY_LAST = timedelta(hours=1)

# A drain, or a merge, that failed is tried again in the next minute, then after 2, 4, 8 and at
# last every 15 minutes: a table's stream keeps a day, and the first success ends the waiting.
DRAIN_RETRY_LAST = timedelta(minutes=15)
REASON_LENGTH = 400


@dataclass(frozen=True)
class RunInProgress:
    """A run that is queued, starting or running; `keys` are the assets it materializes."""

    id: str
    keys: frozenset[tuple[str, ...]]
    since: datetime | None = None

    def touches(self, what: str) -> frozenset[str]:
        """The models whose `base` or `changes` it materializes."""
        return frozenset(key[0] for key in self.keys if len(key) == 2 and key[1] == what)


@dataclass(frozen=True)
class LastBase:
    """The newest run of a table's base that has ended. `attempt` counts the sensor's tries in a
    row, 0 for a run that a person started."""

    run_id: str
    succeeded: bool
    canceled: bool
    attempt: int
    ended_at: datetime


@dataclass(frozen=True)
class LastFailure:
    """The newest run over a table's changes and models, where it failed for this table; `times` in
    a row, `what` failed: its drain, or building its models."""

    run_id: str
    what: str
    times: int
    ended_at: datetime


@dataclass(frozen=True)
class Situation:
    """Everything a decision rests on. `states` by model, `due` and `unmerged` of the models that
    have an epoch, `failures` of those whose last drain or merge failed, `gaps` (in words) of those
    to repair, `bases` of those whose base is missing or unfinished, or that have a gap."""

    now: datetime
    states: Mapping[str, str]
    runs: Sequence[RunInProgress] = ()
    due: Mapping[str, str] = field(default_factory=dict)
    unmerged: Sequence[str] = ()
    failures: Mapping[str, LastFailure] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, LastBase | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseRequest:
    """A run of one table's base, or of its repair. `run_key` is the same until that run has
    ended."""

    model: str
    run_key: str
    attempt: int
    reason: str
    repair: bool = False


@dataclass(frozen=True)
class MinuteRequest:
    """A run over the changes and dbt models of some tables, with the reason for each, and how
    often in a row those failed that did."""

    reasons: Mapping[str, str]
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The tables to drain and build."""
        return tuple(self.reasons)


@dataclass(frozen=True)
class Decision:
    """What to ask for; `notes` say of everything else why not."""

    bases: tuple[BaseRequest, ...] = ()
    minute: MinuteRequest | None = None
    notes: tuple[str, ...] = ()


def draining(runs: Sequence[RunInProgress]) -> RunInProgress | None:
    """The run that drains already, if there is one."""
    return next((run for run in runs if run.touches(CHANGES)), None)


def to_repair(statuses: Sequence[TableStatus], repaired: Collection[str]) -> dict[str, str]:
    """The gaps, in words, of the tables that are `repaired` and of which a run would close any:
    where what closes them is read already, only a pass is missing."""
    return {
        status.model: gap_text(status.gaps)
        for status in statuses
        if status.gaps and not status.closes_gaps and status.model in repaired
    }


def needs_base(
    states: Mapping[str, str], gaps: Collection[str], runs: Sequence[RunInProgress]
) -> list[str]:
    """The models whose base is missing or unfinished or that have a gap, and which no run is
    reading."""
    reading = {model for run in runs for model in run.touches(BASE)}
    return [
        model
        for model, state in states.items()
        if (state in (NONE, OPEN) or model in gaps) and model not in reading
    ]


def _repair(model: str, gap: str, last: LastBase | None, now: datetime) -> BaseRequest | str:
    left = _left(last, now)
    if last and left > 0:
        return (
            f"{model}: its repair failed (run {last.run_id[:8]}: see its error); it is tried again"
            f" in {duration(left)}, or at once if you materialize {model}/base."
        )
    attempt = last.attempt + 1 if last and not last.succeeded else 1
    key = f"repair-{model}-after-{last.run_id if last else 'nothing'}"
    return BaseRequest(model, key, attempt, _shortened(gap), repair=True)


def _left(last: LastBase | None, now: datetime) -> float:
    """Seconds until a base that failed `last.attempt` times in a row is tried again."""
    if last is None or last.succeeded or not last.attempt:
        return 0.0
    wait = min(RETRY_FIRST * 2 ** min(last.attempt, 10), RETRY_LAST)
    return (last.ended_at + wait - now).total_seconds()


def decide(at: Situation) -> Decision:
    """The bases to start or resume, and the one run of this minute."""
    bases, notes = _bases(at)
    running = draining(at.runs)
    if running is not None:
        notes.append(_still_draining(running, at.now))
        return Decision(tuple(bases), None, tuple(notes))
    reasons = wanted(at.due, at.unmerged)
    waiting = {model: note for model in reasons if (note := _waits(model, reasons[model], at))}
    notes += waiting.values()
    now = {model: reason for model, reason in reasons.items() if model not in waiting}
    if now:
        failures = {model: at.failures[model].times for model in now if model in at.failures}
        return Decision(tuple(bases), MinuteRequest(now, failures), tuple(notes))
    if not waiting and any(state != NONE for state in at.states.values()):
        notes.append("Nothing new in the streams.")
    return Decision(tuple(bases), None, tuple(notes))


def wanted(due: Mapping[str, str], unmerged: Sequence[str]) -> dict[str, str]:
    """The models that a run is worth, with the reason for each."""
    reasons = {model: reason for model, reason in due.items() if reason}
    for model in unmerged:
        reasons.setdefault(model, "rows have landed that its models do not show yet")
    return reasons


def _waits(model: str, reason: str, at: Situation) -> str:
    """Why a table that is due has to wait after its failures; empty if it has not."""
    last = at.failures.get(model)
    if last is None or last.times < 2:
        return ""
    wait = min(RETRY_FIRST * 2 ** min(last.times - 1, 10), DRAIN_RETRY_LAST)
    left = (last.ended_at + wait - at.now).total_seconds()
    if left <= 0:
        return ""
    return (
        f"{model}: {last.what} failed {last.times} times in a row (run {last.run_id[:8]}: see its"
        f" error); it is tried again in {duration(left)}, or at once if you materialize"
        f" {model}/{CHANGES} and its models. It is due: {_shortened(reason)}."
    )


def reason_tag(reasons: Mapping[str, str]) -> str:
    """The reasons in one line of bounded length, as a run's tag."""
    return _shortened("; ".join(f"{model}: {reason}" for model, reason in reasons.items()))


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 1]}…"


def _bases(at: Situation) -> tuple[list[BaseRequest], list[str]]:
    requests: list[BaseRequest] = []
    notes: list[str] = []
    for model in needs_base(at.states, at.gaps, at.runs):
        last, state = at.bases.get(model), at.states[model]
        if model in at.gaps and state not in (NONE, OPEN):
            asked = _repair(model, at.gaps[model], last, at.now)
        else:
            asked = _base(model, state, last, at.now)
        if isinstance(asked, BaseRequest):
            requests.append(asked)
        else:
            notes.append(asked)
    return requests, notes


def _base(model: str, state: str, last: LastBase | None, now: datetime) -> BaseRequest | str:
    if last is None:
        return BaseRequest(model, f"base-{model}-first", 1, "the table has no epoch yet")
    run = f"run {last.run_id[:8]}"
    if last.canceled:
        return f"{model}: its base was canceled ({run}). Materialize {model}/base to go on with it."
    key = f"base-{model}-after-{last.run_id}"
    if last.succeeded:
        return BaseRequest(model, key, 1, f"its base is {state} in this warehouse")
    left = _left(last, now)
    if left > 0:
        return (
            f"{model}: its base failed ({run}: see its error); it is tried again in"
            f" {duration(left)}, or at once if you materialize {model}/base."
        )
    return BaseRequest(model, key, last.attempt + 1, f"its base was interrupted in {run}")


def _still_draining(run: RunInProgress, now: datetime) -> str:
    since = f", for {duration((now - run.since).total_seconds())}" if run.since else ""
    return f"A drain is in progress: run {run.id[:8]}{since}."

"""The laws, asserted after every commit against the sandbox's own journal.

The code under test never sees the journal; this reads nothing but the log's rows and control
tables, and works out by the published visibility rule what a reader would see. A key's history is
the list of its states; a reader may walk forward in it and never back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from datetime import datetime
from typing import Any

import msgspec

from sandbox.streams import Change
from tailrace.lake.version import MICROS_DIGITS, POSITION_DIGITS, RECORD_DIGITS
from tailrace.model import FULL, LIVE, Epoch, Gap, PassRecord
from tests.simulation.memory_log import Row, Store
from tests.simulation.world import Sent, World

State = str | None


class Violation(BaseException):  # no handler of the code under test may swallow it
    """A law is broken."""


class Truth:
    """Watches one world. `check` is its `on_commit`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store
        self._rows = 0
        self._landed: dict[tuple[str, int], Row] = {}
        self._changes: set[tuple[str, str, str]] = set()
        self._base: set[tuple[str, str]] = set()
        self._last_sequence: dict[tuple[str, str], int] = {}
        self._passes = 0
        self._place: dict[str, int] = {}
        self._floor = 0

    def check(self) -> None:
        """Asserts every law that must hold now. Raises Violation."""
        for row in self._store.rows[self._rows :]:
            self._once_and_in_order(row)
        self._rows = len(self._store.rows)
        new = slice(self._passes, None)
        for record, stream in zip(
            self._store.passes[new], self._store.pass_streams[new], strict=True
        ):
            if record.complete:
                self._proof(record, stream)
        self._passes = len(self._store.passes)
        self._forward()

    def landed(self, arn: str, sequence: int) -> bool:
        """Whether a stream's record is in the log."""
        return (arn, sequence) in self._landed

    def check_equal(self) -> None:
        """Asserts that what readers see equals the table, key by key. Raises Violation."""
        shown = visible(self._store)
        for key, states in self._histories().items():
            if shown.get(key) != states[-1][1]:
                raise Violation(
                    f"Not equal at rest: {key} is {states[-1][1]} in the table, but readers see"
                    f" {shown.get(key)}."
                )
        if unknown := set(shown) - set(self._histories()):
            raise Violation(f"Never written, yet shown: {unknown}")

    # ------------------------------------------------------------------------------------- rows

    def _once_and_in_order(self, row: Row) -> None:
        if row.is_base:
            if (row.version, row.key) in self._base:
                raise Violation(f"Once: a second base row of {row.key} in epoch {row.epoch}.")
            self._base.add((row.version, row.key))
            return
        epoch = self._epoch(row.landed)
        is_timed = epoch.changes_from is not None
        sequence = int(row.version[-RECORD_DIGITS if is_timed else -POSITION_DIGITS :])
        stream_arn = epoch.stream_arn
        place = (stream_arn, sequence)
        if place in self._landed:
            raise Violation(f"Once: record {sequence} of {row.key} landed twice.")
        self._landed[place] = row
        if is_timed:  # AWS may send a change twice; it is one row all the same
            change = (stream_arn, row.key, row.version[:-RECORD_DIGITS][-MICROS_DIGITS:])
            if change in self._changes:
                raise Violation(f"Once: a change of {row.key} landed twice.")
            self._changes.add(change)
            return
        last = self._last_sequence.get((stream_arn, row.key), 0)
        # Behind a generation that AWS lost, nobody knows who descends from whom.
        if sequence < last and not self._world.weather.vanish:
            raise Violation(f"Order: of {row.key}, {sequence} landed after {last}.")
        self._last_sequence[stream_arn, row.key] = sequence

    def _epoch(self, number: int) -> Epoch:
        return self._store.newest()[number]

    # ------------------------------------------------------------------------------------ passes

    def _proof(self, record: PassRecord, stream: str) -> None:
        """A complete pass claims every record made before it began: it is in the log, or older
        than the base that readers see, or in a gap that is stored."""
        newest = self._store.newest()
        live = [each for each in newest.values() if each.state == LIVE]
        last = newest[max(newest)]
        began = micros(record.proves_until)
        covered = _base_at(live[-1] if live else last)
        # A base that is older than the coverage is refused: its epoch is never seen.
        usable = last.detail.get("not_before", last.opened_at.isoformat())
        covered = covered if live else max(covered, micros(datetime.fromisoformat(usable)))
        # Without a live epoch only the newest one's own stream counts: its base covers the rest.
        followed = {each.stream_arn for each in newest.values() if live or each is last}
        records = self._world.records
        if self._world.kinesis:
            # A table that streams to two places is read from one: a pass speaks for that alone.
            followed = {stream}
            records = [*records, *self._due(stream, began)]
            if last.stream_arn == stream and "beside" in last.detail:
                covered = max(covered, _base_at(last))
            self._check_unsent(record, stream, covered, began)
        missing = [
            (arn, sequence, change)
            for arn, sequence, change in records
            if covered <= change.micros < began
            and arn in followed
            and (arn, sequence) not in self._landed
        ]
        for _, sequence, change in missing:
            self._require_gap(record, change, f"record {sequence}")
        same_table = live and live[-1].table_id == last.table_id
        closed = all(any(_closes(epoch, gap) for epoch in live) for gap in self._store.gaps)
        shown = not self._world.kinesis or (live and live[-1].stream_arn == stream)
        if same_table and closed and shown and not missing:
            is_kinesis = stream.startswith("arn:aws:kinesis")
            sent = self._world.sent if is_kinesis else []
            late = [each.change.micros for each in sent if _is_late(each, began)]
            self._floor = max(self._floor, min([began, *late]))

    def _check_unsent(self, record: PassRecord, stream: str, covered: int, began: int) -> None:
        """What the table did not send to Kinesis no pass over that stream may claim. An epoch's
        opening is told in AWS's whole seconds: its base is read after what was made in that one."""
        if stream.startswith(("arn:aws:kinesis", "arn:aws:s3")):
            for change in self._world.unsent:
                if covered + 1_000_000 <= change.micros < began:
                    self._require_gap(record, change, "a change that was not sent")

    def _require_gap(self, record: PassRecord, change: Change, what: str) -> None:
        if any(_within(change.micros, gap) for gap in self._store.gaps):
            return
        hours = (self._world.clock.now() - change.micros) / 3.6e9
        raise Violation(
            f"No silent gap: a pass says it is complete from {record.began_at}, but {what} of"
            f" {change.keys.decode()}, written {hours:.1f} hours ago, is neither in the log nor in"
            " a gap that is stored."
        )

    def _due(self, stream: str, began: int) -> list[tuple[str, int, Change]]:
        """The records that had come to a Kinesis stream by then, of one that came twice that which
        has landed; of Firehose, those of changes that were made by then, because a pass proves what
        is surely delivered."""
        sent = self._world.sent
        if stream.startswith("arn:aws:s3"):
            return [(stream, x.number, x.change) for x in sent if x.change.micros < began]
        found = []
        for each in sent:
            if each.arrived is not None and each.arrived < began:
                landed = [x for x in each.sequences if (each.stream, x) in self._landed]
                found.append((each.stream, (landed or each.sequences)[0], each.change))
        return found

    # -------------------------------------------------------------------------------- what is seen

    def _histories(self) -> dict[str, list[tuple[int, State]]]:
        found: dict[str, list[tuple[int, State]]] = defaultdict(lambda: [(0, None)])
        for journal in self._world.journals():
            for change in journal:
                image = _text(msgspec.json.decode(change.new.raw)) if change.new else None
                found[change.keys.decode()].append((change.micros, image))
        return found

    def _forward(self) -> None:
        if not self._store.live:
            return
        shown = visible(self._store)
        histories = self._histories()
        if unknown := set(shown) - set(histories):
            raise Violation(f"Never written, yet shown: {unknown}")
        for key, states in histories.items():
            fresh = bisect_left(states, self._floor, key=lambda each: each[0]) - 1
            self._place[key] = self._step(key, states, shown.get(key), max(fresh, 0))

    def _step(self, key: str, states: list[tuple[int, State]], seen: State, fresh: int) -> int:
        """The place in its history at which a reader sees the key now."""
        start = self._place.get(key, 0)
        for place in range(max(start, fresh), len(states)):
            if states[place][1] == seen:
                return place
        newer = any(state == seen for _, state in states[start:])
        law = "No loss (stale)" if newer else "No step back"
        if not newer and states[start][1] is None:
            law = "No phantom"
        raise Violation(
            f"{law}: readers see {key} as {seen}, which is its state"
            f" {[at for at, (_, state) in enumerate(states) if state == seen]} of"
            f" {len(states) - 1}; they had seen state {start}, and a complete pass had proven"
            f" state {fresh}."
        )


def _is_late(sent: Sent, began: int) -> bool:
    """Whether a change made before then had not come to its Kinesis stream yet."""
    return sent.change.micros < began and (sent.arrived is None or sent.arrived >= began)


def visible(store: Store) -> dict[str, str]:
    """What the public model of the log would hold: key to item."""
    if not store.live:
        return {}
    newest = store.newest()
    winners: dict[str, Row] = {}
    for row in store.rows:
        waits = row.is_base or "overlaps" in newest[row.landed].detail
        if waits and row.landed not in store.live:
            continue
        winner = winners.get(row.key)
        if winner is None or row.version > winner.version:
            winners[row.key] = row
    full = max(number for number in store.live if newest[number].kind == FULL)
    return {
        key: _text(row.image)
        for key, row in winners.items()
        if row.image is not None and row.epoch >= full
    }


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return int(at.timestamp() * 1_000_000)


def _base_at(epoch: Epoch) -> int:
    """What an epoch's base is of: its opening, or an export older than that."""
    taken = epoch.detail.get("export_time")
    exported = [micros(datetime.fromisoformat(taken))] if taken else []
    return min([micros(epoch.opened_at), *exported])


def _closes(live: Epoch, gap: Gap) -> bool:
    if _base_at(live) < micros(gap.until):
        return False
    return live.kind == FULL or datetime.fromisoformat(live.detail["begin"]) <= gap.since


def _within(written: int, gap: Gap) -> bool:
    # AWS tells its time in whole seconds.
    return micros(gap.since) - 1_000_000 <= written <= micros(gap.until) + 1_000_000


def _text(image: dict[str, Any]) -> str:
    return msgspec.json.encode(image, order="sorted").decode()

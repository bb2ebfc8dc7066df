"""Staging: pages of many parts gather in memory, then become true in one commit.

Threads add pages; when enough has gathered, the thread that noticed commits for all. Pages that
arrive meanwhile wait, which is the back-pressure: what is staged is bounded by `flush_bytes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tailrace.capture.ports import Clock, Log
from tailrace.changes import Changes, records_of
from tailrace.errors import Terminal
from tailrace.lines import Lines
from tailrace.model import (
    Commit,
    Epoch,
    Part,
    PartProgress,
    PassRecord,
    Position,
    Shape,
    Staged,
)

FLUSH_BYTES = 48 * 1024 * 1024
FLUSH_SECONDS = 30.0


class Stage:
    """What has been read of a table since the last commit. Thread-safe."""

    def __init__(
        self,
        log: Log,
        model: str,
        epoch: Epoch,
        shape: Shape,
        positions: dict[Part, Position],
        clock: Clock,
        flush_bytes: int = FLUSH_BYTES,
        on_commit: Callable[[int, int], None] | None = None,
    ) -> None:
        self._log = log
        self._model = model
        self._epoch = epoch
        self._shape = shape
        self._committed = dict(positions)
        self._lines: list[bytes] = []
        self._clock = clock
        self._flush_bytes = flush_bytes
        self._on_commit = on_commit
        self._lock = threading.RLock()
        self._pending: dict[Part, PartProgress] = {}
        self._seen: set[Part] = set()
        self._read_at: datetime | None = None
        self._flushed_at = clock.monotonic()
        self.rows = 0
        self.bytes = 0
        self.newest: datetime | None = None

    def position(self, part: Part) -> Position:
        """Where a part stands, staged pages included."""
        with self._lock:
            pending = self._pending.get(part)
            known = self._committed.get(part, Position())
            if pending is not None:
                newest = pending.newest or known.newest
                return Position(pending.position_to, pending.finished, newest)
            return known

    def see(self, part: Part) -> None:
        """Has the ledger know a part from the next commit on, whether it moves or not."""
        with self._lock:
            if part not in self._committed:
                self._seen.add(part)
                self._pending.setdefault(part, PartProgress(part, None, None, False, 0, 0))

    def add(
        self,
        part: Part,
        lines: bytes,
        rows: int,
        position: str | None,
        *,
        finished: bool,
        oldest: datetime | None = None,
        newest: datetime | None = None,
        read_at: datetime | None = None,
    ) -> None:
        """Adds a page that moves `part` to `position`; commits if enough has gathered."""
        with self._lock:
            if lines:
                self._lines.append(lines)
            self._note(part, rows, len(lines), position, finished, oldest, newest)
            if read_at is not None:
                self._read_at = min(self._read_at or read_at, read_at)
            waited = self._clock.monotonic() - self._flushed_at
            if self._staged_bytes() >= self._flush_bytes or waited >= FLUSH_SECONDS:
                self.flush()

    def _note(
        self,
        part: Part,
        rows: int,
        size: int,
        position: str | None,
        finished: bool,
        oldest: datetime | None,
        newest: datetime | None,
    ) -> None:
        known = self._pending.get(part)
        if known is None:
            start = self._committed.get(part, Position()).at
            known = PartProgress(part, start, start, False, 0, 0)
        self._pending[part] = replace(
            known,
            position_to=position,
            finished=finished,
            rows=known.rows + rows,
            bytes=known.bytes + size,
            oldest=min(filter(None, (known.oldest, oldest)), default=None),
            newest=max(filter(None, (known.newest, newest)), default=None),
        )

    def _texts(self) -> tuple[Lines | Changes, ...]:
        try:
            return tuple(texts_of(self._shape, page) for page in self._lines)
        except (ValueError, RecursionError) as error:
            raise Terminal(
                f"{self._model}: a record of the stream is not what AWS sends: {error}",
                "Nothing of it was committed. Run again; if AWS sends it again, report it.",
            ) from error

    def _staged_bytes(self) -> int:
        return sum(each.bytes for each in self._pending.values())

    def flush(
        self,
        *,
        state: str | None = None,
        at: datetime | None = None,
        pass_record: PassRecord | None = None,
    ) -> None:
        """Commits what has gathered, with an epoch's new state or a pass's record if given.

        Raises what Log.commit raises; nothing is committed then."""
        with self._lock:
            moved = tuple(
                each
                for each in self._pending.values()
                if each.rows
                or each.finished
                or each.position_to != each.position_from
                or each.part in self._seen
            )
            if not moved and state is None and pass_record is None:
                return
            rows = sum(each.rows for each in moved)
            size = sum(each.bytes for each in moved)
            repeats = self._shape is Shape.KINESIS_RECORDS
            staged = Staged(self._shape, self._texts(), rows, self._read_at, repeats)
            self._log.commit(
                self._model,
                Commit(self._epoch, moved, staged if rows else None, state, at, pass_record),
            )
            for each in moved:
                newest = each.newest or self._committed.get(each.part, Position()).newest
                self._committed[each.part] = Position(each.position_to, each.finished, newest)
            self._pending = {}
            self._seen = set()
            self._read_at = None
            self._lines = []
            self._flushed_at = self._clock.monotonic()
            self.rows += rows
            self.bytes += size
            self.newest = max(
                filter(None, (self.newest, *(each.newest for each in moved))), default=None
            )
            if self._on_commit:
                self._on_commit(rows, size)


def texts_of(shape: Shape, page: bytes) -> Lines | Changes:
    """What lines of this shape are staged as. Raises ValueError or RecursionError for records that
    are none."""
    if shape is Shape.STREAM_RECORDS:
        return Changes.of_stream(records_of(page))
    if shape is Shape.KINESIS_RECORDS:
        return Changes.of_kinesis(records_of(page))
    return Lines.of(page)

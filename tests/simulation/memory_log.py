"""The Log port in memory: the fence and the version of tailrace.lake, none of DuckLake's cost.

What it does to rows is what landing.py says in SQL; test_log_contract.py runs one behaviour suite
against this and the real ChangeLog, so that the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tailrace.changes import ChangeRow
from tailrace.errors import Stale, Terminal
from tailrace.lake.log import _check_fence
from tailrace.lake.ties import Tied, settled
from tailrace.lake.version import (
    BASE_PHASE,
    EPOCH_DIGITS,
    MICROS_DIGITS,
    POSITION_DIGITS,
    PRIOR_PHASE,
    RECORD_DIGITS,
    STREAM_PHASE,
    TIMED_DIGITS,
)
from tailrace.model import (
    Commit,
    Epoch,
    Era,
    Gap,
    Head,
    Part,
    Passes,
    PassRecord,
    Position,
    Shape,
    Staged,
    TableDescription,
    passes_shown,
)


class Row(NamedTuple):
    """A row of changes.<model>; `image` is the decoded DynamoDB JSON, None on REMOVE."""

    batch: int
    version: str
    epoch: int
    op: str
    key: str
    image: dict[str, Any] | None
    old_image: dict[str, Any] | None = None

    @property
    def landed(self) -> int:
        """The epoch under which the row has landed."""
        return int(self.version[:EPOCH_DIGITS])

    @property
    def is_base(self) -> bool:
        """Whether the row is of an epoch's base."""
        return self.version[EPOCH_DIGITS] == BASE_PHASE


@dataclass
class Store:
    """What survives a process: one table's log and control tables. `epochs` holds every row that
    was appended, as (batch, epoch)."""

    batch: int = 0
    table: TableDescription | None = None
    rows: list[Row] = field(default_factory=list)
    epochs: list[tuple[int, Epoch]] = field(default_factory=list)
    positions: dict[Part, tuple[int, Position]] = field(default_factory=dict)
    passes: list[PassRecord] = field(default_factory=list)
    pass_streams: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    live: dict[int, int] = field(default_factory=dict)
    objects: list[tuple[Part, str, list[str]]] = field(default_factory=list)

    def newest(self) -> dict[int, Epoch]:
        """Each epoch as its last row has it, by number."""
        found: dict[int, Epoch] = {}
        for _, epoch in self.epochs:
            first = found.get(epoch.number)
            found[epoch.number] = replace(epoch, opened_at=first.opened_at) if first else epoch
        return dict(sorted(found.items()))


Hook = Callable[[str], None]


class MemoryLog:
    """One process's handle on a store. `hook` is called with "before commit" and "after commit":
    what it raises, a process that dies there would have seen."""

    def __init__(self, store: Store, hook: Hook = lambda moment: None) -> None:
        self._store = store
        self._hook = hook

    def close(self) -> None:
        """Nothing is open."""

    def head(self, model: str) -> Head:
        """Where the ledger stands now."""
        store = self._store
        epochs = tuple(store.newest().values())
        newest = epochs[-1].number if epochs else 0
        passes: Passes = {}
        for stream, each in zip(store.pass_streams, store.passes, strict=True):
            _, proof = passes.get(stream, (None, None))
            passes[stream] = (each, each if each.complete else proof)
        last_pass, last_proof = passes_shown(epochs, passes)
        return Head(
            batch=store.batch,
            table=store.table,
            epochs=epochs,
            positions={
                part: position
                for part, (epoch, position) in store.positions.items()
                if part.kind == "stream" or epoch == newest
            },
            last_pass=last_pass,
            last_proof=last_proof,
            gaps=tuple(sorted(store.gaps, key=lambda gap: gap.since)),
            passes=passes,
        )

    def open_epoch(
        self,
        model: str,
        table: TableDescription,
        epoch: Epoch,
        seen: Mapping[Part, int] | None = None,
        after: int | None = None,
    ) -> int:
        """Opens the epoch that follows the newest. Raises Stale."""
        self._hook("before commit")
        store = self._store
        newest = max((each.number for _, each in store.epochs), default=0)
        if after is not None and store.batch != after:
            raise Stale(f"{model}: batch {store.batch} came after {after}.")
        if epoch.number != newest + 1:
            raise Stale(f"{model}: epoch {epoch.number} was to be opened, but {newest} is open.")
        store.batch += 1
        store.table = replace(table, item_count=0, size_bytes=0)
        store.epochs.append((store.batch, replace(epoch, changed_at=epoch.opened_at)))
        for part, number in (seen or {}).items():
            _, stands = store.positions.get(part, (0, Position(epoch=-1)))
            if not stands.finished and stands.epoch < number:
                store.positions[part] = (number, replace(stands, epoch=number))
        self._hook("after commit")
        return store.batch

    def delivered(self, model: str, part: Part, since: str) -> set[str]:
        """The keys of the objects that were read of a part."""
        return {
            key
            for known, position, objects in self._store.objects
            if known == part and position >= since
            for key in objects
        }

    def commit(self, model: str, commit: Commit) -> int:
        """The whole commit or nothing. Raises Stale, Terminal."""
        self._hook("before commit")
        head = self.head(model)
        _check_fence(model, head, commit)
        assert head.table is not None
        store = self._store
        batch = store.batch + 1
        if commit.staged is not None and commit.staged.rows:
            eras = head.eras(commit.epoch)
            number = commit.epoch.number
            landed = _landed(model, commit.staged, number, eras, batch, head.table)
            if commit.staged.repeats:
                landed = _in_place(store.rows, _once(store.rows, landed))
            store.rows.extend(landed)
        store.batch = batch
        for each in commit.parts:
            _, known = store.positions.get(each.part, (0, Position()))
            newest = max(filter(None, (known.newest, each.newest)), default=None)
            position = Position(each.position_to, each.finished, newest, commit.epoch.number)
            store.positions[each.part] = (commit.epoch.number, position)
            if each.detail:
                objects = list(each.detail.get("objects", ()))
                store.objects.append((each.part, each.position_to or "", objects))
        if commit.pass_record is not None:
            store.passes.append(commit.pass_record)
            store.pass_streams.append(commit.epoch.stream_arn)
        if commit.state is not None:
            assert commit.at is not None
            detail = commit.epoch.detail if commit.detail is None else commit.detail
            kept = msgspec.json.decode(msgspec.json.encode(detail))  # the ledger holds JSON
            noted = replace(commit.epoch, state=commit.state, changed_at=commit.at, detail=kept)
            store.epochs.append((batch, noted))
            if commit.state == "live":
                store.live.setdefault(commit.epoch.number, batch)
        if commit.gap is not None:
            store.gaps.append(replace(commit.gap, epoch=commit.epoch.number))
        self._hook("after commit")
        return batch


def version(epoch: int, phase: str, position: str = "") -> str:
    """version.version_sql's text."""
    return f"{epoch:0{EPOCH_DIGITS}d}{phase}{position.rjust(POSITION_DIGITS, '0')}"


def timed_version(epoch: int, phase: str, micros: int, record: str) -> str:
    """version.timed_version_sql's text."""
    position = str(micros).rjust(MICROS_DIGITS, "0") + record.rjust(RECORD_DIGITS, "0")
    return f"{epoch:0{EPOCH_DIGITS}d}{phase}{position}"


def _once(rows: Sequence[Row], landed: Sequence[Row]) -> list[Row]:
    """The rows of which the log has none, each once."""
    known = {(row.version, row.key) for row in rows}
    fresh = {(row.version, row.key): row for row in reversed(landed)}
    return [row for place, row in reversed(fresh.items()) if place not in known]


def _in_place(rows: Sequence[Row], landed: Sequence[Row]) -> list[Row]:
    """What lands of rows that bear one time with others of their key, and where it stands."""
    places = {(row.key, row.version[:TIMED_DIGITS]) for row in landed}
    groups: dict[tuple[str, str], list[tuple[Row, bool]]] = {}
    for is_new, of in ((False, rows), (True, landed)):
        for row in of:
            if (place := (row.key, row.version[:TIMED_DIGITS])) in places:
                groups.setdefault(place, []).append((row, is_new))
    fresh = []
    for row in landed:
        tied = [
            Tied(each.version, each.op, _json(each.image), _json(each.old_image), is_new)
            for each, is_new in groups[row.key, row.version[:TIMED_DIGITS]]
        ]
        becomes = settled(tied).get(row.version, row.version)
        if becomes is not None:
            fresh.append(row._replace(version=becomes))
    return fresh


def _json(image: dict[str, Any] | None) -> str | None:
    return None if image is None else msgspec.json.encode(image).decode()


def _landed(
    model: str,
    staged: Staged,
    epoch: int,
    eras: Sequence[Era],
    batch: int,
    table: TableDescription,
) -> list[Row]:
    rows = [
        _of_record(model, staged.shape, each, epoch, eras, batch, table)
        if isinstance(each, ChangeRow)
        else _of_line(model, staged.shape, each, epoch, batch, table)
        for texts in staged.texts
        for each in texts
    ]
    if len(rows) != staged.rows:
        raise Terminal(f"{model}: {staged.rows} rows were expected, but {len(rows)} were read.")
    return rows


def _era(epoch: int, eras: Sequence[Era], seconds: float) -> Era:
    """The era of a change of that time, in seconds since 1970."""
    own = Era(datetime.max.replace(tzinfo=UTC), epoch, prior=False)
    return next((each for each in eras if seconds < each.until.timestamp()), own)


def _phase(era: Era) -> str:
    return PRIOR_PHASE if era.prior else STREAM_PHASE


def _of_record(
    model: str,
    shape: Shape,
    record: ChangeRow,
    epoch: int,
    eras: Sequence[Era],
    batch: int,
    table: TableDescription,
) -> Row:
    era = _era(epoch, eras, record.micros / 1_000_000)
    if shape is Shape.STREAM_RECORDS:
        order = version(era.epoch, _phase(era), record.position)
    else:
        order = timed_version(era.epoch, _phase(era), record.micros, record.position)
    key = _key(model, table, _value(model, record.keys) or {})
    image = _value(model, record.image)
    # As everywhere in the simulation, only Kinesis' old images are looked at.
    old = _value(model, record.old_image) if shape is Shape.KINESIS_RECORDS else None
    return Row(batch, order, era.epoch - era.prior, record.op, key, image, old)


def _of_line(
    model: str, shape: Shape, line: bytes, epoch: int, batch: int, table: TableDescription
) -> Row:
    value = _value(model, line)
    if shape is Shape.INCREMENTAL_LINES:
        keys, image = value["Keys"], value.get("NewImage")
        op = "REMOVE" if image is None else "READ"
        order = version(epoch, BASE_PHASE, value["Metadata"]["WriteTimestampMicros"]["N"])
    else:
        image = keys = value
        op, order = "READ", version(epoch, BASE_PHASE)
    return Row(batch, order, epoch, op, _key(model, table, keys), image, None)


def _value(model: str, text: bytes | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError as broken:
        raise Terminal(f"{model}: a row is not JSON: {broken}") from broken


def _key(model: str, table: TableDescription, keys: dict[str, Any]) -> str:
    try:
        key = {each.name: keys[each.name] for each in table.key}
    except KeyError as missing:
        raise Terminal(f"{model}: a row lacks a key attribute ({missing}).") from missing
    return msgspec.json.encode(key).decode()

"""The values that travel between the layers: frozen, without behaviour that touches the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from tailrace.changes import Changes
from tailrace.lines import Lines

OPEN = "open"
BASE_COMPLETE = "base_complete"
LIVE = "live"

SAMPLE_ITEMS = 1_000  # of a reconciliation by sample, where nobody says how many

FULL = "full"
INCREMENTAL = "incremental"

# Streams tell times in whole seconds, "rounded down to the closest minute" as their API has it.
PRIOR_MARGIN = timedelta(minutes=5)

# Records come late by minutes; nobody opens so many epochs in them.
ERAS_MAX = 8


DYNAMODB_STREAMS = "dynamodb_streams"
FIREHOSE = "firehose"
KEYS_ONLY = "KEYS_ONLY"  # a view: records carry no item


@dataclass(frozen=True)
class KeyAttribute:
    """One attribute of a table's primary key. `type` is S, N or B."""

    name: str
    type: str


@dataclass(frozen=True)
class TableDescription:
    """What DescribeTable says of a source table. `item_count` and `size_bytes` are AWS's, up to
    6 hours old. `stream_arn` is None where no stream is enabled."""

    name: str
    arn: str
    table_id: str
    key: tuple[KeyAttribute, ...]
    stream_arn: str | None = None
    view_type: str | None = None
    item_count: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class Epoch:
    """A base plus the stream that overlaps it. `kind` is full, or incremental: the changes of a
    time, on top of the epochs before it. `state` is open, base_complete or live; `detail` is the
    base's own plan (frozen segment count, export ARN, export time or windows)."""

    number: int
    kind: str
    method: str
    state: str
    table_id: str
    stream_arn: str
    opened_at: datetime
    changed_at: datetime
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def base_at(self) -> datetime:
        """Everything written before this is in the epoch, once its base is read: its opening, or
        the instant of an export, where that is older."""
        if "export_time" in self.detail:
            return min(self.opened_at, datetime.fromisoformat(self.detail["export_time"]))
        return self.opened_at

    @property
    def source(self) -> str:
        """The kind of stream that the epoch follows, as tailrace.yaml names it."""
        return str(self.detail.get("source", DYNAMODB_STREAMS))

    @property
    def overlaps(self) -> bool:
        """Whether what its stream tells may be older than what readers see: it waits for live."""
        return "overlaps" in self.detail

    @property
    def stream_from(self) -> datetime | None:
        """From when on its stream is read; None for one that is read from its oldest record."""
        at = self.detail.get("stream_from")
        return datetime.fromisoformat(at) if at else None

    @property
    def changes_from(self) -> datetime | None:
        """Of a stream whose order is time: from when on a change is this epoch's. The base holds
        everything older; everything younger came after the epoch was opened."""
        at = self.detail.get("changes_from")
        return datetime.fromisoformat(at) if at else None

    @property
    def prior_until(self) -> datetime | None:
        """Stream records older than this are surely older than a full base, which beats them;
        None for an incremental one, which does not hold every key."""
        if self.changes_from is not None:
            return self.changes_from
        return self.base_at - PRIOR_MARGIN if self.kind == FULL else None


@dataclass(frozen=True)
class Era:
    """A time of changes: those made before `until`, and not before an older era's, count as
    `epoch`'s; with `prior` as older than its base."""

    until: datetime
    epoch: int
    prior: bool


@dataclass(frozen=True)
class Shard:
    """One shard of a stream as it is listed. `closed` once it has an ending number. One that two
    were merged into has an `adjacent_parent` as well."""

    id: str
    parent: str | None
    closed: bool
    adjacent_parent: str | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """Those that have to be read before it."""
        return tuple(each for each in (self.parent, self.adjacent_parent) if each)


class Shape(Enum):
    """What is staged. One JSON object a text: items, lines of an incremental export's data file.
    Taken apart: records as DynamoDB Streams returns them, or as DynamoDB sends them to Kinesis
    (told apart by their sequence numbers where they have one, else by their eventID)."""

    ITEMS = "items"
    INCREMENTAL_LINES = "incremental_lines"
    STREAM_RECORDS = "stream_records"
    KINESIS_RECORDS = "kinesis_records"


@dataclass(frozen=True)
class StreamTraits:
    """In what one kind of stream differs from another, as data: its name in tailrace.yaml and the
    ledger, what its records look like, how long they can be read, how late after its change one
    may come (`late`), whether time is their order, so that reading begins at an instant and not
    with the oldest (`timed`), whether one that is no longer the table's comes to an end (`ends`),
    whether a shard might be gone before its last record has expired (`may_vanish`), and how many
    bytes a second may be read of a shard (None: AWS sets no limit that a page could exceed)."""

    source: str = DYNAMODB_STREAMS
    shape: Shape = Shape.STREAM_RECORDS
    retention: timedelta = timedelta(hours=24)
    late: timedelta = timedelta(0)
    timed: bool = False
    ends: bool = True
    may_vanish: bool = True
    bytes_per_second: float | None = None


@dataclass(frozen=True)
class ScanPage:
    """A page of one scan segment: items as JSON lines, the raw LastEvaluatedKey (None: the
    segment is finished), consumed read capacity units, and AWS's time of the answer."""

    lines: bytes
    count: int
    next_key: str | None
    capacity_units: float
    read_at: datetime


@dataclass(frozen=True)
class RecordPage:
    """A page of a shard: records as JSON lines, how many, the last one's position, the oldest and
    newest change times, and the next iterator (None: the shard is closed and read). `at_tip` where
    the source says whether more was there; `bytes` that came, with what was left out."""

    lines: bytes
    count: int
    last_position: str | None
    oldest: datetime | None
    newest: datetime | None
    next_iterator: str | None
    at_tip: bool | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Window:
    """What an incremental export covers: changes from `begin` on and before `end`, both whole
    seconds, 15 minutes to 24 hours apart."""

    begin: datetime
    end: datetime


@dataclass(frozen=True)
class ExportState:
    """What DescribeExport says. `manifest_key` is set once the export is COMPLETED."""

    arn: str
    status: str
    export_time: datetime | None
    bucket: str
    manifest_key: str | None
    failure: str | None


@dataclass(frozen=True)
class ExportFile:
    """One data file of an export: its key from the bucket's root, how many items it holds, the
    base64 MD5 of its compressed bytes, and whether its lines are changes rather than items."""

    key: str
    items: int
    md5: str | None
    incremental: bool = False


@dataclass(frozen=True)
class ExportManifest:
    """An export as its two manifests describe it. `export_time` is the instant of a full one's
    state, `window` what an incremental one covers, `bytes` the size that AWS bills (0: untold)."""

    bucket: str
    table_id: str | None
    export_time: datetime | None
    item_count: int
    files: tuple[ExportFile, ...]
    window: Window | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Part:
    """One independently resumable piece of what is read: a shard, a scan segment, an export file.
    `origin` is the ARN of what it is a part of."""

    kind: str
    source: str
    origin: str
    id: str


@dataclass(frozen=True)
class Position:
    """How far a part has been committed. `at` is None where nothing has been read yet, `newest`
    the time of the last change of it, `epoch` the last one in which it was seen to move, or that
    was opened while it was open."""

    at: str | None = None
    finished: bool = False
    newest: datetime | None = None
    epoch: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PartProgress:
    """What a commit moves one part by: from where the ledger must stand to where it then stands.
    `rows` and `bytes` are those staged; `oldest` and `newest` the records' change times; `detail`
    is what else the ledger is to keep of it: "objects", the keys of the objects that were read,
    and "notices", by words how often."""

    part: Part
    position_from: str | None
    position_to: str | None
    finished: bool
    rows: int
    bytes: int
    oldest: datetime | None = None
    newest: datetime | None = None
    detail: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class PassRecord:
    """One pass over a table's stream: `complete` if every readable shard was read to its tip or
    end. Times are AWS's. A change may take `delay_seconds` until it is in the stream, which kept
    its records for `kept_seconds` then (0: untold). Of a stream that was drained beside the newest
    epoch's, `lost` is why it proves nothing any more: what it lost, in words."""

    id: str
    began_at: datetime
    ended_at: datetime
    complete: bool
    shards_open: int
    shards_read: int
    calls: int
    delay_seconds: float = 0.0
    kept_seconds: float = 0.0
    lost: str = ""

    @property
    def proves_until(self) -> datetime:
        """Every change made before this is in the log, if the pass was complete."""
        return self.began_at - timedelta(seconds=self.delay_seconds)


@dataclass(frozen=True)
class Delivery:
    """An object that Firehose delivered: its key from the bucket's root, its size in bytes, when
    it was put there, and whether it holds what Firehose could not process."""

    key: str
    size: int
    at: datetime
    is_failed: bool = False


@dataclass(frozen=True)
class Contents:
    """What a delivered object held: records of the table, how many and how many bytes of keys and
    images, of which `coarse` have their times in milliseconds, the first and the last time of a
    change; how many records of which other tables; how many that are none of DynamoDB's; and what
    is lost of it, in words, if anything is."""

    changes: tuple[Changes, ...] = ()
    rows: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    others: dict[str, int] = field(default_factory=dict)
    foreign: int = 0
    damage: str = ""
    coarse: int = 0


# Of each stream, by its ARN: the last pass, and the last complete one.
Passes = dict[str, tuple[PassRecord | None, PassRecord | None]]


@dataclass(frozen=True)
class Gap:
    """Changes made between `since` and `until` that the ledger cannot prove to be in the log,
    with the reason in words. Times are AWS's. It was lost of the stream that `epoch` follows, which
    was the newest one then."""

    since: datetime
    until: datetime
    found_at: datetime
    reason: str
    epoch: int = field(default=0, compare=False)


def gap_text(gaps: Sequence[Gap]) -> str:
    """What is missing since when, and why, in a sentence or two; empty without gaps."""
    return "; ".join(
        f"changes made from {gap.since:%Y-%m-%d %H:%M:%S} to {gap.until:%Y-%m-%d %H:%M:%S} UTC may"
        f" be missing: {gap.reason}"
        for gap in gaps
    )


@dataclass(frozen=True)
class Staged:
    """What waits for a commit, all of one shape. `read_at` is when base rows were read. Where
    `repeats`, records may stand in it twice, or in the log already: each lands once."""

    shape: Shape
    texts: tuple[Lines | Changes, ...]
    rows: int
    read_at: datetime | None = None
    repeats: bool = False


@dataclass(frozen=True)
class Commit:
    """Everything that becomes true at once. It succeeds only while `epoch` is still the table's
    newest and every part still stands at its `position_from`; base rows, a new `state`
    (base_complete, live) and a new `detail` also need the epoch to have the state and the detail
    it has here, and a `gap` that no later one is known."""

    epoch: Epoch
    parts: tuple[PartProgress, ...] = ()
    staged: Staged | None = None
    state: str | None = None
    at: datetime | None = None
    pass_record: PassRecord | None = None
    detail: dict[str, Any] | None = None
    gap: Gap | None = None


@dataclass(frozen=True)
class Head:
    """Where a table's ledger stands: its last batch, its description when the newest epoch was
    opened, its epochs by number, every part's position (of the streams, all shards ever seen), its
    last pass, the last complete one (both of the stream that readers see), every gap ever found, in
    the order of their times, and the last and the last complete pass by stream."""

    batch: int = 0
    table: TableDescription | None = None
    epochs: tuple[Epoch, ...] = ()
    positions: dict[Part, Position] = field(default_factory=dict)
    last_pass: PassRecord | None = None
    last_proof: PassRecord | None = None
    gaps: tuple[Gap, ...] = ()
    passes: Passes = field(default_factory=dict)

    @property
    def epoch(self) -> Epoch | None:
        """The newest epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def live(self) -> Epoch | None:
        """The epoch that readers see."""
        return next((each for each in reversed(self.epochs) if each.state == LIVE), None)

    @property
    def shown(self) -> Epoch | None:
        """The newest epoch whose stream readers see: where a table is taken over from another
        source, the one before, until the new one is live."""
        newest = self.epoch
        if newest is None or newest.state == LIVE or "beside" not in newest.detail:
            return newest
        return self.epochs[int(newest.detail["beside"]) - 1]

    @property
    def beside(self) -> Epoch | None:
        """The epoch whose stream is drained beside the newest one's, because readers still see it.
        Once the new base is complete nothing more may land there: what readers are shown of the
        old stream, the new one has to have caught up with before it is live."""
        newest, shown = self.epoch, self.shown
        return shown if newest is not shown and newest and newest.state == OPEN else None

    def view_of(self, epoch: Epoch) -> str | None:
        """What the records of an epoch's stream carry, as far as the ledger knows."""
        noted: str | None = epoch.detail.get("view")
        if noted is None and self.table and self.table.stream_arn == epoch.stream_arn:
            return self.table.view_type
        return noted

    def of(self, epoch: Epoch) -> Head:
        """The head as it concerns the stream of one epoch, where another one is drained beside
        it: proofs and gaps of the one say nothing of the other. Nor do those of one that was to
        take over and was never live, or, without a live epoch, of any before the newest."""
        newest, shown = self.epoch, self.shown
        if newest is None or shown is None:
            return self
        if newest is not shown and epoch.number != shown.number:
            last, proof = self.passes.get(newest.stream_arn, (None, None))
            gaps = tuple(gap for gap in self.gaps if gap.epoch == newest.number)
            return replace(self, epochs=(newest,), last_pass=last, last_proof=proof, gaps=gaps)
        seen = {e.number for e in self.epochs if "beside" not in e.detail or e.state == LIVE}
        seen = seen if self.live else {newest.number}
        gaps = tuple(gap for gap in self.gaps if gap.epoch in seen)
        return replace(self, epochs=self.epochs[: shown.number], gaps=gaps)

    def lost_beside(self, epoch: Epoch) -> str:
        """What the last pass over an epoch's stream knew to be lost of it while it was drained
        beside another (PassRecord.lost)."""
        last, _ = self.passes.get(epoch.stream_arn, (None, None))
        return last.lost if last else ""

    def eras(self, epoch: Epoch) -> tuple[Era, ...]:
        """To which epoch a change counts that lands under `epoch`, by its time, the oldest first.
        Where time is the order, a record that comes late belongs to the epoch in which it was
        made; any other only has to lose to a base that is surely younger."""
        if epoch.changes_from is None:
            until = epoch.prior_until
            return () if until is None else (Era(until, epoch.number, prior=True),)
        eras: list[Era] = []
        parted: datetime | None = None
        for each in reversed(self.epochs[: epoch.number]):
            if each.stream_arn != epoch.stream_arn:
                # Until another source was live the one before it was drained, and may have landed
                # what comes again; one that was given up before parts nothing.
                parted = each.changed_at if each.state == LIVE else parted
                continue
            if each.changes_from is None or len(eras) >= ERAS_MAX:
                break
            if eras and parted is None:
                eras[-1] = replace(eras[-1], epoch=each.number, prior=False)
            elif eras and parted is not None:
                until = min(parted, eras[-1].until)
                eras.append(Era(until, each.number, prior=False))
            eras.append(Era(each.changes_from, each.number, prior=True))
            parted = None
        return tuple(reversed(eras))


def passes_shown(
    epochs: Sequence[Epoch], passes: Passes
) -> tuple[PassRecord | None, PassRecord | None]:
    """The last pass and the last complete one over what readers see; `passes` are both by stream
    (an empty name for those of which the ledger has none)."""
    shown = Head(epochs=tuple(epochs)).shown
    number = shown.number if shown else 0
    # A take-over that was given up says nothing once a later one of the same stream is live.
    live = max((e.number for e in epochs if e.state == LIVE), default=0)
    unseen = {e.stream_arn for e in epochs if "beside" in e.detail and e.number > live}
    # Without a live epoch nothing was shown before the newest: what others proved says nothing.
    shown_ones = epochs if live else epochs[-1:]
    seen = {e.stream_arn for e in shown_ones if e.number <= number and e.stream_arn not in unseen}
    found = [each for stream, each in passes.items() if stream in seen | {""}]
    last = [last for last, _ in found if last]
    proofs = [proof for _, proof in found if proof]
    return (
        max(last, key=lambda each: each.ended_at, default=None),
        max(proofs, key=lambda each: each.began_at, default=None),
    )


@dataclass(frozen=True)
class BaseProgress:
    """A moment of a base being read. `rate` is items a second, `seconds_left` None if unknown."""

    model: str
    items: int
    bytes: int
    parts_done: int
    parts_total: int
    expected_items: int
    rate: float
    seconds_left: float | None


@dataclass(frozen=True)
class BaseResult:
    """What a call to read the base did: `items` and `bytes` of this call alone, `parts` segments
    or files of the whole base, `state` of the epoch afterwards."""

    model: str
    epoch: int
    method: str
    state: str
    items: int
    bytes: int
    parts: int
    seconds: float


@dataclass(frozen=True)
class DrainResult:
    """What one bounded pass over a table's stream did. `reached_tip`: every shard was read to its
    tip or end. `ended`: every shard was read to its end. `void`: the newest epoch can never be live
    (tailrace.capture.coverage.is_void), its base has to be read anew. `gaps`: those still open.
    `lag_seconds`: age of the proof, by AWS's clock. `calls` to AWS. `notices`: what somebody should
    know of what was left out, counted. A change may take `delay_seconds` until its source has it.
    `pieces` says what `shards_read` counts: a Firehose's are objects."""

    model: str
    epoch: int | None
    state: str
    rows: int = 0
    bytes: int = 0
    shards_read: int = 0
    shards_open: int = 0
    reached_tip: bool = False
    ended: bool = False
    went_live: bool = False
    void: bool = False
    gaps: tuple[Gap, ...] = ()
    newest_change: datetime | None = None
    lag_seconds: float | None = None
    seconds: float = 0.0
    calls: int = 0
    notices: tuple[str, ...] = ()
    delay_seconds: float = 0.0
    pieces: str = "shards"


@dataclass(frozen=True)
class ItemPage:
    """What was found of the keys asked for: items as JSON lines, the raw keys that AWS left for
    another call, and consumed read capacity units."""

    lines: bytes
    count: int
    unprocessed: tuple[str, ...]
    capacity_units: float


@dataclass(frozen=True)
class Difference:
    """One key of which the two sides differ. `kind` is missing (in the warehouse), extra (in the
    warehouse), different, or latest (`<model>_latest` is not what the log says). `source` and
    `warehouse` are the items as JSON, None where there is none; of the kind latest `source` is
    what the log holds, and both are versions where the items are the same."""

    kind: str
    key: str
    source: str | None
    warehouse: str | None


@dataclass(frozen=True)
class Differences:
    """How many keys were found to be what: `equal` on both sides, `missing` in the warehouse,
    `extra` in it, `different`. `latest_items` are the items of `<model>_latest`, None where it is
    not built, and `latest_different` its differences from the log. `shown` are the first ones.
    `unsettled` keys could not be judged: they changed meanwhile, and their stream carries no
    items."""

    equal: int
    missing: int
    extra: int
    different: int
    latest_items: int | None
    latest_different: int
    shown: tuple[Difference, ...]
    unsettled: int = 0

    @property
    def source_items(self) -> int:
        """The items of the source that were compared."""
        return self.equal + self.missing + self.different

    @property
    def warehouse_items(self) -> int:
        """The items that the warehouse held beside them."""
        return self.equal + self.extra + self.different

    @property
    def count(self) -> int:
        """All differences."""
        return self.missing + self.extra + self.different + self.latest_different


@dataclass(frozen=True)
class Reconciliation:
    """A warehouse compared with its table, by `method` (export, scan or sample), as both were
    between `began_at` and `ended_at` of AWS's time. `capacity_units` were consumed."""

    model: str
    method: str
    began_at: datetime
    ended_at: datetime
    found: Differences
    capacity_units: float
    seconds: float

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.found.count


@dataclass(frozen=True)
class NewAttribute:
    """An attribute, or a type of one, that came after the table's beginning: `before` are the types
    that it had till then. Of one that a frozen schema refuses, `column` is the SQL type of its
    column, None where it has none."""

    path: str
    type: str
    seen_at: datetime
    example_key: str | None = None
    before: tuple[str, ...] = ()
    column: str | None = None


@dataclass(frozen=True)
class SchemaDrift:
    """What is new in a table's attributes; with a `frozen` schema, what is kept out of it.
    `attributes` is how many different ones were ever seen."""

    model: str
    frozen: bool
    new: tuple[NewAttribute, ...]
    attributes: int


@dataclass(frozen=True)
class TableStatus:
    """One line of `tailrace status`. `state` is none (no epoch yet), open, base_complete or live,
    of the newest epoch; `rows` is the log's row count; every change made before `proven_until` is
    in the log, except in `gaps`; `lag_seconds` is its age, of which `delay_seconds` are the
    source's own. `closes_gaps` is true where the newest epoch's base is complete and no gap is left
    once it is live. `idle_reads_a_day` are the GetRecords calls to a stream without changes. `lost`
    is what the stream lost, in words, that readers see until another one takes over."""

    model: str
    table_name: str
    epoch: int | None
    state: str
    rows: int
    items_read: int
    last_pass_at: datetime | None
    lag_seconds: float | None
    shards_open: int
    base_parts_done: int
    base_parts_total: int
    proven_until: datetime | None = None
    gaps: tuple[Gap, ...] = ()
    closes_gaps: bool = False
    idle_reads_a_day: int = 0
    delay_seconds: float = 0.0
    lost: str = ""


@dataclass(frozen=True)
class TableSize:
    """A table of the warehouse as it is now. `name` is schema.table; `inlined_rows` of its rows
    wait in the catalog, the rest is in `files`; `bytes` are those of both kinds of files."""

    name: str
    rows: int
    inlined_rows: int
    files: int
    delete_files: int
    bytes: int


@dataclass(frozen=True)
class Sizes:
    """The warehouse now. `old_files` are kept for older snapshots and for queries that run."""

    tables: tuple[TableSize, ...]
    snapshots: int
    old_files: int
    catalog_bytes: int

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(each.rows for each in self.tables)

    @property
    def files(self) -> int:
        """Data files and delete files that a query of all tables reads."""
        return sum(each.files + each.delete_files for each in self.tables)

    @property
    def bytes(self) -> int:
        """Of these files."""
        return sum(each.bytes for each in self.tables)


@dataclass(frozen=True)
class MaintenanceStep:
    """What a step has done: how many rows, files or snapshots it is done with."""

    name: str
    done: int
    seconds: float


@dataclass(frozen=True)
class Maintenance:
    """One run of maintenance: the sizes before and after, its steps, and what failed, in words."""

    before: Sizes
    after: Sizes
    steps: tuple[MaintenanceStep, ...]
    failures: tuple[str, ...]
    seconds: float

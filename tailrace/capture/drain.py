"""One bounded pass over a table's stream, from where the ledger stands to the tip.

A pass is a proof: every change made before it began is in the log once it is complete. It takes
an epoch live where the base was complete before the pass began, which it knows from the ledger's
head that it started from, not from any clock.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from tailrace.capture import coverage
from tailrace.capture.ports import Clock, Deliveries, Log, Stream
from tailrace.capture.privacy import require_same
from tailrace.capture.retry import retried
from tailrace.capture.shards import childless, part_of, readable, unrelated
from tailrace.capture.stage import Stage
from tailrace.capture.stop import Stop
from tailrace.errors import IteratorExpired, SourceMissing, Trimmed
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    Commit,
    DrainResult,
    Epoch,
    Gap,
    Head,
    Part,
    PartProgress,
    PassRecord,
    Position,
    RecordPage,
    Shard,
    TableDescription,
)

# GetRecords allows 5 calls a second a shard.
READ_INTERVAL_SECONDS = 0.2

# An empty page is not the end of an open shard: AWS walks over stretches without records. So many
# empty pages in a row are taken for the tip (an assumption about AWS; docs/correctness.md).
EMPTY_PAGES_AT_TIP = 3

SHARDS_AT_ONCE = 32
LISTINGS_PER_PASS = 5
SHARDS_PER_LISTING_PAGE = 100
ITERATORS_PER_SHARD = 20

# A stream of more shards than this is polled thriftily: a shard without a change for so long is
# read only as often as coverage has to be proven.
SHARDS_POLLED = 8
SILENT_AFTER = timedelta(minutes=15)


# What is lost of a stream that is drained beside the newest epoch's.
NOT_ITS = "the table did not stream to it for a while"


class _End(Enum):
    TIP = "tip"
    FINISHED = "finished"
    STOPPED = "stopped"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Budget:
    """When a pass stops and leaves the rest to the next: seconds and staged bytes."""

    seconds: float
    bytes: int


@dataclass
class _Pass:
    """What one pass knows while it runs; shared by its threads."""

    log: Log
    stream: Stream
    stage: Stage
    clock: Clock
    model: str
    head: Head
    epoch: Epoch
    began_at: datetime
    deadline: float
    bytes: int
    stop: Stop
    is_its: Callable[[], bool]
    stale_listing: bool = False
    is_newest: bool = True
    ends: dict[str, _End] = field(default_factory=dict)
    read_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def exhausted(self) -> bool:
        return (
            self.stop.is_set()
            or self.clock.monotonic() >= self.deadline
            or self.read_bytes >= self.bytes
        )


def drain(
    log: Log,
    stream: Stream,
    clock: Clock,
    model: str,
    budget: Budget,
    stop: Stop | None = None,
    freshness_seconds: float = 0.0,
    epoch: Epoch | None = None,
    is_its: Callable[[], bool] = lambda: True,
    privacy: Mapping[str, Any] | None = None,
) -> DrainResult:
    """Reads every readable shard to its tip or end, within the budget, and commits. Of a stream
    of many shards the silent ones are left out while the last proof is younger than half of
    `freshness_seconds`. `epoch` is the newest, or one whose stream is drained beside it
    (Head.beside). `is_its` tells whether the table's changes still go to this stream, where that is
    not seen in the stream itself: if not, the pass proves nothing. `privacy` is that of the
    records, and has to be the epoch's.

    What may be lost is stored as a gap, before anything after it is committed; the pass goes on
    behind it. Of a stream that is drained beside the newest, no pass proves anything from there on
    (PassRecord.lost). Raises Stale where another run drained meanwhile, and what AWS or the
    warehouse refuse. Whatever was committed before stays."""
    started = clock.monotonic()
    whole = log.head(model)
    epoch = epoch or whole.epoch
    if epoch is None:
        return DrainResult(model, None, "none")
    require_same(model, epoch, privacy or {})
    arn, head = epoch.stream_arn, whole.of(epoch)
    is_newest = whole.epoch is not None and whole.epoch.number == epoch.number
    try:
        shards = retried(lambda: stream.shards(arn), clock)
    except SourceMissing:
        if is_newest:
            reason = f"its stream {arn} is gone"
            lose(log, clock, model, head, reason, late=stream.traits.late)
        return nothing(log, clock, stream, epoch, model)
    began_at = clock.aws_now()
    held = _held(stream, clock, head, epoch, shards)
    if not is_newest and coverage.outage(head, began_at, stream.traits.retention):
        # What it lost the new base holds, and whoever reads it now would skip that.
        return nothing(log, clock, stream, epoch, model)
    head = _account(log, stream, model, head, epoch, shards, held, began_at, is_newest)
    shards = unrelated(shards, held)
    positions = {part: each for part, each in head.positions.items() if part.kind == "stream"}
    run = _Pass(
        log=log,
        stream=stream,
        stage=Stage(log, model, epoch, stream.traits.shape, positions, clock),
        clock=clock,
        model=model,
        head=head,
        epoch=epoch,
        began_at=began_at,
        deadline=started + budget.seconds,
        bytes=budget.bytes,
        stop=stop or Stop(),
        is_its=is_its,
        stale_listing=bool(held),
        is_newest=is_newest,
    )
    age = proof_age(head, clock)
    if epoch.state == LIVE and age is not None and age < freshness_seconds / 2:
        _leave_out(run, _silent(head, epoch, shards, began_at))
    shards = _read_all(run, shards)
    unread = _unread(run, shards)
    is_lost = not run.is_its()
    is_over = is_lost and not unread
    record = _record(run, shards, proves=not unread and not is_lost)
    if not is_newest:
        record = beside(log, model, record, epoch, NOT_ITS if is_lost else "")
    ripe = is_newest and _is_ripe(epoch, began_at, stream.traits.late)
    live = record.complete and ripe and not coverage.is_void(log.head(model))
    run.stage.flush(
        pass_record=record, state=LIVE if live else None, at=record.ended_at if live else None
    )
    proof = record if record.complete else head.last_proof
    reached = log.head(model)
    return DrainResult(
        model=model,
        epoch=epoch.number,
        state=LIVE if live else epoch.state,
        rows=run.stage.rows,
        bytes=run.stage.bytes,
        shards_read=record.shards_read,
        shards_open=record.shards_open,
        reached_tip=record.complete,
        ended=is_over or _has_ended(run, shards),
        went_live=live,
        void=coverage.is_void(reached),
        gaps=tuple(coverage.open_gaps(reached)),
        notices=(*stream.notices, *notices_of(record, epoch)),
        delay_seconds=stream.traits.late.total_seconds(),
        newest_change=run.stage.newest,
        lag_seconds=(clock.aws_now() - proof.proves_until).total_seconds() if proof else None,
        seconds=clock.monotonic() - started,
        calls=record.calls,
    )


def _is_ripe(epoch: Epoch, began_at: datetime, late: timedelta) -> bool:
    """Whether a complete pass that began then takes the epoch live. What its source may bring late
    has come by then: every record of a change that the base, or the source before, has shown."""
    return epoch.state == BASE_COMPLETE and (not late or began_at - epoch.changed_at >= late)


def due(
    log: Log,
    stream: Stream,
    clock: Clock,
    model: str,
    freshness_seconds: float,
    epoch: Epoch | None = None,
) -> str:
    """Why a drain is worth a run now, in words; empty if nothing is new and the last proof is
    younger than `freshness_seconds`. Costs two calls a shard that is not silent. `epoch` as in
    drain."""
    head = log.head(model)
    epoch = epoch or head.epoch
    if epoch is None:
        return ""
    head = head.of(epoch)
    if epoch.state == BASE_COMPLETE and not coverage.is_void(head):
        return "the base is complete and waits for a pass to go live"
    try:
        shards = retried(lambda: stream.shards(epoch.stream_arn), clock)
    except SourceMissing:
        shards = []
    now = clock.aws_now()
    finished = _finished(head, epoch)
    waiting = readable(shards, finished)
    last = head.last_proof if waiting else head.last_pass
    age = (now - last.began_at).total_seconds() if last else None
    if age is None or age >= freshness_seconds:
        return "no pass yet" if age is None else f"the last pass is {age:.0f} s old"
    silent = _silent(head, epoch, shards, now)
    for shard in waiting:
        if shard.closed:
            return f"shard {shard.id} was closed"
        if shard.id in silent:
            continue
        after = head.positions.get(_part(epoch, shard.id), Position()).at
        iterator = stream.iterator(epoch.stream_arn, shard.id, after)
        page = stream.read(iterator, shard.id, 1)
        if page.count or page.last_position:
            return f"new records in shard {shard.id}"
    return ""


def idle_reads_a_day(shards: int, freshness_seconds: float) -> int:
    """The GetRecords calls a day of a stream on which nothing happens: passes that prove it, and
    where there are few shards a look into each of them every minute."""
    passes = 86_400 / freshness_seconds
    looks = 1_440 if shards <= SHARDS_POLLED else 0
    return round(shards * (passes * EMPTY_PAGES_AT_TIP + looks))


def note_replaced(
    log: Log,
    clock: Clock,
    model: str,
    table: TableDescription | None,
    late: timedelta = timedelta(0),
) -> list[Gap]:
    """Stores the gap of a stream that was read to its end because it is no longer the table's
    (`table` is None where there is none any more); returns the open gaps. What is still to come
    there may be `late`."""
    head = log.head(model)
    epoch = head.epoch
    if epoch is None or (
        table and (table.table_id, table.stream_arn) == (epoch.table_id, epoch.stream_arn)
    ):
        return coverage.open_gaps(head)
    until = None
    if table is None:
        reason = "the table was deleted; what it held stays in the warehouse"
    elif table.stream_arn is None:
        reason = f"the table's stream was switched off {_was(epoch)})"
    else:
        what = "table was recreated" if table.table_id != epoch.table_id else "stream was replaced"
        reason = f"the {what} {_was(epoch)}, it is {table.stream_arn})"
        until = coverage.begins_at(table.stream_arn)
    lose(log, clock, model, head.of(epoch), reason, until, late=late)
    return coverage.open_gaps(log.head(model))


def note_regained(log: Log, clock: Clock, model: str, late: timedelta = timedelta(0)) -> None:
    """Where a stream was found not to be the table's any more, and is again: what was changed in
    between is in the gap that is known, or in the one that is stored here. `late` as in
    note_replaced."""
    if not is_lost(log.head(model)):
        return
    head = log.head(model)
    assert head.epoch is not None
    lose(log, clock, model, head.of(head.epoch), coverage.REGAINED, late=late)


def is_lost(head: Head) -> bool:
    """Whether the newest epoch's stream was found not to be the table's, and since then nothing was
    proven, nor was it found to be the table's again."""
    epoch = head.epoch
    if epoch is None:
        return False
    return any(_was(epoch) in reason for reason in coverage.noted(head.of(epoch)))


def _was(epoch: Epoch) -> str:
    return f"(it was {epoch.stream_arn}"


# --------------------------------------------------------------------------------------- coverage


def _account(
    log: Log,
    stream: Stream,
    model: str,
    head: Head,
    epoch: Epoch,
    shards: Sequence[Shard],
    held: Collection[str],
    now: datetime,
    is_newest: bool,
) -> Head:
    """Stores what this listing shows to be lost, before anything behind it can be committed;
    returns the head with it."""
    if is_newest and (again := coverage.regained(head, now, stream.traits.late)):
        log.commit(model, Commit(epoch, gap=again))
        head = log.head(model).of(epoch)
    lost = [
        part for part in coverage.lost_shards(head, epoch.stream_arn, shards) if part.id not in held
    ]
    parents = [
        parent
        for parent in coverage.unseen_parents(head, epoch.stream_arn, shards)
        if parent not in held
    ]
    late = stream.traits.late
    gap = coverage.outage(head, now, stream.traits.retention, late)
    missed = [part for part in lost if not coverage.is_older_than_base(head, part)]
    unread = [each for each in missed if coverage.is_younger(each.id, shards, head, gap)]
    unseen = [each for each in parents if coverage.is_younger(each, shards, head, gap)]
    if not stream.traits.may_vanish:  # what is gone expired in its time: the outage has it
        unread, unseen = [], []
    if unread:
        reason = f"shard {unread[0].id} vanished before it was read to its end"
        newest = [head.positions[part].newest for part in unread]
        gap = coverage.broken(head, now, reason, newest, late)
    elif unseen:
        reason = f"shard {unseen[0]} came and went unseen between two passes"
        gap = coverage.broken(head, now, reason, late=late)
    if gap is None and not lost:
        return head
    # From here on the ledger knows them, as ended: the next pass misses none of them again.
    ends = [
        PartProgress(part, head.positions[part].at, head.positions[part].at, True, 0, 0)
        for part in lost
    ]
    ends += [PartProgress(_part(epoch, parent), None, None, True, 0, 0) for parent in parents]
    if gap is None:
        log.commit(model, Commit(epoch, parts=tuple(ends)))
    else:
        note_loss(log, model, epoch, gap, is_newest, ends)
    return log.head(model).of(epoch)


def _part(epoch: Epoch, shard: str) -> Part:
    return part_of(epoch.source, epoch.stream_arn, shard)


def _held(
    stream: Stream, clock: Clock, head: Head, epoch: Epoch, shards: Sequence[Shard]
) -> set[str]:
    """Shards that should be listed and are not, but are still there: the listing lags. Their
    children have to wait, and this pass proves nothing."""
    arn = epoch.stream_arn
    missing = {part.id for part in coverage.lost_shards(head, arn, shards)}
    missing.update(coverage.unseen_parents(head, arn, shards))
    return {shard for shard in sorted(missing) if _is_there(stream, clock, arn, shard)}


def _is_there(stream: Stream, clock: Clock, arn: str, shard: str) -> bool:
    try:
        retried(lambda: stream.iterator(arn, shard, None), clock)
    except SourceMissing:
        return False
    return True


def lose(
    log: Log,
    clock: Clock,
    model: str,
    head: Head,
    reason: str,
    until: datetime | None = None,
    newest: datetime | None = None,
    late: timedelta = timedelta(0),
    *,
    is_newest: bool = True,
) -> None:
    """Notes that changes of the stream of `head` are lost, unless it is noted already."""
    assert head.epoch is not None
    if reason in coverage.noted(head) if is_newest else head.lost_beside(head.epoch):
        return
    gap = coverage.broken(head, clock.aws_now(), reason, [newest], late)
    if until is not None and gap.since < until < gap.until:
        gap = replace(gap, until=until)
    note_loss(log, model, head.epoch, gap, is_newest)


def note_loss(
    log: Log,
    model: str,
    epoch: Epoch,
    gap: Gap,
    is_newest: bool,
    parts: Iterable[PartProgress] = (),
) -> None:
    """Stores that changes of a stream are lost, with `parts`: as a gap, where it is the newest
    epoch's. What a stream beside that one loses is none, because the newest epoch will hold it; but
    readers lack it until then. So no pass over such a stream proves anything from here on."""
    if is_newest:
        log.commit(model, Commit(epoch, parts=tuple(parts), gap=gap))
        return
    now = gap.found_at
    last, _ = log.head(model).passes.get(epoch.stream_arn, (None, None))
    last = last or PassRecord("", now, now, complete=False, shards_open=0, shards_read=0, calls=0)
    record = replace(
        last, id=uuid.uuid4().hex, began_at=now, ended_at=now, complete=False, lost=gap.reason
    )
    log.commit(model, Commit(epoch, parts=tuple(parts), pass_record=record))


def beside(log: Log, model: str, record: PassRecord, epoch: Epoch, lost: str) -> PassRecord:
    """The record of a pass over a stream that is drained beside the newest epoch's: where anything
    was lost of it, now or before, it proves nothing."""
    lost = log.head(model).lost_beside(epoch) or lost
    return replace(record, complete=record.complete and not lost, lost=lost)


def notices_of(record: PassRecord, epoch: Epoch) -> tuple[str, ...]:
    """What somebody should know of a pass that proves nothing any more."""
    if not record.lost:
        return ()
    return (
        f"{epoch.source}, which readers see until then, lacks changes, and nothing more is proven"
        f" of it: {record.lost}",
    )


def nothing(
    log: Log, clock: Clock, stream: Stream | Deliveries, epoch: Epoch, model: str
) -> DrainResult:
    """The result of a pass over a stream that is gone, of which the gap is stored."""
    head = log.head(model)
    return DrainResult(
        model=model,
        epoch=epoch.number,
        state=epoch.state,
        ended=True,
        gaps=tuple(coverage.open_gaps(head)),
        lag_seconds=proof_age(head, clock),
        calls=stream.calls,
    )


def proof_age(head: Head, clock: Clock) -> float | None:
    """Seconds by which what is proven lies behind; None where nothing is."""
    proof = head.last_proof
    return (clock.aws_now() - proof.proves_until).total_seconds() if proof else None


def _finished(head: Head, epoch: Epoch) -> set[str]:
    return {
        part.id
        for part, at in head.positions.items()
        if part.origin == epoch.stream_arn and at.finished
    }


def _silent(head: Head, epoch: Epoch, shards: Sequence[Shard], now: datetime) -> set[str]:
    """Of a stream of many shards, the open ones without a change for SILENT_AFTER."""
    if len(shards) <= SHARDS_POLLED:
        return set()
    known = {part.id: at for part, at in head.positions.items() if part.origin == epoch.stream_arn}
    return {
        shard.id
        for shard in shards
        if shard.id in known
        and not shard.closed
        and now - (known[shard.id].newest or epoch.opened_at) > SILENT_AFTER
    }


def _leave_out(run: _Pass, shards: Iterable[str]) -> None:
    for shard in shards:
        run.ends[shard] = _End.SKIPPED


# ----------------------------------------------------------------------------------------- reading


def _read_all(run: _Pass, shards: list[Shard]) -> list[Shard]:
    """Reads lineage by lineage, all of them at once; returns all shards that were listed."""
    _see(run, shards)
    finished = {
        each.id for each in shards if run.stage.position(_part(run.epoch, each.id)).finished
    }
    listings = 1
    running: dict[Future[_End], str] = {}
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
        try:
            while True:
                for shard in readable(shards, finished):
                    if shard.id not in run.ends and shard.id not in running.values():
                        running[pool.submit(_read_shard, run, shard)] = shard.id
                if not running:
                    if run.exhausted() or listings >= LISTINGS_PER_PASS:
                        return shards
                    listings += 1
                    new = _new_children(run, shards, finished)
                    if not new:
                        return shards
                    _see(run, new)
                    shards = [*shards, *new]
                    continue
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    shard_id = running.pop(future)
                    run.ends[shard_id] = future.result()
                    if run.ends[shard_id] is _End.FINISHED:
                        finished.add(shard_id)
        except BaseException:
            run.stop.set()
            raise


def _see(run: _Pass, shards: Iterable[Shard]) -> None:
    for shard in shards:
        run.stage.see(_part(run.epoch, shard.id))


def _new_children(run: _Pass, shards: list[Shard], finished: set[str]) -> list[Shard]:
    """The children, not listed before, of shards that ended in this pass: asked for one by one
    where that takes fewer calls than listing all shards anew."""
    arn = run.epoch.stream_arn
    ended = [each for each in childless(shards, finished) if run.ends.get(each.id) is _End.FINISHED]
    if not ended:
        return []
    if len(ended) * SHARDS_PER_LISTING_PAGE < len(shards):
        found = [
            child
            for parent in ended
            for child in retried(lambda: run.stream.children(arn, parent.id), run.clock)  # noqa: B023
            if parent.id in child.parents
        ]
    else:
        found = retried(lambda: run.stream.shards(arn), run.clock)
    known = {each.id for each in shards}
    new = []
    for each in found:  # a listing names parents first
        if each.id not in known and known.intersection(each.parents):
            known.add(each.id)
            new.append(each)
    return new


def _read_shard(run: _Pass, shard: Shard) -> _End:
    try:
        return _read_on(run, shard, _part(run.epoch, shard.id))
    except SourceMissing:  # it vanished since it was listed: the next pass accounts for it
        return _End.STOPPED


def _read_on(run: _Pass, shard: Shard, part: Part) -> _End:
    iterator: str | None = _iterator(run, part)
    iterators, empty_pages = 1, 0
    while True:
        if run.exhausted():
            return _End.STOPPED
        read_from = iterator
        assert read_from is not None
        try:
            page = retried(lambda: run.stream.read(read_from, shard.id), run.clock)  # noqa: B023
        except (IteratorExpired, Trimmed):
            iterators += 1
            if iterators > ITERATORS_PER_SHARD:
                raise
            iterator = _iterator(run, part)
            continue
        page = _whole(run, page)
        run.read_bytes += max(page.bytes, len(page.lines))
        iterator = page.next_iterator
        run.stage.add(
            part,
            page.lines,
            page.count,
            page.last_position or run.stage.position(part).at,
            finished=iterator is None,
            oldest=page.oldest,
            newest=page.newest,
        )
        if iterator is None:
            return _End.FINISHED
        empty_pages = 0 if page.count else empty_pages + 1
        if _is_tip(shard, page, empty_pages):
            return _End.TIP
        if page.newest is not None and page.newest > run.began_at:
            return _End.TIP
        run.clock.sleep(_pause_seconds(run, page))


def _is_tip(shard: Shard, page: RecordPage, empty_pages: int) -> bool:
    if page.at_tip is not None:
        return page.at_tip and not shard.closed
    return not shard.closed and empty_pages >= EMPTY_PAGES_AT_TIP


def _pause_seconds(run: _Pass, page: RecordPage) -> float:
    """The time that a page takes of what a shard allows."""
    rate = run.stream.traits.bytes_per_second
    return max(READ_INTERVAL_SECONDS, page.bytes / rate if rate else 0.0)


def _whole(run: _Pass, page: RecordPage) -> RecordPage:
    return retried(lambda: run.stream.whole(page), run.clock)


def _iterator(run: _Pass, part: Part) -> str:
    position = run.stage.position(part)

    def ask(after: str | None) -> str:
        return retried(lambda: run.stream.iterator(run.epoch.stream_arn, part.id, after), run.clock)

    try:
        return ask(position.at)
    except Trimmed:
        if not coverage.expired_by_age(run.head, position, run.began_at):
            _lose_records(run, part, position)
        return ask(None)


def _lose_records(run: _Pass, part: Part, position: Position) -> None:
    """Stores the gap of a shard's expired records, before anything behind it can be committed."""
    with run.lock:
        head = run.log.head(run.model).of(run.epoch)
        if coverage.is_older_than_base(head, part):
            return
        reason = f"records of shard {part.id} expired before they were read"
        lose(
            run.log, run.clock, run.model, head, reason,
            newest=position.newest, is_newest=run.is_newest,
        )  # fmt: skip


def _is_finished(run: _Pass, shard: Shard) -> bool:
    return run.stage.position(_part(run.epoch, shard.id)).finished


def _unread(run: _Pass, shards: list[Shard]) -> list[Shard]:
    """The shards that were read neither to their tip nor to their end."""
    return [
        each
        for each in shards
        if run.ends.get(each.id) is not _End.TIP and not _is_finished(run, each)
    ]


def _record(run: _Pass, shards: list[Shard], *, proves: bool) -> PassRecord:
    finished = {
        each.id for each in shards if run.stage.position(_part(run.epoch, each.id)).finished
    }
    ended_at = run.clock.aws_now()
    since = coverage.accounted_until(run.head)
    # Nothing was trimmed while the pass read on.
    retention = run.stream.traits.retention
    kept = coverage.surely_kept(run.head, retention)
    in_time = since is not None and ended_at - since < kept
    proven = proves and in_time and not run.stale_listing
    return PassRecord(
        id=uuid.uuid4().hex,
        began_at=run.began_at,
        ended_at=ended_at,
        complete=proven and not childless(shards, finished),
        shards_open=sum(not each.closed for each in shards),
        shards_read=sum(each is not _End.SKIPPED for each in run.ends.values()),
        calls=run.stream.calls,
        kept_seconds=retention.total_seconds(),
    )


def _has_ended(run: _Pass, shards: list[Shard]) -> bool:
    """True where every shard was read to its end: the stream was switched off, or its last shard
    has just been closed and its child is yet to be listed."""
    return all(_is_finished(run, each) for each in shards)

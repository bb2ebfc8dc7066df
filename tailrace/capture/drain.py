"""One bounded pass over a table's stream, from where the ledger stands to the tip.

A pass is a proof: every change made before it began is in the log once it is complete. It takes
an epoch live where the base was complete before the pass began, which it knows from the ledger's
head that it started from, not from any clock.
"""

from __future__ import annotations

import uuid
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from tailrace.capture.ports import Clock, Log, Stream
from tailrace.capture.retry import retried
from tailrace.capture.shards import childless, readable
from tailrace.capture.stage import Stage
from tailrace.capture.stop import Stop
from tailrace.errors import READ_NEW_BASE, Gap, IteratorExpired, SourceMissing, Trimmed
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    DrainResult,
    Epoch,
    Head,
    Part,
    PassRecord,
    Shape,
    Shard,
)

SOURCE = "dynamodb_streams"

# GetRecords allows 5 calls a second a shard.
READ_INTERVAL_SECONDS = 0.2

# An empty page is not the end of an open shard: AWS walks over stretches without records. So many
# empty pages in a row are taken for the tip (an assumption about AWS; docs/correctness.md).
EMPTY_PAGES_AT_TIP = 3

SHARDS_AT_ONCE = 16
LISTINGS_PER_PASS = 5
ITERATORS_PER_SHARD = 20

# DynamoDB Streams keeps records for 24 hours; an hour is kept as margin.
RETENTION = timedelta(hours=24)
RETENTION_MARGIN = timedelta(hours=1)


class _End(Enum):
    TIP = "tip"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Budget:
    """When a pass stops and leaves the rest to the next: seconds and staged bytes."""

    seconds: float
    bytes: int


@dataclass
class _Pass:
    """What one pass knows while it runs; shared by its threads."""

    stream: Stream
    stage: Stage
    clock: Clock
    epoch: Epoch
    began_at: datetime
    deadline: float
    bytes: int
    stop: Stop
    ends: dict[str, _End] = field(default_factory=dict)
    read_bytes: int = 0

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
    folder: Path,
    stop: Stop | None = None,
) -> DrainResult:
    """Reads every readable shard to its tip or end, within the budget, and commits.

    Raises Gap where records may be lost, Stale where another run drained meanwhile, and what AWS
    or the warehouse refuse. Whatever was committed before stays."""
    started = clock.monotonic()
    head = log.head(model)
    epoch = head.epoch
    if epoch is None:
        return DrainResult(model, None, "none")
    shards = _listed(stream, clock, model, epoch)
    began_at = clock.aws_now()
    since = _unproven_since(head, epoch)
    _refuse_outage(model, since, began_at)
    positions = {part: each for part, each in head.positions.items() if part.kind == "stream"}
    stage = Stage(log, model, epoch, Shape.STREAM_RECORDS, positions, folder, clock)
    run = _Pass(
        stream=stream,
        stage=stage,
        clock=clock,
        epoch=epoch,
        began_at=began_at,
        deadline=started + budget.seconds,
        bytes=budget.bytes,
        stop=stop or Stop(),
    )
    shards = _read_all(run, shards)
    record = _record(run, shards, since)
    live = record.complete and epoch.state == BASE_COMPLETE
    stage.flush(
        pass_record=record, state=LIVE if live else None, at=record.ended_at if live else None
    )
    proof = record if record.complete else head.last_proof
    return DrainResult(
        model=model,
        epoch=epoch.number,
        state=LIVE if live else epoch.state,
        rows=stage.rows,
        bytes=stage.bytes,
        shards_read=record.shards_read,
        shards_open=record.shards_open,
        reached_tip=record.complete,
        went_live=live,
        newest_change=stage.newest,
        lag_seconds=(clock.aws_now() - proof.began_at).total_seconds() if proof else None,
        seconds=clock.monotonic() - started,
        calls=record.calls,
    )


def due(log: Log, stream: Stream, clock: Clock, model: str, proof_seconds: float) -> str:
    """Why a drain is worth a run now, in words; empty if nothing is new and the last proof is
    younger than `proof_seconds`. Costs two calls a readable shard."""
    head = log.head(model)
    epoch = head.epoch
    if epoch is None:
        return ""
    if epoch.state == BASE_COMPLETE:
        return "the base is complete and waits for a pass to go live"
    shards = _listed(stream, clock, model, epoch)
    age = _proof_age(head, clock)
    if age is None or age >= proof_seconds:
        return "no pass yet" if age is None else f"the last pass is {age:.0f} s old"
    parts = {part.id: at for part, at in head.positions.items() if part.origin == epoch.stream_arn}
    finished = {shard for shard, at in parts.items() if at.finished}
    for shard in readable(shards, finished):
        if shard.closed:
            return f"shard {shard.id} was closed"
        after = parts[shard.id].at if shard.id in parts else None
        iterator = stream.iterator(epoch.stream_arn, shard.id, after)
        if stream.read(iterator, shard.id, 1).count:
            return f"new records in shard {shard.id}"
    return ""


def _proof_age(head: Head, clock: Clock) -> float | None:
    proof = head.last_proof
    return (clock.aws_now() - proof.began_at).total_seconds() if proof else None


def _listed(stream: Stream, clock: Clock, model: str, epoch: Epoch) -> list[Shard]:
    try:
        return retried(lambda: stream.shards(epoch.stream_arn), clock)
    except SourceMissing as error:
        raise Gap(
            f"{model}: its stream {epoch.stream_arn} is gone: it was disabled more than 24 hours"
            " ago, or the table was deleted.",
            "Enable a stream on the table if it has none. " + READ_NEW_BASE,
        ) from error


def _unproven_since(head: Head, epoch: Epoch) -> datetime:
    """Every change before this is in the log, or will be in the epoch's base. A pass that did not
    reach every tip proves nothing: what it left unread goes on ageing."""
    base = epoch.opened_at
    if "export_time" in epoch.detail:  # an adopted export may be older than its epoch
        base = min(base, datetime.fromisoformat(epoch.detail["export_time"]))
    return max(base, head.last_proof.began_at) if head.last_proof else base


def _refuse_outage(model: str, since: datetime, now: datetime) -> None:
    """Records are kept for 24 hours: when the last proof is older, some may have come and gone
    without a trace, whole shards included."""
    if now - since > RETENTION - RETENTION_MARGIN:
        raise Gap(
            f"{model}: no pass over its stream has been complete since {since:%Y-%m-%d %H:%M} UTC;"
            " the stream keeps 24 hours, so changes may be lost since then.",
            READ_NEW_BASE,
        )


def _read_all(run: _Pass, shards: list[Shard]) -> list[Shard]:
    """Reads lineage by lineage, all of them at once; returns the last listing of shards."""
    arn = run.epoch.stream_arn
    finished = {each.id for each in shards if run.stage.position(_part(arn, each.id)).finished}
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
                    if not _lacks_children(run, shards, finished):
                        return shards
                    listings += 1
                    listed = {each.id for each in shards}
                    shards = retried(lambda: run.stream.shards(arn), run.clock)
                    if {each.id for each in shards} == listed:
                        return shards
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


def _lacks_children(run: _Pass, shards: list[Shard], finished: set[str]) -> bool:
    """True where a shard ended in this pass and its children are not listed yet."""
    return any(run.ends.get(each.id) is _End.FINISHED for each in childless(shards, finished))


def _read_shard(run: _Pass, shard: Shard) -> _End:
    part = _part(run.epoch.stream_arn, shard.id)
    iterator: str | None = _iterator(run, part)
    iterators, empty_pages = 1, 0
    while True:
        if run.exhausted():
            return _End.STOPPED
        read_from = iterator
        assert read_from is not None
        try:
            page = retried(lambda: run.stream.read(read_from, shard.id), run.clock)  # noqa: B023
        except IteratorExpired:
            iterators += 1
            if iterators > ITERATORS_PER_SHARD:
                raise
            iterator = _iterator(run, part)
            continue
        run.read_bytes += len(page.lines)
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
        if not shard.closed and empty_pages >= EMPTY_PAGES_AT_TIP:
            return _End.TIP
        if page.newest is not None and page.newest > run.began_at:
            return _End.TIP
        run.clock.sleep(READ_INTERVAL_SECONDS)


def _iterator(run: _Pass, part: Part) -> str:
    position = run.stage.position(part)

    def ask(after: str | None) -> str:
        return retried(lambda: run.stream.iterator(run.epoch.stream_arn, part.id, after), run.clock)

    try:
        return ask(position.at)
    except Trimmed:
        # The lost records are older than 24 hours. Where this epoch was opened since, its base
        # is read, or will be, after they were written: it holds what they said.
        covered = run.epoch.state != LIVE and run.began_at - run.epoch.opened_at < (
            RETENTION - RETENTION_MARGIN
        )
        if not covered:
            raise
        return ask(None)


def _record(run: _Pass, shards: list[Shard], since: datetime) -> PassRecord:
    arn = run.epoch.stream_arn
    finished = {each.id for each in shards if run.stage.position(_part(arn, each.id)).finished}
    unread = [
        each for each in shards if each.id not in finished and run.ends.get(each.id) is not _End.TIP
    ]
    ended_at = run.clock.aws_now()
    in_time = ended_at - since < RETENTION  # nothing was trimmed while the pass read on
    return PassRecord(
        id=uuid.uuid4().hex,
        began_at=run.began_at,
        ended_at=ended_at,
        complete=in_time and not unread and not childless(shards, finished),
        shards_open=sum(not each.closed for each in shards),
        shards_read=len(run.ends),
        calls=run.stream.calls,
    )


def _part(stream_arn: str, shard: str) -> Part:
    return Part("stream", SOURCE, stream_arn, shard)

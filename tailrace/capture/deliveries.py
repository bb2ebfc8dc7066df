"""One bounded pass over what Firehose has delivered to a table's bucket.

Objects come late, under old keys, and may come twice. So a pass lists some hours back from the
newest object that was read, and takes what the ledger does not name: each object once, by its key.

What a pass proves lags behind: a change is in an object only once Firehose has delivered its
buffer, `delivery_seconds` later at most. That is an assumption (docs/correctness.md); an object
that breaks it is told.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

from tailrace.capture import coverage
from tailrace.capture.ahead import groups_of, read_ahead
from tailrace.capture.drain import (
    NOT_ITS,
    Budget,
    beside,
    lose,
    note_loss,
    nothing,
    notices_of,
    proof_age,
)
from tailrace.capture.ports import Clock, Deliveries, Log
from tailrace.capture.privacy import require_same
from tailrace.capture.retry import retried
from tailrace.capture.stop import Stop
from tailrace.errors import SourceMissing
from tailrace.model import (
    BASE_COMPLETE,
    FIREHOSE,
    LIVE,
    Commit,
    Contents,
    Delivery,
    DrainResult,
    Epoch,
    Gap,
    Head,
    Part,
    PartProgress,
    PassRecord,
    Position,
    Shape,
    Staged,
)

OBJECTS = "objects"

# What is fetched, and committed, at a time, as it is packed: some 200 MB of records. A commit costs
# a tenth of a second, so it should be worth it, and few enough to bound the memory (of two batches)
# and what a crash repeats.
BATCH_BYTES = 32 * 1024 * 1024
BATCH_OBJECTS = 256
FETCHES_AT_ONCE = 4

# AWS tells its time in whole seconds: another process may be a second ahead.
CLOCK_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Delay:
    """How long Firehose may take: until a change is delivered (for the proof), and until an object
    of the past may still come (for the list)."""

    delivery: timedelta
    late: timedelta


@dataclass
class _Pass:
    log: Log
    source: Deliveries
    clock: Clock
    model: str
    stop: Stop
    epoch: Epoch
    part: Part
    position: Position
    deadline: float
    most_bytes: int
    is_newest: bool
    rows: int = 0
    bytes: int = 0
    objects: int = 0
    newest: datetime | None = None
    notices: Counter[str] = field(default_factory=Counter)

    def exhausted(self) -> bool:
        return (
            self.stop.is_set()
            or self.clock.monotonic() >= self.deadline
            or self.bytes >= self.most_bytes
        )


def part_of(stream_arn: str) -> Part:
    """All objects of a delivery stream, as the ledger knows them."""
    return Part("stream", FIREHOSE, stream_arn, OBJECTS)


def mark(at: datetime, count: int) -> str:
    """A position: the newest delivery that was read, then how many were. Later ones sort after
    it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}/{count:012d}"


def read_mark(position: str | None) -> tuple[datetime | None, int]:
    """What `mark` was made of."""
    if position is None:
        return None, 0
    at, _, count = position.partition("/")
    return datetime.fromisoformat(at), int(count)


def drain(
    log: Log,
    source: Deliveries,
    clock: Clock,
    model: str,
    budget: Budget,
    delay: Delay,
    stop: Stop | None = None,
    epoch: Epoch | None = None,
    is_its: Callable[[], bool] = lambda: True,
    privacy: Mapping[str, Any] | None = None,
) -> DrainResult:
    """Reads what was delivered and is not read yet, oldest first, within the budget, and commits.
    `epoch`, `is_its` and `privacy` as in tailrace.capture.drain.drain.

    What is lost (an object that is damaged, or was deleted before it was read; what Firehose could
    not process) is stored as a gap, in the commit that notices the object as read. Raises Stale
    where another run drained meanwhile, and what AWS or the warehouse refuse."""
    started = clock.monotonic()
    whole = log.head(model)
    epoch = epoch or whole.epoch
    if epoch is None:
        return DrainResult(model, None, "none")
    require_same(model, epoch, privacy or {})
    head = whole.of(epoch)
    part = part_of(epoch.stream_arn)
    run = _Pass(
        log=log,
        source=source,
        clock=clock,
        model=model,
        stop=stop or Stop(),
        epoch=epoch,
        part=part,
        position=head.positions.get(part, Position()),
        deadline=started + budget.seconds,
        most_bytes=budget.bytes,
        is_newest=whole.epoch is not None and whole.epoch.number == epoch.number,
    )
    try:
        new, listed_at = _new(run, head, delay)
    except SourceMissing:
        return _gone(run, head)
    _read(run, new, delay)
    is_read, is_lost = run.objects == len(new), not is_its()
    record = PassRecord(
        id=uuid.uuid4().hex,
        began_at=listed_at,
        ended_at=clock.aws_now(),
        complete=is_read and not is_lost,
        shards_open=1,
        shards_read=run.objects,
        calls=source.calls,
        delay_seconds=delay.delivery.total_seconds(),
    )
    if not run.is_newest:
        record = beside(log, model, record, epoch, NOT_ITS if is_lost else "")
    # Records are in order by their time alone, so that those of the base's time have to be in the
    # log, and not only those delivered by then.
    live = (
        record.complete
        and run.is_newest
        and epoch.state == BASE_COMPLETE
        and record.proves_until > epoch.changed_at + CLOCK_SECOND
        and not coverage.is_void(log.head(model))
    )
    log.commit(
        model,
        Commit(
            epoch,
            state=LIVE if live else None,
            at=record.ended_at if live else None,
            pass_record=record,
        ),
    )
    reached = log.head(model)
    notices = tuple(f"{what}: {count:,}" for what, count in run.notices.items())
    return DrainResult(
        model=model,
        epoch=epoch.number,
        state=LIVE if live else epoch.state,
        rows=run.rows,
        bytes=run.bytes,
        shards_read=run.objects,
        shards_open=1,
        reached_tip=record.complete,
        ended=is_read and is_lost,
        went_live=live,
        void=coverage.is_void(reached),
        gaps=tuple(coverage.open_gaps(reached)),
        newest_change=run.newest,
        lag_seconds=proof_age(reached.of(epoch), clock),
        seconds=clock.monotonic() - started,
        calls=source.calls,
        delay_seconds=record.delay_seconds,
        pieces=OBJECTS,
        notices=(*notices, *notices_of(record, epoch)),
    )


def due(
    log: Log,
    source: Deliveries,
    clock: Clock,
    model: str,
    freshness: float,
    delay: Delay,
    epoch: Epoch | None = None,
) -> str:
    """Why a drain is worth a run now, in words; empty if nothing was delivered and the last pass
    is younger than `freshness` seconds. `epoch` as in drain."""
    whole = log.head(model)
    epoch = epoch or whole.epoch
    if epoch is None:
        return ""
    head = whole.of(epoch)
    now, last = clock.aws_now(), head.last_proof
    if last is None:
        return "no pass yet"
    age = (now - last.began_at).total_seconds()
    if age >= freshness:
        return f"the last pass is {age:.0f} s old"
    ripe = now - epoch.changed_at > delay.delivery + CLOCK_SECOND
    if epoch.state == BASE_COMPLETE and ripe and not coverage.is_void(head):
        return "the base is complete and waits for a pass to go live"
    part = part_of(epoch.stream_arn)
    position = head.positions.get(part, Position())
    found = _unread(log, source, clock, model, head, part, position, delay)[0]
    return f"new objects: {len(found):,}" if found else ""


# ----------------------------------------------------------------------------------------- listing


def floor(head: Head, stream_arn: str) -> datetime:
    """From when on deliveries count: the oldest base since which no epoch of another source was
    live."""
    begun = None
    for epoch in reversed(head.epochs):
        if epoch.stream_arn != stream_arn:
            if epoch.state == LIVE:
                break
            continue
        begun = epoch.base_at if begun is None else min(begun, epoch.base_at)
    assert begun is not None
    return begun


def _unread(
    log: Log,
    source: Deliveries,
    clock: Clock,
    model: str,
    head: Head,
    part: Part,
    position: Position,
    delay: Delay,
) -> tuple[list[Delivery], set[str], list[Delivery]]:
    """What was delivered and is not read, oldest first; the keys that were read lately; and all
    that is listed."""
    # An object that was begun before may hold what came until it was delivered.
    first = floor(head, part.origin) - delay.delivery
    newest, _ = read_mark(position.at)
    since = max(first, newest or first) - delay.late
    # The list comes last: what another run reads meanwhile makes this one's position stale.
    read = log.delivered(model, part, mark(since, 0))
    listed = retried(lambda: source.listed(since), clock)
    return [each for each in listed if each.key not in read and each.at >= first], read, listed


def _new(run: _Pass, head: Head, delay: Delay) -> tuple[list[Delivery], datetime]:
    """What is to be read, and when the list of it began, by AWS's time. What is shown to be lost
    is stored first."""
    before = run.clock.monotonic()
    new, read, listed = _unread(
        run.log, run.source, run.clock, run.model, head, run.part, run.position, delay
    )
    listed_at = run.clock.aws_now() - timedelta(seconds=run.clock.monotonic() - before)
    if not listed and not read:
        retried(run.source.require_layout, run.clock)
    if run.is_newest and (again := coverage.regained(head, listed_at)):
        run.log.commit(run.model, Commit(run.epoch, gap=again))
        head = run.log.head(run.model).of(run.epoch)
    since = coverage.accounted_until(head)
    assert since is not None
    # A lifecycle removes the oldest first: where one that was read is left, none is lost.
    is_out = listed_at - since > coverage.IN_TIME
    if is_out and not any(each.key in read for each in listed):
        until = max(since, min([listed_at, *(each.at for each in new)]))
        reason = "no pass for a day, and none of the objects read before is left in the bucket"
        gap = Gap(since, until, listed_at, reason)
        note_loss(run.log, run.model, run.epoch, gap, run.is_newest)
    return new, listed_at


# ----------------------------------------------------------------------------------------- reading


def batches(found: Sequence[Delivery]) -> list[list[Delivery]]:
    """Objects in groups that are committed together."""
    return groups_of(found, lambda each: each.size, BATCH_BYTES, BATCH_OBJECTS)


def _read(run: _Pass, found: Sequence[Delivery], delay: Delay) -> None:
    def is_over() -> bool:
        # However long the list took, each pass gets on.
        return run.stop.is_set() or (run.objects > 0 and run.exhausted())

    fetch = partial(_fetch, run)
    with closing(read_ahead(batches(found), fetch, FETCHES_AT_ONCE, is_over)) as coming:
        for batch, contents in coming:
            _commit(run, batch, contents, delay)


def _fetch(run: _Pass, delivery: Delivery) -> Contents:
    if delivery.is_failed:
        return Contents(damage=f"Firehose could not process what lies in {delivery.key}")
    return retried(lambda: run.source.read(delivery), run.clock)


def _commit(run: _Pass, batch: list[Delivery], contents: list[Contents], delay: Delay) -> None:
    notices = _notices(batch, contents, delay)
    damage = [
        (delivery, each.damage)
        for delivery, each in zip(batch, contents, strict=True)
        if each.damage
    ]
    progress = _progress(run, batch, contents, notices)
    found = tuple(chain.from_iterable(each.changes for each in contents))
    staged = Staged(Shape.KINESIS_RECORDS, found, progress.rows, repeats=True) if found else None
    gap = _gap(run, damage, delay)
    if gap and not run.is_newest:
        note_loss(run.log, run.model, run.epoch, gap, is_newest=False)
        gap = None
    run.log.commit(run.model, Commit(run.epoch, (progress,), staged, gap=gap))
    run.position = Position(progress.position_to)
    run.objects += len(batch)
    run.rows += progress.rows
    run.bytes += progress.bytes
    run.notices.update(notices)
    run.newest = max(filter(None, (run.newest, progress.newest)), default=None)


def _progress(
    run: _Pass, batch: Sequence[Delivery], contents: Sequence[Contents], notices: dict[str, int]
) -> PartProgress:
    newest, count = read_mark(run.position.at)
    newest = max([each.at for each in batch] + ([newest] if newest else []))
    return PartProgress(
        part=run.part,
        position_from=run.position.at,
        position_to=mark(newest, count + len(batch)),
        finished=False,
        rows=sum(each.rows for each in contents),
        bytes=sum(each.bytes for each in contents),
        oldest=min((each.oldest for each in contents if each.oldest), default=None),
        newest=max((each.newest for each in contents if each.newest), default=None),
        detail={"objects": [each.key for each in batch]}
        | ({"notices": notices} if notices else {}),
    )


def _notices(
    batch: Sequence[Delivery], contents: Sequence[Contents], delay: Delay
) -> dict[str, int]:
    """What somebody should know of these objects, and how often it was found."""
    counts: Counter[str] = Counter()
    coarse = sum(each.coarse for each in contents)
    if coarse < sum(each.rows for each in contents):
        counts["records with times in milliseconds, beside others in microseconds"] = coarse
    late = f"objects delivered more than {delay.delivery.total_seconds():.0f} s late"
    for delivery, each in zip(batch, contents, strict=True):
        for table, count in each.others.items():
            counts[f"records of table {table}"] += count
        counts["records that are not DynamoDB's"] += each.foreign
        counts["objects that Firehose could not process"] += delivery.is_failed
        counts["objects that are damaged or gone"] += bool(each.damage) and not delivery.is_failed
        counts[late] += each.oldest is not None and delivery.at - each.oldest > delay.delivery
    return dict(+counts)


# -------------------------------------------------------------------------------------- coverage


def _gone(run: _Pass, head: Head) -> DrainResult:
    """The result of a pass over a bucket that is gone."""
    reason = f"the bucket of {run.epoch.stream_arn} is gone"
    lose(run.log, run.clock, run.model, head, reason, is_newest=run.is_newest)
    return nothing(run.log, run.clock, run.source, run.epoch, run.model)


def _gap(run: _Pass, lost: Sequence[tuple[Delivery, str]], delay: Delay) -> Gap | None:
    """The gap that lost objects leave, unless one that is open, or a base that is live, covers
    them all. An object holds changes made since a delivery's time before it."""
    if not lost:
        return None
    head = run.log.head(run.model).of(run.epoch)
    now = run.clock.aws_now()
    since = min(each.at for each, _ in lost) - delay.delivery
    if coverage.is_covered(head, Gap(since, max(each.at for each, _ in lost), now, "")):
        return None
    more = f" (and {len(lost) - 1} more like it)" if len(lost) > 1 else ""
    return coverage.broken(head, now, f"{lost[0][1]}{more}", [since])

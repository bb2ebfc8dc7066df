"""Reconciliation: the proof, on demand, that the warehouse equals the table.

The source is read by a fresh export, a scan, or a sample; of each item it is known within which
short span of time it was so. Then the stream is drained until a pass is complete that began after
all of that, so that the log knows every change up to then, and the two are compared as of that
time. Whoever writes to the table goes on writing.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from tailrace.capture import coverage
from tailrace.capture.bootstrap import (
    CLOCK_SECOND,
    EXPORT_POLL_SECONDS,
    EXPORT_POLLS_MAX,
    SCAN_MARGIN_SECONDS,
    SCAN_THREADS_MAX,
    Bootstrap,
    Meter,
    batches_of,
    fetched,
    in_threads,
    whole_second,
)
from tailrace.capture.ports import Comparison, Export, Sample, Scan
from tailrace.capture.rate import CapacityLimit
from tailrace.capture.retry import ATTEMPTS, retried
from tailrace.errors import Retryable, Stale, Terminal
from tailrace.lines import Lines
from tailrace.model import (
    LIVE,
    BaseProgress,
    Epoch,
    ExportState,
    Head,
    ItemPage,
    Part,
    Reconciliation,
    ScanPage,
    Shape,
    Staged,
    TableDescription,
    gap_text,
)

METHODS = EXPORT, SCAN, SAMPLE = "export", "scan", "sample"

# AWS rounds the time of a change down to whole seconds, and so does the Date of its answers.
SLACK = timedelta(seconds=2)

# A scan begins at the start of its segment, so a sample's pages come from small segments.
SAMPLE_PAGE_ITEMS = 50
SEGMENTS_MAX = 1_000_000
KEYS_PER_CALL = 100

PASSES_MAX = 10_000
FRUITLESS_PASSES_MAX = 60
PASS_REST_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """What was read of the source, all of it or some, and by AWS's time from when to when."""

    began_at: datetime
    ended_at: datetime
    is_whole: bool
    capacity_units: float = 0.0


def reconcile(
    run: Bootstrap,
    comparison: Comparison,
    method: str,
    read: Callable[[Head], Snapshot],
    drain: Callable[[], int],
    *,
    shown: int,
    late: timedelta = timedelta(0),
    patience_seconds: float = 0.0,
    kept: timedelta | None = None,
) -> Reconciliation:
    """Reads the source, drains the stream until it is settled, compares.

    `read` is one of the functions below, `drain` one pass that tells its rows; a change may come to
    the stream so `late` after it was made. Where somebody else
    drains the table anyway, their pass is waited for, up to `patience_seconds`. `kept` is for how
    long the log keeps every row (None: for ever). Raises Terminal where the table is not live or
    has gaps, or the log no longer tells how it was when the reading began, Retryable where a new
    epoch went live meanwhile, and what reading and draining raise."""
    started = run.clock.monotonic()
    before = run.log.head(run.model)
    live = require_live(run.model, before)
    _wait_until(run, live.changed_at + SLACK + CLOCK_SECOND)
    snapshot = read(before)
    began, ended = snapshot.began_at - SLACK, snapshot.ended_at + SLACK
    head = _settled(run, live, ended, late, drain, patience_seconds)
    _refuse_forgotten(run, began, kept)
    whole = (began, ended) if snapshot.is_whole else None
    found = comparison.differences(head, whole, before.batch, shown)
    return Reconciliation(
        model=run.model,
        method=method,
        began_at=snapshot.began_at,
        ended_at=snapshot.ended_at,
        found=found,
        capacity_units=snapshot.capacity_units,
        seconds=run.clock.monotonic() - started,
    )


def require_live(model: str, head: Head) -> Epoch:
    """The newest epoch. Raises Terminal where there is none, it is not live, or changes may be
    missing."""
    if head.epoch is None:
        raise Terminal(
            f"{model}: has no epoch yet: there is nothing to compare with its table.",
            f"Read its base first: `tailrace sync --table {model}`, or materialize {model}/base.",
        )
    if head.epoch.state != LIVE:
        raise Terminal(
            f"{model}: epoch {head.epoch.number} is not live yet, but {head.epoch.state}.",
            f"Let it go live first: `tailrace sync --table {model} --until-caught-up`.",
        )
    _refuse_gaps(model, head)
    return head.epoch


def require_same(model: str, live: Epoch, table: TableDescription) -> None:
    """Raises Terminal where the table, or its stream, is another one than the epoch's."""
    if (table.table_id, table.stream_arn) != (live.table_id, live.stream_arn):
        raise Terminal(
            f"{model}: the table or its stream was replaced: it was {live.stream_arn}, it is"
            f" {table.stream_arn}.",
            f"Let it be repaired first: `tailrace sync --table {model} --until-caught-up`.",
        )


def _refuse_gaps(model: str, head: Head) -> None:
    gaps = coverage.open_gaps(head)
    if gaps:
        raise Terminal(
            f"{model}: {gap_text(gaps)}.",
            f"Repair it first: `tailrace repair {model}`, then `tailrace sync --table {model}`.",
        )


def _refuse_forgotten(run: Bootstrap, began: datetime, kept: timedelta | None) -> None:
    took = run.clock.aws_now() - began
    if kept is not None and took > kept:
        raise Terminal(
            f"{run.model}: reading the table took {took.total_seconds() / 3600:.0f} hours, but its"
            f" log keeps {kept.total_seconds() / 3600:.0f}: what was changed meanwhile may be gone"
            " from it, and would seem to differ.",
            "Reconcile by export or by sample, scan faster (--max-rcu), or let the log keep more"
            " (log.keep in tailrace.yaml).",
        )


# ------------------------------------------------------------------------------------ reading


def read_scan(
    run: Bootstrap,
    scan: Scan,
    comparison: Comparison,
    table: TableDescription,
    segments: int,
    max_rcu: float | None,
    *,
    consistent: bool,
) -> Snapshot:
    """Scans the whole table. What is not read consistently may be a margin older."""
    margin = timedelta(seconds=0.0 if consistent else SCAN_MARGIN_SECONDS)
    meter = Meter(run, segments, table.item_count, {})
    limit = CapacityLimit(max_rcu, run.clock)
    units: list[float] = []
    began_at = run.clock.aws_now() - margin

    def read_segment(part: Part) -> None:
        start: str | None = None
        while not run.stop.is_set():
            limit.wait()

            def ask(start: str | None = start) -> tuple[datetime, ScanPage]:
                return run.clock.aws_now(), scan.page(int(part.id), segments, start)

            asked_at, page = retried(ask, run.clock)
            limit.spend(page.capacity_units)
            units.append(page.capacity_units)
            _take_in(comparison, page, asked_at - margin)
            start = page.next_key
            meter.add(page.count, len(page.lines), parts=1 if start is None else 0)
            if start is None:
                return

    parts = [Part("base", SCAN, table.arn, str(number)) for number in range(segments)]
    in_threads(run, read_segment, parts, min(SCAN_THREADS_MAX, segments))
    _refuse_stopped(run)
    meter.show(last=True)
    return Snapshot(began_at, run.clock.aws_now(), True, sum(units))


def read_export(
    run: Bootstrap, export: Export, comparison: Comparison, head: Head, table: TableDescription
) -> Snapshot:
    """Requests an export, waits for it, and reads it.

    Raises Terminal where it failed or point-in-time recovery is off, CorruptExport where what
    lies in S3 is not what AWS wrote."""
    live = require_live(run.model, head)
    latest = retried(export.latest_time, run.clock)
    at = whole_second(max(latest, live.changed_at + SLACK + CLOCK_SECOND))
    state = _ended(run, export, table, _requested(run, export, table, at))
    if state.failure:
        raise export.failed(state)
    manifest = retried(lambda: export.manifest(state), run.clock)
    if manifest.table_id and manifest.table_id != table.table_id:
        raise Terminal(
            f"{run.model}: the export {state.arn} is of a table with the id {manifest.table_id},"
            f" but {table.name} has {table.table_id}: it was recreated meanwhile.",
            f"Read a new base: `tailrace base {run.model}`.",
        )
    taken_at = manifest.export_time or state.export_time or at
    meter = Meter(run, len(manifest.files), manifest.item_count, {})
    batches = batches_of(manifest, manifest.files)
    with closing(fetched(run, export, manifest.bucket, batches)) as coming:
        for batch, contents in coming:
            lines = tuple(chain.from_iterable(contents))
            items = sum(file.items for file in batch)
            if items:
                staged = Staged(Shape.ITEMS, lines, items)
                comparison.add(staged, taken_at - SLACK, taken_at + SLACK)
            meter.add(items, sum(each.bytes for each in lines), parts=len(batch))
    _refuse_stopped(run)
    meter.show(last=True)
    return Snapshot(taken_at, taken_at, True)


def read_sample(
    run: Bootstrap,
    source: Sample,
    comparison: Comparison,
    head: Head,
    count: int,
    max_rcu: float | None,
) -> Snapshot:
    """Reads about `count` random items of the table, which finds what the warehouse lacks, and
    looks up `count` random keys of the warehouse, which finds what it should not have: not where
    they are hashed. `source` reads consistently."""
    keys, items = comparison.sample(head, count)
    limit = CapacityLimit(max_rcu, run.clock)
    began_at = run.clock.aws_now()
    if run.privacy.get("key"):
        keys = []  # nobody knows what they were hashed from
    units = _draw(run, source, comparison, items, count, limit)
    for at in range(0, len(keys), KEYS_PER_CALL):
        units += _look_up(run, source, comparison, keys[at : at + KEYS_PER_CALL], limit)
    return Snapshot(began_at, run.clock.aws_now(), False, units)


def _draw(
    run: Bootstrap,
    source: Sample,
    comparison: Comparison,
    items: int,
    count: int,
    limit: CapacityLimit,
) -> float:
    """Reads pages of random places of a table of about `items` items, until there are `count`;
    the units that it took."""
    page_items = min(count, SAMPLE_PAGE_ITEMS)
    segments = max(1, min(SEGMENTS_MAX, items // page_items))
    drawn = random.sample(range(segments), min(segments, -(-count // page_items)))
    places: deque[tuple[int, str | None]] = deque((segment, None) for segment in drawn)
    units = 0.0
    while places and count > 0:
        segment, start = places.popleft()
        _refuse_stopped(run)
        limit.wait()

        def ask(segment: int = segment, start: str | None = start) -> tuple[datetime, ScanPage]:
            return run.clock.aws_now(), source.page(segment, segments, start, page_items)

        asked_at, page = retried(ask, run.clock)
        limit.spend(page.capacity_units)
        units += page.capacity_units
        count -= max(page.count, 1)
        _take_in(comparison, page, asked_at)
        if page.next_key is not None:
            places.append((segment, page.next_key))
    return units


def _take_in(comparison: Comparison, page: ScanPage, asked_at: datetime) -> None:
    if page.count:
        staged = Staged(Shape.ITEMS, (Lines.of(page.lines),), page.count)
        comparison.add(staged, asked_at - SLACK, page.read_at + SLACK)


def _look_up(
    run: Bootstrap, source: Sample, comparison: Comparison, keys: list[str], limit: CapacityLimit
) -> float:
    """Asks for some keys until AWS has answered for all of them; the units that it took."""
    lines: list[Lines] = []
    asked_at = run.clock.aws_now()
    left: Sequence[str] = keys
    found, units = 0, 0.0
    for attempt in range(ATTEMPTS * len(keys)):
        _refuse_stopped(run)
        limit.wait()

        def ask(left: Sequence[str] = left) -> ItemPage:
            return source.items(left)

        page = retried(ask, run.clock)
        limit.spend(page.capacity_units)
        lines.append(Lines.of(page.lines))
        found, units, left = found + page.count, units + page.capacity_units, page.unprocessed
        if not left:
            staged = Staged(Shape.ITEMS, tuple(lines), found)
            comparison.look_up(keys, staged, asked_at - SLACK, run.clock.aws_now() + SLACK)
            return units
        if not page.count:
            run.clock.sleep(min(0.1 * 2 ** min(attempt, 10), PASS_REST_SECONDS))
    raise Retryable(
        f"{run.model}: AWS left {len(left)} keys unprocessed, however often they were asked for.",
        "The table is being throttled. Run again, with a lower --max-rcu.",
    )


# ------------------------------------------------------------------------------------- export


def _requested(run: Bootstrap, export: Export, table: TableDescription, at: datetime) -> str:
    """The ARN of a new export of the table at `at`, once point-in-time recovery has come so far."""
    token = uuid.uuid4().hex
    for _ in range(EXPORT_POLLS_MAX):
        behind = (at - retried(export.latest_time, run.clock)).total_seconds()
        if behind <= 0:
            return retried(lambda: export.request(table, at, token), run.clock)
        _pause(run, min(EXPORT_POLL_SECONDS, behind))
    raise Terminal(
        f"{run.model}: point-in-time recovery has not reached {at} within a week.",
        "Look at the table's backups in the AWS console.",
    )


def _ended(run: Bootstrap, export: Export, table: TableDescription, arn: str) -> ExportState:
    """The export's state once it is COMPLETED or FAILED."""
    for poll in range(EXPORT_POLLS_MAX):
        state = retried(lambda: export.state(arn), run.clock)
        if state.status in ("COMPLETED", "FAILED"):
            return state
        run.progress(BaseProgress(run.model, 0, 0, 0, 0, table.item_count, 0.0, None))
        _pause(run, min(EXPORT_POLL_SECONDS, 1.0 + poll))
    raise Terminal(
        f"{run.model}: the export {arn} has not ended within a week.",
        "Look at it in the AWS console; then reconcile again.",
    )


# ----------------------------------------------------------------------------------- settling


def _settled(
    run: Bootstrap,
    live: Epoch,
    until: datetime,
    late: timedelta,
    drain: Callable[[], int],
    patience_seconds: float,
) -> Head:
    """The ledger's head once it holds a complete pass, whosever, that began when all that was made
    until then had come, however `late`.

    Raises Retryable where passes come to no end, or another epoch went live."""
    _wait_until(run, until + late)
    patient_until = run.clock.monotonic() + patience_seconds
    fruitless = 0
    for _ in range(PASSES_MAX):
        head = run.log.head(run.model)
        if head.last_proof is not None and head.last_proof.began_at >= until + late:
            return _still(run.model, live, head)
        if run.clock.monotonic() < patient_until:
            _pause(run, PASS_REST_SECONDS)
            continue
        try:
            rows = drain()
        except Stale:  # somebody else drains: their pass is as good
            rows = 0
        fruitless = 0 if rows else fruitless + 1
        if fruitless > FRUITLESS_PASSES_MAX:
            break
        if fruitless > 1:
            _pause(run, PASS_REST_SECONDS)
    raise Retryable(
        f"{run.model}: no pass over its stream that began after {until:%Y-%m-%d %H:%M:%S} UTC has"
        " reached the tip, so the changes in flight are not settled.",
        "Look at `tailrace status`; reconcile again once the table is caught up.",
    )


def _still(model: str, live: Epoch, head: Head) -> Head:
    if head.live is None or head.live.number != live.number:
        raise Retryable(
            f"{model}: another epoch went live while the table was read.", "Reconcile again."
        )
    _refuse_gaps(model, head)
    return head


def _wait_until(run: Bootstrap, at: datetime) -> None:
    ahead = (at - run.clock.aws_now()).total_seconds()
    if ahead > 0:
        _pause(run, ahead)


def _pause(run: Bootstrap, seconds: float) -> None:
    _refuse_stopped(run)
    run.clock.sleep(seconds)


def _refuse_stopped(run: Bootstrap) -> None:
    if run.stop.is_set():
        raise Retryable(f"{run.model}: stopped while reconciling.", "Run again.")

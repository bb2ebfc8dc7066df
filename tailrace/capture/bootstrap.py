"""An epoch's base: opening the epoch, then reading the table by scan or export, resumably.

The one thing that must hold is that the stream's coverage begins before the base is read. So the
epoch is opened, and the ledger's positions with it, before anything else; a scan starts a margin
later, and an export's time must not lie before the coverage.

An incremental epoch repairs a gap: its base is what changed from before the gap until after the
stream's coverage begins anew, by incremental exports, each a window of at most a day.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from tailrace.capture.ahead import groups_of, read_ahead
from tailrace.capture.coverage import IN_TIME, begins_at
from tailrace.capture.ports import Clock, Export, Log, Scan
from tailrace.capture.privacy import NOTED, has_other_keys, require_same
from tailrace.capture.rate import CapacityLimit
from tailrace.capture.retry import retried
from tailrace.capture.shards import CLOSING_MARGIN, closed_before, part_of
from tailrace.capture.stage import Stage
from tailrace.capture.stop import Stop
from tailrace.errors import Retryable, Stale, Terminal
from tailrace.lines import Lines
from tailrace.model import (
    BASE_COMPLETE,
    DYNAMODB_STREAMS,
    FULL,
    INCREMENTAL,
    KEYS_ONLY,
    LIVE,
    OPEN,
    BaseProgress,
    BaseResult,
    Commit,
    Epoch,
    ExportFile,
    ExportManifest,
    ExportState,
    Head,
    Part,
    PartProgress,
    Position,
    Shape,
    Shard,
    Staged,
    StreamTraits,
    TableDescription,
    Window,
)

# An eventually consistent read is usually at most a second stale; ten leave no doubt.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.ReadConsistency.html
SCAN_MARGIN_SECONDS = 10.0
SCAN_THREADS_MAX = 32

# AWS tells its time in whole seconds: it may be a second later than `now`.
CLOCK_SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

# A stream that is ordered by time is read from so long before its base on: its records bear the
# time of their change, and come after it.
READ_MARGIN = timedelta(minutes=10)

# Somebody drains the stream while the next epoch is to be opened: a commit takes a moment.
OPENINGS_MAX = 100
OPENING_PAUSE_SECONDS = 0.2

EXPORT_POLL_SECONDS = 15.0
EXPORT_POLLS_MAX = 40_000  # a week
EXPORT_BATCH_ITEMS = 200_000
EXPORT_BATCH_BYTES = 256 * 1024 * 1024
EXPORT_BATCH_FILES = 64
DOWNLOADS_AT_ONCE = 2

# An incremental export covers from 15 minutes to 24 hours. The first begins a margin before the
# gap: changes are as old as the pass that proved them, and streams tell times in whole seconds.
SHORTEST_WINDOW = timedelta(minutes=15)
LONGEST_WINDOW = timedelta(hours=24)
REPAIR_MARGIN = timedelta(minutes=5)

PROGRESS_SECONDS = 1.0

Progress = Callable[[BaseProgress], None]

# The shards of a new epoch's stream, or how to list those since an instant.
Shards = Sequence[Shard] | Callable[[datetime | None], Sequence[Shard]]


@dataclass(frozen=True)
class Bootstrap:
    """What reading a base needs. `folder` is scratch space; `stop` ends it early and cleanly;
    `traits` are those of the stream that a new epoch is to follow, `privacy` is noted in it, and
    has to be that of an epoch gone on with."""

    log: Log
    clock: Clock
    model: str
    folder: Path
    progress: Progress = lambda progress: None
    stop: Stop = field(default_factory=Stop)
    traits: StreamTraits = field(default_factory=StreamTraits)
    privacy: Mapping[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------- epochs


def open_scan_epoch(
    run: Bootstrap,
    table: TableDescription,
    segments: int,
    consistent: bool,
    shards: Shards = (),
) -> Epoch:
    """Opens an epoch whose base is a scan; `shards` are those of its stream. The segment count is
    frozen here: a key to go on from is valid only in its own segment of its own total."""
    detail = {"segments": segments, "consistent": consistent}
    return _open(run, table, "scan", detail, shards)


def open_export_epoch(
    run: Bootstrap, table: TableDescription, export: Export, shards: Shards = ()
) -> Epoch:
    """Opens an epoch whose base is an export; `shards` are those of its stream.

    Raises Terminal, and opens nothing, where point-in-time recovery is off, or the export that
    is to be adopted cannot be found."""
    retried(export.latest_time, run.clock)
    detail: dict[str, Any] = {"adopted": export.adopted, "export_arn": export.adopted}
    earlier, arn = run.log.head(run.model).epochs, table.stream_arn or ""
    if not _is_followed(earlier, arn):
        # Its records may be older than the base: from the first one that lands on, it has to be
        # known which (Epoch.prior_until).
        detail |= _plan(run, export, earlier, arn)
    return _open(run, table, "export", detail, shards)


def open_incremental_epoch(
    run: Bootstrap,
    table: TableDescription,
    since: datetime,
    old_images: bool,
    shards: Shards = (),
) -> Epoch:
    """Opens an epoch whose base is what changed since a margin before `since`; `shards` are those
    of its stream."""
    begin = repair_begin(since)
    detail = {"begin": begin.isoformat(), "old_images": old_images}
    return _open(run, table, "export", detail, shards, INCREMENTAL)


def repair_begin(since: datetime) -> datetime:
    """From when on the changes are read again to close a gap since `since`: a whole second."""
    return (since - REPAIR_MARGIN).replace(microsecond=0)


def coverage_begin(earlier: Sequence[Epoch], stream_arn: str, now: datetime) -> datetime:
    """The instant from which an epoch has every change, `earlier` being those before it.

    A stream that they follow already goes on from its positions: from now. Asked only after the
    epoch was opened: whatever landed under the epoch before it is older than `now`, and a base
    that is younger cannot take a key back. A stream new to the ledger is read from its oldest
    record: from when it was enabled (its ARN ends in that time), but at most 24 hours back; with
    a margin on either side. Of one whose name does not tell when it was: from now, when it is.
    """
    if _is_followed(earlier, stream_arn):
        return now + CLOCK_SECOND
    enabled = begins_at(stream_arn)
    return now if enabled is None else min(now, max(now - IN_TIME, enabled))


def _is_followed(epochs: Sequence[Epoch], stream_arn: str) -> bool:
    return any(epoch.stream_arn == stream_arn for epoch in epochs)


def whole_second(at: datetime) -> datetime:
    """The first whole second that is not before `at`."""
    floor = at.replace(microsecond=0)
    return floor if floor == at else floor + timedelta(seconds=1)


def _open(
    run: Bootstrap,
    table: TableDescription,
    method: str,
    detail: dict[str, Any],
    shards: Shards,
    kind: str = FULL,
) -> Epoch:
    """The epoch, opened. Where time is the order of its records, nothing may land between the
    instant that parts this epoch's changes from the earlier ones' and the opening itself. Raises
    Stale where another run was first."""
    for _ in range(OPENINGS_MAX):
        try:
            return _opened(run, table, method, detail, shards, kind)
        except _OutrunError:
            raise
        except Stale:
            if not run.traits.timed:
                raise
            run.clock.sleep(OPENING_PAUSE_SECONDS)
    return _opened(run, table, method, detail, shards, kind)


class _OutrunError(Stale):
    """What an export was planned for is no longer so: another run follows the stream already."""


def _opened(
    run: Bootstrap,
    table: TableDescription,
    method: str,
    detail: dict[str, Any],
    shards: Shards,
    kind: str,
) -> Epoch:
    head = run.log.head(run.model)
    if "export_time" in detail and _is_followed(head.epochs, table.stream_arn or ""):
        raise _OutrunError(
            f"{run.model}: an export of {detail['export_time']} was planned for a stream that was"
            " not followed; another run follows it by now.",
            "Nothing was lost. Run again.",
        )
    # What two processes know of AWS's time differs by up to a second; an epoch is younger than
    # the gaps that were found before it.
    now = max([run.clock.aws_now(), *(gap.found_at + MICROSECOND for gap in head.gaps)])
    epoch = Epoch(
        number=(head.epoch.number if head.epoch else 0) + 1,
        kind=kind,
        method=method,
        state=OPEN,
        table_id=table.table_id,
        stream_arn=table.stream_arn or "",
        opened_at=now,
        changed_at=now,
        detail=detail | _following(run, head, table),
    )
    if _rekeys(head, run.privacy):
        epoch = replace(epoch, detail=epoch.detail | {"overlaps": True})
    if run.privacy:
        epoch = replace(epoch, detail=epoch.detail | {NOTED: dict(run.privacy)})
    if run.traits.timed:
        epoch = replace(epoch, detail=epoch.detail | _times(head, epoch))
    listed = shards(epoch.stream_from) if callable(shards) else shards
    # What a shard that was closed before may lose is older than the base.
    closed = closed_before(listed, epoch.base_at - CLOSING_MARGIN)
    seen = {
        part_of(epoch.source, epoch.stream_arn, each.id): epoch.number - (each.id in closed)
        for each in listed
    }
    # Whether what it takes over from is live, and what has landed, must not change meanwhile.
    follows_another = head.epoch is not None and head.epoch.stream_arn != epoch.stream_arn
    after = head.batch if run.traits.timed or follows_another else None
    run.log.open_epoch(run.model, table, epoch, seen, after)
    return epoch


def _following(run: Bootstrap, head: Head, table: TableDescription) -> dict[str, Any]:
    """What an epoch has to note of the stream that it follows. Where its rows may be older than
    what readers see already they have to wait until it is live (`overlaps`): where it takes over
    from another source, which is drained `beside` it meanwhile; where items that were looked
    up for the last records of a KEYS_ONLY stream may show what the stream after it tells; and where
    those of the epoch before had to wait, and do so for ever, because it was given up."""
    source, shown = run.traits.source, head.shown
    noted: dict[str, Any] = {} if source == DYNAMODB_STREAMS else {"source": source}
    if table.view_type == KEYS_ONLY:
        noted["view"] = KEYS_ONLY
    waited = shown is not None and shown.overlaps and shown.state != LIVE
    if shown is None or shown.stream_arn == table.stream_arn:
        return noted | ({"overlaps": True} if waited else {})
    if head.live is not None and (shown.source != source or run.traits.timed):
        return noted | {"overlaps": True, "beside": shown.number}
    waits = waited or head.view_of(shown) == KEYS_ONLY
    return noted | ({"overlaps": True} if waits else {})


def _times(head: Head, epoch: Epoch) -> dict[str, str]:
    """From when on a stream that is ordered by time is read, and from when on its changes are this
    epoch's. A base is read, or its instant lies, later than that; and all that had landed before is
    older, because it had landed when AWS's time, which may be a second behind, was asked for."""
    followed = next((e for e in reversed(head.epochs) if e.stream_arn == epoch.stream_arn), None)
    read_from = followed.stream_from if followed else None
    taken = epoch.detail.get("export_time")
    changes_from = datetime.fromisoformat(taken) if taken else epoch.opened_at + CLOCK_SECOND
    return {
        "stream_from": (read_from or epoch.base_at - READ_MARGIN).isoformat(),
        "changes_from": min(changes_from, epoch.opened_at + CLOCK_SECOND).isoformat(),
    }


def _rekeys(head: Head, privacy: Mapping[str, Any]) -> bool:
    """True where an item's key may be another one now than in what readers see: it would stand
    there twice until the base replaces all of it."""
    since = head.live.number if head.live else 1
    return any(has_other_keys(each, privacy) for each in head.epochs if each.number >= since)


def continues(head: Head, table: TableDescription, method: str, adopted: str | None) -> bool:
    """True where the newest epoch's base is unfinished and still what is asked for, of this table
    and this stream: it is resumed rather than started anew."""
    epoch = head.epoch
    if epoch is None or epoch.state not in (OPEN, BASE_COMPLETE):
        return False
    if (epoch.table_id, epoch.stream_arn) != (table.table_id, table.stream_arn):
        return False
    asked_for = (epoch.method, epoch.detail.get("adopted")) == (method, adopted)
    return asked_for or epoch.state == BASE_COMPLETE or epoch.kind == INCREMENTAL


# --------------------------------------------------------------------------------------- scan


def read_scan(
    run: Bootstrap, scan: Scan, table: TableDescription, max_rcu: float | None
) -> BaseResult:
    """Reads every unfinished segment, in threads, and completes the base.

    Raises Stale where another run reads the same base, and what AWS or the warehouse refuse;
    whatever was committed before stays, and the next call goes on from there."""
    started = run.clock.monotonic()
    head = run.log.head(run.model)
    epoch = _require_open(run, head)
    segments = int(epoch.detail["segments"])
    parts = [Part("base", "scan", table.arn, str(number)) for number in range(segments)]
    meter = Meter(run, segments, table.item_count, head.positions)
    stage = Stage(
        run.log,
        run.model,
        epoch,
        Shape.ITEMS,
        head.positions,
        run.clock,
    )
    limit = CapacityLimit(max_rcu, run.clock)
    stale = epoch.changes_from is not None or not epoch.detail["consistent"]
    if stale and not any(part in head.positions for part in parts):
        run.clock.sleep(SCAN_MARGIN_SECONDS)
    todo = [part for part in parts if not stage.position(part).finished]

    def read_segment(part: Part) -> None:
        position = stage.position(part).at
        while not run.stop.is_set():
            limit.wait()
            start = position
            page = retried(lambda: scan.page(int(part.id), segments, start), run.clock)  # noqa: B023
            limit.spend(page.capacity_units)
            position = page.next_key
            stage.add(
                part,
                page.lines,
                page.count,
                position,
                finished=position is None,
                read_at=page.read_at,
            )
            meter.add(page.count, len(page.lines), parts=1 if position is None else 0)
            if position is None:
                return

    in_threads(run, read_segment, todo, min(SCAN_THREADS_MAX, max(1, len(todo))))
    return _complete(run, stage.flush, meter, epoch, segments, started)


def in_threads(
    run: Bootstrap, work: Callable[[Part], None], parts: list[Part], threads: int
) -> None:
    """Works on all parts; where one fails, the run stops and its error is raised."""
    with ThreadPoolExecutor(threads, thread_name_prefix="base") as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            run.stop.set()
            for future in futures:
                future.cancel()
            raise


def _complete(
    run: Bootstrap,
    flush: Callable[..., None],
    meter: Meter,
    epoch: Epoch,
    parts: int,
    started: float,
) -> BaseResult:
    if run.stop.is_set():
        flush()
        raise Retryable(f"{run.model}: stopped before its base was complete.", "Run again.")
    flush(state=BASE_COMPLETE, at=run.clock.aws_now())
    meter.show(last=True)
    return BaseResult(
        model=run.model,
        epoch=epoch.number,
        method=epoch.method,
        state=BASE_COMPLETE,
        items=meter.items,
        bytes=meter.bytes,
        parts=parts,
        seconds=run.clock.monotonic() - started,
    )


def _require_open(run: Bootstrap, head: Head) -> Epoch:
    if head.epoch is None or head.epoch.state != OPEN:
        raise Terminal("There is no open epoch to read a base for.", "Start the base again.")
    require_same(run.model, head.epoch, run.privacy)
    return head.epoch


# ------------------------------------------------------------------------------------- export


def read_export(run: Bootstrap, export: Export, table: TableDescription) -> BaseResult:
    """Requests or adopts the epoch's export, waits for it, and loads each file once.

    Raises Terminal where the export failed, is of another table or too old, CorruptExport where
    what lies in S3 is not what AWS wrote; nothing of a bad file lands."""
    started = run.clock.monotonic()
    head = run.log.head(run.model)
    epoch, state = _finished_export(run, export, table, _require_open(run, head))
    manifest = retried(lambda: export.manifest(state), run.clock)
    _check_export(run.model, epoch, table, state, manifest)
    return _loaded(run, export, epoch, Shape.ITEMS, [(state, manifest)], started)


def read_incremental(run: Bootstrap, export: Export, table: TableDescription) -> BaseResult:
    """Requests the exports of the epoch's windows, waits for them, and loads each file once.

    Raises as read_export does."""
    started = run.clock.monotonic()
    epoch = _windowed(run, _require_open(run, run.log.head(run.model)))
    for number in range(len(epoch.detail["windows"])):
        epoch = _with_window_export(run, export, table, epoch, number)
    found = []
    for number, window in enumerate(_windows(epoch)):
        epoch, state = _ended(run, export, table, epoch, epoch.detail["exports"][str(number)])
        manifest = retried(lambda: export.manifest(state), run.clock)  # noqa: B023
        _check_window(run.model, table, state, manifest, window)
        found.append((state, manifest))
    return _loaded(run, export, epoch, Shape.INCREMENTAL_LINES, found, started)


def _loaded(
    run: Bootstrap,
    export: Export,
    epoch: Epoch,
    shape: Shape,
    found: list[tuple[ExportState, ExportManifest]],
    started: float,
) -> BaseResult:
    """Loads what is not loaded yet of these finished exports, and completes the base."""
    head = run.log.head(run.model)
    parts = sum(len(manifest.files) for _, manifest in found)
    items = sum(manifest.item_count for _, manifest in found)
    meter = Meter(run, parts, items, head.positions)
    for state, manifest in found:
        source = Part("base", "export", state.arn, "")
        todo = [
            file
            for file in manifest.files
            if not head.positions.get(replace(source, id=file.key), Position()).finished
        ]
        read_at = manifest.export_time or state.export_time
        loading = _Loading(run, export, epoch, shape, manifest.bucket, source, read_at, meter)
        _load(loading, batches_of(manifest, todo))

    def flush(*, state: str | None = None, at: datetime | None = None) -> None:
        if state is not None:
            run.log.commit(run.model, Commit(epoch, state=state, at=at))

    return _complete(run, flush, meter, epoch, parts, started)


def _finished_export(
    run: Bootstrap, export: Export, table: TableDescription, epoch: Epoch
) -> tuple[Epoch, ExportState]:
    """The epoch (its export noted in it) and the export's final state."""
    epoch = _planned(run, export, table, epoch)
    arn = epoch.detail.get("export_arn")
    if not arn:
        at = datetime.fromisoformat(epoch.detail["export_time"])
        token = _token(table, epoch)
        _reached(run, export, at)
        arn = retried(lambda: export.request(table, at, token), run.clock)
        epoch = _noted(run, epoch, export_arn=arn)
    return _ended(run, export, table, epoch, arn)


def _ended(
    run: Bootstrap, export: Export, table: TableDescription, epoch: Epoch, arn: str
) -> tuple[Epoch, ExportState]:
    """Waits for an export. A failed one is asked for anew by the next call."""
    for poll in range(EXPORT_POLLS_MAX):
        state = retried(lambda: export.state(arn), run.clock)
        if state.status == "COMPLETED":
            return epoch, state
        if state.status == "FAILED":
            failures = int(epoch.detail.get("failures", 0)) + 1
            exports = epoch.detail.get("exports", {})
            left = {number: each for number, each in exports.items() if each != arn}
            forgotten: dict[str, Any] = {"exports": left} if exports else {"export_arn": None}
            _noted(run, epoch, failures=failures, **forgotten)
            raise export.failed(state)
        run.progress(BaseProgress(run.model, 0, 0, 0, 0, table.item_count, 0.0, None))
        _pause(run, min(EXPORT_POLL_SECONDS, 1.0 + poll))
    raise Terminal(
        f"{run.model}: the export {arn} has not ended within a week.",
        "Look at it in the AWS console; then start the base again.",
    )


def _planned(run: Bootstrap, export: Export, table: TableDescription, epoch: Epoch) -> Epoch:
    """The epoch with the instant of its export, settled once and for all restarts."""
    if "export_time" in epoch.detail:
        return epoch
    earlier = run.log.head(run.model).epochs[:-1]
    return _noted(run, epoch, **_plan(run, export, earlier, epoch.stream_arn))


def _plan(
    run: Bootstrap, export: Export, earlier: Sequence[Epoch], stream_arn: str
) -> dict[str, str]:
    """The instant of an epoch's export, and before which it must not be."""
    latest = retried(export.latest_time, run.clock)
    begins = coverage_begin(earlier, stream_arn, run.clock.aws_now())
    at = whole_second(max(latest, begins))
    if adopted := export.adopted:
        at = retried(lambda: export.state(adopted), run.clock).export_time or at
    return {"not_before": begins.isoformat(), "export_time": at.isoformat()}


def _token(table: TableDescription, epoch: Epoch, number: int = 0) -> str:
    """The token of an epoch's export: a run killed right after the request asks for the same
    export again and not for a second one."""
    opened = epoch.opened_at.isoformat()
    name = f"{table.arn}/{table.table_id}/{opened}/{epoch.detail.get('failures', 0)}/{number}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _reached(run: Bootstrap, export: Export, at: datetime) -> None:
    """Waits until point-in-time recovery has reached `at`."""
    for _ in range(EXPORT_POLLS_MAX):
        behind = (at - retried(export.latest_time, run.clock)).total_seconds()
        if behind <= 0:
            return
        _pause(run, min(EXPORT_POLL_SECONDS, behind))
    raise Terminal(
        f"{run.model}: point-in-time recovery has not reached {at} within a week.",
        "Look at the table's backups in the AWS console.",
    )


def _windowed(run: Bootstrap, epoch: Epoch) -> Epoch:
    """The epoch with the windows of its exports, settled once and for all restarts: they end
    where the stream's coverage begins."""
    if "windows" in epoch.detail:
        return epoch
    begin = datetime.fromisoformat(epoch.detail["begin"])
    earlier = run.log.head(run.model).epochs[:-1]
    end = whole_second(coverage_begin(earlier, epoch.stream_arn, run.clock.aws_now()))
    cut = [[each.begin.isoformat(), each.end.isoformat()] for each in windows(begin, end)]
    return _noted(run, epoch, windows=cut, exports={})


def windows(begin: datetime, end: datetime) -> list[Window]:
    """Windows of 15 minutes to 24 hours, of about the same length, that cover from `begin` (or
    earlier) to `end`, both whole seconds."""
    begin = min(begin, end - SHORTEST_WINDOW)
    count = -((begin - end) // LONGEST_WINDOW)
    step = timedelta(seconds=math.ceil((end - begin).total_seconds() / count))
    edges = [min(begin + number * step, end) for number in range(count)] + [end]
    return [Window(*each) for each in itertools.pairwise(edges)]


def changes_begin(epoch: Epoch) -> datetime:
    """From when on an incremental epoch reads what changed."""
    planned = [window.begin for window in _windows(epoch)] if "windows" in epoch.detail else []
    return min([datetime.fromisoformat(epoch.detail["begin"]), *planned])


def _windows(epoch: Epoch) -> list[Window]:
    return [Window(*map(datetime.fromisoformat, each)) for each in epoch.detail["windows"]]


def _with_window_export(
    run: Bootstrap, export: Export, table: TableDescription, epoch: Epoch, number: int
) -> Epoch:
    """The epoch with the ARN of a window's export, requested if it is not yet."""
    exports = epoch.detail["exports"]
    if str(number) in exports:
        return epoch
    window = _windows(epoch)[number]
    _reached(run, export, window.end)
    token = _token(table, epoch, number)
    old_images = bool(epoch.detail["old_images"])
    arn = retried(
        lambda: export.request_changes(table, window, token, old_images=old_images), run.clock
    )
    return _noted(run, epoch, exports=exports | {str(number): arn})


def _pause(run: Bootstrap, seconds: float) -> None:
    if run.stop.is_set():
        raise Retryable(f"{run.model}: stopped while waiting for its export.", "Run again.")
    run.clock.sleep(seconds)


def _noted(run: Bootstrap, epoch: Epoch, **detail: object) -> Epoch:
    """The epoch with more noted in it. Raises Stale where another run has noted meanwhile."""
    noted = epoch.detail | detail
    run.log.commit(run.model, Commit(epoch, state=OPEN, at=run.clock.aws_now(), detail=noted))
    return replace(epoch, detail=noted)


def _check_export(
    model: str,
    epoch: Epoch,
    table: TableDescription,
    state: ExportState,
    manifest: ExportManifest,
) -> None:
    if manifest.table_id and table.table_id and manifest.table_id != table.table_id:
        raise Terminal(
            f"{model}: the export {state.arn} is of a table with the id {manifest.table_id},"
            f" but {table.name} has {table.table_id}: the table was recreated since.",
            "Remove base.export_arn, so that a new export is requested.",
        )
    if manifest.window is not None:
        raise Terminal(
            f"{model}: the export {state.arn} is an incremental one, of {manifest.window.begin} to"
            f" {manifest.window.end}; expected a full export.",
            "Name a full export in base.export_arn, or leave it out.",
        )
    taken = manifest.export_time or state.export_time
    not_before = datetime.fromisoformat(epoch.detail["not_before"])
    if taken is not None and taken < not_before:
        raise Terminal(
            f"{model}: the export {state.arn} is of {taken:%Y-%m-%d %H:%M:%S} UTC, but the"
            f" stream's coverage begins only at {not_before:%Y-%m-%d %H:%M:%S} UTC: changes"
            " between the two would be lost.",
            "Remove base.export_arn, so that a new export is requested.",
        )


def _check_window(
    model: str,
    table: TableDescription,
    state: ExportState,
    manifest: ExportManifest,
    window: Window,
) -> None:
    if manifest.window != window or (manifest.table_id or table.table_id) != table.table_id:
        raise Terminal(
            f"{model}: the export {state.arn} is of table {manifest.table_id}, {manifest.window};"
            f" expected {table.table_id}, {window}.",
            f"Repair by a full base: `tailrace base {model} --restart`.",
        )


def batches_of(manifest: ExportManifest, files: Sequence[ExportFile]) -> list[list[ExportFile]]:
    """Files of an export in groups that are loaded in one commit each: enough items to be quick,
    few enough, and by their mean size small enough, to bound memory and what a crash repeats."""
    most_items = EXPORT_BATCH_ITEMS
    if manifest.bytes:
        by_size = EXPORT_BATCH_BYTES * manifest.item_count // manifest.bytes
        most_items = max(1, min(most_items, by_size))  # else empty files would be a commit each
    return groups_of(files, lambda file: file.items, most_items, EXPORT_BATCH_FILES)


@dataclass(frozen=True)
class _Loading:
    """What loading the files of one export needs."""

    run: Bootstrap
    export: Export
    epoch: Epoch
    shape: Shape
    bucket: str
    source: Part
    read_at: datetime | None
    meter: Meter


def _load(loading: _Loading, batches: list[list[ExportFile]]) -> None:
    with closing(fetched(loading.run, loading.export, loading.bucket, batches)) as coming:
        for batch, contents in coming:
            _load_batch(loading, batch, contents)
            size = sum(map(_bytes, contents))
            loading.meter.add(sum(file.items for file in batch), size, parts=len(batch))


def fetched(
    run: Bootstrap, export: Export, bucket: str, batches: list[list[ExportFile]]
) -> Generator[tuple[list[ExportFile], list[list[Lines]]], None, None]:
    """Batch after batch with what its files hold (tailrace.capture.ahead); ends early where the run
    is to stop."""

    def fetch(file: ExportFile) -> list[Lines]:
        return retried(lambda: export.fetch(bucket, file, run.folder), run.clock)

    return read_ahead(batches, fetch, DOWNLOADS_AT_ONCE, run.stop.is_set)


def _load_batch(loading: _Loading, batch: list[ExportFile], contents: list[list[Lines]]) -> None:
    parts = tuple(
        PartProgress(
            part=replace(loading.source, id=file.key),
            position_from=None,
            position_to=file.md5,
            finished=True,
            rows=file.items,
            bytes=_bytes(lines),
        )
        for file, lines in zip(batch, contents, strict=True)
    )
    rows = sum(file.items for file in batch)
    lines = tuple(chain.from_iterable(contents))
    staged = Staged(loading.shape, lines, rows, loading.read_at) if rows else None
    loading.run.log.commit(loading.run.model, Commit(loading.epoch, parts, staged))


def _bytes(lines: list[Lines]) -> int:
    return sum(each.bytes for each in lines)


# ----------------------------------------------------------------------------------- progress


class Meter:
    """Counts what a base has read and tells, at most once a second. Thread-safe."""

    def __init__(
        self, run: Bootstrap, parts: int, expected: int, positions: dict[Part, Position]
    ) -> None:
        self._run = run
        self._parts = parts
        self._expected = expected
        self._started = run.clock.monotonic()
        self._shown = self._started
        self._lock = threading.Lock()
        self.items = 0
        self.bytes = 0
        self.parts_done = sum(
            position.finished for part, position in positions.items() if part.kind == "base"
        )

    def add(self, items: int, size: int, *, parts: int) -> None:
        """Notes what was read."""
        with self._lock:
            self.items += items
            self.bytes += size
            self.parts_done += parts
        self.show()

    def show(self, *, last: bool = False) -> None:
        """Reports progress, unless it just did."""
        now = self._run.clock.monotonic()
        if not last and now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        rate = self.items / max(now - self._started, 1e-6)
        left = max(self._expected - self.items, 0) / rate if rate and self._expected else None
        self._run.progress(
            BaseProgress(
                model=self._run.model,
                items=self.items,
                bytes=self.bytes,
                parts_done=self.parts_done,
                parts_total=self._parts,
                expected_items=self._expected,
                rate=rate,
                seconds_left=0.0 if last else left,
            )
        )

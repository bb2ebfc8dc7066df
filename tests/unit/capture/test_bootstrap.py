"""An epoch's base: resumed where it stood, never older than the coverage, never corrupt."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tailrace.capture import bootstrap
from tailrace.capture.bootstrap import (
    Bootstrap,
    coverage_begin,
    open_export_epoch,
    open_scan_epoch,
    read_export,
    read_scan,
)
from tailrace.capture.coverage import is_older_than_base
from tailrace.errors import CorruptExport, Retryable, Stale, Terminal
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    BaseProgress,
    Commit,
    Epoch,
    ExportFile,
    ExportManifest,
    Part,
    PartProgress,
    Shard,
)
from tests.simulation.memory_log import MemoryLog, Store
from tests.unit.capture.fakes import (
    NOW,
    STREAM,
    TABLE,
    FakeClock,
    FakeExport,
    FakeScan,
    Killed,
    dies_at,
    landed,
    open_log,
    reach,
)

SHARD = Part("stream", "dynamodb_streams", STREAM, "shard-1")


@pytest.fixture(autouse=True)
def every_page_and_file_is_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.capture.stage.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("tailrace.capture.bootstrap.EXPORT_BATCH_FILES", 1)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Bootstrap]:
    """Starts a process on a store: with a hook, one that dies somewhere."""

    def start(
        store: Store,
        hook: Callable[[str], None] = lambda moment: None,
        progress: Callable[[BaseProgress], None] = lambda progress: None,
    ) -> Bootstrap:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Bootstrap(MemoryLog(store, hook), FakeClock(), "orders", folder, progress)

    return start


Start = Callable[..., Bootstrap]


def state(store: Store) -> str:
    return list(store.newest().values())[-1].state


def scan_epoch(run: Bootstrap, segments: int = 3, *, consistent: bool = True) -> None:
    open_scan_epoch(run, TABLE, segments, consistent)


# ---------------------------------------------------------------------------------------- scan


def test_every_segment_lands_once_and_the_base_is_complete(start: Start) -> None:
    store = Store()
    run = start(store)
    scan_epoch(run)
    result = read_scan(run, FakeScan(10), TABLE, None)
    assert sorted(landed(store)) == sorted(f"i{number}" for number in range(10))
    assert (result.state, result.items, result.parts) == (BASE_COMPLETE, 10, 3)
    assert state(store) == BASE_COMPLETE


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_killed_scan_goes_on_from_each_segments_last_commit(
    start: Start, moment: str, number: int
) -> None:
    store = Store()
    scan_epoch(start(store))
    with pytest.raises(Killed):
        read_scan(start(store, dies_at(moment, number)), FakeScan(12), TABLE, None)
    before = len(landed(store))
    scan = FakeScan(12)
    result = read_scan(start(store), scan, TABLE, None)
    assert sorted(landed(store)) == sorted(f"i{number}" for number in range(12))
    assert (result.state, result.items) == (BASE_COMPLETE, 12 - before)
    assert len(scan.pages) == 12 - before


def test_the_segment_count_is_the_one_the_epoch_was_opened_with(start: Start) -> None:
    store = Store()
    scan_epoch(start(store), segments=5)
    with pytest.raises(Killed):
        read_scan(start(store, dies_at("after commit", 3)), FakeScan(12), TABLE, None)
    result = read_scan(start(store), FakeScan(12), TABLE, None)
    assert result.parts == 5
    assert sorted(landed(store)) == sorted(f"i{number}" for number in range(12))


def test_an_empty_table_has_a_complete_base(start: Start) -> None:
    store = Store()
    run = start(store)
    scan_epoch(run)
    assert read_scan(run, FakeScan(0), TABLE, None).state == BASE_COMPLETE


@pytest.mark.parametrize(("consistent", "waited"), [(False, 10.0), (True, 0.0)])
def test_a_scan_that_may_be_a_second_stale_starts_a_margin_after_its_epoch(
    start: Start, consistent: bool, waited: float
) -> None:
    store = Store()
    run = start(store)
    scan_epoch(run, consistent=consistent)
    began: list[float] = []
    scan = FakeScan(1)
    scan.before_page = lambda page: began.append(run.clock.monotonic())
    read_scan(run, scan, TABLE, None)
    assert began[0] == waited


def test_throttled_pages_are_read_again(start: Start) -> None:
    store = Store()
    run = start(store)
    scan_epoch(run, segments=1)
    scan = FakeScan(3)
    refusals = [Retryable("ProvisionedThroughputExceededException")] * 5

    def throttle(page: int) -> None:
        if page == 2 and refusals:
            raise refusals.pop()

    scan.before_page = throttle
    assert read_scan(run, scan, TABLE, None).items == 3
    assert sorted(landed(store)) == ["i0", "i1", "i2"]


def test_the_scan_holds_its_read_capacity(start: Start) -> None:
    run = start(Store())
    scan_epoch(run, segments=1)
    read_scan(run, FakeScan(20), TABLE, max_rcu=10.0)
    assert run.clock.monotonic() == pytest.approx(19 * 5 / 10.0)


def test_a_scan_of_two_runs_at_once_lands_once(start: Start) -> None:
    store = Store()
    scan_epoch(start(store), segments=1)
    scan = FakeScan(4)

    def other(page: int) -> None:
        if page == 2:
            scan.before_page = lambda page: None
            read_scan(start(store), FakeScan(4), TABLE, None)

    scan.before_page = other
    with pytest.raises(Stale):
        read_scan(start(store), scan, TABLE, None)
    assert sorted(landed(store)) == ["i0", "i1", "i2", "i3"]


def test_a_take_over_is_not_opened_behind_an_epoch_that_went_live_meanwhile(start: Start) -> None:
    """It would not know that what it tells has to wait."""
    log, store = open_log(source="kinesis")
    reach(log, BASE_COMPLETE)

    def goes_live(moment: str) -> None:
        if state(store) == BASE_COMPLETE:
            reach(log, LIVE)

    other = replace(TABLE, stream_arn="arn:aws:dynamodb:us-east-1:1:table/orders/stream/other")
    with pytest.raises(Stale):
        open_scan_epoch(start(store, goes_live), other, 1, True)
    opened = open_scan_epoch(start(store), other, 1, True)
    assert opened.detail["beside"] == 1
    assert opened.overlaps


def test_a_scan_without_an_open_epoch_is_refused(start: Start) -> None:
    with pytest.raises(Terminal, match="no open epoch"):
        read_scan(start(Store()), FakeScan(1), TABLE, None)


def test_progress_ends_with_everything_done(start: Start) -> None:
    told: list[BaseProgress] = []
    run = start(Store(), progress=told.append)
    scan_epoch(run)
    read_scan(run, FakeScan(6), TABLE, None)
    last = told[-1]
    assert (last.items, last.parts_done, last.parts_total, last.seconds_left) == (6, 3, 3, 0.0)


# -------------------------------------------------------------------------------------- export


@pytest.fixture
def export(tmp_path: Path) -> FakeExport:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    return FakeExport(bucket, [["a", "b"], ["c"], [], ["d", "e", "f"]])


def exported(start: Start, export: FakeExport, store: Store | None = None) -> Store:
    store = store or Store()
    open_export_epoch(start(store), TABLE, export)
    return store


def test_each_file_of_an_export_lands_once(start: Start, export: FakeExport) -> None:
    store = exported(start, export)
    result = read_export(start(store), export, TABLE)
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]
    assert (result.state, result.items, result.parts) == (BASE_COMPLETE, 6, 4)


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_killed_load_goes_on_and_asks_for_one_export_only(
    start: Start, export: FakeExport, moment: str, number: int
) -> None:
    store = exported(start, export)
    try:
        read_export(start(store, dies_at(moment, number)), export, TABLE)
    except Killed:
        if state(store) == OPEN:
            read_export(start(store), export, TABLE)
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]
    assert state(store) == BASE_COMPLETE
    assert len(export.requests) == 1


def test_a_run_killed_right_after_its_request_asks_for_the_same_export_again(
    start: Start, export: FakeExport
) -> None:
    def die() -> None:
        export.after_request = lambda: None
        raise Killed

    export.after_request = die
    store = exported(start, export)
    with pytest.raises(Killed):
        read_export(start(store), export, TABLE)
    read_export(start(store), export, TABLE)
    assert len(export.requests) == 1
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]


def test_a_failed_export_says_why_and_the_next_call_requests_anew(
    start: Start, export: FakeExport
) -> None:
    export.failure = "S3AccessDenied: no"
    store = exported(start, export)
    with pytest.raises(Terminal, match="S3AccessDenied: no"):
        read_export(start(store), export, TABLE)
    assert (landed(store), state(store)) == ([], OPEN)
    export.failure = None
    read_export(start(store), export, TABLE)
    assert len(export.requests) == 2
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]


def test_two_runs_that_plan_one_export_settle_on_one(start: Start, export: FakeExport) -> None:
    store = exported(start, export)
    ran: list[int] = []

    def meanwhile(moment: str) -> None:
        if not ran:
            ran.append(1)
            read_export(start(store), export, TABLE)

    with pytest.raises(Stale):
        read_export(start(store, meanwhile), export, TABLE)
    assert len(export.requests) == 1
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]


def test_a_re_bootstraps_export_is_not_older_than_its_epoch(
    start: Start, export: FakeExport
) -> None:
    store = exported(start, export)
    MemoryLog(store).commit(
        "orders",
        Commit(store.newest()[1], (PartProgress(SHARD, None, "1", False, 0, 0),)),
    )
    exported(start, export, store)
    opened = store.newest()[2].opened_at
    read_export(start(store), export, TABLE)
    (at,) = export.requests.values()
    assert at >= opened
    assert at.microsecond == 0


@pytest.mark.parametrize(
    ("enabled", "followed", "minutes"),
    [
        pytest.param("2026-11-01T11:30:00.000", False, -29, id="enabled half an hour ago"),
        pytest.param("2026-11-01T12:00:00.000", False, 0, id="enabled now"),
        pytest.param("2026-10-01T00:00:00.000", True, 1 / 60, id="followed by the ledger"),
        pytest.param("stream-of-a-stranger", False, 0, id="an ARN of another form"),
    ],
)
def test_where_the_streams_coverage_begins(enabled: str, followed: bool, minutes: float) -> None:
    arn = f"arn:aws:dynamodb:us-east-1:1:table/orders/stream/{enabled}"
    epoch = Epoch(1, "full", "scan", OPEN, "id-1", arn, NOW, NOW)
    found = coverage_begin([epoch] if followed else [], arn, NOW)
    assert found == NOW + timedelta(minutes=minutes)


def test_an_old_streams_coverage_does_not_begin_before_its_retention() -> None:
    assert NOW - timedelta(hours=24) < coverage_begin([], STREAM, NOW) <= NOW


def adopted(export: FakeExport, at: datetime) -> None:
    export.adopted = "arn:export/by-hand"
    export.time = at


def test_an_adopted_export_is_loaded_and_none_requested(start: Start, export: FakeExport) -> None:
    adopted(export, NOW - timedelta(minutes=1))
    store = exported(start, export)
    read_export(start(store), export, TABLE)
    assert export.requests == {}
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]
    assert store.newest()[1].detail["export_time"] == "2026-11-01T11:59:00+00:00"


@pytest.mark.parametrize(
    ("child_minutes_old", "may_have_lost"), [(62, False), (60, True), (30, True), (None, True)]
)
def test_what_a_shard_loses_that_closed_before_the_base_is_older_than_it(
    start: Start, export: FakeExport, child_minutes_old: int | None, may_have_lost: bool
) -> None:
    adopted(export, NOW - timedelta(hours=1))
    child = "shardId-0"
    if child_minutes_old is not None:
        born = NOW - timedelta(minutes=child_minutes_old)
        child = f"shardId-{born.timestamp() * 1000:020.0f}-0a1b2c3d"
    store = Store()
    shards = [Shard("shard-1", None, closed=True), Shard(child, "shard-1", closed=False)]
    open_export_epoch(start(store), TABLE, export, shards)
    assert is_older_than_base(start(store).log.head("orders"), SHARD) != may_have_lost


def test_an_adopted_export_from_before_the_coverage_is_refused(
    start: Start, export: FakeExport
) -> None:
    adopted(export, NOW - timedelta(hours=24))
    store = exported(start, export)
    with pytest.raises(Terminal, match="changes between the two would be lost"):
        read_export(start(store), export, TABLE)
    assert (landed(store), state(store)) == ([], OPEN)


def test_an_export_of_a_table_that_was_recreated_is_refused(
    start: Start, export: FakeExport
) -> None:
    adopted(export, NOW)
    export.table_id = "id-of-its-predecessor"
    store = exported(start, export)
    with pytest.raises(Terminal, match="recreated"):
        read_export(start(store), export, TABLE)
    assert landed(store) == []


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_item_less(content: bytes) -> bytes:
    return gzip.compress(b"".join(gzip.decompress(content).splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(truncate, "not a whole gzip file", id="truncated"),
        pytest.param(one_item_less, "holds 2 items, but its manifest counts 3", id="a line short"),
        pytest.param(lambda content: b"no gzip at all", "gzip", id="something else"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_of_it_lands(
    start: Start, export: FakeExport, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = export.folder / "f3.json.gz"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    export.files = tuple(replace(file, md5=None) for file in export.files)
    store = exported(start, export)
    with pytest.raises(CorruptExport, match=said) as refused:
        read_export(start(store), export, TABLE)
    assert "f3.json.gz" in str(refused.value)
    assert landed(store) == ["a", "b", "c"]
    assert state(store) == OPEN
    path.write_bytes(whole)
    read_export(start(store), export, TABLE)
    assert landed(store) == ["a", "b", "c", "d", "e", "f"]


def test_files_are_grouped_by_items_and_by_number_and_the_first_group_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_FILES", 3)
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_ITEMS", 10)
    files = [
        ExportFile(f"f{number}", items, None)
        for number, items in enumerate([1, 4, 4, 4, 1, 25, 0, 0, 0, 0])
    ]
    assert grouped(files) == [[1], [4, 4, 4], [1, 25], [0, 0, 0], [0]]


@pytest.mark.parametrize(("size", "batches"), [(0, [1, 4]), (50, [1, 4]), (500, [1, 2, 2])])
def test_the_larger_the_items_the_fewer_make_a_batch(
    monkeypatch: pytest.MonkeyPatch, size: int, batches: list[int]
) -> None:
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_FILES", 9)
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_ITEMS", 40)
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_BYTES", 200)
    files = [ExportFile(f"f{number}", 10, None) for number in range(5)]
    assert [len(batch) for batch in grouped(files, size)] == batches


def test_files_without_items_are_one_batch_however_large_the_export_is_billed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "EXPORT_BATCH_FILES", 9)
    files = [ExportFile(f"f{number}", 0, None) for number in range(5)]
    assert grouped(files, size=10_000_000) == [[0, 0, 0, 0, 0]]


def grouped(files: list[ExportFile], size: int = 0) -> list[list[int]]:
    items = sum(file.items for file in files)
    manifest = ExportManifest("bucket", None, None, items, tuple(files), bytes=size)
    return [[file.items for file in batch] for batch in bootstrap.batches_of(manifest, files)]

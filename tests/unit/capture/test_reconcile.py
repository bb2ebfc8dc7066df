"""The order of a reconciliation: read, settle, compare; over ports that are played."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailrace.capture.bootstrap import SCAN_MARGIN_SECONDS, Bootstrap
from tailrace.capture.reconcile import (
    FRUITLESS_PASSES_MAX,
    SLACK,
    Snapshot,
    read_export,
    read_sample,
    read_scan,
    reconcile,
    require_live,
    require_same,
)
from tailrace.errors import Retryable, Stale, TailraceError, Terminal
from tailrace.model import (
    BASE_COMPLETE,
    LIVE,
    OPEN,
    BaseProgress,
    Commit,
    Differences,
    Epoch,
    Gap,
    Head,
    ItemPage,
    PassRecord,
    Reconciliation,
    ScanPage,
    Staged,
)
from tests.simulation.memory_log import MemoryLog
from tests.unit.capture.fakes import (
    NOW,
    STREAM,
    TABLE,
    FakeClock,
    FakeExport,
    FakeScan,
    open_log,
    reach,
)

EQUAL = Differences(1, 0, 0, 0, None, 0, ())
Span = tuple[datetime, datetime]


class FakeComparison:
    """Writes down what it is given."""

    def __init__(self, keys: Sequence[str] = (), items: int = 0) -> None:
        self.keys, self.items = list(keys), items
        self.added: list[tuple[list[str], Span]] = []
        self.looked_up: list[tuple[list[str], list[str], Span]] = []
        self.compared: list[tuple[Head, Span | None]] = []

    def add(self, staged: Staged, began: datetime, ended: datetime) -> None:
        self.added.append((_lines(staged), (began, ended)))

    def look_up(self, keys: Sequence[str], found: Staged, began: datetime, ended: datetime) -> None:
        self.looked_up.append((list(keys), _lines(found), (began, ended)))

    def sample(self, head: Head, count: int) -> tuple[list[str], int]:
        return self.keys[:count], self.items

    def differences(self, head: Head, whole: Span | None, before: int, shown: int) -> Differences:
        assert before < head.batch
        self.compared.append((head, whole))
        return EQUAL


def _lines(staged: Staged) -> list[str]:
    lines = [line.decode() for lines in staged.texts for line in lines]
    assert len(lines) == staged.rows
    return lines


@pytest.fixture
def run(tmp_path: Path) -> Bootstrap:
    """A live table, at rest; its clock stands a minute after it went live."""
    log, _ = open_log()
    reach(log, BASE_COMPLETE, LIVE)
    clock = FakeClock()
    clock.elapsed = 60.0
    return Bootstrap(log, clock, "orders", tmp_path)


def elapsed(run: Bootstrap) -> float:
    return (run.clock.aws_now() - NOW).total_seconds()


def proven(run: Bootstrap, seconds: float | None = None) -> int:
    """A complete pass that began now, or `seconds` after NOW."""
    at = run.clock.aws_now() if seconds is None else NOW + timedelta(seconds=seconds)
    epoch = run.log.head("orders").epoch
    assert epoch is not None
    run.log.commit("orders", Commit(epoch, pass_record=PassRecord("p", at, at, True, 1, 1, 1)))
    return 0


def reconciled(
    run: Bootstrap,
    comparison: FakeComparison,
    drain: Callable[[], int],
    seconds: float = 10.0,
    **more: Any,
) -> Reconciliation:
    """A reconciliation whose reading takes `seconds`."""

    def read(head: Head) -> Snapshot:
        began_at = run.clock.aws_now()
        run.clock.sleep(seconds)
        return Snapshot(began_at, run.clock.aws_now(), True, 5.0)

    return reconcile(run, comparison, "scan", read, drain, shown=9, **more)


# ------------------------------------------------------------------------------------ settling


def test_a_reading_that_took_longer_than_the_log_keeps_its_rows_is_not_compared(
    run: Bootstrap,
) -> None:
    comparison = FakeComparison()
    two_days = timedelta(days=2)
    with pytest.raises(Terminal, match="took 49 hours, but its log keeps 48: "):
        reconciled(run, comparison, lambda: proven(run), seconds=49 * 3600, kept=two_days)
    assert comparison.compared == []
    reconciled(run, comparison, lambda: proven(run), seconds=40 * 3600, kept=two_days)
    assert len(comparison.compared) == 1


def test_it_is_compared_once_a_pass_is_complete_that_began_after_the_reading(
    run: Bootstrap,
) -> None:
    comparison = FakeComparison()
    result = reconciled(run, comparison, lambda: proven(run))
    [(head, whole)] = comparison.compared
    began, ended = NOW + timedelta(seconds=60), NOW + timedelta(seconds=70)
    assert whole == (began - SLACK, ended + SLACK)
    assert head.last_proof is not None
    assert head.last_proof.began_at >= ended + SLACK
    assert (result.began_at, result.ended_at, result.capacity_units) == (began, ended, 5.0)
    assert result.is_equal


def test_passes_that_began_too_early_or_were_not_complete_do_not_count(run: Bootstrap) -> None:
    drains = iter([lambda: proven(run, 60), lambda: 1000, lambda: proven(run)])
    seen: list[float] = []

    def drain() -> int:
        seen.append(elapsed(run))
        return next(drains)()

    reconciled(run, FakeComparison(), drain)
    assert len(seen) == 3
    assert min(seen) >= 72


def test_where_a_change_may_come_late_that_long_is_waited_for(run: Bootstrap) -> None:
    """A pass of before, though it began after the reading, had not met all of it."""

    def drain() -> int:
        drained.append(elapsed(run))
        return proven(run)

    drained: list[float] = []
    assert reconciled(run, FakeComparison(), drain, late=timedelta(minutes=20)).is_equal
    assert len(drained) == 1
    assert drained[0] >= 70 + 1200


def test_a_pass_of_somebody_else_is_as_good(run: Bootstrap) -> None:
    def drain() -> int:
        proven(run)
        raise Stale("another run was first")

    assert reconciled(run, FakeComparison(), drain).is_equal


def test_who_is_patient_waits_for_the_pass_of_somebody_else(run: Bootstrap) -> None:
    sleep = run.clock.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if elapsed(run) > 90:
            proven(run)

    run.clock.sleep = sleeping  # type: ignore[method-assign]

    def drain() -> int:
        raise AssertionError("it was to wait")

    reconciled(run, FakeComparison(), drain, patience_seconds=90.0)
    assert 90 < elapsed(run) < 95


def test_passes_that_come_to_no_end_are_given_up(run: Bootstrap) -> None:
    passes: list[int] = []
    comparison = FakeComparison()
    with pytest.raises(Retryable, match="has reached the tip") as refused:
        reconciled(run, comparison, lambda: passes.append(1) or 0)
    assert len(passes) == FRUITLESS_PASSES_MAX + 1
    assert "tailrace status" in refused.value.remedy
    assert not comparison.compared


def test_what_draining_raises_is_raised(run: Bootstrap) -> None:
    def drain() -> int:
        raise Terminal("the stream is gone")

    with pytest.raises(Terminal, match="the stream is gone"):
        reconciled(run, FakeComparison(), drain)


def test_it_starts_over_where_another_epoch_went_live(run: Bootstrap) -> None:
    def drain() -> int:
        epoch = Epoch(2, "full", "scan", OPEN, "id-1", STREAM, NOW, NOW, {})
        run.log.open_epoch("orders", TABLE, epoch)
        reach(run.log, BASE_COMPLETE, LIVE)  # type: ignore[arg-type]
        return proven(run)

    with pytest.raises(Retryable, match="another epoch went live"):
        reconciled(run, FakeComparison(), drain)


def test_a_new_epoch_that_is_only_open_does_not_matter(run: Bootstrap) -> None:
    def drain() -> int:
        epoch = Epoch(2, "full", "scan", OPEN, "id-1", STREAM, NOW, NOW, {})
        run.log.open_epoch("orders", TABLE, epoch)
        return proven(run)

    assert reconciled(run, FakeComparison(), drain).is_equal


def test_the_reading_begins_after_the_epoch_went_live(run: Bootstrap) -> None:
    run.clock.elapsed = 0.0  # type: ignore[attr-defined]
    result = reconciled(run, FakeComparison(), lambda: proven(run))
    assert result.began_at >= NOW + SLACK


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("states", "said"),
    [((), "epoch 1 is not live yet, but open"), ((BASE_COMPLETE,), "but base_complete")],
)
def test_a_table_that_is_not_live_is_refused_with_what_to_do(
    run: Bootstrap, states: tuple[str, ...], said: str
) -> None:
    log, _ = open_log()
    reach(log, *states)
    with pytest.raises(Terminal, match=said) as refused:
        reconciled(replace(run, log=log), FakeComparison(), lambda: 0)
    assert "tailrace sync --table orders --until-caught-up" in refused.value.remedy


def test_a_table_without_an_epoch_is_refused_with_what_to_do(run: Bootstrap) -> None:
    from tests.simulation.memory_log import Store

    with pytest.raises(Terminal, match="has no epoch yet") as refused:
        reconciled(replace(run, log=MemoryLog(Store())), FakeComparison(), lambda: 0)
    assert "materialize orders/base" in refused.value.remedy


def test_a_table_with_a_gap_is_refused_before_and_after_it_is_read(run: Bootstrap) -> None:
    def lose() -> None:
        epoch = run.log.head("orders").epoch
        assert epoch is not None
        now = run.clock.aws_now()
        gap = Gap(now - timedelta(seconds=5), now, now, "an outage")
        run.log.commit("orders", Commit(epoch, gap=gap))

    def drain() -> int:
        lose()
        return proven(run)

    comparison = FakeComparison()
    for _ in range(2):
        with pytest.raises(Terminal, match="may be missing: an outage") as refused:
            reconciled(run, comparison, drain)
        assert "tailrace repair orders" in refused.value.remedy
    assert not comparison.compared


def test_a_table_that_is_another_one_is_refused(run: Bootstrap) -> None:
    live = require_live("orders", run.log.head("orders"))
    require_same("orders", live, TABLE)
    for other in (replace(TABLE, table_id="id-2"), replace(TABLE, stream_arn=None)):
        with pytest.raises(Terminal, match="was replaced"):
            require_same("orders", live, other)


# ---------------------------------------------------------------------------------------- scan


def test_a_scan_reads_every_segment_page_by_page_each_in_its_own_span(run: Bootstrap) -> None:
    scan, comparison = FakeScan(6), FakeComparison()

    def page(number: int) -> None:
        run.clock.sleep(1.0)

    scan.before_page = page
    ask = scan.page
    scan.page = lambda *place: replace(ask(*place), read_at=run.clock.aws_now())  # type: ignore[method-assign]
    snapshot = read_scan(run, scan, comparison, TABLE, 1, None, consistent=True)
    assert [json.loads(line)["pk"]["S"] for [line], _ in comparison.added] == [
        f"i{number}" for number in range(6)
    ]
    starts = [NOW + timedelta(seconds=60 + number) for number in range(6)]
    assert [span for _, span in comparison.added] == [
        (at - SLACK, at + timedelta(seconds=1) + SLACK) for at in starts
    ]
    assert snapshot == Snapshot(starts[0], starts[-1] + timedelta(seconds=1), True, 30.0)


def test_what_is_not_read_consistently_may_be_older(run: Bootstrap) -> None:
    comparison = FakeComparison()
    snapshot = read_scan(run, FakeScan(2), comparison, TABLE, 2, None, consistent=False)
    margin = timedelta(seconds=SCAN_MARGIN_SECONDS)
    assert snapshot.began_at == NOW + timedelta(seconds=60) - margin
    assert {began for _, (began, _) in comparison.added} == {snapshot.began_at - SLACK}


def test_a_scan_keeps_to_its_capacity_and_tells_its_progress(run: Bootstrap) -> None:
    told: list[BaseProgress] = []
    run = replace(run, progress=told.append)
    read_scan(run, FakeScan(10), FakeComparison(), TABLE, 2, 2.0, consistent=True)
    assert elapsed(run) >= 60 + (10 - 2) * 5.0 / 2.0
    assert (told[-1].items, told[-1].parts_done, told[-1].parts_total) == (10, 2, 2)


def test_a_reading_that_is_stopped_says_so(run: Bootstrap) -> None:
    run.stop.set()
    with pytest.raises(Retryable, match="stopped"):
        read_scan(run, FakeScan(3), FakeComparison(), TABLE, 1, None, consistent=True)


# -------------------------------------------------------------------------------------- export


def exported(run: Bootstrap, export: FakeExport, comparison: FakeComparison) -> Snapshot:
    return read_export(run, export, comparison, run.log.head("orders"), TABLE)


def test_an_export_is_read_as_of_its_own_instant(run: Bootstrap, tmp_path: Path) -> None:
    export = FakeExport(tmp_path, [["a", "b"], [], ["c"]])
    run = replace(run, folder=tmp_path / "scratch")
    run.folder.mkdir()
    comparison = FakeComparison()
    snapshot = exported(run, export, comparison)
    [requested_at] = export.requests.values()
    lines = [f'{{"pk":{{"S":"{key}"}}}}' for key in "abc"]
    assert requested_at > NOW + SLACK
    assert snapshot == Snapshot(requested_at, requested_at, True)
    assert comparison.added == [(lines, (requested_at - SLACK, requested_at + SLACK))]
    assert list(run.folder.iterdir()) == []


def test_each_reconciliation_requests_an_export_of_its_own(run: Bootstrap, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    run = replace(run, folder=tmp_path / "scratch")
    export = FakeExport(tmp_path, [["a"]])
    for _ in range(2):
        exported(run, export, FakeComparison())
    assert len(export.requests) == 2


def _other_table(export: FakeExport) -> None:
    export.table_id = "id-2"


def _failure(export: FakeExport) -> None:
    export.failure = "S3AccessDenied: no"


@pytest.mark.parametrize(
    ("break_it", "said"), [(_other_table, "it was recreated meanwhile"), (_failure, "failed")]
)
def test_an_export_that_is_of_no_use_is_refused(
    run: Bootstrap, tmp_path: Path, break_it: Callable[[FakeExport], None], said: str
) -> None:
    export = FakeExport(tmp_path, [["a"]])
    break_it(export)
    with pytest.raises(TailraceError, match=said):
        exported(run, export, FakeComparison())


# -------------------------------------------------------------------------------------- sample


class FakeSample:
    """A table of numbered items; `answers` is how many keys one call answers."""

    def __init__(self, run: Bootstrap, items: int, answers: int = 100) -> None:
        self.run, self.numbers, self.answers = run, range(items), answers
        self.pages: list[tuple[int, int, str | None]] = []
        self.asked: list[int] = []

    def page(
        self, segment: int, segments: int, start: str | None, limit: int | None = None
    ) -> ScanPage:
        assert limit is not None
        self.pages.append((segment, segments, start))
        own = [each for each in self.numbers if each % segments == segment]
        at = int(start or 0)
        lines = b"".join(f"{each}\n".encode() for each in own[at : at + limit])
        more = str(at + limit) if at + limit < len(own) else None
        count = len(own[at : at + limit])
        return ScanPage(lines, count, more, 2.0, self.run.clock.aws_now())

    def items(self, keys: Sequence[str]) -> ItemPage:
        assert len(keys) <= 100
        self.run.clock.sleep(1.0)
        self.asked.append(len(keys))
        now = keys[: self.answers]
        found = [key for key in now if int(key) in self.numbers]
        lines = "".join(f"{key}\n" for key in found).encode()
        return ItemPage(lines, len(found), tuple(keys[self.answers :]), 1.0 * len(now))


def test_a_sample_draws_items_of_random_places_and_looks_up_keys(run: Bootstrap) -> None:
    source = FakeSample(run, 100_000)
    comparison = FakeComparison([str(number) for number in range(99_900, 100_100)], 100_000)
    snapshot = read_sample(run, source, comparison, run.log.head("orders"), 200, None)
    drawn = [line for lines, _ in comparison.added for line in lines]
    assert len(set(drawn)) == len(drawn) == 200
    assert len({segment for segment, _, _ in source.pages}) == 4
    assert [(len(keys), len(found)) for keys, found, _ in comparison.looked_up] == [
        (100, 100),
        (100, 0),
    ]
    began = NOW + timedelta(seconds=60)
    assert comparison.looked_up[0][2] == (began - SLACK, began + timedelta(seconds=1) + SLACK)
    assert snapshot == Snapshot(began, began + timedelta(seconds=2), False, 4 * 2.0 + 200.0)


def test_a_sample_of_a_small_table_is_the_whole_of_it(run: Bootstrap) -> None:
    source = FakeSample(run, 230)
    comparison = FakeComparison([], 200)
    read_sample(run, source, comparison, run.log.head("orders"), 1000, None)
    assert sum(len(lines) for lines, _ in comparison.added) == 230


def test_keys_that_aws_leaves_are_asked_for_again_within_one_span(run: Bootstrap) -> None:
    source = FakeSample(run, 0, answers=40)
    comparison = FakeComparison([str(number) for number in range(100)])
    read_sample(run, source, comparison, run.log.head("orders"), 100, None)
    assert source.asked == [100, 60, 20]
    [(keys, found, (began, ended))] = comparison.looked_up
    assert (len(keys), found) == (100, [])
    assert ended - began >= timedelta(seconds=3) + 2 * SLACK


def test_keys_that_aws_never_answers_for_are_a_failure(run: Bootstrap) -> None:
    source = FakeSample(run, 0, answers=0)
    with pytest.raises(Retryable, match="left 3 keys unprocessed"):
        read_sample(run, source, FakeComparison(["1", "2", "3"]), Head(), 3, None)


def test_a_sample_keeps_to_its_capacity(run: Bootstrap) -> None:
    source = FakeSample(run, 1000)
    comparison = FakeComparison([str(number) for number in range(200)], 1000)
    read_sample(run, source, comparison, run.log.head("orders"), 200, 10.0)
    assert elapsed(run) - 60 >= 100 / 10

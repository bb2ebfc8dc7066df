"""What the sensor asks for each minute, decided from states, runs and reasons alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestration.decision import (
    REASON_LENGTH,
    LastBase,
    LastFailure,
    RunInProgress,
    Situation,
    decide,
    reason_tag,
    to_repair,
)
from tailrace.model import Gap, TableStatus

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def run(*keys: tuple[str, str], id: str = "11112222-3333") -> RunInProgress:
    return RunInProgress(id, frozenset(keys), NOW - timedelta(seconds=75))


def ended(attempt: int = 1, *, ago: float = 0, **how: bool) -> LastBase:
    outcome = {"succeeded": False, "canceled": False} | how
    return LastBase(
        "aaaabbbb-cccc", attempt=attempt, ended_at=NOW - timedelta(seconds=ago), **outcome
    )


def test_a_table_without_an_epoch_gets_its_first_base() -> None:
    decided = decide(Situation(NOW, {"orders": "none"}))
    assert [(b.model, b.run_key, b.attempt) for b in decided.bases] == [
        ("orders", "base-orders-first", 1)
    ]
    assert decided.minute is None


def test_a_base_that_is_being_read_is_left_alone() -> None:
    decided = decide(Situation(NOW, {"orders": "open"}, [run(("orders", "base"))]))
    assert decided.bases == ()


def test_an_interrupted_base_goes_on_in_a_run_of_its_own_key() -> None:
    at = Situation(NOW, {"orders": "open"}, bases={"orders": ended(1, ago=120)})
    [base] = decide(at).bases
    assert (base.run_key, base.attempt) == ("base-orders-after-aaaabbbb-cccc", 2)


@pytest.mark.parametrize(
    ("attempt", "ago", "goes_on"),
    [(1, 119, False), (1, 120, True), (4, 900, False), (4, 960, True), (30, 3600, True)],
)
def test_a_base_that_keeps_failing_is_tried_ever_more_rarely(
    attempt: int, ago: float, goes_on: bool
) -> None:
    at = Situation(NOW, {"orders": "open"}, bases={"orders": ended(attempt, ago=ago)})
    decided = decide(at)
    assert bool(decided.bases) == goes_on
    assert goes_on or "its base failed (run aaaabbbb" in decided.notes[0]


def test_a_base_that_a_person_started_and_that_died_goes_on_at_once() -> None:
    at = Situation(NOW, {"orders": "open"}, bases={"orders": ended(0)})
    assert [base.attempt for base in decide(at).bases] == [1]


def test_a_base_that_a_person_canceled_stays_canceled() -> None:
    at = Situation(NOW, {"orders": "open"}, bases={"orders": ended(canceled=True, ago=9999)})
    decided = decide(at)
    assert decided.bases == ()
    assert "Materialize orders/base to go on" in decided.notes[0]


def test_a_new_warehouse_gets_new_bases_though_the_old_runs_succeeded() -> None:
    at = Situation(NOW, {"orders": "none"}, bases={"orders": ended(succeeded=True, ago=9999)})
    assert [base.run_key for base in decide(at).bases] == ["base-orders-after-aaaabbbb-cccc"]


@pytest.mark.parametrize("state", ["base_complete", "live"])
def test_a_complete_base_is_not_read_again(state: str) -> None:
    assert decide(Situation(NOW, {"orders": state})).bases == ()


def test_one_run_drains_all_tables_that_are_due_and_no_other() -> None:
    states = {"orders": "live", "customers": "open", "quiet": "live"}
    due = {"orders": "new records", "customers": "no pass yet", "quiet": ""}
    reading = [run(("customers", "base"))]
    decided = decide(Situation(NOW, states, reading, due))
    assert decided.minute is not None
    assert decided.minute.models == ("orders", "customers")
    assert decided.bases == ()


def test_nothing_is_asked_for_while_a_drain_is_in_progress() -> None:
    at = Situation(NOW, {"orders": "live"}, [run(("orders", "changes"))], {"orders": "new records"})
    decided = decide(at)
    assert decided.minute is None
    assert decided.notes == ("A drain is in progress: run 11112222, for 1 min 15 s.",)


def test_a_base_or_a_test_in_progress_holds_up_no_drain() -> None:
    runs = [run(("orders", "base")), run()]
    assert decide(Situation(NOW, {"orders": "open"}, runs, {"orders": "due"})).minute is not None


def test_rows_that_landed_without_being_merged_are_a_reason() -> None:
    at = Situation(NOW, {"orders": "live"}, due={"orders": ""}, unmerged=["orders"])
    decided = decide(at)
    assert decided.minute is not None
    assert "do not show yet" in decided.minute.reasons["orders"]


def failed(times: int, *, ago: float, what: str = "its drain") -> LastFailure:
    return LastFailure("aaaabbbb-cccc", what, times, NOW - timedelta(seconds=ago))


@pytest.mark.parametrize(
    ("times", "ago", "goes_on"),
    [
        (1, 0, True),
        (2, 119, False),
        (2, 120, True),
        (4, 479, False),
        (4, 480, True),
        (5, 899, False),
        (5, 900, True),
        (60, 899, False),
        (60, 900, True),
    ],
)
def test_a_drain_that_keeps_failing_is_tried_ever_more_rarely_at_last_every_15_minutes(
    times: int, ago: float, goes_on: bool
) -> None:
    failures = {"orders": failed(times, ago=ago)}
    at = Situation(NOW, {"orders": "live"}, due={"orders": "new records"}, failures=failures)
    minute = decide(at).minute
    assert bool(minute) == goes_on
    assert minute is None or minute.failures == {"orders": times}


def test_a_table_that_waits_says_what_failed_and_why_it_is_due() -> None:
    failures = {"orders": failed(4, ago=60)}
    due = {"orders": "looking at its stream failed: No usable AWS credentials"}
    [note] = decide(Situation(NOW, {"orders": "live"}, due=due, failures=failures)).notes
    assert note == (
        "orders: its drain failed 4 times in a row (run aaaabbbb: see its error); it is tried again"
        " in 7 min 0 s, or at once if you materialize orders/changes and its models. It is due:"
        " looking at its stream failed: No usable AWS credentials."
    )


def test_a_table_that_fails_holds_up_no_other() -> None:
    states = {"orders": "live", "customers": "live"}
    due = {"orders": "new records", "customers": "new records"}
    failures = {"orders": failed(3, ago=1)}
    decided = decide(Situation(NOW, states, due=due, failures=failures))
    assert decided.minute is not None
    assert decided.minute.models == ("customers",)
    assert decided.minute.failures == {}
    assert "orders: its drain failed 3 times" in decided.notes[0]


def test_models_that_cannot_be_built_wait_too_though_no_record_is_new() -> None:
    failures = {"orders": failed(3, ago=1, what="building its models")}
    at = Situation(
        NOW, {"orders": "live"}, due={"orders": ""}, unmerged=["orders"], failures=failures
    )
    decided = decide(at)
    assert decided.minute is None
    assert "orders: building its models failed 3 times" in decided.notes[0]


def test_an_idle_minute_says_so() -> None:
    decided = decide(Situation(NOW, {"orders": "live"}, due={"orders": ""}))
    assert (decided.bases, decided.minute) == ((), None)
    assert decided.notes == ("Nothing new in the streams.",)


def test_a_tag_with_many_reasons_stays_short() -> None:
    text = reason_tag({f"table{n}": "shard shardId-000 is new" for n in range(100)})
    assert text.startswith("table0: shard shardId-000 is new; table1: ")
    assert len(text) == REASON_LENGTH


GAPS = {"orders": "changes may be missing"}


@pytest.mark.parametrize(
    ("repaired", "closes_gaps", "asked"),
    [("orders", False, True), ("orders", True, False), ("customers", False, False)],
)
def test_a_gap_is_to_be_repaired_unless_what_closes_it_is_read_and_waits_for_a_pass(
    repaired: str, closes_gaps: bool, asked: bool
) -> None:
    gap = Gap(NOW - timedelta(days=2), NOW - timedelta(days=1), NOW, "an outage")
    torn = TableStatus(
        "orders", "o", 2, "base_complete", 1, 1, NOW, 1.0, 1, 1, 1, None, (gap,), closes_gaps
    )
    found = to_repair([torn, replace(torn, model="customers", gaps=())], [repaired])
    assert list(found) == (["orders"] if asked else [])
    assert not asked or "may be missing: an outage" in found["orders"]


def test_a_gap_is_repaired_while_the_drain_goes_on() -> None:
    at = Situation(NOW, {"orders": "live"}, due={"orders": "new records"}, gaps=GAPS)
    decided = decide(at)
    [repair] = decided.bases
    assert (repair.model, repair.repair, repair.reason) == ("orders", True, GAPS["orders"])
    assert decided.minute is not None


@pytest.mark.parametrize("state", ["open", "none"])
def test_an_unfinished_repair_is_gone_on_with_as_any_base(state: str) -> None:
    bases = {"orders": ended(ago=3600)}
    [base] = decide(Situation(NOW, {"orders": state}, gaps=GAPS, bases=bases)).bases
    assert not base.repair


def test_a_repair_in_progress_is_left_alone() -> None:
    at = Situation(NOW, {"orders": "live"}, [run(("orders", "base"))], gaps=GAPS)
    assert decide(at).bases == ()


def test_a_failed_repair_waits_and_says_so() -> None:
    failed = {"orders": ended(2, ago=60)}
    decided = decide(Situation(NOW, {"orders": "live"}, gaps=GAPS, bases=failed))
    assert decided.bases == ()
    assert (
        "its repair failed (run aaaabbbb: see its error); it is tried again in 3 min"
        in (decided.notes[0])
    )
    later = decide(
        Situation(NOW + timedelta(minutes=5), {"orders": "live"}, gaps=GAPS, bases=failed)
    )
    assert [each.attempt for each in later.bases] == [3]

"""The read rate is held, and what may be tried again is, a bounded number of times."""

from __future__ import annotations

import pytest

from tailrace.capture import retry
from tailrace.capture.rate import CapacityLimit
from tailrace.capture.retry import ATTEMPTS, WAIT_MAX_SECONDS, retried
from tailrace.errors import IteratorExpired, Retryable, Stale, Terminal
from tests.unit.capture.fakes import FakeClock


@pytest.mark.parametrize("units", [0.5, 5.0, 128.0])
def test_the_capacity_spent_stays_at_the_rate(units: float) -> None:
    clock = FakeClock()
    limit = CapacityLimit(10.0, clock)
    for _ in range(40):
        limit.wait()
        limit.spend(units)
    limit.wait()
    assert clock.elapsed == pytest.approx(40 * units / 10.0)


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    clock = FakeClock()
    limit = CapacityLimit(10.0, clock)
    clock.sleep(3600)
    limit.spend(100.0)
    limit.wait()
    assert clock.elapsed == pytest.approx(3610)


def test_without_a_rate_nobody_waits() -> None:
    clock = FakeClock()
    limit = CapacityLimit(None, clock)
    limit.spend(1e9)
    limit.wait()
    assert clock.slept == []


def failing(times: int, error: Exception) -> tuple[list[int], object]:
    calls: list[int] = []

    def operation() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, operation


def test_what_is_retryable_succeeds_later() -> None:
    calls, operation = failing(ATTEMPTS - 1, Retryable("throttled"))
    assert retried(operation, FakeClock()) == "done"  # type: ignore[arg-type]
    assert len(calls) == ATTEMPTS


def test_retries_end() -> None:
    calls, operation = failing(1_000, Retryable("throttled"))
    with pytest.raises(Retryable):
        retried(operation, FakeClock())  # type: ignore[arg-type]
    assert len(calls) == ATTEMPTS


def test_waits_grow_with_full_jitter_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    monkeypatch.setattr(retry.random, "uniform", uniform)
    clock = FakeClock()
    with pytest.raises(Retryable):
        retried(failing(1_000, Retryable("throttled"))[1], clock)  # type: ignore[arg-type]
    highs = [high for low, high in asked if low == 0]
    assert highs == sorted(highs)
    assert max(highs) <= WAIT_MAX_SECONDS
    assert clock.slept == [high / 2 for high in highs]


@pytest.mark.parametrize(
    "error", [IteratorExpired("old"), Terminal("no"), Stale("late"), KeyError("a bug")]
)
def test_what_another_try_cannot_mend_is_raised_at_once(error: Exception) -> None:
    calls, operation = failing(1_000, error)
    clock = FakeClock()
    with pytest.raises(type(error)):
        retried(operation, clock)  # type: ignore[arg-type]
    assert (len(calls), clock.slept) == (1, [])

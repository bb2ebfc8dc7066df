"""Holding a rate that is known only after the fact: read capacity a scan has consumed."""

from __future__ import annotations

import threading

from tailrace.capture.ports import Clock


class CapacityLimit:
    """Keeps the capacity that all threads consume near `units_per_second`, on average over any
    few seconds; None: no limit. What a page cost is known from its answer, so the debt is paid
    before the next page."""

    def __init__(self, units_per_second: float | None, clock: Clock) -> None:
        self._rate = units_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def spend(self, units: float) -> None:
        """Notes what a page has consumed."""
        if self._rate:
            with self._lock:
                now = self._clock.monotonic()
                self._free_at = max(self._free_at, now) + units / self._rate

    def wait(self) -> None:
        """Returns once the debt is paid."""
        while self._rate:
            ahead = self._free_at - self._clock.monotonic()
            if ahead <= 0:
                return
            self._clock.sleep(min(ahead, 1.0))

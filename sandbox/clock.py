"""The server's time. It can be moved forward, so that retention, rotation and expiry are tested
in seconds. Everything the server dates, the Date header included, is dated by it."""

from __future__ import annotations

import threading
import time


class Clock:
    """Microseconds since 1970, strictly rising through `tick`, and never behind `now`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = 0
        self._last = 0

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"the clock only moves forward, not by {seconds} s")
        self._offset += int(seconds * 1_000_000)

    def now(self) -> int:
        return time.time_ns() // 1000 + self._offset

    def tick(self) -> int:
        """A time no earlier call has returned."""
        with self._lock:
            self._last = max(self.now(), self._last + 1)
            return self._last

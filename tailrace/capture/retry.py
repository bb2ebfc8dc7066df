"""Another try, bounded and with jitter, for what tailrace.errors calls Retryable."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from tailrace.capture.ports import Clock
from tailrace.errors import IteratorExpired, Retryable

ATTEMPTS = 8
WAIT_SECONDS = 0.2
WAIT_MAX_SECONDS = 10.0

Result = TypeVar("Result")


def retried(operation: Callable[[], Result], clock: Clock, attempts: int = ATTEMPTS) -> Result:
    """The operation's result; each Retryable failure waits a random part of a doubling time
    (full jitter), and the last one is raised. An expired iterator is the caller's to renew."""
    wait = WAIT_SECONDS
    for _ in range(attempts - 1):
        try:
            return operation()
        except IteratorExpired:
            raise
        except Retryable:
            clock.sleep(random.uniform(0, wait))  # noqa: S311
            wait = min(wait * 2, WAIT_MAX_SECONDS)
    return operation()

"""Taking turns beside a SQLite catalog: a courtesy that keeps writers from wasting work.

No law rests on it: the fence is the snapshot number (tailrace.lake.log). But while one writer's
transaction is open, any other commit makes it fail, and a long merge would never end. So whoever
writes waits for the lock, which dies with its holder, and goes on without it only after so long
that the holder must have been stopped.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.config import Warehouse
from tailrace.lake.attach import sqlite_path

WAIT_SECONDS = 900.0
POLL_SECONDS = 0.01


@contextmanager
def turn(warehouse: Warehouse) -> Iterator[None]:
    """Holds the warehouse's lock file; nothing to do where the catalog is in PostgreSQL."""
    path = sqlite_path(warehouse)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "a") as file:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
        yield

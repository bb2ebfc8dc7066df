"""Ending work early and cleanly: a run ends when it is told to, or when all of them are."""

from __future__ import annotations

import threading


class Stop:
    """A run's own signal to stop, which also follows its `parent`'s. Setting it stops this run
    alone, so that a failing table holds up no other."""

    def __init__(self, parent: threading.Event | None = None) -> None:
        self._parent = parent
        self._own = threading.Event()

    def set(self) -> None:
        """Stops this run at its next step."""
        self._own.set()

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._own.is_set() or (self._parent is not None and self._parent.is_set())

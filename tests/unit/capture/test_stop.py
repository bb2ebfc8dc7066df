"""A failing table holds up no other; the engine's end stops all."""

from __future__ import annotations

import threading

from tailrace.capture.stop import Stop


def test_a_run_that_stops_does_not_stop_its_sibling() -> None:
    everyone = threading.Event()
    one, other = Stop(everyone), Stop(everyone)
    one.set()
    assert one.is_set()
    assert not other.is_set()


def test_the_parents_signal_stops_every_run() -> None:
    everyone = threading.Event()
    runs = [Stop(everyone), Stop(everyone)]
    everyone.set()
    assert all(run.is_set() for run in runs)

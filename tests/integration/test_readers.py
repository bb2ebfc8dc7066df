"""Readers in other processes, beside drains, merges and maintenance."""

from __future__ import annotations

from bench import readers

SECONDS = 12.0


def test_no_reader_sees_an_error_half_a_commit_or_a_step_back() -> None:
    found = readers.beside_readers(SECONDS)
    assert found["errors"] == []
    assert found["writer errors"] == []
    assert (found["partial"], found["steps back"]) == (0, 0)
    # A writer gives up on a locked catalog after five seconds: no reader has made one do so.
    assert found["locked"] == 0
    assert found["queries"] > 20
    assert min(found["drains"], found["merges"], found["maintained"]) > 0

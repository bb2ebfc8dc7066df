"""What is read ahead of what is committed, and what becomes of it when somebody stops."""

from __future__ import annotations

from threading import Event, Timer

import pytest

from tailrace.capture.ahead import FIRST_OF_MOST, groups_of, read_ahead


def test_the_first_group_is_small_so_that_the_first_commit_begins_early() -> None:
    sizes = [1] * 40
    found = groups_of(sizes, int, most=16, most_count=100)
    assert [len(group) for group in found] == [16 // FIRST_OF_MOST, 16, 16, 6]
    assert [len(group) for group in groups_of(sizes, int, 1_000, 15)] == [15, 15, 10]


def test_the_next_group_is_read_while_one_is_committed_and_no_more() -> None:
    read: list[int] = []
    coming = read_ahead(
        [[1], [2, 3], [4]], lambda each: read.append(each) or each, 1, Event().is_set
    )
    assert next(coming) == ([1], [1])
    assert next(coming) == ([2, 3], [2, 3])
    coming.close()
    assert read[:3] == [1, 2, 3]
    assert set(read[3:]) <= {4}


def test_what_waits_to_be_read_is_not_read_once_somebody_stops() -> None:
    is_begun, go_on = Event(), Event()
    read: list[int] = []

    def slowly(number: int) -> None:
        if number == 2:
            is_begun.set()
            go_on.wait(10)
        read.append(number)

    coming = read_ahead([[1], [2, 3, 4]], slowly, 1, Event().is_set)
    next(coming)
    assert is_begun.wait(10)
    Timer(0.1, go_on.set).start()  # closing waits for what is being read
    coming.close()
    assert read == [1, 2]


def test_it_ends_early_and_tells_what_could_not_be_read() -> None:
    over = Event()
    coming = read_ahead([[1], [2], [3]], lambda each: 6 // (3 - each), 2, over.is_set)
    assert next(coming) == ([1], [3])
    over.set()
    assert list(coming) == []
    with pytest.raises(ZeroDivisionError):
        list(read_ahead([[3]], lambda each: 6 // (3 - each), 2, Event().is_set))

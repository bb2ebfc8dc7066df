"""Pages gather, become true together, and none is lost or doubled on the way."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tailrace.capture import stage as stage_module
from tailrace.capture.stage import Stage
from tailrace.errors import Retryable, Terminal
from tailrace.model import Part, Position, Shape
from tests.simulation.memory_log import MemoryLog
from tests.unit.capture.fakes import FakeClock, landed, open_log

ONE = Part("base", "scan", "arn:table", "1")
TWO = Part("base", "scan", "arn:table", "2")


def line(key: str) -> bytes:
    return json.dumps({"pk": {"S": key}}).encode() + b"\n"


def staging(log: MemoryLog, clock: FakeClock, flush_bytes: int = 10**9) -> Stage:
    head = log.head("orders")
    assert head.epoch is not None
    return Stage(log, "orders", head.epoch, Shape.ITEMS, head.positions, clock, flush_bytes)


def add(stage: Stage, part: Part, key: str, *, finished: bool = False) -> None:
    stage.add(part, line(key), 1, None if finished else key, finished=finished)


def test_pages_are_committed_together_with_their_positions() -> None:
    log, store = open_log()
    stage = staging(log, FakeClock())
    add(stage, ONE, "a")
    add(stage, TWO, "b", finished=True)
    add(stage, ONE, "c")
    assert (landed(store), log.head("orders").positions) == ([], {})
    stage.flush()
    assert landed(store) == ["a", "b", "c"]
    assert log.head("orders").positions == {ONE: Position("c"), TWO: Position(None, True)}
    assert {row.batch for row in store.rows} == {2}


def test_a_part_stands_where_its_staged_pages_end() -> None:
    log, _ = open_log()
    stage = staging(log, FakeClock())
    assert stage.position(ONE) == Position()
    add(stage, ONE, "a")
    assert stage.position(ONE) == Position("a")
    stage.flush()
    assert stage.position(ONE) == Position("a")


def test_enough_bytes_are_committed_at_once() -> None:
    log, store = open_log()
    stage = staging(log, FakeClock(), flush_bytes=len(line("a")) * 2)
    add(stage, ONE, "a")
    assert landed(store) == []
    add(stage, ONE, "b")
    assert landed(store) == ["a", "b"]


def test_what_waited_long_enough_is_committed_with_the_next_page() -> None:
    log, store = open_log()
    clock = FakeClock()
    stage = staging(log, clock)
    add(stage, ONE, "a")
    clock.sleep(stage_module.FLUSH_SECONDS)
    add(stage, ONE, "b")
    assert landed(store) == ["a", "b"]


def test_empty_pages_that_move_nothing_commit_nothing() -> None:
    log, store = open_log()
    stage = staging(log, FakeClock())
    stage.add(ONE, b"", 0, None, finished=False)
    stage.flush()
    assert store.batch == 1


def test_a_commit_that_fails_loses_nothing() -> None:
    refusals = [Retryable("the catalog is busy")] * 2

    def busy(moment: str) -> None:
        if moment == "before commit" and refusals:
            raise refusals.pop()

    log, store = open_log(hook=busy)
    stage = staging(log, FakeClock())
    add(stage, ONE, "a")
    for _ in range(2):
        with pytest.raises(Retryable):
            stage.flush()
    add(stage, ONE, "b")
    stage.flush()
    stage.flush()
    assert landed(store) == ["a", "b"]
    assert log.head("orders").positions == {ONE: Position("b")}


def test_readers_wait_while_a_commit_is_slow_so_that_what_is_staged_stays_small() -> None:
    sizes: list[int] = []

    def slow(moment: str) -> None:
        if moment == "before commit":
            time.sleep(0.005)
            sizes.append(stage._staged_bytes())

    log, store = open_log(hook=slow)
    limit = 4 * len(line("p0-00"))
    stage = staging(log, FakeClock(), flush_bytes=limit)

    def read(number: int) -> None:
        part = Part("base", "scan", "arn:table", str(number))
        for page in range(20):
            add(stage, part, f"p{number}-{page:02}")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.flush()
    assert sorted(landed(store)) == [f"p{n}-{page:02}" for n in range(4) for page in range(20)]
    assert max(sizes) <= limit


def test_totals_count_what_was_committed() -> None:
    log, _ = open_log()
    stage = staging(log, FakeClock())
    add(stage, ONE, "a")
    assert (stage.rows, stage.bytes) == (0, 0)
    stage.flush()
    assert (stage.rows, stage.bytes) == (1, len(line("a")))


def test_two_stages_from_one_position_do_not_both_succeed() -> None:
    log, store = open_log()
    first, second = (staging(log, FakeClock()) for _ in range(2))
    add(first, ONE, "a")
    add(second, ONE, "a")
    first.flush()
    with pytest.raises(Exception, match="another run was first"):
        second.flush()
    assert landed(store) == ["a"]


def test_a_record_that_aws_would_not_send_is_refused_and_nothing_of_its_page_lands() -> None:
    log, store = open_log()
    head = log.head("orders")
    assert head.epoch is not None
    stage = Stage(log, "orders", head.epoch, Shape.STREAM_RECORDS, head.positions, FakeClock())
    record = {"Keys": {"pk": {"S": "a"}}, "SequenceNumber": "1", "ApproximateCreationDateTime": 1}
    pages = [{"eventName": "INSERT", "dynamodb": record | broken} for broken in ({}, {"Keys": 5})]
    pages.append({"eventName": "INSERT", "dynamodb": record | {"SequenceNumber": 2}})
    for number, page in enumerate(pages):
        position = str(number)
        stage.add(ONE, json.dumps(page).encode() + b"\n", 1, position, finished=False)
    with pytest.raises(Terminal, match=r"orders: a record of the stream is not what AWS sends: "):
        stage.flush()
    assert (landed(store), log.head("orders").positions) == ([], {})

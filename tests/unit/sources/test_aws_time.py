"""AWS's time as its answers tell it: the laws rest on it, not on the machine's clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tailrace.config import AwsConfig
from tailrace.sources import aws as aws_module
from tailrace.sources.aws import Aws


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(elapsed=100.0)
    clock.monotonic = lambda: clock.elapsed
    monkeypatch.setattr(aws_module, "time", clock)
    return clock


@pytest.fixture
def answered() -> tuple[Aws, Callable[[str], None]]:
    aws = Aws(AwsConfig(region="us-east-1"))

    def answer(time: str) -> None:
        headers = {"date": f"Sun, 01 Nov 2026 {time} GMT"}
        aws._note_time({"ResponseMetadata": {"HTTPHeaders": headers}})

    return aws, answer


Answered = tuple[Aws, Callable[[str], None]]


def at(hour: int, minute: int, second: int) -> datetime:
    return datetime(2026, 11, 1, hour, minute, second, tzinfo=UTC)


def test_it_goes_on_from_the_last_answer(answered: Answered, clock: SimpleNamespace) -> None:
    aws, answer = answered
    answer("12:00:00")
    assert aws.now() == at(12, 0, 0)
    clock.elapsed += 7
    assert aws.now() == at(12, 0, 7)
    answer("12:00:09")
    assert aws.now() == at(12, 0, 9)


def test_an_answer_that_was_long_on_its_way_does_not_turn_it_back(
    answered: Answered, clock: SimpleNamespace
) -> None:
    aws, answer = answered
    answer("12:00:00")
    clock.elapsed += 50
    answer("12:00:05")
    assert aws.now() == at(12, 0, 50)

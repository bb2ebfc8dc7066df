"""The laws over HTTP against an endpoint of which one answer in eight fails: bases and drains of
tables that are written to meanwhile end equal. What fails for ever ends in bounded calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.capture import bootstrap, drain, retry
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.errors import Retryable
from tailrace.sources import aws as aws_sources
from tests.integration import faulty
from tests.integration.faulty import Faulty
from tests.integration.replica import (
    assert_equal,
    doubled,
    drain_until_caught_up,
    without_margin,
    write_config,
    written_to,
)

KEY = {"pk": "S", "sk": "N"}
ITEMS = 1_000
SEGMENTS = 64
FILES = 64
SHARDS = 2
RATE = 0.15
AT_LEAST = {faulty.DYNAMODB: 1, faulty.STREAMS: 3, faulty.S3: 1}  # of every kind
TRIES_MOST = retry.ATTEMPTS * aws_sources.BOTO_ATTEMPTS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long: what is tested is whether a call is tried again, not when."""
    without_margin(monkeypatch)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(retry, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(drain, "READ_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(bootstrap, "EXPORT_POLL_SECONDS", 0.05)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, float], Faulty]]:
    """Puts a proxy between Tailrace and the local AWS; the writers go past it."""
    opened: list[Faulty] = []

    def put_between(seed: int, rate: float) -> Faulty:
        proxy = Faulty(os.environ["AWS_ENDPOINT_URL"], seed, rate).__enter__()
        opened.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        return proxy

    yield put_between
    for proxy in opened:
        proxy.__exit__()


def tables(aws: Any, folder: Path, segments: int) -> tuple[Config, dict[str, str]]:
    """Two full tables, one to be scanned and one to be exported, and their names by model."""
    scanned, exported = aws.name("scanned"), aws.name("exported")
    for name in (scanned, exported):
        create_table(aws.dynamodb, name, KEY, pitr=True)
        churn(aws.dynamodb, name, ITEMS, ITEMS, seed=1)
    config = write_config(
        folder,
        f"  - {{name: {scanned}, model: scanned, base: {{method: scan, segments: {segments}}}}}\n"
        f"  - {{name: {exported}, model: exported, base: {{method: export,"
        f" bucket: {aws.bucket()}}}}}\n",
    )
    return config, {"scanned": scanned, "exported": exported}


def based(engine: Engine, models: list[str]) -> None:
    """Reads the bases in threads, and drains all the while."""
    failures: list[BaseException] = []

    def base(model: str) -> None:
        try:
            engine.base(model)
        except BaseException as error:
            failures.append(error)

    reading = [threading.Thread(target=base, args=[model]) for model in models]
    for thread in reading:
        thread.start()
    while any(thread.is_alive() for thread in reading):
        drained(engine, models)
    assert not failures, failures


def drained(engine: Engine, models: list[str]) -> None:
    for outcome in engine.drain(models).values():
        if isinstance(outcome, Exception):
            raise outcome


def test_bases_and_drains_through_a_faulty_endpoint_end_equal(
    own_aws: Any, proxied: Callable[[int, float], Faulty], tmp_path: Path
) -> None:
    own_aws.server.control("set", export_files=FILES)
    config, named = tables(own_aws, tmp_path, SEGMENTS)
    models = list(named)
    proxy = proxied(1, RATE)
    with Engine.open(config) as engine:
        with written_to(own_aws.dynamodb, *named.values(), keys=ITEMS, pause_seconds=0.2):
            based(engine, models)
            for _ in range(3):
                drained(engine, models)
        for model in models:
            drain_until_caught_up(engine, model)
    for model, name in named.items():
        assert_equal(config, own_aws.dynamodb, name, model)
        assert doubled(config, model) == []
    for service, least in AT_LEAST.items():
        for kind in faulty.KINDS:
            assert proxy.injected[service, kind] >= least, (service, kind, proxy.injected)


BASE = (
    "DescribeTable",
    "DescribeStream",
    "DescribeContinuousBackups",
    "ExportTableToPointInTime",
    "DescribeExport",
    "GetObject",
)
FATAL = (faulty.THROTTLE, faulty.ERROR, faulty.RESET, faulty.CUT)
DRAIN = ("DescribeStream", "GetShardIterator", "GetRecords")


def refused(
    proxy: Faulty, operation: str, work: Callable[[], object], kinds: Sequence[str] = FATAL
) -> None:
    """What `work` ends with while every answer to an operation fails, kind by kind: an error that
    says that it may go well later, after no more tries than were allowed."""
    for kind in kinds:
        proxy.always = {operation: kind}
        before = proxy.asked[operation]
        with pytest.raises(Retryable) as error:
            work()
        proxy.always = {}
        assert operation in error.value.message, error.value
        assert "run again" in error.value.remedy
        tried = proxy.asked[operation] - before
        assert 1 < tried <= TRIES_MOST * SHARDS, (operation, kind, tried)


def test_what_always_fails_ends_in_bounded_tries_and_goes_on_once_it_does_not(
    aws: Any, proxied: Callable[[int, float], Faulty], tmp_path: Path
) -> None:
    config, named = tables(aws, tmp_path, segments=1)
    proxy = proxied(1, 0.0)
    with Engine.open(config) as engine:
        for operation in BASE:
            refused(proxy, operation, lambda: engine.base("exported"))
        refused(proxy, "Scan", lambda: engine.base("scanned"))
        based(engine, list(named))
        for operation in DRAIN:
            refused(proxy, operation, lambda: engine.drain_table("exported"))
        for model, name in named.items():
            assert drain_until_caught_up(engine, model).epoch == 1
            items = aws.dynamodb.scan(TableName=name)["Items"]
            assert engine.status([model])[0].items_read == len(items)
    for model in named:
        assert doubled(config, model) == []


def test_an_endpoint_that_keeps_silent_is_given_up_in_bounded_tries(
    aws: Any,
    proxied: Callable[[int, float], Faulty],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, _ = tables(aws, tmp_path, segments=1)
    proxy = proxied(1, 0.0)
    monkeypatch.setattr(aws_sources, "READ_TIMEOUT_SECONDS", 0.1)
    with Engine.open(config) as engine:
        refused(proxy, "DescribeTable", lambda: engine.base("scanned"), [faulty.SILENCE])

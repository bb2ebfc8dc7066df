"""The engine's side of each benchmark: its own sources, capture and change log, nothing mocked
but the place that bytes come from."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.items import KEY
from bench.measure import stopwatch
from bench.replay import CREDENTIALS, KINESIS_ARN, STREAM_ARN
from tailrace.capture import bootstrap, deliveries, drain
from tailrace.config import AwsConfig, KinesisConfig, Warehouse
from tailrace.errors import Terminal
from tailrace.lake.converted import record_lines
from tailrace.lake.log import ChangeLog
from tailrace.lake.walk import Form, walk
from tailrace.lines import Lines
from tailrace.model import ExportFile, ExportManifest, ExportState, TableDescription
from tailrace.sources.aws import Aws
from tailrace.sources.export import unpack
from tailrace.sources.firehose import FirehoseObjects
from tailrace.sources.kinesis import KinesisSource
from tailrace.sources.scan import TableScan
from tailrace.sources.streams import DynamoDbStream

MODEL = "bench"
SEGMENTS = 8
BUDGET = drain.Budget(seconds=3_600, bytes=2**40)

TABLE = TableDescription(
    name="bench",
    arn="arn:aws:dynamodb:us-east-1:123456789012:table/bench",
    table_id="11111111-2222-3333-4444-555555555555",
    key=KEY,
    stream_arn=STREAM_ARN,
    view_type="NEW_AND_OLD_IMAGES",
)


class NoWaiting:
    """The machine's clock, but nobody sleeps: rate limits and margins cost no CPU."""

    def monotonic(self) -> float:
        """Seconds of this process."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Returns at once."""

    def aws_now(self) -> datetime:
        """This machine's time."""
        return datetime.now(UTC)


@dataclass(frozen=True)
class LocalExport:
    """An export whose files lie in a folder: unpacked and checked, as S3's are."""

    folder: Path
    repeat: int = 1

    @property
    def adopted(self) -> str | None:
        return "arn:aws:dynamodb:us-east-1:123456789012:table/bench/export/01"

    def latest_time(self) -> datetime:
        return datetime.now(UTC)

    def request(self, table: TableDescription, at: datetime, token: str) -> str:
        raise NotImplementedError

    def state(self, arn: str) -> ExportState:
        return ExportState(arn, "COMPLETED", _soon(), "local", "manifest-summary.json", None)

    def failed(self, state: ExportState) -> Terminal:
        raise NotImplementedError

    def manifest(self, state: ExportState) -> ExportManifest:
        files = tuple(
            ExportFile(f"{copy}/{line[0]}", int(line[1]), line[2])
            for copy in range(self.repeat)
            for line in map(str.split, (self.folder / "manifest").read_text().splitlines())
        )
        return ExportManifest(
            "local", TABLE.table_id, _soon(), sum(file.items for file in files), files
        )

    def fetch(self, bucket: str, file: ExportFile, folder: Path) -> list[Lines]:
        with (self.folder / Path(file.key).name).open("rb") as body:
            return unpack(body, file, file.key, folder)


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@contextmanager
def _run() -> Iterator[bootstrap.Bootstrap]:
    walk(Lines.of(b"{}"), Form.of((), ()))  # loaded beforehand, as pandas is by hand
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    warehouse = Warehouse(
        catalog=f"sqlite:{folder / 'catalog.sqlite'}", data_path=str(folder / "data")
    )
    try:
        with ChangeLog(warehouse) as log:
            yield bootstrap.Bootstrap(log, NoWaiting(), MODEL, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_export(folder: str, repeat: int) -> dict[str, Any]:
    """Loads an export's files into the change log, `repeat` times over as ever more files."""
    export = LocalExport(Path(folder), repeat)
    with _run() as run:
        bootstrap.open_export_epoch(run, TABLE, export)
        with stopwatch() as spent:
            result = bootstrap.read_export(run, export, TABLE)
        return {"rows": _landed(run, result.items), "bytes": result.bytes} | spent


def scan(endpoint: str) -> dict[str, Any]:
    """Scans a table into the change log."""
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
    with _run() as run:
        aws = Aws(AwsConfig())
        aws.client("dynamodb")
        bootstrap.open_scan_epoch(run, TABLE, SEGMENTS, consistent=False)
        with stopwatch() as spent:
            source = TableScan(aws, TABLE.name, consistent=False)
            result = bootstrap.read_scan(run, source, TABLE, None)
        return {"rows": _landed(run, result.items)} | spent


def drain_stream(endpoint: str) -> dict[str, Any]:
    """Drains a stream into the change log, from its oldest record to its tip."""
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
    with _run() as run:
        aws = Aws(AwsConfig())
        aws.client("dynamodbstreams")
        bootstrap.open_scan_epoch(run, TABLE, SEGMENTS, consistent=False)
        with stopwatch() as spent:
            result = drain.drain(run.log, DynamoDbStream(aws), run.clock, MODEL, BUDGET)
        assert result.reached_tip, result
        return {"rows": _landed(run, result.rows)} | spent


def drain_kinesis(endpoint: str) -> dict[str, Any]:
    """Drains a Kinesis stream into the change log, from its oldest record to its tip."""
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
    with _run() as run:
        aws = Aws(AwsConfig())
        aws.client("kinesis")
        source = KinesisSource(aws, TABLE.name, KinesisConfig())
        table = replace(TABLE, stream_arn=f"{KINESIS_ARN}@2026-01-01T00:00:00")
        run = replace(run, traits=source.traits)
        epoch = bootstrap.open_scan_epoch(run, table, SEGMENTS, consistent=False)
        with stopwatch() as spent:
            stream = source.open(run.log.head(MODEL), epoch)
            result = drain.drain(run.log, stream, run.clock, MODEL, BUDGET)
        assert result.reached_tip, result
        return {"rows": _landed(run, result.rows)} | spent


class LocalBucket:
    """S3 as far as delivered objects need it: they lie in a folder."""

    region = "local"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def client(self, service: str) -> LocalBucket:
        return self

    def list_objects_v2(self, **_: Any) -> dict[str, Any]:
        files = sorted(self._folder.glob("*.gz"))
        now = datetime.now(UTC)
        return {
            "Contents": [
                {"Key": path.name, "Size": path.stat().st_size, "LastModified": now}
                for path in files
            ]
        }

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return {"Body": (self._folder / Key).open("rb")}


def read_deliveries(folder: str) -> dict[str, Any]:
    """Reads delivered objects into the change log."""
    bucket: Any = LocalBucket(Path(folder))
    delay = deliveries.Delay(timedelta(minutes=20), timedelta(hours=24))
    with _run() as run:
        bootstrap.open_scan_epoch(run, TABLE, SEGMENTS, consistent=False)
        source = FirehoseObjects(bucket, TABLE.name, "local", "", record_lines)
        with stopwatch() as spent:
            result = deliveries.drain(run.log, source, run.clock, MODEL, BUDGET, delay)
        assert result.reached_tip, result
        return {"rows": _landed(run, result.rows), "bytes": result.bytes} | spent


def _landed(run: bootstrap.Bootstrap, said: int) -> int:
    """The log's row count, which has to be what capture said it landed."""
    assert isinstance(run.log, ChangeLog)
    ((rows,),) = run.log.query(f"SELECT count(*) FROM changes.{MODEL}")
    assert rows == said, f"{said} rows were to land, {rows} did"
    return int(rows)

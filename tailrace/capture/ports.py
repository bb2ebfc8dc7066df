"""What capture needs of the world, as protocols: sources/ and lake/ fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tailrace.errors import TailraceError
from tailrace.lines import Lines
from tailrace.model import (
    Commit,
    Contents,
    Delivery,
    Differences,
    Epoch,
    ExportFile,
    ExportManifest,
    ExportState,
    Head,
    ItemPage,
    Part,
    RecordPage,
    ScanPage,
    Shard,
    Staged,
    StreamTraits,
    TableDescription,
    Window,
)


class Clock(Protocol):
    """The machine's clock, for budgets, rates and waiting, and AWS's, on which the laws rest."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def aws_now(self) -> datetime: ...


class Log(Protocol):
    """The change log and its ledger: tailrace.lake.log.ChangeLog holds the contracts."""

    def head(self, model: str) -> Head: ...

    def open_epoch(
        self,
        model: str,
        table: TableDescription,
        epoch: Epoch,
        seen: Mapping[Part, int] | None = None,
        after: int | None = None,
    ) -> int: ...

    def commit(self, model: str, commit: Commit) -> int: ...

    def delivered(self, model: str, part: Part, since: str) -> set[str]: ...


class Scan(Protocol):
    """A base by segments: tailrace.sources.scan.TableScan."""

    def page(self, segment: int, segments: int, start: str | None) -> ScanPage: ...


class Sample(Protocol):
    """Some of a table's items, by place or by key: tailrace.sources.scan.TableScan."""

    def page(
        self, segment: int, segments: int, start: str | None, limit: int | None = ...
    ) -> ScanPage: ...

    def items(self, keys: Sequence[str]) -> ItemPage: ...


class Comparison(Protocol):
    """The source beside the warehouse: tailrace.lake.comparison.Comparison."""

    def add(self, staged: Staged, began: datetime, ended: datetime) -> None: ...

    def look_up(
        self, keys: Sequence[str], found: Staged, began: datetime, ended: datetime
    ) -> None: ...

    def sample(self, head: Head, count: int) -> tuple[list[str], int]: ...

    def differences(
        self, head: Head, whole: tuple[datetime, datetime] | None, before: int, shown: int
    ) -> Differences: ...


class Export(Protocol):
    """A base by export: tailrace.sources.export.TableExport."""

    @property
    def adopted(self) -> str | None: ...

    def latest_time(self) -> datetime: ...

    def request(self, table: TableDescription, at: datetime, token: str) -> str: ...

    def request_changes(
        self, table: TableDescription, window: Window, token: str, *, old_images: bool
    ) -> str: ...

    def state(self, arn: str) -> ExportState: ...

    def failed(self, state: ExportState) -> TailraceError: ...

    def manifest(self, state: ExportState) -> ExportManifest: ...

    def fetch(self, bucket: str, file: ExportFile, folder: Path) -> list[Lines]: ...


class Deliveries(Protocol):
    """A source of changes in objects: tailrace.sources.firehose.FirehoseObjects."""

    @property
    def calls(self) -> int: ...

    def listed(self, since: datetime) -> list[Delivery]: ...

    def require_layout(self) -> None: ...

    def read(self, delivery: Delivery) -> Contents: ...


class Stream(Protocol):
    """A source of changes: tailrace.sources.streams.DynamoDbStream has the contracts."""

    @property
    def traits(self) -> StreamTraits: ...

    @property
    def calls(self) -> int: ...

    @property
    def notices(self) -> tuple[str, ...]: ...

    def shards(self, stream_arn: str) -> list[Shard]: ...

    def children(self, stream_arn: str, shard: str) -> list[Shard]: ...

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str: ...

    def read(self, iterator: str, shard: str, limit: int = ...) -> RecordPage: ...

    def whole(self, page: RecordPage) -> RecordPage: ...


class StreamSource(Protocol):
    """One table's stream of one kind: which it is now, and how it is read. What each kind is called
    is in tailrace.sources.registry."""

    @property
    def traits(self) -> StreamTraits: ...

    def describe(self, table: TableDescription) -> TableDescription:
        """The table with the stream of this kind that has its changes now, None where none has."""
        ...

    def require(self, table: TableDescription) -> TableDescription:
        """As describe. Raises Terminal, with what to do, where no usable stream has them."""
        ...

    def listing(self, stream_arn: str, begins_at: datetime | None) -> Stream:
        """The stream, to be asked for its shards since then."""
        ...

    def open(self, head: Head, epoch: Epoch) -> Stream:
        """The stream that an epoch of the head follows, to be read."""
        ...

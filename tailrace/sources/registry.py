"""The kinds of stream that a table's changes can be read from, by their name in tailrace.yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tailrace.config import StreamConfig, Table
from tailrace.errors import ConfigError
from tailrace.model import DYNAMODB_STREAMS, KEYS_ONLY, Epoch, Head, StreamTraits, TableDescription
from tailrace.sources import kinesis
from tailrace.sources.aws import Aws
from tailrace.sources.lookup import LookedUpStream
from tailrace.sources.streams import DynamoDbStream
from tailrace.sources.tables import require_stream


@dataclass(frozen=True)
class DynamoDbStreams:
    """DynamoDB's own stream of a table; of one that carries no items, with these looked up."""

    aws: Aws
    table: str
    config: StreamConfig

    @property
    def traits(self) -> StreamTraits:
        """Those of which the others differ."""
        return StreamTraits()

    def describe(self, table: TableDescription) -> TableDescription:
        """The table as it is: DescribeTable names its stream."""
        return table

    def require(self, table: TableDescription) -> TableDescription:
        """The table. Raises Terminal as tailrace.sources.tables.require_stream."""
        require_stream(table)
        return table

    def listing(
        self, stream_arn: str, begins_at: datetime | None
    ) -> DynamoDbStream | LookedUpStream:
        """The stream: it is read from its oldest record."""
        return DynamoDbStream(self.aws)

    def open(self, head: Head, epoch: Epoch) -> DynamoDbStream | LookedUpStream:
        """The stream, with items looked up where its records carry none."""
        stream = DynamoDbStream(self.aws)
        if head.table is None or head.view_of(epoch) != KEYS_ONLY:
            return stream
        return LookedUpStream(stream, self.aws, self.table, head.table.key)


SOURCES: dict[str, Callable[[Aws, str, StreamConfig], DynamoDbStreams | kinesis.KinesisSource]] = {
    DYNAMODB_STREAMS: DynamoDbStreams,
    kinesis.SOURCE: kinesis.KinesisSource,
}


def stream_source(aws: Aws, table: Table, name: str) -> DynamoDbStreams | kinesis.KinesisSource:
    """The source of that name for a table; tailrace.capture.ports.StreamSource has the contract."""
    if name not in SOURCES:
        raise ConfigError(f"stream.source {name} cannot be read yet.", "Use another one.")
    return SOURCES[name](aws, table.name, table.stream)

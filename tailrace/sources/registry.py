"""The kinds of stream that a table's changes can be read from, by their name in tailrace.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tailrace.config import Table
from tailrace.model import FIREHOSE, KEYS_ONLY, Epoch, Head, StreamTraits, TableDescription
from tailrace.sources import kinesis
from tailrace.sources.aws import Aws
from tailrace.sources.firehose import Converted, FirehoseSource
from tailrace.sources.lookup import LookedUpStream
from tailrace.sources.streams import DynamoDbStream
from tailrace.sources.tables import require_stream


@dataclass(frozen=True)
class DynamoDbStreams:
    """DynamoDB's own stream of a table; of one that carries no items, with these looked up."""

    aws: Aws
    table: str

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


def stream_source(
    aws: Aws,
    table: Table,
    name: str,
    converted: Converted,
    stream_arn: str | None = None,
    pages: kinesis.Pages | None = None,
) -> DynamoDbStreams | kinesis.KinesisSource | FirehoseSource:
    """The source of that name for a table; tailrace.capture.ports.StreamSource has the contract.
    `converted` reads Parquet files. `stream_arn` is what an epoch follows, where it is asked about
    that and not about what is configured. `pages` are shared with other tables of one stream."""
    if name == FIREHOSE:
        return FirehoseSource(aws, table.name, table.stream, stream_arn, converted)
    if name == kinesis.SOURCE:
        return kinesis.KinesisSource(aws, table.name, table.stream, pages or kinesis.Pages())
    return DynamoDbStreams(aws, table.name)

"""Kinesis Data Streams for DynamoDB: the stream that a table streams to, and its records.

One Kinesis stream may carry the changes of several tables, and other things besides: what is the
table's is handed on as it came, and the rest is counted. The order is capture's and the log's
business: nothing here promises one. Enhanced fan-out is not used: it costs by the hour and the
gigabyte, and polling a shard once a minute stays far below what all readers of a shard share.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tailrace.changes import MICROSECOND, SEQUENCE
from tailrace.config import KinesisConfig, StreamConfig
from tailrace.errors import (
    AccessDenied,
    IteratorExpired,
    Retryable,
    SourceMissing,
    TailraceError,
    Terminal,
)
from tailrace.model import (
    Epoch,
    Head,
    RecordPage,
    Shape,
    Shard,
    StreamTraits,
    TableDescription,
)
from tailrace.sources.aws import RAW_BODY, Aws, call, code_of

SOURCE = "kinesis"

# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html
RECORDS_PER_CALL = 10_000
BYTES_PER_SECOND = 2 * 1024 * 1024
SHARD_PAGES_MAX = 1_000

# A position has room for so many (tailrace.lake.version); AWS's have 56.
SEQUENCE_DIGITS = 56

# What the Kinesis Producer Library puts before records that it packs into one.
# https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
AGGREGATED = b"\xf3\x89\x9a\xc2"

VIEW = "NEW_AND_OLD_IMAGES"  # what DynamoDB sends to Kinesis, always
MILLISECOND = "MILLISECOND"
ACTIVE = ("ACTIVE", "UPDATING")


# What is kept of pages that several tables read: about what a busy minute brings.
SHARED_BYTES = 64 * 1024 * 1024


class _Data(msgspec.Struct):
    SequenceNumber: str
    Data: bytes


class _Body(msgspec.Struct):
    Records: list[_Data] = []
    NextShardIterator: str | None = None
    MillisBehindLatest: int | None = None


class _Change(msgspec.Struct):
    ApproximateCreationDateTime: float
    ApproximateCreationDateTimePrecision: str = MILLISECOND


class _Record(msgspec.Struct):
    table: str = msgspec.field(name="tableName")
    dynamodb: _Change = msgspec.field()


_bodies = msgspec.json.Decoder(_Body)
_records = msgspec.json.Decoder(_Record)


@dataclass
class _Share:
    """What a page holds of one table."""

    lines: list[bytes] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    precisions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Page:
    """What one GetRecords brought, taken apart by table; `number` tells which began first."""

    number: int
    shares: dict[str, _Share]
    others: Counter[str]
    foreign: Counter[str]
    last_position: str | None
    next_iterator: str | None
    at_tip: bool | None
    bytes: int


class Pages:
    """Pages that several tables of one stream read at a time: each is fetched once, and kept for
    the others while there is room. `tables` are the names of all that are replicated, of which
    `readers` read at a time. Thread-safe.

    A table whose ledger stands elsewhere finds no page here and reads its own; at the tip, where
    they all stop, they meet again."""

    def __init__(self, tables: Collection[str] = (), readers: Collection[str] = ()) -> None:
        self.tables = frozenset(tables)
        self.readers = frozenset(readers)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pages: dict[tuple[str, str, str], Future[_Page]] = {}
        self._bytes = 0

    def number(self) -> int:
        """Greater than those of all pages that have been asked for."""
        return next(self._numbers)

    def page(self, key: tuple[str, str, str], fetch: Callable[[int], _Page]) -> _Page:
        """The page of a stream, a shard and a place in it. Raises what `fetch` raises, for all that
        wait for it."""
        if len(self.readers) < 2:
            return fetch(self.number())
        with self._lock:
            known = self._pages.get(key)
            future: Future[_Page] = known or Future()
            self._pages[key] = future
        if known is None:
            try:
                future.set_result(fetch(self.number()))
            except BaseException as error:
                with self._lock:
                    self._pages.pop(key, None)
                future.set_exception(error)
                raise
            self._keep(future.result())
        return future.result()

    def _keep(self, page: _Page) -> None:
        with self._lock:
            self._bytes += page.bytes
            for key in list(self._pages):
                if self._bytes <= SHARED_BYTES:
                    return
                oldest = self._pages[key]
                if oldest.done():
                    del self._pages[key]
                    self._bytes -= oldest.result().bytes


@dataclass(frozen=True)
class KinesisSource:
    """The Kinesis stream of one table: which it is, and how it is read. `pages` are shared with
    other tables of the same stream."""

    aws: Aws
    table: str
    config: StreamConfig
    pages: Pages = field(default_factory=Pages)

    @property
    def traits(self) -> StreamTraits:
        """What differs from a table's own stream. The retention is that of the stream itself,
        once it was asked for (KinesisStream). How late a record may come is what is configured, or
        the default once the table takes its changes from elsewhere."""
        default = KinesisConfig.model_fields["late_seconds"].default
        late = float(getattr(self.config, "late_seconds", default))
        return StreamTraits(
            source=SOURCE,
            shape=Shape.KINESIS_RECORDS,
            late=timedelta(seconds=late),
            timed=True,
            ends=False,
            may_vanish=False,
            bytes_per_second=BYTES_PER_SECOND,
        )

    def describe(self, table: TableDescription) -> TableDescription:
        """The table with the Kinesis stream that its changes go to now, None where they go to
        none. A stream is known by its ARN and the time at which it was created: a name can be
        used again."""
        found = [
            arn for arn, status in destinations_of(self.aws, self.table).items() if status in ACTIVE
        ]
        name = self._name()
        found = [arn for arn in found if name in (None, name_of(arn))]
        stream = None
        if len(found) == 1:
            try:
                stream = _identity(self.aws, found[0])
            except SourceMissing:
                stream = None
        return replace(table, stream_arn=stream, view_type=VIEW)

    def require(self, table: TableDescription) -> TableDescription:
        """As describe. Raises Terminal where the table streams to no Kinesis stream, or to none
        of that name, or to several, or where what it streams to is gone."""
        destinations, name = destinations_of(self.aws, self.table), self._name()
        shown = ", ".join(f"{name_of(arn)} ({status})" for arn, status in destinations.items())
        named = {arn: s for arn, s in destinations.items() if name in (None, name_of(arn))}
        active = [arn for arn, status in named.items() if status in ACTIVE]
        enable = (
            f"aws dynamodb enable-kinesis-streaming-destination --table-name {self.table}"
            " --stream-arn ARN --enable-kinesis-streaming-configuration"
            " ApproximateCreationDateTimePrecision=MICROSECOND"
        )
        if not active:
            wanted = f" of the name {name}" if name else ""
            raise Terminal(
                f"Table {self.table} streams to no Kinesis stream{wanted} that is ACTIVE; it has"
                f" {shown or 'no streaming destination'}.",
                f"Wait while it is ENABLING; else enable one: {enable}",
            )
        if len(active) > 1:
            raise Terminal(
                f"Table {self.table} streams to several Kinesis streams: {shown}.",
                "Name one of them: stream.stream_name in tailrace.yaml.",
            )
        return replace(table, stream_arn=_identity(self.aws, active[0]), view_type=VIEW)

    def listing(self, stream_arn: str, begins_at: datetime | None) -> KinesisStream:
        """The stream, from an instant on."""
        return KinesisStream(self.aws, self.table, self.traits, begins_at, self.pages)

    def open(self, head: Head, epoch: Epoch) -> KinesisStream:
        """The stream, from where the epoch says that it begins."""
        return self.listing(epoch.stream_arn, epoch.stream_from)

    def _name(self) -> str | None:
        return self.config.stream_name if isinstance(self.config, KinesisConfig) else None


def destinations_of(aws: Aws, table: str) -> dict[str, str]:
    """The Kinesis streams that a table streams to, by ARN, each with its status.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_DescribeKinesisStreamingDestination.html
    """
    answer = call(
        aws.client("dynamodb").describe_kinesis_streaming_destination,
        "dynamodb:DescribeKinesisStreamingDestination",
        f"table {table}",
        aws.region,
        TableName=table,
    )
    found = answer.get("KinesisDataStreamDestinations", [])
    return {each["StreamArn"]: each["DestinationStatus"] for each in found}


def name_of(stream_arn: str) -> str:
    """The name of a Kinesis stream, of its ARN or of what it is known by here."""
    return _arn_of(stream_arn).rpartition("/")[2]


def _arn_of(identity: str) -> str:
    return identity.partition("@")[0]


def _summary(aws: Aws, arn: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_DescribeStreamSummary.html"""
    summary: dict[str, Any] = call(
        aws.client("kinesis").describe_stream_summary,
        "kinesis:DescribeStreamSummary",
        f"stream {arn}",
        aws.region,
        StreamARN=arn,
    )["StreamDescriptionSummary"]
    return summary


def _identity(aws: Aws, arn: str) -> str:
    return _identified(arn, _summary(aws, arn))


def _identified(arn: str, summary: dict[str, Any]) -> str:
    created = summary["StreamCreationTimestamp"].astimezone(UTC)
    return f"{arn}@{created:%Y-%m-%dT%H:%M:%S}"


class KinesisStream:
    """The shards of one Kinesis stream, and those of its records that are one table's changes.

    Positions are sequence numbers as text. Without one a shard is read from `begins_at` on, or
    from its oldest record where that is None. `calls` counts the calls made."""

    def __init__(
        self,
        aws: Aws,
        table: str,
        traits: StreamTraits,
        begins_at: datetime | None,
        pages: Pages | None = None,
    ) -> None:
        self._aws = aws
        self._table = table
        self._begins_at = begins_at
        self._pages = pages or Pages()
        self._began: int | None = None
        self._arn = ""
        self._iterators: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self.traits = traits
        self.calls = 0
        self.tables: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()
        self.precisions: Counter[str] = Counter()

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out, counted, and whether two precisions of time were met."""
        noted = []
        if self.tables:
            names = ", ".join(f"{name} ({n:,})" for name, n in sorted(self.tables.items()))
            noted.append(f"The stream has records of other tables, which are not read: {names}.")
        noted += [
            f"{count:,} records of the stream are not DynamoDB's, and are not read: {what}."
            for what, count in sorted(self.foreign.items())
        ]
        if len(self.precisions) > 1:
            met = " and ".join(f"{n:,} in {each.lower()}s" for each, n in self.precisions.items())
            noted.append(
                f"Times of changes came with two precisions ({met}): changes of one key within"
                " one millisecond may be in the wrong order."
            )
        return tuple(noted)

    def shards(self, stream_arn: str) -> list[Shard]:
        """Every shard that can hold what is to be read. Raises SourceMissing once the stream is
        gone, and where another one has its name."""
        self._arn = arn = _arn_of(stream_arn)
        self.calls += 1
        summary = _summary(self._aws, arn)
        if (found := _identified(arn, summary)) != stream_arn:
            raise SourceMissing(
                f"Stream {stream_arn} was deleted; the one that has its name now is {found}.",
                "A gap is stored; repair it, or materialize the base again.",
            )
        retention = timedelta(hours=summary["RetentionPeriodHours"])  # 24 hours to 365 days
        self.traits = replace(self.traits, retention=retention)
        only = {}
        if self._begins_at is not None:
            only = {"ShardFilter": {"Type": "FROM_TIMESTAMP", "Timestamp": self._begins_at}}
        return [shard for page in self._shard_pages(arn, **only) for shard in page]

    def children(self, stream_arn: str, shard: str) -> list[Shard]:
        """The children of a closed shard; two that were merged have one in common."""
        only = {"ShardFilter": {"Type": "AFTER_SHARD_ID", "ShardId": shard}}
        pages = self._shard_pages(_arn_of(stream_arn), **only)
        return [each for page in pages for each in page if shard in each.parents]

    def _shard_pages(self, arn: str, **only: Any) -> Iterator[list[Shard]]:
        """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html"""
        asked: dict[str, Any] = {"StreamARN": arn, **only}
        for _ in range(SHARD_PAGES_MAX):
            self.calls += 1
            answer = call(
                self._aws.client("kinesis").list_shards,
                "kinesis:ListShards",
                f"stream {arn}",
                self._aws.region,
                **asked,
            )
            yield [
                Shard(
                    each["ShardId"],
                    each.get("ParentShardId"),
                    "EndingSequenceNumber" in each["SequenceNumberRange"],
                    each.get("AdjacentParentShardId"),
                )
                for each in answer["Shards"]
            ]
            token = answer.get("NextToken")
            if not token:
                return
            asked = {"NextToken": token}
        raise Terminal(
            f"{arn} lists more than {SHARD_PAGES_MAX} pages of shards.",
            "No such stream is known; report this.",
        )

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str:
        """An iterator after the sequence number `after`; without one as the class says. What has
        expired since is skipped without a word: coverage is proven by the times of passes.

        Raises SourceMissing for a shard that is gone.
        """
        self._arn = _arn_of(stream_arn)
        place = f"{after or self._begins_at}"
        self._iterators[shard, place] = self._asked(shard, after)
        return place

    def _asked(self, shard: str, after: str | None) -> str:
        """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html"""
        place: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if after:
            place = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": after,
            }
        elif self._begins_at is not None:
            place = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": self._begins_at}
        self.calls += 1
        answer = call(
            self._aws.client("kinesis").get_shard_iterator,
            "kinesis:GetShardIterator",
            f"shard {shard} of {self._arn}",
            self._aws.region,
            StreamARN=self._arn,
            ShardId=shard,
            **place,
        )
        return str(answer["ShardIterator"])

    def read(self, iterator: str, shard: str, limit: int = RECORDS_PER_CALL) -> RecordPage:
        """The next page (at most 10,000 records or 10 MB, of all tables). An empty page is not the
        end; `at_tip` says whether it was. Its lines are the records as they came, with their
        sequence number in the member tailrace.changes.SEQUENCE.

        Raises IteratorExpired; Terminal where records were aggregated, or cannot be decrypted."""
        if self._began is None:
            self._began = self._pages.number()
        asked = self._iterators.pop((shard, iterator))

        def fetch(number: int) -> _Page:
            return self._fetched(number, asked, shard, limit)

        try:
            page = self._pages.page((self._arn, shard, iterator), fetch)
        except Retryable:
            self._iterators[shard, iterator] = asked
            raise
        place = page.last_position or f"{iterator}+"
        if page.next_iterator is not None:
            self._iterators[shard, place] = page.next_iterator
        share = page.shares[self._table]
        self._count(page, share)
        # Whoever fetched it may have begun before this pass: what came since is not in it.
        is_fresh = page.number > self._began
        return RecordPage(
            lines=b"".join(share.lines),
            count=len(share.lines),
            last_position=page.last_position,
            oldest=min(share.times, default=None),
            newest=max(share.times, default=None),
            next_iterator=place if page.next_iterator is not None else None,
            at_tip=page.at_tip if is_fresh else False,
            bytes=page.bytes,
        )

    def _fetched(self, number: int, iterator: str, shard: str, limit: int) -> _Page:
        """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html"""
        self.calls += 1
        try:
            answer = call(
                self._aws.client("kinesis").get_records,
                "kinesis:GetRecords",
                f"shard {shard}",
                self._aws.region,
                StreamARN=self._arn,
                ShardIterator=iterator,
                Limit=limit,
            )
        except Terminal as error:
            if code_of(error) == "ExpiredIteratorException":
                raise IteratorExpired(f"The iterator of shard {shard} has expired.") from error
            raise _undecrypted(error) or error from error
        body = _bodies.decode(answer[RAW_BODY])
        page = _Page(
            number=number,
            shares={name: _Share() for name in self._pages.readers | {self._table}},
            others=Counter(),
            foreign=Counter(),
            last_position=body.Records[-1].SequenceNumber if body.Records else None,
            next_iterator=body.NextShardIterator,
            at_tip=None if body.MillisBehindLatest is None else body.MillisBehindLatest == 0,
            bytes=sum(len(record.Data) for record in body.Records),
        )
        for record in body.Records:
            _sort(page, record, shard)
        return page

    def _count(self, page: _Page, share: _Share) -> None:
        with self._lock:
            self.foreign.update(page.foreign)
            self.precisions.update(share.precisions)
            for name, count in page.others.items():
                if name not in self._pages.tables:
                    self.tables[name] += count

    def whole(self, page: RecordPage) -> RecordPage:
        """The page as it is: its records carry whole items."""
        return page


def _sort(page: _Page, record: _Data, shard: str) -> None:
    """Puts a record to those of its table, or counts it as nobody's."""
    if len(record.SequenceNumber) > SEQUENCE_DIGITS:
        raise Terminal(
            f"Shard {shard} has the sequence number {record.SequenceNumber}, of more than"
            f" {SEQUENCE_DIGITS} digits.",
            "No such number is known; report this.",
        )
    if record.Data.startswith(AGGREGATED):
        raise Terminal(
            f"Record {record.SequenceNumber} of shard {shard} was aggregated by the Kinesis"
            " Producer Library (KPL); DynamoDB sends none such, so another program writes to this"
            " stream, and what is packed in its records cannot be told.",
            "Give that program a stream of its own. If the records are not this table's, stream"
            " the table to another stream, and materialize its base again.",
        )
    try:
        found = _records.decode(record.Data)
    except msgspec.ValidationError:
        page.foreign["JSON of another kind"] += 1
        return
    except (msgspec.DecodeError, UnicodeDecodeError):
        page.foreign["no JSON"] += 1
        return
    share = page.shares.get(found.table)
    if share is None:
        page.others[found.table] += 1
        return
    share.lines.append(_line(record))
    share.times.append(_time(found.dynamodb))
    share.precisions[found.dynamodb.ApproximateCreationDateTimePrecision] += 1


def _line(record: _Data) -> bytes:
    """The record's JSON, one more member at its head, on one line."""
    rest = record.Data.strip()[1:].replace(b"\n", b" ").replace(b"\r", b" ")
    return b'{"%s":"%s",%s\n' % (SEQUENCE.encode(), record.SequenceNumber.encode(), rest)


def _time(change: _Change) -> datetime:
    micro = change.ApproximateCreationDateTimePrecision == MICROSECOND
    return datetime.fromtimestamp(
        change.ApproximateCreationDateTime / (1_000_000 if micro else 1_000), UTC
    )


def _undecrypted(error: Terminal) -> TailraceError | None:
    """What it means that a stream's key cannot be used."""
    code = code_of(error)
    if code == "KMSThrottlingException":
        return Retryable(error.message, "AWS asks to slow down; run again.")
    if code == "KMSAccessDeniedException":
        return AccessDenied(
            error.message,
            "Allow kms:Decrypt on the key of the Kinesis stream (docs/iam.md has the policy).",
        )
    if code.startswith("KMS"):
        return Terminal(
            error.message,
            "The key that the Kinesis stream is encrypted with cannot be used: enable it, or give"
            " the stream another one.",
        )
    return None

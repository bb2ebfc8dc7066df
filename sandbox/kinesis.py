"""Kinesis Data Streams, as far as DynamoDB writes to it and a replication reads from it.

moto's own is not used where order matters: its sequence numbers begin with 1 in every shard, its
closed shards never end, its iterators never expire, and a split moves the records of the parent.
`data_of` is a change as DynamoDB sends it. The caller holds the server's lock."""

from __future__ import annotations

import base64
import uuid
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any, NamedTuple

import msgspec

from sandbox.clock import Clock
from sandbox.errors import AwsError
from sandbox.streams import HASH_SPACE, Change

ACCOUNT = "123456789012"
HOUR = 3_600_000_000
ITERATOR_MICROS = 5 * 60 * 1_000_000
MAX_RECORDS = 10_000
MAX_BYTES = 10 * 1024 * 1024
SHARDS_PER_PAGE = 1000
FIRST_SEQUENCE = 49 * 10**54  # of 56 digits, as AWS's

Body = dict[str, Any]


class Record(NamedTuple):
    sequence: int
    arrived: int
    partition_key: str
    data: bytes


@dataclass
class Shard:
    """A range of the hash space; `parents` are two where it was made by a merge."""

    id: str
    parents: tuple[str, ...]
    low: int
    high: int
    created: int
    first: int
    last: int | None = None
    closed_at: int | None = None
    records: list[Record] = field(default_factory=list)

    def describe(self) -> Body:
        numbers = {"StartingSequenceNumber": str(self.first)}
        if self.last is not None:
            numbers["EndingSequenceNumber"] = str(self.last)
        names = ("ParentShardId", "AdjacentParentShardId")
        return {
            "ShardId": self.id,
            "HashKeyRange": {
                "StartingHashKey": str(self.low),
                "EndingHashKey": str(self.high - 1),
            },
            "SequenceNumberRange": numbers,
            **dict(zip(names, self.parents, strict=False)),
        }


@dataclass
class Stream:
    """One stream: times in microseconds."""

    name: str
    region: str
    created: int
    retention_hours: int = 24
    shards: dict[str, Shard] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return f"arn:aws:kinesis:{self.region}:{ACCOUNT}:stream/{self.name}"

    def open_shards(self) -> list[Shard]:
        return [shard for shard in self.shards.values() if shard.last is None]

    def settle(self, now: int) -> None:
        """Forgets what the retention took."""
        horizon = now - self.retention_hours * HOUR
        for shard in list(self.shards.values()):
            gone = bisect_left(shard.records, horizon, key=lambda record: record.arrived)
            del shard.records[:gone]
            if shard.closed_at is not None and shard.closed_at < horizon:
                del self.shards[shard.id]


class Kinesis:
    """One account's streams, by region and name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.streams: dict[tuple[str, str], Stream] = {}
        self._numbers = 0
        self._shards = 0

    def answer(self, operation: str, region: str, body: Body) -> Body:
        """The answer to a request. Raises AwsError."""
        handler: Callable[[Kinesis, str, Body], Body] | None = _OPERATIONS.get(operation)
        if handler is None:
            raise AwsError(
                "UnknownOperationException", f"the sandbox's Kinesis serves no {operation}"
            )
        return handler(self, region, body)

    # Streams and shards

    def create_stream(self, region: str, body: Body) -> Body:
        name = body["StreamName"]
        if (region, name) in self.streams:
            raise AwsError("ResourceInUseException", f"Stream {name} already exists")
        stream = Stream(name, region, self.clock.tick())
        count = body.get("ShardCount") or 4
        for index in range(count):
            edges = (HASH_SPACE * index // count, HASH_SPACE * (index + 1) // count)
            self._open(stream, (), *edges)
        self.streams[region, name] = stream
        return {}

    def delete_stream(self, region: str, body: Body) -> Body:
        del self.streams[region, self._stream(region, body).name]
        return {}

    def describe_stream_summary(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        return {
            "StreamDescriptionSummary": {
                "StreamName": stream.name,
                "StreamARN": stream.arn,
                "StreamStatus": "ACTIVE",
                "StreamModeDetails": {"StreamMode": "PROVISIONED"},
                "RetentionPeriodHours": stream.retention_hours,
                "StreamCreationTimestamp": stream.created / 1_000_000,
                "EnhancedMonitoring": [],
                "EncryptionType": "NONE",
                "OpenShardCount": len(stream.open_shards()),
            }
        }

    def retention(self, region: str, body: Body) -> Body:
        hours = body["RetentionPeriodHours"]
        if not 24 <= hours <= 8760:
            raise _invalid(f"Retention of {hours} hours: from 24 to 8760 are possible.")
        self._stream(region, body).retention_hours = hours
        return {}

    def list_shards(self, region: str, body: Body) -> Body:
        if "NextToken" in body:
            arn, after, kept = msgspec.json.decode(base64.b64decode(body["NextToken"]))
            found = self._stream(region, {"StreamARN": arn})
            shards = [each for each in found.shards.values() if each.id in kept]
            shards = [shard for shard in shards if shard.id > after]
        else:
            found = self._stream(region, body)
            shards = self._filtered(found, body.get("ShardFilter") or {})
        shards.sort(key=lambda shard: shard.id)
        page = shards[: min(body.get("MaxResults", SHARDS_PER_PAGE), SHARDS_PER_PAGE)]
        answer: Body = {"Shards": [shard.describe() for shard in page]}
        if len(page) < len(shards):
            kept = [shard.id for shard in shards]
            token = msgspec.json.encode([found.arn, page[-1].id, kept])
            answer["NextToken"] = base64.b64encode(token).decode()
        return answer

    def _filtered(self, stream: Stream, only: Body) -> list[Shard]:
        shards = list(stream.shards.values())
        if only.get("Type") == "AFTER_SHARD_ID":
            return [shard for shard in shards if shard.id > only["ShardId"]]
        if only.get("Type") == "FROM_TIMESTAMP":
            since = int(only["Timestamp"] * 1_000_000)
            return [x for x in shards if x.closed_at is None or x.closed_at >= since]
        return shards

    def split_shard(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        shard = self._open_shard(stream, body["ShardToSplit"])
        middle = int(body["NewStartingHashKey"])
        if not shard.low < middle < shard.high:
            raise _invalid(f"NewStartingHashKey {middle} is not within shard {shard.id}.")
        self._close(shard)
        self._open(stream, (shard.id,), shard.low, middle)
        self._open(stream, (shard.id,), middle, shard.high)
        return {}

    def merge_shards(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        one = self._open_shard(stream, body["ShardToMerge"])
        other = self._open_shard(stream, body["AdjacentShardToMerge"])
        if one.high != other.low and other.high != one.low:
            raise _invalid(f"{one.id} and {other.id} are not adjacent.")
        self._close(one)
        self._close(other)
        edges = (min(one.low, other.low), max(one.high, other.high))
        self._open(stream, (one.id, other.id), *edges)
        return {}

    def _open(self, stream: Stream, parents: tuple[str, ...], low: int, high: int) -> Shard:
        shard = Shard(
            f"shardId-{self._shards:012d}", parents, low, high, self.clock.tick(), self._sequence()
        )
        self._shards += 1
        stream.shards[shard.id] = shard
        return shard

    def _close(self, shard: Shard) -> None:
        shard.last, shard.closed_at = self._sequence(), self.clock.tick()

    def _sequence(self) -> int:
        self._numbers += 7
        return FIRST_SEQUENCE + self._numbers

    # Records

    def put_record(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        return self.put(stream, base64.b64decode(body["Data"]), body["PartitionKey"])

    def put_records(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        put = [
            self.put(stream, base64.b64decode(each["Data"]), each["PartitionKey"])
            for each in body["Records"]
        ]
        return {"FailedRecordCount": 0, "Records": put}

    def put(self, stream: Stream, data: bytes, partition_key: str) -> Body:
        """A record at the end of the shard whose range its key falls into."""
        digest = int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest())
        shard = next(each for each in stream.open_shards() if each.low <= digest < each.high)
        record = Record(self._sequence(), self.clock.now(), partition_key, data)
        shard.records.append(record)
        return {"ShardId": shard.id, "SequenceNumber": str(record.sequence)}

    def get_shard_iterator(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body)
        shard = self._shard(stream, body["ShardId"])
        kind, records = body["ShardIteratorType"], shard.records
        if kind in ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"):
            number = int(body["StartingSequenceNumber"])
            if number < shard.first or (shard.last is not None and number > shard.last):
                raise _invalid(
                    f"StartingSequenceNumber {number} used in GetShardIterator on shard"
                    f" {shard.id} in stream {stream.name} is invalid."
                )
            # What was trimmed is skipped without a word.
            start = number + (kind == "AFTER_SEQUENCE_NUMBER")
        elif kind == "AT_TIMESTAMP":
            at = int(body["Timestamp"] * 1_000_000)
            index = bisect_left(records, at, key=lambda record: record.arrived)
            start = records[index].sequence if index < len(records) else self._numbers_end()
        elif kind == "LATEST":
            start = self._numbers_end()
        elif kind == "TRIM_HORIZON":
            start = shard.first
        else:
            raise _invalid(f"Invalid ShardIteratorType: {kind}")
        return {"ShardIterator": self._token(stream, shard, start)}

    def _numbers_end(self) -> int:
        return FIRST_SEQUENCE + self._numbers + 1

    def get_records(self, region: str, body: Body) -> Body:
        arn, shard_id, start, issued = msgspec.json.decode(base64.b64decode(body["ShardIterator"]))
        if issued + ITERATOR_MICROS < self.clock.now():
            raise AwsError("ExpiredIteratorException", "Iterator expired. The iterator was created")
        limit = body.get("Limit", MAX_RECORDS)
        if not 1 <= limit <= MAX_RECORDS:
            raise _invalid(f"Limit {limit} is not between 1 and {MAX_RECORDS}")
        stream = self._stream(region, {"StreamARN": arn})
        shard = self._shard(stream, shard_id)
        records = shard.records
        index = bisect_left(records, int(start), key=lambda record: record.sequence)
        page: list[Record] = []
        size = 0
        for record in records[index : index + limit]:
            if page and size + len(record.data) > MAX_BYTES:
                break
            page.append(record)
            size += len(record.data)
        after = page[-1].sequence + 1 if page else int(start)
        left = index + len(page) < len(records)
        behind = (self.clock.now() - records[index + len(page)].arrived) // 1000 if left else -1
        answer: Body = {
            "Records": [_shown(record) for record in page],
            "MillisBehindLatest": max(behind + 1, 0),
        }
        if shard.last is None or left:
            answer["NextShardIterator"] = self._token(stream, shard, after)
        else:
            answer["ChildShards"] = [
                {"ShardId": each.id, "ParentShards": list(each.parents)}
                for each in stream.shards.values()
                if shard.id in each.parents
            ]
        return answer

    def _token(self, stream: Stream, shard: Shard, start: int) -> str:
        token = msgspec.json.encode([stream.arn, shard.id, str(start), self.clock.now()])
        return base64.b64encode(token).decode()

    # What the operations share

    def by_arn(self, arn: str) -> Stream | None:
        """The stream of an ARN, brought to now."""
        found = next((each for each in self.streams.values() if each.arn == arn), None)
        if found is not None:
            found.settle(self.clock.now())
        return found

    def _stream(self, region: str, body: Body) -> Stream:
        name = body.get("StreamName")
        arn = body.get("StreamARN") or f"arn:aws:kinesis:{region}:{ACCOUNT}:stream/{name}"
        found = self.by_arn(arn)
        if found is None:
            raise AwsError(
                "ResourceNotFoundException",
                f"Stream {arn.rpartition('/')[2]} under account {ACCOUNT} not found.",
            )
        return found

    def _shard(self, stream: Stream, shard_id: str) -> Shard:
        if shard_id not in stream.shards:
            raise AwsError(
                "ResourceNotFoundException",
                f"Shard {shard_id} in stream {stream.name} under account {ACCOUNT} does not exist",
            )
        return stream.shards[shard_id]

    def _open_shard(self, stream: Stream, shard_id: str) -> Shard:
        shard = self._shard(stream, shard_id)
        if shard.last is not None:
            raise _invalid(f"Shard {shard_id} has already been merged or split.")
        return shard


_OPERATIONS: dict[str, Callable[[Kinesis, str, Body], Body]] = {
    "CreateStream": Kinesis.create_stream,
    "DecreaseStreamRetentionPeriod": Kinesis.retention,
    "DeleteStream": Kinesis.delete_stream,
    "DescribeStreamSummary": Kinesis.describe_stream_summary,
    "GetRecords": Kinesis.get_records,
    "GetShardIterator": Kinesis.get_shard_iterator,
    "IncreaseStreamRetentionPeriod": Kinesis.retention,
    "ListShards": Kinesis.list_shards,
    "MergeShards": Kinesis.merge_shards,
    "PutRecord": Kinesis.put_record,
    "PutRecords": Kinesis.put_records,
    "SplitShard": Kinesis.split_shard,
}


def data_of(
    change: Change,
    table: str,
    region: str,
    *,
    microseconds: bool,
    event_id: str | None = None,
) -> bytes:
    """A change as DynamoDB sends it to Kinesis: no sequence number, both images."""
    name = "MODIFY" if change.old and change.new else "INSERT" if change.new else "REMOVE"
    body: Body = {
        "ApproximateCreationDateTime": change.micros // (1 if microseconds else 1000),
        "Keys": msgspec.Raw(change.keys),
        "SizeBytes": len(change.keys),
    }
    if microseconds:
        body["ApproximateCreationDateTimePrecision"] = "MICROSECOND"
    for member, image in (("NewImage", change.new), ("OldImage", change.old)):
        if image:
            body[member] = msgspec.Raw(image.raw)
            body["SizeBytes"] += image.size
    identity = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    return msgspec.json.encode(
        {
            "awsRegion": region,
            "eventID": event_id or str(uuid.uuid4()),
            "eventName": name,
            "userIdentity": identity if change.by_ttl else None,
            "recordFormat": "application/json",
            "tableName": table,
            "dynamodb": body,
            "eventSource": "aws:dynamodb",
        }
    )


def partition_key_of(change: Change) -> str:
    """What spreads a table's changes over the shards: changes of one key meet in one."""
    return md5(change.keys, usedforsecurity=False).hexdigest()


def _shown(record: Record) -> Body:
    return {
        "SequenceNumber": str(record.sequence),
        "ApproximateArrivalTimestamp": record.arrived / 1_000_000,
        "Data": base64.b64encode(record.data).decode(),
        "PartitionKey": record.partition_key,
    }


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidArgumentException", message)

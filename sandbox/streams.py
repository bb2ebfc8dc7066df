"""DynamoDB Streams: shards that rotate and split, sequence numbers, iterators, retention.

One `Stream` is one stream ARN. It is handed changes by its table and answers DescribeStream,
GetShardIterator and GetRecords for the dispatcher in `sandbox.dynamodb`. The caller holds the
server's lock."""

from __future__ import annotations

import base64
import secrets
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from sandbox.errors import AwsError, validation

HASH_SPACE = 1 << 128
MAX_RECORDS = 1000
MAX_RECORD_BYTES = 1_000_000
SHARDS_PER_PAGE = 100
ROTATE_MICROS = 4 * 3600 * 1_000_000
ITERATOR_MICROS = 15 * 60 * 1_000_000
# The 22nd digit comes within the first thousand records: numbers that are compared as text fail.
FIRST_SEQUENCE = 10**21 - 30_000


class Image(NamedTuple):
    """An item as stored: its JSON, and its size as DynamoDB counts it."""

    raw: bytes
    size: int


class Change(NamedTuple):
    """One write that changed something. `keys` is the JSON of the key attributes, `position` the
    key's place in the table (hash first), `micros` unique in the table."""

    micros: int
    position: tuple[Any, ...]
    keys: bytes
    old: Image | None
    new: Image | None
    by_ttl: bool = False


class Record(NamedTuple):
    sequence: int
    event_id: str
    change: Change


@dataclass
class Shard:
    """A range of the key hash space and the records that fell into it while it was open."""

    id: str
    parent: str | None
    low: int
    high: int
    created: int
    first: int
    last: int | None = None
    closed_at: int | None = None
    records: list[Record] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": str(self.first)}
        if self.last is not None:
            numbers["EndingSequenceNumber"] = str(self.last)
        parent = {"ParentShardId": self.parent} if self.parent else {}
        return {"ShardId": self.id, "SequenceNumberRange": numbers, **parent}

    def index_of(self, sequence: int) -> int:
        return bisect_left(self.records, sequence, key=lambda record: record.sequence)

    def index_at(self, micros: int) -> int:
        return bisect_left(self.records, micros, key=lambda record: record.change.micros)


@dataclass
class Stream:
    """One stream of one table. `retention_micros` and `rotate_micros` are AWS's unless a test
    changes them; `disabled_at` is when it was switched off, after which it can still be read."""

    table_name: str
    table_arn: str
    key_schema: list[dict[str, str]]
    region: str
    label: str
    view_type: str
    created: int
    retention_micros: int = 24 * 3600 * 1_000_000
    rotate_micros: int = ROTATE_MICROS
    disabled_at: int | None = None
    shards: dict[str, Shard] = field(default_factory=dict)
    next_sequence: int = FIRST_SEQUENCE

    @property
    def arn(self) -> str:
        return f"{self.table_arn}/stream/{self.label}"

    def open_shards(self) -> list[Shard]:
        return [shard for shard in self.shards.values() if shard.last is None]

    def open(self, parent: Shard | None, low: int, high: int, now: int) -> Shard:
        shard = Shard(
            id=f"shardId-{now // 1000:020d}-{secrets.token_hex(4)}",
            parent=parent.id if parent else None,
            low=low,
            high=high,
            created=now,
            first=self._sequence(),
        )
        self.shards[shard.id] = shard
        return shard

    def close(self, shard: Shard, now: int) -> None:
        shard.last = shard.records[-1].sequence if shard.records else self._sequence()
        shard.closed_at = now

    def divide(self, shard: Shard, children: int, now: int) -> None:
        """Closes `shard` and opens `children` shards (1: a rotation, 2: a split) in its place."""
        self.close(shard, now)
        width = (shard.high - shard.low) // children
        for child in range(children):
            low = shard.low + child * width
            high = shard.high if child == children - 1 else low + width
            self.open(shard, low, high, now)

    def disable(self, now: int) -> None:
        for shard in self.open_shards():
            self.close(shard, now)
        self.disabled_at = now

    def add(self, change: Change, digest: int) -> None:
        shard = next(s for s in self.open_shards() if s.low <= digest < s.high)
        shard.records.append(Record(self._sequence(), secrets.token_hex(16), change))

    def settle(self, now: int) -> None:
        """Brings the shards to `now`: rotations that fell due, shards whose retention ended."""
        if self.disabled_at is None:
            for shard in self.open_shards():
                while shard.created + self.rotate_micros <= now:
                    due = shard.created + self.rotate_micros
                    self.divide(shard, 1, due)
                    shard = next(s for s in self.open_shards() if s.parent == shard.id)
        for shard in list(self.shards.values()):
            if shard.closed_at is not None and shard.closed_at < now - self.retention_micros:
                del self.shards[shard.id]

    def expired(self, now: int) -> bool:
        return self.disabled_at is not None and self.disabled_at < now - self.retention_micros

    def describe(self, limit: int, after: str | None, children_of: str | None) -> dict[str, Any]:
        shards = sorted(self.shards.values(), key=lambda shard: shard.id)
        if children_of is not None:
            shards = [shard for shard in shards if shard.parent == children_of]
        if after is not None:
            # Where retention took `after` between two pages, the listing goes on all the same:
            # ids begin with the time of birth.
            shards = [shard for shard in shards if shard.id > after]
        page = shards[: min(limit, SHARDS_PER_PAGE)]
        more = {"LastEvaluatedShardId": page[-1].id} if len(page) < len(shards) else {}
        return {
            "StreamArn": self.arn,
            "StreamLabel": self.label,
            "StreamStatus": "ENABLED" if self.disabled_at is None else "DISABLED",
            "StreamViewType": self.view_type,
            "CreationRequestDateTime": self.created / 1_000_000,
            "TableName": self.table_name,
            "KeySchema": self.key_schema,
            "Shards": [shard.describe() for shard in page],
            **more,
        }

    def iterator(self, shard_id: str, kind: str, sequence: str | None, now: int) -> str:
        shard = self._shard(shard_id)
        trimmed = self._trimmed_through(shard, now)
        if kind == "TRIM_HORIZON":
            start = trimmed + 1
        elif kind == "LATEST":
            start = self.next_sequence
        elif kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            start = self._checked(shard, sequence, trimmed) + (kind == "AFTER_SEQUENCE_NUMBER")
        else:
            raise validation(
                f"1 validation error detected: Value '{kind}' at 'shardIteratorType' failed to "
                "satisfy constraint: Member must satisfy enum value set: [AT_SEQUENCE_NUMBER, "
                "TRIM_HORIZON, LATEST, AFTER_SEQUENCE_NUMBER]"
            )
        return self._token(shard.id, start, now)

    def read(self, shard_id: str, start: int, limit: int, now: int) -> dict[str, Any]:
        """The records from sequence number `start` on, at most `limit` and 1 MB of them."""
        shard = self._shard(shard_id)
        if start <= self._trimmed_through(shard, now):
            raise _trimmed()
        index = shard.index_of(start)
        records: list[msgspec.Raw] = []
        size = 0
        for record in shard.records[index : index + limit]:
            raw = self._encoded(record)
            if records and size + len(raw) > MAX_RECORD_BYTES:
                break
            records.append(msgspec.Raw(raw))
            size += len(raw)
        following = index + len(records)
        answer: dict[str, Any] = {"Records": records}
        if shard.last is None or following < len(shard.records):
            last = shard.records[following - 1].sequence + 1 if records else start
            answer["NextShardIterator"] = self._token(shard.id, last, now)
        return answer

    def _shard(self, shard_id: str) -> Shard:
        if shard_id not in self.shards:
            raise AwsError(
                "ResourceNotFoundException",
                f"Requested resource not found: Shard: {shard_id} in Stream: {self.arn} not found",
            )
        return self.shards[shard_id]

    def _trimmed_through(self, shard: Shard, now: int) -> int:
        """The last sequence number of the shard that retention took, 0 if none."""
        gone = shard.index_at(now - self.retention_micros)
        return shard.records[gone - 1].sequence if gone else 0

    def _checked(self, shard: Shard, sequence: str | None, trimmed: int) -> int:
        if not sequence or not sequence.isdecimal():
            raise validation(f"Invalid SequenceNumber: {sequence}")
        number = int(sequence)
        if number <= trimmed or number < shard.first:
            raise _trimmed()
        if shard.last is not None and number > shard.last:
            raise validation(f"SequenceNumber {sequence} is after the end of shard {shard.id}")
        return number

    def _token(self, shard_id: str, start: int, now: int) -> str:
        token = msgspec.json.encode([shard_id, str(start), now, secrets.token_hex(4)])
        return f"{self.arn}|1|{base64.b64encode(token).decode()}"

    def _sequence(self) -> int:
        number = self.next_sequence
        self.next_sequence += 1 + secrets.randbelow(97)
        return number

    def _encoded(self, record: Record) -> bytes:
        change = record.change
        name = "MODIFY" if change.old and change.new else "INSERT" if change.new else "REMOVE"
        body: dict[str, Any] = {
            "ApproximateCreationDateTime": change.micros // 1_000_000,
            "Keys": msgspec.Raw(change.keys),
            "SequenceNumber": str(record.sequence),
            "SizeBytes": len(change.keys),
            "StreamViewType": self.view_type,
        }
        if change.new and self.view_type in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"):
            body["NewImage"] = msgspec.Raw(change.new.raw)
            body["SizeBytes"] += change.new.size
        if change.old and self.view_type in ("OLD_IMAGE", "NEW_AND_OLD_IMAGES"):
            body["OldImage"] = msgspec.Raw(change.old.raw)
            body["SizeBytes"] += change.old.size
        identity = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
        return msgspec.json.encode(
            {
                "awsRegion": self.region,
                "dynamodb": body,
                "eventID": record.event_id,
                "eventName": name,
                "eventSource": "aws:dynamodb",
                "eventVersion": "1.1",
                **({"userIdentity": identity} if change.by_ttl else {}),
            }
        )


def parse_iterator(token: str, now: int) -> tuple[str, str, int]:
    """(stream ARN, shard id, first sequence number) of an iterator.

    Raises ExpiredIteratorException after 15 minutes, ValidationException for no iterator."""
    try:
        arn, version, encoded = token.split("|", 2)
        shard_id, start, issued, _ = msgspec.json.decode(base64.b64decode(encoded))
    except ValueError:
        raise validation("Invalid ShardIterator") from None
    if version != "1":
        raise validation("Invalid ShardIterator")
    if issued + ITERATOR_MICROS < now:
        raise AwsError("ExpiredIteratorException", "The shard iterator is expired")
    return arn, shard_id, int(start)


def _trimmed() -> AwsError:
    return AwsError(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard",
    )

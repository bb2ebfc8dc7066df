"""Records of streams that wait for a commit, taken apart into columns.

A record is read once: what its place in the order needs becomes columns, and its key and its images
stay the JSON texts that came, put together in one buffer each. What they say is the warehouse's
business (tailrace.lake.landing); which records there are, that of those who read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.lines import Lines

# Members that are no one's but ours: a record of an item that was looked up, because its stream
# carries no images, and a Kinesis record's sequence number, which stands beside its data.
LOOKED_UP = "lookedUp"
SEQUENCE = "sequenceNumber"

READ, REMOVE = "READ", "REMOVE"
MICROSECOND = "MICROSECOND"

# Whoever deletes an item because its time to live is over.
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/time-to-live-ttl-streams.html
TTL_PRINCIPAL = "dynamodb.amazonaws.com"

NO_TIME = -1

_NOTHING = msgspec.Raw(b"")


class Change(msgspec.Struct, gc=False):
    """What a record says of the change itself; its time is in seconds or, if it comes from
    Kinesis, in the units of its precision."""

    time: float | None = msgspec.field(default=None, name="ApproximateCreationDateTime")
    precision: str = msgspec.field(
        default="MILLISECOND", name="ApproximateCreationDateTimePrecision"
    )
    keys: msgspec.Raw = msgspec.field(default=_NOTHING, name="Keys")
    new_image: msgspec.Raw = msgspec.field(default=_NOTHING, name="NewImage")
    old_image: msgspec.Raw = msgspec.field(default=_NOTHING, name="OldImage")
    sequence: str = msgspec.field(default="", name="SequenceNumber")


class Identity(msgspec.Struct, gc=False):
    """Who made a change, where it was a service. AWS's API model says PrincipalId, the events that
    AWS shows say principalId."""

    principalId: str | None = None  # noqa: N815
    PrincipalId: str | None = None

    @property
    def is_ttl(self) -> bool:
        """True where the item had expired."""
        return TTL_PRINCIPAL in (self.principalId, self.PrincipalId)


class Record(msgspec.Struct, gc=False):
    """A record as DynamoDB sends it, to its own stream or to Kinesis. Nothing need be there: what
    lacks its key or its place in the order is refused where it lands."""

    op: str = msgspec.field(default="", name="eventName")
    id: str = msgspec.field(default="", name="eventID")
    table: str = msgspec.field(default="", name="tableName")
    sequence: str = msgspec.field(default="", name=SEQUENCE)
    identity: Identity | None = msgspec.field(default=None, name="userIdentity")
    looked_up: bool = msgspec.field(default=False, name=LOOKED_UP)
    change: Change = msgspec.field(default_factory=Change, name="dynamodb")


class Written(msgspec.Struct, gc=False):
    """When an item was last written, in microseconds since 1970, as DynamoDB writes a number."""

    micros: str = msgspec.field(default="", name="N")


class Metadata(msgspec.Struct, gc=False):
    """What an incremental export says of a change itself."""

    written: Written = msgspec.field(default_factory=Written, name="WriteTimestampMicros")


class ExportedChange(msgspec.Struct, gc=False):
    """A line of an incremental export: a key's state at the end of its window, without a new image
    if it was deleted in it."""

    metadata: Metadata = msgspec.field(default_factory=Metadata, name="Metadata")
    keys: msgspec.Raw = msgspec.field(default=_NOTHING, name="Keys")
    new_image: msgspec.Raw = msgspec.field(default=_NOTHING, name="NewImage")
    old_image: msgspec.Raw = msgspec.field(default=_NOTHING, name="OldImage")


_records = msgspec.json.Decoder(Record)
_exported = msgspec.json.Decoder(ExportedChange)


def records_of(text: bytes) -> list[Record]:
    """The records in a text, one behind the other, with white space between them or none.

    Raises ValueError or RecursionError where it holds anything else."""
    return _records.decode_lines(text)


class ChangeRow(NamedTuple):
    """One record: JSON texts are None where it has none."""

    op: str
    position: str
    micros: int
    keys: bytes | None
    image: bytes | None
    old_image: bytes | None
    expired: bool
    looked_up: bool


@dataclass(frozen=True, eq=False)
class Changes:
    """Columns of records, in their order. `ops` are eventName, `positions` what tells apart records
    of one time (digits, or Kinesis' eventID without its hyphens), `micros` their times since 1970
    in microseconds, NO_TIME where there is none. A text that is empty is missing; a REMOVE has no
    image. `coarse` counts those with times in milliseconds."""

    ops: Lines
    positions: Lines
    micros: NDArray[np.int64]
    keys: Lines
    images: Lines
    old_images: Lines
    expired: NDArray[np.bool_]
    looked_up: NDArray[np.bool_]
    coarse: int = 0

    @classmethod
    def of_stream(cls, records: Sequence[Record]) -> Changes:
        """Of a table's own stream: times are in seconds. Raises ValueError for what is no UTF-8."""
        positions = [each.change.sequence for each in records]
        return cls._of(records, positions, np.float64(1_000_000), 0)

    @classmethod
    def of_kinesis(cls, records: Sequence[Record]) -> Changes:
        """As DynamoDB sends them to Kinesis. Raises ValueError for what is no UTF-8."""
        positions = [each.sequence or each.id.replace("-", "") for each in records]
        precise = np.array([each.change.precision == MICROSECOND for each in records], bool)
        coarse = len(records) - int(precise.sum())
        return cls._of(records, positions, np.where(precise, 1.0, 1_000.0), coarse)

    @classmethod
    def of_export(cls, lines: Lines) -> Changes:
        """Of the lines of an incremental export. Raises ValueError for what is none."""
        changes = [_exported.decode(line) for line in lines]
        positions = [each.metadata.written.micros for each in changes]
        records = [
            Record(
                op=READ if each.new_image else REMOVE,
                change=Change(
                    time=float(written) if written else None,
                    keys=each.keys,
                    new_image=each.new_image,
                    old_image=each.old_image,
                ),
            )
            for each, written in zip(changes, positions, strict=True)
        ]
        return cls._of(records, positions, np.float64(1), 0)

    @classmethod
    def _of(
        cls,
        records: Sequence[Record],
        positions: list[str],
        micros: np.float64 | NDArray[np.float64],
        coarse: int,
    ) -> Changes:
        ops = [each.op for each in records]
        changes = [each.change for each in records]
        times = np.array([each.time for each in changes], np.float64)  # None becomes NaN
        images = [each.new_image for each in changes]
        if REMOVE in ops:
            images = [
                _NOTHING if op == REMOVE else image for op, image in zip(ops, images, strict=True)
            ]
        old_images = Lines.joined([each.old_image for each in changes])
        _require_utf8(old_images.data)  # keys and images are looked into before they land
        expired = [
            each.identity is not None and each.op == REMOVE and each.identity.is_ttl
            for each in records
        ]
        return cls(
            ops=Lines.joined(map(str.encode, ops)),
            positions=Lines.joined(map(str.encode, positions)),
            micros=np.where(np.isnan(times), NO_TIME, np.rint(times * micros)).astype(np.int64),
            keys=Lines.joined([each.keys for each in changes]),
            images=Lines.joined(images),
            old_images=old_images,
            expired=np.array(expired, bool),
            looked_up=np.array([each.looked_up for each in records], bool),
            coarse=coarse,
        )

    @property
    def texts(self) -> tuple[Lines, ...]:
        """The columns of texts, in the order of the class."""
        return self.ops, self.positions, self.keys, self.images, self.old_images

    def with_views(self) -> Changes:
        """The same, with the views of all texts made, as Lines.with_views."""
        for each in self.texts:
            each.with_views()
        return self

    def __len__(self) -> int:
        return len(self.micros)

    def __iter__(self) -> Iterator[ChangeRow]:
        texts = zip(self.ops, self.positions, self.keys, self.images, self.old_images, strict=True)
        others = zip(
            self.micros.tolist(), self.expired.tolist(), self.looked_up.tolist(), strict=True
        )
        for (op, position, keys, image, old), (micros, expired, looked_up) in zip(
            texts, others, strict=True
        ):
            yield ChangeRow(
                op.decode(), position.decode(), micros, keys or None, image or None, old or None,
                expired, looked_up,
            )  # fmt: skip

    @property
    def bytes(self) -> int:
        """The bytes of all keys and images."""
        return self.keys.bytes + self.images.bytes + self.old_images.bytes


def _require_utf8(data: bytes | memoryview) -> None:
    if not (isinstance(data, bytes) and data.isascii()):
        str(data, "utf-8")

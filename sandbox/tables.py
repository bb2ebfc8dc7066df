"""One table in memory: its items in hash order, a journal of every change with its microsecond,
and its streams. Scan pages, segments, point-in-time states and windows of changes follow from
those. The dispatcher in `sandbox.dynamodb` checks requests and holds the server's lock."""

from __future__ import annotations

import hashlib
import uuid
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from sandbox.errors import validation
from sandbox.streams import HASH_SPACE, Change, Image, Stream
from sandbox.values import normal_number, stored_item
from tailrace.canonical import binary, canonical_item

ACCOUNT = "123456789012"
PAGE_BYTES = 1_000_000


class ScanPage(NamedTuple):
    """Up to 1 MB of stored items; `last_key` (JSON) is where the next page goes on."""

    items: list[Image]
    last_key: bytes | None


@dataclass
class Destination:
    """A Kinesis stream that a table streams to, by its ARN in `Table.destinations`."""

    status: str = "ACTIVE"
    microseconds: bool = False


@dataclass
class Table:
    """`key_schema` is as CreateTable has it. `pitr_since` is when PITR was switched on, in
    microseconds, None while it is off."""

    name: str
    region: str
    key_schema: list[dict[str, str]]
    definitions: list[dict[str, str]]
    created: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    billing_mode: str = "PAY_PER_REQUEST"
    items: dict[tuple[Any, ...], Image] = field(default_factory=dict)
    order: list[tuple[Any, ...]] = field(default_factory=list)
    journal: list[Change] = field(default_factory=list)
    stream: Stream | None = None
    past_streams: list[Stream] = field(default_factory=list)
    pitr_since: int | None = None
    pitr_days: int = 35
    ttl_attribute: str | None = None
    counted: tuple[int, int, int] = (0, 0, 0)
    destinations: dict[str, Destination] = field(default_factory=dict)
    send: Callable[[Table, Change], None] = lambda table, change: None

    def __post_init__(self) -> None:
        types = {a["AttributeName"]: a["AttributeType"] for a in self.definitions}
        self.key = [
            (k["AttributeName"], types[k["AttributeName"]])
            for k in sorted(self.key_schema, key=lambda k: k["KeyType"] != "HASH")
        ]

    @property
    def arn(self) -> str:
        return f"arn:aws:dynamodb:{self.region}:{ACCOUNT}:table/{self.name}"

    def streams(self) -> list[Stream]:
        return [*self.past_streams, *([self.stream] if self.stream else [])]

    def enable_stream(self, view_type: str, shards: int, now: int) -> None:
        moment = datetime.fromtimestamp(now / 1_000_000, UTC)
        self.stream = Stream(
            table_name=self.name,
            table_arn=self.arn,
            key_schema=self.key_schema,
            region=self.region,
            label=moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3],
            view_type=view_type,
            created=now,
        )
        for index in range(shards):
            low, high = HASH_SPACE * index // shards, HASH_SPACE * (index + 1) // shards
            self.stream.open(None, low, high, now)

    def disable_stream(self, now: int) -> None:
        if self.stream is not None:
            self.stream.disable(now)
            self.past_streams.append(self.stream)
            self.stream = None

    def position(self, item: dict[str, Any], *, key_only: bool) -> tuple[Any, ...]:
        """Where the item with these key attributes stands in the table.

        Raises ValidationException if they are missing, of another type, or empty; with `key_only`
        also if there are other attributes."""
        if key_only and set(item) != {name for name, _ in self.key}:
            raise validation("The provided key element does not match the schema")
        parts = []
        for name, expected in self.key:
            if name not in item:
                raise validation(
                    f"One or more parameter values were invalid: Missing the key {name} in the item"
                )
            ((found, content),) = item[name].items()
            if found != expected:
                raise validation(
                    "One or more parameter values were invalid: Type mismatch for key "
                    f"{name} expected: {expected} actual: {found}"
                )
            if content in ("", b""):
                raise validation(
                    "One or more parameter values are not valid. The AttributeValue for a key "
                    f"attribute cannot contain an empty string value. Key: {name}"
                )
            parts.append(_ordered(found, content))
        return (_digest(self.key[0][1], parts[0]), *parts)

    def get(self, position: tuple[Any, ...]) -> dict[str, Any] | None:
        image = self.items.get(position)
        return msgspec.json.decode(image.raw) if image else None

    def write(self, item: dict[str, Any], micros: int) -> Change | None:
        """Puts a whole item. None if it changed nothing."""
        item, size = stored_item(item)
        position = self.position(item, key_only=False)
        old = self.items.get(position)
        new = Image(msgspec.json.encode(item), size)
        if old is not None and _same(old, new):
            return None
        keys = msgspec.json.encode({name: item[name] for name, _ in self.key})
        return self._apply(Change(micros, position, keys, old, new))

    def delete(self, key: dict[str, Any], micros: int, *, by_ttl: bool = False) -> Change | None:
        """Deletes an item. None if there was none."""
        position = self.position(key, key_only=True)
        old = self.items.get(position)
        if old is None:
            return None
        keys = msgspec.json.encode(stored_item(key)[0])
        return self._apply(Change(micros, position, keys, old, None, by_ttl))

    def page(
        self,
        segment: int,
        segments: int,
        start: dict[str, Any] | None,
        limit: int | None,
    ) -> ScanPage:
        """The next page of a segment: contiguous hash ranges, so segments are disjoint and
        complete, and a page goes on after a key whether or not that key still exists."""
        lowest, beyond = (HASH_SPACE * (segment + i) // segments for i in (0, 1))
        low, high = bisect_left(self.order, (lowest,)), bisect_left(self.order, (beyond,))
        if start is not None:
            position = self.position(start, key_only=True)
            if not lowest <= position[0] < beyond:
                raise validation(
                    "The provided starting key is invalid: Invalid ExclusiveStartKey. Please use "
                    f"ExclusiveStartKey with correct Segment. TotalSegments: {segments} "
                    f"Segment: {segment}"
                )
            low = bisect_right(self.order, position)
        images: list[Image] = []
        size = 0
        for position in self.order[low:high]:
            image = self.items[position]
            if len(images) == limit or (images and size + image.size > PAGE_BYTES):
                break
            images.append(image)
            size += image.size
        ended = low + len(images) >= high and len(images) != limit
        return ScanPage(images, None if ended or not images else self._key_of(images[-1]))

    def state_at(self, micros: int) -> dict[tuple[Any, ...], Image]:
        """The table as of every change before `micros`."""
        state: dict[tuple[Any, ...], Image] = {}
        for change in self._journal_before(micros):
            if change.new is None:
                state.pop(change.position, None)
            else:
                state[change.position] = change.new
        return state

    def changes_between(self, start: int, end: int) -> Iterator[Change]:
        """One change a key for the window [start, end): its first old and last new image."""
        merged: dict[tuple[Any, ...], Change] = {}
        for change in self._journal_before(end):
            if change.micros < start:
                continue
            first = merged.pop(change.position, change)
            merged[change.position] = change._replace(old=first.old)
        yield from merged.values()

    def expired_items(self, now: int) -> list[dict[str, Any]]:
        """The keys of the items whose TTL attribute lies before `now`."""
        if self.ttl_attribute is None:
            return []
        keys = []
        for image in self.items.values():
            item = msgspec.json.decode(image.raw)
            moment = item.get(self.ttl_attribute, {}).get("N")
            if moment is not None and Decimal(moment) * 1_000_000 < now:
                keys.append({name: item[name] for name, _ in self.key})
        return keys

    def _apply(self, change: Change) -> Change:
        if change.new is None:
            del self.items[change.position]
            del self.order[bisect_left(self.order, change.position)]
        else:
            if change.old is None:
                insort(self.order, change.position)
            self.items[change.position] = change.new
        self.journal.append(change)
        if self.stream is not None:
            self.stream.settle(change.micros)
            self.stream.add(change, change.position[0])
        self.send(self, change)
        return change

    def _journal_before(self, micros: int) -> list[Change]:
        return self.journal[: bisect_left(self.journal, micros, key=lambda change: change.micros)]

    def _key_of(self, image: Image) -> bytes:
        item = msgspec.json.decode(image.raw)
        return msgspec.json.encode({name: item[name] for name, _ in self.key})


def _ordered(tag: str, content: Any) -> Any:
    if tag == "S":
        return content.encode()
    return Decimal(normal_number(content)) if tag == "N" else binary(content)


def _digest(tag: str, part: Any) -> int:
    text = format(part, "f").encode() if tag == "N" else part
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest())


def _same(old: Image, new: Image) -> bool:
    if old.raw == new.raw:
        return True
    return old.size == new.size and canonical_item(msgspec.json.decode(old.raw)) == canonical_item(
        msgspec.json.decode(new.raw)
    )

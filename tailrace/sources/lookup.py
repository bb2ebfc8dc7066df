"""A KEYS_ONLY stream made whole: the items that its records name are looked up as they are now.

What a record lands with is the item's state when it was looked up, not when it was changed: states
in between are not seen. Of a key, a later record is looked up later, so its states never go back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from tailrace.changes import LOOKED_UP
from tailrace.errors import Retryable
from tailrace.model import KeyAttribute, RecordPage, Shard, StreamTraits
from tailrace.sources.aws import Aws
from tailrace.sources.scan import TableScan, json_lines
from tailrace.sources.streams import RECORDS_PER_CALL, DynamoDbStream

KEYS_PER_CALL = 100
ATTEMPTS = 10
WAIT_SECONDS, WAIT_MAX_SECONDS = 0.05, 5.0


class LookedUpStream:
    """A stream whose records carry no images, with those that its table holds now.

    A record of an item that is gone becomes a REMOVE; any other carries the item, also where the
    record itself says REMOVE: then the item has been written again since. Each is marked."""

    def __init__(
        self, stream: DynamoDbStream, aws: Aws, table: str, key: Sequence[KeyAttribute]
    ) -> None:
        self._stream = stream
        self._aws = aws
        self._table = table
        self._key = [attribute.name for attribute in key]

    @property
    def traits(self) -> StreamTraits:
        """As DynamoDbStream.traits."""
        return self._stream.traits

    @property
    def notices(self) -> tuple[str, ...]:
        """As DynamoDbStream.notices."""
        return self._stream.notices

    @property
    def calls(self) -> int:
        """The calls made to the stream."""
        return self._stream.calls

    def shards(self, stream_arn: str) -> list[Shard]:
        """As DynamoDbStream.shards."""
        return self._stream.shards(stream_arn)

    def children(self, stream_arn: str, shard: str) -> list[Shard]:
        """As DynamoDbStream.children."""
        return self._stream.children(stream_arn, shard)

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str:
        """As DynamoDbStream.iterator."""
        return self._stream.iterator(stream_arn, shard, after)

    def read(self, iterator: str, shard: str, limit: int = RECORDS_PER_CALL) -> RecordPage:
        """As DynamoDbStream.read."""
        return self._stream.read(iterator, shard, limit)

    def whole(self, page: RecordPage) -> RecordPage:
        """The page with the items that its records name. Raises Retryable where they cannot be
        had now."""
        if not page.count:
            return page
        records = [msgspec.json.decode(line) for line in page.lines.splitlines()]
        keys = [each["dynamodb"]["Keys"] for each in records]
        items = look_up(self._aws, self._table, self._key, keys)
        return replace(page, lines=json_lines([self._filled(each, items) for each in records]))

    def _filled(self, record: dict[str, Any], items: dict[str, msgspec.Raw]) -> msgspec.Raw:
        change = record["dynamodb"]
        item = items.get(key_text(self._key, change["Keys"]))
        record[LOOKED_UP] = True
        if item is None:
            record["eventName"] = "REMOVE"
        else:
            change["NewImage"] = item
            record.pop("userIdentity", None)
            if record["eventName"] == "REMOVE":
                record["eventName"] = "MODIFY"
        return msgspec.Raw(msgspec.json.encode(record))


def look_up(
    aws: Aws, table: str, key: Sequence[str], keys: Iterable[dict[str, Any]]
) -> dict[str, msgspec.Raw]:
    """The items of `keys` (in DynamoDB JSON) that the table holds now, by strongly consistent
    reads: raw items by `key_text`. Raises Retryable where AWS keeps some back again and again."""
    todo = list({key_text(key, each): each for each in keys}.values())
    scan = TableScan(aws, table, consistent=True)
    items: dict[str, msgspec.Raw] = {}
    wait, fruitless = WAIT_SECONDS, 0
    while todo:
        asked, todo = todo[:KEYS_PER_CALL], todo[KEYS_PER_CALL:]
        page = scan.items([msgspec.json.encode(each).decode() for each in asked])
        for line in page.lines.splitlines():
            items[key_text(key, msgspec.json.decode(line))] = msgspec.Raw(line)
        left = [msgspec.json.decode(each) for each in page.unprocessed]
        todo = left + todo
        fruitless = fruitless + 1 if len(left) == len(asked) else 0
        if fruitless == ATTEMPTS:
            raise Retryable(
                f"dynamodb:BatchGetItem on table {table} left {len(left)} keys unread,"
                f" {ATTEMPTS} times in a row.",
                "The table is throttled: give it more read capacity, or run again later.",
            )
        if left:
            time.sleep(random.uniform(0, wait))  # noqa: S311
            wait = min(wait * 2, WAIT_MAX_SECONDS)
    return items


def key_text(key: Sequence[str], item: dict[str, Any]) -> str:
    """One text for one key, however its attributes are ordered."""
    return msgspec.json.encode([item[name] for name in key]).decode()

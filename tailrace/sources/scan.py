"""A table's items by parallel Scan, page by page, or by their keys, as the raw lines that AWS
sent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.errors import Terminal
from tailrace.model import ItemPage, ScanPage
from tailrace.sources.aws import RAW_BODY, Aws, call


class _Capacity(msgspec.Struct):
    CapacityUnits: float = 0.0


class _Body(msgspec.Struct):
    Items: list[msgspec.Raw] = []
    LastEvaluatedKey: msgspec.Raw = msgspec.Raw()  # in a union, msgspec would take only null
    ConsumedCapacity: _Capacity | None = None


class _Keys(msgspec.Struct):
    Keys: list[msgspec.Raw] = []


class _Found(msgspec.Struct):
    Responses: dict[str, list[msgspec.Raw]] = {}
    UnprocessedKeys: dict[str, _Keys] = {}
    ConsumedCapacity: list[_Capacity] = []


_decoder = msgspec.json.Decoder(_Body)
_found = msgspec.json.Decoder(_Found)


class TableScan:
    """The segments and the keys of one table."""

    def __init__(self, aws: Aws, table: str, *, consistent: bool) -> None:
        self._aws = aws
        self._table = table
        self._consistent = consistent

    def page(
        self, segment: int, segments: int, start: str | None, limit: int | None = None
    ) -> ScanPage:
        """One page (at most 1 MB before filters, or `limit` items) of one segment, from the raw
        key `start` on.

        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Scan.html"""
        answer = call(
            self._aws.client("dynamodb").scan,
            "dynamodb:Scan",
            f"table {self._table}",
            self._aws.region,
            TableName=self._table,
            Segment=segment,
            TotalSegments=segments,
            ConsistentRead=self._consistent,
            ReturnConsumedCapacity="TOTAL",
            **({"ExclusiveStartKey": typed_key(start)} if start else {}),
            **({"Limit": limit} if limit else {}),
        )
        body = _decoder.decode(answer[RAW_BODY])
        return ScanPage(
            lines=json_lines(body.Items),
            count=len(body.Items),
            next_key=bytes(body.LastEvaluatedKey).decode() or None,
            capacity_units=body.ConsumedCapacity.CapacityUnits if body.ConsumedCapacity else 0.0,
            read_at=self._aws.now(),
        )

    def items(self, keys: Sequence[str]) -> ItemPage:
        """The items with these raw keys, at most 100, each once. AWS answers up to 16 MB, and
        leaves keys unprocessed where there is more, or where it throttles.

        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""
        wanted = [typed_key(key) for key in keys]
        answer = call(
            self._aws.client("dynamodb").batch_get_item,
            "dynamodb:BatchGetItem",
            f"table {self._table}",
            self._aws.region,
            RequestItems={self._table: {"Keys": wanted, "ConsistentRead": self._consistent}},
            ReturnConsumedCapacity="TOTAL",
        )
        body = _found.decode(answer[RAW_BODY])
        found = [item for items in body.Responses.values() for item in items]
        left = [key for asked in body.UnprocessedKeys.values() for key in asked.Keys]
        return ItemPage(
            lines=json_lines(found),
            count=len(found),
            unprocessed=tuple(bytes(key).decode() for key in left),
            capacity_units=sum(each.CapacityUnits for each in body.ConsumedCapacity),
        )


def json_lines(objects: list[msgspec.Raw]) -> bytes:
    """Raw JSON objects, one a line. A line feed inside one can only be white space between
    tokens (strings hold it escaped), so a space stands for it."""
    if not objects:
        return b""
    joined = b"\n".join(objects)
    if joined.count(b"\n") != len(objects) - 1:
        joined = b"\n".join(bytes(each).replace(b"\n", b" ") for each in objects)
    return joined + b"\n"


def typed_key(raw: str) -> dict[str, dict[str, str | bytes]]:
    """boto3's form of a raw key, in which binary values are bytes."""
    key: dict[str, dict[str, str]] = msgspec.json.decode(raw)
    typed: dict[str, dict[str, str | bytes]] = {}
    for name, value in key.items():
        if len(value) != 1:
            raise Terminal(
                f"Not a DynamoDB key: {name} has {len(value)} types.",
                "Report this; nothing was lost.",
            )
        ((kind, text),) = value.items()
        typed[name] = {kind: msgspec.json.decode(f'"{text}"', type=bytes) if kind == "B" else text}
    return typed

"""Rows of a query as text: a JSON array, CSV, or a table for a terminal.

Values keep what DuckDB returned: DECIMAL and HUGEINT are JSON numbers with all their digits, a
JSON column is JSON, BLOB is base64 (as in DynamoDB's own JSON), times are ISO 8601, and NaN and
the infinities, which JSON has no numbers for, are text.
"""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TextIO

JSON_TYPE = "JSON"
TABLE_ROWS_MOST = 1_000  # a terminal's table is laid out in memory; JSON and CSV are streamed


@dataclass(frozen=True)
class Column:
    """A result's column: its name and DuckDB's name of its type, e.g. DECIMAL(18,2)."""

    name: str
    type: str


def columns_of(description: Iterable[Sequence[Any]] | None) -> list[Column]:
    """The columns of a DB-API description; a name that stands twice gets _1, _2 …"""
    columns: list[Column] = []
    taken: set[str] = set()
    for each in description or ():
        name, count = str(each[0]), 0
        while (unique := f"{name}_{count}" if count else name) in taken:
            count += 1
        taken.add(unique)
        columns.append(Column(unique, str(each[1])))
    return columns


def write_json(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """An array of objects, one a line, written while the rows come."""
    separator = "[\n"
    for text in _objects(columns, rows):
        out.write(f"{separator}{text}")
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def write_json_lines(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """An object a line."""
    for text in _objects(columns, rows):
        out.write(f"{text}\n")


def _objects(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    names = [json.dumps(column.name, ensure_ascii=False) for column in columns]
    for row in rows:
        pairs = zip(names, columns, row, strict=True)
        text = ", ".join(f"{name}: {json_text(value, column)}" for name, column, value in pairs)
        yield f"{{{text}}}"


def write_csv(columns: Sequence[Column], rows: Iterable[Sequence[Any]], out: TextIO) -> None:
    """A header and the rows; NULL is empty, lists and structs are JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow(
            [
                "" if value is None else plain_text(value, column)
                for value, column in zip(row, columns, strict=True)
            ]
        )


def json_text(value: Any, column: Column | None = None) -> str:
    """One value as JSON text, exact."""
    if isinstance(value, str) and column is not None and column.type == JSON_TYPE:
        return value
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else json.dumps(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(_not_finite(value))
    if value is None or isinstance(value, (str, bool, int, float)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        pairs = (f"{json_text(str(key))}: {json_text(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(json_text(item) for item in value)}]"
    return json.dumps(_scalar_text(value), ensure_ascii=False)


def plain_text(value: Any, column: Column | None = None) -> str:
    """One value that is not NULL as bare text, as CSV and tables show it."""
    text = value if isinstance(value, str) else json_text(value, column)
    return str(json.loads(text)) if text.startswith('"') and text != value else text


def _scalar_text(value: Any) -> str:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    return str(value)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"

"""Which attributes a landed batch holds, and of which types: one pass over it inside DuckDB.

What is known already is looked up by path, all paths at once; a row that holds more attributes
than the known paths explain is taken apart attribute by attribute. So a batch that brings nothing
new costs one pass, and nothing new goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from tailrace.lake.sql import literal, literals, pointer

# The first rows of an unknown table are looked at in full, to learn its usual attributes.
SEED_ROWS = 2_000

# Digits recorded for a number in exponent notation: it fits no DECIMAL, its text is kept.
EXPONENT_DIGITS = 1_000


@dataclass(frozen=True)
class Attribute:
    """A top-level attribute as seen so far: its exact name and DynamoDB type tag, and for N the
    most digits before and after the decimal point. `example_key` is a key that holds it."""

    path: str
    type: str
    integer_digits: int | None = None
    scale: int | None = None
    example_key: str | None = None


def discover(
    con: duckdb.DuckDBPyConnection, batch_sql: str, known: Iterable[Attribute]
) -> list[Attribute]:
    """The attributes of a batch that are new, or whose digits grew, against `known`.

    `batch_sql` is a FROM-able SQL text with the columns key and image."""
    seen = {(each.path, each.type): each for each in known}
    before = dict(seen)
    if not seen:
        _learn(con, f"(SELECT * FROM {batch_sql} LIMIT {SEED_ROWS})", seen)
    unexplained = _unexplained_sql(batch_sql, list(seen))
    if _count(con, unexplained):
        _learn(con, unexplained, seen)
    for found in _digits(con, batch_sql, [each for each in seen.values() if each.type == "N"]):
        seen[(found.path, found.type)] = found
    return [each for name, each in seen.items() if before.get(name) != each]


def _count(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(f"SELECT count(*) FROM {sql}").fetchone()
    return int(row[0]) if row else 0


def _unexplained_sql(batch_sql: str, names: list[tuple[str, str]]) -> str:
    paths = literals(pointer(path, kind) for path, kind in names)
    found = f"list_count(json_type(image, {paths}))" if names else "0"
    return (
        f"(SELECT key, image FROM {batch_sql}"
        f" WHERE image IS NOT NULL AND len(json_keys(image)) <> {found})"
    )


def _learn(
    con: duckdb.DuckDBPyConnection, rows_sql: str, seen: dict[tuple[str, str], Attribute]
) -> None:
    rows = con.execute(f"""
        WITH members AS (
            SELECT key, image, unnest(json_keys(image)) AS path FROM {rows_sql}
            WHERE image IS NOT NULL)
        SELECT path, json_keys(image, '/' || replace(replace(path, '~', '~0'), '/', '~1'))[1],
            min(key)
        FROM members GROUP BY ALL ORDER BY ALL""").fetchall()
    for path, kind, example in rows:
        seen.setdefault((path, kind), Attribute(path, kind, example_key=example))


def _digits(
    con: duckdb.DuckDBPyConnection, batch_sql: str, numbers: list[Attribute]
) -> list[Attribute]:
    if not numbers:
        return []
    paths = literals(pointer(each.path, "N") for each in numbers)
    measures = ", ".join(
        f"max(strlen(ltrim(split_part(n[{i}], '.', 1), '-'))),"
        f" max(strlen(split_part(n[{i}], '.', 2))),"
        f" bool_or(contains(upper(n[{i}]), 'E'))"
        for i in range(1, len(numbers) + 1)
    )
    row = con.execute(f"""
        SELECT {measures} FROM (
            SELECT json_extract_string(image, {paths}) AS n FROM {batch_sql}
            WHERE image IS NOT NULL)""").fetchone()
    assert row is not None
    return [
        _widened(each, *row[3 * index : 3 * index + 3])
        for index, each in enumerate(numbers)
        if row[3 * index] is not None
    ]


def _widened(attribute: Attribute, integer_digits: int, scale: int, exponent: bool) -> Attribute:
    digits = EXPONENT_DIGITS if exponent else integer_digits
    return Attribute(
        attribute.path,
        attribute.type,
        max(digits, attribute.integer_digits or 0),
        max(scale, attribute.scale or 0),
        attribute.example_key,
    )


def insert_sql(model: str, batch: int, attributes: list[Attribute]) -> str:
    """INSERT of newly seen attributes into the control table."""
    rows = ", ".join(
        f"({literal(model)}, {batch}, {literal(each.path)}, {literal(each.type)},"
        f" {_number(each.integer_digits)}, {_number(each.scale)},"
        f" {literal(each.example_key)}, now())"
        for each in attributes
    )
    return f"INSERT INTO tailrace.attributes VALUES {rows}"


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)

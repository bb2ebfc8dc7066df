"""Which attributes a landed batch holds, and of which types, found inside DuckDB.

Before a batch lands, each image is compared with what is known (tailrace.lake.walk). Only a batch
in which an image holds more is read again: what is known already is looked up by path, all paths at
once; a row that holds more attributes than the known paths explain is taken apart attribute by
attribute. So a batch that brings nothing new costs no pass, and nothing new goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from tailrace.lake.sql import literal, literals, pointer

# The first rows of an unknown table are looked at in full, to learn its usual attributes.
SEED_ROWS = 2_000

# How many numbers' digits one query measures.
NUMBERS_AT_ONCE = 50

# The types that hold numbers: their digits are recorded.
NUMBERS = ("N", "NS")

# Digits recorded for a number in exponent notation: it fits no DECIMAL, its text is kept.
EXPONENT_DIGITS = 1_000


@dataclass(frozen=True)
class Attribute:
    """A top-level attribute as seen so far: its exact name and DynamoDB type tag, and for N and NS
    the most digits before and after the decimal point. `example_key` is a key that holds it."""

    path: str
    type: str
    integer_digits: int | None = None
    scale: int | None = None
    example_key: str | None = None


def first_sql(rows: str) -> str:
    """What tells the usual attributes of an unknown table, of the rows that are to land."""
    return f"(SELECT key, image FROM ({rows}) LIMIT {SEED_ROWS})"


def discover(
    con: duckdb.DuckDBPyConnection, batch_sql: str, known: Iterable[Attribute]
) -> list[Attribute]:
    """The attributes of a batch that are new, or whose digits grew, against `known`.

    `batch_sql` is a FROM-able SQL text with the columns key and image."""
    seen = {(each.path, each.type): each for each in known}
    before = dict(seen)
    if not seen:
        _learn(con, f"(SELECT * FROM {batch_sql} LIMIT {SEED_ROWS})", seen)
    looked_up = list(seen.values())
    if _look_up(con, batch_sql, looked_up, seen):
        _learn(con, _unexplained_sql(batch_sql, looked_up), seen)
        known_before = {(each.path, each.type) for each in looked_up}
        fresh = [each for name, each in seen.items() if name not in known_before]
        if any(each.type in NUMBERS for each in fresh):
            _look_up(con, batch_sql, fresh, seen)
    return [each for name, each in seen.items() if before.get(name) != each]


def _look_up(
    con: duckdb.DuckDBPyConnection,
    batch_sql: str,
    attributes: list[Attribute],
    seen: dict[tuple[str, str], Attribute],
) -> int:
    """Widens the numbers among `attributes` in `seen`; returns how many rows hold more than
    `attributes`. One pass, unless there are very many numbers: the image is parsed for its values
    and for its members, no more."""
    numbers = [each for each in attributes if each.type in NUMBERS]
    # The time that DuckDB takes to plan many aggregates grows with their square.
    for start in range(NUMBERS_AT_ONCE, len(numbers), NUMBERS_AT_ONCE):
        some = numbers[start : start + NUMBERS_AT_ONCE]
        _measure(con, batch_sql, some, some, "0", seen)
    more = "count(*) FILTER (len(json_keys(image)) <> list_count(v))"
    return _measure(con, batch_sql, attributes, numbers[:NUMBERS_AT_ONCE], more, seen)


def _measure(
    con: duckdb.DuckDBPyConnection,
    batch_sql: str,
    attributes: list[Attribute],
    numbers: list[Attribute],
    count_sql: str,
    seen: dict[tuple[str, str], Attribute],
) -> int:
    """Widens `numbers`, which are among `attributes`, in `seen`; returns what `count_sql` counts
    over the images and the list `v` of their attributes' values."""
    places = {(each.path, each.type): n for n, each in enumerate(attributes, start=1)}
    measures = "".join(
        f", {_digits_sql(f'v[{places[each.path, each.type]}]', each.type)}" for each in numbers
    )
    row = con.execute(f"""
        SELECT {count_sql}{measures}
        FROM (SELECT image, {_values_sql(attributes)} AS v FROM {batch_sql}
            WHERE image IS NOT NULL)""").fetchone()
    assert row is not None
    for index, each in enumerate(numbers):
        digits, scale, exponent = row[3 * index + 1 : 3 * index + 4]
        if digits is not None:
            seen[(each.path, each.type)] = _widened(each, digits, scale, exponent)
    return int(row[0])


def _values_sql(attributes: list[Attribute]) -> str:
    paths = literals(pointer(each.path, each.type) for each in attributes)
    return f"json_extract_string(image, {paths})" if attributes else "[]::VARCHAR[]"


def _digits_sql(text: str, kind: str) -> str:
    """Three aggregates over number texts, or over sets of them: most digits before the point, most
    after it, and whether any is in exponent notation. No string is built for a number."""
    whole, fraction = lengths_sql("number" if kind == "NS" else text)
    if kind == "NS":
        elements = f"from_json({text}, '[\"VARCHAR\"]')"
        whole, fraction = (
            f"list_max(list_transform({elements}, lambda number: {each}))"
            for each in (whole, fraction)
        )
    return f"max({whole}), max({fraction}), bool_or(contains({text}, 'E') OR contains({text}, 'e'))"


def lengths_sql(text: str) -> tuple[str, str]:
    """The digits of a number's text before its point, and after it."""
    fraction = f"CASE WHEN contains({text}, '.') THEN strlen({text}) - instr({text}, '.')"
    sign = f"starts_with({text}, '-')::INTEGER"
    return f"strlen({text}) - {sign} - {fraction} + 1 ELSE 0 END", f"{fraction} ELSE 0 END"


def _unexplained_sql(batch_sql: str, attributes: list[Attribute]) -> str:
    return (
        f"(SELECT key, image FROM {batch_sql} WHERE image IS NOT NULL"
        f" AND len(json_keys(image)) <> list_count({_values_sql(attributes)}))"
    )


def _learn(
    con: duckdb.DuckDBPyConnection, rows_sql: str, seen: dict[tuple[str, str], Attribute]
) -> None:
    rows = con.execute(f"""
        WITH members AS (
            SELECT key, unnest(json_keys(image)) AS path,
                unnest(json_extract(image, '$.*')) AS value
            FROM {rows_sql} WHERE image IS NOT NULL)
        SELECT path, json_keys(value)[1], min(key) FROM members GROUP BY ALL ORDER BY ALL
        """).fetchall()
    for path, kind, example in rows:
        seen.setdefault((path, kind), Attribute(path, kind, example_key=example))


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

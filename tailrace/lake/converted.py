"""Records that Firehose converted to Parquet, as the JSON that DynamoDB sent.

A conversion follows a schema of the user's, and what that does not name is lost before it comes
here. So the record's own members are found by name, in whatever case, and an item's attributes only
where their schema can hold any: as JSON text, or as a map from names to typed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tailrace.errors import Terminal
from tailrace.lake.sql import ident, literal

ROWS_AT_ONCE = 1_000
MEMORY = "256MB"

TEXT = "VARCHAR"

# How an attribute's value may be typed: its tag in DynamoDB JSON, and the type that holds it whole.
# Numbers are text: no other type of Parquet's holds 38 digits in every magnitude.
TAGS = {
    "s": ("S", TEXT),
    "n": ("N", TEXT),
    "b": ("B", TEXT),
    "bool": ("BOOL", "BOOLEAN"),
    "null": ("NULL", "BOOLEAN"),
    "ss": ("SS", "VARCHAR[]"),
    "ns": ("NS", "VARCHAR[]"),
    "bs": ("BS", "VARCHAR[]"),
    "l": ("L", TEXT),
    "m": ("M", TEXT),
}
AS_JSON = ("l", "m")

# What is read of a record, in the writing of DynamoDB, and what of it may be missing.
RECORD = ("eventID", "eventName", "tableName", "dynamodb", "userIdentity")
CHANGE = (
    "ApproximateCreationDateTime",
    "ApproximateCreationDateTimePrecision",
    "Keys",
    "NewImage",
    "OldImage",
)
OPTIONAL = ("userIdentity", "ApproximateCreationDateTimePrecision", "NewImage", "OldImage")
IMAGES = ("Keys", "NewImage", "OldImage")

UNTYPED = "an attribute whose value has none of the types that the schema names"
EXPECTED = (
    "Have Firehose convert to the columns eventid, eventname, tablename, dynamodb and, for what"
    " time to live deletes, useridentity. dynamodb is a string that holds the record's JSON, or a"
    " struct whose keys, newimage and oldimage are strings of JSON, or maps from attribute names to"
    " strings of JSON or to structs of s, n, b, bool, null, ss, ns, bs, l and m, all of strings but"
    " bool and null."
)


def record_lines(file: Path, name: str) -> Iterator[bytes]:
    """The records of a Parquet file as JSON lines, some at a time; errors call it `name`. Raises
    Terminal where its columns cannot hold records whole, ValueError where it is not whole."""
    con = duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": 1})
    try:
        source = f"read_parquet({literal(str(file))})"
        found = con.sql(f"FROM {source}")
        columns = dict(zip(found.columns, found.types, strict=True))
        rows = con.execute(f"SELECT {_record_sql(columns)}::VARCHAR FROM {source}")
        while some := rows.fetchmany(ROWS_AT_ONCE):
            yield b"".join(row[0].encode() + b"\n" for row in some)
    except _SchemaError as error:
        raise Terminal(
            f"{name} is a Parquet file that cannot be read: {error}.", EXPECTED
        ) from error
    except duckdb.Error as error:
        raise ValueError(f"is not a whole Parquet file of records: {error}") from error
    finally:
        con.close()


class _SchemaError(ValueError):
    """What columns cannot hold records whole."""


def _record_sql(columns: dict[str, Any]) -> str:
    """The SQL expression of a record as JSON."""
    named = _named(columns, lambda name: ident(name), RECORD, "")
    members = []
    for name, (expression, kind) in named.items():
        if name == "dynamodb" and kind.id == "struct":
            value = _change_sql(expression, dict(kind.children))
        elif name == "userIdentity" and kind.id == "struct":
            value = f"to_json({expression})"
        elif str(kind) == TEXT:
            value = f"{expression}::JSON" if name in ("dynamodb", "userIdentity") else expression
        else:
            raise _SchemaError(f"its column {name.lower()} is of the type {kind}")
        members.append(f"{literal(name)}, {value}")
    return f"json_object({', '.join(members)})"


def _change_sql(change: str, fields: dict[str, Any]) -> str:
    """The SQL expression of a change as JSON; what is NULL is left out, as DynamoDB does."""
    named = _named(
        fields, lambda name: f"struct_extract({change}, {literal(name)})", CHANGE, "dynamodb."
    )
    members = []
    for name, (expression, kind) in named.items():
        value = _image_sql(name, expression, kind) if name in IMAGES else expression
        if name == "ApproximateCreationDateTime":
            value = f"{expression}::BIGINT"
        members.append(f"{literal(name)}, {value}")
    return f"json_merge_patch('{{}}', json_object({', '.join(members)}))"


def _image_sql(name: str, image: str, kind: Any) -> str:
    """The SQL expression of an item, or of its key, as DynamoDB JSON."""
    if str(kind) == TEXT:
        return f"{image}::JSON"
    where = f"its column dynamodb.{name.lower()} is of the type {kind}"
    if kind.id != "map" or str(kind.key) != TEXT:
        raise _SchemaError(where)
    value = "e.value::JSON"
    if str(kind.value) != TEXT:
        if kind.value.id != "struct":
            raise _SchemaError(where)
        cases = []
        for field, type_ in kind.value.children:
            tag, expected = TAGS.get(field.lower(), (None, None))
            if str(type_) != expected:
                raise _SchemaError(where)
            typed = f"struct_extract(e.value, {literal(field)})"
            shown = f"{typed}::JSON" if field.lower() in AS_JSON else typed
            cases.append(f"WHEN {typed} IS NOT NULL THEN json_object({literal(tag)}, {shown})")
        value = f"CASE {' '.join(cases)} ELSE error({literal(UNTYPED)}) END"
    entry = f"lambda e: {{'key': e.key, 'value': {value}}}"
    return f"to_json(map_from_entries(list_transform(map_entries({image}), {entry})))"


def _named(
    found: dict[str, Any], expression: Callable[[str], str], wanted: Sequence[str], where: str
) -> dict[str, tuple[str, Any]]:
    """Expression and type of each member, whatever case its name is in."""
    by_name = {name.lower(): (expression(name), kind) for name, kind in found.items()}
    missing = [each for each in wanted if each.lower() not in by_name and each not in OPTIONAL]
    if missing:
        raise _SchemaError(f"it has no column {where}{missing[0].lower()}")
    return {each: by_name[each.lower()] for each in wanted if each.lower() in by_name}

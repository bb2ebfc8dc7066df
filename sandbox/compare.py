"""The warehouse against the table, item by item: the proof at the end of the demo and of the
integration tests. It reads both sides itself, through boto3 and DuckDB, and shares no code with
what it checks, save what it means that two values are equal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
from rich.table import Table

from sandbox.errors import SandboxError
from tailrace.canonical import binary, canonical, canonical_item

_KEPT_DIFFERENCES = 50
_MISSING = "(not there)"


@dataclass(frozen=True)
class Difference:
    """One place where the sides differ. `key` is the item's key as JSON, `where` the object and
    column; a side is DynamoDB JSON, a column's value, or "(not there)"."""

    key: str
    where: str
    in_table: str
    in_warehouse: str


@dataclass
class Comparison:
    """What `compare` found. `differences` holds the first 50 of `difference_count`;
    `without_column` are attributes that have no column of their exact name in the public model."""

    table_name: str
    model: str
    items_in_table: int = 0
    rows_in_warehouse: int = 0
    values_compared: int = 0
    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)
    without_column: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        return self.difference_count == 0

    def add(self, key: Any, where: str, in_table: Any, in_warehouse: Any) -> None:
        self.difference_count += 1
        if len(self.differences) < _KEPT_DIFFERENCES:
            sides = [
                side if isinstance(side, str) else _text(side) for side in (in_table, in_warehouse)
            ]
            self.differences.append(Difference(_text(key), where, *sides))


def compare(
    dynamodb: Any, table_name: str, con: duckdb.DuckDBPyConnection, model: str
) -> Comparison:
    """Compares a table, scanned consistently, with its model in the DuckLake attached to `con` as
    `lake`: each item with `_image` in <model>_latest (sets unordered, numbers by value), and each
    attribute with its column in the public <model>, where it has one of its exact name.

    Nothing may be writing to the table. Raises SandboxError where a model is missing."""
    result = Comparison(table_name, model)
    key_names = _key_names(dynamodb, table_name)
    items = {_key_of(item, key_names): item for item in _scan(dynamodb, table_name)}
    result.items_in_table = len(items)
    _compare_images(result, con, items, key_names)
    _compare_columns(result, con, items, key_names)
    return result


def render(comparisons: list[Comparison]) -> Table:
    """The comparisons as a table for people."""
    table = Table(title="Warehouse against DynamoDB")
    for heading in ("table", "items", "rows", "values compared", "differences"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for found in comparisons:
        verdict = "[green]equal[/]" if found.equal else f"[red]{found.difference_count}[/]"
        numbers = (found.items_in_table, found.rows_in_warehouse, found.values_compared)
        table.add_row(found.table_name, *(f"{number:,}" for number in numbers), verdict)
    return table


def render_differences(comparison: Comparison) -> Table:
    """The first differences of one comparison, both sides beside each other."""
    table = Table(title=f"{comparison.table_name}: first differences", show_lines=True)
    for heading in ("key", "where", "in DynamoDB", "in the warehouse"):
        table.add_column(heading, overflow="fold")
    for found in comparison.differences:
        table.add_row(found.key, found.where, found.in_table, found.in_warehouse)
    return table


def _compare_images(
    result: Comparison,
    con: duckdb.DuckDBPyConnection,
    items: dict[Any, Any],
    key_names: list[str],
) -> None:
    where = f"analytics.{result.model}_latest"
    rows = _rows(
        con,
        f"SELECT _key::VARCHAR, _image::VARCHAR FROM {_name(result.model + '_latest')} "
        "WHERE _op <> 'REMOVE'",
    )
    seen = set()
    for key_text, image_text in rows:
        result.rows_in_warehouse += 1
        key, image = json.loads(key_text), json.loads(image_text)
        place = _key_of(key, key_names)
        if place in seen:
            result.add(key, f"{where} (the same key twice)", _MISSING, image)
        seen.add(place)
        item = items.get(place)
        if item is None:
            result.add(key, where, _MISSING, image)
        elif canonical_item(item) != canonical_item(image):
            result.add(key, where, item, image)
    for place in items.keys() - seen:
        result.add({n: items[place][n] for n in key_names}, where, items[place], _MISSING)


def _compare_columns(
    result: Comparison,
    con: duckdb.DuckDBPyConnection,
    items: dict[Any, Any],
    key_names: list[str],
) -> None:
    where = f"analytics.{result.model}"
    columns = {
        name: kind for name, kind, *_ in _rows(con, f"DESCRIBE SELECT * FROM {_name(result.model)}")
    }
    attributes = {name for item in items.values() for name in item}
    result.without_column = sorted(attributes - columns.keys())
    if not columns.keys() >= set(key_names):
        return  # a key attribute with a double quote in its name: its column is called otherwise
    tags = {name: next(iter(value)) for item in items.values() for name, value in item.items()}
    names = [name for name in columns if name in attributes or name in key_names]
    listed = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
    seen = set()
    for row in _rows(con, f"SELECT {listed} FROM {_name(result.model)}"):
        values = dict(zip(names, row, strict=True))
        place = tuple(_column_key(tags.get(name, "S"), values[name]) for name in key_names)
        shown = {name: str(values[name]) for name in key_names}
        if place in seen or place not in items:
            twice = " (the same key twice)" if place in seen else ""
            result.add(shown, where + twice, items.get(place, _MISSING), shown)
            continue
        seen.add(place)
        for name, value in values.items():
            result.values_compared += 1
            attribute = items[place].get(name)
            if not _column_holds(columns[name], value, attribute):
                result.add(shown, f"{where}.{name}", attribute or _MISSING, repr(value))
    for place in items.keys() - seen:
        result.add({n: items[place][n] for n in key_names}, where, items[place], _MISSING)


def _column_holds(kind: str, value: Any, attribute: dict[str, Any] | None) -> bool:
    """Whether a column's value is exactly the attribute's; a missing attribute is NULL."""
    if attribute is None or value is None:
        return value is None and (attribute is None or "NULL" in attribute)
    if kind == "JSON":
        value = json.loads(value, parse_float=Decimal, parse_int=Decimal)
    return _says(value, attribute)


def _says(value: Any, attribute: dict[str, Any]) -> bool:
    """Whether a plain value (of a column, or of a document in it) is exactly the attribute's. A
    number or a truth value may stand as its text: an attribute of several types is a text."""
    ((tag, content),) = attribute.items()
    if tag == "M":
        return (
            isinstance(value, dict)
            and value.keys() == content.keys()
            and all(_says(value[name], each) for name, each in content.items())
        )
    if tag == "L":
        return (
            isinstance(value, list)
            and len(value) == len(content)
            and all(_says(*pair) for pair in zip(value, content, strict=True))
        )
    if tag in ("SS", "NS", "BS"):
        return isinstance(value, list) and _members(value, tag) == canonical(attribute)[1]
    if tag == "N":
        return isinstance(value, int | Decimal | str) and _is_number(value, Decimal(content))
    if tag == "B":
        return isinstance(value, bytes | str) and binary(value) == content
    if tag == "BOOL":
        return value is content or value == str(content).lower()
    if tag == "NULL":
        return value is None
    return bool(value == content)


def _is_number(value: int | Decimal | str, number: Decimal) -> bool:
    return not isinstance(value, bool) and Decimal(str(value)) == number


def _members(elements: list[Any], tag: str) -> Any:
    texts = [each if isinstance(each, bytes) else str(each) for each in elements]
    return canonical({tag: texts})[1]


def _column_key(tag: str, value: Any) -> Any:
    if tag == "N":
        return canonical({"N": str(value)})
    return (tag, bytes(value) if tag == "B" else value)


def _key_names(dynamodb: Any, table_name: str) -> list[str]:
    schema = dynamodb.describe_table(TableName=table_name)["Table"]["KeySchema"]
    return [k["AttributeName"] for k in sorted(schema, key=lambda k: k["KeyType"] != "HASH")]


def _key_of(item: dict[str, Any], key_names: list[str]) -> Any:
    return tuple(canonical(item[name]) for name in key_names)


def _scan(dynamodb: Any, table_name: str) -> Iterator[dict[str, Any]]:
    for page in dynamodb.get_paginator("scan").paginate(TableName=table_name, ConsistentRead=True):
        yield from page["Items"]


def _rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    try:
        return con.execute(sql).fetchall()
    except duckdb.CatalogException as error:
        raise SandboxError(f"the warehouse lacks a model: {error}") from error


def _name(model: str) -> str:
    return f'lake.analytics."{model}"'


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=repr, ensure_ascii=False)

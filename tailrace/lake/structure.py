"""What documents are made of: the members, elements and types of an attribute, found in DuckDB.

Only for attributes that are to become STRUCTs or rows of their own, and only from what landed since
it was looked at last: the models merge no further than that, so no column is ever too narrow for
what it takes in. It is asked for before models are built, and not while a batch lands: a document
of a million names must not hold up the log.

A structure is a tree of what stood at each place, by DynamoDB's type tags:
{"M": {"sku": {"S": {}}, "qty": {"N": [1, 0]}}}, with the most digits of a number before and after
its point (null: an exponent, or not known), "L" with one tree for all elements, null in place of
the members of a map that has too many names to be columns, and {} for what was only ever NULL.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import duckdb

from tailrace.config import Table
from tailrace.errors import Retryable, TailraceError, Terminal
from tailrace.lake.attach import CATALOG
from tailrace.lake.discovery import NUMBERS, lengths_sql
from tailrace.lake.log import is_lost_race
from tailrace.lake.schema import CHANGES
from tailrace.lake.sql import bound, ident, literal, pointer

Structure = dict[str, Any]

ATTEMPTS = 8
WAIT_SECONDS = 0.2

# Names under one map from which on it is taken for one with free keys.
MOST_MEMBERS = 400

# Names that no member of a STRUCT can have.
UNFIT = re.compile("^$|[\x00-\x1f\x7f]")

# A step from a value to one within it: a member's name, or None for the elements of a list.
Step = str | None


def learn(
    con: duckdb.DuckDBPyConnection, model: str, attributes: Sequence[str], *, frozen: bool = False
) -> None:
    """Brings the stored structures of a table's attributes up to the newest batch, in one commit;
    with `frozen` only those of which nothing is known. No commit where nothing has happened to
    the table since.

    Raises duckdb.Error, as any commit does that lost its race."""
    con.execute("BEGIN")
    try:
        head = _head(con, model)
        known = _known(con, model)
        begun = {name: known.get(name, (0, {})) for name in attributes}
        rows = [
            f"({literal(model)}, {head}, {literal(name)}, {literal(json.dumps(found))}, now())"
            for name, (batch, before) in begun.items()
            if batch < head and not (frozen and name in known)
            for found in [joined(before, found_in(con, _documents(model, name, batch, head)))]
        ]
        if rows:
            con.execute(f"INSERT INTO lake.tailrace.structures VALUES {', '.join(rows)}")
        con.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # a commit that failed has ended it
            con.execute("ROLLBACK")
        raise


def learn_all(con: duckdb.DuckDBPyConnection, tables: Iterable[Table]) -> dict[str, TailraceError]:
    """`learn` for each table that wants it and has a log; tried again after a lost race. Returns
    what went wrong, by the table's SQL name."""
    failed: dict[str, TailraceError] = {}
    wanted = [table for table in tables if table.structs]
    if not wanted:
        return failed
    rows = con.execute(
        "SELECT table_name FROM information_schema.tables"
        f" WHERE table_catalog = {literal(CATALOG)} AND table_schema = {literal(CHANGES)}"
    ).fetchall()
    logs = {name for (name,) in rows}
    for table in wanted:
        if table.model not in logs:
            continue
        for attempt in range(1, ATTEMPTS + 1):
            try:
                learn(con, table.model, table.structs, frozen=table.schema_mode == "frozen")
                break
            except duckdb.Error as error:
                if not is_lost_race(error) or attempt == ATTEMPTS:
                    failed[table.model] = _failure(table, error)
                    break
                time.sleep(random.uniform(0, WAIT_SECONDS * attempt))  # noqa: S311
    return failed


def digest(con: duckdb.DuckDBPyConnection, model: str, attributes: Iterable[str]) -> str:
    """One text for what is known of the attributes, another for anything else."""
    known = _known(con, model)
    found = json.dumps([known.get(name, (0, {}))[1] for name in attributes])
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _failure(table: Table, error: duckdb.Error) -> TailraceError:
    names = ", ".join(table.structs)
    if is_lost_race(error):
        return Retryable(
            f"{table.model}: the warehouse's catalog stayed busy. {error}", "Run it again."
        )
    return Terminal(
        f"{table.model}: the structure of {names} could not be found: {error}",
        "Its tables are as they were before. If a document has very many names, let the attribute"
        " be a map: `type: map` in tailrace.yaml, then `tailrace generate`.",
    )


def _head(con: duckdb.DuckDBPyConnection, model: str) -> int:
    """The newest batch, of rows or of an epoch's state."""
    row = con.execute(
        f"SELECT greatest((SELECT max(batch) FROM {ident(CATALOG, CHANGES, model)}),"
        f" (SELECT max(batch) FROM lake.tailrace.epochs WHERE model = {literal(model)}), 0)"
    ).fetchone()
    return int(row[0]) if row else 0


def _known(con: duckdb.DuckDBPyConnection, model: str) -> dict[str, tuple[int, Structure]]:
    rows = con.execute(
        bound(
            "SELECT path, max(batch), arg_max(structure, batch)::VARCHAR"
            " FROM lake.tailrace.structures WHERE model = ? GROUP BY path",
            [model],
        )
    ).fetchall()
    return {path: (batch, json.loads(structure)) for path, batch, structure in rows}


def _documents(model: str, name: str, after: int, until: int) -> str:
    return (
        f"(SELECT json_extract(image, {literal(pointer(name))}) AS document"
        f" FROM {ident(CATALOG, CHANGES, model)} WHERE batch > {after} AND batch <= {until})"
    )


def joined(one: Structure, other: Structure) -> Structure:
    """The structure that holds what either holds; names keep their order, new ones come last."""
    result = dict(one)
    for tag, found in other.items():
        result[tag] = _joined_tag(tag, result[tag], found) if tag in result else found
    return result


def _joined_tag(tag: str, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if tag in NUMBERS:
        pairs = zip(one, other, strict=True)
        return [None if None in pair else max(pair) for pair in pairs]
    if tag == "L":
        return joined(one, other)
    if tag == "M":
        names = dict.fromkeys((*one, *other))
        members = {name: joined(one.get(name, {}), other.get(name, {})) for name in names}
        return members if len(members) <= MOST_MEMBERS else None
    return {}


def found_in(con: duckdb.DuckDBPyConnection, documents: str) -> Structure:
    """The structure of all of `documents`, a FROM-able SQL text with the column document, of
    DynamoDB JSON. Two passes: one for the names, one for the numbers."""
    row = con.execute(f"SELECT json_group_structure(document)::VARCHAR FROM {documents}").fetchone()
    if row is None or row[0] is None:
        return {}
    tree = _tree(json.loads(row[0]))
    numbers = list(_numbers(tree, ()))
    if numbers:
        measures = ", ".join(_measures_sql(steps, tag) for steps, tag, _ in numbers)
        shape = literal(json.dumps(_shape(tree)))
        found = con.execute(
            f"SELECT {measures} FROM"
            f" (SELECT json_transform(document, {shape}) AS value FROM {documents})"
        ).fetchone()
        assert found is not None
        for n, (_, _, digits) in enumerate(numbers):
            whole, scale, exponent = found[3 * n : 3 * n + 3]
            if not exponent:
                digits[:] = whole or 0, scale or 0
    return tree


def _tree(structure: Any) -> Structure:
    """The tree of DuckDB's own description of a value in DynamoDB JSON."""
    if not isinstance(structure, dict):
        return {}
    tree: Structure = {}
    for tag, inner in structure.items():
        if tag == "M":
            members = inner if isinstance(inner, dict) else {}
            few = len(members) <= MOST_MEMBERS
            # sorted: DuckDB's threads find the names in no certain order
            tree[tag] = {name: _tree(members[name]) for name in sorted(members)} if few else None
        elif tag == "L":
            tree[tag] = _tree(inner[0]) if isinstance(inner, list) and inner else {}
        elif tag in NUMBERS:
            tree[tag] = [None, None]
        elif tag != "NULL":
            tree[tag] = {}
    return tree


def _can_be_struct(members: dict[str, Structure] | None) -> bool:
    folded = [name.lower() for name in members or ()]
    unique = len(set(folded)) == len(folded)
    return bool(folded) and unique and not any(map(UNFIT.search, folded))


def _numbers(tree: Structure, at: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], str, Any]]:
    """Every place of a number that may be a column: the steps to it, its tag, its digits in the
    tree."""
    for tag, inner in tree.items():
        if tag in NUMBERS:
            yield at, tag, inner
        elif tag == "L":
            yield from _numbers(inner, (*at, None))
        elif tag == "M" and _can_be_struct(inner):
            for name, member in inner.items():
                yield from _numbers(member, (*at, name))


def _shape(tree: Structure) -> Any:
    """What json_transform has to read to reach the numbers."""
    shape: dict[str, Any] = {}
    for tag, inner in tree.items():
        if tag in NUMBERS:
            shape[tag] = "VARCHAR" if tag == "N" else ["VARCHAR"]
        elif tag == "L" and any(_numbers(inner, ())):
            shape[tag] = [_shape(inner)]
        elif tag == "M" and _can_be_struct(inner):
            members = {name: _shape(m) for name, m in inner.items() if any(_numbers(m, ()))}
            if members:
                shape[tag] = members
    return shape


def _measures_sql(steps: Sequence[Step], tag: str) -> str:
    """Three aggregates over the numbers at a place: most digits before the point, most after it,
    and whether any is in exponent notation."""
    whole, scale = lengths_sql("number")
    exponent = "contains(upper(number), 'E')::INTEGER"
    return ", ".join(
        f"max({_reached_sql('value', steps, tag, measure, 0)})"
        for measure in (whole, scale, exponent)
    )


def _reached_sql(value: str, steps: Sequence[Step], tag: str, measure: str, depth: int) -> str:
    if not steps:
        numbers = f'{value}."{tag}"'
        listed = f"[{numbers}]" if tag == "N" else numbers
        return f"list_max(list_transform({listed}, lambda number: {measure}))"
    step, *rest = steps
    if step is not None:
        return _reached_sql(f'{value}."M".{ident(step)}', rest, tag, measure, depth)
    element = f"element_{depth}"
    inner = _reached_sql(element, rest, tag, measure, depth + 1)
    return f'list_max(list_transform({value}."L", lambda {element}: {inner}))'

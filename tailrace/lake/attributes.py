"""What a table's attributes are known to be, for people: an overview of them, and what came lately.

It only reads: what is known comes from `tailrace.attributes`, which each landed batch adds to
(tailrace.lake.discovery); how many items hold an attribute, and since when none has changed, is
worked out from the merged table when somebody asks, because nothing else needs it each minute
(docs/adr/0009).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from tailrace.lake.discovery import EXPONENT_DIGITS
from tailrace.lake.schema import ANALYTICS
from tailrace.lake.sql import bound, ident, literal, literals, pointer
from tailrace.model import NewAttribute

Query = Callable[[str], Sequence[tuple[Any, ...]]]

ALL_TYPES = frozenset(("S", "N", "B", "BOOL", "NULL", "L", "M", "SS", "NS", "BS"))

# Which values a column of a type holds, where a schema is frozen.
_HELD = {
    "VARCHAR": {"S", "N", "BOOL"},
    "BIGINT": {"N"},
    "DOUBLE": {"S", "N"},
    "BOOLEAN": {"BOOL"},
    "BLOB": {"B"},
    "TIMESTAMP WITH TIME ZONE": {"S", "N"},
    "VARCHAR[]": {"SS", "NS"},
    "BIGINT[]": {"NS"},
    "BLOB[]": {"BS"},
    "JSON": set(ALL_TYPES),
}


def came_since(query: Query, model: str, within: timedelta) -> list[NewAttribute]:
    """The attributes and types that were first seen after the table went live, and within so much
    time until now, newest first. What its base held is not new, nor a NULL where values were
    seen."""
    rows = query(
        bound(
            """
        WITH seen AS (
            SELECT path, type, min(batch) AS batch, min(recorded_at) AS seen_at,
                arg_min(example_key, batch) AS example_key
            FROM tailrace.attributes WHERE model = $model GROUP BY path, type)
        SELECT path, type, seen_at, example_key,
            (SELECT list(DISTINCT type ORDER BY type) FROM seen AS other
             WHERE other.path = seen.path AND other.batch < seen.batch)
        FROM seen
        WHERE batch > (SELECT min(batch) FROM tailrace.epochs
                WHERE model = $model AND state = 'live')
            AND seen_at >= now() - to_seconds($seconds)
            AND (type <> 'NULL' OR NOT EXISTS (
                FROM seen AS other WHERE other.path = seen.path AND other.type <> 'NULL'))
        ORDER BY seen_at DESC, path, type""",
            {"model": model, "seconds": within.total_seconds()},
        )
    )
    return [NewAttribute(row[0], row[1], row[2], row[3], tuple(row[4] or ())) for row in rows]


def refused(query: Query, model: str, structs: Collection[str] = ()) -> list[NewAttribute]:
    """What a frozen schema keeps out of the merged table: attributes and types without a column
    that holds their values, and numbers of more digits than theirs has, newest first. Of the
    attributes that are `structs`, lists and maps have their place; what their columns lack of them
    is not looked for."""
    columns = _columns(query, model)
    if not columns:
        return []
    seen = query(
        bound(
            """
        SELECT path, type, max(recorded_at), arg_min(example_key, batch),
            coalesce(max(integer_digits), 0), coalesce(max(scale), 0)
        FROM tailrace.attributes WHERE model = ? GROUP BY path, type
        ORDER BY min(batch), path""",
            [model],
        )
    )
    names: dict[str, str] = {}
    found = []
    for path, kind, at, example, whole, scale in seen:
        name = names.setdefault(path, _free(path, names.values()))
        if kind in ("L", "M") and path in structs and name in columns:
            continue
        if kind != "NULL" and not _holds(columns.get(name, ""), kind, whole, scale):
            found.append(NewAttribute(path, kind, at, example, (), column=columns.get(name)))
    return sorted(found, key=lambda each: each.seen_at, reverse=True)


def _columns(query: Query, model: str) -> Mapping[str, str]:
    """The merged table's columns, by their names in lower case, and their types."""
    rows = query(
        bound(
            "SELECT lower(column_name), data_type FROM duckdb_columns()"
            " WHERE database_name = 'lake' AND schema_name = ? AND table_name = ?",
            [ANALYTICS, f"{model}_latest"],
        )
    )
    return dict(rows)


def _free(path: str, taken: Any) -> str:
    """The column of an attribute, as the macro free_name calls it, in lower case."""
    plain = re.sub('[\x00-\x1f\x7f"]', "_", path).lower() or "unnamed"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name


def _holds(column: str, kind: str, whole: int, scale: int) -> bool:
    if kind == "N" and column == "BIGINT":
        return scale == 0 and whole <= 18
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)(\[\])?", column)
    if decimal:
        digits, most = int(decimal[1]), int(decimal[2])
        fits = scale <= most and whole <= digits - most
        return kind == ("NS" if decimal[3] else "N") and fits
    if column.startswith(("STRUCT", "MAP")) and not column.endswith("[]"):
        return kind == "M"
    return kind in _HELD.get(column, {"L"} if column.endswith("[]") else set())


def overview_sql(query: Query, model: str) -> str:
    """SELECT of (attribute, type, digits, scale, first_seen, last_seen, items, example_key): one
    row for each attribute and type ever seen. `items` counts the living items that hold it and
    `last_seen` is when the last of them changed: both are NULL before the first merge. One pass
    over the merged table's images."""
    known = query(
        bound(
            "SELECT path, type FROM tailrace.attributes WHERE model = ?"
            " GROUP BY path, type ORDER BY min(batch), path, type",
            [model],
        )
    )
    merged = bool(_columns(query, model))
    held = _held_sql(model, known) if merged and known else "SELECT NULL, NULL, NULL, NULL"
    return f"""
        WITH held (path, type, items, last_seen) AS ({held})
        SELECT seen.path AS attribute, seen.type,
            nullif(max(integer_digits), {EXPONENT_DIGITS})::INTEGER AS digits,
            max(scale) AS scale, date_trunc('second', min(recorded_at)) AS first_seen,
            any_value(last_seen) AS last_seen, any_value(items) AS items,
            arg_min(example_key, batch) AS example_key
        FROM tailrace.attributes AS seen
        LEFT JOIN held ON held.path = seen.path AND held.type = seen.type
        WHERE model = {literal(model)}
        GROUP BY seen.path, seen.type ORDER BY min(batch), seen.path, seen.type"""


def _held_sql(model: str, known: Sequence[tuple[Any, ...]]) -> str:
    pointers = literals(pointer(path, kind) for path, kind in known)
    counts = ", ".join(f"count(v[{n}])" for n in range(1, len(known) + 1))
    times = ", ".join(
        f"max(_changed_at) FILTER (v[{n}] IS NOT NULL)" for n in range(1, len(known) + 1)
    )
    names = literals(path for path, _ in known)
    kinds = literals(kind for _, kind in known)
    return f"""
        SELECT unnest({names}), unnest({kinds}), unnest(counts), unnest(times)
        FROM (SELECT [{counts}] AS counts, [{times}] AS times
            FROM (SELECT _changed_at, json_extract(_image, {pointers}) AS v
                FROM {ident(ANALYTICS, f"{model}_latest")} WHERE _op <> 'REMOVE'))"""

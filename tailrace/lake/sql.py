"""Quoting. Every name and text that reaches SQL goes through here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

Value = str | int | float | bool | datetime | None


def ident(*parts: str) -> str:
    """A quoted, dotted identifier: ident('changes', 'a"b') → "changes"."a""b"."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str | None) -> str:
    """A quoted SQL string, or NULL."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """A SQL list of quoted strings: ['a', 'b']."""
    return "[" + ", ".join(literal(text) for text in texts) + "]"


def value(of: Value) -> str:
    """A value as SQL: text quoted, times as TIMESTAMPTZ, None as NULL."""
    if isinstance(of, bool):
        return "true" if of else "false"
    if isinstance(of, int | float):
        return repr(of)
    if isinstance(of, datetime):
        return f"{literal(of.isoformat())}::TIMESTAMPTZ"
    return literal(of)


def bound(sql: str, parameters: Sequence[Value] | Mapping[str, Value]) -> str:
    """The statement with each `?`, or each `$name`, replaced by its value. The statement is ours
    and holds neither in a quoted text.

    DuckDB's own binding imports pandas to look at the values: a second of CPU in every process."""
    if isinstance(parameters, Mapping):
        return re.sub(r"\$(\w+)", lambda found: value(parameters[found[1]]), sql)
    pieces = sql.split("?")
    if len(pieces) != len(parameters) + 1:
        raise ValueError(f"{len(pieces) - 1} places for {len(parameters)} values: {sql}")
    filled = zip(pieces, [*map(value, parameters), ""], strict=True)
    return "".join(text for pair in filled for text in pair)


def pointer(*names: str) -> str:
    """The JSON pointer (RFC 6901) to nested object members; any attribute name is safe in it."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)

"""Quoting. Every name and text that reaches SQL goes through here."""

from __future__ import annotations

from collections.abc import Iterable


def ident(*parts: str) -> str:
    """A quoted, dotted identifier: ident('changes', 'a"b') → "changes"."a""b"."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str | None) -> str:
    """A quoted SQL string, or NULL."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """A SQL list of quoted strings: ['a', 'b']."""
    return "[" + ", ".join(literal(text) for text in texts) + "]"


def pointer(*names: str) -> str:
    """The JSON pointer (RFC 6901) to nested object members; any attribute name is safe in it."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)

"""When two items are equal: one canonical form, in which DynamoDB's attribute values are equal
exactly when DynamoDB would call them equal. Sets have no order, maps none either, and numbers are
compared as exact decimals, never as floats. Reading and showing items is left to others."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import msgspec

_SET_MEMBERS = {"SS": "S", "NS": "N", "BS": "B"}


def same_item(one: str, other: str) -> bool:
    """Whether two JSON texts are the same item. What is not DynamoDB's JSON equals only what is
    the same JSON."""
    try:
        left, right = msgspec.json.decode(one), msgspec.json.decode(other)
        return bool(left == right or canonical_item(left) == canonical_item(right))
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError):
        return False


def canonical(value: dict[str, Any]) -> Any:
    """A hashable form of an attribute value: sets unordered, numbers by value, maps by name.

    Binaries may be bytes (as boto3 returns them) or base64 text (as on the wire)."""
    ((tag, content),) = value.items()
    if tag == "N":
        return ("N", Decimal(content))
    if tag == "B":
        return ("B", binary(content))
    if tag in _SET_MEMBERS:
        member = _SET_MEMBERS[tag]
        return (tag, frozenset(canonical({member: element})[1] for element in content))
    if tag == "L":
        return ("L", tuple(canonical(element) for element in content))
    if tag == "M":
        return ("M", canonical_item(content))
    return (tag, content)


def canonical_item(item: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    """The canonical form of an item or a map: no order of attributes."""
    return frozenset((name, canonical(value)) for name, value in item.items())


def canonical_text(value: dict[str, Any]) -> bytes:
    """An attribute value from the wire as the one JSON text that all values equal to it have:
    without white space, members of maps and elements of sets in the order of their code points,
    numbers plain and without needless zeros ({"N":"100"}, not 1E2 or 100.0)."""
    return msgspec.json.encode(_ordered(value))


def _ordered(value: dict[str, Any]) -> dict[str, Any]:
    ((tag, content),) = value.items()
    if tag == "L":
        return {tag: [_ordered(element) for element in content]}
    if tag == "M":
        return {tag: {name: _ordered(content[name]) for name in sorted(content)}}
    if tag in _SET_MEMBERS:
        return {tag: sorted(_scalar(_SET_MEMBERS[tag], element) for element in content)}
    return {tag: _scalar(tag, content)}


def _scalar(tag: str, content: Any) -> Any:
    if tag == "N":
        return _plain_number(content)
    return base64.b64encode(binary(content)).decode() if tag == "B" else content


def _plain_number(text: str) -> str:
    plain = format(Decimal(text), "f")
    if "." in plain:
        plain = plain.rstrip("0").removesuffix(".")
    return "0" if plain == "-0" else plain


def binary(content: bytes | str) -> bytes:
    """A binary's bytes, from boto3's form or the wire's."""
    return content if isinstance(content, bytes) else base64.b64decode(content)

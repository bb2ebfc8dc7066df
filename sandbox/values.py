"""DynamoDB's attribute values in wire form ({"N": "1"}, binaries as base64 text): the checks
DynamoDB makes on a write, the form in which it hands numbers back, and item sizes. It knows no
table."""

from __future__ import annotations

import base64
import binascii
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from sandbox.errors import validation

MAX_ITEM_BYTES = 400 * 1024
MAX_NESTING = 32
_EXACT = Context(prec=400)
_SET_MEMBERS = {"SS": "S", "NS": "N", "BS": "B"}


def normal_number(text: str) -> str:
    """`text` as DynamoDB returns it: plain notation, no leading or trailing zeros.

    Raises ValidationException beyond 38 significant digits or outside 1E-130 … 9.99E+125.
    """
    if text.isdecimal() and text.isascii() and len(text) < 38 and text[0] != "0":
        return text
    try:
        number = _EXACT.create_decimal(text)
    except (InvalidOperation, ValueError, TypeError):
        number = Decimal("NaN")
    if not number.is_finite() or text != text.strip() or "_" in text:
        raise validation(f"The parameter cannot be converted to a numeric value: {text}")
    if number == 0:
        return "0"
    number = number.normalize(_EXACT)
    if len(number.as_tuple().digits) > 38:
        raise validation("Attempting to store more than 38 significant digits in a Number")
    if number.adjusted() > 125:
        raise validation(
            "Number overflow. Attempting to store a number with magnitude larger than supported "
            "range"
        )
    if number.adjusted() < -130:
        raise validation(
            "Number underflow. Attempting to store a number with magnitude smaller than supported "
            "range"
        )
    return format(number, "f")


def stored(value: dict[str, Any], depth: int = 0) -> tuple[dict[str, Any], int]:
    """One attribute value as DynamoDB stores it, and its size in bytes.

    Raises ValidationException for what DynamoDB refuses."""
    if depth > MAX_NESTING:
        raise validation("Nesting Levels have exceeded supported limits")
    if not isinstance(value, dict) or len(value) != 1:
        raise validation(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
        )
    ((tag, content),) = value.items()
    if tag == "S":
        return value, len(content.encode())
    if tag == "N":
        number = normal_number(content)
        return {"N": number}, len(number) // 2 + 1
    if tag == "B":
        return _binary(content)
    if tag in ("BOOL", "NULL"):
        if tag == "NULL" and content is not True:
            raise validation("Null attribute value types must have the value of true")
        return value, 1
    if tag in _SET_MEMBERS:
        return _set(tag, content)
    if tag == "L":
        members = [stored(member, depth + 1) for member in content]
        return {"L": [member for member, _ in members]}, 3 + sum(size + 1 for _, size in members)
    if tag == "M":
        fields = {name: stored(member, depth + 1) for name, member in content.items()}
        size = 3 + sum(len(name.encode()) + size + 1 for name, (_, size) in fields.items())
        return {"M": {name: member for name, (member, _) in fields.items()}}, size
    raise validation(f"Supplied AttributeValue has an unknown datatype: {tag}")


def stored_item(item: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A whole item as DynamoDB stores it, and its size in bytes (names count)."""
    size = 0
    result = {}
    for name, value in item.items():
        result[name], value_size = stored(value)
        size += len(name.encode()) + value_size
    if size > MAX_ITEM_BYTES:
        raise validation("Item size has exceeded the maximum allowed size")
    return result, size


def _binary(content: bytes | str) -> tuple[dict[str, Any], int]:
    if isinstance(content, bytes):
        return {"B": base64.b64encode(content).decode()}, len(content)
    try:
        return {"B": content}, len(base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise validation(f"Invalid base64 in a binary value: {error}") from None


def _set(tag: str, content: list[Any]) -> tuple[dict[str, Any], int]:
    if not content:
        raise validation(
            "One or more parameter values were invalid: An "
            f"{ {'SS': 'string', 'NS': 'number', 'BS': 'binary'}[tag] } set  may not be empty"
        )
    member = _SET_MEMBERS[tag]
    members = [stored({member: element}) for element in content]
    elements = [element[member] for element, _ in members]
    if len(set(elements)) != len(elements):
        raise validation(
            "One or more parameter values were invalid: Input collection contains duplicates"
        )
    return {tag: elements}, sum(size for _, size in members)

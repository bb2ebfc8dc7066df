"""Items that bring nothing new, found in one walk over their bytes, which finds their keys too.

An item is familiar where it is a JSON object as AWS writes it, without white space, that holds
known attributes only, of known types, and no number of more digits than are known. Nearly all are,
and nothing else has to be known of them to land them. DuckDB takes the others apart
(tailrace.lake.discovery): so what is rare need not be understood here, it only must not pass.

numba compiles the walk when it is first called, which takes seconds once, and keeps it beside this
file or in the user's cache. DuckDB's JSON functions take three times as long (docs/adr/0022).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tailrace.changes import Changes
from tailrace.lake.discovery import EXPONENT_DIGITS, Attribute
from tailrace.lines import Lines
from tailrace.model import KeyAttribute

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# What stands between {"N": and its brace.
TEXT, NUMBER, NUMBERS, ANY = range(4)


class Form(NamedTuple):
    """What familiar items look like. A row for each known attribute and type: `heads` from
    `bounds[row]` to the next one is the text that begins it, `"name":{"N":`; then what follows, the
    most digits of a number before and after its point, and which part of the key it is, or -1. And
    the texts that begin the key's parts, likewise."""

    heads: Bytes
    bounds: Integers
    kinds: Integers
    whole: Integers
    scale: Integers
    parts: Integers
    key_heads: Bytes
    key_bounds: Integers

    @classmethod
    def of(cls, known: Sequence[Attribute], key: Sequence[KeyAttribute]) -> Form:
        """The form of items that hold no more than `known`; their keys are looked for."""
        heads, bounds = _texts(_head(each.path, each.type) for each in known)
        places = {(each.name, each.type): place for place, each in enumerate(key)}
        key_heads, key_bounds = _texts(
            (b"," if place else b"{") + _head(each.name, each.type)
            for place, each in enumerate(key)
        )

        def column(values: Iterable[int]) -> Integers:
            return np.fromiter(values, np.int64, len(known))

        return cls(
            heads,
            bounds,
            kinds=column(map(_kind, known)),
            whole=column(each.integer_digits or 0 for each in known),
            scale=column(each.scale or 0 for each in known),
            parts=column(places.get((each.path, each.type), -1) for each in known),
            key_heads=key_heads,
            key_bounds=key_bounds,
        )

    @classmethod
    def of_keys(cls, key: Sequence[KeyAttribute]) -> Form:
        """The form of keys that stand alone, whatever digits they have."""
        return cls.of([Attribute(each.name, each.type, EXPONENT_DIGITS) for each in key], key)


def _head(name: str, kind: str) -> bytes:
    return f'{json.dumps(name, ensure_ascii=False)}:{{"{kind}":'.encode()


def _kind(known: Attribute) -> int:
    has_exponents = (known.integer_digits or 0) >= EXPONENT_DIGITS  # whose digits do not matter
    if known.type == "N":
        return TEXT if has_exponents else NUMBER
    if known.type == "NS":
        return ANY if has_exponents else NUMBERS
    return TEXT if known.type in ("S", "B") else ANY


@dataclass(frozen=True)
class Walked:
    """Whether all items are familiar, and the canonical keys of each of the texts' items. An empty
    one was not found: the item is not familiar, lacks it, or it has to be written otherwise."""

    familiar: bool
    keys: list[Lines]


def walk_all(
    texts: Sequence[Lines | Changes],
    known: Sequence[Attribute],
    key: Sequence[KeyAttribute],
    threads: int,
) -> Walked:
    """Walks over items, or over the images and the keys of records; so many threads share in it."""
    are_records = bool(texts) and isinstance(texts[0], Changes)
    of_items, of_keys = Form.of(known, () if are_records else key), Form.of_keys(key)

    def one(each: Lines | Changes) -> tuple[bool, Lines]:
        if isinstance(each, Lines):
            familiar, keys = walk(each, of_items)
        else:
            familiar, _ = walk(each.images, of_items)
            familiar |= each.images.sizes == 0
            _, keys = walk(each.keys, of_keys)
        return bool(familiar.all()), keys

    if len(texts) > 1:
        with ThreadPoolExecutor(threads, thread_name_prefix="walk") as pool:
            found = list(pool.map(one, texts))
    else:
        found = [one(each) for each in texts]
    return Walked(all(familiar for familiar, _ in found), [keys for _, keys in found])


def walk(texts: Lines, form: Form) -> tuple[Flags, Lines]:
    """Whether each text is familiar, and the key of each. Python's lock is not held meanwhile."""
    data = _frozen(texts.data)
    familiar, keys, starts, sizes, views = _look(data, texts.starts, texts.sizes, *form)
    return familiar, Lines(keys.data, starts, sizes).with_views(views)


def _texts(texts: Iterable[bytes]) -> tuple[Bytes, Integers]:
    """Texts one behind the other, and where each begins and the last one ends."""
    parts = list(texts)
    return _frozen(b"".join(parts)), np.cumsum([0, *map(len, parts)], dtype=np.int64)


def _frozen(data: bytes | memoryview) -> Bytes:
    """The bytes where they lie: one type to numba, whether they could be written or not."""
    found = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    found.flags.writeable = False
    return found


# ------------------------------------------------------------------------------ what is compiled
#
# It may use nothing of other files: numba looks at this one alone to see whether what it has kept
# is out of date. `last` is where a text's last brace lies. No byte behind it is read, so a text
# that is cut off or altered is no danger. -1 stands for what is not familiar.

_QUOTE, _MINUS, _POINT, _COMMA, _COLON, _BACKSLASH = b'"-.,:\\'
_OPEN, _CLOSE, _BEGIN, _END = b"{}[]"
_TRUE, _FALSE = b"tf"


def _set_of(bytes_: Iterable[int]) -> Bytes:
    found = np.zeros(256, np.uint8)
    found[list(bytes_)] = 1
    return found


_HEX = _set_of(b"0123456789abcdefABCDEF")
_ESCAPES = _set_of(b'"\\/bfnrt')
_SURROGATES = _set_of(b"89abcdefABCDEF")  # behind \ud
# What a run of characters in a text ends with, besides control characters and what is not ASCII.
_STOPS = _set_of([*range(0x20), _QUOTE, _BACKSLASH, *range(0x80, 0x100)])

# Of the first byte of a character in UTF-8: how many follow, and between which the next one lies.
_FOLLOWERS = _set_of(range(0xC2, 0xF5)) + _set_of(range(0xE0, 0xF5)) + _set_of(range(0xF0, 0xF5))
_LEAST, _MOST = np.full(256, 0x80, np.uint8), np.full(256, 0xBF, np.uint8)
_LEAST[[0xE0, 0xF0]] = 0xA0, 0x90
_MOST[[0xED, 0xF4]] = 0x9F, 0x8F

# As many levels as an integer has bits, nearly.
_DEEPEST = 62

# Texts up to this size stand in their view itself, as in tailrace.lines.
_INLINED = 12


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        compiled: Callable[..., Any] = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no place to keep it: each process compiles it
        compiled = njit(nogil=True)(function)
    return compiled


@_compiled
def _number_end(data: Bytes, at: int, last: int, whole: int, scale: int) -> int:
    """Behind the number in quotes at `at`, where it has no more digits than these before its point
    and after it."""
    if data[at] != _QUOTE:
        return -1
    at += 1
    if data[at] == _MINUS:
        at += 1
    digits, most = 0, whole
    is_fraction = False
    while at < last:
        byte = data[at]
        at += 1
        if 48 <= byte <= 57:
            digits += 1
        elif byte == _QUOTE:
            return at if digits <= most else -1
        elif byte == _POINT and scale and not is_fraction and digits <= whole:
            digits, most = 0, scale
            is_fraction = True
        else:
            return -1
    return -1


@_compiled
def _numbers_end(data: Bytes, at: int, last: int, whole: int, scale: int) -> int:
    """Behind the list of numbers at `at`."""
    if data[at] != _BEGIN:
        return -1
    while at < last:
        at = _number_end(data, at + 1, last, whole, scale)
        if at < 0:
            return -1
        if data[at] != _COMMA:
            return at + 1 if data[at] == _END else -1
    return -1


@_compiled
def _value_end(data: Bytes, at: int, last: int) -> int:
    """Behind the value at `at`: a text, true, false, or an object or array of values. DynamoDB's
    JSON has no bare numbers and no null. One loop, for a call takes as long as a short text."""
    depth, in_objects = 0, np.uint64(0)  # a bit for each level
    is_name = False
    while True:
        byte = data[at]
        if byte == _QUOTE:
            at += 1
            while True:
                while at < last and not _STOPS[data[at]]:
                    at += 1
                if at >= last:
                    return -1
                byte = data[at]
                if byte == _QUOTE:
                    break
                if byte == _BACKSLASH:
                    if _ESCAPES[data[at + 1]]:
                        at += 2
                        continue
                    if data[at + 1] != 117 or at + 6 > last:  # \u and four digits
                        return -1
                    for behind in range(2, 6):
                        if not _HEX[data[at + behind]]:
                            return -1
                    if (data[at + 2] == 68 or data[at + 2] == 100) and _SURROGATES[data[at + 3]]:
                        return -1  # half a character: its other half is not looked for
                    at += 6
                    continue
                more = _FOLLOWERS[byte]
                if more == 0 or at + more >= last:
                    return -1
                if not _LEAST[byte] <= data[at + 1] <= _MOST[byte]:
                    return -1
                for behind in range(2, more + 1):
                    if not 0x80 <= data[at + behind] <= 0xBF:
                        return -1
                at += more + 1
            at += 1
            if is_name:
                if data[at] != _COLON:
                    return -1
                is_name = False
                at += 1
                continue
        elif is_name:
            return -1
        elif byte in (_OPEN, _BEGIN):
            if depth == _DEEPEST or at >= last:
                return -1
            depth += 1
            in_objects <<= np.uint64(1)
            if byte == _OPEN:
                in_objects |= np.uint64(1)
            at += 1
            if data[at] != (_CLOSE if byte == _OPEN else _END):
                is_name = byte == _OPEN
                continue
        elif byte == _TRUE:
            if at + 4 > last or data[at + 1] != 114 or data[at + 2] != 117 or data[at + 3] != 101:
                return -1
            at += 4
        elif byte == _FALSE:
            if at + 5 > last or data[at + 1] != 97 or data[at + 2] != 108:
                return -1
            if data[at + 3] != 115 or data[at + 4] != 101:
                return -1
            at += 5
        else:
            return -1
        while True:  # behind a value: another one comes, or the end of what holds it
            if depth == 0:
                return at
            if at >= last:
                return -1
            byte = data[at]
            at += 1
            in_object = (in_objects & np.uint64(1)) != 0
            if byte == _COMMA:
                is_name = in_object
                break
            if byte != (_CLOSE if in_object else _END):
                return -1
            depth -= 1
            in_objects >>= np.uint64(1)


@_compiled
def _walk(
    data: Bytes, starts: Integers, sizes: Integers, heads: Bytes, bounds: Integers,
    kinds: Integers, whole: Integers, scale: Integers, parts: Integers, familiar: Flags,
    has_key: Flags, key_places: Integers, key_sizes: Integers,
) -> None:  # fmt: skip
    """Notes whether each text is familiar, whether its key was found, and where its parts lie."""
    count = len(kinds)
    # Which one came behind another in the item before: most items are alike.
    following = np.arange(1, count + 2) % max(count, 1)
    found_in = np.full(count, -1, np.int64)
    for row in range(len(starts)):
        at = starts[row]
        last = at + sizes[row] - 1
        if sizes[row] < 2 or data[at] != _OPEN or data[last] != _CLOSE:
            continue
        if sizes[row] == 2:
            familiar[row] = True
            continue
        found_parts = 0
        before = count
        while at < last:
            at += 1
            this = -1
            guess = following[before]
            for step in range(count):
                other = guess + step
                if other >= count:
                    other -= count
                begin, size = bounds[other], bounds[other + 1] - bounds[other]
                if at + size > last:
                    continue
                is_it = True
                for behind in range(size):
                    if data[at + behind] != heads[begin + behind]:
                        is_it = False
                        break
                if is_it:
                    this = other
                    break
            if this < 0 or found_in[this] == row:
                break
            following[before] = this
            found_in[this] = row
            before = this
            at += bounds[this + 1] - bounds[this]
            kind = kinds[this]
            if kind == NUMBER:
                end = _number_end(data, at, last, whole[this], scale[this])
            elif kind == NUMBERS:
                end = _numbers_end(data, at, last, whole[this], scale[this])
            elif kind == ANY or data[at] == _QUOTE:
                end = _value_end(data, at, last)
            else:
                end = -1
            if end < 0 or end >= last or data[end] != _CLOSE:
                break
            part = parts[this]
            if part >= 0:
                found_parts += 1
                key_places[row, part], key_sizes[row, part] = at, end - at
                for place in range(at, end):
                    if data[place] == _BACKSLASH:  # an escape that may not be canonical
                        found_parts -= 1
                        break
            at = end + 1
            if at == last:
                familiar[row] = True
                has_key[row] = found_parts == key_places.shape[1] > 0
            elif data[at] != _COMMA:
                break


@_compiled
def _look(
    data: Bytes, starts: Integers, sizes: Integers, heads: Bytes, bounds: Integers,
    kinds: Integers, whole: Integers, scale: Integers, parts: Integers, key_heads: Bytes,
    key_bounds: Integers,
) -> tuple[Flags, Bytes, Integers, Integers, NDArray[np.int32]]:  # fmt: skip
    """Whether each text is familiar, and the keys that were found: their bytes, where each begins,
    its size and its view (Lines.views). All at once, so that nobody waits for Python's lock."""
    count, key_parts = len(starts), len(key_bounds) - 1
    familiar, has_key = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    places = np.zeros((count, key_parts), np.int64)
    lengths = np.zeros((count, key_parts), np.int64)
    known = (heads, bounds, kinds, whole, scale, parts)
    _walk(data, starts, sizes, *known, familiar, has_key, places, lengths)
    begins, ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    to = 0
    for row in range(count):
        begins[row] = to
        if has_key[row]:  # a brace behind each part, and one behind all
            to += len(key_heads) + lengths[row].sum() + key_parts + 1
        ends[row] = to
    keys = np.empty(to, np.uint8)
    views = np.zeros((count, 4), np.int32)
    in_views = views.view(np.uint8)
    for row in range(count):
        if not has_key[row]:
            continue
        to = begins[row]
        for part in range(key_parts):
            for at in range(key_bounds[part], key_bounds[part + 1]):
                keys[to] = key_heads[at]
                to += 1
            for at in range(places[row, part], places[row, part] + lengths[row, part]):
                keys[to] = data[at]
                to += 1
            keys[to] = _CLOSE
            to += 1
        keys[to] = _CLOSE
        size = ends[row] - begins[row]
        is_short = size <= _INLINED
        views[row, 0] = size
        views[row, 3] = 0 if is_short else begins[row]
        for at in range(size if is_short else 4):
            in_views[row, 4 + at] = keys[begins[row] + at]
    return familiar, keys, begins, ends - begins, views

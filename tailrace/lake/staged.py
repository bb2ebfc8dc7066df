"""What was read of AWS, as a table that DuckDB reads where it lies in memory.

Texts become Arrow arrays of string views (Lines.views). DuckDB takes the views for its own strings,
so no text is copied or parsed on its way into a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import nanoarrow
import numpy as np
from nanoarrow.c_array_stream import CArrayStream
from numpy.typing import NDArray

from tailrace.changes import NO_TIME, Changes
from tailrace.lines import Lines
from tailrace.model import Shape, Staged

# The view that holds what is staged, while it is: the column json; or those of records, op,
# position, micros, keys, image, old_image, expired and looked_up, where what is missing is NULL.
# Beside them key, the key's canonical text where it is known already.
STAGED = "temp.tailrace_staged"

_TEXT = nanoarrow.string_view()
# DuckDB takes texts of this extension type for JSON as they are: whoever looks into them parses.
_JSON = nanoarrow.extension_type(_TEXT, "arrow.json")
_INTEGER, _BOOL = nanoarrow.int64(), nanoarrow.bool_()

_LINES = nanoarrow.c_schema(nanoarrow.struct({"json": _JSON, "key": _TEXT}))
_CHANGES = nanoarrow.c_schema(
    nanoarrow.struct(
        {
            "op": _TEXT,
            "position": _TEXT,
            "micros": _INTEGER,
            "keys": _JSON,
            "image": _JSON,
            "old_image": _JSON,
            "expired": _BOOL,
            "looked_up": _BOOL,
            "key": _TEXT,
        }
    )
)


def columns_of(staged: Staged) -> list[Lines | Changes]:
    """The texts of what is staged as the view STAGED has them. Raises ValueError for a line that
    has to be taken apart and cannot be."""
    if staged.shape is Shape.INCREMENTAL_LINES:
        return [Changes.of_export(each) for each in staged.texts if isinstance(each, Lines)]
    return list(staged.texts)


@contextmanager
def staging(
    con: duckdb.DuckDBPyConnection,
    texts: Sequence[Lines | Changes],
    keys: Sequence[Lines] | None = None,
) -> Iterator[None]:
    """Lets queries of `con` read `texts` as the view STAGED; any number of times. Of `keys`, those
    of each of the `texts`, the empty ones are not known."""
    name = STAGED.partition(".")[2]
    con.register(name, _Readable(texts, keys))
    try:
        yield
    finally:
        con.unregister(name)


class _Readable:
    """Texts by the Arrow PyCapsule interface: a batch each, made once, for DuckDB asks several
    times."""

    def __init__(
        self, texts: Sequence[Lines | Changes], keys: Sequence[Lines] | None = None
    ) -> None:
        is_changes = bool(texts) and isinstance(texts[0], Changes)
        self._schema = _CHANGES if is_changes else _LINES
        self._batches = [
            _array(self._schema, len(each), [None], _columns(each, known))
            for each, known in zip(texts, keys or map(_unknown, texts), strict=True)
            if len(each)
        ]

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        stream = CArrayStream.from_c_arrays(self._batches, self._schema)
        return stream.__arrow_c_stream__(requested_schema)


def _unknown(texts: Lines | Changes) -> Lines:
    nothing = np.zeros(len(texts), np.int64)
    return Lines(b"", nothing, nothing)


def _columns(texts: Lines | Changes, keys: Lines) -> list[Any]:
    key = _text_array(keys, keys.sizes > 0)
    if isinstance(texts, Lines):
        return [_text_array(texts, None), key]
    found = [_text_array(each, each.sizes > 0) for each in (texts.ops, texts.positions)]
    found.append(_array(_INTEGER, len(texts), [_bits(texts.micros != NO_TIME), texts.micros]))
    images = (texts.keys, texts.images, texts.old_images)
    found += [_text_array(each, each.sizes > 0) for each in images]
    flags = (texts.expired, texts.looked_up)
    found += [_array(_BOOL, len(texts), [None, _bits(each)]) for each in flags]
    return [*found, key]


def _text_array(texts: Lines, valid: NDArray[np.bool_] | None) -> Any:
    nulls = None if valid is None else _bits(valid)
    return _array(_TEXT, len(texts), [nulls, texts.views, texts.data])


def _array(schema: Any, length: int, buffers: list[Any], children: Sequence[Any] = ()) -> Any:
    return nanoarrow.c_array_from_buffers(
        schema,
        length,
        buffers,
        null_count=0 if buffers[0] is None else -1,
        children=children,
        validation_level="none",
    )


def _bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(flags, bitorder="little")

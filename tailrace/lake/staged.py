"""What was read of AWS, as a table that DuckDB reads where it lies in memory.

Lines become an Arrow array of string views: a text is its length, its first bytes and its place in
the buffer that came. DuckDB takes the views for its own strings, so no text is copied or parsed on
its way into a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import nanoarrow
import numpy as np
from nanoarrow.c_array_stream import CArrayStream

from tailrace.lines import Lines

# The view that holds what is staged, while it is: one column, json.
STAGED = "temp.tailrace_staged"

# Texts up to this size stand in their view itself.
INLINED_BYTES = 12

# DuckDB takes texts of this extension type for JSON as they are: whoever looks into them parses.
_SCHEMA = nanoarrow.c_schema(
    nanoarrow.struct({"json": nanoarrow.extension_type(nanoarrow.string_view(), "arrow.json")})
)


@contextmanager
def staging(con: duckdb.DuckDBPyConnection, lines: Sequence[Lines]) -> Iterator[None]:
    """Lets queries of `con` read `lines` as the view STAGED; any number of times."""
    name = STAGED.partition(".")[2]
    con.register(name, _Readable(lines))
    try:
        yield
    finally:
        con.unregister(name)


class _Readable:
    """Lines by the Arrow PyCapsule interface: a batch each."""

    def __init__(self, lines: Sequence[Lines]) -> None:
        self._lines = lines

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        batches = [_batch(each) for each in self._lines if len(each)]
        return CArrayStream.from_c_arrays(batches, _SCHEMA).__arrow_c_stream__(requested_schema)


def _batch(lines: Lines) -> Any:
    texts = nanoarrow.c_array_from_buffers(
        nanoarrow.string_view(),
        len(lines),
        [None, _views(lines), lines.data],
        null_count=0,
        validation_level="none",
    )
    return nanoarrow.c_array_from_buffers(
        _SCHEMA, len(lines), [None], children=[texts], null_count=0, validation_level="none"
    )


def _views(lines: Lines) -> Any:
    """Arrow's views of texts in one buffer: size, first four bytes, 0 (the buffer's number) and
    start; or size and text, padded, where it is short."""
    views = np.zeros((len(lines), 4), "<i4")
    views[:, 0] = lines.sizes
    views[:, 3] = lines.starts
    long = lines.sizes > INLINED_BYTES
    if long.any():
        views[long, 1] = lines.bytes_at(lines.starts[long], 4).view("<i4")[:, 0]
    for number in np.flatnonzero(~long):
        start, size = int(lines.starts[number]), int(lines.sizes[number])
        text = bytes(memoryview(lines.data)[start : start + size]).ljust(INLINED_BYTES, b"\0")
        views[number, 1:] = np.frombuffer(text, "<i4")
    return views

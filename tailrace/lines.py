"""JSON texts that wait for a commit: a buffer as it came, and where in it each text lies.

Texts are found by their line ends, some million bytes at a time, and never copied: the warehouse
reads them where they are (tailrace.lake.staged). Nothing here knows what they say.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEWLINE = ord("\n")

# Texts up to this size stand in their view itself.
INLINED_BYTES = 12

Offsets = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lines:
    """Texts in `data`: from which byte on, and how many bytes. Less than 2 GiB a buffer. `name`
    is what errors call the place they came from."""

    data: bytes | memoryview
    starts: Offsets
    sizes: Offsets
    name: str = ""

    @classmethod
    def of(cls, data: bytes | memoryview, name: str = "") -> Lines:
        """The lines of a buffer; empty ones are left out."""
        found = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(found == NEWLINE)
        if found.size and found[-1] != NEWLINE:
            ends = np.append(ends, found.size)
        starts = np.concatenate((np.zeros(min(1, ends.size), np.int64), ends[:-1] + 1))
        sizes = ends - starts
        return cls(data, starts, sizes, name)._only(sizes > 0)

    @classmethod
    def joined(cls, texts: Iterable[Any], name: str = "") -> Lines:
        """Texts one behind the other, each a bytes-like object."""
        parts = list(texts)
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        return cls(b"".join(parts), np.cumsum(sizes) - sizes, sizes, name)

    def _only(self, wanted: NDArray[np.bool_]) -> Lines:
        if wanted.all():
            return self
        return replace(self, starts=self.starts[wanted], sizes=self.sizes[wanted])

    def within(self, before: bytes, after: bytes) -> Lines | None:
        """What stands between `before` and `after` in each text; None where one is not so."""
        edges = len(before) + len(after)
        if not len(self) or self.sizes.min() < edges:
            return None if len(self) else self
        ends = self.starts + self.sizes - len(after)
        for at, edge in ((self.starts, before), (ends, after)):
            if not (self.bytes_at(at, len(edge)) == np.frombuffer(edge, np.uint8)).all():
                return None
        return replace(self, starts=self.starts + len(before), sizes=self.sizes - edges)

    def bytes_at(self, at: Offsets, count: int) -> NDArray[np.uint8]:
        """The `count` bytes of the buffer from each of these on, a row each."""
        found = np.frombuffer(self.data, np.uint8)
        return np.lib.stride_tricks.sliding_window_view(found, count)[at]

    @cached_property
    def views(self) -> NDArray[np.int32]:
        """Where the texts are, as Arrow's string views have it, a row each: size, first four bytes,
        0 (the buffer's number) and start; or size and text, padded, where it is short."""
        views = np.zeros((len(self), 4), "<i4")
        views[:, 0] = self.sizes
        views[:, 3] = self.starts
        is_long = self.sizes > INLINED_BYTES
        if is_long.any():
            views[is_long, 1] = self.bytes_at(self.starts[is_long], 4).view("<i4")[:, 0]
        if not is_long.all():
            short = np.flatnonzero(~is_long)
            views[short, 1:] = self._padded(short).view("<i4")
        return views

    def with_views(self, views: NDArray[np.int32] | None = None) -> Lines:
        """The same, with its views made: by the thread that reads, where another one commits, which
        would have to wait for Python's lock. Or with these, which were made elsewhere."""
        self.__dict__["views"] = self.views if views is None else views
        return self

    def _padded(self, numbers: Offsets) -> NDArray[np.uint8]:
        """Short texts, with zeros behind them, a row each."""
        places = np.arange(INLINED_BYTES)
        inside = places < self.sizes[numbers, None]
        at = np.where(inside, self.starts[numbers, None] + places, 0)
        data = np.frombuffer(self.data or b"\0", np.uint8)
        return np.where(inside, data[at], np.uint8(0))

    def on_disk(self, folder: Path) -> Lines:
        """The same texts, kept in a file in `folder` that has no name and ends with its use."""
        with TemporaryFile(dir=folder) as file:
            file.write(self.data)
            file.flush()
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return replace(self, data=data)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[bytes]:
        data = memoryview(self.data)
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield bytes(data[start : start + size])

    @property
    def bytes(self) -> int:
        """The bytes of all texts."""
        return int(self.sizes.sum())

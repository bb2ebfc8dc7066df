"""Copies of relations in files, for tools that cannot open the warehouse: Parquet, CSV, JSON.

A copy is of one snapshot, and stands under its name when it is whole, never half. Which relation it
is, and whether it may replace a file, is left to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import duckdb

from tailrace.errors import ConfigError
from tailrace.lake.sql import literal
from tailrace.tabular import Column, columns_of, write_csv, write_json, write_json_lines

PARQUET = ".parquet"
PAGE_ROWS = 1_000

Write = Callable[[Sequence[Column], Iterable[Sequence[Any]], TextIO], None]
WRITERS: dict[str, Write] = {
    ".csv": write_csv,
    ".json": write_json,
    ".ndjson": write_json_lines,
    ".jsonl": write_json_lines,
}
ENDINGS = (PARQUET, *WRITERS)


def require_place(path: Path, *, force: bool) -> None:
    """Raises ConfigError where no copy can be written to `path`: another ending, no folder, or a
    file that is there, unless it is to be replaced."""
    if "://" in str(path) or path.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"A copy cannot be written to {path}: its name has to end in {', '.join(ENDINGS)}.",
            "Name a file of this machine with one of these endings.",
        )
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent}.", "Make it, or name another.")
    if path.exists() and not (force and path.is_file()):
        raise ConfigError(
            f"{path} exists already.", "Name another file, or replace it with --force."
        )


def write_copy(con: duckdb.DuckDBPyConnection, select: str, path: Path) -> int:
    """Writes the rows of a query to `path`, in the format of its ending; how many there are.

    In Parquet every type stays; CSV and JSON are those of tailrace.tabular."""
    with _whole(path) as part:
        if path.suffix.lower() == PARQUET:
            copied = con.execute(
                f"COPY ({select}) TO {literal(str(part))} (FORMAT parquet, COMPRESSION zstd)"
            ).fetchone()
            return int(copied[0]) if copied else 0
        cursor = con.execute(select)
        rows = _Counted(cursor)
        with part.open("w", encoding="utf-8", newline="") as out:
            WRITERS[path.suffix.lower()](columns_of(cursor.description), rows, out)
        return rows.count


class _Counted:
    """The rows of a cursor, page by page, counted as they go."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self.count = 0

    def __iter__(self) -> Iterator[Sequence[Any]]:
        while rows := self._cursor.fetchmany(PAGE_ROWS):
            self.count += len(rows)
            yield from rows


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end, or is removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

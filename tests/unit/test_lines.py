"""Texts in a buffer: found by their line ends, cut to what is within, put together."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tailrace.lake.staged import STAGED, staging
from tailrace.lines import Lines


def test_lines_are_found_and_blank_ones_left_out() -> None:
    assert list(Lines.of(b"")) == list(Lines.of(b"\n\n")) == []
    assert list(Lines.of(b"a\n\nbc\r\n \nd")) == [b"a", b"bc\r", b" ", b"d"]
    assert list(Lines.of(memoryview(b"xa\nb")[1:])) == [b"a", b"b"]


def test_texts_are_joined_as_they_are() -> None:
    lines = Lines.joined([b"a\nb", memoryview(b"c"), b""])
    assert (list(lines), len(lines), lines.bytes) == ([b"a\nb", b"c", b""], 3, 4)
    assert list(Lines.joined([])) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"<a>\n<b\n>>", None),
        (b"<a>\n<bc>\n<>", [b"a", b"bc", b""]),
        (b"<a>\n<", None),
        (b"<a>\nb>", None),
        (b"", []),
    ],
)
def test_what_is_within_is_told_only_where_all_texts_have_it(
    text: bytes, found: list[bytes] | None
) -> None:
    within = Lines.of(text).within(b"<", b">")
    assert (within and list(within)) == found or (within is not None and list(within) == found)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_warehouse_reads_texts_of_every_length_where_they_lie(
    tmp_path: Path, on_disk: bool
) -> None:
    texts = [b'"' + "é".encode() * length + b'"' for length in range(20)] * 300
    lines = [Lines.of(b"\n".join(texts)), Lines.of(b""), Lines.joined(texts[:7])]
    if on_disk:
        lines = [each.on_disk(tmp_path) for each in lines if len(each)]
        assert list(tmp_path.iterdir()) == []
    con = duckdb.connect()
    with staging(con, lines):
        for _ in range(2):
            rows = con.execute(f"SELECT json, typeof(json) FROM {STAGED}").fetchall()
            assert sorted(rows) == sorted((t.decode(), "JSON") for t in texts + texts[:7])
    with pytest.raises(duckdb.CatalogException):
        con.execute(f"FROM {STAGED}")


def test_nothing_staged_is_an_empty_table() -> None:
    con = duckdb.connect()
    with staging(con, []):
        assert con.execute(f"SELECT count(*) FROM {STAGED}").fetchall() == [(0,)]

"""A data file of an export: its lines come out to the letter, or it is named and leaves nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from pathlib import Path

import pytest
from botocore.exceptions import IncompleteReadError
from botocore.response import StreamingBody

from tailrace.errors import CorruptExport
from tailrace.model import ExportFile
from tailrace.sources import export
from tailrace.sources.export import unpack


def gzipped(content: bytes) -> bytes:
    """The same at any time: test runners that work side by side have to name tests alike."""
    return gzip.compress(content, mtime=0)


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def unpacked(
    folder: Path, content: bytes, items: int, digest: str | None = None, incremental: bool = False
) -> list[bytes]:
    digest = md5(content) if digest is None else digest
    file = ExportFile("data/f.json.gz", items, digest, incremental)
    lines = unpack(io.BytesIO(content), file, "s3://bucket/data/f.json.gz", folder)
    assert list(folder.iterdir()) == []
    return [text for each in lines for text in each]


ITEMS = [
    b'{"pk":{"S":"a"}}',
    b'{"Item":{"M":{"Item":{"S":"}\\n{\\"Item\\":"}}}}',
    '{"é\u2028":{"S":"\U0001f600"},"}":{"L":[]}}'.encode(),
    b'{"blob":{"S":"' + b"x" * 400_000 + b'"}}',
    b"{}",
]


@pytest.mark.parametrize("chunk", [1, 7, 1_000, 256 * 1024])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_items_come_out_to_the_letter_wherever_a_chunk_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk: int, end: bytes
) -> None:
    monkeypatch.setattr(export, "UNPACK_BYTES", chunk)
    items = [each for each in ITEMS if chunk > 10 or len(each) < 1_000]
    text = b"\n".join(b'{"Item":' + each + b"}" for each in items) + end
    found = unpacked(tmp_path, gzipped(text), len(items))
    assert found == items


def test_lines_of_an_incremental_export_stay_as_they_are(tmp_path: Path) -> None:
    text = b'{"Metadata":{"WriteTimestampMicros":{"N":"1"}},"Keys":{"pk":{"S":"a"}}}\n' * 3
    assert unpacked(tmp_path, gzipped(text), 3, incremental=True) == text.splitlines()


@pytest.mark.parametrize("line", ['{ "Item" : %s }', '{"Item": %s}', '\t{"Item":%s} '])
def test_items_may_have_blanks_around_them(tmp_path: Path, line: str) -> None:
    item = '{"pk": {"S":"\\u00e9"}}'
    found = unpacked(tmp_path, gzipped((line % item + "\n").encode() * 2), 2)
    assert [each.strip() for each in found] == [item.encode()] * 2


def test_a_line_may_end_as_on_windows_and_a_blank_one_is_none(tmp_path: Path) -> None:
    assert unpacked(tmp_path, gzipped(b'{"Item":{}}\r\n\n{"Item":{}}'), 2) == [b"{}"] * 2


def test_what_is_beyond_the_memory_for_a_file_is_on_disk_under_no_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(export, "UNPACK_BYTES", 1_000)
    monkeypatch.setattr(export, "IN_MEMORY_BYTES", 100_000)
    items = [b'{"pk":{"S":"%d"}}' % number for number in range(20_000)]
    text = b"".join(b'{"Item":' + each + b"}\n" for each in items)
    assert unpacked(tmp_path, gzipped(text), len(items)) == items


@pytest.mark.parametrize("more", [b',"x":{}}', b',"Item":{}}', b"", b"}}", b"}{}"])
def test_what_else_a_line_holds_leaves_no_json(tmp_path: Path, more: bytes) -> None:
    line = b'{"Item":{"a":{"S":"1"}}' + more + b"\n"
    good, bad = unpacked(tmp_path, gzipped(b'{"Item":{}}\n' + line), 2)
    assert good == b"{}"
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad)


@pytest.mark.parametrize("content", [b"", gzipped(b"")])
def test_an_empty_partition_has_a_file_without_lines(tmp_path: Path, content: bytes) -> None:
    assert unpacked(tmp_path, content, 0) == []


def test_a_file_of_several_gzip_members_is_read_whole(tmp_path: Path) -> None:
    content = gzipped(b'{"Item":{"a":{"S":"1"}}}\n') + gzipped(b'{"Item":{}}\n')
    assert unpacked(tmp_path, content, 2) == [b'{"a":{"S":"1"}}', b"{}"]


TEXT = b'{"Item":{"pk":{"S":"a"}}}\n{"Item":{"pk":{"S":"b"}}}\n'
WHOLE = gzipped(TEXT)


@pytest.mark.parametrize(
    ("content", "digest", "said"),
    [
        pytest.param(WHOLE, md5(b"else"), "has the MD5", id="another MD5"),
        pytest.param(WHOLE[:20], md5(WHOLE), "20 bytes. has the MD5", id="cut, with an MD5"),
        pytest.param(WHOLE[:20], "", "not a whole gzip file", id="cut"),
        pytest.param(WHOLE[:-5] + b"12345", "", "not a whole gzip file", id="another CRC"),
        pytest.param(WHOLE[:12] + b"\xff" * 9, "", "not a whole gzip file", id="garbage inside"),
        pytest.param(b"no gzip at all", "", "not a whole gzip file", id="no gzip"),
        pytest.param(b"", "", "holds 0 items, but its manifest counts 2", id="nothing"),
        pytest.param(gzipped(TEXT[:26]), "", "holds 1 items", id="a line short"),
        pytest.param(gzipped(TEXT + TEXT[:26]), "", "holds 3 items", id="a line more"),
        pytest.param(gzipped(TEXT[8:-2]), "", "a line that is not", id="an item alone"),
        pytest.param(gzipped(TEXT.replace(b"I", b"i")), "", "`item`", id="another name"),
        pytest.param(gzipped(b'{ "Item":{},"x":{}}'), "", "`x`", id="something more"),
    ],
)
def test_a_damaged_file_is_named_and_leaves_nothing(
    tmp_path: Path, content: bytes, digest: str, said: str
) -> None:
    with pytest.raises(CorruptExport, match=said) as refused:
        unpacked(tmp_path, content, 2, digest)
    assert "s3://bucket/data/f.json.gz" in refused.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", [md5(WHOLE), None])
@pytest.mark.parametrize("size", range(0, len(WHOLE), 9))
def test_a_body_that_is_cut_off_is_no_damaged_file(
    tmp_path: Path, size: int, digest: str | None
) -> None:
    body = StreamingBody(io.BytesIO(WHOLE[:size]), len(WHOLE))
    with pytest.raises(IncompleteReadError):
        unpack(body, ExportFile("data/f.json.gz", 2, digest), "f.json.gz", tmp_path)

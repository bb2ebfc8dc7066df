"""Objects as Firehose delivers them are taken apart into the records that DynamoDB sent."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zipfile
from typing import Any

import pytest

from tailrace.changes import ChangeRow
from tailrace.sources import delivered, snappy
from tailrace.sources.delivered import DamagedError, Found, take_apart, unpacked

# 200 lines, packed by another program: framed, and as one raw block.
LINES = b'{"a":"}{"}\n' * 200
COPIES = "Cw" + "D+Cw" * 33 + "AyCwA="
FRAMED = base64.b64decode("/wYAAHNOYVBwWQB7AAC+AdT/mBEoeyJhIjoifXsifQr+" + COPIES)
RAW = base64.b64decode("mBEoeyJhIjoifXsifQr+" + COPIES)


def record(number: int, table: str = "orders", text: str = "", **change: Any) -> dict[str, Any]:
    image = {"pk": {"S": f"k{number}"}, "text": {"S": text}}
    return {
        "awsRegion": "us-east-1",
        "eventID": f"00000000-0000-0000-0000-{number:012d}",
        "eventName": "INSERT",
        "userIdentity": None,
        "recordFormat": "application/json",
        "tableName": table,
        "dynamodb": {
            "ApproximateCreationDateTime": 1_700_000_000_000 + number,
            "Keys": {"pk": image["pk"]},
            "NewImage": image,
            "SizeBytes": 20,
        }
        | change,
        "eventSource": "aws:dynamodb",
    }


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def row(record: dict[str, Any], image: bytes | None = None) -> ChangeRow:
    """What is taken of a record, whose image came as these bytes."""
    change = record["dynamodb"]
    precise = change.get("ApproximateCreationDateTimePrecision") == "MICROSECOND"
    return ChangeRow(
        op="INSERT",
        position=record["eventID"].replace("-", ""),
        micros=change["ApproximateCreationDateTime"] * (1 if precise else 1_000),
        keys=compact(change["Keys"]),
        image=image or compact(change["NewImage"]),
        old_image=None,
        expired=False,
        looked_up=False,
    )


def taken(body: bytes, key: str = "k") -> tuple[Found, list[ChangeRow]]:
    found = take_apart("orders", unpacked(key, body))
    return found, [each for changes in found.changes for each in changes]


HOSTILE = ["}{", "}\n{", '"}{"awsRegion":"', '\\"}{', "}{\u2028\u0085é", "\\", '{"awsRegion":']


@pytest.mark.parametrize("between", [b"", b"\n", b"\r\n", b"\n\n", b" \n "])
def test_records_are_told_apart_whatever_stands_between_and_in_them(
    between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(number, text=text) for number, text in enumerate(HOSTILE * 3)]
    for size in (1, 7, 300, 1_000_000):
        monkeypatch.setattr(delivered, "UNPACK_BYTES", size)
        found, rows = taken(between.join(map(compact, records)))
        assert rows == list(map(row, records))
        assert (found.foreign, found.damage) == (0, "")


@pytest.mark.parametrize("between", [b"", b"\n"])
def test_records_written_by_another_program_are_told_apart_too(between: bytes) -> None:
    """Members in another order, spaces and newlines inside: what a transformation may leave."""
    odd = [dict(reversed(record(number, text=text).items())) for number, text in enumerate(HOSTILE)]
    texts = [json.dumps(odd[0]), json.dumps(odd[1], indent=2), compact(record(2)).decode()]
    texts += [json.dumps(each) for each in odd[3:]]
    found, rows = taken(between.join(text.encode() for text in texts))
    assert (found.foreign, found.damage) == (0, "")
    expected = [odd[0], odd[1], record(2), *odd[3:]]
    assert [each.position for each in rows] == [row(each).position for each in expected]
    images = [json.loads(each.image or b"") for each in rows]
    assert images == [each["dynamodb"]["NewImage"] for each in expected]


def test_records_of_other_tables_and_senders_are_left_out_and_counted() -> None:
    others = [compact(each) for each in (record(1, "customers"), {"hello": "}{"}, [1], "text", 5)]
    no_time = record(2)
    del no_time["dynamodb"]["ApproximateCreationDateTime"]
    far = record(3, ApproximateCreationDateTime=1_700_000_000_000_000)
    others += [compact(no_time), compact(far), compact(record(4) | {"eventID": ""})]
    for between in (b"", b"\n"):
        found, rows = taken(between.join([*others, compact(record(9)), b"plain text", b""]))
        assert rows == [row(record(9))]
        assert (dict(found.others), found.foreign, found.damage) == ({"customers": 1}, 8, "")


def test_times_in_milliseconds_are_counted_of_the_table_s_own_records() -> None:
    micro = record(2, ApproximateCreationDateTimePrecision="MICROSECOND")
    found, rows = taken(b"".join(map(compact, (record(1), micro, record(3, table="other")))))
    assert rows == [row(record(1)), row(micro)]
    assert [each.coarse for each in found.changes] == [1]


def test_times_are_read_by_their_precision() -> None:
    micros = record(
        1,
        ApproximateCreationDateTime=1_700_000_000_000_001,
        ApproximateCreationDateTimePrecision="MICROSECOND",
    )
    found, _ = taken(compact(micros) + compact(record(5)))
    assert (found.oldest, found.newest) == (1_700_000_000_000_001, 1_700_000_000_005_000)


def test_a_record_that_is_cut_off_is_damage_and_those_around_it_are_kept() -> None:
    records = [record(number) for number in range(3)]
    whole = list(map(compact, records))
    for body in (whole[0] + whole[1][:-20] + whole[2], whole[0] + b"\n" + whole[1][:90]):
        found, rows = taken(body)
        assert rows == [row(each) for each in records if compact(each) in body]
        assert "cannot be read" in found.damage
        assert '{"awsRegion"' in found.damage


def test_an_empty_object_holds_nothing() -> None:
    for body in (b"", b"\n", gzip.compress(b"")):
        found, rows = taken(body)
        assert (found, rows) == (Found(), [])


def test_packed_objects_are_known_by_what_they_begin_with() -> None:
    records = [record(number) for number in range(3_000)]
    body = b"".join(map(compact, records))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("one", body)
    two_members = gzip.compress(body[:100_000]) + gzip.compress(body[100_000:])
    for packed in (gzip.compress(body), two_members, archive.getvalue()):
        _, rows = taken(packed)
        assert rows == list(map(row, records))


def _sized(block: bytes) -> bytes:
    return struct.pack(">I", len(block)) + block


def test_snappy_is_read_framed_and_in_the_blocks_of_hadoop_and_xerial() -> None:
    hadoop = struct.pack(">I", len(LINES)) + _sized(RAW)
    xerial = snappy.XERIAL + b"\0\0\0\1\0\0\0\1" + _sized(RAW)
    long = bytes(range(256)) * 3
    literal = b"\x80\x06" + b"\xf4\xff\x02" + long  # 768 bytes as they are
    for packed in (FRAMED, hadoop, xerial, FRAMED + b"\xfe\x01\0\0\0" + FRAMED[10:]):
        text = b"".join(unpacked("a.snappy", packed))
        assert text in (LINES, LINES * 2)
    assert snappy.decompress(literal) == long
    assert b"".join(unpacked("a.hsnappy", hadoop + struct.pack(">I", 768) + _sized(literal))) == (
        LINES + long
    )


def test_snappy_that_is_none_or_cut_off_is_damage() -> None:
    hadoop = struct.pack(">I", len(LINES)) + _sized(RAW)
    bad = [FRAMED[:-3], hadoop[:-3], hadoop[:3], b"\0\0\0\1" + _sized(RAW), b"hello, world"]
    bad += [b"\0\0\0\1" + _sized(b"\x01\x05\x09"), FRAMED + b"\x02\0\0\0"]
    for packed in bad:
        with pytest.raises(DamagedError, match="not a whole snappy file"):
            list(unpacked("a.snappy", packed))


def test_what_is_cut_off_is_named() -> None:
    body = b"".join(compact(record(number)) for number in range(3_000))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one", body)
    packed = gzip.compress(body)
    for cut, kind in (
        (packed[:-20], "gzip"),
        (packed[:5], "gzip"),
        (packed[:-4] + b"\0\0\0\0", "gzip"),
        (archive.getvalue()[:-30], "zip"),
    ):
        found, _ = taken(cut)
        assert f"is not a whole {kind} file" in found.damage

"""Records are taken apart into columns, of which nothing is lost and nothing is made up."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import msgspec
import pytest

from tailrace.changes import NO_TIME, ChangeRow, Changes, records_of
from tailrace.lake.staged import STAGED, staging

IMAGE = b'{ "k" : {"S":"\\u00e9\\/"}, "n":{"N":"1E2"} }'  # as it came, whatever it looks like


def texts(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() for each in records)


def test_records_of_a_table_s_stream_have_times_in_seconds_and_sequence_numbers() -> None:
    text = (
        b'{"eventName":"MODIFY","dynamodb":{"ApproximateCreationDateTime":1.5E9,"NewImage":%s,'
        b'"SequenceNumber":"7","Keys":{"k":1},"OldImage":{"o":2}}}' % IMAGE
    )
    assert list(Changes.of_stream(records_of(text))) == [
        ChangeRow("MODIFY", "7", 1_500_000_000_000_000, b'{"k":1}', IMAGE, b'{"o":2}', False, False)
    ]


def test_records_by_kinesis_have_times_by_their_precision_and_numbers_or_ids() -> None:
    def record(time: int, precision: str | None, **more: Any) -> dict[str, Any]:
        change = {"ApproximateCreationDateTime": time}
        change |= {"ApproximateCreationDateTimePrecision": precision} if precision else {}
        return {"eventName": "INSERT", "eventID": "0a-1b", "dynamodb": change} | more

    changes = Changes.of_kinesis(
        records_of(
            texts(
                record(1_700_000_000_001, None),
                record(1_700_000_000_002, "MILLISECOND", sequenceNumber="49"),
                record(1_700_000_000_000_003, "MICROSECOND"),
            )
        )
    )
    assert [(each.micros, each.position) for each in changes] == [
        (1_700_000_000_001_000, "0a1b"),
        (1_700_000_000_002_000, "49"),
        (1_700_000_000_000_003, "0a1b"),
    ]
    assert changes.coarse == 2


@pytest.mark.parametrize(
    ("op", "identity", "expired"),
    [
        ("REMOVE", {"type": "Service", "principalId": "dynamodb.amazonaws.com"}, True),
        ("REMOVE", {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}, True),
        ("MODIFY", {"type": "Service", "principalId": "dynamodb.amazonaws.com"}, False),
        ("REMOVE", {"principalId": "somebody"}, False),
        ("REMOVE", None, False),
    ],
)
def test_an_item_has_expired_where_dynamodb_itself_removed_it(
    op: str, identity: dict[str, str] | None, expired: bool
) -> None:
    record = {"eventName": op, "userIdentity": identity, "dynamodb": {"NewImage": {"a": 1}}}
    row, _ = Changes.of_stream(records_of(texts(record, {})))
    assert row.expired is expired
    assert row.image == (None if op == "REMOVE" else b'{"a": 1}')


def test_what_a_record_lacks_is_missing_in_the_warehouse_too() -> None:
    con = duckdb.connect()
    whole = {
        "eventName": "INSERT",
        "eventID": "1",
        "lookedUp": True,
        "dynamodb": {
            "ApproximateCreationDateTime": 2,
            "Keys": {"k": {"S": "a"}},
            "NewImage": {"k": {"S": "a" * 20}},
        },
    }
    changes = Changes.of_kinesis(records_of(texts(whole, {}, whole)))
    assert changes.micros.tolist() == [2_000, NO_TIME, 2_000]
    with staging(con, [changes]):
        found = con.execute(
            "SELECT op, position, micros, keys::VARCHAR, image->>'$.k.S', old_image, expired,"
            f" looked_up FROM {STAGED}"
        ).fetchall()
    full = ("INSERT", "1", 2_000, '{"k": {"S": "a"}}', "a" * 20, None, False, True)
    assert found == [full, (None,) * 6 + (False, False), full]


@pytest.mark.parametrize(
    "text",
    [
        b'{"dynamodb":{"OldImage":{"a":"\xff"}}}',
        b'{"dynamodb":{"OldImage":{"a":01}}}',
        b'{"dynamodb":{"OldImage":{"a":"\\q"}}}',
        b'{"dynamodb":{"NewImage":{"a"}}}',
        b'{"dynamodb":{"SequenceNumber":5}}',
        b'{"eventName":null}',
        b'{"dynamodb":[]}',
        b'{"dynamodb":{}',
        b"[]",
        b"{} x",
    ],
)
def test_what_is_no_record_is_refused(text: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        Changes.of_stream(records_of(text))

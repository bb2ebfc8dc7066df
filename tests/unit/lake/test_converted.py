"""Records that were converted to Parquet become the JSON that DynamoDB sent, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailrace.errors import Terminal
from tailrace.lake.converted import record_lines

IMAGE = {
    "pk": {"S": "k}{1"},
    'It\'s "x".y': {"N": "123456789012345678901234567890.12345678"},
    "Z": {"BOOL": False},
    "none": {"NULL": True},
    "bytes": {"B": "AAE="},
    "set": {"NS": ["1", "2"]},
    "deep": {"M": {"a": {"L": [{"S": "ü"}, {"NULL": True}]}}},
}
KEYS = {"pk": IMAGE["pk"]}


def parquet(path: Path, dynamodb: str, more: str = "") -> Path:
    duckdb.sql(
        "COPY (SELECT 'e-1' AS eventid, 'MODIFY' AS eventname, 'orders' AS tablename,"
        f" {dynamodb} AS dynamodb{more}) TO '{path}' (FORMAT parquet)"
    )
    return path


def quoted(value: Any) -> str:
    return "'" + json.dumps(value).replace("'", "''") + "'"


def typed(image: dict[str, Any]) -> str:
    """A map of typed values, as a schema may have it."""
    pairs = []
    for name, value in image.items():
        [(tag, held)] = value.items()
        held = json.dumps(held) if tag in ("L", "M") else held
        fields = dict.fromkeys(("s", "n", "b", "bool", "null", "ns", "l", "m")) | {
            tag.lower(): held
        }
        pairs.append({"key": name, "value": fields})
    return (
        f"(SELECT map_from_entries(from_json({quoted(pairs)},"
        ' \'[{"key":"VARCHAR","value":{"s":"VARCHAR","n":"VARCHAR","b":"VARCHAR","bool":"BOOLEAN",'
        '"null":"BOOLEAN","ns":["VARCHAR"],"l":"VARCHAR","m":"VARCHAR"}}]\')))'
    )


def change(keys: str, new: str, old: str = "NULL::VARCHAR") -> str:
    return (
        "{'approximatecreationdatetime': 1700000000000001,"
        " 'approximatecreationdatetimeprecision': 'MICROSECOND',"
        f" 'keys': {keys}, 'newimage': {new}, 'oldimage': {old}, 'sizebytes': 12}}"
    )


def text_of_record() -> str:
    found = {
        "ApproximateCreationDateTime": 1700000000000001,
        "ApproximateCreationDateTimePrecision": "MICROSECOND",
        "Keys": KEYS,
        "NewImage": IMAGE,
    }
    return quoted(found)


@pytest.mark.parametrize(
    "dynamodb",
    [
        text_of_record(),
        change(quoted(KEYS), quoted(IMAGE)),
        change(typed(KEYS), typed(IMAGE)),
        change(typed(KEYS), quoted(IMAGE)),
    ],
    ids=["text", "struct of texts", "maps of typed values", "mixed"],
)
def test_a_converted_record_is_the_one_that_dynamodb_sent(tmp_path: Path, dynamodb: str) -> None:
    file = parquet(tmp_path / "a.parquet", dynamodb)
    [line] = b"".join(record_lines(file, "s3://b/a.parquet")).splitlines()
    record = json.loads(line)
    assert {name: record[name] for name in ("eventID", "eventName", "tableName")} == {
        "eventID": "e-1", "eventName": "MODIFY", "tableName": "orders",
    }  # fmt: skip
    assert record["dynamodb"] == {
        "ApproximateCreationDateTime": 1700000000000001,
        "ApproximateCreationDateTimePrecision": "MICROSECOND",
        "Keys": KEYS,
        "NewImage": IMAGE,
    }


def test_who_deleted_an_item_is_read_from_a_text_or_a_struct(tmp_path: Path) -> None:
    identity = {"type": "Service", "principalid": "dynamodb.amazonaws.com"}
    for sql in (quoted(identity), str(identity)):
        file = parquet(tmp_path / "a.parquet", text_of_record(), f", {sql} AS useridentity")
        [line] = b"".join(record_lines(file, "s3://b/a.parquet")).splitlines()
        assert json.loads(line)["userIdentity"] == identity


@pytest.mark.parametrize(
    ("dynamodb", "named"),
    [
        ("1", "its column dynamodb is of the type INTEGER"),
        ("{'keys': 'x'}", "it has no column dynamodb.approximatecreationdatetime"),
        (change(quoted(KEYS), "{'pk': {'s': 'a'}}"), "its column dynamodb.newimage is of the type"),
        (change(quoted(KEYS), "MAP {'n': {'n': 1.5}}"), "dynamodb.newimage is of the type MAP"),
        (change(quoted(KEYS), "MAP {'n': {'what': 'a'}}"), "dynamodb.newimage is of the type MAP"),
    ],
)
def test_a_schema_that_cannot_hold_items_whole_is_refused_by_name(
    tmp_path: Path, dynamodb: str, named: str
) -> None:
    file = parquet(tmp_path / "a.parquet", dynamodb)
    with pytest.raises(Terminal, match=named.replace("(", r"\(")):
        list(record_lines(file, "s3://b/a.parquet"))


def test_a_value_that_the_schema_had_no_place_for_is_not_dropped(tmp_path: Path) -> None:
    lost = "MAP {'a': {'s': NULL::VARCHAR, 'n': NULL::VARCHAR}}"
    file = parquet(tmp_path / "a.parquet", change(quoted(KEYS), lost))
    with pytest.raises(ValueError, match="none of the types that the schema names"):
        list(record_lines(file, "s3://b/a.parquet"))


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", text_of_record())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is not a whole Parquet file"):
        list(record_lines(file, "s3://b/a.parquet"))

"""Plain JSON of DynamoDB JSON, in a plain DuckDB: whatever the strings say and however deep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import macros
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PLAIN_JSON = macros.load().plain_json("json_extract(image, '/x')")

HOSTILE = (
    '{"S":"x"}',
    '"},"y":{"S":"z',
    '{"NS":["1"]}',
    '{"NULL":true}',
    '[{"M":{}}]',
    "}}",
    "]}",
    "}",
    "]",
    '"',
    "\\",
    '\\"',
    "\\\\u0022",
    "\x00\x1f\x7f\u2028",
    "\n\t\r",
    "größe 数量 🚚",
    "\\1\\9",
    "it's",
    "",
    "S",
    "NS",
    "M",
    "NULL",
)
NUMBERS = (
    "0",
    "-1",
    "9" * 38,
    "-0." + "0" * 37 + "1",
    "1E-130",
    "9.9999999999999999999999999999999999999E+125",
    "12345678901234567890.123456789012345678",
)


@dataclass(frozen=True)
class Number:
    """A number by its text: equal to no string, and never rounded."""

    text: str


def plain(value: dict[str, Any]) -> Any:
    """The reference: what `value` says, without DynamoDB's tags."""
    ((tag, inner),) = value.items()
    if tag == "M":
        return {name: plain(each) for name, each in inner.items()}
    if tag == "L":
        return [plain(each) for each in inner]
    if tag in ("N", "NS"):
        return Number(inner) if tag == "N" else [Number(each) for each in inner]
    return None if tag == "NULL" else inner


def shown(values: list[dict[str, Any]], ascii_only: bool = False) -> list[Any]:
    """What the macro makes of them."""
    con = duckdb.connect()
    con.execute("CREATE TABLE items (place INTEGER, image JSON)")
    con.executemany(
        "INSERT INTO items VALUES (?, ?)",
        [[n, json.dumps({"x": value}, ensure_ascii=ascii_only)] for n, value in enumerate(values)],
    )
    rows = con.execute(f"SELECT {PLAIN_JSON}::VARCHAR FROM items ORDER BY place").fetchall()
    con.close()
    return [json.loads(text, parse_int=Number, parse_float=Number) for (text,) in rows]


strings = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"])))
numbers = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers(-(10**38) + 1, 10**38 - 1).map(str),
    st.decimals(-(10**9), 10**9, places=5).map(str),
)
leaves = st.one_of(
    strings.map(lambda text: {"S": text}),
    numbers.map(lambda text: {"N": text}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    st.sampled_from(["", "AA==", "+/+/"]).map(lambda text: {"B": text}),
    st.lists(strings, max_size=4).map(lambda texts: {"SS": texts}),
    st.lists(numbers, max_size=4).map(lambda texts: {"NS": texts}),
    st.lists(st.sampled_from(["", "AA==", "/w=="]), max_size=3).map(lambda texts: {"BS": texts}),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda each: {"L": each}),
        st.dictionaries(strings, inner, max_size=4).map(lambda each: {"M": each}),
    ),
    max_leaves=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, min_size=1, max_size=12), st.booleans())
def test_any_value_comes_out_as_it_went_in(values: list[dict[str, Any]], ascii_only: bool) -> None:
    assert shown(values, ascii_only) == [plain(each) for each in values]


@pytest.mark.parametrize("tag", ["M", "L"])
def test_nesting_of_32_levels_arrives(tag: str) -> None:
    value: dict[str, Any] = {"S": '{"S":"x"}'}
    for _ in range(31):
        value = {"M": {"M": value}} if tag == "M" else {"L": [value, {"NULL": True}]}
    assert shown([value]) == [plain(value)]


def test_an_item_of_400_kilobytes_arrives() -> None:
    member = {"M": {'S"}': {"S": 'a"}]}'}, "N": {"N": "1.50"}, "L": {"L": [{"SS": ["}", "]"]}]}}}
    wide = {"M": {f"attribute {n}": member for n in range(4_000)}}
    long = {"L": [{"S": '"}' * 150_000}, {"NS": [str(n) for n in range(9_000)]}]}
    assert shown([wide, long]) == [plain(wide), plain(long)]


def test_null_is_apart_from_missing() -> None:
    con = duckdb.connect()
    con.execute(
        """CREATE TABLE items AS FROM (VALUES ('{"x":{"NULL":true}}'), ('{}')) AS t (image)"""
    )
    found = con.execute(f"SELECT ({PLAIN_JSON})::VARCHAR FROM items").fetchall()
    assert found == [("null",), (None,)]

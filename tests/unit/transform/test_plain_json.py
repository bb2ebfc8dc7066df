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

MACROS = macros.load()
PLAIN_JSON = MACROS.plain_json("json_extract(_image, '/x')")
COLUMN = {"name": "x", "path": "x", "tags": ["M"], "type": "JSON", "exact": False}

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
    "{{name}}",
    "{[]}",
    "e}",
    "}b",
    '{"N":"',
)
NAMES = ("S", "N", "B", "BOOL", "NULL", "M", "L", "SS", "NS", "BS", "a", "b}}", "}", "]}")
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
    """What a column of plain JSON shows of them; any document's way comes to the same."""
    con = duckdb.connect()
    con.execute("CREATE TABLE items (place INTEGER, _key VARCHAR, _image JSON)")
    con.executemany(
        "INSERT INTO items VALUES (?, '{}', ?)",
        [[n, json.dumps({"x": value}, ensure_ascii=ascii_only)] for n, value in enumerate(values)],
    )
    columns = MACROS.attribute_values("items", [COLUMN], ["place", "_image"])
    rows = con.execute(
        f"SELECT x::VARCHAR, {PLAIN_JSON}::VARCHAR FROM ({columns}) ORDER BY place"
    ).fetchall()
    con.close()
    usual, any_way = (
        [json.loads(text, parse_int=Number, parse_float=Number) for text in column]
        for column in zip(*rows, strict=True)
    )
    assert usual == any_way
    return usual


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
        st.dictionaries(st.one_of(st.sampled_from(NAMES), strings), inner, max_size=4).map(
            lambda each: {"M": each}
        ),
    ),
    max_leaves=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, min_size=1, max_size=12), st.booleans())
def test_any_value_comes_out_as_it_went_in(values: list[dict[str, Any]], ascii_only: bool) -> None:
    assert shown(values, ascii_only) == [plain(each) for each in values]


USUAL = (
    '{"M":{"M":{"M":{"M":{"N":"1"}}},"N":{"M":{}},"S":{"L":[]},"L":{"L":[{"L":[{"S":""}]}]}}}',
    '{"M":{"N":{"S":"]"},"S":{"N":"-1.5E-9"},"BOOL":{"BOOL":true},"NULL":{"NULL":true}}}',
    '{"L":[{"M":{"NULL":{"BOOL":true}}},{"M":{"BOOL":{"NULL":true}}},{"M":{"S":{"N":"1"}}}]}',
    '{"L":[{"BOOL":false},{"S":"{name} [x] false}"},{"M":{"{":{"S":"a}b"}}}]}',
)
UNUSUAL = (
    '{"M":{"a":{"S":"{{name}}"}}}',
    '{"M":{"a":{"S":"}"}}}',
    '{"M":{"}":{"S":"x"}}}',
    '{"M":{"]}":{"S":"x"}}}',
    '{"M":{"a":{"SS":["x"]}}}',
    '{"M":{"a":{"NS":["1"]}}}',
    '{"M":{"a":{"B":"AA=="},"b":{"S":"x"}}}',
    '{"M":{"S":{"B":"AA=="}}}',
    '{"L":[{"S":"\\\\"}]}',
)


@pytest.mark.parametrize(("documents", "quick"), [(USUAL, True), (UNUSUAL, False)])
def test_usual_documents_go_the_quick_way_and_the_others_do_not(
    documents: tuple[str, ...], quick: bool
) -> None:
    con = duckdb.connect()
    con.execute("CREATE TABLE items (text VARCHAR)")
    con.executemany("INSERT INTO items VALUES (?)", [[text] for text in documents])
    scalars, openings = MACROS.plain_scalars("text"), MACROS.plain_openings("scalars")
    con.execute(f"""CREATE VIEW steps AS
        SELECT text, scalars, openings, {MACROS.plain_endings("openings")} AS endings
        FROM (SELECT text, scalars, {openings} AS openings
            FROM (SELECT text, {scalars} AS scalars FROM items))""")
    checked = MACROS.plain_checked("scalars", "openings", "endings")
    found = con.execute(f"SELECT text, {checked} IS NOT NULL FROM steps").fetchall()
    assert found == [(text, quick) for text in documents]
    assert shown([json.loads(text) for text in documents]) == [
        plain(json.loads(text)) for text in documents
    ]


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
        """CREATE TABLE items AS FROM (VALUES ('{"x":{"NULL":true}}'), ('{}')) AS t (_image)"""
    )
    found = con.execute(f"SELECT ({PLAIN_JSON})::VARCHAR FROM items").fetchall()
    assert found == [("null",), (None,)]

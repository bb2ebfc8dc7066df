"""STRUCTs and lists of DynamoDB JSON, in a plain DuckDB: they come out as the structure says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import duckdb
import macros
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.lake.structure import found_in

MACROS = macros.load()

NAMES = st.sampled_from(["a", "A", "b", "it's", 'say "x"', "größe", "M", "L", "S", "a.b", ""])
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(-(10**6), 10**6, places=3).map(str),
    st.sampled_from(["1E+40", "0", "9" * 38, "0.00001"]),
)
LEAVES = st.one_of(
    st.sampled_from(["", "x", '{"S":"x"}', '"\\', "7"]).map(lambda text: {"S": text}),
    NUMBERS.map(lambda text: {"N": text}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    st.lists(NUMBERS, max_size=3).map(lambda texts: {"NS": texts}),
    st.lists(st.sampled_from(["", "x"]), max_size=2).map(lambda texts: {"SS": texts}),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: {"L": each}),
        st.dictionaries(NAMES, inner, max_size=4).map(lambda each: {"M": each}),
    ),
    max_leaves=10,
)


def kinds(values: list[dict[str, Any]]) -> set[str]:
    return {tag for value in values for tag in value} - {"NULL"}


def expected(values: list[dict[str, Any] | None]) -> list[Any]:
    """The reference: all values at one place, as the column shows them; NotImplemented for what is
    plain JSON there."""
    there = [value for value in values if value is not None]
    tags = kinds(there)
    if len(tags) > 1 and tags <= {"S", "N", "BOOL"}:
        return [text_of(value) for value in values]
    if len(tags) != 1:
        return [NotImplemented] * len(values)
    (tag,) = tags
    inner = [None if value is None else value.get(tag) for value in values]
    if tag == "M":
        names = sorted({name for members in inner for name in members or {}})
        of = {n: [None if m is None else m.get(n) for m in inner] for n in names}
        of = {n: each for n, each in of.items() if kinds([v for v in each if v])}
        folded = [name.lower() for name in of]
        if not of or "" in of or len(set(folded)) < len(folded):
            return [NotImplemented] * len(values)
        columns = {name: expected(each) for name, each in of.items()}
        return [
            None if m is None else {name: columns[name][place] for name in of}
            for place, m in enumerate(inner)
        ]
    if tag == "L":
        flat = iter(expected([value for each in inner for value in each or ()]))
        return [None if each is None else [next(flat) for _ in each] for each in inner]
    if tag == "NS":
        flat = iter(numbers([text for each in inner for text in each or ()]))
        return [None if each is None else [next(flat) for _ in each] for each in inner]
    return numbers(inner) if tag == "N" else inner


def text_of(value: dict[str, Any] | None) -> Any:
    for tag, inner in (value or {}).items():
        return None if tag == "NULL" else str(inner).lower() if tag == "BOOL" else inner
    return None


def numbers(texts: list[str | None]) -> list[Any]:
    there = [text.lstrip("-") for text in texts if text is not None]
    if any("E" in text for text in there):
        return list(texts)
    whole = max((len(text.partition(".")[0]) for text in there), default=0)
    scale = max((len(text.partition(".")[2]) for text in there), default=0)
    if whole + scale > 38:
        return list(texts)
    return [None if text is None else Decimal(text) for text in texts]


def same(shown: Any, wanted: Any) -> bool:
    if wanted is NotImplemented:
        return shown is None or isinstance(shown, str)
    if isinstance(wanted, dict):
        return list(shown) == list(wanted) and all(same(shown[n], wanted[n]) for n in wanted)
    if isinstance(wanted, list):
        return len(shown) == len(wanted) and all(map(same, shown, wanted))
    return bool(shown == wanted)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_any_documents_come_out_as_their_structure_says(values: list[dict[str, Any]]) -> None:
    con = duckdb.connect()
    con.execute("CREATE TABLE items (place INTEGER, document JSON)")
    for place, value in enumerate(values):
        con.execute("INSERT INTO items VALUES (?, ?)", [place, json.dumps(value)])
    tree = found_in(con, "items")
    if MACROS.is_document(tree):
        assert expected(list(values)) == [NotImplemented] * len(values)
        return
    shape = json.dumps(MACROS.structure_shape(tree)).replace("'", "''")
    value = MACROS.structure_value(tree, "read")
    con.execute(
        f"CREATE TABLE shown AS SELECT place, {value} AS x FROM"
        f" (SELECT place, json_transform(document, '{shape}') AS read FROM items)"
    )
    described = con.execute("SELECT column_type FROM (DESCRIBE shown) OFFSET 1").fetchone()
    assert described is not None
    assert MACROS.same_type(described[0], MACROS.structure_type(tree))
    found = [x for (x,) in con.execute("SELECT x FROM shown ORDER BY place").fetchall()]
    assert [same(*pair) for pair in zip(found, expected(list(values)), strict=True)] == [
        True
    ] * len(values), (found, expected(list(values)), tree)


def test_attributes_of_nearly_one_name_are_structs_of_their_own() -> None:
    names = ["a", "A", "it's", 'say "x"', "é", "É", "a.b/~"]
    image = {name: {"M": {"of": {"S": name}}} for name in names}
    tree = {"M": {"of": {"S": {}}}}
    columns = [
        {"name": f"c{place}", "path": name, "structure": tree, "type": "STRUCT(of VARCHAR)"}
        for place, name in enumerate(names)
    ]
    con = duckdb.connect()
    con.execute("CREATE TABLE items AS SELECT ?::JSON AS _image", [json.dumps(image)])
    shown = con.execute(MACROS.attribute_values("items", columns, ["_image"])).fetchone()
    assert shown is not None
    assert list(shown[1:]) == [{"of": name} for name in names]

"""The structure of documents, found in a plain DuckDB."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from tailrace.lake.structure import MOST_MEMBERS, found_in, joined


def structure(*documents: dict[str, Any]) -> dict[str, Any]:
    con = duckdb.connect()
    con.execute("CREATE TABLE documents (document JSON)")
    for each in documents:
        con.execute("INSERT INTO documents VALUES (?)", [json.dumps(each)])
    return found_in(con, "documents")


def test_every_place_has_its_types_and_the_digits_of_its_numbers() -> None:
    first = {
        "M": {
            "sku": {"S": "x"},
            "it's": {"L": [{"M": {"n": {"N": "1.25"}, "deep": {"L": [{"L": [{"N": "-7"}]}]}}}]},
            "sizes": {"NS": ["1", "22.5"]},
            "huge": {"N": "1E+40"},
            "gone": {"NULL": True},
        }
    }
    second = {
        "M": {"it's": {"L": [{"M": {"n": {"N": "-300"}}}, {"NULL": True}]}, "sku": {"N": "1"}}
    }
    assert structure(first, second, {"NULL": True}) == {
        "M": {
            "sku": {"S": {}, "N": [1, 0]},
            "it's": {"L": {"M": {"n": {"N": [3, 2]}, "deep": {"L": {"L": {"N": [1, 0]}}}}}},
            "sizes": {"NS": [2, 1]},
            "huge": {"N": [None, None]},
            "gone": {},
        }
    }


def test_empty_documents_and_none_at_all_have_a_structure_without_places() -> None:
    assert structure({"L": []}, {"L": [{"M": {}}]}) == {"L": {"M": {}}}
    assert structure({"L": []}) == {"L": {}}
    assert structure({"NULL": True}) == {}
    assert structure() == {}


def test_names_that_sql_cannot_tell_apart_and_names_without_end_are_left_whole() -> None:
    twins = {"M": {"x": {"M": {"A": {"N": "1"}, "a": {"N": "2"}}}, "y": {"N": "3"}}}
    found = structure(twins)["M"]
    assert set(found["x"]["M"]) == {"A", "a"}
    assert found["y"] == {"N": [1, 0]}
    free = {"M": {f"user {number}": {"N": "1"} for number in range(MOST_MEMBERS + 1)}}
    assert structure({"L": [free]}) == {"L": {"M": None}}


def test_what_is_learned_later_widens_and_comes_last() -> None:
    one = {"M": {"b": {"N": [1, 2]}, "c": {"L": {}}}}
    other = {"M": {"a": {"S": {}}, "b": {"N": [3, 0]}, "c": {"L": {"S": {}}}}}
    both = joined(one, other)
    assert both == {"M": {"b": {"N": [3, 2]}, "c": {"L": {"S": {}}}, "a": {"S": {}}}}
    assert list(both["M"]) == ["b", "c", "a"]
    assert joined(both, {"M": None}) == {"M": None}
    assert joined({"N": [1, 0]}, {"N": [None, None]}) == {"N": [None, None]}

"""Which attributes changed, and what a version means: the macros' SQL in a plain DuckDB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb
import macros
import pytest

from tailrace.lake.version import version_sql

MACROS = macros.load()
Item = Mapping[str, Any]

SAME = {
    "tags": {"SS": ["b", "a"]},
    "deep": {"M": {"x": {"L": [{"NS": ["1", "2"]}]}, "y": {"S": ""}}},
}
TURNED = {
    "deep": {"M": {"y": {"S": ""}, "x": {"L": [{"NS": ["2", "1"]}]}}},
    "tags": {"SS": ["a", "b"]},
}


def changed(before: Item | None, after: Item | None) -> list[str]:
    sql = MACROS.changed_attributes("before", "after")
    rows = (None if item is None else json.dumps(item) for item in (before, after))
    [(names,)] = duckdb.execute(
        f"SELECT {sql} FROM (SELECT ?::JSON::MAP(VARCHAR, JSON) AS before,"
        " ?::JSON::MAP(VARCHAR, JSON) AS after)",
        list(rows),
    ).fetchall()
    return list(names)


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"a": {"N": "1"}}, {"a": {"N": "2"}}, ["a"]),
        ({"a": {"N": "1"}}, {"a": {"S": "1"}}, ["a"]),
        ({"a": {"S": ""}, "b": {"S": ""}}, {"b": {"S": ""}, "c": {"NULL": True}}, ["a", "c"]),
        (None, {"b": {"S": "x"}, "a": {"S": "x"}}, ["a", "b"]),
        ({"a": {"S": "x"}}, None, ["a"]),
        (None, None, []),
        (SAME, TURNED, []),
        ({"l": {"L": [{"N": "1"}, {"N": "2"}]}}, {"l": {"L": [{"N": "2"}, {"N": "1"}]}}, ["l"]),
        ({'q"\'/~ .': {"S": "1"}, "A": {"S": "1"}, "a": {"S": "1"}},
         {'q"\'/~ .': {"S": "2"}, "A": {"S": "1"}, "a": {"S": "2"}}, ["a", 'q"\'/~ .']),
    ],
)  # fmt: skip
def test_what_changed_is_told_by_name_and_order_means_nothing(
    before: Item | None, after: Item | None, names: list[str]
) -> None:
    assert changed(before, after) == names


def test_versions_are_read_by_dbt_as_the_engine_writes_them() -> None:
    written = {phase: version_sql(12, phase, "'345'") for phase in ("-", "0", "1")}
    for phase, version in written.items():
        [row] = duckdb.execute(
            f"SELECT {MACROS.version_is_base(version)}, {MACROS.version_epoch(version)},"
            f" {MACROS.version_wins(version, MACROS.version_floor(12))},"
            f" {MACROS.version_wins(MACROS.version_floor(13), version)}"
        ).fetchall()
        assert row == (phase == "0", 12, phase != "-", True)

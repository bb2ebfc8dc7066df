"""Rows as text: what DuckDB returns comes out whole, whatever its type."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from tailrace.tabular import columns_of, write_csv, write_json


def as_json(query: str) -> str:
    cursor = duckdb.connect().execute("SET TimeZone = 'UTC'").execute(query)
    out = io.StringIO()
    write_json(columns_of(cursor.description), cursor.fetchall(), out)
    return out.getvalue()


def as_csv(query: str) -> str:
    cursor = duckdb.connect().execute("SET TimeZone = 'UTC'").execute(query)
    out = io.StringIO()
    write_csv(columns_of(cursor.description), cursor.fetchall(), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1", 1),
        (
            "170141183460469231731687303715884105727::HUGEINT",
            170141183460469231731687303715884105727,
        ),
        (
            "12345678901234567890123456789012345.678::DECIMAL(38,3)",
            Decimal("12345678901234567890123456789012345.678"),
        ),
        ("1e-7::DECIMAL(38,10)", Decimal("0.0000001000")),
        ("1.5::DOUBLE", Decimal("1.5")),
        ("'nan'::DOUBLE", "NaN"),
        ("'-inf'::DOUBLE", "-Infinity"),
        ("true", True),
        ("NULL", None),
        ("'a\"b\\\n'", 'a"b\\\n'),
        ("'é😀'", "é😀"),
        ("'\\x00\\xFF'::BLOB", "AP8="),
        ("""'{"pk": {"N": "1.50"}}'::JSON""", {"pk": {"N": "1.50"}}),
        ("NULL::JSON", None),
        ("'null'::JSON", None),
        ("""'{"a": 1}'""", '{"a": 1}'),
        ("DATE '2026-11-23'", "2026-11-23"),
        ("TIMESTAMP '2026-11-23 10:00:00.5'", "2026-11-23T10:00:00.500000"),
        ("TIMESTAMPTZ '2026-11-23 10:00:00+02'", "2026-11-23T08:00:00+00:00"),
        ("TIME '10:00:00'", "10:00:00"),
        ("[1.10::DECIMAL(3,2), NULL]", [Decimal("1.10"), None]),
        ("{'a': [1], 'b': '\\xFF'::BLOB}", {"a": [1], "b": "/w=="}),
        ("MAP {1: 'x'}", {"1": "x"}),
    ],
)
def test_a_value_keeps_all_it_has_in_json(expression: str, value: Any) -> None:
    rows = json.loads(as_json(f"SELECT {expression} AS v"), parse_float=Decimal)
    assert rows == [{"v": value}]
    assert repr(rows[0]["v"]) == repr(value)


def test_json_is_an_array_of_objects_with_and_without_rows() -> None:
    assert json.loads(as_json("SELECT i FROM range(3) t(i)")) == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert json.loads(as_json("SELECT 1 AS i WHERE false")) == []


def test_columns_of_one_name_are_told_apart() -> None:
    assert json.loads(as_json("SELECT 1 AS a, 2 AS a, 3 AS a_1")) == [
        {"a": 1, "a_1": 2, "a_1_1": 3}
    ]


def test_csv_has_a_header_quotes_and_empty_nulls() -> None:
    text = as_csv(
        """SELECT 1.10::DECIMAL(3,2) AS d, NULL AS n, 'a,"b"' AS s, [1] AS l, true AS b,
                  '\\xFF'::BLOB AS x, 'nan'::DOUBLE AS f, '"q"' AS q, '"j"'::JSON AS j"""
    )
    assert text == 'd,n,s,l,b,x,f,q,j\n1.10,,"a,""b""",[1],true,/w==,NaN,"""q""","""j"""\n'

"""The comparison finds every kind of difference, and nothing where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from servers import Aws

from sandbox.compare import compare, render, render_differences
from sandbox.errors import SandboxError
from sandbox.workload import create_table, put_all

ITEMS = [
    {
        "id": {"S": "a"},
        "n": {"N": "1"},
        "amount": {"N": "12.5"},
        "raw": {"B": b"\x00\xff"},
        "ok": {"BOOL": True},
        "tags": {"SS": ["x", "y"]},
        "doc": {"M": {"price": {"N": "2.50"}, "parts": {"L": [{"S": "{"}, {"BOOL": False}]}}},
    },
    {"id": {"S": "b"}, "n": {"N": "2"}, "amount": {"N": "7"}, "tags": {"NULL": True}},
]


@pytest.fixture
def table(aws: Aws) -> str:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "S", "n": "N"})
    put_all(aws.dynamodb, name, ITEMS)
    return name


@pytest.fixture
def lake() -> Iterator[duckdb.DuckDBPyConnection]:
    """The two models as dbt would leave them: equal to ITEMS, with one tombstone."""
    con = duckdb.connect()
    con.execute("ATTACH ':memory:' AS lake; CREATE SCHEMA lake.analytics")
    con.execute("CREATE TABLE lake.analytics.t_latest (_key VARCHAR, _op VARCHAR, _image JSON)")
    insert = "INSERT INTO lake.analytics.t_latest VALUES (?, ?, ?)"
    images: list[dict[str, Any]] = [
        {**ITEMS[0], "raw": {"B": "AP8="}, "tags": {"SS": ["y", "x"]}, "amount": {"N": "12.50"}},
        ITEMS[1],
    ]
    for image in images:
        key = {name: image[name] for name in ("id", "n")}
        con.execute(insert, [json.dumps(key), "INSERT", json.dumps(image)])
    con.execute(insert, ['{"id":{"S":"c"},"n":{"N":"3"}}', "REMOVE", None])
    con.execute(
        "CREATE TABLE lake.analytics.t (id VARCHAR, n BIGINT, amount DECIMAL(38, 1), raw BLOB, "
        "ok BOOLEAN, tags VARCHAR[], doc JSON, _changed_at TIMESTAMPTZ)"
    )
    con.execute(
        """INSERT INTO lake.analytics.t VALUES
        ('a', 1, 12.5, '\\x00\\xFF'::BLOB, true, ['y', 'x'],
            '{"parts":["{",false],"price":2.5}', now()),
        ('b', 2, 7, NULL, NULL, NULL, NULL, now())"""
    )
    yield con
    con.close()


def test_equal_sides_are_equal_whatever_the_order_of_sets_and_the_writing_of_numbers(
    aws: Aws, table: str, lake: duckdb.DuckDBPyConnection
) -> None:
    found = compare(aws.dynamodb, table, lake, "t")
    assert found.differences == []
    assert found.equal
    assert (found.items_in_table, found.rows_in_warehouse, found.values_compared) == (2, 2, 14)
    assert found.without_column == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("DELETE FROM lake.analytics.t_latest WHERE _key LIKE '%\"a\"%'", "analytics.t_latest"),
        ("UPDATE lake.analytics.t_latest SET _op = 'MODIFY', _image = _key", "analytics.t_latest"),
        (
            "INSERT INTO lake.analytics.t_latest FROM lake.analytics.t_latest",
            "analytics.t_latest (the same key twice)",
        ),
        ("DELETE FROM lake.analytics.t WHERE n = 2", "analytics.t"),
        ("INSERT INTO lake.analytics.t (id, n) VALUES ('a', 9)", "analytics.t"),
        ("UPDATE lake.analytics.t SET amount = 12.4 WHERE n = 1", "analytics.t.amount"),
        ("UPDATE lake.analytics.t SET ok = NULL", "analytics.t.ok"),
        ("UPDATE lake.analytics.t SET ok = true", "analytics.t.ok"),
        ("UPDATE lake.analytics.t SET raw = '\\x00'::BLOB", "analytics.t.raw"),
        ("ALTER TABLE lake.analytics.t ALTER amount TYPE DOUBLE", "analytics.t.amount"),
        ("UPDATE lake.analytics.t SET tags = ['x'] WHERE n = 1", "analytics.t.tags"),
        ("UPDATE lake.analytics.t SET doc = replace(doc, '2.5', '2.51')", "analytics.t.doc"),
        ("UPDATE lake.analytics.t SET doc = replace(doc, 'false', 'null')", "analytics.t.doc"),
        ("UPDATE lake.analytics.t SET doc = replace(doc, ',false', '')", "analytics.t.doc"),
    ],
)
def test_every_kind_of_difference_is_found(
    aws: Aws, table: str, lake: duckdb.DuckDBPyConnection, change: str, where: str
) -> None:
    lake.execute(change)
    found = compare(aws.dynamodb, table, lake, "t")
    assert not found.equal
    assert where in {difference.where for difference in found.differences}


def test_a_missing_model_is_named(aws: Aws, table: str, lake: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(SandboxError, match="orders_latest"):
        compare(aws.dynamodb, table, lake, "orders")


def test_the_verdict_can_be_printed(aws: Aws, table: str, lake: duckdb.DuckDBPyConnection) -> None:
    lake.execute("DELETE FROM lake.analytics.t")
    found = compare(aws.dynamodb, table, lake, "t")
    assert render([found]).row_count == 1
    assert render_differences(found).row_count == 2

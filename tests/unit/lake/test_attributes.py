"""What is known of a table's attributes, and what counts as new: over a small real DuckLake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from tailrace.config import Warehouse
from tailrace.lake.attach import connect
from tailrace.lake.attributes import came_since, overview_sql, refused
from tailrace.lake.discovery import Attribute, insert_sql
from tailrace.lake.schema import create_control_tables

MODEL = 'it"s'
DAY = timedelta(hours=24)

Saw = Callable[..., None]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("attributes")
    con = connect(Warehouse(catalog=f"sqlite:{folder}/c.sqlite", data_path=f"{folder}/data"))
    create_control_tables(con)
    con.execute("CREATE SCHEMA IF NOT EXISTS analytics")
    yield con
    con.close()


@pytest.fixture
def con(lake: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """Whatever a test does to the warehouse is undone."""
    lake.execute("BEGIN")
    lake.execute(
        "INSERT INTO tailrace.epochs (model, batch, epoch, kind, state)"
        f" VALUES ('{MODEL}', 1, 1, 'full', 'open'), ('{MODEL}', 3, 1, 'full', 'live')"
    )
    yield lake
    lake.execute("ROLLBACK")


@pytest.fixture
def saw(con: duckdb.DuckDBPyConnection) -> Saw:
    def _saw(batch: int, path: str, kind: str, digits: int | None = None, scale: int = 0) -> None:
        seen = Attribute(path, kind, digits, None if digits is None else scale, f"key {batch}")
        con.execute(insert_sql(MODEL, batch, [seen]))

    return _saw


def rows(con: duckdb.DuckDBPyConnection) -> Callable[[str], list[tuple[Any, ...]]]:
    return lambda sql: con.execute(sql).fetchall()


def test_what_the_base_held_is_not_new_and_what_came_later_is(
    con: duckdb.DuckDBPyConnection, saw: Saw
) -> None:
    saw(2, "pk", "S")
    saw(2, "total", "N", 3)
    saw(4, "total", "N", 5)
    saw(4, "note", "S")
    saw(4, "note", "NULL")
    saw(5, "total", "S")
    saw(5, "nothing", "NULL")
    new = came_since(rows(con), MODEL, DAY)
    assert {(each.path, each.type, each.before, each.example_key) for each in new} == {
        ("total", "S", ("N",), "key 5"),
        ("note", "S", (), "key 4"),
        ("nothing", "NULL", (), "key 5"),
    }
    assert came_since(rows(con), "another", DAY) == []


def test_what_is_older_than_asked_for_is_no_news(con: duckdb.DuckDBPyConnection, saw: Saw) -> None:
    saw(4, "note", "S")
    con.execute("UPDATE tailrace.attributes SET recorded_at = recorded_at - INTERVAL 25 HOUR")
    assert came_since(rows(con), MODEL, DAY) == []
    assert [each.path for each in came_since(rows(con), MODEL, 2 * DAY)] == ["note"]


def test_a_table_that_was_never_live_has_nothing_new(
    con: duckdb.DuckDBPyConnection, saw: Saw
) -> None:
    con.execute("DELETE FROM tailrace.epochs WHERE state = 'live'")
    saw(4, "note", "S")
    assert came_since(rows(con), MODEL, DAY) == []


def merged(con: duckdb.DuckDBPyConnection, columns: str) -> None:
    con.execute(
        f"""CREATE TABLE analytics."{MODEL.replace('"', '""')}_latest"
        (_op VARCHAR, _changed_at TIMESTAMPTZ, _image JSON{columns})"""
    )


def test_a_frozen_schema_refuses_what_has_no_column_that_holds_it(
    con: duckdb.DuckDBPyConnection, saw: Saw
) -> None:
    saw(2, "pk", "S")
    assert refused(rows(con), MODEL) == []
    merged(
        con,
        ", pk VARCHAR, n BIGINT, d DECIMAL(38,2), w BIGINT, flag BOOLEAN, tags VARCHAR[], doc JSON,"
        ' s STRUCT(a VARCHAR), m MAP(VARCHAR, JSON), l BIGINT[], "a_b" VARCHAR, twin VARCHAR',
    )
    for held in (
        ("n", "N", 18), ("d", "N", 36, 2), ("flag", "BOOL"), ("tags", "SS"), ("doc", "L"),
        ("doc", "S"), ("s", "M"), ("m", "M"), ("l", "NS", 3), ('a"b', "S"), ("twin", "S"),
        ("flag", "NULL"), ("pk", "N", 3),
    ):  # fmt: skip
        saw(2, *held)  # type: ignore[arg-type]
    assert refused(rows(con), MODEL) == []
    saw(2, "tags", "L")
    assert refused(rows(con), MODEL, ["tags"]) == []
    con.execute("DELETE FROM tailrace.attributes WHERE type = 'L' AND path = 'tags'")
    for kept_out in (
        ("later", "S"), ("n", "S"), ("d", "N", 36, 3), ("w", "N", 19), ("flag", "S"), ("s", "L"),
        ("TWIN", "S"),
    ):  # fmt: skip
        saw(4, *kept_out)  # type: ignore[arg-type]
    assert {(each.path, each.type, each.column) for each in refused(rows(con), MODEL)} == {
        ("later", "S", None),
        ("n", "S", "BIGINT"),
        ("d", "N", "DECIMAL(38,2)"),
        ("w", "N", "BIGINT"),
        ("flag", "S", "BOOLEAN"),
        ("s", "L", "STRUCT(a VARCHAR)"),
        ("TWIN", "S", None),
    }


def test_the_overview_counts_what_living_items_hold(
    con: duckdb.DuckDBPyConnection, saw: Saw
) -> None:
    saw(2, "it's/~", "N", 3, 2)
    saw(4, "it's/~", "N", 5, 0)
    saw(4, "it's/~", "S")
    saw(5, "huge", "N", 1_000)
    names = ["attribute", "type", "digits", "scale", "items", "example_key"]
    query = f"SELECT {', '.join(names)} FROM ({overview_sql(rows(con), MODEL)})"
    assert con.execute(query).fetchall() == [
        ("it's/~", "N", 5, 2, None, "key 2"),
        ("it's/~", "S", None, None, None, "key 4"),
        ("huge", "N", None, 0, None, "key 5"),
    ]
    merged(con, "")
    images = [{"it's/~": {"N": "1"}}, {"it's/~": {"N": "2"}, "x": {"S": ""}}, {"it's/~": {"S": ""}}]
    for number, image in enumerate(images):
        con.execute(
            f"""INSERT INTO analytics."{MODEL.replace('"', '""')}_latest" VALUES
            ('READ', TIMESTAMPTZ '2026-11-01 00:00:0{number}+00', ?), ('REMOVE', now(), NULL)""",
            [json.dumps(image, separators=(",", ":"))],
        )
    found = con.execute(overview_sql(rows(con), MODEL)).fetchall()
    assert [(row[0], row[1], row[6]) for row in found] == [
        ("it's/~", "N", 2),
        ("it's/~", "S", 1),
        ("huge", "N", 0),
    ]
    assert [row[5].second if row[5] else None for row in found] == [1, 2, None]
    assert all(row[4] is not None for row in found)
    assert con.execute(overview_sql(rows(con), "nobody")).fetchall() == []

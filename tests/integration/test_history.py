"""The history over fabricated change logs: a real DuckLake, a real dbt, plain references."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from models_world import Table, differences, history_differences, opened, query

from tailrace.config import Config
from tailrace.transform.runner import BuildResult, build

MODELS = 21
START = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class World:
    """One warehouse and one dbt project for all of these tests; each test has its own table."""

    config: Config
    con: duckdb.DuckDBPyConnection
    free: list[str]

    def table(self, *key: str) -> Table:
        return Table(self.config, self.con, self.free.pop(), key or ("pk",))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("history")
    models = [f"things_{number:02d}" for number in range(MODELS)]
    tables = "".join(f"  - {{name: {name}}}\n" for name in [*models, "orders", "customers"])
    with opened(folder, f"tables:\n{tables}") as (config, con):
        yield World(config, con, models)


@pytest.fixture
def things(world: World) -> Table:
    return world.table()


def merge(*tables: Table, tests: bool = False) -> BuildResult:
    result = build(tables[0].config, [table.model for table in tables], tests=tests)
    result.raise_failures()
    return result


def item(pk: str, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": pk}, **attributes}


def n(value: int) -> dict[str, str]:
    return {"N": str(value)}


def started(table: Table, *items: dict[str, Any]) -> None:
    """A table that is live, its base read at START."""
    table.open(1)
    table.base(1, *items)
    table.go_live(1)


def life(table: Table, columns: str = "x, _op, _by_ttl", where: str = "true") -> list[Any]:
    """The history's rows in their order: seconds since START, until when, and `columns`."""
    rows = query(
        table.con,
        f"SELECT epoch(_valid_from - TIMESTAMPTZ '{START}') AS a,"
        f" epoch(_valid_to - TIMESTAMPTZ '{START}') AS z, {columns}"
        f" FROM analytics.{table.model}_history WHERE {where} ORDER BY _key, _version",
    )
    return [tuple(row.values()) for row in rows]


def test_the_life_of_an_item_is_told_with_its_deletions_and_their_reason(things: Table) -> None:
    started(things, item("a", x=n(1)))
    merge(things)
    things.after(10).stream(1, (1, item("a", x=n(2)), item("a")))
    things.after(10).stream(1, (2, None, item("a")), by_ttl=True)
    merge(things)
    things.after(10).stream(1, (3, item("a", x=n(3)), item("a")))
    things.after(10).stream(1, (4, None, item("a")))
    merge(things, tests=True)
    assert life(things) == [
        (0, 10, 1, "READ", False),
        (10, 20, 2, "MODIFY", False),
        (20, 30, None, "REMOVE", True),
        (30, 40, 3, "MODIFY", False),
        (40, None, None, "REMOVE", False),
    ]
    assert life(things, "pk, _is_current") == [
        *((start, start + 10, "a", False) for start in (0, 10, 20, 30)),
        (40, None, "a", False),
    ]
    assert history_differences(things) == []


def test_a_change_tells_what_was_before_and_which_attributes_differ(world: World) -> None:
    things = world.table()
    things.view_type = "NEW_AND_OLD_IMAGES"
    same = {"tags": {"SS": ["b", "a"]}, "deep": {"M": {"n": {"L": [{"NS": ["1", "2"]}]}}}}
    turned = {"tags": {"SS": ["a", "b"]}, "deep": {"M": {"n": {"L": [{"NS": ["2", "1"]}]}}}}
    started(things, item("a", x=n(0)))
    merge(things)
    told = item("a", x=n(1), gone={"S": ""}, **same)
    things.after(1).stream(1, (1, item("a", x=n(2), y=n(1), **turned), item("a")), old=told)
    things.after(1).stream(1, (2, item("b", x=n(1)), item("b")), op="INSERT")
    things.after(1).stream(1, (3, None, item("b")), old=item("b", x=n(1)), by_ttl=True)
    merge(things)
    assert [
        tuple(row.values())
        for row in query(
            things.con,
            "SELECT pk, _op, _by_ttl, _changed, _before->>'x', _after->'$.deep.n'"
            f" FROM analytics.{things.model}_changes ORDER BY _changed_at",
        )
    ] == [
        ("a", "MODIFY", False, ["gone", "x", "y"], "1", "[[2,1]]"),
        ("b", "INSERT", False, ["pk", "x"], None, None),
        ("b", "REMOVE", True, ["pk", "x"], "1", None),
    ]
    assert history_differences(things) == []
    things.after(1).open(2, "incremental")
    things.repair(2, (2, item("a", x=n(3)), item("a")), (2, item("c", x=n(1)), item("c")))
    things.after(1).go_live(2, "incremental")
    merge(things)
    assert query(
        things.con,
        f"SELECT pk, _op, _changed, _before->>'x' AS x FROM analytics.{things.model}_changes"
        f" WHERE _version >= '000002' ORDER BY pk",
    ) == [
        {"pk": "a", "_op": "READ", "_changed": ["deep", "tags", "x", "y"], "x": "2"},
        {"pk": "c", "_op": "READ", "_changed": ["pk", "x"], "x": None},
    ]
    assert history_differences(things) == []


def test_a_table_s_past_begins_with_its_stream_and_not_before(things: Table) -> None:
    """Changes that the first base has seen already are told by the stream, at their own times."""
    things.open(1)
    things.after(5).stream(1, (1, item("a", x=n(1)), item("a")))
    things.after(5).stream(1, (2, item("a", x=n(2)), item("a")), (3, item("b"), item("b")))
    things.after(5).base(1, item("a", x=n(2)), item("c", x=n(7)))
    merge(things)
    assert life(things) == []
    things.after(60).go_live(1)
    merge(things)
    assert life(things, "pk, x") == [
        (5, 10, "a", 1),
        (10, None, "a", 2),
        (10, None, "b", None),
        (15, None, "c", 7),
    ]
    assert history_differences(things) == []


def test_changes_within_a_second_are_all_there_and_in_their_order(things: Table) -> None:
    started(things, item("a", x=n(0)))
    changes = [(p, item("a", x=n(p)), item("a")) for p in (9, 10, 11)]
    things.after(1).stream(1, *changes[::-1])
    merge(things)
    assert life(things, "x, _is_current") == [
        (0, 1, 0, False),
        (1, 1, 9, False),
        (1, 1, 10, False),
        (1, None, 11, True),
    ]
    assert query(things.con, f"SELECT x FROM analytics.{things.model}_as_of('{START}')") == [
        {"x": 0}
    ]
    assert history_differences(things) == []


def test_time_never_runs_backwards(things: Table) -> None:
    started(things, item("a", x=n(0)))
    things.after(9).stream(1, (1, item("a", x=n(1)), item("a")))
    things.after(-4).stream(1, (2, item("a", x=n(2)), item("a")))
    things.after(8).stream(1, (3, item("a", x=n(3)), item("a")))
    merge(things)
    assert life(things, "x") == [(0, 9, 0), (9, 9, 1), (9, 13, 2), (13, None, 3)]


def test_a_base_that_is_read_again_tells_only_what_is_new(things: Table) -> None:
    def tagged(pk: str, *tags: str, **address: str) -> dict[str, Any]:
        places = {name: {"S": value} for name, value in address.items()}
        deep = {"L": [{"M": {"a": {"M": places}}}, {"NS": list(tags)}]}
        return item(pk, tags={"SS": [f"t{tag}" for tag in tags]}, deep=deep, x=n(1))

    same = tagged("same", "1", "2", city="Wien", zip="1010")
    started(
        things,
        same,
        tagged("swapped", "1", city="Wien", zip="1010"),
        item("missed", x=n(1)),
        item("touched", x=n(1)),
        item("vanished", x=n(1)),
        item("back", x=n(1)),
        item("removed", x=n(1)),
    )
    things.after(10).stream(1, (1, same, item("same")))
    merge(things)
    things.after(10).open(2)
    things.after(5).stream(2, (2, item("touched", x=n(2)), item("touched")))
    things.after(1).stream(2, (3, None, item("removed")))
    reordered = tagged("same", "2", "1", zip="1010", city="Wien")
    things.after(5).base(
        2,
        dict(reversed(reordered.items())),
        tagged("swapped", "1", city="1010", zip="Wien"),
        item("missed", x=n(9)),
        item("touched", x=n(2)),
        item("new", x=n(5)),
    )
    merge(things)
    before = life(things, "pk, x, _op")
    assert not [row for row in before if "READ" in row and row[0]]
    things.after(10).go_live(2)
    things.after(20).stream(2, (4, item("back", x=n(3)), item("back")))
    merge(things)
    assert life(things, "pk, x, _op") == [
        (0, 41, "back", 1, "READ"),
        (41, 61, "back", None, "REMOVE"),
        (61, None, "back", 3, "MODIFY"),
        (0, 31, "missed", 1, "READ"),
        (31, None, "missed", 9, "READ"),
        (31, None, "new", 5, "READ"),
        (0, 26, "removed", 1, "READ"),
        (26, None, "removed", None, "REMOVE"),
        (0, 10, "same", 1, "READ"),
        (10, None, "same", 1, "MODIFY"),
        (0, 31, "swapped", 1, "READ"),
        (31, None, "swapped", 1, "READ"),
        (0, 25, "touched", 1, "READ"),
        (25, None, "touched", 2, "MODIFY"),
        (0, 41, "vanished", 1, "READ"),
        (41, None, "vanished", None, "REMOVE"),
    ]
    assert history_differences(things) == []


def test_an_item_that_vanished_and_came_back_as_it_was_has_two_lives(things: Table) -> None:
    started(things, item("a", x=n(1)), item("b", x=n(1)))
    for epoch, keys in ((2, "b"), (3, "ab"), (4, "ab")):
        things.open(epoch)
        things.after(10).base(epoch, *(item(key, x=n(1)) for key in keys))
        things.after(10).go_live(epoch)
    merge(things)
    assert life(things, "pk, x, _op") == [
        (0, 20, "a", 1, "READ"),
        (20, 30, "a", None, "REMOVE"),
        (30, None, "a", 1, "READ"),
        (0, None, "b", 1, "READ"),
    ]
    assert history_differences(things) == []


def test_a_record_that_comes_late_takes_its_place_in_the_past(things: Table) -> None:
    """Where time is the order: it overwrites nothing newer, and brings no deleted item back."""
    started(things, item("a", x=n(1)), item("b", x=n(1)))
    things.after(20).stream(1, (20, item("a", x=n(3)), item("a")), (21, None, item("b")))
    merge(things)
    things.clock -= timedelta(seconds=10)
    things.stream(1, (10, item("a", x=n(2)), item("a")), (11, item("b", x=n(2)), item("b")))
    merge(things)
    assert life(things, "x", "pk = 'a'") == [(0, 10, 1), (10, 20, 2), (20, None, 3)]
    assert life(things, "x", "pk = 'b'") == [(0, 10, 1), (10, 20, 2), (20, None, None)]
    assert differences(things) == history_differences(things) == []
    moment = START + timedelta(seconds=15)
    as_of = f"SELECT pk, x FROM analytics.{things.model}_as_of(TIMESTAMPTZ '{moment}') ORDER BY pk"
    assert [tuple(row.values()) for row in query(things.con, as_of)] == [("a", 2), ("b", 2)]


def test_a_base_row_read_later_in_its_batch_than_a_change_does_not_come_before_it(
    things: Table,
) -> None:
    """A batch's rows bear the time of its first page: the item may have been read much later."""
    started(things, item("a", x=n(1)), item("b", x=n(1)))
    things.open(2)
    things.after(10).base(2, item("a", x=n(2)), item("b", x=n(3)))
    things.after(10).stream(2, (1, item("a", x=n(2)), item("a")), (2, item("b", x=n(2)), item("b")))
    things.after(10).stream(2, (3, item("b", x=n(3)), item("b")), (4, item("b", x=n(4)), item("b")))
    things.go_live(2)
    merge(things)
    assert life(things, "x", "pk = 'a'") == [(0, 20, 1), (20, None, 2)]
    assert life(things, "x", "pk = 'b'") == [(0, 20, 1), (20, 30, 2), (30, 30, 3), (30, None, 4)]
    assert history_differences(things) == []


def test_a_repair_fills_the_gap_and_keeps_what_it_does_not_mention(things: Table) -> None:
    started(things, item("kept", x=n(1)), item("changed", x=n(1)), item("gone", x=n(1)))
    things.after(1).stream(1, (1, item("seen", x=n(1)), item("seen")))
    merge(things)
    things.after(9).open(2, "incremental")
    things.after(50).stream(2, (90, item("changed", x=n(3)), item("changed")))
    merge(things)
    assert (60, None, "changed", 3) in life(things, "pk, x")
    things.clock = START + timedelta(seconds=20.5)
    things.repair(
        2,
        (20, item("changed", x=n(2)), item("changed")),
        (20, None, item("gone")),
        (20, item("seen", x=n(1)), item("seen")),
        (20, item("new", x=n(1)), item("new")),
    )
    things.clock = START + timedelta(seconds=61)
    things.repair(2, (61, item("late", x=n(1)), item("late")))
    things.stream(2, (91, item("late", x=n(2)), item("late")))
    assert history_differences(things) != []
    merge(things)
    assert history_differences(things) == []
    things.after(5).go_live(2, "incremental")
    merge(things)
    assert life(things, "pk, x, _op") == [
        (0, 20.5, "changed", 1, "READ"),
        (20.5, 60, "changed", 2, "READ"),
        (60, None, "changed", 3, "MODIFY"),
        (0, 20.5, "gone", 1, "READ"),
        (20.5, None, "gone", None, "REMOVE"),
        (0, None, "kept", 1, "READ"),
        (61, None, "late", 2, "MODIFY"),
        (20.5, None, "new", 1, "READ"),
        (1, None, "seen", 1, "MODIFY"),
    ]
    assert history_differences(things) == []


def test_a_table_that_is_taken_over_from_another_source_has_one_past(things: Table) -> None:
    """The old source is drained on meanwhile; what the new one tells of the same changes waits
    until it is live, and is then told a second time, without duration."""
    started(things, item("a", x=n(1)), item("b", x=n(1)))
    things.after(10).stream(1, (1, item("a", x=n(2)), item("a")))
    merge(things)
    things.after(10).open(2, overlaps=True)
    things.clock = START + timedelta(seconds=10)
    things.stream(2, (10_000, item("a", x=n(2)), item("a")), prior=True)
    things.clock = START + timedelta(seconds=25)
    things.base(2, item("a", x=n(2)), item("b", x=n(1)))
    things.after(5).stream(2, (30_000, item("a", x=n(3)), item("a")))
    merge(things)
    assert life(things, "x", "pk = 'a'") == [(0, 10, 1), (10, None, 2)]
    assert differences(things) == history_differences(things) == []
    things.stream(1, (2, item("a", x=n(3)), item("a")))
    things.stream(1, (3, None, item("b")))
    merge(things)
    before = life(things, "pk, x, _op")
    assert differences(things) == history_differences(things) == []
    things.stream(2, (30_001, None, item("b")))
    things.after(10).go_live(2)
    things.after(10).stream(2, (50_000, item("a", x=n(4)), item("a")))
    merge(things)
    now = [row for row in life(things, "pk, x, _op") if row[0] != row[1]]
    assert [row[2:] for row in now] == [
        *(("a", x, op) for x, op in ((1, "READ"), (2, "MODIFY"), (3, "MODIFY"), (4, "MODIFY"))),
        *(("b", 1, "READ"), ("b", None, "REMOVE")),
    ]
    assert [row[0] for row in now] == [0, 10, 30, 50, 0, 30]
    assert [row[:1] + row[2:] for row in before] == [
        row[:1] + row[2:] for row in now if row[0] < 50
    ]
    assert differences(things) == history_differences(things) == []


def test_an_epoch_that_is_not_live_has_no_past(things: Table) -> None:
    started(things, item("a", x=n(1)), item("b", x=n(1)))
    things.after(10).open(2)
    things.after(1).base(2, item("a", x=n(9)))
    merge(things)
    shown = life(things, "pk, x")
    assert shown == [(0, None, "a", 1), (0, None, "b", 1)]
    things.after(1).open(3)
    things.after(1).base(3, item("a", x=n(1)), item("b", x=n(1)))
    things.after(1).go_live(3)
    merge(things)
    assert life(things, "pk, x") == shown


def test_names_that_are_hard_on_sql_have_a_past_too(world: World) -> None:
    table = world.table('it\'s "the" k~/ey', "t")
    names = ["_valid_from", "_VALID_TO", "_is_current", "_op", "_by_ttl", "_moment", "model", "*"]

    def named(pk: str, value: int) -> dict[str, Any]:
        attributes = {name: n(value) for name in [*names, "{{ x }}", "/* tailrace: rebuild */"]}
        return {'it\'s "the" k~/ey': {"S": pk}, "t": {"S": "';--"}, **attributes}

    started(table, named("'\"\\", 1), named("b", 1))
    merge(table)
    table.after(1).stream(1, (1, named("'\"\\", 2), named("'\"\\", 0)))
    table.after(1).stream(1, (2, None, named("b", 0)))
    merge(table, tests=True)
    assert history_differences(table) == []
    assert len(life(table, "_key", "_is_current")) == 1


def test_new_and_wider_columns_reach_the_past(things: Table) -> None:
    started(things, item("a", x=n(1)))
    merge(things)
    things.after(1).stream(1, (1, item("a", x=n(2), late=n(1)), item("a")))
    result = merge(things)
    assert f"{things.model}_states has new columns: late" in result.notes
    assert life(things, "x, late") == [(0, 1, 1, None), (1, None, 2, 1)]
    things.after(1).stream(1, (2, item("a", x={"S": "two"}), item("a")))
    things.open(2)
    things.after(1).base(2, item("a", x={"S": "two"}))
    things.go_live(2)
    result = merge(things)
    assert any(f"{things.model}_states is built anew" in note for note in result.notes)
    assert history_differences(things) == []


MOMENTS = [
    ("'2026-11-01 12:00'", 12),
    ("'2026-11-01T12:00:00Z'", 12),
    ("'2026-11-01 14:00:00+02'", 12),
    ("'2026-11-01 07:00:00 America/New_York'", 12),
    ("TIMESTAMP '2026-11-01 12:00:00'", 12),
    ("TIMESTAMPTZ '2026-11-01 07:00:00-05'", 12),
    ("TIMESTAMPTZ '2026-11-01 12:00:00.000001+00'", 12),
    ("TIMESTAMPTZ '2026-11-01 11:59:59.999999+00'", 11),
    ("DATE '2026-11-02'", 23),
    ("'2026-11-02'", 23),
    ("TIMESTAMPTZ '2026-11-01 12:30:00+00' - INTERVAL 1 HOUR", 11),
    ("'infinity'", 23),
    ("'2026-10-31 23:59:59'", None),
    ("NULL", None),
]


def test_a_moment_is_utc_unless_it_says_otherwise(things: Table) -> None:
    started(things, item("a", x=n(0)))
    for hour in range(1, 24):
        things.after(3600).stream(1, (hour, item("a", x=n(hour)), item("a")))
    merge(things)
    con = things.con.cursor()
    con.execute("USE lake")
    for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
        con.execute(f"SET TimeZone = '{zone}'")
        for moment, expected in MOMENTS:
            found = query(con, f"SELECT x FROM analytics.{things.model}_as_of({moment})")
            wanted = [] if expected is None else [{"x": expected}]
            assert (zone, moment, found) == (zone, moment, wanted)
    con.close()


READER = """
import json, sys
from tailrace.config import load_config
from tailrace.lake.attach import connect
with connect(load_config(sys.argv[1]).warehouse, read_only=True) as con:
    for use in ("lake", "lake.analytics", "memory"):
        con.execute(f"USE {use}")
        for sql in sys.argv[2:]:
            print(json.dumps(con.execute(sql).fetchall(), default=str))
"""


def test_another_program_asks_for_the_past_read_only(things: Table, world: World) -> None:
    started(things, item("a", x=n(1)), item("b", x=n(2)))
    things.after(60).stream(1, (1, None, item("a")))
    merge(things)
    past = f"SELECT pk, x FROM lake.analytics.{things.model}_as_of('{START}') ORDER BY pk"
    now = f"SELECT pk, x FROM lake.analytics.{things.model}_as_of('2026-11-02')"
    done = subprocess.run(
        [sys.executable, "-c", READER, str(world.config.path), past, now],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stderr == ""
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown == [[["a", 1], ["b", 2]], [["b", 2]]] * 3


def test_the_past_of_now_is_the_public_model(things: Table) -> None:
    started(things, *(item(str(key), x=n(key)) for key in range(5)))
    things.after(5).stream(1, (1, None, item("0")), (2, item("1", x=n(9)), item("1")))
    things.open(2)
    things.after(5).base(2, *(item(str(key), x=n(key)) for key in (2, 3, 7)))
    things.go_live(2)
    merge(things)
    columns = f"* EXCLUDE (_changed_at) FROM analytics.{things.model}"
    order = "ORDER BY pk"
    assert differences(things) == []
    public = query(things.con, f"SELECT {columns} {order}")
    assert query(things.con, f"SELECT {columns}_as_of('infinity') {order}") == public
    assert (
        query(
            things.con,
            f"SELECT {', '.join(public[0])} FROM analytics.{things.model}_history"
            f" WHERE _is_current {order}",
        )
        == public
    )


# ---------------------------------------------------------------------------- what is documented


def test_the_queries_of_the_analysts_page_run_and_find_something(world: World) -> None:
    orders = Table(
        world.config, world.con, "orders", ("customer_id", "order_id"), numbers=("order_id",)
    )
    customers = Table(world.config, world.con, "customers", ("customer_id",))
    long_ago = START - timedelta(days=30)
    for table in (orders, customers):
        table.clock = long_ago
    started(customers, customer("new"))
    started(orders, order(2, "open"), order(3, "open"))
    orders.after(60).stream(1, (1, order(2, "paid"), order(2)))
    orders.clock = datetime.now(UTC) - timedelta(minutes=2)
    orders.stream(1, (2, order(4, "open"), order(4)))
    orders.stream(1, (3, None, order(3)), by_ttl=True)
    customers.clock = orders.clock + timedelta(seconds=1)
    customers.stream(1, (1, customer("gold"), customer("gold")))
    merge(orders, customers)
    found = {sql: query(world.con, sql) for sql in documented_queries()}
    assert [sql for sql, rows in found.items() if not rows] == []
    shown = {sql.splitlines()[0]: rows for sql, rows in found.items()}
    assert [
        row["_op"]
        for row in shown[
            "-- the life of one item (a condition on the key is quick: only its rows are read)"
        ]
    ] == ["READ", "MODIFY"]
    joined = shown["-- each order with what its customer was like when it was placed"]
    assert {row["segment"] for row in joined} == {"new"}


def order(number: int, status: str = "") -> dict[str, Any]:
    key = {"customer_id": {"S": "c-00002"}, "order_id": n(1_000_000_000 + number)}
    return key | {
        "status": {"S": status},
        "total": {"N": "1.50"},
        "address": {"M": {"city": {"S": "Wien"}}},
        "lines": {"L": [{"M": {"sku": {"S": "weir-1"}, "quantity": n(2)}}]},
        "tags": {"SS": ["weir"]},
        "ratings": {"NS": ["5"]},
        "Status": {"S": "a twin"},
        "mixed": {"S": "x"} if number % 2 else n(number),
    }


def customer(segment: str) -> dict[str, Any]:
    return {"customer_id": {"S": "c-00002"}, "segment": {"S": segment}}


def documented_queries() -> list[str]:
    """The SQL of docs/analysts.md, statement by statement; an hour ago there was no warehouse."""
    page = (Path(__file__).parents[2] / "docs" / "analysts.md").read_text()
    blocks = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    text = "".join(blocks).replace("(TIMESTAMP => now() - INTERVAL 1 HOUR)", "(TIMESTAMP => now())")
    return [sql.strip() for sql in text.split(";\n") if sql.strip()]


# ------------------------------------------------------------------------------ what may go wrong


def edited(table: Table, name: str, setting: str) -> None:
    """Adds a setting to the model file's config, or takes it out again where it is there."""
    file = table.config.dbt.project_dir / f"models/{table.model}/{name}.sql"
    body = file.read_text()
    without = body.replace(f", {setting}", "")
    added = body.replace(
        "config(materialized='state_log'", f"config(materialized='state_log', {setting}"
    )
    added = added.replace("unique_key='_key'", f"unique_key='_key', {setting}")
    file.write_text(without if without != body else added)


def test_a_build_that_dies_between_the_states_and_the_current_rows_tells_nothing_twice(
    things: Table,
) -> None:
    started(things, item("a", x=n(1)))
    merge(things)
    things.after(1).stream(1, (1, item("a", x=n(2)), item("a")))
    dies = """pre_hook="select error('killed')\""""
    edited(things, f"{things.model}_latest", dies)
    result = build(things.config, [things.model])
    assert [node.name for node in result.nodes if node.failed] == [f"{things.model}_latest"]
    assert life(things, "x") == [(0, 1, 1), (1, None, 2)]
    edited(things, f"{things.model}_latest", dies)
    merge(things)
    assert differences(things) == []
    assert history_differences(things) == []


def test_a_history_that_cannot_be_built_holds_up_no_current_rows(things: Table) -> None:
    started(things, item("a", x=n(1)))
    merge(things)
    broken = """pre_hook="select error('out of order')\""""
    edited(things, f"{things.model}_states", broken)
    things.after(1).stream(1, (1, item("a", x=n(2)), item("a")))
    result = build(things.config, [things.model])
    assert [node.name for node in result.nodes if node.failed] == [f"{things.model}_states"]
    assert "out of order" in result.failures[0].message
    assert differences(things) == []
    assert len(life(things)) == 1
    edited(things, f"{things.model}_states", broken)
    merge(things)
    assert history_differences(things) == []


def test_what_another_build_has_appended_meanwhile_is_not_appended_again(things: Table) -> None:
    started(things, item("a", x=n(1)))
    merge(things)
    things.after(1).stream(1, (1, item("a", x=n(2)), item("a")))
    faster = (
        f"insert into lake.analytics.{things.model}_states by name"
        f" select key as _key, version as _version, batch as _batch, op as _op,"
        f" changed_at as _changed_at, ttl_expired as _by_ttl, 'a' as pk, 2 as x"
        f" from lake.changes.{things.model} where batch = {things.batch}"
    )
    edited(things, f"{things.model}_states", f'pre_hook="{faster}"')
    merge(things)
    edited(things, f"{things.model}_states", f'pre_hook="{faster}"')
    merge(things)
    assert history_differences(things) == []


# ------------------------------------------------------------------------------- a true past


def test_at_every_instant_the_past_is_what_the_table_held(things: Table) -> None:
    """A table whose truth is known at every second: written to all the time, drained in order, and
    read anew three times, page by page, while it is written to. The reference knows no rules."""
    source = Source(things, random.Random(7))
    for _ in range(4):
        source.read_base()
        source.write(25)
    source.drain()
    merge(things)
    assert differences(things) == []
    for second in range(source.known_from, source.second + 1):
        moment = START + timedelta(seconds=second)
        rows = query(things.con, f"SELECT pk, x FROM analytics.{things.model}_as_of('{moment}')")
        assert (second, {row["pk"]: row["x"] for row in rows}) == (second, source.past[second])
    assert source.bases_unlike_stream > 0


class Source:
    """A DynamoDB table in miniature: what it held at the end of each second, and its stream."""

    def __init__(self, table: Table, chance: random.Random) -> None:
        self.table = table
        self.random = chance
        self.second = 0
        self.items: dict[str, int] = {}
        self.past: dict[int, dict[str, int]] = {}
        self.pending: list[tuple[int, int, str, int | None]] = []
        self.sequence = 0
        self.epoch = 0
        self.known_from = 0
        self.bases_unlike_stream = 0

    def write(self, seconds: int) -> None:
        """Writes for some seconds, several times in some of them, and drains now and then."""
        for _ in range(seconds):
            self.second += 1
            for _ in range(self.random.choice((0, 0, 1, 3))):
                self._write_one()
            self.past[self.second] = dict(self.items)
            if self.random.random() < 0.2 and self.epoch:
                self.drain()
                if self.random.random() < 0.3:
                    merge(self.table)

    def _write_one(self) -> None:
        key = str(self.random.randrange(12))
        self.sequence += 1
        value = None if key in self.items and self.random.random() < 0.3 else self.sequence
        if value is None:
            del self.items[key]
        else:
            self.items[key] = value
        self.pending.append((self.second, self.sequence, key, value))

    def drain(self) -> None:
        for second, written in groupby(self.pending, key=itemgetter(0)):
            self.table.clock = START + timedelta(seconds=second)
            changes = [
                (sequence, None if value is None else item(key, x=n(value)), item(key))
                for _, sequence, key, value in written
            ]
            self.table.stream(self.epoch, *changes)
        self.pending = []

    def read_base(self) -> None:
        """The four steps of an epoch, with writes in between. Pages of a batch bear the time at
        which the batch began."""
        self.write(5)
        if self.epoch:
            self.drain()
        self.epoch += 1
        self.table.open(self.epoch)
        if self.epoch == 1:
            self.pending = []
        for keys in (range(6), range(6, 12)):
            self.write(2)
            began = self.second
            page = []
            for key in map(str, keys):
                if self.random.random() < 0.3:
                    self.write(1)
                if key in self.items:
                    page.append(item(key, x=n(self.items[key])))
            self.table.clock = START + timedelta(seconds=began)
            self.bases_unlike_stream += began < self.second
            self.table.base(self.epoch, *page)
        self.write(2)
        self.drain()
        self.table.clock = START + timedelta(seconds=self.second)
        self.table.go_live(self.epoch)
        self.known_from = self.known_from or self.second

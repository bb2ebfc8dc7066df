"""Typed columns over fabricated change logs: what tailrace.yaml asks for, what comes later, and
what does not fit. A real DuckLake, a real dbt."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from models_world import Table, differences, opened, query

from tailrace.config import Config, load_config
from tailrace.transform.generate import generate
from tailrace.transform.runner import BuildResult, build

CONFIG = """
warehouse: {catalog: 'sqlite:warehouse/catalog.sqlite', data_path: warehouse/data}
dbt: {project_dir: dbt_project}
tables:
  - name: typed
    attributes:
      iso: {type: timestamp}
      seconds: {type: epoch_seconds}
      millis: {type: epoch_milliseconds}
      ratio: {type: double}
      tags: {type: map}
      text: {type: json}
  - name: nested
    attributes:
      doc: {type: struct}
  - name: baskets
    attributes:
      lines: {rows: lines}
  - {name: contract}
  - {name: sealed, attributes: {doc: {type: struct}}}
  - {name: flapping}
  - {name: hostile}
"""


WORDS = """
名前 имя όνομα שם اسم नाम ชื่อ 이름 ⵉⵙⵎ e\u0301 é Ä ä İ ı ſ \u212a k
rowid ROWID snapshot_id filename file_row_number ctid oid value element key
_ducklake_internal_row_id _ducklake_internal_snapshot_id _position _changed
table order group this model ref config execute true null end {%raw%} {# {{x}}
"""


@dataclass
class World:
    """One warehouse and one dbt project for all of these tests."""

    config: Config
    con: duckdb.DuckDBPyConnection

    def table(self, model: str) -> Table:
        return Table(self.config, self.con, model)

    def configure(self, before: str, after: str) -> Config:
        text = self.config.path.read_text()
        assert before in text
        self.config.path.write_text(text.replace(before, after))
        self.config = load_config(self.config.path)
        generate(self.config)
        return self.config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("types")
    with opened(folder, CONFIG) as (config, con):
        yield World(config, con)


def merge(table: Table, tests: bool = False) -> BuildResult:
    result = build(table.config, [table.model], tests=tests)
    result.raise_failures()
    return result


def item(pk: str, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": pk}, **attributes}


def n(value: int | str) -> dict[str, str]:
    return {"N": str(value)}


def s(value: str) -> dict[str, str]:
    return {"S": value}


def m(**members: Any) -> dict[str, Any]:
    return {"M": members}


def li(*elements: Any) -> dict[str, Any]:
    return {"L": list(elements)}


NULL = {"NULL": True}


def started(table: Table, *items: dict[str, Any]) -> None:
    table.open(1)
    table.base(1, *items)
    table.go_live(1)


def column(table: Table, name: str, model: str = "") -> dict[str, Any]:
    """A column's values by the item's key."""
    rows = query(table.con, f'SELECT pk, "{name}" AS x FROM analytics.{model or table.model}')
    return {row["pk"]: row["x"] for row in rows}


def types(table: Table) -> dict[str, str]:
    rows = query(table.con, f"DESCRIBE analytics.{table.model}_latest")
    return {row["column_name"]: row["column_type"] for row in rows}


def rebuilt(result: BuildResult) -> list[str]:
    return [note for note in result.notes if "built anew" in note]


def test_documents_become_structs_that_grow_where_they_stand(world: World) -> None:
    things = world.table("nested")
    started(
        things,
        item("a", doc=m(x=n("1.50"), y=m(z=li(s("q"), s("{}"))), gone=NULL)),
        item("b", doc=m(x=n(7), **{'say "hi"': s("it's"), "größe": {"BOOL": True}})),
        item("c", doc=m(y=m(z=li()))),
        item("d", doc=NULL),
        item("e"),
    )
    merge(things)
    assert types(things)["doc"] == (
        'STRUCT("größe" BOOLEAN, "say ""hi""" VARCHAR, x DECIMAL(38,2), y STRUCT(z VARCHAR[]))'
    )
    nothing = {"x": None, "y": None, 'say "hi"': None, "größe": None}
    told = {
        "a": nothing | {"x": Decimal("1.50"), "y": {"z": ["q", "{}"]}},
        "b": nothing | {"x": Decimal("7.00"), 'say "hi"': "it's", "größe": True},
        "c": nothing | {"y": {"z": []}},
        "d": None,
        "e": None,
    }
    assert column(things, "doc") == told

    things.stream(
        1,
        (
            1,
            item(
                "f", doc=m(y=m(z=li(), w=n(1)), sets=m(s={"SS": ["a"]}), late=li(m(k=n(1)))), f=n(1)
            ),
            item("f"),
        ),
    )
    result = merge(things)
    assert rebuilt(result) == []
    assert "nested_latest has new columns: doc (new members), f" in result.notes
    later = {"sets": None, "late": None}
    wider = {
        pk: doc and doc | later | {"y": doc["y"] and doc["y"] | {"w": None}}
        for pk, doc in told.items()
    }
    wider["f"] = nothing | {
        "y": {"z": [], "w": 1},
        "sets": {"s": ["a"]},
        "late": [{"k": 1}],
    }
    assert column(things, "doc") == wider
    assert column(things, "doc", "nested_history") == wider

    things.stream(1, (2, item("a", doc=m(x=s("text"))), item("a")))
    result = merge(things)
    assert rebuilt(result) != []
    assert column(things, "doc")["b"]["x"] == "7"
    assert column(things, "doc")["a"]["x"] == "text"


def test_moments_doubles_maps_and_documents_are_what_is_asked_for(world: World) -> None:
    things = world.table("typed")
    started(
        things,
        item(
            "fits",
            iso=s("2026-11-01T14:30:00.123456+02:00"),
            seconds=n("1790000000.25"),
            millis=s("1790000000123"),
            ratio=n("0.1"),
            tags=m(A=n("1.0"), a=s("x"), deep=m(b=NULL)),
            text=s('{"S":"x"}'),
        ),
        item("date", iso=s("2026-11-01"), seconds=n(0), millis=n(-1), ratio=s("1E-3"), tags=m()),
        item(
            "bad",
            iso=s("infinity"),
            seconds=s("soon"),
            millis=n("9" * 30),
            ratio=s("nan"),
            tags=s(""),
        ),
        item("null", iso=NULL, seconds=NULL, millis=NULL, ratio=NULL, tags=NULL, text=NULL),
        item("none"),
    )
    result = merge(things, tests=True)
    moment = datetime(2026, 11, 1, 12, 30, 0, 123456, tzinfo=UTC)
    of_seconds = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
    nothing = {"bad": None, "null": None, "none": None}
    assert column(things, "iso") == nothing | {
        "fits": moment,
        "date": datetime(2026, 11, 1, tzinfo=UTC),
    }
    assert column(things, "seconds") == nothing | {
        "fits": of_seconds.replace(microsecond=250_000),
        "date": datetime(1970, 1, 1, tzinfo=UTC),
    }
    assert column(things, "millis") == nothing | {
        "fits": of_seconds.replace(microsecond=123_000),
        "date": datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
    }
    assert column(things, "ratio") == nothing | {"fits": 0.1, "date": 0.001}
    assert column(things, "tags") == nothing | {
        "fits": {"A": "1.0", "a": '"x"', "deep": '{"b":null}'},
        "date": {},
    }
    told = column(things, "text")
    assert (json.loads(told["fits"]), told["null"], told["none"]) == ('{"S":"x"}', "null", None)
    [misfits] = [node for node in result.nodes if node.name == "typed_values_that_do_not_fit"]
    assert (misfits.status, misfits.rows) == ("warn", 5)


def test_a_list_has_rows_of_its_own(world: World) -> None:
    things = world.table("baskets")
    started(things, item("z"))
    merge(things)
    assert query(things.con, "FROM analytics.baskets_lines") == []
    line = m(sku=s("q"), pk=s("of the line"), price=n("1.50"))
    things.stream(1, (1, item("a", lines=li(line, NULL, m(sku=s("r")))), item("a")))
    things.stream(1, (2, item("b", lines=li()), item("b")), (3, item("c", lines=NULL), item("c")))
    merge(things)
    rows = "FROM analytics.baskets_lines ORDER BY pk, _position"
    first = {"pk": "a", "_position": 1, "sku": "q", "pk_2": "of the line", "price": Decimal("1.5")}
    empty = {"sku": None, "pk_2": None, "price": None}
    told = [
        first,
        empty | {"pk": "a", "_position": 2},
        empty | {"pk": "a", "_position": 3, "sku": "r"},
    ]
    assert query(things.con, rows) == told
    things.stream(1, (4, item("d", lines=li(m(late=s("x")))), item("d")), (5, None, item("c")))
    result = merge(things)
    assert rebuilt(result) == []
    last = empty | {"pk": "d", "_position": 1, "late": "x"}
    assert query(things.con, rows) == [*(each | {"late": None} for each in told), last]
    things.stream(1, (6, item("a"), item("a")), (7, item("d", lines=li(s("x"), n(1))), item("d")))
    merge(things)
    assert [row | {"value": json.loads(row["value"])} for row in query(things.con, rows)] == [
        {"pk": "d", "_position": 1, "value": "x"},
        {"pk": "d", "_position": 2, "value": 1},
    ]


def test_a_frozen_schema_lets_nothing_in_until_it_may_evolve_again(world: World) -> None:
    things = world.table("contract")
    started(things, item("a", x=n(1), y=s("1")), item("b", x=n(2)))
    merge(things)
    before = types(things)
    things.config = world.configure("{name: contract}", "{name: contract, schema: frozen}")
    things.stream(
        1,
        (1, item("a", x=s("7"), y=n(5), new=s("x")), item("a")),
        (2, item("c", x=n("2.5")), item("c")),
    )
    result = merge(things, tests=True)
    assert rebuilt(result) == []
    assert types(things) == before
    assert column(things, "x") == {"a": None, "b": 2, "c": None}
    assert column(things, "y") == {"a": "5", "b": None, "c": None}
    [misfits] = [node for node in result.nodes if node.name == "contract_values_that_do_not_fit"]
    assert (misfits.status, misfits.rows) == ("warn", 2)
    logged = query(things.con, "SELECT image->'new'->>'S' AS new FROM changes.contract")
    assert {"new": "x"} in logged
    things.config = world.configure("schema: frozen", "schema: evolve")
    result = merge(things)
    assert rebuilt(result) != []
    assert differences(things) == []


def test_what_a_frozen_struct_lacks_of_its_documents_is_counted(world: World) -> None:
    things = world.table("sealed")
    known = {"it's": n(1), 'b "c"': m(z=s("z")), "l": li(m(k=n(1))), "same": m(a=s("x"))}
    started(things, item("a", doc=m(**known)))
    merge(things)
    things.config = world.configure("{name: sealed,", "{name: sealed, schema: frozen,")
    things.stream(
        1,
        (1, item("b", doc=m(**known | {'b "c"': m(later=s("x"), z=s("z"))})), item("b")),
        (2, item("c", doc=m(new=NULL, l=li(m(k=s("1")), m(k2=s("x")), m(k2=n(1))))), item("c")),
        (3, item("d", doc=m(new=m(a=n(1)), same=s("x"), l=li(NULL, m(k2=s("x"))))), item("d")),
    )
    result = merge(things, tests=True)
    assert rebuilt(result) == []
    [misfits] = [node for node in result.nodes if node.name == "sealed_values_that_do_not_fit"]
    assert (misfits.status, misfits.rows) == ("warn", 7)
    compiled = world.config.dbt.project_dir / "target" / "compiled"
    [sql] = compiled.rglob("sealed_values_that_do_not_fit.sql")
    assert {
        (row["attribute"], row["type"], row["values_found"], row["example_key"][-4])
        for row in query(things.con, sql.read_text())
    } == {
        ('doc.b "c".later', None, 1, "b"),
        ("doc.new", None, 1, "d"),
        ("doc.same", "STRUCT", 1, "d"),
        ("doc.l.k", "BIGINT", 1, "c"),
        ("doc.l.k2", None, 2, "c"),
        ("doc.l.k2", None, 1, "c"),
    }


def test_a_type_that_changes_all_the_time_is_soon_settled_and_loses_nothing(world: World) -> None:
    """The exact values join when there are two types, for the old rows too; a view that does not
    survive it is named."""
    things = world.table("flapping")
    started(things, item("0", x=s("old"), x__raw=s("taken"), amount=n(1)))
    merge(things)
    things.con.execute("CREATE VIEW analytics.mine AS SELECT sum(amount) FROM analytics.flapping")
    rebuilds = []
    notes: list[str] = []
    minutes = [[n(7)], [m(a=n(1))], [{"BOOL": True}, {"SS": ["a"]}], [li(), n("1E99"), s("late")]]
    number = 0
    for values in minutes:
        for value in values:
            number += 1
            key = item(str(number))
            things.stream(1, (number, key | {"x": value, "amount": s("one")}, key))
        result = merge(things)
        rebuilds.append(bool(rebuilt(result)))
        notes += result.notes
    assert rebuilds == [True, True, False, False]
    assert differences(things) == []
    assert column(things, "x__raw_2")["0"] == '{"S":"old"}'
    assert any('"amount" is BIGINT and has to be VARCHAR' in note for note in notes)
    broken = {note for note in notes if "analytics.mine" in note}
    assert len(broken) == 1
    assert "cannot be queried" in broken.pop()


def test_hostile_input_arrives_whole(world: World) -> None:
    things = world.table("hostile")
    things.key = ("pk", "bytes")
    things.binaries = ("bytes",)
    keys = [base64.b64encode(each).decode() for each in (b"\x00", b"\xff'\"\n", b'{"B":"AA=="}')]

    def hostile(number: int, **attributes: Any) -> dict[str, Any]:
        return {"pk": s("k"), "bytes": {"B": keys[number]}, **attributes}

    names = (
        *re.findall(r"\S+", WORDS),
        "a.b",
        'x"y',
        "x_y",
        "'; DROP TABLE analytics.hostile; --",
        "n" * 1000,
        "\u202etxet",
    )
    started(
        things,
        hostile(0, **{f"attribute {number}": n(number) for number in range(1000)}),
        hostile(1, **{name: s(name) for name in names}),
        hostile(
            2,
            empty=s(""),
            no_words={"SS": []},
            no_map=m(),
            no_list=li(),
            no_bytes={"B": ""},
            most=n("9" * 38),
            least=n("-" + "9" * 38),
            finest=n("1E-130"),
        ),
    )
    merge(things)
    assert differences(things) == []

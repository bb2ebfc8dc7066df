"""The dbt models over fabricated change logs: a real DuckLake, a real dbt, a plain reference."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from models_world import Table, differences, history_differences, opened, query

from tailrace.config import Config
from tailrace.transform.runner import BuildResult, build

MODELS = 39

HOSTILE = (
    'select "x"; --',
    "a.b",
    "A",
    "a",
    "_key",
    "_batch",
    "_Image",
    "``",
    "it's",
    "größe",
    "数量",
    "🚚",
    "select",
    "a/b~c",
    "$.x",
    "*",
    "0",
    " ",
    "a b",
    "null",
    "{{ x }}",
    "*/ tailrace: rebuild /*",
    "%s",
    "_scalars",
    "_documents",
    'tab\there"',
)


@dataclass
class World:
    """One warehouse and one dbt project for all of these tests, so that dbt reads the project
    once and the extensions are loaded once. Each test has a table that no other has."""

    config: Config
    con: duckdb.DuckDBPyConnection
    free: list[str]

    def table(self) -> Table:
        return Table(self.config, self.con, self.free.pop())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("models")
    models = [f"things_{number:02d}" for number in range(MODELS)]
    tables = "".join(f"  - {{name: {name}}}\n" for name in models)
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


def n(value: int | str) -> dict[str, str]:
    return {"N": str(value)}


def s(value: str) -> dict[str, str]:
    return {"S": value}


def started(table: Table, *items: dict[str, Any]) -> None:
    table.open(1)
    table.base(1, *items)
    table.go_live(1)


def test_every_type_and_every_name_arrives_as_it_was(things: Table) -> None:
    every = item("all", **{name: s(f"value of {name}") for name in HOSTILE})
    typed = item(
        "typed",
        whole=n(-42),
        digits18=n("9" * 18),
        digits19=n("9" * 19),
        money=n("-12.50"),
        digits38=n("1" * 38),
        tiny=n("0." + "0" * 37 + "1"),
        huge=n("9.9E+125"),
        yes={"BOOL": True},
        no={"BOOL": False},
        blob={"B": base64.b64encode(b"\x00\xff'").decode()},
        no_bytes={"B": ""},
        empty=s(""),
        quote=s("'\"\\ \n☃ $$ {{ x }}"),
        nothing={"NULL": True},
        maybe={"NULL": True},
        list={"L": [s("x"), n(1), {"NULL": True}]},
        map={"M": {"a.b": n("1.10")}},
        words={"SS": ["a", "b"]},
        numbers={"NS": ["1", "2.5"]},
        blobs={"BS": ["AA=="]},
        mixed=s("text"),
    )
    other = item("other", mixed=n(1), maybe=s("here"), money=n(3), whole=n(7))
    started(things, every, typed, other)
    merge(things, tests=True)
    assert differences(things) == []


def test_names_that_are_one_to_sql_keep_their_columns_for_ever(things: Table) -> None:
    started(things, item("1", Name=s("first")))
    merge(things)
    things.stream(1, (1, item("2", name=s("second"), NAME=s("third"), name_2=s("x")), item("2")))
    merge(things)
    things.stream(1, (2, item("3", AAA=s("early in the alphabet"), nAME=s("late")), item("3")))
    result = merge(things)
    assert differences(things) == []
    assert not [note for note in result.notes if "built anew" in note]
    columns = query(things.con, f"DESCRIBE analytics.{things.model}")
    assert {"Name", "NAME_2", "name_3", "name_2_2"} <= {row["column_name"] for row in columns}


def test_a_renamed_column_tells_the_attribute_it_holds(things: Table) -> None:
    started(things, item("1", **{'say "hi"': s("x")}))
    merge(things)
    comments = query(
        things.con,
        "SELECT column_name, comment FROM duckdb_columns()"
        f" WHERE comment IS NOT NULL AND table_name = '{things.model}_latest'",
    )
    assert comments == [
        {"column_name": "say _hi_", "comment": 'DynamoDB attribute say "hi"'},
    ]


def test_nothing_shows_before_the_table_is_live(things: Table) -> None:
    things.open(1)
    things.base(1, item("1"))
    things.stream(1, (1, item("2"), item("2")))
    merge(things)
    assert query(things.con, f"FROM analytics.{things.model}") == []
    assert query(things.con, f"FROM analytics.stg_{things.model}_changes") == []
    things.go_live(1)
    merge(things)
    assert differences(things) == []
    assert len(query(things.con, f"FROM analytics.{things.model}")) == 2


def test_who_asks_the_staged_log_for_versions_reads_no_images(things: Table) -> None:
    started(things, item("1"))
    merge(things)
    staged = f"analytics.stg_{things.model}_changes"
    asked = f"EXPLAIN SELECT max(version) FROM {staged} WHERE visible_batch > 0"
    [(_, plan)] = things.con.execute(asked).fetchall()
    assert "version" in plan
    assert "image" not in plan


def test_a_change_beats_the_base_whichever_is_merged_first(things: Table) -> None:
    started(things, item("1", x=n(1)), item("2", x=n(1)))
    merge(things)
    things.open(2)
    things.stream(2, (10, item("1", x=n(2)), item("1")), (11, None, item("2")))
    merge(things)
    things.base(2, item("1", x=n(1)), item("2", x=n(1)), item("3", x=n(1)))
    merge(things)
    assert differences(things) == []
    things.go_live(2)
    merge(things)
    assert differences(things) == []


def test_a_deleted_key_stays_deleted_until_it_is_written_again(things: Table) -> None:
    started(things, item("1"), item("2"))
    things.stream(1, (5, None, item("1")))
    things.stream(1, (4, item("2", x=n(4)), item("2")))
    merge(things)
    things.stream(1, (3, item("1", x=n(1)), item("1")))
    merge(things)
    assert [row["pk"] for row in query(things.con, f"FROM analytics.{things.model}")] == ["2"]
    things.stream(1, (6, item("1", x=n(2)), item("1")))
    merge(things)
    assert differences(things) == []


def test_a_late_older_version_never_replaces_a_newer_one(things: Table) -> None:
    started(things, item("1", x=n(0)))
    things.stream(1, (9, item("1", x=n(9)), item("1")))
    merge(things)
    things.stream(1, (8, item("1", x=n(8)), item("1")))
    result = merge(things)
    assert differences(things) == []
    assert watermark(things) == things.batch
    assert [node.rows for node in merge(things).nodes] == [0, 0]
    assert [node.name for node in result.nodes] == filled(things)


def test_the_newest_of_many_versions_wins_in_whatever_order_they_landed(things: Table) -> None:
    started(things, item("1", x=n(0)))
    merge(things)
    versions = [7, 9, 8]
    things.stream(1, *((v, item("1", x=n(v)), item("1")) for v in versions))
    things.stream(1, (6, None, item("1")), (5, item("2", x=n(5)), item("2")))
    merge(things)
    assert differences(things) == []
    found = query(things.con, f"SELECT pk, x FROM analytics.{things.model} ORDER BY pk")
    assert found == [{"pk": "1", "x": 9}, {"pk": "2", "x": 5}]


@pytest.mark.parametrize(
    ("seen", "value", "shown"),
    [(n(1), n("1.5"), None), (n("0.1"), n("0.25"), None), (n("0.1"), n("7"), Decimal("7.0"))],
)
def test_a_number_that_does_not_fit_its_column_is_never_rounded(
    things: Table, seen: dict[str, Any], value: dict[str, Any], shown: Decimal | None
) -> None:
    started(things, item("1", x=seen))
    merge(things)
    things.stream(1, (1, item("2", x=value), item("2")), discovered=False)
    merge(things)
    found = query(things.con, f"SELECT x, _image FROM analytics.{things.model}_latest")
    assert (shown, '{"pk":{"S":"2"},"x":{"N":"' + value["N"] + '"}}') in [
        (row["x"], row["_image"]) for row in found
    ]


def test_what_lands_while_a_merge_runs_waits_for_the_next_one(things: Table) -> None:
    """An epoch goes live, and a change follows it, after the merge has looked and before it
    reads: taking the change without the base would lose the base for good."""
    started(things, item("old", x=n(1)), item("vanished", x=n(1)))
    merge(things)
    things.open(2)
    things.base(2, item("old", x=n(1)), item("new", x=n(1)))
    base = things.batch
    things.stream(2, (1, item("old", x=n(2)), item("old")))
    merge(things)
    file = things.config.dbt.project_dir / f"models/{things.model}/{things.model}_latest.sql"
    model = file.read_text()
    live, change = things.batch + 1, things.batch + 2
    landing = (
        f"insert into lake.tailrace.epochs select model, {live}, 2, kind, method, 'live',"
        " table_id, stream_arn, detail, now() from lake.tailrace.epochs"
        f" where model = '{things.model}' and epoch = 2;"
        f" insert into lake.changes.{things.model} select {change}, '000002199', 2, 'MODIFY', key,"
        f" image, null, now(), false, false, now() from lake.changes.{things.model}"
        f" where batch = {base} and key like '%old%'"
    )
    file.write_text(model.replace("unique_key='_key'", f'pre_hook="{landing}"'))
    merge(things)
    file.write_text(model)
    things.live[2] = (live, "full")
    merge(things)
    assert {row["pk"] for row in query(things.con, f"FROM analytics.{things.model}")} == {
        "old",
        "new",
    }
    assert watermark(things) == change


def test_keys_that_a_new_full_base_lacks_are_gone_once_it_is_live(things: Table) -> None:
    started(things, item("stays"), item("vanished"), item("touched"))
    things.stream(1, (1, item("late", x=n(1)), item("late")), (2, None, item("dead")))
    merge(things)
    things.open(2)
    things.base(2, item("stays"), item("new"))
    things.stream(2, (7, item("touched", x=n(2)), item("touched")))
    merge(things)
    assert len(query(things.con, f"FROM analytics.{things.model}")) == 4
    things.go_live(2)
    merge(things)
    assert differences(things) == []
    assert {row["pk"] for row in query(things.con, f"FROM analytics.{things.model}")} == {
        "stays",
        "new",
        "touched",
    }
    things.stream(2, (8, item("vanished", x=n(3)), item("vanished")))
    merge(things)
    assert differences(things) == []


def test_a_key_written_and_vanished_between_two_merges_is_gone(things: Table) -> None:
    started(things, item("1"))
    merge(things)
    things.stream(1, (1, item("brief"), item("brief")), (2, item("1", x=n(1)), item("1")))
    things.open(2)
    things.base(2, item("2"))
    things.go_live(2)
    merge(things)
    assert differences(things) == []
    assert [row["pk"] for row in query(things.con, f"FROM analytics.{things.model}")] == ["2"]


def test_an_incremental_epoch_keeps_what_it_does_not_mention(things: Table) -> None:
    started(things, item("1"), item("2"))
    merge(things)
    things.open(2, "incremental")
    things.base(2, item("2", x=n(2)))
    things.go_live(2, "incremental")
    merge(things)
    assert differences(things) == []
    assert len(query(things.con, f"FROM analytics.{things.model}")) == 2


def test_a_new_attribute_is_a_column_at_the_next_merge_without_a_rebuild(things: Table) -> None:
    started(things, item("1"))
    merge(things)
    things.stream(1, (1, item("2", late=n("1.5")), item("2")))
    result = merge(things)
    assert differences(things) == []
    assert [node.name for node in result.nodes] == filled(things)
    assert result.notes == tuple(f"{name} has new columns: late" for name in filled(things))
    assert query(things.con, f"SELECT late FROM analytics.{things.model} WHERE pk = '1'") == [
        {"late": None}
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (n(1), n("1.5")),
        (n("1.25"), n("1.125")),
        (n(1), n("9" * 38)),
        (n("0.5"), n("9" * 38)),
        (n(7), n("1E+60")),
        (n(1), s("one")),
        (s("x"), {"M": {"y": s("z")}}),
        ({"NULL": True}, s("x")),
    ],
)
def test_a_column_that_widens_keeps_every_value(
    things: Table, before: dict[str, Any], after: dict[str, Any]
) -> None:
    started(things, item("1", x=before), item("2", x=before))
    merge(things)
    things.stream(1, (1, item("2", x=after), item("2")))
    result = merge(things)
    assert differences(things) == []
    assert any("built anew" in note and '"x"' in note for note in result.notes)


def test_a_rebuild_gives_what_the_merges_gave(things: Table) -> None:
    started(things, item("1", x=n(1)), item("2", x=n(1)), item("3"))
    merge(things)
    things.stream(1, (1, item("2", x=n(2)), item("2")), (2, None, item("3")))
    merge(things)
    things.stream(1, (3, item("9", x=n(3)), item("9")))
    merge(things)
    select = f"SELECT * EXCLUDE (_batch) FROM analytics.{things.model}_latest ORDER BY _key"
    merged = query(things.con, select)
    things.stream(1, (4, item("1", x=n("0.5")), item("1")))
    merge(things)
    rebuilt = query(things.con, select)
    assert rebuilt[1:] == [row | {"x": row["x"] and Decimal(row["x"])} for row in merged[1:]]
    assert differences(things) == []


def test_building_again_changes_nothing(things: Table) -> None:
    started(things, item("1"), item("2"))
    merge(things)
    before = query(things.con, "SELECT max(snapshot_id) AS id FROM lake.snapshots()")
    result = merge(things)
    assert [node.rows for node in result.nodes] == [0, 0]
    assert query(things.con, "SELECT max(snapshot_id) AS id FROM lake.snapshots()") == before


def test_an_empty_table_has_its_key_columns(things: Table) -> None:
    started(things)
    merge(things, tests=True)
    assert differences(things) == []


def test_the_public_model_keeps_working_while_columns_come_and_widen(things: Table) -> None:
    started(things, item("1"))
    merge(things)
    for position, value in enumerate((n(1), n("2.5"), s("three")), start=1):
        things.stream(1, (position, item(str(position), x=value), item(str(position))))
        merge(things)
        assert differences(things) == []


def test_a_table_without_a_log_is_left_out(world: World, things: Table) -> None:
    started(things, item("1"))
    result = merge(things, world.table())
    model = things.model
    assert {node.name for node in result.nodes} == {
        f"stg_{model}_changes",
        *filled(things),
        model,
        f"{model}_history",
        f"{model}_changes",
    }


def test_any_arrangement_of_batches_and_merges_ends_like_the_reference(world: World) -> None:
    """Random logs, cut into batches at random, merged at random moments; after each merge the
    models show what the reference makes of what had landed by then."""
    logs = [RandomLog(world.table(), random.Random(f"arrangement {number}")) for number in range(6)]
    for _ in range(5):
        for log in logs:
            log.advance()
        merged = [log.table for log in logs if log.random.random() < 0.7]
        if merged:
            merge(*merged)
        for table in merged:
            found = [*differences(table), *history_differences(table)]
            assert {table.model: found} == {table.model: []}


class RandomLog:
    """A log that grows by random batches: late versions, re-inserts, base rows after stream rows,
    stream rows from before the base,
    epochs that open, overlap and go live, new attributes, now and then a new type."""

    NAMES = ("a", "A", "b.c", "d", "_key", "total")

    def __init__(self, table: Table, chance: random.Random) -> None:
        self.table = table
        self.random = chance
        self.position = 0
        self.late: list[int] = []
        self.epoch = 1
        self.kind = "full"
        self.state = "open"
        self.based: set[str] = set()
        table.open(1)

    def advance(self) -> None:
        for _ in range(self.random.randrange(4)):
            self.table.after(self.random.choice((-1, 0, 0, 1, 2)))
            step = self.random.random()
            if self.state == "open" and step < 0.35:
                self._land_base()
            elif self.state == "open" and step < 0.55:
                self.table.go_live(self.epoch, self.kind)
                self.state = "live"
            elif self.state == "live" and step < 0.15:
                self.epoch += 1
                self.kind = self.random.choice(("full", "full", "incremental"))
                self.table.open(self.epoch, self.kind)
                self.state, self.based = "open", set()
            else:
                self._land_changes()

    def _land_base(self) -> None:
        keys = {str(self.random.randrange(12)) for _ in range(4)} - self.based
        self.based = self.based | keys
        self.table.base(self.epoch, *(self._item(key) for key in sorted(keys)))

    def _land_changes(self) -> None:
        changes = []
        for _ in range(self.random.randrange(1, 5)):
            key = str(self.random.randrange(12))
            new = None if self.random.random() < 0.3 else self._item(key)
            changes.append((self._next_position(), new, item(key)))
        prior = self.state == "open" and self.kind == "full" and self.random.random() < 0.4
        self.table.stream(self.epoch, *changes, prior=prior)

    def _next_position(self) -> int:
        """The next one; or one that was left out before, which now comes late."""
        self.position += 1
        if self.random.random() < 0.2:
            self.late.append(self.position)
            self.position += 1
        if self.late and self.random.random() < 0.3:
            return self.late.pop(0)
        return self.position

    def _item(self, key: str) -> dict[str, Any]:
        names = self.random.sample(self.NAMES, self.random.randrange(len(self.NAMES)))
        return item(key, **{name: self._value() for name in names})

    def _value(self) -> dict[str, Any]:
        if self.random.random() < 0.03:
            return {"L": [n(self.random.randrange(9))]}
        return n(self.random.randrange(10**6))


def filled(table: Table) -> list[str]:
    """The tables that a build brings up to date, in its order."""
    return [f"{table.model}_states", f"{table.model}_latest"]


def watermark(table: Table) -> int:
    row = query(table.con, f"SELECT max(_batch) AS batch FROM analytics.{table.model}_latest")[0]
    return int(row["batch"])

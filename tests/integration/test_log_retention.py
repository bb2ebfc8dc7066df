"""A change log that does not keep everything: nothing that anyone sees is lost, whatever is built
anew afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from models_world import Table, differences, history_differences, query
from test_history import Source, World, item, life, merge, n, started

from tailrace.config import load_config
from tailrace.lake.maintenance import Limits, maintain
from tailrace.transform.generate import generate
from tailrace.transform.plugin import working_on

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("retention")
    (folder / "warehouse").mkdir()
    (folder / "tailrace.yaml").write_text(
        "tables:\n  - {name: things, log: {keep: needed}}\n  - {name: others}\n"
    )
    config = load_config(folder / "tailrace.yaml")
    generate(config)
    with working_on(config) as con:
        con.execute("USE lake")
        yield World(config, con, ["others", "things"])


def shortened(table: Table) -> int:
    """Drops what may go at once; how many rows those were."""
    done = maintain(table.config.warehouse, Limits(DAY, DAY, DAY), log_days={table.model: 0.0})
    assert done.failures == ()
    return sum(step.done for step in done.steps if step.name.startswith("log"))


def logged(table: Table) -> list[tuple[str, int]]:
    return table.con.execute(
        f"SELECT key, count(*) FROM changes.{table.model} GROUP BY ALL ORDER BY ALL"
    ).fetchall()


def past_differences(table: Table) -> list[str]:
    """The history's. The changes go back as far as the log, and so not as far as the reference."""
    return [each for each in history_differences(table) if not each.startswith("changes of")]


def test_tables_and_their_past_are_the_same_after_rows_went_and_columns_changed(
    world: World,
) -> None:
    """Read anew twice, a type that is widened, and rows that go in between, each time all that
    may. The reference has seen every row."""
    things = world.table()
    source = Source(things, random.Random(3))
    gone = []
    for _ in range(3):
        source.read_base()
        source.write(10)
        source.drain()
        merge(things)
        gone.append(shortened(things))
    assert all(gone)
    things.stream(source.epoch, (10**6, item("text", x={"S": "seven"}), item("text")))
    notes = merge(things).notes
    assert any("things_states is built anew from its own rows" in note for note in notes)
    gone.append(shortened(things))
    assert differences(things) == []
    assert past_differences(things) == []
    kept = logged(things)
    assert len(things.rows) == sum(gone) + sum(count for _, count in kept)
    assert max(count for _, count in kept) <= 2
    # What changed is told as far back as the log goes, and not as if it had come from nothing.
    changes = query(things.con, "SELECT _key, _version FROM analytics.things_changes")
    assert 0 < len(changes) <= sum(count for _, count in kept)


def test_nothing_goes_that_a_base_will_be_weighed_against_or_that_the_models_have_not(
    world: World,
) -> None:
    others = world.table()
    started(others, item("a", x=n(1)), item("b", x=n(1)))
    others.after(10).stream(1, (1, item("a", x=n(2)), item("a")))
    merge(others)
    assert shortened(others) == 0  # its states do not have the raw items
    file = Path(others.config.path)
    file.write_text(file.read_text().replace("{name: others}", "{name: others, log: {keep: 2}}"))
    others.config = load_config(file)
    generate(others.config)
    before = life(others)
    merge(others)
    assert life(others) == before
    others.after(10).stream(1, (2, item("a", x=n(3)), item("a")))
    others.open(2)
    assert shortened(others) == 0  # a base is being read
    others.base(2, item("a", x=n(3)))
    others.go_live(2)
    assert shortened(others) == 1  # the base's row of a, and no row that is not merged yet
    merge(others)
    assert past_differences(others) == []
    assert shortened(others) > 0
    others.after(10).stream(2, (3, item("b", x=n(9)), item("b")))
    merge(others)
    assert differences(others) == []
    assert past_differences(others) == []

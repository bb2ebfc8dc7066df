"""A change log that does not keep everything: nothing that anyone sees is lost, whatever is built
anew afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from models_world import Table, differences, history_differences, opened, query
from test_history import START, Source, World, item, life, merge, n, started

from tailrace.config import load_config
from tailrace.lake.maintenance import Limits, maintain
from tailrace.transform import runner
from tailrace.transform.generate import generate

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("retention")
    stories = [f"things_{number}" for number in range(int(os.environ.get("STORIES", "1")))]
    tables = "".join(f"  - {{name: {name}, log: {{keep: needed}}}}\n" for name in stories)
    with opened(folder, f"tables:\n{tables}  - {{name: others}}\n") as (config, con):
        yield World(config, con, [])


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


class Story(Source):
    """A table that is read anew and written to, of whose stream a stretch is `lost` and then had by
    a repair: what it held in those seconds nobody knows."""

    lost = range(0)

    def lose_and_repair(self) -> None:
        """Changes that no stream tells, then the incremental base that brings the last of each
        key."""
        self.drain()
        first = self.second + 1
        while self.second < first + 3 or not self.pending:
            self.second += 1
            self._write_one()
            self.past[self.second] = dict(self.items)
        last = {key: (second, value) for second, _, key, value in self.pending}
        self.lost, self.pending = range(first, self.second), []
        self.epoch += 1
        self.table.open(self.epoch, "incremental")
        for key, (second, value) in last.items():
            self.table.clock = START + timedelta(seconds=second)
            now = None if value is None else item(key, x=n(value))
            self.table.repair(self.epoch, (second * 1_000_000, now, item(key)))
        self.write(2)
        self.drain()
        self.table.clock = START + timedelta(seconds=self.second)
        self.table.go_live(self.epoch, "incremental")


# More of them are a hunt: STORIES=100 make test.
@pytest.mark.parametrize("seed", range(int(os.environ.get("STORIES", "1"))))
def test_tables_and_their_past_are_the_same_after_rows_went_and_columns_changed(
    world: World, seed: int
) -> None:
    """Read anew and repaired, merged before rows go or after more has landed; a type that is
    widened, and a full refresh. Every second is what the table held; the reference has seen every
    row."""
    things = Table(world.config, world.con, f"things_{seed}")
    dice = random.Random(seed)
    source, gone = Story(things, dice), 0
    repaired = dice.randrange(1, 3)
    for round_ in range(3):
        if round_ == repaired:
            source.lose_and_repair()
        else:
            source.read_base()
        if dice.random() < 0.5:
            merge(things)
        source.write(10)
        source.drain()
        if dice.random() < 0.7:
            merge(things)
        gone += shortened(things)
    merge(things)
    gone += shortened(things)
    assert gone
    assert differences(things) == []
    assert past_differences(things) == []
    for second in sorted({*range(source.known_from, source.second + 1)} - {*source.lost}):
        moment = START + timedelta(seconds=second)
        rows = query(things.con, f"SELECT pk, x FROM analytics.{things.model}_as_of('{moment}')")
        assert (second, {row["pk"]: row["x"] for row in rows}) == (second, source.past[second])
    things.stream(source.epoch, (10**6, item("text", x={"S": "seven"}), item("text")))
    notes = merge(things).notes
    assert any(f"{things.model}_states is built anew from its own rows" in note for note in notes)
    gone += shortened(things)
    assert len(things.rows) == gone + sum(count for _, count in logged(things))
    assert max(count for _, count in logged(things)) <= 2
    refreshed(things)
    assert differences(things) == []
    assert past_differences(things) == []
    # What changed is told as far back as the log goes, and not as if it had come from nothing.
    written = f"SELECT _key FROM analytics.{things.model}_changes WHERE _op <> 'REMOVE'"
    changes = query(things.con, written)
    assert 0 < len(changes) <= sum(count for _, count in logged(things))


def refreshed(table: Table) -> None:
    """What `dbt run --full-refresh` does, in this process."""
    done = runner._invoke(table.config, ["run", "--full-refresh", "--select", f"*{table.model}*"])
    done.raise_failures()
    assert any("from its own rows: a full refresh was asked for" in note for note in done.notes)


def test_nothing_goes_that_a_base_will_be_weighed_against_or_that_the_models_have_not(
    world: World,
) -> None:
    others = Table(world.config, world.con, "others")
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
    assert shortened(others) == 0  # it is not weighed yet
    merge(others)
    assert past_differences(others) == []
    assert shortened(others) > 0
    others.after(10).stream(2, (3, item("b", x=n(9)), item("b")))
    merge(others)
    assert differences(others) == []
    assert past_differences(others) == []

"""Which rows of a change log may go, over tables as the models leave them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tailrace.config import Warehouse
from tailrace.lake.attach import connect
from tailrace.lake.retention import droppable_sql
from tailrace.lake.schema import create_control_tables, create_log


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder: Path = tmp_path_factory.mktemp("retention")
    warehouse = Warehouse(catalog=f"sqlite:{folder}/catalog.sqlite", data_path=f"{folder}/data")
    with connect(warehouse) as con:
        create_control_tables(con)
        yield con


def row(batch: int, epoch: int, phase: int, position: int, key: str, days: float = 9) -> str:
    return (
        f"({batch}, '{epoch:06}{phase}{position:040}', {epoch}, 'MODIFY', '{key}', NULL, NULL,"
        f" now(), false, false, now() - to_hours({round(24 * days)}))"
    )


def left(con: duckdb.DuckDBPyConnection, model: str, *rows: str, merged: int, state: str = "live",
         raw: str = "_image") -> list[str]:  # fmt: skip
    """What stays of some rows, as key and batch: of epoch 1, which went live with batch 2, and of
    epoch 2, never live; a base's rows of epoch 1 are visible from batch 2 on."""
    create_log(con, model)
    con.execute(f"INSERT INTO changes.{model} VALUES {', '.join(rows)}")
    con.execute(
        "INSERT INTO tailrace.epochs (model, batch, epoch, state) VALUES"
        f" ('{model}', 2, 1, 'live'), ('{model}', 1, 1, 'open'), ('{model}', 3, 3, '{state}')"
    )
    con.execute(f"CREATE TABLE analytics.{model}_states AS SELECT {merged} AS _batch, '' AS {raw}")
    con.execute(f"CREATE TABLE analytics.{model}_latest AS SELECT {merged} AS _batch")
    con.execute(
        f"CREATE VIEW analytics.stg_{model}_changes AS SELECT *, greatest(batch, 2) AS"
        f" visible_batch, rowid AS log_row FROM changes.{model} WHERE substr(version, 7, 1) = '1'"
        " OR epoch = 1"
    )
    condition = droppable_sql(con, model, 2)
    if condition is not None:
        con.execute(f"DELETE FROM changes.{model} WHERE {condition}")
    found = con.execute(f"SELECT key || batch FROM changes.{model} ORDER BY ALL").fetchall()
    return [name for (name,) in found]


def test_a_key_s_newest_row_stays_and_the_one_that_became_visible_last(
    con: duckdb.DuckDBPyConnection,
) -> None:
    assert left(
        con,
        "t",
        row(1, 1, 0, 0, "alone"),
        *(row(1, 1, 0, 0, "a"), row(3, 1, 1, 1, "a"), row(3, 1, 1, 2, "a"), row(4, 1, 1, 3, "a")),
        *(row(5, 1, 1, 9, "late"), row(6, 1, 0, 0, "late"), row(4, 1, 1, 8, "late")),
        *(row(7, 1, 1, 1, "given up"), row(7, 2, 0, 0, "given up")),
        merged=9,
    ) == ["a4", "alone1", "given up7", "late5", "late6"]


def test_young_and_unmerged_rows_stay_with_what_they_replace(
    con: duckdb.DuckDBPyConnection,
) -> None:
    assert left(
        con,
        "u",
        *(row(1, 1, 0, 0, "young"), row(3, 1, 1, 1, "young"), row(6, 1, 1, 2, "young", days=1)),
        *(row(3, 1, 1, 1, "new"), row(4, 1, 1, 2, "new"), row(8, 1, 1, 3, "new")),
        merged=5,
    ) == ["new4", "new8", "young3", "young6"]


def test_nothing_goes_while_a_base_is_read_or_before_the_history_has_the_raw_items(
    con: duckdb.DuckDBPyConnection,
) -> None:
    rows = (row(1, 1, 0, 0, "a"), row(3, 1, 1, 1, "a"), row(4, 1, 1, 2, "a"))
    assert len(left(con, "v", *rows, merged=9, state="open")) == 3
    assert len(left(con, "w", *rows, merged=9, raw="other")) == 3
    assert len(left(con, "x", *rows, merged=2)) == 3  # the base of batch 3 is not weighed yet
    assert len(left(con, "y", *rows, merged=9)) == 1

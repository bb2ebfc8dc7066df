"""What analysts query: typed columns made from the log, against a frame made by hand; queries on
the public model, against the same ones on plain tables of the same rows; and dbt's part of a
minute in which two of ten tables changed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from bench import handwritten, world
from bench.measure import in_child, median, stopwatch
from bench.report import Figure
from tailrace.config import Config, load_config
from tailrace.engine import Engine
from tailrace.lake.attach import connect
from tailrace.lake.log import ChangeLog

MODEL = "orders"

# About 1 KB, eighteen attributes, a map in a map and a list of maps.
ITEM = """
    '{"pk":{"S":"k-' || n || '"},"order_id":{"S":"' || md5(n::VARCHAR)
    || '"},"state":{"S":"' || ['open','paid','packed','sent','back'][1 + (hash(n) % 5)::BIGINT]
    || '"},"revision":{"N":"0"},"total":{"N":"' || hash(n) % 90000 || '.' || 10 + n % 90
    || '"},"currency":{"S":"EUR"},"paid":{"BOOL":' || (n % 2 = 0)
    || '},"email":{"S":"user' || hash(n) % 999983 || '@example.com"},"created_at":{"N":"'
    || 1790000000 + n % 30000000 || '"},"weight_grams":{"N":"' || hash(n) % 20000
    || '"},"channel":{"S":"web"},"note":{"S":"' || repeat(md5((n // 7)::VARCHAR) || ' ', 6)
    || '"},"tags":{"SS":["a' || n % 7 || '","b' || n % 11 || '"]},"address":{"M":{"street":{"S":"'
    || substr(md5((n % 500)::VARCHAR), 1, 12) || ' street"},"city":{"S":"c' || hash(n) % 997
    || '"},"zip":{"S":"' || n % 99999 || '"},"geo":{"M":{"lat":{"N":"' || n % 89 || '.' || n % 997
    || '"},"lon":{"N":"' || n % 179 || '.' || n % 991 || '"}}}}},"lines":{"L":['
    || list_aggregate(list_transform([1, 2, 3], lambda i: '{"M":{"sku":{"S":"SKU-'
        || (hash(n) + i) % 1000000 || '"},"count":{"N":"' || 1 + n % 9
        || '"},"price":{"N":"' || n % 90000 || '.5"}}}'), 'string_agg', ',')
    || ']},"trace":{"S":"' || md5((n + 1)::VARCHAR) || md5((n + 2)::VARCHAR) || '"}}'"""

QUERIES = {
    "count": "SELECT count(*) FROM {table}",
    "filter on a timestamp": "SELECT count(*), sum(total) FROM {table} WHERE created_at >="
    " TIMESTAMPTZ '2026-09-22 00:00:00+00' AND created_at < TIMESTAMPTZ '2026-09-25 00:00:00+00'",
    "group by": "SELECT state, count(*), sum(total) FROM {table} GROUP BY ALL",
    "look-up by key": "SELECT * FROM {table} WHERE pk = 'k-{key}'",
}


@dataclass(frozen=True)
class Size:
    """Items of the log and how many of them the hand-written way gets, pairs, how often a query is
    timed; the tables of the minute, how many of them change, their items, and its changes."""

    items: int = 2_000_000
    by_hand: int = 25_000
    pairs: int = 3
    queries: int = 15
    tables: int = 10
    changed: int = 2
    rows: int = 20_000
    changes: int = 500
    minutes: int = 5


SMALL = Size(2_000, 400, 1, 2, 3, 1, 200, 24, 1)


# ---------------------------------------------------------------------------- typed and queries


def typed(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """Typed columns from the log, then queries on them."""
    tell(f"typed: a log of {size.items:,} items")
    ours, theirs = [], []
    with _folder() as folder:
        in_child(make, folder=str(folder), items=size.items)
        for number in range(size.pairs):
            tell(f"typed: pair {number + 1} of {size.pairs}")
            ours.append(in_child(build, folder=str(folder)))
            theirs.append(in_child(build_by_hand, folder=str(folder), items=size.by_hand))
        tell("queries: on the public model and on plain tables")
        found = in_child(query, folder=str(folder), items=size.items, rounds=size.queries)
    rates = [run["rows"] / run["wall"] for run in ours]
    by_hand = [run["rows"] / run["wall"] for run in theirs]
    ratios = [a / b for a, b in zip(rates, by_hand, strict=True)]
    cpu = [
        (b["cpu"] / b["rows"]) / (a["cpu"] / a["rows"]) for a, b in zip(ours, theirs, strict=True)
    ]
    peak = [run["peak_mb"] for run in ours]
    note = f"{size.items:,} items"
    return [
        Figure("typed", "rate", median(rates), "items/s", tuple(rates), note=note),
        Figure("typed", "rate by hand", median(by_hand), "items/s", tuple(by_hand)),
        Figure(
            "typed", "rate, times by hand", median(ratios), "×", tuple(ratios), "≥ 10",
            median(ratios) >= 10, "map and list as plain JSON",
        ),
        Figure("typed", "CPU of by hand", median(cpu), "× ours", tuple(cpu)),
        Figure("typed", "peak memory", median(peak), "MB", tuple(peak)),
        *_query_figures(found),
    ]  # fmt: skip


def _query_figures(found: dict[str, Any]) -> list[Figure]:
    figures = []
    for name in QUERIES:
        ours, lake, file = (median(found[name][place]) for place in ("ours", "lake", "file"))
        ratio = ours / lake
        figures.append(
            Figure(
                "queries", f"{name}, over a plain table", ratio, "×", (), "≤ 1.3", ratio <= 1.3,
                f"{ours * 1000:.1f} ms, {lake * 1000:.1f} ms; a DuckDB file: {file * 1000:.1f} ms",
            )
        )  # fmt: skip
    return figures


def make(folder: str, items: int) -> dict[str, Any]:
    """A live table's log of `items`, and its models."""
    from tailrace.transform import runner

    attributes = "attributes: {created_at: {type: epoch_seconds}}"
    config = world.config_of(Path(folder), [f"{{name: {MODEL}, {attributes}}}"])
    world.base(config, MODEL, items, ITEM)
    runner.build(config, [MODEL]).raise_failures()
    return {}


def _config(folder: str) -> Config:
    return load_config(Path(folder) / "tailrace.yaml")


def build(folder: str) -> dict[str, Any]:
    """Makes the typed table from the log, anew; its history, which is made already, stays. Of both
    ways neither the imports are counted nor that the lake is attached, nor of ours that dbt reads
    its project."""
    import dbt.cli.main  # noqa: F401

    from tailrace.transform import plugin, runner

    config = _config(folder)
    runner._manifest(config)
    with ChangeLog(config.warehouse) as log:
        log._con.execute(f"DROP TABLE analytics.{MODEL}_latest")
    with plugin.working_on(config), stopwatch() as spent:
        runner.build(config, [MODEL]).raise_failures()
    with connect(config.warehouse, read_only=True) as con:
        ((rows,),) = con.execute(f"SELECT count(*) FROM analytics.{MODEL}").fetchall()
    return {"rows": rows} | spent


def build_by_hand(folder: str, items: int) -> dict[str, Any]:
    """The same by hand, from the same log."""
    with connect(_config(folder).warehouse, read_only=True) as con:
        return handwritten.typed(con, f"changes.{MODEL}", f"{folder}/by-hand.duckdb", items)


def query(folder: str, items: int, rounds: int) -> dict[str, Any]:
    """Seconds of each query on the public model, on a plain table of the same rows in the same
    lake, and on one in a DuckDB file, which a connection of its own reads; in turns.

    The plain table of the lake is what Parquet files and a catalog cost anybody; what the model
    takes longer is Tailrace's. In the DuckDB file the amounts are of 18 digits, as people have
    them: DuckDB takes 200 ns to unpack one of 38."""
    warehouse = _config(folder).warehouse
    with connect(warehouse) as con:
        con.execute("CREATE SCHEMA bench")
        con.execute(f"CREATE TABLE bench.{MODEL} AS FROM analytics.{MODEL}")
        con.execute(f"ATTACH '{folder}/plain.duckdb' AS file")
        con.execute(f"""CREATE TABLE file.{MODEL} AS
            SELECT * REPLACE (total::DECIMAL(18, 2) AS total) FROM analytics.{MODEL}""")
    with (
        connect(warehouse, read_only=True) as lake,
        duckdb.connect(f"{folder}/plain.duckdb", read_only=True) as file,
    ):
        places = {
            "ours": (lake, f"analytics.{MODEL}"),
            "lake": (lake, f"bench.{MODEL}"),
            "file": (file, MODEL),
        }
        spent: dict[str, Any] = {name: {place: [] for place in places} for name in QUERIES}
        for number in range(rounds + 1):
            for name, sql in QUERIES.items():
                rows = {}
                for place, (con, table) in places.items():
                    text = sql.format(table=table, key=number * 7919 % items)
                    seconds, rows[place] = _timed(con, text)
                    if number:  # the first one warms up
                        spent[name][place].append(seconds)
                assert sorted(rows["ours"]) == sorted(rows["lake"]) == sorted(rows["file"]), name
    return spent


def _timed(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[float, list[Any]]:
    began = time.perf_counter()
    rows = con.execute(sql).fetchall()
    return time.perf_counter() - began, rows


# ------------------------------------------------------------------------------- many tables


def many(size: Size, tell: Callable[[str], None]) -> list[Figure]:
    """dbt's part of a minute in which few of many tables changed."""
    tell(f"many: {size.tables} tables, {size.changed} of them change")
    found = in_child(
        minutes,
        tables=size.tables,
        changed=size.changed,
        rows=size.rows,
        changes=size.changes,
        count=size.minutes,
    )
    walls, note = found["walls"], f"{size.changed} of {size.tables} tables, {size.changes} changes"
    return [
        Figure(
            "many", "dbt's part of a minute", median(walls), "s", tuple(walls), "≤ 5",
            median(walls) <= 5, note,
        ),
        Figure("many", "its CPU", median(found["cpu"]), "s", tuple(found["cpu"])),
        Figure("many", "the first one, with dbt's imports", found["first"], "s"),
    ]  # fmt: skip


def minutes(tables: int, changed: int, rows: int, changes: int, count: int) -> dict[str, Any]:
    """Seconds of asking what is unmerged and building that, `count` times; only what changed may
    be built."""
    from tailrace.transform import runner

    names = [f"table{number}" for number in range(tables)]
    walls, cpu = [], []
    with _folder() as folder:
        config = world.config_of(folder, [f"{{name: {name}}}" for name in names])
        for name in names:
            world.base(config, name, rows)
        with stopwatch() as first:
            runner.build(config, names).raise_failures()
        for number in range(count):
            due = [names[(number * changed + each) % tables] for each in range(changed)]
            for name in due:
                world.change(config, name, rows, changes, number)
            with Engine.open(config) as engine, stopwatch() as spent:
                unmerged = engine.unmerged(names)
                built = runner.build(config, unmerged)
            built.raise_failures()
            assert sorted(unmerged) == sorted(due), f"{unmerged} for {due}"
            filled = {node for name in due for node in config.table(name).filled}
            assert {node.name for node in built.nodes} == filled, built.nodes
            walls.append(spent["wall"])
            cpu.append(spent["cpu"])
    return {"walls": walls, "cpu": cpu, "first": first["wall"]}


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""`tailrace export` and `tailrace init-sql` on a real DuckLake: copies that hold what is there and
are never half, and statements with which any DuckDB opens the warehouse."""

from __future__ import annotations

import csv
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from tailrace.cli import app
from tailrace.config import Warehouse, load_config
from tailrace.lake import copies
from tailrace.lake.attach import connect, init_sql
from tailrace.lake.log import ChangeLog
from tailrace.lake.sql import literal

ROW = """SELECT 'a,"b"' AS "id ""x"" y", 12345678901234567890123456789.12::DECIMAL(38,2) AS total,
    'c-1' AS customer_id, 'paid' AS status,
    TIMESTAMPTZ '2026-11-01 12:00:00.123456+00' AS _changed_at, true AS paid, 'x'::BLOB AS bytes,
    ['p', 'q'] AS tags, {'city': 'Łódź', 'n': [1]} AS address, MAP {'k': '{"v":1}'::JSON} AS free,
    '{"L":[]}'::JSON AS lines, NULL::BIGINT AS nothing"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake's")
    (folder / "tailrace.yaml").write_text("tables: [{name: Orders.EU, model: orders}]")
    warehouse = load_config(folder / "tailrace.yaml").warehouse
    ChangeLog(warehouse).close()
    with connect(warehouse) as con:
        con.execute(f"CREATE TABLE analytics.orders AS {ROW}")
        con.execute("CREATE TABLE analytics.orders_history AS FROM range(3000) AS t(number)")
        con.execute(
            "CREATE MACRO lake.analytics.orders_as_of(_moment) AS TABLE"
            " SELECT _moment::TIMESTAMPTZ AS moment"
        )
    return folder


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(folder / "tailrace.yaml")])


def exported(folder: Path, to: Path, table: str = "orders", *words: str) -> Path:
    result = run(folder, "export", table, "--to", str(to), *words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert [each.name for each in to.parent.iterdir()] == [to.name], "nothing else is left there"
    return to


def test_parquet_keeps_every_type_and_value(folder: Path, tmp_path: Path) -> None:
    file = exported(folder, tmp_path / "it's.parquet", "Orders.EU")
    with connect(load_config(folder / "tailrace.yaml").warehouse, read_only=True) as con:
        for what in ("SELECT column_name, column_type FROM (DESCRIBE FROM {})", "FROM {}"):
            assert con.execute(what.format(literal(str(file)))).fetchall() == (
                con.execute(what.format("analytics.orders")).fetchall()
            )


def test_csv_and_json_hold_every_digit(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with exported(folder, tmp_path / "a" / "o.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["total"] == "12345678901234567890123456789.12"
    assert row['id "x" y'] == 'a,"b"'
    lines = exported(folder, tmp_path / "b" / "o.ndjson").read_text().splitlines()
    whole = exported(folder, tmp_path / "c" / "o.JSON").read_text()
    [item] = [json.loads(line, parse_float=Decimal) for line in lines]
    assert [item] == json.loads(whole, parse_float=Decimal)
    assert item["total"] == Decimal("12345678901234567890123456789.12")
    assert item["address"] == {"city": "Łódź", "n": [1]}
    assert item["nothing"] is None


def test_any_relation_of_analytics_is_copied_by_its_name(folder: Path, tmp_path: Path) -> None:
    file = exported(folder, tmp_path / "history.csv", "orders_history")
    assert len(file.read_text().splitlines()) == 3001
    result = run(folder, "export", "changes", "--to", str(tmp_path / "x.csv"))
    assert result.exit_code == 1
    assert "There is no analytics.changes; there are: orders, orders_history." in result.stderr


def test_a_table_is_copied_as_it_was(folder: Path, tmp_path: Path) -> None:
    file = exported(folder, tmp_path / "o.csv", "orders", "--as-of", "2026-11-01 12:00:00+01")
    assert file.read_text() == "moment\n2026-11-01T11:00:00+00:00\n"
    other = tmp_path / "x.csv"
    result = run(folder, "export", "orders_history", "--as-of", "2026-11-01", "--to", str(other))
    assert result.exit_code == 2
    assert "--as-of is for a table, but orders_history is none of orders" in result.stderr
    result = run(folder, "export", "orders", "--as-of", "it's soon", "--to", str(other))
    assert result.exit_code == 1
    assert "it's soon" in result.stderr
    assert not other.exists()


def test_a_file_is_replaced_only_by_force_and_only_by_a_whole_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "o.csv"
    file.write_text("mine")
    result = run(folder, "export", "orders", "--to", str(file))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    exported(folder, file, "orders", "--force")
    before = file.read_text()
    assert before != "mine"

    def fails(columns: object, rows: object, out: object) -> None:
        out.write("half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setitem(copies.WRITERS, ".csv", fails)
    result = run(folder, "export", "orders", "--to", str(file), "--force")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert file.read_text() == before
    assert [each.name for each in tmp_path.iterdir()] == ["o.csv"]


@pytest.mark.parametrize("name", ["o", "o.xlsx", "s3://bucket/o.csv", "missing/o.csv"])
def test_a_place_that_cannot_be_is_refused_before_anything_is_read(
    folder: Path, tmp_path: Path, name: str
) -> None:
    to = name if "://" in name else str(tmp_path / name)
    result = run(folder, "export", "orders", "--to", to)
    assert result.exit_code == 2
    assert ".parquet" in result.stderr or "no folder" in result.stderr


# ------------------------------------------------------------------------------------ init.sql


def test_any_duckdb_opens_the_warehouse_with_the_printed_statements(
    folder: Path, tmp_path: Path
) -> None:
    result = run(folder, "init-sql", "--local-extensions")
    assert result.exit_code == 0
    with duckdb.connect() as con:
        con.execute(result.stdout)
        assert con.execute("SELECT total FROM orders").fetchall() == [
            (Decimal("12345678901234567890123456789.12"),)
        ]
        with pytest.raises(duckdb.Error, match="read-only"):
            con.execute("CREATE TABLE mine AS FROM range(3)")


def test_the_statements_name_what_to_install_and_hold_no_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    assert "INSTALL sqlite_scanner; LOAD sqlite_scanner;" in run(folder, "init-sql").stdout
    catalog, data = "postgres:dbname=lake host=db user=it's", "s3://bucket/lake"
    team = Warehouse.model_validate({"catalog": catalog, "data_path": data})
    text = init_sql(team, local_extensions=False)
    assert [line.partition(" ")[2] for line in text.splitlines() if line.startswith("INSTALL")] == [
        f"{name}; LOAD {name};" for name in ("postgres_scanner", "httpfs", "ducklake", "aws")
    ]
    assert "ATTACH 'ducklake:postgres:dbname=lake host=db user=it''s' AS" in text
    assert "CREATE SECRET (TYPE s3, PROVIDER credential_chain);" in text
    assert "READ_ONLY" in text
    local = init_sql(team, local_extensions=True)
    assert "INSTALL" not in local
    assert "s3cret" not in text + local


# ------------------------------------------------------------------------------- what is documented

PAGE = (Path(__file__).parents[2] / "docs" / "analysts.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_python_of_the_analysts_page_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("polars", "pyarrow") if "polars" in SNIPPETS[number] else ():
        pytest.importorskip(package)
    monkeypatch.chdir(folder)
    (folder / "init.sql").write_text(run(folder, "init-sql", "--local-extensions").stdout)
    names: dict[str, Any] = {}
    for snippet in dict.fromkeys((SNIPPETS[0], SNIPPETS[number])):
        exec(snippet, names)
    shown = capsys.readouterr().out
    assert "paid" in shown
    assert "frame" not in names or len(names["frame"]) == 1


def test_the_page_has_a_way_for_everyone() -> None:
    """So that the test above does not pass by finding nothing."""
    text = "".join(SNIPPETS)
    assert all(way in text for way in ("duckdb.connect()", ".df()", ".pl()", "load_config"))

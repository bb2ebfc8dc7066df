"""A table that holds items of several types: a public model for each. A real DuckLake and dbt."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models_world import Table, opened, query

from tailrace.config import CONFIG_VARIABLE
from tailrace.transform.generate import generate
from tailrace.transform.runner import build

ROOT = Path(__file__).parents[2]

CONFIG = """
warehouse: {catalog: 'sqlite:warehouse/catalog.sqlite', data_path: warehouse/data}
dbt: {project_dir: dbt_project}
tables:
  - name: single
    attributes:
      type: {accepted_values: [customer, order, "it's"], description: "What {{ it }} is."}
      owner: {relationships: {to: single, field: pk}}
      typo: {accepted_values: [x]}
      Nobody's: {relationships: {to: single, field: pk}}
    split:
      customer_items: {key_prefix: {pk: "CUST#"}, description: Who buys.}
      order_items: {attribute: {type: [order, "it's"], "no. {%": 7}}
      other: {where: "pk not like 'CUST#%' -- {{ none of them }}"}
      not_yet: {attribute: {later: true}}
"""


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    folder = tmp_path_factory.mktemp("split")
    with opened(folder, CONFIG) as (config, con):
        yield Table(config, con, "single")


def merged(table: Table) -> list[str]:
    result = build(table.config, [table.model])
    result.raise_failures()
    return [node.name for node in result.nodes]


def shown(table: Table, model: str) -> tuple[list[str], list[str]]:
    """The keys that a model shows, and its columns without those of Tailrace."""
    rows = query(table.con, f"SELECT pk FROM analytics.{model} ORDER BY pk")
    columns = query(table.con, f"DESCRIBE analytics.{model}")
    names = [column["column_name"] for column in columns]
    return [row["pk"] for row in rows], [name for name in names if name[0] != "_"]


def item(pk: str, **attributes: Any) -> dict[str, Any]:
    return {"pk": {"S": pk}, **attributes}


def order(pk: str, kind: str, **attributes: Any) -> dict[str, Any]:
    return item(pk, type={"S": kind}, **{"no. {%": {"N": "7.0"}}, **attributes)


def test_each_item_type_has_a_model_with_the_columns_that_its_items_use(single: Table) -> None:
    owned = {"owner": {"S": "CUST#1"}}
    single.open(1)
    single.base(
        1,
        item("CUST#1", name={"S": "Ana"}, type={"S": "customer"}),
        order("O#1", "order", total={"N": "3"}, **owned),
        order("O#2", "it's"),
        item("X#1", odd={"BOOL": True}),
    )
    single.go_live(1)
    generate(single.config)  # as the key is known now
    result = build(single.config, [single.model], tests=True)
    result.raise_failures()
    [told] = [node for node in result.nodes if node.name == "single_items_of_no_type_or_several"]
    assert (told.status, told.rows) == ("warn", 2), "O#1 and O#2 are other items, too"
    lacking = [note.partition(" has no column ")[2] for note in result.notes]
    assert [note.split(" yet:")[0] for note in lacking if note] == ['"typo"', '"Nobody\'s"']
    assert shown(single, "customer_items") == (["CUST#1"], ["pk", "name", "type"])
    orders = ["pk", "no. {%", "owner", "total", "type"]
    assert shown(single, "order_items") == (["O#1", "O#2"], orders)
    assert shown(single, "other")[0] == ["O#1", "O#2", "X#1"]
    assert shown(single, "not_yet")[0] == []

    single.stream(1, (1, item("X#1", odd={"BOOL": False}), item("X#1")))
    assert merged(single) == ["single_states", "single_latest"]
    single.stream(1, (2, order("O#3", "order", name={"S": "known elsewhere"}), item("O#3")))
    assert set(merged(single)) == {"single_states", "single_latest", "order_items", "other"}
    assert shown(single, "order_items") == (["O#1", "O#2", "O#3"], ["pk", "name", *orders[1:]])
    assert shown(single, "customer_items") == (["CUST#1"], ["pk", "name", "type"])
    single.stream(1, (3, item("X#2", later={"BOOL": True}), item("X#2")))
    assert set(merged(single)) == {"single_states", "single_latest", "other", "not_yet"}
    assert shown(single, "not_yet") == (["X#2"], ["pk", "later"])


def test_dbt_by_hand_builds_tests_documents_and_tells_freshness(single: Table) -> None:
    single.con.execute(
        "INSERT INTO tailrace.ledger (model, batch, epoch, kind, detail, landed_at) VALUES"
        " ('single', 90, 1, 'pass', {complete: true, began_at: now()::VARCHAR}::JSON, now())"
    )
    project = single.config.dbt.project_dir
    page = (ROOT / "docs" / "analysts.md").read_text()
    [exposures] = re.findall("(?s)```yaml\n([^`]*exposures:.*?)```", page)
    exposures = exposures.replace("'orders'", "'order_items'").replace("'customers'", "'single'")
    (project / "models" / "exposures.yml").write_text(exposures)
    assert "ERROR=0" in dbt(single.config.path, project, "build")
    dbt(single.config.path, project, "docs", "generate")
    catalog = json.loads((project / "target" / "catalog.json").read_text())
    assert "no. {%" in catalog["nodes"]["model.tailrace.order_items"]["columns"]
    manifest = json.loads((project / "target" / "manifest.json").read_text())
    exposure = manifest["exposures"]["exposure.tailrace.weekly_revenue"]
    assert exposure["depends_on"]["nodes"] == [
        "model.tailrace.order_items",
        "model.tailrace.single",
    ]
    assert "PASS freshness of changes.single" in dbt(
        single.config.path, project, "source", "freshness"
    )


def dbt(config: Path, project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", *arguments, "--no-use-colors"],
        cwd=project,
        env={"PATH": "", "HOME": str(project), CONFIG_VARIABLE: str(config)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

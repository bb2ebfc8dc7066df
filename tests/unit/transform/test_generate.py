"""Generating dbt files: what is written, what is left alone, what is said about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.config import Config, load_config
from tailrace.errors import ConfigError
from tailrace.lake.version import version_sql
from tailrace.transform.generate import check, generate

OWN_PROJECT = Path(__file__).parents[3] / "dbt_project"


def config_with(folder: Path, *tables: str) -> Config:
    file = folder / "tailrace.yaml"
    file.write_text("tables:\n" + "".join(f"  - name: {name}\n" for name in tables))
    return load_config(file)


def statuses(config: Config) -> dict[str, str]:
    project = config.dbt.project_dir
    return {str(each.path.relative_to(project)): each.status for each in generate(config)}


def models_of(folder: Path, model: str) -> dict[str, Any]:
    file = folder / "dbt_project" / "models" / model / f"{model}.yml"
    return {each["name"]: each for each in yaml.safe_load(file.read_text())["models"]}


def meta_of(folder: Path, model: str) -> dict[str, Any]:
    return dict(models_of(folder, model)[model]["config"]["meta"])


def test_each_table_gets_models_of_one_macro_call_and_a_yaml(tmp_path: Path) -> None:
    config = config_with(tmp_path, "Orders-2")
    generate(config)
    folder = config.dbt.project_dir / "models" / "orders_2"
    assert sorted(path.name for path in folder.iterdir()) == [
        "orders_2.sql",
        "orders_2.yml",
        "orders_2_changes.sql",
        "orders_2_history.sql",
        "orders_2_latest.sql",
        "orders_2_states.sql",
        "stg_orders_2_changes.sql",
    ]
    assert (folder / "orders_2_latest.sql").read_text().splitlines()[1:] == [
        "{{ config(materialized='latest_version', unique_key='_key') }}",
        "{{ latest_state('orders_2') }}",
    ]


def test_generating_again_is_a_no_op(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders", "customers")
    assert check(config) != []
    generate(config)
    assert check(config) == []
    assert set(statuses(config).values()) == {"unchanged"}


def test_checking_writes_nothing(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    assert all(each.changed for each in check(config))
    assert not config.dbt.project_dir.exists()


def test_an_edited_file_is_left_alone_and_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    generate(config)
    model = config.dbt.project_dir / "models" / "orders" / "orders.sql"
    edited = model.read_text() + "limit 10\n"
    model.write_text(edited)
    assert statuses(config)["models/orders/orders.sql"] == "edited by hand, left alone"
    assert model.read_text() == edited
    assert check(config) == []


def test_a_generated_file_that_is_outdated_is_written_anew(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    generate(config)
    folder = config.dbt.project_dir / "models" / "orders"
    outdated = (folder / "orders.sql").read_text()
    (folder / "orders_latest.sql").write_text(outdated)
    assert [each.path.name for each in check(config)] == ["orders_latest.sql"]
    assert statuses(config)["models/orders/orders_latest.sql"] == "updated"
    assert check(config) == []


def test_generated_models_of_a_table_that_is_gone_are_removed(tmp_path: Path) -> None:
    generate(config_with(tmp_path, "orders", "customers"))
    folder = tmp_path / "dbt_project" / "models" / "customers"
    names = {
        "customers.sql",
        "customers.yml",
        "customers_changes.sql",
        "customers_history.sql",
        "customers_latest.sql",
        "customers_states.sql",
        "stg_customers_changes.sql",
    }
    config = config_with(tmp_path, "orders")
    assert {each.path.name for each in check(config)} == names
    assert {path.name for path in folder.iterdir()} == names
    found = statuses(config)
    assert {path for path, status in found.items() if status.startswith("removed")} == {
        f"models/customers/{name}" for name in names
    }
    assert not folder.exists()
    assert check(config) == []


def test_what_somebody_edited_or_wrote_outlives_its_table_and_is_named(tmp_path: Path) -> None:
    generate(config_with(tmp_path, "orders", "customers"))
    models = tmp_path / "dbt_project" / "models"
    edited, own = models / "customers" / "customers.sql", models / "mine" / "mine.sql"
    edited.write_text(edited.read_text() + "limit 10\n")
    own.parent.mkdir()
    own.write_text("select 1 as one\n")
    config = config_with(tmp_path, "orders")
    found = statuses(config)
    assert found["models/customers/customers.sql"].startswith("edited by hand, asked for no longer")
    assert [path.name for path in edited.parent.iterdir()] == ["customers.sql"]
    assert own.exists()
    assert "models/mine/mine.sql" not in found
    assert check(config) == []


def test_a_new_project_gets_profile_and_macros_and_an_existing_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    config = config_with(tmp_path, "orders")
    generate(config)
    project = config.dbt.project_dir
    for name in ("profiles.yml", "macros/version.sql", "tests/generic/unique_together.sql"):
        assert (project / name).read_text() == (OWN_PROJECT / name).read_text()
    (project / "profiles.yml").write_text("mine: {}\n")
    generate(config)
    assert (project / "profiles.yml").read_text() == "mine: {}\n"


def test_a_machine_without_the_warehouse_comes_to_the_same_files(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    generate(config)
    file = config.dbt.project_dir / "models" / "orders" / "orders.yml"
    committed = OWN_PROJECT / "models" / "orders" / "orders.yml"
    file.write_text(committed.read_text())
    assert check(config) == []
    assert "unique_together" in file.read_text()


def test_every_column_of_the_models_is_described(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    generate(config)
    project = config.dbt.project_dir
    blocks = set(re.findall(r"{% docs (\w+) %}", (project / "models" / "docs.md").read_text()))
    document = yaml.safe_load((project / "models" / "orders" / "orders.yml").read_text())
    assert [model["name"] for model in document["models"]] == [
        "stg_orders_changes",
        "orders_states",
        "orders_latest",
        "orders",
        "orders_history",
        "orders_changes",
    ]
    for model in document["models"]:
        for described in (model, *model["columns"]):
            assert set(re.findall(r"doc\('(\w+)'\)", described["description"])) <= blocks
            assert described["description"]


SPLIT = """orders
    split:
      paid: {attribute: {state: [paid, "it's"], "a\\"b": 7, done: true}}
      of_ana: {key_prefix: {pk: "ANA#", sk: "O#"}}
      odd: {where: "x = '{{ y }}'", description: "Odd {% ones."}"""


def test_an_item_type_is_a_model_with_its_condition_in_sql(tmp_path: Path) -> None:
    config = config_with(tmp_path, SPLIT)
    generate(config)
    folder = tmp_path / "dbt_project" / "models" / "orders"
    assert (folder / "paid.sql").read_text().splitlines()[1:] == [
        "{{ config(materialized='view') }}",
        """{% call split_items('orders', needs=["state", "a\\"b", "done"]) %}""",
        """("state"::VARCHAR = 'paid' OR "state"::VARCHAR = 'it''s')"""
        """ AND try_cast("a""b"::VARCHAR AS DOUBLE) = 7 AND "done"::VARCHAR = 'true'""",
        "{% endcall %}",
    ]
    assert "starts_with(\"pk\"::VARCHAR, 'ANA#') AND" in (folder / "of_ana.sql").read_text()
    assert "{% raw %}x = '{{ y }}'{% endraw %}" in (folder / "odd.sql").read_text()
    models = models_of(tmp_path, "orders")
    assert models["odd"]["description"].startswith('{{ "Odd {% ones." }} {{ "DynamoDB table')
    generate(config_with(tmp_path, "orders"))
    assert not (folder / "paid.sql").exists()
    assert (folder / "orders.sql").exists()


@pytest.mark.parametrize("condition", ["x = 1) or (1 = 1; select 1", "x =", "1; select 2", "x)"])
def test_what_is_no_condition_is_refused(tmp_path: Path, condition: str) -> None:
    config = config_with(tmp_path, f"orders\n    split: {{odd: {{where: '{condition}'}}}}")
    with pytest.raises(ConfigError, match=r"split\.odd\.where is no SQL condition"):
        generate(config)


def test_what_is_said_of_an_attribute_becomes_its_column_s_tests(tmp_path: Path) -> None:
    attributes = """orders
    attributes:
      state: {description: "Where {{ it }} is.", accepted_values: [new, "it's", 7, true]}
      who: {relationships: {to: customers, field: the id}}"""
    generate(config_with(tmp_path, attributes, "customers"))
    columns = {each["name"]: each for each in models_of(tmp_path, "orders")["orders"]["columns"]}
    assert columns["state"]["description"] == '{{ "Where {{ it }} is." }}'
    [accepted] = columns["state"]["data_tests"]
    assert accepted["attribute_accepted_values"]["arguments"]["values"] == [
        "new",
        "it''s",
        "7",
        "true",
    ]
    [related] = columns["who"]["data_tests"]
    assert related["attribute_relationships"]["arguments"] == {
        "to": "ref('customers')",
        "field": '"the id"',
    }


def test_the_macros_are_told_that_a_schema_is_frozen(tmp_path: Path) -> None:
    generate(config_with(tmp_path, "orders", "customers\n    schema: frozen"))
    assert "schema" not in meta_of(tmp_path, "orders")
    assert meta_of(tmp_path, "customers")["schema"] == "frozen"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, "orders")
    (tmp_path / "dbt_project").mkdir()
    (tmp_path / "dbt_project" / "models").write_text("in the way")
    with pytest.raises(ConfigError, match="models"):
        generate(config)


def test_the_macros_and_the_engine_agree_on_the_layout_of_a_version() -> None:
    macro = (OWN_PROJECT / "macros" / "version.sql").read_text()
    floor = version_sql(7, 0, None).strip("'")
    assert floor == f"{7:06d}" + "0" * 41
    assert "'%06d' % epoch" in macro
    assert "'0' * 41" in macro
    assert f"substr({{{{ version }}}}, {len('000007') + 1}, 1) = '0'" in macro


def test_a_list_with_rows_has_a_model_of_its_own_for_as_long_as_it_is_configured(
    tmp_path: Path,
) -> None:
    plain = config_with(tmp_path, "orders")
    file = tmp_path / "tailrace.yaml"
    before = file.read_text()
    file.write_text(f"{before}    attributes: {{'the \"lines\"': {{rows: lines}}}}\n")
    config = load_config(file)
    generate(config)
    body = (tmp_path / "dbt_project/models/orders/orders_lines.sql").read_text()
    assert body.splitlines()[2] == "{{ list_rows('orders', 'lines') }}"
    assert models_of(tmp_path, "orders")["orders_lines"]["columns"][-1]["name"] == "_position"
    meta = meta_of(tmp_path, "orders")
    assert meta["types"] == {'the "lines"': "struct"}
    assert meta["rows"] == {"lines": 'the "lines"'}
    assert statuses(plain)["models/orders/orders_lines.sql"].startswith("removed")
    assert check(plain) == []

"""`tailrace init`: a file that loads as it stands, fits the tables, and never replaces another."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from tailrace.cli import Parts, app
from tailrace.config import ExportBase, ScanBase, load_config
from tailrace.errors import SourceMissing
from tailrace.model import KeyAttribute, TableDescription
from tailrace.starter import Described, scalar


def table(name: str, *, stream: str | None = "NEW_AND_OLD_IMAGES") -> TableDescription:
    return TableDescription(
        name=name,
        arn=f"arn:aws:dynamodb:eu-west-1:123456789012:table/{name}",
        table_id="id",
        key=(KeyAttribute("pk\n- name: x", "S"), KeyAttribute("sk", "N")),
        stream_arn="arn" if stream else None,
        view_type=stream,
        item_count=20_000,
        size_bytes=20_000_000,
    )


class Account(Parts):
    """An account with these tables in it."""

    def __init__(self, *described: Described) -> None:
        self.tables = {each.table.name: each for each in described}

    def describe(
        self, names: list[str], region: str | None, profile: str | None
    ) -> tuple[str, list[Described]]:
        for name in names:
            if name not in self.tables:
                raise SourceMissing(f"table {name} was not found", "Check the name.")
        return region or "eu-west-1", [self.tables[name] for name in names]


ACCOUNT = Account(
    Described(table("orders"), recoverable=True),
    Described(table("Customers.EU"), recoverable=False),
    Described(table("1e5", stream=None), recoverable=None),
    Described(table("on_", stream="OLD_IMAGE"), recoverable=False),
)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["init", *words], obj=ACCOUNT)


def test_the_file_on_standard_output_loads_as_it_stands(tmp_path: Path) -> None:
    result = run("orders", "Customers.EU", "1e5", "on_")
    assert result.exit_code == 0
    (tmp_path / "t.yaml").write_text(result.stdout)
    config = load_config(tmp_path / "t.yaml")
    assert config.aws.region == "eu-west-1"
    assert [each.name for each in config.tables] == ["orders", "Customers.EU", "1e5", "on_"]
    assert config.models == ("orders", "customers_eu", "t_1e5", "on_")
    assert {type(each.base) for each in config.tables} == {ScanBase}


def test_the_comments_tell_size_key_price_and_the_other_way(tmp_path: Path) -> None:
    text = run("orders").stdout
    assert "key pk?- name: x (S), sk (N); about 20,000 items, 20.0 MB" in text
    assert "about 2,442 read capacity units" in text
    assert "Point-in-time recovery is on" in text
    assert "# base: {method: export, bucket: YOUR-BUCKET, prefix: tailrace}" in text


def test_an_export_is_chosen_where_it_can_be(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "t.yaml"
    result = run("orders", "Customers.EU", "--export-bucket", "my-bucket", "--config", str(file))
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"Wrote {file}" in result.stderr
    orders, customers = load_config(file).tables
    assert orders.base == ExportBase(bucket="my-bucket", prefix="tailrace")
    assert isinstance(customers.base, ScanBase)


def test_what_is_missing_is_told_with_the_command_that_mends_it() -> None:
    stderr = run("orders", "1e5", "on_").stderr
    assert "Table 1e5 has no stream" in stderr
    assert "Enable one: aws dynamodb update-table --table-name 1e5" in stderr
    assert "The stream of table on_ has the view type OLD_IMAGE" in stderr
    assert "orders" not in stderr


def test_an_existing_file_is_only_replaced_by_force(tmp_path: Path) -> None:
    file = tmp_path / "tailrace.yaml"
    file.write_text("mine")
    result = run("orders", "--config", str(file))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert file.read_text() == "mine"
    assert run("orders", "--config", str(file), "--force").exit_code == 0
    assert load_config(file).models == ("orders",)


def test_a_table_that_is_not_there_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    result = run("orders", "ordres", "--config", str(file))
    assert result.exit_code == 1
    assert "table ordres was not found" in result.stderr
    assert not file.exists()


@pytest.mark.parametrize("text", ["orders", "on", "1e5", "null", "2024-01-01", "a: b", "it's", "~"])
def test_any_name_reads_back_as_itself(text: str) -> None:
    assert yaml.safe_load(f"- name: {scalar(text)}") == [{"name": text}]

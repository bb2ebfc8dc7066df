"""`tailrace init`: a file that loads as it stands, fits the tables, and never replaces another."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tailrace.cli import Parts, app
from tailrace.config import ExportBase, ScanBase, load_config
from tailrace.errors import SourceMissing
from tailrace.model import KeyAttribute, TableDescription
from tailrace.sample import Suggestion, suggestions
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


HOSTILE = (
    "at",
    "a: b",
    "it's",
    'say "x"',
    "#",
    "yes",
    "2024",
    "line\nfeed",
    "größe",
    "{",
    "- x",
    "",
)

SUGGESTED = tuple(
    Suggestion(name, kind, "ISO 8601", 100)
    for name, kind in zip(HOSTILE, cycle(["timestamp", "epoch_seconds", "epoch_milliseconds"]))
)


class Account(Parts):
    """An account with these tables in it."""

    def __init__(self, *described: Described) -> None:
        self.tables = {each.table.name: each for each in described}

    def describe(
        self, names: list[str], region: str | None, profile: str | None, *, sample: bool
    ) -> tuple[str, list[Described]]:
        for name in names:
            if name not in self.tables:
                raise SourceMissing(f"table {name} was not found", "Check the name.")
        found = [self.tables[name] for name in names]
        if not sample:
            found = [replace(each, suggestions=(), unsampled="") for each in found]
        return region or "eu-west-1", found


ACCOUNT = Account(
    Described(table("orders"), recoverable=True),
    Described(table("Customers.EU"), recoverable=False),
    Described(table("1e5", stream=None), recoverable=None),
    Described(table("on_", stream="OLD_IMAGE"), recoverable=False),
    Described(table("denied"), recoverable=None, unsampled="No permission for dynamodb:Scan."),
    Described(table("sampled"), recoverable=False, suggestions=SUGGESTED),
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


# --------------------------------------------------------------------------------------- sample


def test_suggestions_are_comments_that_are_settings_without_their_signs(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    assert run("sampled", "--config", str(file)).exit_code == 0
    text = file.read_text()
    assert load_config(file).tables[0].attributes == {}
    assert "look like ISO 8601" in text
    file.write_text(
        re.sub(r"^    # (attributes:|  .*# 100 of)", r"    \1", text, flags=re.MULTILINE)
    )
    found = load_config(file).tables[0].attributes
    assert {name: each.type for name, each in found.items()} == {
        each.attribute: each.type for each in SUGGESTED
    }
    assert "attributes:" not in run("sampled", "--no-sample").stdout


def test_a_sample_that_may_not_be_read_is_a_note_and_no_error() -> None:
    result = run("denied")
    assert result.exit_code == 0
    assert "denied: no types are suggested, no sample was read: No permission" in result.stderr
    assert "attributes:" not in result.stdout
    assert "no sample" not in run("denied", "--no-sample").stderr


def suggested(*values: Any, key: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    items = [{"pk": {"S": str(number)}, "a": value} for number, value in enumerate(values)]
    lines = "".join(json.dumps(each) + "\n" for each in items).encode()
    return [(each.type, each.count) for each in suggestions(lines, ("pk", *key))]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["2026-11-01T12:00:00Z", "2026-11-01T12:00:00.123456+01:00"], "timestamp"),
        (["2026-11-01", "2024-02-29 23:59"], "timestamp"),
        (["1700000000", "1893456000"], "epoch_seconds"),
        (["1700000000.25"], "epoch_seconds"),
        (["1700000000000", "1700000000001"], "epoch_milliseconds"),
    ],
)
def test_moments_are_told_in_each_way_of_writing_them(values: list[str], kind: str) -> None:
    tag = "S" if kind == "timestamp" else "N"
    assert suggested(*({tag: each} for each in values)) == [(kind, len(values))]
    assert suggested(*({tag: each} for each in values), {"NULL": True}) == [(kind, len(values))]
    assert suggested(*({tag: each} for each in values), {"BOOL": True}) == []
    assert suggested(*({tag: each} for each in values), key=("a",)) == []


@pytest.mark.parametrize(
    "value",
    [
        {"S": "2026-13-01T12:00:00Z"},
        {"S": "2026-11-01T25:00:00Z"},
        {"S": "2026-11-01T12:00:00Zulu"},
        {"S": "20261101"},
        {"S": "1700000000"},
        {"S": ""},
        {"N": "1000000002"},
        {"N": "42"},
        {"N": "-1700000000"},
        {"N": "1700000000000000"},
        {"N": "9.99E+125"},
        {"SS": ["2026-11-01"]},
        {"NULL": True},
    ],
)
def test_what_only_resembles_a_moment_is_left_alone(value: Any) -> None:
    assert suggested(value) == []


def test_one_value_that_differs_is_enough_to_suggest_nothing() -> None:
    assert suggested({"S": "2026-11-01"}, {"S": "soon"}) == []
    assert suggested({"N": "1700000000"}, {"N": "1700000000000"}) == []

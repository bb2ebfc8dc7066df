"""tailrace.yaml: what is accepted, what it becomes, and how each mistake is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tailrace.config import (
    Config,
    DynamoDbStreamsConfig,
    ExportBase,
    FirehoseConfig,
    KinesisConfig,
    ScanBase,
    Warehouse,
    config_path,
    load_config,
    model_name,
)
from tailrace.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "tailrace.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def refusal(write: Write) -> Callable[[str], str]:
    def refusal(text: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config(write(text))
        return str(caught.value)

    return refusal


def one_table(extra: str = "") -> str:
    return f"tables:\n  - name: orders\n{extra}"


# ------------------------------------------------------------------------------------- accepted


def test_the_shortest_file_gets_working_defaults(write: Write, tmp_path: Path) -> None:
    config = load_config(write(one_table()))
    (table,) = config.tables
    assert (table.name, table.model) == ("orders", "orders")
    assert table.base == ScanBase(method="scan", segments=8, max_rcu=None, consistent=False)
    assert (table.stream.source, table.stream.pass_seconds) == ("dynamodb_streams", 40)
    assert config.warehouse.catalog == f"sqlite:{tmp_path}/warehouse/catalog.sqlite"
    assert config.warehouse.data_path == f"{tmp_path}/warehouse/data"
    assert config.warehouse.memory_limit == "1GB"
    assert config.dbt.project_dir == tmp_path / "dbt_project"
    assert config.aws.region is None
    assert config.path == tmp_path / "tailrace.yaml"


def test_a_full_file_is_read_as_written(write: Write) -> None:
    config = load_config(
        write("""
aws: {region: eu-central-1, profile: prod}
warehouse:
  catalog: "postgres:dbname=lake host=db.internal user=tailrace"
  data_path: s3://company-lake/tailrace/
  memory_limit: 2GiB
  threads: 4
dbt: {project_dir: /srv/dbt}
tables:
  - name: Orders-2024
    base: {method: scan, segments: 16, max_rcu: 500, consistent: true}
    stream: {source: dynamodb_streams, pass_seconds: 20, pass_bytes: 64MiB}
  - name: customers
    model: people
    schema: frozen
    base:
      method: export
      bucket: company-exports
      prefix: dynamodb/
      export_arn: arn:aws:dynamodb:eu-central-1:123456789012:table/customers/export/0170-abc
      bucket_owner: "123456789012"
      kms_key_id: alias/exports
""")
    )
    orders, customers = config.tables
    assert config.models == ("orders_2024", "people")
    assert (orders.schema_mode, customers.schema_mode) == ("evolve", "frozen")
    assert orders.base == ScanBase(segments=16, max_rcu=500.0, consistent=True)
    assert (orders.stream.pass_seconds, orders.stream.pass_bytes) == (20, 64 * 2**20)
    assert isinstance(customers.base, ExportBase)
    assert (customers.base.bucket, customers.base.prefix) == ("company-exports", "dynamodb")
    assert config.warehouse.catalog_kind == "postgres"
    assert config.warehouse.catalog_target == "dbname=lake host=db.internal user=tailrace"
    assert config.warehouse.data_path == "s3://company-lake/tailrace"
    assert config.warehouse.is_remote_data
    assert config.dbt.project_dir == Path("/srv/dbt")


def test_changes_come_from_the_source_that_is_named(write: Write) -> None:
    config = load_config(
        write("""
tables:
  - {name: one1, stream: {pass_seconds: 20}}
  - {name: two2, stream: {source: kinesis, stream_name: changes}}
  - {name: three, stream: {source: kinesis, pass_bytes: 1GB, late_seconds: 60}}
  - {name: four, stream: {source: firehose, bucket: delivered, prefix: ddb/}}
""")
    )
    one, two, three, four = (table.stream for table in config.tables)
    assert one == DynamoDbStreamsConfig(pass_seconds=20)
    assert two == KinesisConfig(stream_name="changes", late_seconds=300)
    assert three == KinesisConfig(pass_bytes=10**9, late_seconds=60)
    assert four == FirehoseConfig(bucket="delivered", prefix="ddb/")


def test_relative_paths_are_relative_to_the_file_not_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/t.yaml").write_text(
        one_table("warehouse: {catalog: 'sqlite:../c.sqlite', data_path: d/../e}\n")
    )
    monkeypatch.chdir(tmp_path)
    config = load_config("conf/t.yaml")
    assert config.warehouse.catalog == f"sqlite:{tmp_path}/c.sqlite"
    assert config.warehouse.data_path == f"{tmp_path}/conf/e"
    assert config.path == tmp_path / "conf/t.yaml"


def test_the_file_is_the_argument_else_the_variable_else_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAILRACE_CONFIG", raising=False)
    assert config_path() == Path("tailrace.yaml")
    monkeypatch.setenv("TAILRACE_CONFIG", "/etc/tailrace.yaml")
    assert config_path() == Path("/etc/tailrace.yaml")
    assert config_path("mine.yaml") == Path("mine.yaml")


def test_settings_cannot_be_changed_afterwards(write: Write) -> None:
    config = load_config(write(one_table()))
    with pytest.raises(ValidationError):
        config.tables[0].model = "other"  # type: ignore[misc]


def test_settings_can_be_built_without_a_file() -> None:
    warehouse = Warehouse(catalog="sqlite:c.sqlite", data_path="d")
    assert warehouse.catalog == f"sqlite:{Path.cwd()}/c.sqlite"
    config = Config.model_validate({"warehouse": warehouse, "tables": [{"name": "orders"}]})
    assert config.warehouse is warehouse


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("orders", "orders"),
        ("Orders.EU-prod", "orders_eu_prod"),
        ("2024-orders", "t_2024_orders"),
        ("_private", "_private"),
        ("order", "order"),
    ],
)
def test_the_sql_name_is_made_of_the_tables_name(table: str, model: str) -> None:
    assert model_name(table) == model


def test_a_table_is_found_by_its_sql_name_or_its_dynamodb_name(write: Write) -> None:
    config = load_config(write("tables: [{name: Orders-EU}, {name: orders, model: eu}]"))
    assert config.table("orders_eu").name == "Orders-EU"
    assert config.table("Orders-EU").name == "Orders-EU"
    assert config.table("orders").model == "eu"
    with pytest.raises(ConfigError, match=r"no table 'order_eu' \(did you mean orders_eu\?\)"):
        config.table("order_eu")


# ------------------------------------------------------------------------------------ variables


def test_variables_are_put_into_values(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE", "prod")
    monkeypatch.setenv("SEGMENTS", "3")
    monkeypatch.delenv("ABSENT", raising=False)
    config = load_config(
        write("""
aws: {region: "${ABSENT:-us-west-2}"}
warehouse: {data_path: "data/${STAGE}/${ABSENT:-x}", catalog: "sqlite:a$${STAGE}.sqlite"}
tables:
  - name: orders-${STAGE}
    base: {method: scan, segments: "${SEGMENTS}", max_rcu: "${ABSENT:-}"}
""")
    )
    assert config.aws.region == "us-west-2"
    assert config.warehouse.data_path.endswith("/data/prod/x")
    assert config.warehouse.catalog.endswith("/a${STAGE}.sqlite")
    assert config.tables[0].model == "orders_prod"
    assert config.tables[0].base == ScanBase(segments=3)


def test_a_missing_variable_is_named_with_its_place(
    refusal: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    message = refusal("tables:\n  - name: ${NOT_THERE}\n")
    assert "line 2: tables[0].name needs the environment variable NOT_THERE" in message
    assert "Set NOT_THERE, or give a default: ${NOT_THERE:-default}." in message


def test_an_unclosed_variable_is_refused(refusal: Callable[[str], str]) -> None:
    assert "tables[0].name holds a `${`" in refusal('tables: [{name: "a${b"}]')


@pytest.mark.parametrize(
    "text",
    [
        "aws: {region: '${SECRET}'}\ntables: [{name: orders}]",
        "warehouse: {catalog: '${SECRET}'}\ntables: [{name: orders}]",
        "warehouse: {catalog: 'mysql:${SECRET}'}\ntables: [{name: orders}]",
        "warehouse: {catalog: 'postgres:password=${SECRET}'}\ntables: [{name: orders}]",
        "warehouse: {memory_limit: '${SECRET}'}\ntables: [{name: orders}]",
        "tables: [{name: '${SECRET}'}]",
        "tables: [{name: orders, model: '${SECRET}'}]",
        "tables: [{name: orders, base: {method: '${SECRET}'}}]",
        "tables: [{name: orders, base: {segments: '${SECRET}', method: scan}}]",
        "tables: [{name: orders, stream: {source: '${SECRET}'}}]",
        "tables: ['${SECRET}']",
        "tables: '${SECRET}'",
        "aws: {aws_secret_access_key: '${SECRET}'}\ntables: [{name: orders}]",
        "surprise: '${SECRET}'\ntables: [{name: orders}]",
    ],
)
def test_what_came_out_of_a_variable_is_never_printed(
    refusal: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SECRET", "Hunter2/x!")
    assert "Hunter2" not in refusal(text)


def test_clashing_names_out_of_variables_are_not_printed_either(
    refusal: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for text in (
        "tables: [{name: '${SECRET}'}, {name: orders, model: '${SECRET}'}]",
        "tables: [{name: '${SECRET}'}, {name: '${SECRET}'}]",
        "tables: [{name: '${SECRET}'}, {name: '${SECRET}_latest'}]",
        "tables: [{name: orders, model: '${SECRET}'}, {name: other, model: '${SECRET}'}]",
    ):
        message = refusal(text)
        assert "tables[1]" in message
        assert "tables[0]" in message
        assert "hunter2" not in message


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            one_table("    base: {method: scan, segments: many}"),
            "line 3: tables[0].base.segments is 'many'; allowed: a whole number from 1 to 1000.",
        ),
        (
            one_table("    attributes: {x: {rows: lines, type: double}}"),
            "attributes.x has rows: and the type double; it needs none",
        ),
        (
            one_table("    attributes: {x: {rows: history}}"),
            "attributes.x.rows: there is a orders_history already",
        ),
        (
            one_table("    attributes: {x: {rows: Lines}}"),
            "tables[0].attributes.x.rows is 'Lines'; allowed: a plain SQL name: at most 40",
        ),
        (one_table("    base: {method: scan, segments: 0}"), "segments is 0 (a number); allowed"),
        (one_table("    base: {method: scan, segments: true}"), "segments is true (yes or no)"),
        (one_table("    base: {method: scan, max_rcu: -1}"), "max_rcu is -1 (a number)"),
        (one_table("    base: {method: scan, max_rcu: .inf}"), "max_rcu is inf (a number)"),
        (one_table("    base: {segments: 4}"), "tables[0].base.method is missing; allowed: scan"),
        (one_table("    base: {method: scam}"), "base.method is 'scam'; allowed: scan or export."),
        (one_table("    base: scan"), "tables[0].base is 'scan'; allowed: a mapping with `method:"),
        (one_table("    base: {method: export}"), "tables[0].base.bucket is missing; allowed: a"),
        (
            one_table("    base: {method: export, bucket: 's3://b/p'}"),
            "Leave s3:// out; what follows the bucket goes to `prefix`.",
        ),
        (one_table("    base: {method: export, bucket: bbb, prefix: /p}"), "prefix is '/p'"),
        (
            one_table("    base: {method: export, bucket: bbb, bucket_owner: 123456789012}"),
            "bucket_owner is 123456789012 (a number)",
        ),
        (
            one_table("    base: {method: export, bucket: bbb, segments: 4}"),
            "tables[0].base.segments is an unknown key",
        ),
        (
            one_table(
                "    base: {method: export, bucket: bbb, export_arn: "
                "'arn:aws:dynamodb:us-east-1:123456789012:table/other/export/01-a'}"
            ),
            "base.export_arn is an export of another table than `name`",
        ),
        (
            one_table("    stream: {source: kafka}"),
            "stream.source is 'kafka'; allowed: dynamodb_streams, kinesis or firehose.",
        ),
        (one_table("    stream: {source: firehose}"), "bucket is missing; allowed: a bucket"),
        (
            one_table("    stream: {source: kinesis, stream_name: 'a b'}"),
            "stream.stream_name is 'a b'; allowed: a Kinesis data stream's name",
        ),
        (
            one_table("    stream: {source: kinesis, bucket: b}"),
            "stream.bucket is an unknown key; allowed here: pass_seconds",
        ),
        (one_table("    stream: {stream_name: a}"), "stream.stream_name is an unknown key"),
        (
            one_table("    stream: {source: kinesis, late_seconds: -1}"),
            "stream.late_seconds is -1 (a number)",
        ),
        (one_table("    stream: {pass_seconds: 0}"), "stream.pass_seconds is 0 (a number)"),
        (one_table("    stream: {pass_bytes: lots}"), "stream.pass_bytes is 'lots'"),
        ("tables:\n  - name: a", "tables[0].name is 'a'; allowed: a DynamoDB table's name"),
        ("tables:\n  - name: a b c", "tables[0].name is 'a b c'; allowed"),
        ("tables:\n  - name: 2024", "tables[0].name is 2024 (a number)"),
        ("tables:\n  - {model: orders}", "tables[0].name is missing"),
        ("tables:\n  - orders", "tables[0] is 'orders'; allowed: a mapping with `name:`."),
        ("tables:\n  -", "tables[0] is empty; allowed: a mapping with `name:`."),
        ("tables: orders", "tables is 'orders'; allowed: a list of tables, at least one."),
        ("tables: []", "tables is empty; allowed: a list of tables, at least one."),
        ("aws: {}", "tables is missing; allowed: a list of tables, at least one."),
        ("tables: [{name: '...'}]", "no SQL name can be made of the table's name, '...'."),
        (
            one_table("    model: Orders!"),
            "tables[0].model is 'Orders!'; allowed: a plain SQL name",
        ),
        (one_table("    model: 9lives"), "tables[0].model is '9lives'"),
        (one_table("aws: {region: us-east1}"), "aws.region is 'us-east1'; allowed: an AWS region"),
        (one_table("aws: us-east-1"), "aws is 'us-east-1'; allowed: a mapping"),
        (
            one_table("warehouse: {catalog: warehouse/c.sqlite}"),
            "warehouse.catalog is 'warehouse/c.sqlite'; allowed: sqlite:PATH, or postgres:",
        ),
        (one_table("warehouse: {data_path: 'gs://b/p'}"), "warehouse.data_path is 'gs://b/p'"),
        (one_table("warehouse: {data_path: 's3://B/p'}"), "warehouse.data_path is 's3://B/p'"),
        (one_table("warehouse: {memory_limit: 12}"), "memory_limit is 12 (a number); allowed"),
        (one_table("warehouse: {memory_limit: 1MB}"), "memory_limit is '1MB'; allowed"),
        (one_table("warehouse: {threads: 0}"), "warehouse.threads is 0 (a number)"),
        (one_table("path: /etc"), "path is an unknown key"),
        (
            one_table("    split: {a: {key_prefix: {pk: A}, where: x}}"),
            "tables[0].split.a is refused: exactly one of key_prefix, attribute and where",
        ),
        (one_table("    split: {a: {key_prefix: {pk: ''}}}"), "split.a is refused: a key_prefix"),
        (one_table("    split: {a: {attribute: {t: {x: 1}}}}"), "split.a is refused: attribute"),
        (one_table("    split: {A-b: {where: x}}"), "split is refused: 'A-b' is no plain SQL name"),
        (
            one_table("    split: {a: {wher: x}}"),
            "tables[0].split.a.wher is an unknown key (did you mean where?)",
        ),
        (
            one_table("    split: {orders_latest: {where: x}}"),
            "split.orders_latest would build analytics.orders_latest; tables[0] builds that",
        ),
        (
            "tables: [{name: one, split: {a: {where: x}}}, {name: two, split: {a: {where: x}}}]",
            "tables[1].split.a would build analytics.a; tables[0] builds that already.",
        ),
        (
            one_table("    attributes: {a: {rows: lines}}\n    split: {orders_lines: {where: x}}"),
            "there is a orders_lines already",
        ),
        (
            one_table("    attributes: {a: {accepted_values: [[1]]}}"),
            "attributes.a.accepted_values is a list; allowed: a list of texts, numbers",
        ),
        (
            one_table("    attributes: {a: {relationships: {to: b}}}"),
            "attributes.a.relationships.field is missing; allowed: a column's name.",
        ),
        (
            one_table("    schema: freeze"),
            "tables[0].schema is 'freeze'; allowed: evolve or frozen.",
        ),
    ],
)
def test_a_bad_value_is_told_with_line_path_finding_and_what_is_allowed(
    refusal: Callable[[str], str], text: str, expected: str
) -> None:
    message = refusal(text)
    assert expected in message
    assert "tailrace.yaml, line" in message
    assert "What to do:" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (one_table("warehouse: {catalg: x}"), "warehouse.catalg is an unknown key (did you mean"),
        (
            one_table("    bse: {method: scan}"),
            "tables[0].bse is an unknown key (did you mean base",
        ),
        (
            one_table("    base: {method: scan, segment: 4}"),
            "tables[0].base.segment is an unknown key (did you mean segments?); "
            "allowed here: method, segments, max_rcu, consistent.",
        ),
        (one_table("    stream: {sauce: x}"), "(did you mean source?)"),
        (one_table("    schemas: frozen"), "(did you mean schema?); allowed here: name, model,"),
        ("table: []", "table is an unknown key (did you mean tables?)"),
        (one_table("xyz: 1"), "xyz is an unknown key; allowed here: aws, warehouse, dbt, tables."),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(
    refusal: Callable[[str], str], text: str, expected: str
) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize("key", ["aws_secret_access_key", "access_key_id", "session_token"])
def test_credentials_in_the_file_are_refused_and_not_repeated(
    refusal: Callable[[str], str], key: str
) -> None:
    message = refusal(one_table(f"aws: {{{key}: Hunter2}}"))
    assert f"aws.{key} is refused: credentials have no place in this file." in message
    assert "Hunter2" not in message


@pytest.mark.parametrize(
    "catalog",
    [
        "postgres:dbname=x password=Hunter2",
        "postgres:dbname=x PASSWORD = 'Hunter2'",
        "postgres:postgresql://me:Hunter2@host/x",
    ],
)
def test_a_password_in_the_catalog_is_refused_and_not_repeated(
    refusal: Callable[[str], str], catalog: str
) -> None:
    message = refusal(one_table(f'warehouse: {{catalog: "{catalog}"}}'))
    assert "warehouse.catalog" in message
    assert "PGPASSWORD" in message
    assert "Hunter2" not in message


def test_all_mistakes_are_told_at_once(refusal: Callable[[str], str]) -> None:
    message = refusal("aws: {region: x}\ntables:\n  - name: orders\n    base: {method: nope}\n")
    assert "line 1: aws.region" in message
    assert "line 4: tables[0].base.method" in message


# --------------------------------------------------------------------------------- two of a name


def test_one_table_twice_is_refused(refusal: Callable[[str], str]) -> None:
    message = refusal("tables:\n  - name: orders\n  - name: orders\n    model: other\n")
    assert "line 3: tables[1] is the table 'orders' again, which tables[0] has already" in message


def test_two_tables_of_one_sql_name_are_refused_by_both_names(
    refusal: Callable[[str], str],
) -> None:
    message = refusal("tables: [{name: Orders.EU}, {name: orders-eu}]")
    assert "tables[1] ('orders-eu') has the SQL name 'orders_eu'" in message
    assert "tables[0] has 'orders_eu'" in message
    assert "Give one of them another `model:`." in message


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ("orders", "orders_latest", "orders_latest"),
        ("orders_history", "orders", "orders_history"),
        ("orders", "stg_orders_changes", "stg_orders_changes"),
        ("orders", "stg_orders", "stg_orders_changes"),
        ("orders", "orders_as_of", "orders_as_of"),
    ],
)
def test_a_table_named_like_a_model_of_another_is_refused(
    refusal: Callable[[str], str], first: str, second: str, relation: str
) -> None:
    message = refusal(f"tables: [{{name: {first}}}, {{name: {second}}}]")
    assert f"both would build analytics.{relation}" in message
    assert f"'{first}'" in message
    assert f"'{second}'" in message


# -------------------------------------------------------------------------------------- bad YAML


def test_broken_yaml_is_told_with_line_and_column(refusal: Callable[[str], str]) -> None:
    message = refusal("tables:\n  - name: orders\n   base: x\n")
    assert "tailrace.yaml, line 3, column 4: this is not YAML" in message


def test_a_key_that_stands_twice_is_refused(refusal: Callable[[str], str]) -> None:
    message = refusal("tables:\n  - name: orders\n    model: a\n    model: b\n")
    assert "line 4: tables[0].model stands twice, in lines 3 and 4." in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds nothing"),
        ("# only a comment\n", "holds nothing"),
        ("- name: orders\n", "holds no mapping"),
        ("just text", "holds no mapping"),
        ("tables: &a [*a]", "an alias in it holds itself"),
        ("[" * 3_000, "nested too deeply"),
        ("tables: !!python/object:os.system {}", "this is not YAML"),
        ("tables: *missing", "this is not YAML"),
        ("tables: \x00", "this is not YAML"),
        ("tables:\n  - name: a\n---\ntables: []\n", "this is not YAML"),
        ("tables: [{name: orders, model: 2024-13-45}]", "'2024-13-45'|not YAML"),
        ("? [a, b]\n: 1\ntables: [{name: orders}]", "not YAML|unknown key"),
        ("1: 2\ntables: [{name: orders}]", "1 is an unknown key"),
    ],
)
def test_what_is_no_configuration_at_all_is_told_so(
    refusal: Callable[[str], str], text: str, expected: str
) -> None:
    message = refusal(text)
    assert any(part in message for part in expected.split("|")), message


def test_a_file_that_is_not_there_or_not_readable_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*nowhere.yaml.\n.*tailrace init"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"tables: \xe9\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_the_warehouse_s_files_are_reached_with_the_profile_and_region_of_the_tables(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tailrace.yaml"
    path.write_text("aws: {region: eu-west-1, profile: etl}\ntables: [{name: Orders}]\n")
    warehouse = load_config(path).warehouse
    assert (warehouse.aws.region, warehouse.aws.profile) == ("eu-west-1", "etl")


# --------------------------------------------------------------------------------------- privacy


def test_private_attributes_are_known_by_their_exact_names(write: Write) -> None:
    rules = "{password: {privacy: exclude}, 'a: b': {privacy: hash}, at: {type: timestamp}}"
    [table] = load_config(write(one_table(f"    attributes: {rules}\n"))).tables
    assert table.private == {"password": "exclude", "a: b": "hash"}


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        ("hash", "type: timestamp"),
        ("mask", "rows: lines"),
        ("hash", "accepted_values: [a]"),
        ("exclude", "description: what it is"),
    ],
)
def test_a_private_attribute_can_have_nothing_that_needs_its_value(
    refusal: Callable[[str], str], rule: str, other: str
) -> None:
    text = refusal(one_table(f"    attributes:\n      email: {{privacy: {rule}, {other}}}\n"))
    assert f"line 4: tables[0].attributes.email is refused: privacy: {rule} leaves no value" in text


def test_a_private_attribute_cannot_split_a_table(refusal: Callable[[str], str]) -> None:
    private = "    attributes: {pk: {privacy: hash}}\n"
    text = refusal(one_table(private + "    split: {users: {key_prefix: {pk: 'U#'}}}\n"))
    assert "tables[0] is refused: split.users asks for values of pk, which is private" in text
    text = refusal(one_table(private + "    split: {users: {attribute: {pk: U}}}\n"))
    assert "(hash): nobody would have one" in text


def test_an_unknown_privacy_is_refused(refusal: Callable[[str], str]) -> None:
    text = refusal(one_table("    attributes: {email: {privacy: hide}}\n"))
    assert "tables[0].attributes.email.privacy is 'hide'; allowed: exclude, hash or mask" in text

"""Private attributes on the whole way, by scan and by export, through streams, a repair, models,
reconciliation and Dagster: at each commit, and in the end, every file on disk is searched for what
must not be there."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from assets import manifest, names
from orchestration.code_location import build_definitions
from sandbox.compare import compare
from sandbox.workload import create_table, put_all
from tailrace.capture import bootstrap, reconcile, stage
from tailrace.config import CONFIG_VARIABLE, AwsConfig, Config, Table, load_config
from tailrace.engine import Engine
from tailrace.errors import ConfigError, Terminal
from tailrace.lake.attach import connect
from tailrace.lake.comparison import Comparison
from tailrace.lake.converted import record_lines
from tailrace.lake.log import ChangeLog
from tailrace.model import Delivery
from tailrace.privacy import SALT_VARIABLE, Privacy
from tailrace.sources.aws import Aws
from tailrace.sources.firehose import FirehoseObjects
from tailrace.transform.generate import generate
from tests.integration.replica import drain_until_caught_up, without_margin
from tests.integration.test_replication_firehose import Site, until_live

HOUR = 3600.0
NUMBER = 7_310_577_000_000
SALT, OTHER_SALT = "a salt of this test", "another salt of it"
PAD = "x" * 28_000  # so that a scan takes more than a page

HASHED = ("id", "number", "email", "card", "notes")
RULES = dict.fromkeys(HASHED, "hash") | {"phone": "exclude", "name": "mask", "aliases": "mask"}

# Whatever of a private value could be found.
SECRETS = [b"s3cr3t", b"S3CR3T", b"czNjcjN0", str(NUMBER // 1000).encode()]
SECRETS += [struct.pack("<q", NUMBER + number) for number in (0, 1, 2, 39, 100)]
PUBLIC = b"public-city"


def item(number: int, version: int = 0) -> dict[str, Any]:
    return {
        "id": {"S": f"s3cr3t-{number}"},
        "number": {"N": str(NUMBER + number)},
        "email": {"S": f"s3cr3t-{number % 7}-{version}@example.com"},
        "card": {"N": str(NUMBER + version)},
        "notes": {"M": {"s3cr3t": {"L": [{"S": "s3cr3t"}, {"NS": ["1", str(NUMBER)]}]}}},
        "phone": {"S": "s3cr3t"},
        "name": {"S": f"s3cr3t {number}"},
        "aliases": {"SS": ["s3cr3t", f"s3cr3t {number}"]},
        "city": {"S": f"public-city-{number}"},
        "version": {"N": str(version)},
        "pad": {"S": PAD if number < 40 else ""},
    }


def key(number: int) -> dict[str, Any]:
    return {name: item(number)[name] for name in ("id", "number")}


def private(plain: dict[str, Any], salt: str) -> dict[str, Any]:
    """What an item is to become, written down once more, in the words of the documentation."""
    changed = {name: value for name, value in plain.items() if name != "phone"}
    for name in HASHED:
        text = json.dumps(plain[name], separators=(",", ":"), ensure_ascii=False)
        changed[name] = {"S": hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()}
    return changed | {"name": {"S": "***"}, "aliases": {"NULL": True}}


class Seen:
    """A table of which only private items are seen, for `compare`."""

    def __init__(self, dynamodb: Any, salt: str) -> None:
        self._dynamodb, self._salt = dynamodb, salt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dynamodb, name)

    def get_paginator(self, _: str) -> Seen:
        return self

    def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
        for page in self._dynamodb.get_paginator("scan").paginate(**asked):
            yield {"Items": [private(each, self._salt) for each in page["Items"]]}


def found(folder: Path, terms: list[bytes]) -> list[str]:
    """Every file that holds one of the terms."""
    holding = []
    for path in folder.rglob("*"):
        try:
            content = _content(path) if path.is_file() else b""
        except (FileNotFoundError, duckdb.Error):  # a file that comes or goes at this moment
            continue
        holding += [f"{path}: {term!r}" for term in terms if term in content]
    return holding


def _content(path: Path) -> bytes:
    return path.read_bytes() + (_rows(path) if path.suffix == ".parquet" else b"")


@cache
def _rows(parquet: Path) -> bytes:
    """What a compressed file holds, in words."""
    with duckdb.connect() as con:
        return str(con.read_parquet(str(parquet)).fetchall()).encode()


@pytest.fixture
def folder(own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for everything, with two tables: `people` is scanned, `visits` is exported and has
    a stream that names keys only."""
    without_margin(monkeypatch)
    monkeypatch.setattr(reconcile, "SCAN_MARGIN_SECONDS", 0.0)
    monkeypatch.setattr(reconcile, "SLACK", timedelta(0))
    monkeypatch.setattr(stage, "FLUSH_SECONDS", 0.0)  # each page is a commit, with its position
    for name in ("scratch", "dagster"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv(manifest.DEV_VARIABLE, "1")
    monkeypatch.setenv(SALT_VARIABLE, SALT)
    rules = json.dumps({name: {"privacy": rule} for name, rule in RULES.items()})
    bucket, tables = own_aws.bucket(), ""
    for model, base, view in (
        ("people", "{method: scan, segments: 1}", "NEW_AND_OLD_IMAGES"),
        ("visits", f"{{method: export, bucket: {bucket}}}", "KEYS_ONLY"),
    ):
        name = own_aws.name(model)
        create_table(own_aws.dynamodb, name, {"id": "S", "number": "N"}, pitr=True, view_type=view)
        put_all(own_aws.dynamodb, name, [item(number) for number in range(60)])
        tables += f"  - {{name: {name}, model: {model}, base: {base}, attributes: {rules},"
        tables += f" repair: {{bucket: {bucket}}}}}\n"
    (tmp_path / "tailrace.yaml").write_text(f"tables:\n{tables}")
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "tailrace.yaml"))
    own_aws.server.control("advance", seconds=HOUR)
    return tmp_path


def test_no_file_ever_holds_a_plain_value(
    own_aws: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config()
    generate(config)
    dynamodb, tables = own_aws.dynamodb, {each.model: each.name for each in config.tables}
    searched = _search_at_each_commit(folder, monkeypatch)

    def written(first: int, version: int) -> None:
        for name in tables.values():
            put_all(dynamodb, name, [item(n, version) for n in range(first, first + 20)])
            dynamodb.delete_item(TableName=name, Key=key(first + 1))

    with Engine.open(config) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(ChangeLog, "commit", _killed_at(3, ChangeLog.commit))
            with pytest.raises(KeyboardInterrupt):
                engine.base("people")
        for model in tables:
            engine.base(model)
        written(45, 1)
        for model in tables:
            drain_until_caught_up(engine, model)
        own_aws.server.control("advance", seconds=30 * HOUR)
        written(80, 2)
        for model in tables:
            assert engine.drain_table(model).gaps
            repaired = engine.repair(model)
            assert repaired is not None
            assert repaired.method == "export"
            drain_until_caught_up(engine, model)
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        minute = build_definitions(config).resolve_job_def("minute")
        keys = [key for table in config.tables for key in _keys(table)]
        assert minute.execute_in_process(instance=instance, asset_selection=keys).success
    with Engine.open(config) as engine:
        for model, name in tables.items():
            _assert_equal(config, Seen(dynamodb, SALT), name, model)
        differences = engine.reconcile("visits").found  # by export; Dagster compared samples
        assert not differences.count, differences.shown
        assert differences.equal == differences.latest_items == 83
    with connect(config.warehouse, read_only=True) as con:
        positions = con.execute(
            "SELECT DISTINCT position_to FROM tailrace.ledger WHERE model = 'people'"
            " AND source = 'scan' AND position_to NOTNULL"
        ).fetchall()
        assert positions
        assert all(each.startswith("sealed:") for (each,) in positions)
        joined = con.execute(
            "SELECT count(*) FROM analytics.people JOIN analytics.visits USING (id, number, email)"
        ).fetchone()
        assert joined == con.execute("SELECT count(*) FROM analytics.people").fetchone()
    assert not found(folder, SECRETS)
    assert "warehouse" in searched, "the search looked where the public values were"
    assert {".parquet", ".sqlite"} <= {
        Path(each.partition(": ")[0]).suffix for each in found(folder / "warehouse", [PUBLIC])
    }


def test_another_salt_is_refused_until_the_base_is_read_anew(
    own_aws: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config()
    with Engine.open(config) as engine:
        engine.base("people")
        drain_until_caught_up(engine, "people")
        monkeypatch.delenv(SALT_VARIABLE)
        with pytest.raises(ConfigError, match=f"variable {SALT_VARIABLE}; it is not set"):
            engine.drain_table("people")
        monkeypatch.setenv(SALT_VARIABLE, OTHER_SALT)
        for work in (engine.drain_table, engine.reconcile):
            with pytest.raises(Terminal, match="the salt is another one"):
                work("people")
        engine.base("people")
        own_aws.dynamodb.put_item(TableName=config.table("people").name, Item=item(1, 5))
        drain_until_caught_up(engine, "people")
        found = engine.reconcile("people", "scan").found
        assert (found.equal, found.count) == (60, 0), "nothing is left of its old keys"
    generate(config)  # now that the key is known
    models = (folder / "dbt_project/models/people/people.yml").read_text()
    assert "Key attribute number (S, hashed)." in models


def test_what_came_by_kinesis_or_firehose_is_private_as_well(
    own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SCAN_MARGIN_SECONDS", 1.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(SALT_VARIABLE, SALT)
    site = Site(own_aws, "events")
    firehose = f"{{source: firehose, bucket: {site.bucket}, prefix: cdc/, delivery_seconds: 1}}"
    rules = "{pk: {privacy: hash}, email: {privacy: exclude}}"
    for number, source in enumerate((firehose, "{source: kinesis, late_seconds: 0}")):
        (tmp_path / str(number)).mkdir()
        file = tmp_path / str(number) / "tailrace.yaml"
        table = f"name: {site.names['events']}, model: events, attributes: {rules}"
        file.write_text(f"tables: [{{{table}, stream: {source}}}]")
        with Engine.open(load_config(file)) as engine:
            engine.base("events")
            put_all(own_aws.dynamodb, site.names["events"], [_event(n, number) for n in range(9)])
            site.deliver()
            until_live(engine, "events")
            assert engine.reconcile("events", "scan").is_equal
            [(rows,)] = engine._log.query("SELECT count(*) FROM changes.events WHERE op <> 'READ'")
        assert rows >= 9
        assert not found(tmp_path, SECRETS)


def _event(number: int, version: int) -> dict[str, Any]:
    key = {"pk": {"S": f"s3cr3t {number}"}, "sk": {"N": str(number)}}
    return key | {"email": {"S": f"s3cr3t {version}"}, "version": {"N": str(version)}}


def test_a_parquet_file_of_firehose_is_in_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {"ApproximateCreationDateTime": 1, "Keys": {"id": item(1)["id"]}, "NewImage": item(1)}
    text = json.dumps(change).replace("'", "''")
    lake = tmp_path / "delivered"
    duckdb.sql(
        f"COPY (SELECT '1' AS eventid, 'INSERT' AS eventname, 't' AS tablename,"
        f" '{text}' AS dynamodb) TO '{lake}' (FORMAT parquet)"
    )
    body = lake.read_bytes()
    lake.unlink()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def converted(file: Path, name: str) -> Iterator[bytes]:
        assert not list(tmp_path.iterdir())
        yield from record_lines(file, name)

    class Bucket(FirehoseObjects):
        def _body(self, key: str, name: str) -> bytes:
            return body

    private = Privacy("people", RULES, ["id", "number"], SALT)
    objects = Bucket(Aws(AwsConfig(region="us-east-1")), "t", "b", "", converted, private)
    contents = objects.read(Delivery("key", 1, datetime.now(UTC), False))
    assert (contents.rows, contents.damage) == (1, "")
    (tmp_path / "held").write_bytes(repr(list(contents.changes[0])).encode())
    assert found(tmp_path, [PUBLIC])
    assert not found(tmp_path, SECRETS)


def _search_at_each_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Searches every file whenever what is staged is about to be taken in; returns the folders in
    which the search found public values."""
    searched: set[str] = set()

    def searching(method: Any) -> Any:
        def work(self: Any, *arguments: Any) -> Any:
            assert not found(folder, SECRETS)
            searched.update(
                Path(each).relative_to(folder).parts[0] for each in found(folder, [PUBLIC])
            )
            return method(self, *arguments)

        return work

    monkeypatch.setattr(ChangeLog, "commit", searching(ChangeLog.commit))
    monkeypatch.setattr(Comparison, "add", searching(Comparison.add))
    return searched


def _killed_at(number: int, commit: Any) -> Any:
    """A commit in whose place the process ends, so that a scan has to go on from a position."""
    calls = iter(range(1, 1_000))

    def killed(self: Any, *arguments: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    return killed


def _keys(table: Table) -> list[dg.AssetKey]:
    return [names.changes_key(table.model), *names.dbt_keys(table)]


def _assert_equal(config: Config, dynamodb: Any, name: str, model: str) -> None:
    with connect(config.warehouse, read_only=True) as con:
        result = compare(dynamodb, name, con, model)
    assert result.equal, result.differences[:5]
    assert result.items_in_table > 50
    assert not result.without_column

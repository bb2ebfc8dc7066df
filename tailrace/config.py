"""`tailrace.yaml`, read once and checked whole before anything is touched.

This module turns the file into frozen, absolute, validated settings, and every mistake in it into
one `ConfigError` that names the file, the line, the path inside it, what was found and what is
allowed. Whether a table, bucket or warehouse really exists is left to those who open it.
Values that came out of `${VAR}` may be secrets: they are never printed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from tailrace.errors import ConfigError

CONFIG_VARIABLE = "TAILRACE_CONFIG"
DEFAULT_FILE = "tailrace.yaml"

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
TABLE_NAME = re.compile(r"[a-zA-Z0-9_.\-]{3,255}")
STREAM_NAME = re.compile(r"[a-zA-Z0-9_.\-]{1,128}")
MODEL_NAME = re.compile(r"(?=.*[a-z0-9])[a-z_][a-z0-9_]*")
MODEL_NAME_MAX = 200  # `stg_<model>_changes.sql` has to fit into a file name of 255 bytes
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
EXPORT_ARN = re.compile(r"arn:aws[\w-]*:dynamodb:[^:]+:\d{12}:table/(?P<table>[^/]+)/export/[^/]+")
ACCOUNT = re.compile(r"\d{12}")
MEMORY = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<unit>[KMGT]i?B)", re.IGNORECASE)
# What a value in a list of values may be.
PLAIN = (str, bool, int, float)

MEMORY_MIN_BYTES = 128 * 10**6

# The dbt models of one table, in the order of their building: `{}` is its SQL name. Those that are
# tables are filled by each build, the others are views over them.
FILLED = ("{}_states", "{}_latest")
OVER_STATES = ("{}_history", "{}_changes")
NODES = ("stg_{}_changes", *FILLED, "{}", *OVER_STATES)

# What else is built beside them.
AS_OF = "{}_as_of"

# What a merge, a repair or a reconciliation that is under way may still ask the change log for.
NEEDED_DAYS = 2

Where: TypeAlias = tuple[str | int, ...]


# --------------------------------------------------------------------------------- the settings


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("bool_for_number", "a number is needed, not yes or no")
    return value


Number = BeforeValidator(_no_bool)


def _field(allowed: str, description: str, default: Any = ..., **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"allowed": allowed}, **limits)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class AwsConfig(_Settings):
    """Which AWS. Credentials are boto3's business: variables, profiles, roles, and
    `AWS_ENDPOINT_URL*` are honoured, and none of them has a place in this file."""

    region: str | None = _field(
        "an AWS region such as us-east-1, or nothing",
        "Where the tables are. Left out, boto3 decides (AWS_REGION, AWS_DEFAULT_REGION, profile); "
        "written down, a shell with another default cannot read another region's table.",
        None,
        pattern=f"^{REGION.pattern}$",
    )
    profile: str | None = _field(
        "the name of a profile in ~/.aws/config, or nothing",
        "Profile to take credentials from; left out, boto3's own chain decides, which is what "
        "you want wherever a role is attached.",
        None,
        min_length=1,
    )


class Warehouse(_Settings):
    """Where the DuckLake lives and what DuckDB may use to work on it."""

    _aws: AwsConfig = PrivateAttr(default_factory=AwsConfig)

    @property
    def aws(self) -> AwsConfig:
        """Region and profile for files on S3: those of the whole file."""
        return self._aws

    catalog: str = _field(
        "sqlite:PATH, or postgres:dbname=… host=… (the password in PGPASSWORD)",
        "DuckLake's catalog. SQLite needs no server and serves one machine; PostgreSQL lets "
        "several machines write and read.",
        "sqlite:warehouse/catalog.sqlite",
        validate_default=True,
    )
    data_path: str = _field(
        "a folder, or s3://bucket/prefix",
        "Where the Parquet files go. DuckLake writes it into the catalog: it cannot be changed "
        "later without moving the files.",
        "warehouse/data",
        validate_default=True,
    )
    memory_limit: str = _field(
        "an amount with its unit, at least 128MB: 1GB, 512MB, 2GiB",
        "DuckDB's memory_limit for each Tailrace process, so that memory is bounded by a setting "
        "and not by a table's size. 1GB loads exports at full speed on two cores.",
        "1GB",
    )
    threads: Annotated[int, Number] | None = _field(
        "a whole number from 1, or nothing",
        "DuckDB's threads. Left out: all cores. Fewer threads need less memory.",
        None,
        ge=1,
        le=1024,
    )

    keep_snapshots_days: Annotated[int, Number] = _field(
        "a whole number of days from 1",
        "How far back queries may ask for the warehouse as it was (AT TIMESTAMP). Each day keeps "
        "the files that its minutes replaced. History and as_of need none of them.",
        1,
        ge=1,
        le=3650,
    )

    @property
    def catalog_kind(self) -> Literal["sqlite", "postgres"]:
        """Which database holds the catalog."""
        return "postgres" if self.catalog.startswith("postgres:") else "sqlite"

    @property
    def catalog_target(self) -> str:
        """The catalog without its kind: an absolute path (SQLite) or a libpq string."""
        return self.catalog.partition(":")[2]

    @property
    def is_remote_data(self) -> bool:
        """True where the data files are on S3."""
        return self.data_path.startswith("s3://")

    @field_validator("catalog")
    @classmethod
    def _check_catalog(cls, value: str, info: ValidationInfo) -> str:
        kind, colon, target = value.partition(":")
        if kind == "sqlite" and colon and target.strip():
            return f"sqlite:{_absolute(target.strip(), info)}"
        if kind == "postgres" and colon and "://" not in target:
            if re.search(r"\bpassword\s*=", target, re.IGNORECASE):
                raise PydanticCustomError(
                    "catalog_password",
                    "a password stands in the catalog string; it belongs into the environment, "
                    "as PGPASSWORD, or into ~/.pgpass",
                )
            return f"postgres:{target.strip()}"
        raise PydanticCustomError("catalog", "not a catalog")

    @field_validator("data_path")
    @classmethod
    def _check_data_path(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith("s3://"):
            bucket, _, _prefix = value.removeprefix("s3://").partition("/")
            if BUCKET.fullmatch(bucket):
                return value.rstrip("/")
        elif value.strip() and "://" not in value:
            return _absolute(value, info)
        raise PydanticCustomError("data_path", "not a place for data files")

    @field_validator("memory_limit")
    @classmethod
    def _check_memory_limit(cls, value: str) -> str:
        found = MEMORY.fullmatch(value.strip())
        if found is None or _bytes(found["amount"], found["unit"]) < MEMORY_MIN_BYTES:
            raise PydanticCustomError("memory_limit", "not an amount of memory")
        return value.strip()


class DbtConfig(_Settings):
    """Where the dbt project is that `tailrace generate` writes models into."""

    project_dir: Path = _field(
        "a folder",
        "The dbt project; its generated models are committed with it.",
        Path("dbt_project"),
        validate_default=True,
    )

    @field_validator("project_dir")
    @classmethod
    def _check_project_dir(cls, value: Path, info: ValidationInfo) -> Path:
        return Path(_absolute(str(value), info))


class ScanBase(_Settings):
    """A base read by parallel Scan: works on every table, costs read capacity."""

    method: Literal["scan"] = _field("scan or export", "How the base is read.", "scan")
    segments: Annotated[int, Number] = _field(
        "a whole number from 1 to 1000",
        "Parallel segments, one thread each, each resumable by itself. 8 keep two cores busy; "
        "frozen when the epoch opens, because AWS's resume keys are valid for one count only.",
        8,
        ge=1,
        le=1000,
    )
    max_rcu: Annotated[float, Number] | None = _field(
        "a number above 0 (read capacity units a second), or nothing",
        "Most read capacity the scan may consume a second, over all segments, so that a "
        "bootstrap does not throttle the application. Left out: as fast as it goes.",
        None,
        gt=0,
        allow_inf_nan=False,
    )
    consistent: bool = _field(
        "true or false",
        "Strongly consistent reads cost twice the capacity. Not needed for correctness: the "
        "scan starts a margin after the stream's positions.",
        False,
    )


def _bare_bucket(value: str | None) -> str | None:
    if value is not None and not BUCKET.fullmatch(value):
        raise PydanticCustomError("bucket", "not a bucket's name")
    return value


def _plain_prefix(value: str) -> str:
    if value.startswith("/") or "://" in value:
        raise PydanticCustomError("prefix", "not a key prefix")
    return value.rstrip("/")


def _exact_prefix(value: str) -> str:
    if value.startswith("/") or "://" in value:
        raise PydanticCustomError("prefix", "not a key prefix")
    return value


class ExportBase(_Settings):
    """A base read from a point-in-time export to S3: no read capacity, needs PITR."""

    method: Literal["export"] = _field("scan or export", "How the base is read.", "export")
    bucket: str = _field(
        "a bucket's bare name: 3 to 63 lower-case letters, digits, dots and dashes",
        "The S3 bucket that DynamoDB exports into.",
    )
    prefix: str = _field(
        "a key prefix without a leading slash, or nothing",
        "Key prefix of the export; AWS appends AWSDynamoDB/<export id>/.",
        "",
    )
    export_arn: str | None = _field(
        "arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/export/ID of this table, or nothing",
        "An export that runs or has finished already, to adopt instead of starting one. It is "
        "used only if it is not older than the stream positions of the epoch.",
        None,
        pattern=f"^{EXPORT_ARN.pattern}$",
    )
    bucket_owner: str | None = _field(
        "a 12-digit account number in quotes, or nothing",
        "Account that owns the bucket, where it is not the table's.",
        None,
        pattern=f"^{ACCOUNT.pattern}$",
    )
    kms_key_id: str | None = _field(
        "the id, ARN or alias of a KMS key, or nothing",
        "KMS key that S3 encrypts the export with; left out, S3's own key (AES256).",
        None,
        min_length=1,
    )

    _bucket = field_validator("bucket")(_bare_bucket)
    _prefix = field_validator("prefix")(_plain_prefix)


SOURCES = "dynamodb_streams, kinesis or firehose"


class StreamConfig(_Settings):
    """How a table's changes are read, minute by minute, whatever the source."""

    pass_seconds: Annotated[float, Number] = _field(
        "a number of seconds from 1 to 3600",
        "Most time one pass reads before it commits and stops; what is left is the next pass's. "
        "40 leaves a third of each minute for commit and models.",
        40.0,
        ge=1,
        le=3600,
        allow_inf_nan=False,
    )
    pass_bytes: Annotated[ByteSize, Number] = _field(
        "an amount of bytes from 1MB: 256MiB, 1GB",
        "Most bytes one pass reads before it commits and stops, so that memory stays bounded "
        "after an outage. 256 MiB hold some 100,000 changes with both images of 1 KB.",
        ByteSize(256 * 2**20),
        ge=10**6,
    )
    freshness_seconds: Annotated[float, Number] = _field(
        "a number of seconds from 60 to 3600",
        "How old the proof of coverage may become where nothing changes: at least so often a pass "
        "reads every shard, the silent ones too. Longer is cheaper on streams of many shards.",
        300.0,
        ge=60,
        le=3600,
        allow_inf_nan=False,
    )


class DynamoDbStreamsConfig(StreamConfig):
    """Changes from the table's own stream: in order, kept for 24 hours."""

    source: Literal["dynamodb_streams"] = _field(
        SOURCES, "Where the changes come from.", "dynamodb_streams"
    )


class KinesisConfig(StreamConfig):
    """Changes from the Kinesis data stream that the table streams to."""

    source: Literal["kinesis"] = _field(SOURCES, "Where the changes come from.", "kinesis")
    stream_name: str | None = _field(
        "a Kinesis data stream's name: 1 to 128 letters, digits, dots, dashes and underscores",
        "The stream, where the table has several streaming destinations; left out, the one it has.",
        None,
        pattern=f"^{STREAM_NAME.pattern}$",
    )
    late_seconds: Annotated[float, Number] = _field(
        "a number of seconds from 0 to 3600",
        "How late a record may come: nothing promises an order. An epoch goes live so long after "
        "its base is complete, so that no late record takes a key back to an older state.",
        300.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
    )


class FirehoseConfig(StreamConfig):
    """Changes from the objects that a Firehose stream has delivered to S3."""

    source: Literal["firehose"] = _field(SOURCES, "Where the changes come from.", "firehose")
    bucket: str = _field(
        "a bucket's bare name: 3 to 63 lower-case letters, digits, dots and dashes",
        "The S3 bucket that Firehose delivers to.",
    )
    prefix: str = _field(
        "the S3 prefix of the delivery stream, without a leading slash, or nothing",
        "Exactly what the delivery stream has: with its last slash, and its !{timestamp:…} forms. "
        "Where it names no time, Firehose appends YYYY/MM/dd/HH/.",
        "",
    )
    delivery_seconds: Annotated[float, Number] = _field(
        "a number of seconds from 0 to 86400",
        "Within which time a change surely is in the bucket: what a pass proves lags so far "
        "behind, and an epoch goes live so long after its base. Firehose buffers for up to 15 "
        "minutes.",
        1200.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
    )
    late_hours: Annotated[float, Number] = _field(
        "a number of hours from 1 to 168",
        "How late an object may come under an old key: each list begins so long before the "
        "newest object. Firehose tries for as long as its Kinesis stream keeps records: usually "
        "24 hours.",
        24.0,
        ge=1,
        le=168,
        allow_inf_nan=False,
    )

    _bucket = field_validator("bucket")(_bare_bucket)
    _prefix = field_validator("prefix")(_exact_prefix)


class RepairConfig(_Settings):
    """What happens when changes were lost, e.g. after more than a day without a pass."""

    automatic: bool = _field(
        "true or false",
        "Whether Dagster repairs a gap by itself. If false: `tailrace repair TABLE`.",
        True,
    )
    bucket: str | None = _field(
        "a bucket's bare name: 3 to 63 lower-case letters, digits, dots and dashes",
        "Where incremental exports go, which close a gap without reading the whole table. Left "
        "out: base.bucket, if the base is an export; else a new base is read.",
        None,
    )
    prefix: str = _field(
        "a key prefix without a leading slash, or nothing", "Key prefix of these exports.", ""
    )

    _bucket = field_validator("bucket")(_bare_bucket)
    _prefix = field_validator("prefix")(_plain_prefix)


class Relationship(_Settings):
    """Where the values of an attribute are to be found."""

    to: str = _field(
        "a model's name", "The dbt model that holds them.", pattern="^[A-Za-z_][A-Za-z0-9_]*$"
    )
    field: str = _field("a column's name", "Its column.", min_length=1)


class LogConfig(_Settings):
    """How long the change log keeps rows that are not a key's newest."""

    keep: Literal["all", "needed"] | Annotated[int, Number, Field(ge=2, le=36500)] = _field(
        "all, needed, or a whole number of days from 2",
        "Rows of the change log to keep: all; those of so many days; or only those that merges and "
        "checks need, which is two days. A key's newest row always stays, and its states stay in "
        "the history.",
        "all",
    )

    @property
    def days(self) -> int | None:
        """For how many days every row is kept; None for ever."""
        if isinstance(self.keep, int):
            return self.keep
        return None if self.keep == "all" else NEEDED_DAYS


class AttributeConfig(_Settings):
    """What one attribute is to become: how it is typed, and whether it may be seen at all."""

    type: (
        Literal[
            "timestamp", "epoch_seconds", "epoch_milliseconds", "double", "json", "struct", "map"
        ]
        | None
    ) = _field(
        "timestamp, epoch_seconds, epoch_milliseconds, double, json, struct or map",
        "The type of its column, where the lossless one is not what analysts want.",
        None,
    )
    rows: str | None = _field(
        "a plain SQL name: at most 40 of a-z, 0-9 and _, starting with a letter",
        "For a list: a model of its own, <model>_<rows>, of one row an element.",
        None,
        pattern="^[a-z][a-z0-9_]{0,39}$",
    )
    privacy: Literal["exclude", "hash", "mask"] | None = _field(
        "exclude, hash or mask",
        "What is done to its values before anything is written.",
        None,
    )
    description: str | None = _field(
        "a text", "What it means, for dbt's documentation.", None, min_length=1
    )
    accepted_values: tuple[Any, ...] | None = _field(
        "a list of texts, numbers or true and false, at least one",
        "A data test: its values are among these.",
        None,
    )
    relationships: Relationship | None = _field(
        "a mapping with `to:` and `field:`",
        "A data test: its values are found in a column of another model.",
        None,
    )

    @field_validator("accepted_values")
    @classmethod
    def _check_values(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and not (values and all(isinstance(v, PLAIN) for v in values)):
            raise PydanticCustomError("accepted_values", "not a list of plain values")
        return values

    @model_validator(mode="after")
    def _check_privacy(self) -> AttributeConfig:
        needs_value = ["type", "rows", "accepted_values"]
        if self.privacy == "exclude":
            needs_value += ["description", "relationships"]
        other = next((each for each in needs_value if getattr(self, each)), None)
        if self.privacy and other:
            raise PydanticCustomError(
                "privacy_typed",
                "privacy: {privacy} leaves no value that `{other}:` could be for; take one of the "
                "two out",
                {"privacy": self.privacy, "other": other},
            )
        return self


class SplitConfig(_Settings):
    """One public model of a single-table design: which items are of its type."""

    key_prefix: dict[str, str] | None = _field(
        "a mapping of columns to the texts their values begin with: {pk: 'CUST#'}",
        "By the beginning of keys; of all of them, where several are named.",
        None,
    )
    attribute: dict[str, Any] | None = _field(
        "a mapping of columns to a value or a list of values: {type: order}",
        "By the values of attributes; of all of them, where several are named.",
        None,
    )
    where: str | None = _field(
        "a SQL condition over the columns of the table's public model",
        "By a condition of your own.",
        None,
    )
    description: str | None = _field(
        "a text", "What its items are, for dbt's documentation.", None, min_length=1
    )

    @model_validator(mode="after")
    def _check_one(self) -> SplitConfig:
        given = [name for name in ("key_prefix", "attribute", "where") if getattr(self, name)]
        if len(given) != 1:
            raise PydanticCustomError(
                "split", "exactly one of key_prefix, attribute and where is needed, and not empty"
            )
        if any(not prefix for prefix in (self.key_prefix or {}).values()):
            raise PydanticCustomError("split", "a key_prefix is empty: every key begins with that")
        for values in (self.attribute or {}).values():
            listed = values if isinstance(values, list) else [values]
            if not listed or not all(isinstance(value, PLAIN) for value in listed):
                raise PydanticCustomError(
                    "split", "attribute takes texts, numbers, true and false, or lists of them"
                )
        return self


Base = Annotated[ScanBase | ExportBase, Field(discriminator="method")]


def _source_of(value: Any) -> Any:
    """Which source a `stream:` names; DynamoDB's own where it names none."""
    if isinstance(value, dict):
        return value.get("source", "dynamodb_streams")
    return getattr(value, "source", None)


Stream = Annotated[
    Annotated[DynamoDbStreamsConfig, Tag("dynamodb_streams")]
    | Annotated[KinesisConfig, Tag("kinesis")]
    | Annotated[FirehoseConfig, Tag("firehose")],
    Discriminator(_source_of),
]
STREAMS: dict[str, type[StreamConfig]] = {
    "dynamodb_streams": DynamoDbStreamsConfig,
    "kinesis": KinesisConfig,
    "firehose": FirehoseConfig,
}


class Table(_Settings):
    """One DynamoDB table to replicate."""

    name: str = _field(
        "a DynamoDB table's name: 3 to 255 letters, digits, dots, dashes and underscores",
        "DynamoDB's name of the table.",
        pattern=f"^{TABLE_NAME.pattern}$",
    )
    model: str = _field(
        "a plain SQL name: at most 200 of a-z, 0-9 and _, not starting with a digit",
        "Its name in SQL: changes.<model>, analytics.<model>. Left out, it is made of `name`.",
        "",
    )
    base: Base = _field("a mapping with `method: scan` or `method: export`", "", ScanBase())
    stream: Stream = _field("a mapping with `source:`", "", DynamoDbStreamsConfig())
    repair: RepairConfig = _field("a mapping with `automatic:`", "", RepairConfig())
    log: LogConfig = _field("a mapping with `keep:`", "", LogConfig())
    attributes: dict[str, AttributeConfig] = _field(
        "a mapping of attributes' names, each with `type:`, `rows:` or `privacy:`", "", {}
    )
    schema_mode: Literal["evolve", "frozen"] = _field(
        "evolve or frozen",
        "Whether new attributes and types change the models' columns by themselves (evolve), or "
        "are kept in the log alone, and reported, until a person lets them in (frozen).",
        "evolve",
        alias="schema",  # a name that pydantic keeps for itself
    )

    split: dict[str, SplitConfig] = _field(
        "a mapping of models' names, each with `key_prefix:`, `attribute:` or `where:`",
        "One public model an item type, where a table holds several.",
        {},
    )

    @property
    def filled(self) -> tuple[str, ...]:
        """The names of its dbt models that are tables, in the order of their building."""
        return tuple(name.format(self.model) for name in FILLED)

    @property
    def over_states(self) -> tuple[str, ...]:
        """The names of its views over the states, which say nothing without them."""
        return tuple(name.format(self.model) for name in OVER_STATES)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all its dbt models, in the order of their building."""
        names = (name.format(self.model) for name in NODES)
        rows = (f"{self.model}_{rows}" for rows in self.rows.values())
        return (*names, *rows, *self.split)

    @property
    def relations(self) -> tuple[str, ...]:
        """Every name that it takes in the schema `analytics`: no two tables may claim one."""
        return (*self.own_relations, *self.split)

    @property
    def own_relations(self) -> tuple[str, ...]:
        """Those of them that are named after the table."""
        names = (name.format(self.model) for name in (*NODES, AS_OF))
        return (*names, *(f"{self.model}_{rows}" for rows in self.rows.values()))

    @property
    def private(self) -> dict[str, str]:
        """The attributes that must not be seen, each with exclude, hash or mask."""
        return {name: each.privacy for name, each in self.attributes.items() if each.privacy}

    @property
    def structs(self) -> tuple[str, ...]:
        """The attributes whose documents become STRUCTs and lists, and so need their structure."""
        return tuple(
            name for name, each in self.attributes.items() if each.type == "struct" or each.rows
        )

    @property
    def rows(self) -> dict[str, str]:
        """The lists that become rows of their own, each with the end of its model's name."""
        return {name: each.rows for name, each in self.attributes.items() if each.rows}

    @property
    def repair_base(self) -> ExportBase | None:
        """Where and how incremental exports are made; None where no bucket is named."""
        if self.repair.bucket:
            return ExportBase(bucket=self.repair.bucket, prefix=self.repair.prefix)
        return self.base if isinstance(self.base, ExportBase) else None

    @model_validator(mode="before")
    @classmethod
    def _derive_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str) and not data.get("model"):
            return {**data, "model": model_name(data["name"])}
        return data

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        if not MODEL_NAME.fullmatch(value) or len(value) > MODEL_NAME_MAX:
            raise PydanticCustomError("model", "not a plain SQL name")
        return value

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: dict[str, SplitConfig]) -> dict[str, SplitConfig]:
        for name in split:
            if not MODEL_NAME.fullmatch(name) or len(name) > MODEL_NAME_MAX:
                raise PydanticCustomError(
                    "split", f"{name!r} is no plain SQL name of a-z, 0-9 and _"
                )
        return split

    @model_validator(mode="after")
    def _check_private_split(self) -> Table:
        for name, each in self.split.items():
            for attribute in [*(each.key_prefix or {}), *(each.attribute or {})]:
                if attribute in self.private:
                    raise PydanticCustomError(
                        "privacy_split",
                        "split.{name} asks for values of {attribute}, which is private "
                        "({privacy}): nobody would have one",
                        {
                            "name": name,
                            "attribute": attribute,
                            "privacy": self.private[attribute],
                        },
                    )
        return self

    @model_validator(mode="after")
    def _check_rows(self) -> Table:
        for name, each in self.attributes.items():
            if each.rows and each.type not in (None, "struct"):
                raise PydanticCustomError(
                    "rows", f"attributes.{name} has rows: and the type {each.type}; it needs none"
                )
            if each.rows and self.relations.count(f"{self.model}_{each.rows}") > 1:
                raise PydanticCustomError(
                    "rows", f"attributes.{name}.rows: there is a {self.model}_{each.rows} already"
                )
        return self

    @model_validator(mode="after")
    def _check_export(self) -> Table:
        if isinstance(self.base, ExportBase) and self.base.export_arn:
            found = EXPORT_ARN.fullmatch(self.base.export_arn)
            if found is None or found["table"] != self.name:
                raise PydanticCustomError(
                    "export_table", "base.export_arn is an export of another table than `name`"
                )
        return self


class Config(_Settings):
    """The whole of tailrace.yaml: absolute paths, checked values, never a secret."""

    aws: AwsConfig = _field("a mapping", "", AwsConfig())
    warehouse: Warehouse = _field("a mapping", "", default=None, validate_default=True)
    dbt: DbtConfig = _field("a mapping", "", default=None, validate_default=True)
    tables: tuple[Table, ...] = _field("a list of tables, at least one", "", min_length=1)
    path: Path = Field(Path(DEFAULT_FILE), description="The file this was read from.")

    @field_validator("warehouse", "dbt", mode="before")
    @classmethod
    def _default_in_folder(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _warehouse_uses_the_same_aws(self) -> Config:
        self.warehouse._aws = self.aws
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Every table's SQL name, in the file's order."""
        return tuple(table.model for table in self.tables)

    def table(self, name: str) -> Table:
        """The table of that SQL name, or else of that DynamoDB name. Raises ConfigError."""
        for table in self.tables:
            if table.model == name:
                return table
        for table in self.tables:
            if table.name == name:
                return table
        known = [table.model for table in self.tables]
        raise ConfigError(
            f"{self.path} has no table {name!r}{_did_you_mean(name, known)}.",
            f"Name one of these: {', '.join(known)}; or add the table to the file.",
        )


def model_name(table_name: str) -> str:
    """The SQL name made of a DynamoDB name: lower-case, everything but letters and digits becomes
    `_`, and a leading digit gets `t_` before it. Not unique: `A-b` and `a.b` are one."""
    name = re.sub(r"[^a-z0-9]", "_", table_name.lower())
    return f"t_{name}" if name[:1].isdigit() else name


# ----------------------------------------------------------------------------------- reading it


def config_path(path: str | Path | None = None) -> Path:
    """Where the configuration is: `path`, else $TAILRACE_CONFIG, else ./tailrace.yaml."""
    return Path(path or os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load_config(path: str | Path | None = None) -> Config:
    """Read and check the configuration at `config_path(path)`.

    Relative paths in it are taken from the file's own folder. Raises ConfigError with every
    mistake that was found, one a line."""
    file = config_path(path)
    try:
        document = _parse(file, _read(file))
    except RecursionError:
        raise ConfigError(
            f"{file} is nested too deeply, or an alias in it holds itself.", "Flatten it."
        ) from None
    problems = [*document.problems]
    config: Config | None = None
    try:
        config = Config.model_validate(
            {**document.data, "path": file.absolute()}, context={"folder": file.absolute().parent}
        )
    except ValidationError as error:
        problems += [
            _explain(document, details)
            for details in error.errors(include_url=False)
            # pydantic counts refused tables as absent; their own errors are enough
            if not (details["type"] == "too_short" and details["input"])
        ]
    else:
        problems += _clashes(document, config.tables)
    if problems or config is None:
        raise _refusal(document, problems)
    return config


@dataclass(frozen=True)
class _Problem:
    """One mistake: where it is in the file, what it is, and what to do about it."""

    at: Where
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class _Document:
    """A parsed file: its values with variables expanded, the tree that knows the lines, and the
    paths of values that came out of variables, with these variables' names."""

    file: Path
    node: yaml.Node
    data: dict[str, Any]
    variables: Mapping[Where, tuple[str, ...]]
    problems: tuple[_Problem, ...]

    def line(self, at: Where) -> int:
        """The line, counted from 1, of the value at a path, or of what is nearest above it."""
        node, line = self.node, self.node.start_mark.line + 1
        for step in at:
            if isinstance(node, yaml.MappingNode):
                pairs = {key.value: (key, value) for key, value in node.value}
                if step not in pairs:
                    return line
                line, node = pairs[step][0].start_mark.line + 1, pairs[step][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                return line
        return line

    def show(self, at: Where, value: object) -> str:
        """A value in words that are safe to print: nothing that came out of a variable, nothing
        that may hold a password."""
        if at in self.variables:
            return f"the value of ${{{self.variables[at][0]}}} (not shown)"
        if at[-1:] == ("catalog",) and isinstance(value, str):
            kind, colon, target = value.partition(":")
            return f"'{kind}:…'" if colon and target else repr(_shorten(value))
        kinds: dict[type, str] = {dict: "a mapping", list: "a list"}
        if type(value) in kinds:
            return kinds[type(value)]
        if isinstance(value, bool):
            return f"{str(value).lower()} (yes or no)"
        if isinstance(value, (int, float)):
            return f"{value} (a number)"
        return repr(_shorten(value)) if isinstance(value, str) else str(value)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration at {file}.",
            "Write one with `tailrace init TABLE… --config FILE`, or name yours with --config "
            f"or {CONFIG_VARIABLE}.",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text: byte {error.start} cannot be read.",
            "Save the file as UTF-8.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}.", "Name a readable YAML file."
        ) from None


def _parse(file: Path, text: str) -> _Document:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        problems = list(_duplicate_keys(node, ())) if node else []
        raw = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        context = f" ({error.context})" if error.context else ""
        raise ConfigError(
            f"{file}, {where}: this is not YAML: {error.problem}{context}.",
            "Look at that line and the one above it: indentation, quotes, colons, tabs.",
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{file}: this is not YAML: {str(error).splitlines()[0]}.", "Correct the file."
        ) from None
    if node is None or not isinstance(raw, dict):
        found = "nothing" if raw is None else "no mapping"
        raise ConfigError(
            f"{file} holds {found}; a mapping with `tables:` is needed.",
            "Write a configuration with `tailrace init TABLE…`.",
        )
    variables: dict[Where, tuple[str, ...]] = {}
    data = _expand(raw, (), variables, problems)
    if "path" in data:
        problems.append(_unknown_key(("path",), Config))
    return _Document(file, node, data, variables, tuple(problems))


def _duplicate_keys(node: yaml.Node, at: Where) -> Iterator[_Problem]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                yield _Problem((*at, name), f"stands twice, in lines {seen[name]} and {line}.")
            seen[name] = line
            yield from _duplicate_keys(value, (*at, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicate_keys(item, (*at, index))


VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|\$\{")


def _expand(
    value: Any, at: Where, variables: dict[Where, tuple[str, ...]], problems: list[_Problem]
) -> Any:
    """Put variables into every text. A key without a value, or with one that a variable left
    empty, counts as not written, so that defaults apply."""
    if isinstance(value, dict):
        expanded = {
            str(key): _expand(item, (*at, str(key)), variables, problems)
            for key, item in value.items()
        }
        return {key: item for key, item in expanded.items() if item is not None}
    if isinstance(value, list):
        return [
            _expand(item, (*at, index), variables, problems) for index, item in enumerate(value)
        ]
    if not isinstance(value, str) or "${" not in value:
        return value
    return _substitute(value, at, variables, problems)


def _substitute(
    text: str, at: Where, variables: dict[Where, tuple[str, ...]], problems: list[_Problem]
) -> str | None:
    names: list[str] = []

    def replacement(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if found[0] == "$${":
            return "${"
        if name is None:
            problems.append(
                _Problem(
                    at,
                    "holds a `${` that does not begin ${VAR} or ${VAR:-default}.",
                    "Close it, or write $${ for the two characters themselves.",
                )
            )
            return ""
        names.append(name)
        value = os.environ.get(name)
        if value is None and default is None:
            problems.append(
                _Problem(
                    at,
                    f"needs the environment variable {name}, which is not set.",
                    f"Set {name}, or give a default: ${{{name}:-default}}.",
                )
            )
        return value or default or ""

    result = VARIABLE.sub(replacement, text)
    if names:
        variables[at] = tuple(names)
    return result if result or not names else None


# ----------------------------------------------------------------------------- explaining errors

TAGS = {"base": ("method", "scan or export"), "stream": ("source", SOURCES)}
SECRET_KEY = re.compile(r"access_?key|secret|token|password|credential", re.IGNORECASE)


def _explain(document: _Document, error: ErrorDetails) -> _Problem:
    at = _document_path(error["loc"])
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(at, _settings_at(at[:-1], document.data))
    if kind == "missing":
        return _Problem(at, f"is missing; allowed: {_allowed(at, document.data)}.")
    if kind == "union_tag_not_found" and at[-1:] == ("base",):
        return _Problem((*at, "method"), "is missing; allowed: scan or export.")
    if kind == "union_tag_invalid":
        tag, allowed = TAGS[str(at[-1])]
        found = document.show((*at, tag), value.get(tag))
        return _Problem((*at, tag), f"is {found}; allowed: {allowed}.")
    if kind in (
        "export_table",
        "split",
        "catalog_password",
        "privacy_typed",
        "privacy_split",
        "rows",
    ):
        return _Problem(at, f"is refused: {error['msg']}.")
    if at[-1:] == ("model",) and _value_at(document.data, at) is None:
        name = document.show((*at[:-1], "name"), _value_at(document.data, (*at[:-1], "name")))
        return _Problem(
            at[:-1],
            f"no SQL name can be made of the table's name, {name}.",
            f"Give it one: `model:`, {_allowed(at, document.data)}.",
        )
    if value is None or value in ((), []):
        return _Problem(at, f"is empty; allowed: {_allowed(at, document.data)}.")
    hint = _hint(at, value)
    allowed = _allowed(at, document.data)
    return _Problem(at, f"is {document.show(at, value)}; allowed: {allowed}.{hint}")


def _hint(at: Where, value: object) -> str:
    if at[-1:] in (("name",), ("model",), ("bucket_owner",)) and not isinstance(value, str):
        return " Put it in quotes."
    if at[-1:] == ("bucket",) and isinstance(value, str) and value.startswith("s3://"):
        return " Leave s3:// out; what follows the bucket goes to `prefix`."
    if at[-1:] == ("catalog",) and isinstance(value, str) and ":" not in value:
        return " Put sqlite: before the path."
    return ""


def _document_path(loc: tuple[int | str, ...]) -> Where:
    """pydantic's location without a union's tag, which is not in the file."""
    if len(loc) > 3 and loc[0] == "tables":
        tags = {"base": ("scan", "export"), "stream": tuple(STREAMS)}.get(str(loc[2]), ())
        if loc[3] in tags:
            return (*loc[:3], *loc[4:])
    return loc


def _settings_at(at: Where, data: Any) -> type[_Settings]:
    """Which settings stand at a path of the document."""
    match at:
        case ("aws", *_):
            return AwsConfig
        case ("warehouse", *_):
            return Warehouse
        case ("dbt", *_):
            return DbtConfig
        case ("tables", index, "base", *_):
            method = _value_at(data, ("tables", index, "base", "method"))
            return ExportBase if method == "export" else ScanBase
        case ("tables", index, "stream", *_):
            source = _value_at(data, ("tables", index, "stream", "source"))
            return STREAMS.get(str(source), DynamoDbStreamsConfig)
        case ("tables", _, "attributes", _, "relationships", *_):
            return Relationship
        case ("tables", _, "split", _, *_):
            return SplitConfig

        case ("tables", _, "log", *_):
            return LogConfig
        case ("tables", _, "attributes", _, *_):
            return AttributeConfig
        case ("tables", _, *_):
            return Table
        case _:
            return Config


def _allowed(at: Where, data: Any) -> str:
    if len(at) > 1 and isinstance(at[-1], int):
        return "a mapping with `name:`"
    field = _keys(_settings_at(at[:-1], data)).get(str(at[-1])) if at else None
    extra = field.json_schema_extra if field else None
    return str(extra.get("allowed", "")) if isinstance(extra, dict) else "a mapping"


def _keys(settings: type[_Settings]) -> dict[str, FieldInfo]:
    """The fields by the names they have in the file."""
    return {field.alias or name: field for name, field in settings.model_fields.items()}


def _unknown_key(at: Where, settings: type[_Settings]) -> _Problem:
    key = str(at[-1])
    if SECRET_KEY.search(key):
        return _Problem(
            at,
            "is refused: credentials have no place in this file.",
            "Leave them to boto3 (AWS_PROFILE, AWS_ACCESS_KEY_ID, roles) or PGPASSWORD.",
        )
    keys = [name for name in _keys(settings) if (settings, name) != (Config, "path")]
    guess = _did_you_mean(key, keys)
    return _Problem(at, f"is an unknown key{guess}; allowed here: {', '.join(keys)}.")


def _clashes(document: _Document, tables: tuple[Table, ...]) -> list[_Problem]:
    """Tables that stand twice, and models that would build the same relation."""
    problems: list[_Problem] = []
    for second, table in enumerate(tables):
        for first, other in enumerate(tables[:second]):
            at: Where = ("tables", second)
            shown = document.show((*at, "name"), table.name)
            where = f"tables[{first}]"
            if other.name == table.name:
                text = f"is the table {shown} again, which {where} has already."
                problems.append(_Problem(at, text, "Remove one of the two."))
            elif both := set(other.own_relations) & set(table.own_relations):
                model = _shown_model(document, second, table)
                before = _shown_model(document, first, other)
                what = "" if other.model == table.model else _what_clashes(document, at, both)
                text = f"({shown}) has the SQL name {model}, but {where} has {before}{what}."
                problems.append(_Problem(at, text, "Give one of them another `model:`."))
    return problems + _split_clashes(tables)


def _split_clashes(tables: tuple[Table, ...]) -> list[_Problem]:
    """Item types named like another relation."""
    problems: list[_Problem] = []
    builder = {name: n for n, table in enumerate(tables) for name in table.own_relations}
    for index, table in enumerate(tables):
        for name in table.split:
            if name in builder:
                text = f"would build analytics.{name}; tables[{builder[name]}] builds that already."
                problems.append(
                    _Problem(("tables", index, "split", name), text, "Give it another name.")
                )
            builder.setdefault(name, index)
    return problems


def _what_clashes(document: _Document, at: Where, both: set[str]) -> str:
    if any(at in document.variables for at in ((*at, "name"), (*at, "model"))):
        return " and both would build the same relation"
    return f" and both would build analytics.{min(both)}"


def _shown_model(document: _Document, index: int, table: Table) -> str:
    key = "model" if "model" in document.data["tables"][index] else "name"
    at: Where = ("tables", index, key)
    return document.show(at, table.model)


def _refusal(document: _Document, problems: list[_Problem]) -> ConfigError:
    lines = [
        f"{document.file}, line {document.line(problem.at)}: {_path_text(problem.at)} "
        f"{problem.text}"
        for problem in problems
    ]
    remedies = list(dict.fromkeys(problem.remedy for problem in problems if problem.remedy))
    return ConfigError("\n".join(lines), " ".join(remedies) or "Correct the file.")


def _path_text(at: Where) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at)
    return text.lstrip(".") or "the document"


def _did_you_mean(found: str, known: list[str]) -> str:
    near = difflib.get_close_matches(found.lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _value_at(data: Any, at: Where) -> Any:
    for step in at:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _absolute(path: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder") or Path.cwd()
    return os.path.normpath(Path(folder) / Path(path).expanduser())


def _bytes(amount: str, unit: str) -> float:
    base = 1024 if "i" in unit.lower() else 1000
    return float(amount) * base ** ("KMGT".index(unit[0].upper()) + 1)

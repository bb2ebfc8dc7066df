"""The tailrace.yaml that `tailrace init` writes: commented, valid, and fit for given tables.

Pure text from table descriptions; asking AWS for them is left to the caller.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from tailrace.config import model_name
from tailrace.errors import Terminal
from tailrace.model import TableDescription
from tailrace.sample import Suggestion
from tailrace.sources.tables import require_stream

RCU_BYTES = 4096  # an eventually consistent read of 4 KB costs half a unit

HEAD = """\
# Tailrace: which DynamoDB tables, into which warehouse. Keys that are commented out show their
# defaults. ${{VAR}} and ${{VAR:-default}} are expanded in every value. Relative paths are relative
# to this file. Credentials have no place here: boto3's variables, profiles and roles are used.

aws:
  region: {region}
{profile}
warehouse:
  # PostgreSQL serves several machines: postgres:dbname=lake host=… (the password in PGPASSWORD)
  catalog: sqlite:warehouse/catalog.sqlite
  # A folder, or s3://bucket/prefix. It cannot be changed later without moving the files.
  data_path: warehouse/data
  # memory_limit: 1GB     # DuckDB's, for each Tailrace process
  # threads: 4            # all cores

# dbt: {{project_dir: dbt_project}}

tables:
"""


@dataclass(frozen=True)
class Described:
    """A table as AWS describes it; `recoverable`: point-in-time recovery is on, None: unknown.
    `suggestions` come from a sample of its items; `unsampled` says why there is none."""

    table: TableDescription
    recoverable: bool | None
    suggestions: tuple[Suggestion, ...] = ()
    unsampled: str = ""


def starter(
    described: Sequence[Described],
    region: str,
    *,
    profile: str | None = None,
    export_bucket: str | None = None,
) -> str:
    """The text of a tailrace.yaml. A table gets an export base where PITR is on and
    `export_bucket` is given, else a scan, with the other way in a comment."""
    head = HEAD.format(
        region=scalar(region),
        profile=f"  profile: {scalar(profile)}\n" if profile else "  # profile: default\n",
    )
    return head + "\n".join(_table(each, export_bucket) for each in described)


def warnings(each: Described) -> list[str]:
    """What has to be done before this table can be replicated, if anything."""
    try:
        require_stream(each.table)
    except Terminal as error:
        return [f"{error.message} {error.remedy}"]
    return []


def scalar(text: str) -> str:
    """A text as YAML: bare where that reads back as the same text, else in quotes."""
    try:
        bare = yaml.safe_load(f"- {text}") == [text]
    except (yaml.YAMLError, ValueError):
        bare = False
    quoted = text.replace("'", "''")
    return text if bare else f"'{quoted}'"


def _table(each: Described, export_bucket: str | None) -> str:
    table = each.table
    scan = "{method: scan, segments: 8}"
    export = (
        f"{{method: export, bucket: {scalar(export_bucket or 'YOUR-BUCKET')}, prefix: tailrace}}"
    )
    exporting = bool(each.recoverable and export_bucket)
    lines = [f"  # {_summary(table)}", *(f"  # {text}" for text in warnings(each))]
    lines += [f"  - name: {scalar(table.name)}", f"    # model: {model_name(table.name)}"]
    if exporting:
        lines += [
            "    # Point-in-time recovery is on: an export reads no capacity. Instead of it:",
            f"    # base: {scan}",
            f"    base: {export}",
        ]
    else:
        lines += [f"    # {_scan_price(table)} Hold it with max_rcu: 500."]
        lines += _export_advice(each, export)
        lines += [f"    base: {scan}"]
    return "\n".join(
        [*lines, "    stream: {source: dynamodb_streams}", *_advised_types(each.suggestions), ""]
    )


def _advised_types(found: Sequence[Suggestion]) -> list[str]:
    """Commented settings: without the number signs they are as good as any."""
    if not found:
        return []
    settings = [f"{_any_name(each.attribute)}: {{type: {each.type}}}" for each in found]
    width = max(map(len, settings))
    return [
        "    # What a sample of its items suggests: remove the # where it is right.",
        "    # attributes:",
        *(
            f"    #   {setting:<{width}}  # {each.count} of {each.count} look like"
            f" {each.looks_like}"
            for setting, each in zip(settings, found, strict=True)
        ),
    ]


def _any_name(name: str) -> str:
    """An attribute's name as YAML of one line, whatever it holds."""
    return scalar(name) if name.isprintable() and ": " not in name else json.dumps(name)


def _summary(table: TableDescription) -> str:
    key = ", ".join(f"{attribute.name} ({attribute.type})" for attribute in table.key)
    stream = table.view_type if table.stream_arn else "none"
    size = f"{table.size_bytes / 10**6:,.1f} MB"
    text = f"{table.name}: key {key}; about {table.item_count:,} items, {size}; stream: {stream}."
    # an attribute's name may hold what ends a comment
    return "".join(each if each.isprintable() else "?" for each in text)


def _scan_price(table: TableDescription) -> str:
    if not table.size_bytes:
        return "AWS tells a table's size some hours late; a scan reads half a unit per 4 KB."
    units = math.ceil(table.size_bytes / RCU_BYTES / 2)
    return f"A scan reads about {units:,} read capacity units in all."


def _export_advice(each: Described, export: str) -> list[str]:
    if each.recoverable:
        return [
            "    # Point-in-time recovery is on: an export to S3 would read none. Instead of scan:",
            f"    # base: {export}",
        ]
    if each.recoverable is None:
        return ["    # Whether point-in-time recovery is on could not be seen."]
    return [
        "    # With point-in-time recovery on (it is off), an export to S3 would read none:",
        f"    # base: {export}",
    ]

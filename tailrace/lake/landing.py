"""From staged bytes to log rows, inside DuckDB: one SELECT per shape of what AWS sends.

Python never takes an item apart. What is staged is one JSON object a row, or a record's columns
(tailrace.changes); the SELECT finds key and attributes in it in one pass, by JSON pointers, so that
any attribute name works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from tailrace.lake.sql import literal, literals, pointer
from tailrace.lake.staged import STAGED
from tailrace.lake.version import (
    BASE_PHASE,
    PRIOR_PHASE,
    STREAM_PHASE,
    timed_version_sql,
    version_sql,
)
from tailrace.model import Era, KeyAttribute, Shape

QUOTE = '"'


def rows_sql(
    shape: Shape,
    key: Sequence[KeyAttribute],
    epoch: int,
    read_at: datetime | None,
    eras: Sequence[Era] = (),
    members: Sequence[tuple[str, str]] = (),
) -> str:
    """SELECT of (version, epoch, op, key, image, old_image, changed_at, ttl_expired, looked_up,
    members) over what is staged. `read_at` is when a full base was read; stream records of one
    of the `eras`, which come oldest first, belong to it and not to `epoch` (Head.eras).
    `members` names attributes and types: the list of that name begins with their values in the
    image, as JSON texts, NULL where the item has no such attribute of that type."""
    if shape in (Shape.KINESIS_RECORDS, Shape.STREAM_RECORDS):
        return _changes(shape, key, epoch, eras, members)
    if shape is Shape.INCREMENTAL_LINES:
        return _incremental_lines(key, epoch, members)
    paths = [pointer(*member) for member in members]
    paths += [pointer(attribute.name) for attribute in key]
    return f"""
        SELECT {version_sql(epoch, BASE_PHASE, None)} AS version, {epoch} AS epoch,
            'READ' AS op, {_key_sql(key, "v", len(members))} AS key, json AS image,
            NULL::JSON AS old_image, {_time(read_at)} AS changed_at,
            false AS ttl_expired, false AS looked_up, v AS members
        FROM (SELECT json, json_extract(json, {literals(paths)}) AS v FROM {STAGED})"""


def _incremental_lines(
    key: Sequence[KeyAttribute], epoch: int, members: Sequence[tuple[str, str]]
) -> str:
    """A line holds a changed key's state at the end of its window; without a new image the item
    was deleted in it. Its position is the time of its last write, in microseconds."""
    paths = [pointer("NewImage", *member) for member in members]
    paths += [pointer("Keys", attribute.name) for attribute in key]
    first = len(paths) + 1
    paths += [
        pointer("NewImage"),
        pointer("OldImage"),
        pointer("Metadata", "WriteTimestampMicros", "N"),
    ]
    new, old, written = (f"v[{number}]" for number in range(first, first + 3))
    micros = f"trim({written}, {literal(QUOTE)})"
    return f"""
        SELECT {version_sql(epoch, BASE_PHASE, micros)} AS version, {epoch} AS epoch,
            CASE WHEN {new} IS NULL THEN 'REMOVE' ELSE 'READ' END AS op,
            {_key_sql(key, "v", len(members))} AS key, {new} AS image, {old} AS old_image,
            make_timestamptz({micros}::BIGINT) AS changed_at, false AS ttl_expired,
            false AS looked_up, v AS members
        FROM (SELECT json_extract(json, {literals(paths)}) AS v FROM {STAGED})"""


def _changes(
    shape: Shape,
    key: Sequence[KeyAttribute],
    epoch: int,
    eras: Sequence[Era],
    members: Sequence[tuple[str, str]],
) -> str:
    """A record of a table's own stream has its place by its sequence number. The order of those
    that come by Kinesis is their time; those of one time are told apart by their position. A record
    without its place has no version: the commit refuses it."""

    def version(number: int, phase: str) -> str:
        if shape is Shape.KINESIS_RECORDS:
            return timed_version_sql(number, phase, "micros", "position")
        return version_sql(number, phase, "position")

    versions, numbers = _of_its_era(epoch, eras, version)
    values = f"json_extract(image, {literals(pointer(*each) for each in members)})"
    return f"""
        SELECT {versions} AS version, {numbers} AS epoch, op, {_key_sql(key, "k", 0)} AS key,
            image, old_image, make_timestamptz(micros) AS changed_at, expired AS ttl_expired,
            looked_up, v AS members
        FROM (
            SELECT *, {values if members else "NULL::JSON[]"} AS v,
                json_extract(keys, {literals(pointer(each.name) for each in key)}) AS k
            FROM {STAGED})"""


def span_sql(epoch: int, eras: Sequence[Era], first: int, last: int) -> str:
    """SELECT of the least and the greatest version of changes that come by Kinesis and were made
    between these times (in microseconds), up to what tells those of one time apart. A later change
    is never of an earlier era."""

    def version(number: int, phase: str) -> str:
        return timed_version_sql(number, phase, "micros", "''")

    versions, _ = _of_its_era(epoch, eras, version)
    return (
        f"SELECT min({versions}), max({versions}) FROM (VALUES ({first}), ({last})) AS t (micros)"
    )


def _of_its_era(
    epoch: int, eras: Sequence[Era], version: Callable[[int, str], str]
) -> tuple[str, str]:
    """The SQL of a record's version and epoch; `version` makes the expression of a version."""
    versions, numbers = version(epoch, STREAM_PHASE), str(epoch)
    for era in reversed(eras):
        condition = f"micros < {round(era.until.timestamp() * 1_000_000)}"
        then = version(era.epoch, PRIOR_PHASE if era.prior else STREAM_PHASE)
        versions = f"CASE WHEN {condition} THEN {then} ELSE {versions} END"
        numbers = f"CASE WHEN {condition} THEN {era.epoch - era.prior} ELSE {numbers} END"
    return versions, numbers


def _time(at: datetime | None) -> str:
    return f"{literal(at.isoformat() if at else None)}::TIMESTAMPTZ"


def _key_sql(key: Sequence[KeyAttribute], values: str, before: int) -> str:
    """The canonical key text, {"pk":{"S":"a"},"sk":{"N":"1"}}, from its values in the list
    `values`, in which `before` others come first.

    NULL where a key attribute is missing: the commit refuses such a row."""
    text = "'{'"
    for index, attribute in enumerate(key, start=1):
        comma = "," if index > 1 else ""
        name = json.dumps(attribute.name, ensure_ascii=False)
        text += f" || {literal(f'{comma}{name}:')} || {values}[{before + index}]"
    return f"{text} || '}}'"

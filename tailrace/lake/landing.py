"""From staged bytes to log rows, inside DuckDB: one SELECT per shape of what AWS sends.

What is staged is one JSON object a row, or a record's columns (tailrace.changes), with its key
where that was found already (tailrace.lake.walk). Else the SELECT finds it, by JSON pointers, so
that any attribute name works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from tailrace.lake.sql import literal, pointer
from tailrace.lake.staged import STAGED
from tailrace.lake.version import (
    BASE_PHASE,
    PRIOR_PHASE,
    STREAM_PHASE,
    timed_version_sql,
    version_sql,
)
from tailrace.model import Era, KeyAttribute, Shape


def rows_sql(
    shape: Shape,
    key: Sequence[KeyAttribute],
    epoch: int,
    read_at: datetime | None,
    eras: Sequence[Era] = (),
) -> str:
    """SELECT of (version, epoch, op, key, image, old_image, changed_at, ttl_expired, looked_up)
    over what is staged. `read_at` is when a full base was read; stream records of one of the
    `eras`, which come oldest first, belong to it and not to `epoch` (Head.eras)."""
    if shape is not Shape.ITEMS:
        return _changes(shape, key, epoch, eras)
    return f"""
        SELECT {version_sql(epoch, BASE_PHASE, None)} AS version, {epoch} AS epoch,
            'READ' AS op, coalesce(key, {_key_sql(key, "json")}) AS key, json AS image,
            NULL::JSON AS old_image, {_time(read_at)} AS changed_at,
            false AS ttl_expired, false AS looked_up
        FROM {STAGED}"""


def _changes(shape: Shape, key: Sequence[KeyAttribute], epoch: int, eras: Sequence[Era]) -> str:
    """A record of a table's own stream has its place by its sequence number. The order of those
    that come by Kinesis is their time; those of one time are told apart by their position. A line
    of an incremental export is of the base, and its position the time of its key's last write. A
    record without its place has no version: the commit refuses it."""

    def version(number: int, phase: str) -> str:
        if shape is Shape.KINESIS_RECORDS:
            return timed_version_sql(number, phase, "micros", "position")
        return version_sql(number, phase, "position")

    versions, numbers = _of_its_era(epoch, eras, version)
    if shape is Shape.INCREMENTAL_LINES:
        versions, numbers = version(epoch, BASE_PHASE), str(epoch)
    return f"""
        SELECT {versions} AS version, {numbers} AS epoch, op,
            coalesce(key, {_key_sql(key, "keys")}) AS key, image, old_image,
            make_timestamptz(micros) AS changed_at, expired AS ttl_expired, looked_up
        FROM {STAGED}"""


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


def _key_sql(key: Sequence[KeyAttribute], text: str) -> str:
    """The canonical key text, {"pk":{"S":"a"},"sk":{"N":"1"}}, from the JSON text that holds the
    key's attributes.

    NULL where one is missing: the commit refuses such a row."""
    parts = "'{'"
    for number, attribute in enumerate(key):
        name = ("," if number else "") + json.dumps(attribute.name, ensure_ascii=False)
        value = f"json_extract({text}, {literal(pointer(attribute.name))})"
        parts += f" || {literal(f'{name}:')} || {value}"
    return f"{parts} || '}}'"

"""From staged bytes to log rows, inside DuckDB: one SELECT per shape of what AWS sends.

Python never takes an item apart. What is staged is one JSON object a row; the SELECT finds
key, images and positions in it in one pass, by JSON pointers, so that any attribute name works.
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
from tailrace.model import LOOKED_UP, SEQUENCE, Era, KeyAttribute, Shape

TTL_PRINCIPAL = "dynamodb.amazonaws.com"
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
    if shape is Shape.KINESIS_RECORDS:
        return _kinesis_records(key, epoch, eras, members)
    if shape is Shape.STREAM_RECORDS:
        return _stream_records(key, epoch, eras, members)
    if shape is Shape.INCREMENTAL_LINES:
        return _incremental_lines(key, epoch, members)
    paths = [pointer(*member) for member in members]
    paths += [pointer(attribute.name) for attribute in key]
    return f"""
        SELECT {version_sql(epoch, BASE_PHASE, None)} AS version, {epoch} AS epoch,
            'READ' AS op, {_key_sql(key, len(members))} AS key, json AS image,
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
            {_key_sql(key, len(members))} AS key, {new} AS image, {old} AS old_image,
            make_timestamptz({micros}::BIGINT) AS changed_at, false AS ttl_expired,
            false AS looked_up, v AS members
        FROM (SELECT json_extract(json, {literals(paths)}) AS v FROM {STAGED})"""


def _stream_records(
    key: Sequence[KeyAttribute],
    epoch: int,
    eras: Sequence[Era],
    members: Sequence[tuple[str, str]],
) -> str:
    paths = [pointer("dynamodb", "NewImage", *member) for member in members]
    paths += [pointer("dynamodb", "Keys", attribute.name) for attribute in key]
    names = ["new", "old", "event", "sequence", "time", "principal", "Principal", "looked_up"]
    first = len(paths) + 1
    paths += [
        pointer("dynamodb", "NewImage"),
        pointer("dynamodb", "OldImage"),
        pointer("eventName"),
        pointer("dynamodb", "SequenceNumber"),
        pointer("dynamodb", "ApproximateCreationDateTime"),
        # AWS's API model says PrincipalId, the events that AWS shows say principalId.
        pointer("userIdentity", "principalId"),
        pointer("userIdentity", "PrincipalId"),
        pointer(LOOKED_UP),
    ]
    # One lookup for all of them: a second one would parse the record again. So texts come as
    # JSON, in quotes; those taken here hold nothing that JSON escapes.
    v = {name: f"v[{number}]" for number, name in enumerate(names, start=first)}
    removed = f"{v['event']} = {literal(json.dumps('REMOVE'))}"
    principal = f"coalesce({v['principal']}, {v['Principal']})"
    position = f"trim({v['sequence']}, {literal(QUOTE)})"
    version, number = _of_its_era(
        epoch,
        eras,
        lambda until: f"{v['time']}::DOUBLE < {until.timestamp()}",
        lambda number, phase: version_sql(number, phase, position),
    )
    return f"""
        SELECT {version} AS version, {number} AS epoch,
            trim({v["event"]}, {literal(QUOTE)}) AS op, {_key_sql(key, len(members))} AS key,
            CASE WHEN NOT ({removed}) THEN {v["new"]} END AS image, {v["old"]} AS old_image,
            to_timestamp({v["time"]}::DOUBLE) AS changed_at,
            {removed} AND {principal} IS NOT DISTINCT FROM
                {literal(json.dumps(TTL_PRINCIPAL))}::JSON AS ttl_expired,
            {v["looked_up"]} IS NOT NULL AS looked_up, v AS members
        FROM (SELECT json_extract(json, {literals(paths)}) AS v FROM {STAGED})"""


def _kinesis_records(
    key: Sequence[KeyAttribute],
    epoch: int,
    eras: Sequence[Era],
    members: Sequence[tuple[str, str]],
) -> str:
    """Their order is their time, in milliseconds or, where they say so, microseconds; records of
    one time are told apart by their sequence number, or their id where the source has none. A
    record without both has no version: the commit refuses it."""
    paths = [pointer("dynamodb", "NewImage", *member) for member in members]
    paths += [pointer("dynamodb", "Keys", attribute.name) for attribute in key]
    names = ["new", "old", "event", "sequence", "id", "time", "precision", "principal", "Principal"]
    first = len(paths) + 1
    paths += [
        pointer("dynamodb", "NewImage"),
        pointer("dynamodb", "OldImage"),
        pointer("eventName"),
        pointer(SEQUENCE),
        pointer("eventID"),
        pointer("dynamodb", "ApproximateCreationDateTime"),
        pointer("dynamodb", "ApproximateCreationDateTimePrecision"),
        pointer("userIdentity", "principalId"),
        pointer("userIdentity", "PrincipalId"),
    ]
    v = {name: f"v[{number}]" for number, name in enumerate(names, start=first)}
    removed = f"{v['event']} = {literal(json.dumps('REMOVE'))}"
    principal = f"coalesce({v['principal']}, {v['Principal']})"
    which = (
        f"coalesce(trim({v['sequence']}, {literal(QUOTE)}),"
        f" replace(trim({v['id']}, {literal(QUOTE)}), '-', ''))"
    )
    version, number = _of_its_era(
        epoch,
        eras,
        lambda until: f"micros < {round(until.timestamp() * 1_000_000)}",
        lambda number, phase: timed_version_sql(number, phase, "micros", which),
    )
    in_micros = f"{v['precision']} = {literal(json.dumps('MICROSECOND'))}"
    return f"""
        SELECT {version} AS version, {number} AS epoch,
            trim({v["event"]}, {literal(QUOTE)}) AS op, {_key_sql(key, len(members))} AS key,
            CASE WHEN NOT ({removed}) THEN {v["new"]} END AS image, {v["old"]} AS old_image,
            make_timestamptz(micros) AS changed_at,
            {removed} AND {principal} IS NOT DISTINCT FROM
                {literal(json.dumps(TTL_PRINCIPAL))}::JSON AS ttl_expired,
            false AS looked_up, v AS members
        FROM (
            SELECT v, {v["time"]}::DOUBLE::BIGINT
                * CASE WHEN {in_micros} THEN 1 ELSE 1000 END AS micros
            FROM (SELECT json_extract(json, {literals(paths)}) AS v FROM {STAGED}))"""


def _of_its_era(
    epoch: int,
    eras: Sequence[Era],
    before: Callable[[datetime], str],
    version: Callable[[int, str], str],
) -> tuple[str, str]:
    """The SQL of a record's version and epoch; `before` makes the condition that it was made
    before an instant, `version` the expression of a version."""
    versions, numbers = version(epoch, STREAM_PHASE), str(epoch)
    for era in reversed(eras):
        condition = before(era.until)
        then = version(era.epoch, PRIOR_PHASE if era.prior else STREAM_PHASE)
        versions = f"CASE WHEN {condition} THEN {then} ELSE {versions} END"
        numbers = f"CASE WHEN {condition} THEN {era.epoch - era.prior} ELSE {numbers} END"
    return versions, numbers


def _time(at: datetime | None) -> str:
    return f"{literal(at.isoformat() if at else None)}::TIMESTAMPTZ"


def _key_sql(key: Sequence[KeyAttribute], before: int) -> str:
    """The canonical key text, {"pk":{"S":"a"},"sk":{"N":"1"}}, from its values in the list v,
    in which `before` others come first.

    NULL where a key attribute is missing: the commit refuses such a row."""
    text = "'{'"
    for index, attribute in enumerate(key, start=1):
        comma = "," if index > 1 else ""
        name = json.dumps(attribute.name, ensure_ascii=False)
        text += f" || {literal(f'{comma}{name}:')} || v[{before + index}]"
    return f"{text} || '}}'"

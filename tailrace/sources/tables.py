"""What a table is, and whether it can be replicated: DescribeTable and its refusals."""

from __future__ import annotations

from datetime import datetime

from tailrace.errors import Terminal
from tailrace.model import KEYS_ONLY, KeyAttribute, TableDescription
from tailrace.sources.aws import Aws, call

USABLE_VIEWS = ("NEW_IMAGE", "NEW_AND_OLD_IMAGES", KEYS_ONLY)


def describe_table(aws: Aws, name: str) -> TableDescription:
    """The table's key, identity and stream. Raises SourceMissing, AccessDenied.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_DescribeTable.html"""
    table = call(
        aws.client("dynamodb").describe_table,
        "dynamodb:DescribeTable",
        f"table {name}",
        aws.region,
        TableName=name,
    )["Table"]
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    schema = sorted(table["KeySchema"], key=lambda each: str(each["KeyType"]))
    stream = table.get("StreamSpecification", {})
    return TableDescription(
        name=name,
        arn=table["TableArn"],
        table_id=table.get("TableId", ""),
        key=tuple(
            KeyAttribute(each["AttributeName"], types[each["AttributeName"]]) for each in schema
        ),
        stream_arn=table.get("LatestStreamArn") if stream.get("StreamEnabled") else None,
        view_type=stream.get("StreamViewType"),
        item_count=table.get("ItemCount", 0),
        size_bytes=table.get("TableSizeBytes", 0),
    )


def require_stream(table: TableDescription) -> str:
    """The ARN of a stream from which whole items can be had. Raises Terminal with the command
    that enables one."""
    enable = (
        f"aws dynamodb update-table --table-name {table.name} --stream-specification"
        " StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
    )
    if not table.stream_arn:
        raise Terminal(
            f"Table {table.name} has no stream: changes made while its base is read, and after,"
            " could not be seen.",
            f"Enable one: {enable}",
        )
    if table.view_type not in USABLE_VIEWS:
        raise Terminal(
            f"The stream of table {table.name} has the view type {table.view_type}: it tells what"
            " an item was before a change, and not what it became; expected one of"
            f" {', '.join(USABLE_VIEWS)}.",
            "A view type cannot be changed in place: disable the stream (StreamEnabled=false),"
            f" then enable it anew: {enable}",
        )
    return table.stream_arn


def point_in_time_recovery(aws: Aws, name: str) -> tuple[datetime, datetime] | None:
    """The earliest and latest time PITR can restore, or None where it is off.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_DescribeContinuousBackups.html
    """
    answer = call(
        aws.client("dynamodb").describe_continuous_backups,
        "dynamodb:DescribeContinuousBackups",
        f"table {name}",
        aws.region,
        TableName=name,
    )
    recovery = answer["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        return None
    return recovery["EarliestRestorableDateTime"], recovery["LatestRestorableDateTime"]

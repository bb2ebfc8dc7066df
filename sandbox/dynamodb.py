"""The operations of DynamoDB and DynamoDB Streams that a replication needs, over tables in memory.

moto's own DynamoDB is not used: its Scan took 2 ms an item, its streams have one shard that never
closes and accept any ARN, its PITR export writes one file as of "now" without manifests, binary
keys come out of its streams encoded twice, and UpdateItem on a new key writes two records. Its
parsers of update and condition expressions are used. Tables live by region, as AWS's do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec

from sandbox.clock import Clock
from sandbox.errors import AwsError, table_not_found, validation
from sandbox.exports import SECOND, Export, Exports, PutObject
from sandbox.firehose import DeliveryStream
from sandbox.kinesis import Kinesis, data_of, partition_key_of
from sandbox.streams import Change, Stream, parse_iterator
from sandbox.tables import ACCOUNT, Destination, Table
from sandbox.values import stored_item

Body = dict[str, Any]

_BATCH_GET_BYTES = 16 * 1024 * 1024


@dataclass
class Settings:
    """What a test or the demo may change while the server runs (`Dynamo.set`).

    shards: shards of a new stream. count_refresh_seconds: age of DescribeTable's ItemCount.
    empty_page_every: every n-th GetRecords answers an empty page that is not the end (0: never).
    denied: IAM actions that are refused, such as "dynamodb:Scan".
    moto_kinesis: tables stream to moto's Kinesis instead of the sandbox's own."""

    shards: int = 2
    count_refresh_seconds: float = 6 * 3600
    empty_page_every: int = 0
    denied: tuple[str, ...] = ()
    moto_kinesis: bool = False


@dataclass
class Fault:
    """`operation` answers `code` the next `times` times."""

    operation: str
    code: str
    message: str
    times: int


class Dynamo:
    """One account's DynamoDB. `answer` is thread-safe."""

    def __init__(self, clock: Clock, put_object: PutObject) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.settings = Settings()
        self.put_object = put_object
        self.exports = Exports(clock, self.lock, put_object)
        self.faults: list[Fault] = []
        self.kinesis = Kinesis(clock)
        self.deliver: Callable[[str, bytes, str], None] = self._put_to_kinesis
        self.deliver_to_moto: Callable[[str, bytes, str], None] = self._put_to_kinesis
        self._tables: dict[tuple[str, str], Table] = {}
        self._deleted_streams: list[Stream] = []
        self._deliveries: dict[tuple[str, str], DeliveryStream] = {}
        self._reads = 0

    def answer(self, operation: str, region: str, body: Body) -> bytes:
        """The JSON answer to a request. Raises AwsError."""
        handler: Callable[[str, Body], Body] | None = _OPERATIONS.get(operation, _unknown).__get__(
            self
        )
        assert handler is not None
        with self.lock:
            self._refuse("dynamodb", operation, body)
            answer = handler(region, body)
        return msgspec.json.encode(answer)

    def kinesis_answer(self, operation: str, region: str, body: Body) -> bytes:
        """The JSON answer to a request to Kinesis. Raises AwsError. Its faults are named with the
        service: "kinesis:GetRecords"."""
        with self.lock:
            self._refuse("kinesis", operation, body)
            answer = self.kinesis.answer(operation, region, body)
        return msgspec.json.encode(answer)

    # Control, for tests and the demo: not AWS's.

    def set(self, **settings: Any) -> None:
        """Changes settings, and those of `Exports`: export_seconds, export_files,
        restore_lag_seconds."""
        for name, value in settings.items():
            if name in ("export_seconds", "export_files", "restore_lag_seconds"):
                setattr(self.exports, name.removeprefix("export_"), value)
            elif hasattr(self.settings, name):
                setattr(self.settings, name, value)
            else:
                raise validation(f"the sandbox has no setting {name!r}")

    def fault(self, operation: str, code: str, message: str = "injected", times: int = 1) -> None:
        """Lets `operation` fail with `code`; "Export" lets the next export end FAILED."""
        if operation == "Export":
            self.exports.fail_next = (code, message)
        else:
            self.faults.append(Fault(operation, code, message, times))

    def advance(self, seconds: float) -> None:
        """Moves the server's clock forward: shards rotate, records and iterators expire."""
        with self.lock:
            self.clock.advance(seconds)

    def divide(self, table: str, children: int = 1, region: str = "us-east-1") -> None:
        """Closes every open shard of a table's stream and opens `children` in each one's place."""
        with self.lock:
            stream = self._table(region, table).stream
            if stream is None:
                raise validation(f"table {table} has no stream")
            for shard in stream.open_shards():
                stream.divide(shard, children, self.clock.tick())

    def expire_items(self, table: str, region: str = "us-east-1") -> int:
        """Deletes, as TTL does, the items whose time is over. Returns how many."""
        with self.lock:
            found = self._table(region, table)
            keys = found.expired_items(self.clock.now())
            for key in keys:
                found.delete(key, self.clock.tick(), by_ttl=True)
            return len(keys)

    def deliver_to_s3(
        self,
        stream: str,
        bucket: str,
        prefix: str = "",
        objects: int = 1,
        compression: str = "GZIP",
        newlines: bool = False,
        region: str = "us-east-1",
    ) -> list[str]:
        """Puts what came to a Kinesis stream since the last time into `objects` objects, as a
        Firehose behind it does. Returns their keys."""
        with self.lock:
            place = self._deliveries.setdefault((bucket, prefix), DeliveryStream("sandbox", prefix))
            place.compression, place.newlines = compression, newlines
            records = place.take(self.kinesis.streams[region, stream])
            keys = []
            for number in range(objects):
                keys.append(place.key(self.clock.tick()))
                self.put_object(bucket, keys[-1], place.packed(records[number::objects]))
            return keys

    # Tables

    def create_table(self, region: str, body: Body) -> Body:
        name = body["TableName"]
        if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", name):
            raise validation(
                "Invalid table/index name.  Table/index names must be between 3 and 255 characters "
                "long, and may contain only the characters a-z, A-Z, 0-9, '_', '-', and '.'"
            )
        if (region, name) in self._tables:
            raise AwsError("ResourceInUseException", f"Table already exists: {name}")
        table = Table(
            name=name,
            region=region,
            key_schema=body["KeySchema"],
            definitions=body["AttributeDefinitions"],
            created=self.clock.tick(),
            billing_mode=body.get("BillingMode", "PROVISIONED"),
            send=self._send,
        )
        self._stream_specification(table, body.get("StreamSpecification"))
        self._tables[region, name] = table
        return {"TableDescription": self._description(table)}

    def describe_table(self, region: str, body: Body) -> Body:
        return {"Table": self._description(self._table(region, body["TableName"]))}

    def update_table(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        self._stream_specification(table, body.get("StreamSpecification"))
        table.billing_mode = body.get("BillingMode", table.billing_mode)
        return {"TableDescription": self._description(table)}

    def delete_table(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        description = self._description(table)
        table.disable_stream(self.clock.tick())
        self._deleted_streams.extend(table.past_streams)
        del self._tables[region, table.name]
        return {"TableDescription": {**description, "TableStatus": "DELETING"}}

    def list_tables(self, region: str, body: Body) -> Body:
        after = body.get("ExclusiveStartTableName", "")
        names = sorted(name for place, name in self._tables if place == region and name > after)
        page = names[: body.get("Limit", 100)]
        more = {"LastEvaluatedTableName": page[-1]} if len(page) < len(names) else {}
        return {"TableNames": page, **more}

    def update_time_to_live(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        asked = body["TimeToLiveSpecification"]
        table.ttl_attribute = asked["AttributeName"] if asked["Enabled"] else None
        return {"TimeToLiveSpecification": asked}

    def describe_time_to_live(self, region: str, body: Body) -> Body:
        name = self._table(region, body["TableName"]).ttl_attribute
        status: Body = {"TimeToLiveStatus": "ENABLED" if name else "DISABLED"}
        return {"TimeToLiveDescription": status | ({"AttributeName": name} if name else {})}

    # Kinesis as a destination

    def enable_kinesis(self, region: str, body: Body) -> Body:
        table, arn = self._table(region, body["TableName"]), body["StreamArn"]
        known = table.destinations.get(arn)
        if known is not None and known.status == "ACTIVE":
            raise validation("Table is already in a valid state for the streaming destination")
        asked = body.get("EnableKinesisStreamingConfiguration") or {}
        micro = asked.get("ApproximateCreationDateTimePrecision") == "MICROSECOND"
        table.destinations[arn] = Destination("ACTIVE", micro)
        return {"TableName": table.name, "StreamArn": arn, "DestinationStatus": "ENABLING"}

    def update_kinesis(self, region: str, body: Body) -> Body:
        table, arn = self._table(region, body["TableName"]), body["StreamArn"]
        asked = body["UpdateKinesisStreamingConfiguration"]
        micro = asked["ApproximateCreationDateTimePrecision"] == "MICROSECOND"
        table.destinations[arn].microseconds = micro
        return {"TableName": table.name, "StreamArn": arn, "DestinationStatus": "UPDATING"}

    def disable_kinesis(self, region: str, body: Body) -> Body:
        table, arn = self._table(region, body["TableName"]), body["StreamArn"]
        if arn not in table.destinations:
            raise AwsError("ResourceNotFoundException", f"No streaming destination {arn}")
        table.destinations[arn].status = "DISABLED"
        return {"TableName": table.name, "StreamArn": arn, "DestinationStatus": "DISABLING"}

    def describe_kinesis(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        shown = [
            {
                "StreamArn": arn,
                "DestinationStatus": each.status,
                "ApproximateCreationDateTimePrecision": "MICROSECOND"
                if each.microseconds
                else "MILLISECOND",
            }
            for arn, each in table.destinations.items()
        ]
        return {"TableName": table.name, "KinesisDataStreamDestinations": shown}

    def _send(self, table: Table, change: Change) -> None:
        for arn, destination in table.destinations.items():
            if destination.status == "ACTIVE":
                data = data_of(
                    change, table.name, table.region, microseconds=destination.microseconds
                )
                deliver = self.deliver_to_moto if self.settings.moto_kinesis else self.deliver
                deliver(arn, data, partition_key_of(change))

    def _put_to_kinesis(self, arn: str, data: bytes, partition_key: str) -> None:
        stream = self.kinesis.by_arn(arn)
        if stream is not None:
            self.kinesis.put(stream, data, partition_key)

    # Items

    def put_item(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        position = table.position(body["Item"], key_only=False)
        old = table.get(position)
        self._check_condition(table, old, body)
        table.write(body["Item"], self.clock.tick())
        return self._written(table, body, old, None)

    def delete_item(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        old = table.get(table.position(body["Key"], key_only=True))
        self._check_condition(table, old, body)
        table.delete(body["Key"], self.clock.tick())
        return self._written(table, body, old, None)

    def update_item(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        old = table.get(table.position(body["Key"], key_only=True))
        self._check_condition(table, old, body)
        new = _updated(table, old or stored_item(body["Key"])[0], body)
        table.write(new, self.clock.tick())
        return self._written(table, body, old, new)

    def get_item(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        item = table.get(table.position(body["Key"], key_only=True))
        answer = {} if item is None else {"Item": _projected(item, body)}
        return answer | _capacity(body, table.name, 1.0 if body.get("ConsistentRead") else 0.5)

    def batch_write_item(self, region: str, body: Body) -> Body:
        requests = body["RequestItems"]
        if not 0 < sum(map(len, requests.values())) <= 25:
            raise validation("Too many or too few items requested for the BatchWriteItem call")
        for name, writes in requests.items():
            table = self._table(region, name)
            self._refuse_duplicates(table, writes)
            for write in writes:
                if "PutRequest" in write:
                    stored_item(write["PutRequest"]["Item"])
        for name, writes in requests.items():
            table = self._table(region, name)
            for write in writes:
                if "PutRequest" in write:
                    table.write(write["PutRequest"]["Item"], self.clock.tick())
                else:
                    table.delete(write["DeleteRequest"]["Key"], self.clock.tick())
        return {"UnprocessedItems": {}}

    def batch_get_item(self, region: str, body: Body) -> Body:
        responses: dict[str, list[Body]] = {}
        left: dict[str, Body] = {}
        capacity = []
        if sum(len(asked["Keys"]) for asked in body["RequestItems"].values()) > 100:
            raise validation("Too many items requested for the BatchGetItem call")
        answered = 0
        for name, asked in body["RequestItems"].items():
            table = self._table(region, name)
            positions = [table.position(key, key_only=True) for key in asked["Keys"]]
            if len(set(positions)) < len(positions):
                raise validation("Provided list of item keys contains duplicates")
            responses[name], units = [], 0.0
            for place, position in enumerate(positions):
                image = table.items.get(position)
                size = image.size if image else 0
                if answered + size > _BATCH_GET_BYTES:
                    left[name] = {**asked, "Keys": asked["Keys"][place:]}
                    break
                answered += size
                units += max(1, -(-size // 4096)) * (1.0 if asked.get("ConsistentRead") else 0.5)
                if image:
                    responses[name].append(_projected(msgspec.json.decode(image.raw), asked))
            capacity.append({"TableName": name, "CapacityUnits": units})
        answer: Body = {"Responses": responses, "UnprocessedKeys": left}
        if body.get("ReturnConsumedCapacity", "NONE") != "NONE":
            answer["ConsumedCapacity"] = capacity
        return answer

    def scan(self, region: str, body: Body) -> Body:
        table = self._table(region, body["TableName"])
        if ("Segment" in body) != ("TotalSegments" in body):
            raise validation("Segment and TotalSegments must be given together")
        segment, segments = body.get("Segment", 0), body.get("TotalSegments", 1)
        if not 0 <= segment < segments:
            raise validation(
                "The Segment parameter is zero-based and must be less than parameter TotalSegments"
            )
        page = table.page(segment, segments, body.get("ExclusiveStartKey"), body.get("Limit"))
        size = sum(image.size for image in page.items)
        units = max(1, -(-size // 4096)) * (1.0 if body.get("ConsistentRead") else 0.5)
        answer: Body = {"Count": len(page.items), "ScannedCount": len(page.items)}
        if body.get("FilterExpression") or body.get("ProjectionExpression"):
            items = [msgspec.json.decode(image.raw) for image in page.items]
            items = [_projected(i, body) for i in items if _matches(table, i, body, "Filter")]
            answer |= {"Count": len(items), "Items": items}
        else:
            answer["Items"] = [msgspec.Raw(image.raw) for image in page.items]
        if body.get("Select") == "COUNT":
            del answer["Items"]
        if page.last_key is not None:
            answer["LastEvaluatedKey"] = msgspec.Raw(page.last_key)
        return answer | _capacity(body, table.name, units)

    # Point-in-time recovery

    def update_continuous_backups(self, region: str, body: Body) -> Body:
        table = self._pitr_table(region, body["TableName"])
        asked = body["PointInTimeRecoverySpecification"]
        if not asked["PointInTimeRecoveryEnabled"]:
            table.pitr_since = None
        elif table.pitr_since is None:
            table.pitr_since = self.clock.tick()
        table.pitr_days = asked.get("RecoveryPeriodInDays", 35)
        return self.describe_continuous_backups(region, body)

    def describe_continuous_backups(self, region: str, body: Body) -> Body:
        table = self._pitr_table(region, body["TableName"])
        recovery: Body = {"PointInTimeRecoveryStatus": "DISABLED"}
        if table.pitr_since is not None:
            earliest, latest = self.exports.recovery(table)
            recovery = {
                "PointInTimeRecoveryStatus": "ENABLED",
                "RecoveryPeriodInDays": table.pitr_days,
                "EarliestRestorableDateTime": earliest / SECOND,
                "LatestRestorableDateTime": latest / SECOND,
            }
        return {
            "ContinuousBackupsDescription": {
                "ContinuousBackupsStatus": "ENABLED",
                "PointInTimeRecoveryDescription": recovery,
            }
        }

    def export_table_to_point_in_time(self, region: str, body: Body) -> Body:
        arn = body["TableArn"]
        for table in self._tables.values():
            if table.region == region and table.arn == arn:
                return {"ExportDescription": self.exports.start(table, body).describe()}
        raise AwsError("TableNotFoundException", f"Table not found: {arn}")

    def describe_export(self, region: str, body: Body) -> Body:
        return {"ExportDescription": self.exports.describe(body["ExportArn"]).describe()}

    def list_exports(self, region: str, body: Body) -> Body:
        def listed(export: Export) -> bool:
            return body.get("TableArn") in (None, export.table.arn)

        found = sorted(filter(listed, self.exports.by_arn.values()), key=lambda e: e.arn)
        start = int(body.get("NextToken", 0))
        end = start + body.get("MaxResults", 25)
        names = ("ExportArn", "ExportStatus", "ExportType")
        page = [{name: e.describe()[name] for name in names} for e in found[start:end]]
        return {"ExportSummaries": page} | ({"NextToken": str(end)} if end < len(found) else {})

    # Streams

    def list_streams(self, region: str, body: Body) -> Body:
        name = body.get("TableName")
        streams = [
            {"StreamArn": s.arn, "TableName": s.table_name, "StreamLabel": s.label}
            for s in self._streams(region)
            if name in (None, s.table_name)
        ]
        return {"Streams": streams}

    def describe_stream(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body["StreamArn"])
        children_of = (body.get("ShardFilter") or {}).get("ShardId")
        limit = body.get("Limit", 100)
        return {
            "StreamDescription": stream.describe(
                limit, body.get("ExclusiveStartShardId"), children_of
            )
        }

    def get_shard_iterator(self, region: str, body: Body) -> Body:
        stream = self._stream(region, body["StreamArn"])
        iterator = stream.iterator(
            body["ShardId"],
            body["ShardIteratorType"],
            body.get("SequenceNumber"),
            self.clock.now(),
        )
        return {"ShardIterator": iterator}

    def get_records(self, region: str, body: Body) -> Body:
        limit = body.get("Limit", 1000)
        if not 1 <= limit <= 1000:
            raise validation(
                f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy "
                "constraint: Member must have value less than or equal to 1000"
            )
        arn, shard, start = parse_iterator(body["ShardIterator"], self.clock.now())
        stream = self._stream(region, arn)
        self._reads += 1
        every = self.settings.empty_page_every
        answer = stream.read(shard, start, limit, self.clock.now())
        if every and self._reads % every == 0 and answer["Records"]:
            return {"Records": [], "NextShardIterator": body["ShardIterator"]}
        return answer

    # What the operations share

    def _refuse(self, service: str, operation: str, body: Body) -> None:
        action = f"{service}:{operation}"
        if action in self.settings.denied:
            resource = body.get("TableArn") or body.get("StreamArn") or body.get("TableName", "*")
            raise AwsError(
                "AccessDeniedException",
                f"User: arn:aws:iam::{ACCOUNT}:user/sandbox is not authorized to perform: "
                f"{action} on resource: {resource} because no identity-based policy allows the "
                f"{action} action",
            )
        for fault in self.faults:
            named = operation if service == "dynamodb" else action
            if fault.operation == named and fault.times > 0:
                fault.times -= 1
                status = 500 if fault.code.startswith("Internal") else 400
                raise AwsError(fault.code, fault.message, status)

    def _table(self, region: str, name: str) -> Table:
        if name.startswith("arn:"):
            name = name.rsplit("/", 1)[-1]
        if (region, name) not in self._tables:
            raise table_not_found(name)
        return self._tables[region, name]

    def _pitr_table(self, region: str, name: str) -> Table:
        if (region, name) not in self._tables:
            raise AwsError("TableNotFoundException", f"Table not found: {name}")
        return self._tables[region, name]

    def _streams(self, region: str) -> list[Stream]:
        now = self.clock.now()
        streams = [s for table in self._tables.values() for s in table.streams()]
        streams += self._deleted_streams
        return [s for s in streams if s.region == region and not s.expired(now)]

    def _stream(self, region: str, arn: str) -> Stream:
        for stream in self._streams(region):
            if stream.arn == arn:
                stream.settle(self.clock.now())
                return stream
        raise AwsError(
            "ResourceNotFoundException", f"Requested resource not found: Stream: {arn} not found"
        )

    def _stream_specification(self, table: Table, asked: Body | None) -> None:
        if asked is None:
            return
        if not asked["StreamEnabled"]:
            if table.stream is None:
                raise validation("Table does not have a stream to disable")
            table.disable_stream(self.clock.tick())
        elif table.stream is not None:
            raise validation(f"Table already has an enabled stream: TableName: {table.name}")
        else:
            table.enable_stream(asked["StreamViewType"], self.settings.shards, self.clock.tick())

    def _description(self, table: Table) -> Body:
        now = self.clock.now()
        if now - table.counted[0] > self.settings.count_refresh_seconds * SECOND:
            # AWS counts about every 6 hours, and a new table is counted as empty.
            fresh = table.counted[0] == 0 and self.settings.count_refresh_seconds > 60
            size = sum(image.size for image in table.items.values())
            table.counted = (now, 0, 0) if fresh else (now, len(table.items), size)
        description: Body = {
            "TableName": table.name,
            "TableArn": table.arn,
            "TableId": table.id,
            "TableStatus": "ACTIVE",
            "KeySchema": table.key_schema,
            "AttributeDefinitions": table.definitions,
            "CreationDateTime": table.created / SECOND,
            "ItemCount": table.counted[1],
            "TableSizeBytes": table.counted[2],
            "BillingModeSummary": {"BillingMode": table.billing_mode},
            "DeletionProtectionEnabled": False,
        }
        latest = table.streams()[-1:]
        for stream in latest:
            description |= {"LatestStreamArn": stream.arn, "LatestStreamLabel": stream.label}
        if table.stream is not None:
            description["StreamSpecification"] = {
                "StreamEnabled": True,
                "StreamViewType": table.stream.view_type,
            }
        return description

    def _check_condition(self, table: Table, item: Body | None, body: Body) -> None:
        if not _matches(table, item, body, "Condition"):
            raise AwsError("ConditionalCheckFailedException", "The conditional request failed")

    def _written(self, table: Table, body: Body, old: Body | None, new: Body | None) -> Body:
        wanted = body.get("ReturnValues", "NONE")
        shown = old if wanted.endswith("_OLD") else new if wanted.endswith("_NEW") else None
        return ({"Attributes": shown} if shown else {}) | _capacity(body, table.name, 1.0)

    def _refuse_duplicates(self, table: Table, writes: list[Body]) -> None:
        positions = [
            table.position(write["PutRequest"]["Item"], key_only=False)
            if "PutRequest" in write
            else table.position(write["DeleteRequest"]["Key"], key_only=True)
            for write in writes
        ]
        if len(set(positions)) != len(positions):
            raise validation("Provided list of item keys contains duplicates")


def _unknown(self: Dynamo, region: str, body: Body) -> Body:
    raise AwsError("UnknownOperationException", "the sandbox does not serve this operation")


_OPERATIONS: dict[str, Any] = {
    "BatchGetItem": Dynamo.batch_get_item,
    "BatchWriteItem": Dynamo.batch_write_item,
    "CreateTable": Dynamo.create_table,
    "DeleteItem": Dynamo.delete_item,
    "DeleteTable": Dynamo.delete_table,
    "DescribeContinuousBackups": Dynamo.describe_continuous_backups,
    "DescribeExport": Dynamo.describe_export,
    "DescribeKinesisStreamingDestination": Dynamo.describe_kinesis,
    "DescribeStream": Dynamo.describe_stream,
    "DescribeTable": Dynamo.describe_table,
    "DescribeTimeToLive": Dynamo.describe_time_to_live,
    "DisableKinesisStreamingDestination": Dynamo.disable_kinesis,
    "EnableKinesisStreamingDestination": Dynamo.enable_kinesis,
    "ExportTableToPointInTime": Dynamo.export_table_to_point_in_time,
    "GetItem": Dynamo.get_item,
    "GetRecords": Dynamo.get_records,
    "GetShardIterator": Dynamo.get_shard_iterator,
    "ListExports": Dynamo.list_exports,
    "ListStreams": Dynamo.list_streams,
    "ListTables": Dynamo.list_tables,
    "PutItem": Dynamo.put_item,
    "Scan": Dynamo.scan,
    "UpdateContinuousBackups": Dynamo.update_continuous_backups,
    "UpdateItem": Dynamo.update_item,
    "UpdateKinesisStreamingDestination": Dynamo.update_kinesis,
    "UpdateTable": Dynamo.update_table,
    "UpdateTimeToLive": Dynamo.update_time_to_live,
}


def _capacity(body: Body, name: str, units: float) -> Body:
    if body.get("ReturnConsumedCapacity", "NONE") == "NONE":
        return {}
    return {"ConsumedCapacity": {"TableName": name, "CapacityUnits": units}}


def _projected(item: Body, body: Body) -> Body:
    """The attributes that ProjectionExpression names (top-level ones only)."""
    expression = body.get("ProjectionExpression")
    if not expression:
        return item
    names = body.get("ExpressionAttributeNames", {})
    wanted = {names.get(name.strip(), name.strip()) for name in expression.split(",")}
    return {name: value for name, value in item.items() if name in wanted}


def _matches(table: Table, item: Body | None, body: Body, kind: str) -> bool:
    expression = body.get(f"{kind}Expression")
    if not expression:
        return True
    from moto.dynamodb.comparisons import get_filter_expression

    condition = get_filter_expression(
        expression,
        body.get("ExpressionAttributeNames", {}),
        body.get("ExpressionAttributeValues", {}),
    )
    return bool(condition.expr(_moto_item(table, item) if item is not None else None))


def _updated(table: Table, item: Body, body: Body) -> Body:
    """`item` after the request's UpdateExpression. Raises ValidationException."""
    if "AttributeUpdates" in body:
        raise validation("the sandbox serves UpdateExpression, not AttributeUpdates")
    if not body.get("UpdateExpression"):
        return item
    from moto.core.exceptions import ServiceException
    from moto.dynamodb.parsing.executors import UpdateExpressionExecutor
    from moto.dynamodb.parsing.expressions import UpdateExpressionParser  # type: ignore[attr-defined]
    from moto.dynamodb.parsing.validators import UpdateExpressionValidator

    names = body.get("ExpressionAttributeNames", {})
    target = _moto_item(table, item)
    key = [name for name, _ in table.key]
    shape: Any = SimpleNamespace(table_key_attrs=key, attribute_keys=key, attr=table.definitions)
    try:
        checked = UpdateExpressionValidator(
            UpdateExpressionParser.make(body["UpdateExpression"]),
            expression_attribute_names=names,
            expression_attribute_values=body.get("ExpressionAttributeValues", {}),
            item=target,
            table=shape,
        ).validate()
        checked.normalize()
        UpdateExpressionExecutor(checked, target, names).execute()
    except ServiceException as error:
        raise validation(str(error)) from None
    attributes: Body = target.to_json()["Attributes"]
    return attributes


def _moto_item(table: Table, item: Body) -> Any:
    from moto.dynamodb.models.dynamo_type import DynamoType, Item

    parts = [DynamoType(item[name]) for name, _ in table.key]
    return Item(parts[0], parts[1] if len(parts) > 1 else None, item)

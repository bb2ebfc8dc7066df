"""The sandbox tells the truth: what AWS does, it does, as far as the replication depends on it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError
from servers import Aws

from sandbox.workload import Writer, churn, create_shop, create_table, put_all, seed_shop
from tailrace.canonical import canonical_item

PITR_ON = {"PointInTimeRecoveryEnabled": True}


def scan(aws: Aws, table: str, **options: Any) -> list[dict[str, Any]]:
    pages = aws.dynamodb.get_paginator("scan").paginate(TableName=table, **options)
    return [item for page in pages for item in page["Items"]]


def shards(aws: Aws, table: str) -> tuple[str, list[dict[str, Any]]]:
    arn = aws.dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"]
    return arn, aws.streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]


def records(aws: Aws, arn: str, shard: str, **start: str) -> list[dict[str, Any]]:
    start = start or {"ShardIteratorType": "TRIM_HORIZON"}
    token = aws.streams.get_shard_iterator(StreamArn=arn, ShardId=shard, **start)["ShardIterator"]
    found: list[dict[str, Any]] = []
    while token:
        page = aws.streams.get_records(ShardIterator=token)
        if not page["Records"]:
            break
        found += page["Records"]
        token = page.get("NextShardIterator")
    return found


def all_records(aws: Aws, table: str) -> list[dict[str, Any]]:
    arn, found = shards(aws, table)
    return [record for shard in found for record in records(aws, arn, shard["ShardId"])]


def finished_export(aws: Aws, **request: Any) -> dict[str, Any]:
    export = aws.dynamodb.export_table_to_point_in_time(**request)["ExportDescription"]
    deadline = time.monotonic() + 20
    while export["ExportStatus"] == "IN_PROGRESS" and time.monotonic() < deadline:
        time.sleep(0.05)
        export = aws.dynamodb.describe_export(ExportArn=export["ExportArn"])["ExportDescription"]
    return dict(export)


def exported_lines(aws: Aws, export: dict[str, Any]) -> list[dict[str, Any]]:
    """Every data line, with each checksum and count of the manifests verified on the way."""
    bucket = export["S3Bucket"]

    def read(key: str) -> bytes:
        return bytes(aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def read_checked(key: str) -> bytes:
        content = read(key)
        checksum = read(key.replace(".json", ".checksum")).decode()
        assert checksum == base64.b64encode(hashlib.md5(content).digest()).decode()
        return content

    summary = json.loads(read_checked(export["ExportManifest"]))
    lines: list[bytes] = []
    files = read_checked(summary["manifestFilesS3Key"]).splitlines()
    for file in map(json.loads, files):
        content = read(file["dataFileS3Key"])
        assert file["md5Checksum"] == base64.b64encode(hashlib.md5(content).digest()).decode()
        found = gzip.decompress(content).splitlines()
        assert len(found) == file["itemCount"]
        lines += found
    assert summary["itemCount"] == export["ItemCount"] == len(lines)
    assert min(json.loads(file)["itemCount"] for file in files) == 0
    return [json.loads(line) for line in lines]


def wire(items: list[dict[str, Any]]) -> set[Any]:
    return {canonical_item(item) for item in items}


def error_code(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return str(caught.value.response["Error"]["Code"])


def test_a_table_has_an_identity_and_a_missing_one_is_an_error(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "S"})
    first = aws.dynamodb.describe_table(TableName=name)
    assert first["Table"]["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    assert first["Table"]["LatestStreamArn"].startswith(first["Table"]["TableArn"] + "/stream/")
    assert "date" in first["ResponseMetadata"]["HTTPHeaders"]
    aws.dynamodb.delete_table(TableName=name)
    assert error_code(aws.dynamodb.describe_table, TableName=name) == "ResourceNotFoundException"
    create_table(aws.dynamodb, name, {"id": "S"})
    again = aws.dynamodb.describe_table(TableName=name)
    assert again["Table"]["TableId"] != first["Table"]["TableId"]


@pytest.mark.parametrize("key", [{"id": "S"}, {"id": "N"}, {"id": "B", "n": "N"}])
def test_segments_are_disjoint_and_complete_for_every_key_type(
    aws: Aws, key: dict[str, str]
) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, key)
    churn(aws.dynamodb, name, writes=300, keys=200)
    whole = wire(scan(aws, name))
    parts = [scan(aws, name, Segment=n, TotalSegments=7, Limit=10) for n in range(7)]
    assert sum(map(len, parts)) == len(whole)
    assert wire([item for part in parts for item in part]) == whole


def test_a_scan_page_ends_at_one_megabyte_and_says_what_it_cost(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    put_all(
        aws.dynamodb, name, ({"id": {"N": str(n)}, "x": {"S": "x" * 20_000}} for n in range(80))
    )
    page = aws.dynamodb.scan(TableName=name, ReturnConsumedCapacity="TOTAL", ConsistentRead=True)
    assert page["Count"] == 49
    assert page["ConsumedCapacity"]["CapacityUnits"] == 240.0
    assert len(scan(aws, name)) == 80


def test_paging_under_concurrent_deletes_skips_and_repeats_nothing_that_stays(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    put_all(aws.dynamodb, name, ({"id": {"N": str(n)}} for n in range(200)))
    stopping = threading.Event()

    def write() -> None:
        for n in range(200):
            if n % 2 and not stopping.is_set():
                aws.dynamodb.delete_item(TableName=name, Key={"id": {"N": str(n)}})
                aws.dynamodb.put_item(TableName=name, Item={"id": {"N": str(1000 + n)}})

    writer = threading.Thread(target=write)
    writer.start()
    seen = [item["id"]["N"] for item in scan(aws, name, Limit=9)]
    stopping.set()
    writer.join()
    assert len(seen) == len(set(seen))
    assert {str(n) for n in range(0, 200, 2)} <= set(seen)


def test_a_start_key_of_another_segment_is_refused(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    put_all(aws.dynamodb, name, ({"id": {"N": str(n)}} for n in range(50)))
    page = aws.dynamodb.scan(TableName=name, Segment=0, TotalSegments=2, Limit=3)
    other = {"Segment": 1, "TotalSegments": 2, "ExclusiveStartKey": page["LastEvaluatedKey"]}
    assert error_code(aws.dynamodb.scan, TableName=name, **other) == "ValidationException"


def test_the_stream_replays_to_the_table_and_holds_no_write_that_changed_nothing(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "B", "n": "N"})
    done = churn(aws.dynamodb, name, writes=800, keys=100)
    item = scan(aws, name)[0]
    aws.dynamodb.put_item(TableName=name, Item=item)
    aws.dynamodb.delete_item(TableName=name, Key={"id": {"B": b"none"}, "n": {"N": "1"}})
    found = all_records(aws, name)
    assert len(found) == done.puts + done.deletes == 800
    state: dict[Any, Any] = {}
    for record in sorted(found, key=lambda r: int(r["dynamodb"]["SequenceNumber"])):
        body = record["dynamodb"]
        key = canonical_item(body["Keys"])
        old = state.pop(key, None)
        assert (old is None) == (record["eventName"] == "INSERT")
        assert body.get("OldImage") == old
        if record["eventName"] != "REMOVE":
            state[key] = body["NewImage"]
        assert 21 <= len(body["SequenceNumber"]) <= 40
        assert body["ApproximateCreationDateTime"].microsecond == 0
    assert wire(list(state.values())) == wire(scan(aws, name))


def test_sequence_numbers_compared_as_text_are_out_of_order(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    churn(aws.dynamodb, name, writes=1500, keys=50)
    numbers = [record["dynamodb"]["SequenceNumber"] for record in all_records(aws, name)]
    assert sorted(numbers) != sorted(numbers, key=int)


def test_an_update_of_a_new_key_is_one_insert_and_numbers_come_back_normal(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    aws.dynamodb.update_item(
        TableName=name,
        Key={"id": {"N": "1.0"}},
        UpdateExpression="SET #a = :a, #m = :m ADD #n :n",
        ExpressionAttributeNames={"#a": 'select "x"; --', "#m": "m", "#n": "n"},
        ExpressionAttributeValues={
            ":a": {"N": "1E3"},
            ":m": {"M": {"b": {"B": b"\xff"}, "s": {"BS": [b"\x00", b"\x01"]}}},
            ":n": {"N": "0.10"},
        },
    )
    (record,) = all_records(aws, name)
    assert record["eventName"] == "INSERT"
    assert record["dynamodb"]["NewImage"] == {
        "id": {"N": "1"},
        'select "x"; --': {"N": "1000"},
        "m": {"M": {"b": {"B": b"\xff"}, "s": {"BS": [b"\x00", b"\x01"]}}},
        "n": {"N": "0.1"},
    }


def test_a_shard_is_resumed_after_a_sequence_number(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    churn(aws.dynamodb, name, writes=300, keys=30)
    arn, found = shards(aws, name)
    for shard in found:
        whole = records(aws, arn, shard["ShardId"])
        number = whole[9]["dynamodb"]["SequenceNumber"]
        rest = records(
            aws,
            arn,
            shard["ShardId"],
            ShardIteratorType="AFTER_SEQUENCE_NUMBER",
            SequenceNumber=number,
        )
        assert rest == whole[10:]


def test_a_divided_shard_ends_and_its_children_go_on(aws: Aws) -> None:
    assert aws.server is not None
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    churn(aws.dynamodb, name, writes=100, keys=20)
    arn, parents = shards(aws, name)
    aws.server.control("divide", table=name, children=2)
    _, now = shards(aws, name)
    assert len(now) == len(parents) * 3
    for parent in parents:
        children = aws.streams.describe_stream(
            StreamArn=arn, ShardFilter={"Type": "CHILD_SHARDS", "ShardId": parent["ShardId"]}
        )["StreamDescription"]["Shards"]
        assert [child["ParentShardId"] for child in children] == [parent["ShardId"]] * 2
        token = aws.streams.get_shard_iterator(
            StreamArn=arn, ShardId=parent["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        assert "NextShardIterator" not in aws.streams.get_records(ShardIterator=token)
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "7"}, "late": {"BOOL": True}})
    late = [r for s in now if "ParentShardId" in s for r in records(aws, arn, s["ShardId"])]
    assert [record["dynamodb"]["Keys"]["id"]["N"] for record in late] == ["7"]


def test_streams_and_shards_that_do_not_exist_are_errors(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    arn, _ = shards(aws, name)
    call = aws.streams.describe_stream
    assert error_code(call, StreamArn=arn + "0") == "ResourceNotFoundException"
    assert (
        error_code(
            aws.streams.get_shard_iterator,
            StreamArn=arn,
            ShardId="shardId-00000000000000000000-00000000",
            ShardIteratorType="TRIM_HORIZON",
        )
        == "ResourceNotFoundException"
    )


def test_time_expires_iterators_trims_records_and_rotates_idle_shards(own_aws: Aws) -> None:
    aws, name = own_aws, "events"
    assert aws.server is not None
    create_table(aws.dynamodb, name, {"id": "N"})
    churn(aws.dynamodb, name, writes=100, keys=20)
    arn, first = shards(aws, name)
    shard = first[0]["ShardId"]
    number = records(aws, arn, shard)[0]["dynamodb"]["SequenceNumber"]
    token = aws.streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    aws.server.control("advance", seconds=16 * 60)
    assert error_code(aws.streams.get_records, ShardIterator=token) == "ExpiredIteratorException"
    aws.server.control("advance", seconds=24 * 3600)
    assert (
        error_code(
            aws.streams.get_shard_iterator,
            StreamArn=arn,
            ShardId=shard,
            ShardIteratorType="AFTER_SEQUENCE_NUMBER",
            SequenceNumber=number,
        )
        == "TrimmedDataAccessException"
    )
    assert records(aws, arn, shard) == []
    _, rotated = shards(aws, name)
    assert len(rotated) == 2 * 7
    aws.server.control("advance", seconds=30 * 3600)
    _, later = shards(aws, name)
    assert not {s["ShardId"] for s in first} & {s["ShardId"] for s in later}
    assert [s for s in later if "EndingSequenceNumber" not in s["SequenceNumberRange"]]


def test_a_disabled_stream_can_still_be_read_beside_the_new_one(aws: Aws) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    churn(aws.dynamodb, name, writes=50, keys=10)
    arn, old = shards(aws, name)
    aws.dynamodb.update_table(TableName=name, StreamSpecification={"StreamEnabled": False})
    time.sleep(0.002)
    on = {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}
    aws.dynamodb.update_table(TableName=name, StreamSpecification=on)
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "99"}})
    assert sum(len(records(aws, arn, shard["ShardId"])) for shard in old) == 50
    status = aws.streams.describe_stream(StreamArn=arn)["StreamDescription"]["StreamStatus"]
    assert status == "DISABLED"
    assert shards(aws, name)[0] != arn
    (record,) = all_records(aws, name)
    assert "NewImage" not in record["dynamodb"]


def test_ttl_deletes_are_told_apart(aws: Aws) -> None:
    assert aws.server is not None
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    aws.dynamodb.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "until"}
    )
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "1"}, "until": {"N": "1000"}})
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "2"}})
    assert aws.server.control("expire_items", table=name) == 1
    assert [item["id"]["N"] for item in scan(aws, name)] == ["2"]
    assert sum("userIdentity" in record for record in all_records(aws, name)) == 1


def test_an_export_is_the_table_as_of_its_time_exactly(aws: Aws) -> None:
    name, bucket = aws.name("t"), aws.bucket()
    create_table(aws.dynamodb, name, {"id": "B", "n": "N"}, pitr=True)
    churn(aws.dynamodb, name, writes=500, keys=100)
    before = scan(aws, name)
    export = aws.dynamodb.export_table_to_point_in_time(
        TableArn=aws.arn(name), S3Bucket=bucket, S3Prefix="a/b"
    )["ExportDescription"]
    assert export["ExportStatus"] == "IN_PROGRESS"
    churn(aws.dynamodb, name, writes=100, keys=100, seed=2)
    while export["ExportStatus"] == "IN_PROGRESS":
        time.sleep(0.05)
        export = aws.dynamodb.describe_export(ExportArn=export["ExportArn"])["ExportDescription"]
    assert export["ExportManifest"].startswith("a/b/AWSDynamoDB/")
    assert wire([line["Item"] for line in exported_lines(aws, export)]) == wire(before)


def test_an_export_at_a_past_second_is_the_table_of_then(aws: Aws) -> None:
    name, bucket = aws.name("t"), aws.bucket()
    create_table(aws.dynamodb, name, {"id": "N"}, pitr=True)
    time.sleep(1)
    churn(aws.dynamodb, name, writes=100, keys=20)
    before = scan(aws, name)
    moment = int(time.time()) + 1
    time.sleep(max(0.0, moment + 0.01 - time.time()))
    churn(aws.dynamodb, name, writes=100, keys=20, seed=2)
    export = finished_export(aws, TableArn=aws.arn(name), S3Bucket=bucket, ExportTime=moment)
    assert wire([line["Item"] for line in exported_lines(aws, export)]) == wire(before)


def test_an_incremental_export_holds_one_line_a_changed_key(own_aws: Aws) -> None:
    aws, name = own_aws, "events"
    assert aws.server is not None
    bucket = aws.bucket()
    create_table(aws.dynamodb, name, {"id": "N"}, pitr=True)
    put_all(aws.dynamodb, name, ({"id": {"N": str(n)}, "v": {"N": "0"}} for n in range(5)))
    aws.server.control("advance", seconds=3600)
    described = aws.dynamodb.describe_continuous_backups(TableName=name)
    date = described["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    start = int(date["LatestRestorableDateTime"].timestamp())
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "1"}, "v": {"N": "1"}})
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "1"}, "v": {"N": "2"}})
    aws.dynamodb.delete_item(TableName=name, Key={"id": {"N": "2"}})
    aws.dynamodb.put_item(TableName=name, Item={"id": {"N": "7"}})
    aws.server.control("advance", seconds=3600)
    window = {"ExportFromTime": start, "ExportToTime": start + 3600}
    request = {
        "TableArn": aws.arn(name),
        "S3Bucket": bucket,
        "ExportType": "INCREMENTAL_EXPORT",
        "IncrementalExportSpecification": window,
    }
    lines = exported_lines(aws, finished_export(aws, **request))
    found = {line["Keys"]["id"]["N"]: line for line in lines}
    assert sorted(found) == ["1", "2", "7"]
    assert found["1"]["NewImage"]["v"] == {"N": "2"}
    assert found["1"]["OldImage"]["v"] == {"N": "0"}
    assert "NewImage" not in found["2"]
    assert "OldImage" not in found["7"]
    micros = found["7"]["Metadata"]["WriteTimestampMicros"]["N"]
    assert start <= int(micros) / 1_000_000 < start + 3600
    window["ExportToTime"] = start + 60
    call = aws.dynamodb.export_table_to_point_in_time
    assert error_code(call, **request) == "InvalidExportTimeException"


def test_exports_are_refused_or_fail_as_on_aws(aws: Aws) -> None:
    name, bucket = aws.name("t"), aws.bucket()
    create_table(aws.dynamodb, name, {"id": "N"})
    request = {"TableArn": aws.arn(name), "S3Bucket": bucket}
    call = aws.dynamodb.export_table_to_point_in_time
    assert error_code(call, **request) == "PointInTimeRecoveryUnavailableException"
    aws.dynamodb.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=PITR_ON)
    other = {**request, "TableArn": request["TableArn"] + "x"}
    assert error_code(call, **other) == "TableNotFoundException"
    for moment in (time.time() - 3600, time.time() + 3600):
        code = error_code(call, **request, ExportTime=moment)
        assert code == "InvalidExportTimeException"
    failed = finished_export(aws, **{**request, "S3Bucket": "no-such-bucket"})
    assert (failed["ExportStatus"], failed["FailureCode"]) == ("FAILED", "S3NoSuchBucket")


def test_a_client_token_makes_an_export_idempotent(aws: Aws) -> None:
    name, bucket = aws.name("t"), aws.bucket()
    create_table(aws.dynamodb, name, {"id": "N"}, pitr=True)
    request = {"TableArn": aws.arn(name), "S3Bucket": bucket, "ClientToken": aws.name("token")}
    first = finished_export(aws, **request)
    second = finished_export(aws, **request)
    assert first["ExportArn"] == second["ExportArn"]
    call = aws.dynamodb.export_table_to_point_in_time
    assert error_code(call, **request, S3Prefix="p") == "ExportConflictException"
    listed = aws.dynamodb.list_exports(TableArn=request["TableArn"])["ExportSummaries"]
    assert [export["ExportStatus"] for export in listed] == ["COMPLETED"]


def test_refusals_and_faults_can_be_ordered(aws: Aws) -> None:
    assert aws.server is not None
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    aws.server.control("set", denied=["dynamodb:Scan"])
    assert error_code(aws.dynamodb.scan, TableName=name) == "AccessDeniedException"
    aws.server.control("set", denied=[])
    code = "ItemCollectionSizeLimitExceededException"
    aws.server.control("fault", operation="Scan", code=code)
    assert error_code(aws.dynamodb.scan, TableName=name) == code
    assert scan(aws, name) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"id": {"S": "1"}}, "Type mismatch"),
        ({"x": {"S": "1"}}, "Missing the key id"),
        ({"id": {"N": "1"}, "x": {"S": "x" * 410_000}}, "maximum allowed size"),
        ({"id": {"N": "1" * 39}}, "38 significant digits"),
        ({"id": {"N": "1"}, "x": {"SS": ["a", "a"]}}, "duplicates"),
    ],
)
def test_items_that_dynamodb_refuses_are_refused(
    aws: Aws, item: dict[str, Any], reason: str
) -> None:
    name = aws.name("t")
    create_table(aws.dynamodb, name, {"id": "N"})
    with pytest.raises(ClientError, match=reason):
        aws.dynamodb.put_item(TableName=name, Item=item)


def test_the_writer_keeps_changing_the_shop(aws: Aws) -> None:
    orders, customers = aws.name("orders"), aws.name("customers")
    create_shop(aws.dynamodb, orders, customers)
    sizes = {"order_count": 300, "customer_count": 30}
    seed_shop(aws.dynamodb, orders, customers, **sizes)
    assert len(scan(aws, orders)) == 300
    writer = Writer(aws.dynamodb, rate=500, orders=orders, customers=customers, **sizes)
    with writer:
        time.sleep(1)
    assert set(writer.counts) == {"puts", "updates", "deletes"}
    names = {record["eventName"] for record in all_records(aws, orders)}
    assert names == {"INSERT", "MODIFY", "REMOVE"}


def test_numbers_and_streams_are_those_of_dynamodb_local(aws: Aws, dynamodb_local: Aws) -> None:
    """The same writes on both; AWS's own code says whether the sandbox tells the truth."""
    name = aws.name("t")
    numbers = ["1.50", "1E100", "1E-100", "-0", "0012", ".5", "-1.10E2", "1" + "0" * 38]
    answers = []
    for endpoint in (aws, dynamodb_local):
        create_table(endpoint.dynamodb, name, {"id": "S", "n": "N"})
        for number in numbers:
            item = {"id": {"S": "a"}, "n": {"N": number}, "x": {"NS": [number]}}
            endpoint.dynamodb.put_item(TableName=name, Item=item)
            endpoint.dynamodb.put_item(TableName=name, Item=item)
        churn(endpoint.dynamodb, name, writes=100, keys=20, threads=1)
        found = all_records(endpoint, name)
        by_key: dict[Any, list[Any]] = {}
        for record in sorted(found, key=lambda r: int(r["dynamodb"]["SequenceNumber"])):
            body = record["dynamodb"]
            images = [canonical_item(body.get(image, {})) for image in ("OldImage", "NewImage")]
            by_key.setdefault(str(body["Keys"]), []).append((record["eventName"], *images))
        answers.append((wire(scan(endpoint, name)), by_key))
    assert answers[0] == answers[1]

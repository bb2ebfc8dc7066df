"""Bad input: each refusal names the thing and the remedy, and leaves no half state behind."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.workload import churn, create_table
from tailrace.config import Config
from tailrace.engine import Engine
from tailrace.errors import AccessDenied, CorruptExport, SourceMissing, TailraceError, Terminal
from tests.integration.replica import (
    assert_equal,
    drain_until_caught_up,
    without_margin,
    write_config,
)

KEY = {"pk": "S"}


def configured(folder: Path, name: str, base: str = "{method: scan, segments: 1}") -> Config:
    return write_config(folder, f"  - {{name: {name}, model: events, base: {base}}}\n")


def refusal(config: Config, kind: type[TailraceError] = TailraceError) -> TailraceError:
    """What reading the base is refused with; no epoch may be left complete by it."""
    with Engine.open(config) as engine:
        with pytest.raises(kind) as refused:
            engine.base("events")
        assert engine.states(["events"])["events"] in ("none", "open")
    assert refused.value.remedy
    return refused.value


def test_a_missing_table_is_named_with_its_region(aws: Any, tmp_path: Path) -> None:
    error = refusal(configured(tmp_path, "no-such-table"), SourceMissing)
    assert "table no-such-table" in error.message
    assert "us-east-1" in str(error)


@pytest.mark.parametrize(
    ("view", "said"),
    [(None, "has no stream"), ("OLD_IMAGE", "OLD_IMAGE")],
)
def test_a_stream_that_cannot_serve_is_refused_with_the_command_that_mends_it(
    aws: Any, tmp_path: Path, view: str | None, said: str
) -> None:
    name = aws.name("events")
    create_table(aws.dynamodb, name, KEY, view_type=view)
    error = refusal(configured(tmp_path, name), Terminal)
    assert said in error.message
    assert f"aws dynamodb update-table --table-name {name}" in error.remedy


def test_an_export_without_point_in_time_recovery_is_refused(aws: Any, tmp_path: Path) -> None:
    name = aws.name("events")
    create_table(aws.dynamodb, name, KEY)
    error = refusal(configured(tmp_path, name, "{method: export, bucket: some-bucket}"), Terminal)
    assert "Point-in-time recovery" in error.message
    assert "update-continuous-backups" in error.remedy


def test_an_export_to_a_bucket_that_does_not_exist_says_so(aws: Any, tmp_path: Path) -> None:
    name = aws.name("events")
    create_table(aws.dynamodb, name, KEY, pitr=True)
    bucket = aws.name("nowhere")
    error = refusal(configured(tmp_path, name, f"{{method: export, bucket: {bucket}}}"))
    assert bucket in str(error)
    assert "bucket" in error.remedy


ACTIONS = [
    "dynamodb:DescribeTable",
    "dynamodb:Scan",
    "dynamodb:DescribeStream",
    "dynamodb:GetShardIterator",
    "dynamodb:GetRecords",
]
EXPORT_ACTIONS = [
    "dynamodb:DescribeContinuousBackups",
    "dynamodb:ExportTableToPointInTime",
    "dynamodb:DescribeExport",
]


@pytest.mark.parametrize("action", ACTIONS + EXPORT_ACTIONS)
def test_a_missing_permission_is_named(
    own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    without_margin(monkeypatch)
    name = own_aws.name("events")
    create_table(own_aws.dynamodb, name, KEY, pitr=True)
    base = f"{{method: export, bucket: {own_aws.bucket()}}}" if action in EXPORT_ACTIONS else "{}"
    config = configured(tmp_path, name, base.replace("{}", "{method: scan, segments: 1}"))
    own_aws.server.control("set", denied=[action])

    def run(engine: Engine) -> None:
        engine.base("events")
        engine.drain_table("events")

    with Engine.open(config) as engine, pytest.raises(AccessDenied) as refused:
        run(engine)
    assert f"No permission for {action}." in refused.value.message
    assert action in refused.value.remedy


@pytest.mark.parametrize(
    "code", ["UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"]
)
def test_wrong_or_expired_credentials_are_called_that(
    own_aws: Any, tmp_path: Path, code: str
) -> None:
    own_aws.server.control("fault", operation="DescribeTable", code=code)
    error = refusal(configured(tmp_path, "events"), Terminal)
    assert "AWS refused the credentials" in error.message
    assert "aws sts get-caller-identity" in error.remedy


def test_missing_credentials_are_called_that(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    error = refusal(configured(tmp_path, "events"), Terminal)
    assert "No usable AWS credentials" in error.message


def test_an_endpoint_that_is_not_there_is_named(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = refusal(configured(tmp_path, "events"))
    assert "127.0.0.1:9" in error.message
    assert "AWS_ENDPOINT_URL" in error.remedy


# ------------------------------------------------------------------------------------- exports


@pytest.fixture
def exported(own_aws: Any, tmp_path: Path) -> tuple[Any, Config, str, str]:
    """A table of 300 items, an export of it, and a configuration that adopts the export."""
    name, bucket = own_aws.name("events"), own_aws.bucket()
    create_table(own_aws.dynamodb, name, KEY, pitr=True)
    churn(own_aws.dynamodb, name, 600, 300, seed=1)
    own_aws.server.control("advance", seconds=120)
    arn = own_aws.dynamodb.export_table_to_point_in_time(
        TableArn=own_aws.arn(name), S3Bucket=bucket
    )["ExportDescription"]["ExportArn"]
    deadline = time.monotonic() + 60
    while describe(own_aws, arn)["ExportStatus"] != "COMPLETED":
        assert time.monotonic() < deadline, "the export was not written"
        time.sleep(0.05)
    base = f"{{method: export, bucket: {bucket}, export_arn: '{arn}'}}"
    return own_aws, configured(tmp_path, name, base), name, bucket


def describe(aws: Any, arn: str) -> dict[str, Any]:
    found: dict[str, Any] = aws.dynamodb.describe_export(ExportArn=arn)["ExportDescription"]
    return found


def data_files(aws: Any, bucket: str) -> list[str]:
    found = aws.s3.list_objects_v2(Bucket=bucket)["Contents"]
    return [each["Key"] for each in found if each["Key"].endswith(".json.gz")]


def manifest(aws: Any, bucket: str, name: str) -> str:
    found = aws.s3.list_objects_v2(Bucket=bucket)["Contents"]
    return next(each["Key"] for each in found if each["Key"].endswith(name))


def largest(aws: Any, bucket: str) -> str:
    return max(
        data_files(aws, bucket),
        key=lambda key: aws.s3.head_object(Bucket=bucket, Key=key)["ContentLength"],
    )


def altered(aws: Any, bucket: str, key: str, change: Callable[[bytes], bytes]) -> None:
    body = aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    aws.s3.put_object(Bucket=bucket, Key=key, Body=change(body))


def forget_checksums(aws: Any, bucket: str) -> None:
    for each in aws.s3.list_objects_v2(Bucket=bucket)["Contents"]:
        if each["Key"].endswith((".checksum", ".md5")):
            aws.s3.delete_object(Bucket=bucket, Key=each["Key"])


def test_an_adopted_export_is_loaded(exported: Any) -> None:
    aws, config, name, _ = exported
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
    assert_equal(config, aws.dynamodb, name, "events")


def test_a_truncated_file_is_named_and_nothing_of_it_lands(exported: Any) -> None:
    aws, config, _, bucket = exported
    key = largest(aws, bucket)
    altered(aws, bucket, key, lambda body: body[:-20])
    error = refusal(config, CorruptExport)
    assert key in error.message
    assert "MD5" in error.message
    with Engine.open(config) as engine:
        assert engine.status(["events"])[0].items_read == 0


def test_a_truncated_file_is_named_without_any_checksum_too(exported: Any) -> None:
    aws, config, _, bucket = exported
    key = largest(aws, bucket)
    altered(aws, bucket, key, lambda body: body[:-20])
    drop_md5(aws, bucket)
    error = refusal(config, CorruptExport)
    assert key in error.message
    assert "not a whole gzip file" in error.message


def drop_md5(aws: Any, bucket: str) -> None:
    def without(body: bytes) -> bytes:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            line.pop("md5Checksum")
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    altered(aws, bucket, manifest(aws, bucket, "manifest-files.json"), without)
    forget_checksums(aws, bucket)


def test_a_file_with_fewer_items_than_counted_is_named(exported: Any) -> None:
    aws, config, _, bucket = exported
    key = largest(aws, bucket)

    def shorter(body: bytes) -> bytes:
        return gzip.compress(b"".join(gzip.decompress(body).splitlines(keepends=True)[1:]))

    altered(aws, bucket, key, shorter)
    drop_md5(aws, bucket)
    error = refusal(config, CorruptExport)
    assert key in error.message
    assert "its manifest counts" in error.message


def test_manifests_that_do_not_add_up_are_refused(exported: Any) -> None:
    aws, config, _, bucket = exported
    key = manifest(aws, bucket, "manifest-files.json")
    altered(aws, bucket, key, lambda body: b"\n".join(body.splitlines()[1:]))
    forget_checksums(aws, bucket)
    error = refusal(config, CorruptExport)
    assert "manifest-files.json" in error.message


def test_an_altered_manifest_fails_its_checksum(exported: Any) -> None:
    aws, config, _, bucket = exported
    key = manifest(aws, bucket, "manifest-files.json")
    altered(aws, bucket, key, lambda body: body + b"\n")
    error = refusal(config, CorruptExport)
    assert key in error.message


def test_after_a_broken_export_is_restored_the_same_base_goes_on(exported: Any) -> None:
    aws, config, name, bucket = exported
    key = largest(aws, bucket)
    whole = aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    altered(aws, bucket, key, lambda body: body[:-20])
    refusal(config, CorruptExport)
    altered(aws, bucket, key, lambda _: whole)
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
    assert_equal(config, aws.dynamodb, name, "events")


def test_a_failed_export_says_why_and_the_next_call_requests_another(
    own_aws: Any, tmp_path: Path
) -> None:
    name = own_aws.name("events")
    create_table(own_aws.dynamodb, name, KEY, pitr=True)
    churn(own_aws.dynamodb, name, 50, 20, seed=1)
    config = configured(tmp_path, name, f"{{method: export, bucket: {own_aws.bucket()}}}")
    own_aws.server.control(
        "fault", operation="Export", code="S3AccessDenied", message="put refused"
    )
    error = refusal(config)
    assert "S3AccessDenied" in error.message
    assert "s3:PutObject" in error.remedy
    with Engine.open(config) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
    assert_equal(config, own_aws.dynamodb, name, "events")


def test_an_adopted_export_older_than_the_stream_is_refused(
    own_aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is live already: its new base must be younger than what the log holds."""
    without_margin(monkeypatch)
    name, bucket = own_aws.name("events"), own_aws.bucket()
    create_table(own_aws.dynamodb, name, KEY, pitr=True)
    churn(own_aws.dynamodb, name, 50, 20, seed=1)
    arn = own_aws.dynamodb.export_table_to_point_in_time(
        TableArn=own_aws.arn(name), S3Bucket=bucket
    )["ExportDescription"]["ExportArn"]
    with Engine.open(configured(tmp_path, name)) as engine:
        engine.base("events")
        drain_until_caught_up(engine, "events")
    base = f"{{method: export, bucket: {bucket}, export_arn: '{arn}'}}"
    with (
        Engine.open(configured(tmp_path, name, base)) as engine,
        pytest.raises(Terminal, match="coverage begins only at") as refused,
    ):
        engine.base("events")
    assert "base.export_arn" in refused.value.remedy


# -------------------------------------------------------------------------------- hostile items


def test_hostile_items_arrive_whole(
    aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_margin(monkeypatch)
    name = aws.name("events")
    create_table(aws.dynamodb, name, {"p.k'": "N", "sk; --": "B"}, pitr=False)
    deep: dict[str, Any] = {"S": "bottom"}
    for _ in range(31):
        deep = {"M": {"level": deep}}

    def put(number: str, **attributes: Any) -> None:
        key = {"p.k'": {"N": number}, "sk; --": {"B": bytes([0, 255, 10])}}
        aws.dynamodb.put_item(TableName=name, Item=key | attributes)

    put("12345678901234567890123456789012345678")
    put("12345678901234567890123456789012345679", deep=deep)
    config = configured(tmp_path, name, "{method: scan, segments: 3}")
    with Engine.open(config) as engine:
        engine.base("events")
        put("1", big={"S": "é" * 199_000}, **{'select "x"; --': {"S": "it's"}, "A": {"N": "1"}})
        put("2", a={"S": "twin of A"}, _key={"S": "ours"}, empty={"S": ""}, none={"NULL": True})
        drain_until_caught_up(engine, "events")
    assert_equal(config, aws.dynamodb, name, "events")


def test_md5_of_the_sandbox_is_awss(exported: Any) -> None:
    """The altered-file tests above rest on it."""
    aws, _, _, bucket = exported
    lines = aws.s3.get_object(Bucket=bucket, Key=manifest(aws, bucket, "manifest-files.json"))
    for line in lines["Body"].read().splitlines():
        entry = json.loads(line)
        body = aws.s3.get_object(Bucket=bucket, Key=entry["dataFileS3Key"])["Body"].read()
        assert entry["md5Checksum"] == base64.b64encode(hashlib.md5(body).digest()).decode()

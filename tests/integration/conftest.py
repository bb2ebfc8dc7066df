"""The local AWS and DynamoDB Local, started once a session, handed to each test with its own
table and bucket names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox.dynamodb_local import DynamoDBLocal, start_dynamodb_local
from sandbox.errors import SandboxError
from sandbox.server import CREDENTIALS, Server, start_server


@dataclass(frozen=True)
class Aws:
    """One endpoint as a test sees it. `server` is the sandbox's, None for DynamoDB Local;
    `name("orders")` is a table name that no other test has."""

    endpoint_url: str
    dynamodb: Any
    streams: Any
    s3: Any
    server: Server | None
    suffix: str

    def name(self, stem: str) -> str:
        return f"{stem}-{self.suffix}"

    def bucket(self) -> str:
        bucket = self.name("exports")
        self.s3.create_bucket(Bucket=bucket)
        return bucket

    def arn(self, table_name: str) -> str:
        return str(self.dynamodb.describe_table(TableName=table_name)["Table"]["TableArn"])


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Server]:
    server = start_server(export_seconds=0.1)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def dynamodb_local_server() -> Iterator[DynamoDBLocal]:
    try:
        local = start_dynamodb_local()
    except SandboxError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    yield local
    local.stop()


@pytest.fixture
def aws(sandbox_server: Server, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The sandbox: DynamoDB, Streams, PITR exports, S3. Clients made from the environment use it."""
    _point_environment_at(sandbox_server.endpoint_url, monkeypatch)
    return Aws(
        endpoint_url=sandbox_server.endpoint_url,
        dynamodb=sandbox_server.client("dynamodb"),
        streams=sandbox_server.client("dynamodbstreams"),
        s3=sandbox_server.client("s3"),
        server=sandbox_server,
        suffix=secrets.token_hex(4),
    )


@pytest.fixture
def own_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A sandbox server of this test's own, for tests that move its clock or change its settings."""
    server = start_server(export_seconds=0.1)
    _point_environment_at(server.endpoint_url, monkeypatch)
    yield Aws(
        endpoint_url=server.endpoint_url,
        dynamodb=server.client("dynamodb"),
        streams=server.client("dynamodbstreams"),
        s3=server.client("s3"),
        server=server,
        suffix=secrets.token_hex(4),
    )
    server.stop()


@pytest.fixture
def dynamodb_local(dynamodb_local_server: DynamoDBLocal, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """DynamoDB Local: real streams, no S3 and no PITR."""
    _point_environment_at(dynamodb_local_server.endpoint_url, monkeypatch)
    return Aws(
        endpoint_url=dynamodb_local_server.endpoint_url,
        dynamodb=dynamodb_local_server.client("dynamodb"),
        streams=dynamodb_local_server.client("dynamodbstreams"),
        s3=None,
        server=None,
        suffix=secrets.token_hex(4),
    )


def _point_environment_at(endpoint_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("AWS_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["aws_secret_access_key"])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

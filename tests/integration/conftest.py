"""The local AWS and DynamoDB Local, started once a session, handed to each test with its own
table and bucket names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Aws

from sandbox.dynamodb_local import DynamoDBLocal, start_dynamodb_local
from sandbox.errors import SandboxError
from sandbox.server import CREDENTIALS, Server, start_server


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Server]:
    server = start_server(export_seconds=0.1, restore_lag_seconds=0)
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


@pytest.fixture(scope="session")
def _sandbox_clients(sandbox_server: Server) -> dict[str, Any]:
    return {name: sandbox_server.client(name) for name in ("dynamodb", "dynamodbstreams", "s3")}


@pytest.fixture(scope="session")
def _local_clients(dynamodb_local_server: DynamoDBLocal) -> dict[str, Any]:
    return {name: dynamodb_local_server.client(name) for name in ("dynamodb", "dynamodbstreams")}


@pytest.fixture
def aws(
    sandbox_server: Server, _sandbox_clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Aws:
    """The sandbox: DynamoDB, Streams, PITR exports, S3; the environment points at it."""
    _point_environment_at(sandbox_server.endpoint_url, monkeypatch)
    return _aws(sandbox_server.endpoint_url, _sandbox_clients, sandbox_server)


@pytest.fixture
def own_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A sandbox of this test's own, for tests that move its clock or change its settings."""
    server = start_server(export_seconds=0.1, restore_lag_seconds=0)
    _point_environment_at(server.endpoint_url, monkeypatch)
    clients = {name: server.client(name) for name in ("dynamodb", "dynamodbstreams", "s3")}
    yield _aws(server.endpoint_url, clients, server)
    server.stop()


@pytest.fixture
def dynamodb_local(
    dynamodb_local_server: DynamoDBLocal,
    _local_clients: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Aws:
    """DynamoDB Local: real streams, no S3 and no PITR; the environment points at it."""
    _point_environment_at(dynamodb_local_server.endpoint_url, monkeypatch)
    return _aws(dynamodb_local_server.endpoint_url, _local_clients, None)


def _aws(endpoint_url: str, clients: dict[str, Any], server: Server | None) -> Aws:
    return Aws(
        endpoint_url=endpoint_url,
        dynamodb=clients["dynamodb"],
        streams=clients["dynamodbstreams"],
        s3=clients.get("s3"),
        server=server,
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

"""What an integration test is handed: one endpoint, its clients, and names no other test has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.server import Server


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

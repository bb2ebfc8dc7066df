"""A local AWS on loopback, one port for all services: DynamoDB and its streams from
`sandbox.dynamodb`, Kinesis from `sandbox.kinesis` (or, if it is set so, moto's, to which tables
stream as well), everything else (S3, Firehose, STS …) from moto.

`python -m sandbox.server --port N` runs it in the foreground; `start_server` runs it in a process
of its own and `Server.control` reaches what AWS does not have: the clock, shard splits, faults
(see `sandbox.dynamodb.Dynamo`)."""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import threading
import urllib.request
import zlib
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from sandbox.clock import Clock
from sandbox.dynamodb import Dynamo
from sandbox.errors import AwsError, SandboxError, validation
from sandbox.exports import NoSuchBucketError

CREDENTIALS = {"aws_access_key_id": "AKIASANDBOX", "aws_secret_access_key": "sandbox"}
CONTROLS = ("set", "fault", "advance", "divide", "expire_items", "deliver_to_s3")
REFUSED_KEYS = {
    "AKIAEXPIRED": (
        "ExpiredTokenException",
        "The security token included in the request is expired",
    ),
    "AKIAINVALID": (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
}
_START_SECONDS = 60


class Server:
    """A running local AWS. `environment` is what a client process needs to use it."""

    def __init__(self, process: subprocess.Popen[str], endpoint_url: str) -> None:
        self.process = process
        self.endpoint_url = endpoint_url

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self, service: str) -> Any:
        """A boto3 client of this server."""
        import boto3

        return boto3.client(
            service, endpoint_url=self.endpoint_url, region_name="us-east-1", **CREDENTIALS
        )

    def control(self, name: str, **parameters: Any) -> Any:
        """Calls one of CONTROLS on the server's Dynamo. Returns what it returned."""
        request = urllib.request.Request(
            f"{self.endpoint_url}/sandbox/{name}", json.dumps(parameters).encode(), method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise SandboxError(f"control {name}: {error.read().decode()}") from None

    def stop(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(port: int = 0, **settings: Any) -> Server:
    """Starts a server process and waits until it listens; it ends with `stop`, or with us.

    `settings` as in `Dynamo.set`. Raises SandboxError if it does not come up."""
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.server", "--port", str(port), "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,
    )
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    watchdog.cancel()
    if not line:
        raise SandboxError(
            f"the sandbox server did not start on port {port} (exit code {process.wait()}); "
            "its reason stands above. Is the port free, and is moto[server] installed?"
        )
    server = Server(process, json.loads(line)["endpoint_url"])
    if settings:
        server.control("set", **settings)
    return server


def make_server(port: int) -> Any:
    """A threaded werkzeug server, not yet serving; its `dynamo` is the state behind it."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import ThreadedWSGIServer

    clock = Clock()
    dynamo = Dynamo(clock, lambda *put: _put_object(clock, *put))
    dynamo.deliver_to_moto = _put_to_moto

    class Handler(MotoRequestHandler):
        """Answers DynamoDB itself over kept-alive connections; hands the rest to moto."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 1 << 16

        def run_wsgi(self) -> None:
            target = self.headers.get("X-Amz-Target", "")
            if self.path.startswith("/sandbox/"):
                self._reply(lambda body: _control(dynamo, self.path, body))
            elif target.startswith("DynamoDB"):
                self._reply(lambda body: self._dynamo(target, body))
            elif target.startswith("Kinesis_") and not dynamo.settings.moto_kinesis:
                self._reply(lambda body: self._kinesis(target, body))
            elif not self._refused_s3():
                super().run_wsgi()
            self.wfile.flush()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(timestamp or clock.now() / 1_000_000, usegmt=True)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

        def _dynamo(self, target: str, body: bytes) -> bytes:
            region = _authorized_region(self.headers.get("Authorization", ""))
            return dynamo.answer(target.rsplit(".", 1)[-1], region, msgspec.json.decode(body))

        def _kinesis(self, target: str, body: bytes) -> bytes:
            region = _authorized_region(self.headers.get("Authorization", ""))
            operation = target.rsplit(".", 1)[-1]
            return dynamo.kinesis_answer(operation, region, msgspec.json.decode(body))

        def _refused_s3(self) -> bool:
            action = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "HEAD": "s3:GetObject"}.get(
                self.command, ""
            )
            bucket_only = "/" not in self.path.partition("?")[0].strip("/")
            if "/s3/" not in self.headers.get("Authorization", ""):
                return False
            if bucket_only:
                action = "s3:ListBucket"
            if action not in dynamo.settings.denied:
                return False
            body = (
                '<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>'
                f"<Message>User: arn:aws:iam::123456789012:user/sandbox is not authorized to "
                f"perform: {action}</Message></Error>"
            )
            self._send(403, body.encode(), "application/xml")
            self.close_connection = True
            return True

        def _reply(self, answer: Any) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, content = 200, answer(body)
            except AwsError as error:
                status, content = error.status, _error_body(error)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = validation(f"the sandbox could not read the request: {error!r}")
                status, content = 400, _error_body(problem)
            self._send(status, content, "application/x-amz-json-1.0")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status, HTTPStatus(status).phrase)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("x-amzn-RequestId", os.urandom(26).hex().upper())
            self.send_header("x-amz-crc32", str(zlib.crc32(content)))
            self.end_headers()
            self.wfile.write(content)

    app = DomainDispatcherApplication(create_backend_app)
    server: Any = ThreadedWSGIServer("127.0.0.1", port, app, handler=Handler)
    server.dynamo = dynamo
    return server


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0: any free port")
    parser.add_argument(
        "--with-parent", action="store_true", help="end when standard input is closed"
    )
    options = parser.parse_args(arguments)
    server = make_server(options.port)
    if options.with_parent:
        threading.Thread(target=_end_with_input, daemon=True).start()
    print(json.dumps({"endpoint_url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _control(dynamo: Dynamo, path: str, body: bytes) -> bytes:
    name = path.removeprefix("/sandbox/")
    if name not in CONTROLS:
        raise validation(f"no control {name!r}; there are {', '.join(CONTROLS)}")
    return msgspec.json.encode(getattr(dynamo, name)(**msgspec.json.decode(body or b"{}")))


def _authorized_region(authorization: str) -> str:
    """The region a request is signed for. Signatures are not verified; two access keys stand for
    the credentials that AWS refuses."""
    _, _, scope = authorization.partition("Credential=")
    parts = scope.split(",")[0].split("/")
    if len(parts) < 5:
        raise AwsError(
            "MissingAuthenticationTokenException", "Request is missing Authentication Token"
        )
    if parts[0] in REFUSED_KEYS:
        raise AwsError(*REFUSED_KEYS[parts[0]])
    return parts[2]


def _error_body(error: AwsError) -> bytes:
    space = {
        "ValidationException": "com.amazon.coral.validate",
        "AccessDeniedException": "com.amazon.coral.service",
        "UnrecognizedClientException": "com.amazon.coral.service",
        "ExpiredTokenException": "com.amazon.coral.service",
        "MissingAuthenticationTokenException": "com.amazon.coral.service",
    }.get(error.code, "com.amazonaws.dynamodb.v20120810")
    return msgspec.json.encode({"__type": f"{space}#{error.code}", "message": error.message})


def _put_to_moto(arn: str, data: bytes, partition_key: str) -> None:
    from moto.kinesis.models import kinesis_backends

    from sandbox.tables import ACCOUNT

    backend = kinesis_backends[ACCOUNT][arn.split(":")[3]]
    text = base64.b64encode(data).decode()
    backend.put_record(arn, None, partition_key, "", text)  # type: ignore[arg-type]


def _put_object(clock: Clock, bucket: str, key: str, content: bytes) -> None:
    from moto.s3.models import s3_backends

    from sandbox.tables import ACCOUNT

    backend = s3_backends[ACCOUNT]["aws"]
    if bucket not in backend.buckets:
        raise NoSuchBucketError(bucket)
    stored = backend.put_object(bucket_name=bucket, key_name=key, value=content)
    stored.last_modified = datetime.fromtimestamp(clock.now() / 1_000_000, UTC).replace(tzinfo=None)


if __name__ == "__main__":
    main()

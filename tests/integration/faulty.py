"""An endpoint that fails: a proxy before another endpoint, which throttles, answers 500 and 503,
resets connections, delays answers, cuts them off, or keeps silent. What fails, and how, follows
from a seed; what it did is counted, so that a test can tell whether it was tested at all."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

THROTTLE, ERROR, RESET, DELAY, CUT = "throttle", "error", "reset", "delay", "cut"
KINDS = (THROTTLE, ERROR, RESET, DELAY, CUT)
SILENCE = "silence"  # longer than any client waits; only where a test asks for it

DELAY_SECONDS = 0.2
SILENCE_SECONDS = 3.0

DYNAMODB, STREAMS, S3 = "dynamodb", "streams", "s3"
SERVICES = {"DynamoDB_20120810": DYNAMODB, "DynamoDBStreams_20120810": STREAMS}
GET_OBJECT = "GetObject"

THROUGHPUT = (
    "ProvisionedThroughputExceededException",
    "The level of configured provisioned throughput for the table was exceeded. Consider increasing"
    " your provisioning level with the UpdateTable API.",
)
RATE = ("ThrottlingException", "Rate exceeded")
LIMIT = ("LimitExceededException", "Subscriber limit exceeded: too many operations for a given")
THROTTLES = {DYNAMODB: (THROUGHPUT, RATE), STREAMS: (THROUGHPUT, RATE, LIMIT)}
SLOW_DOWN = ("SlowDown", "Please reduce your request rate.")

INTERNAL = "The request processing has failed because of an unknown error, exception or failure."
PAGE = b"<html><body><b>Http/1.1 Service Unavailable</b></body></html>"
# What a load balancer between says, in words of its own.
BALANCER = b"upstream connect error or disconnect/reset before headers"

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Asked:
    """A request. `service` is dynamodb, streams or s3, `operation` as AWS names it."""

    service: str
    operation: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Faulty:
    """A running proxy; a context manager. `rate` is the share of answers that are faulty: of each
    service every kind in turn, shuffled. `always` makes each answer to an operation faulty.

    `asked` counts requests by operation, `injected` faults by (service, kind)."""

    def __init__(self, upstream: str, seed: int, rate: float) -> None:
        self.rate = rate
        self.always: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.injected: Counter[tuple[str, str]] = Counter()
        self._upstream = urlsplit(upstream).netloc
        self._dice = random.Random(seed)
        self._decks: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Faulty:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, asked: Asked) -> str | None:
        """How the answer to this request is to fail, if it is."""
        with self._lock:
            self.asked[asked.operation] += 1
            kind = self.always.get(asked.operation)
            if kind is None and self._dice.random() < self.rate:
                deck = self._decks.setdefault(asked.service, [])
                if not deck:
                    deck.extend(self._dice.sample(KINDS, len(KINDS)))
                kind = deck.pop()
            if kind is not None:
                self.injected[asked.service, kind] += 1
            return kind

    def choice(self, options: tuple[Any, ...]) -> Any:
        """One of them."""
        with self._lock:
            return self._dice.choice(options)

    def forwarded(self, asked: Asked) -> Answer:
        """The answer of the endpoint behind."""
        connection = HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request(asked.method, asked.path, asked.body, asked.headers)
            answer = connection.getresponse()
            body = answer.read()
            own = ("connection", "content-length", "transfer-encoding")
            headers = {name: text for name, text in answer.getheaders() if name.lower() not in own}
            return answer.status, headers, body
        finally:
            connection.close()


def throttled(faulty: Faulty, asked: Asked) -> Answer:
    """What AWS says to a client that asks too much."""
    if asked.service == S3:
        return 503, *_xml(*SLOW_DOWN)
    return 400, *_json(*faulty.choice(THROTTLES[asked.service]))


def failed(faulty: Faulty, asked: Asked) -> Answer:
    """A server's failure, said in one of the ways in which they come."""
    if asked.service == S3:
        said: tuple[Answer, ...] = (
            (500, *_xml("InternalError", "We encountered an internal error. Please try again.")),
            (503, *_xml("ServiceUnavailable", "Please reduce your request rate.")),
        )
    else:
        said = (
            (500, *_json("InternalServerError", INTERNAL)),
            (503, *_json("ServiceUnavailable", "The service is currently unavailable.")),
        )
    answer: Answer = faulty.choice(
        (
            *said,
            (500, {}, b""),
            (503, {"Content-Type": "text/html"}, PAGE),
            (502, {"Content-Type": "text/plain"}, BALANCER),
        )
    )
    return answer


def _json(code: str, message: str) -> tuple[dict[str, str], bytes]:
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
    return {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(body).encode()


def _xml(code: str, message: str) -> tuple[dict[str, str], bytes]:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return {"Content-Type": "application/xml"}, body.encode()


def _handler(faulty: Faulty) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection of a client's."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            asked = self._read()
            kind = faulty.fault(asked)
            if kind == RESET:
                if faulty.choice((True, False)):
                    faulty.forwarded(asked)  # it did what was asked, and nobody heard
                self._reset()
            elif kind == THROTTLE:
                self._send(throttled(faulty, asked))
            elif kind == ERROR:
                self._send(failed(faulty, asked))
            elif kind == CUT:
                self._cut_off(faulty.forwarded(asked))
            elif kind == SILENCE:
                time.sleep(SILENCE_SECONDS)
                self._reset()
            else:
                time.sleep(DELAY_SECONDS if kind == DELAY else 0.0)
                self._send(faulty.forwarded(asked))

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _read(self) -> Asked:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            version, _, operation = self.headers.get("X-Amz-Target", "").partition(".")
            return Asked(
                service=SERVICES.get(version, S3),
                operation=operation or GET_OBJECT,
                method=self.command,
                path=self.path,
                headers=dict(self.headers.items()),
                body=body,
            )

        def _send(self, answer: Answer, length: int | None = None) -> None:
            status, headers, body = answer
            self.send_response_only(status)
            for name, text in {"Date": formatdate(usegmt=True), **headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def _cut_off(self, answer: Answer) -> None:
            """Half of the body, though its length was promised."""
            status, headers, body = answer
            self._send((status, headers, body[: len(body) // 2]), len(body) or 1)
            self.close_connection = True

        def _reset(self) -> None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    return Handler

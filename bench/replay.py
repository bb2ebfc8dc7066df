"""A DynamoDB that answers from prepared pages, in a process of its own: what is measured is the
client. It knows Scan, DescribeStream, GetShardIterator and GetRecords, and as much of Kinesis, and
checks nothing.

A page file holds the beginning of an answer's JSON; the server adds what leads to the next page.
`X-Amz-Crc32` is sent, as DynamoDB does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

from bench.measure import ROOT

SHARDS = 4
STREAM_ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/bench/stream/2026-01-01T00:00:00.000"
KINESIS_ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/bench"
KINESIS = {
    "StreamName": "bench",
    "StreamARN": KINESIS_ARN,
    "StreamStatus": "ACTIVE",
    "RetentionPeriodHours": 24,
    "StreamCreationTimestamp": 1_767_225_600.0,  # 2026-01-01
    "EnhancedMonitoring": [],
    "OpenShardCount": SHARDS,
}
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Replay:
    """Answers, from the pages of one folder."""

    def __init__(self, folder: Path) -> None:
        self._pages = [path.read_bytes() for path in sorted(folder.iterdir())]
        self._crcs = [zlib.crc32(page) for page in self._pages]

    def answer(self, target: str, body: dict[str, Any]) -> tuple[list[bytes], int]:
        """The pieces of the answer and its CRC32."""
        operation = target.rpartition(".")[2]
        is_kinesis = target.startswith("Kinesis")
        if operation == "DescribeStreamSummary":
            return _whole({"StreamDescriptionSummary": KINESIS})
        if operation == "ListShards":
            return _whole({"Shards": _description()["Shards"]})
        if operation == "Scan":
            return self._scan(body)
        if operation == "GetRecords":
            return self._records(body, {"MillisBehindLatest": 1} if is_kinesis else {})
        if operation == "GetShardIterator":
            shard = body["ShardId"].rpartition("-")[2]
            return _whole({"ShardIterator": f"{int(shard)}/{self._share(int(shard), SHARDS)[0]}"})
        if operation == "DescribeStream":
            return _whole({"StreamDescription": _description()})
        return _whole({"__type": f"UnknownOperationException: {target}"})

    def _share(self, number: int, of: int) -> tuple[int, int]:
        size = len(self._pages)
        return size * number // of, size * (number + 1) // of

    def _scan(self, body: dict[str, Any]) -> tuple[list[bytes], int]:
        first, end = self._share(body.get("Segment", 0), body.get("TotalSegments", 1))
        start = body.get("ExclusiveStartKey")
        page = int(start["placed"]["N"]) if start else first
        if page >= end:
            return _whole({"Items": [], "Count": 0, "ScannedCount": 0})
        follows = {"customer": {"S": "c"}, "placed": {"N": str(page + 1)}}
        more = {"LastEvaluatedKey": follows} if page + 1 < end else {}
        return self._page(page, more)

    def _records(self, body: dict[str, Any], behind: dict[str, int]) -> tuple[list[bytes], int]:
        shard, page = (int(each) for each in body["ShardIterator"].split("/"))
        if page >= self._share(shard, SHARDS)[1]:
            at_tip = dict.fromkeys(behind, 0)
            return _whole({"Records": [], "NextShardIterator": body["ShardIterator"], **at_tip})
        return self._page(page, {"NextShardIterator": f"{shard}/{page + 1}", **behind})

    def _page(self, number: int, more: dict[str, Any]) -> tuple[list[bytes], int]:
        tail = (("," + json.dumps(more)[1:-1]) if more else "").encode() + b"}"
        return [self._pages[number], tail], zlib.crc32(tail, self._crcs[number])


def _whole(answer: dict[str, Any]) -> tuple[list[bytes], int]:
    body = json.dumps(answer).encode()
    return [body], zlib.crc32(body)


def _description() -> dict[str, Any]:
    return {
        "StreamArn": STREAM_ARN,
        "StreamStatus": "ENABLED",
        "StreamViewType": "NEW_AND_OLD_IMAGES",
        "Shards": [
            {
                "ShardId": f"shardId-{number:020d}",
                "SequenceNumberRange": {"StartingSequenceNumber": "1"},
            }
            for number in range(SHARDS)
        ],
    }


async def _serve(folder: Path) -> None:
    replay = Replay(folder)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                pieces, crc = replay.answer(headers.get("x-amz-target", ""), json.loads(body))
                writer.write(
                    (
                        "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
                        f"Date: {formatdate(usegmt=True)}\r\nx-amzn-RequestId: BENCH\r\n"
                        f"Content-Length: {sum(map(len, pieces))}\r\nx-amz-crc32: {crc}\r\n\r\n"
                    ).encode()
                )
                writer.writelines(pieces)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**22)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a replay server over the pages in `folder`, for as long as the block lasts, and no
    longer than this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.replay", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)


def _end_with_input() -> None:
    """Ends with the parent, however that ends: the kernel closes its side of the pipe."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(_serve(Path(sys.argv[1])))

"""DynamoDB Streams: shards and raw records. Which shard may be read when is capture's business."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from tailrace.errors import IteratorExpired, Terminal, Trimmed
from tailrace.model import RecordPage, Shard, StreamTraits
from tailrace.sources.aws import RAW_BODY, Aws, call, code_of
from tailrace.sources.scan import json_lines

RECORDS_PER_CALL = 1_000
SHARD_PAGES_MAX = 1_000  # 100 shards a page


class _Change(msgspec.Struct):
    SequenceNumber: str
    ApproximateCreationDateTime: float


class _Record(msgspec.Struct):
    dynamodb: _Change


class _Body(msgspec.Struct):
    Records: list[msgspec.Raw] = []
    NextShardIterator: str | None = None


_bodies = msgspec.json.Decoder(_Body)
_records = msgspec.json.Decoder(_Record)


class DynamoDbStream:
    """The shards and records of DynamoDB Streams. Positions are sequence numbers as text.
    `calls` counts the calls made; `notices` are what somebody should know of what was read."""

    traits = StreamTraits()
    notices: tuple[str, ...] = ()

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self.calls = 0

    def shards(self, stream_arn: str) -> list[Shard]:
        """Every shard the stream lists, over all pages. Raises SourceMissing once it is gone.

        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_DescribeStream.html
        """
        return [shard for page in self._shard_pages(stream_arn) for shard in page]

    def children(self, stream_arn: str, shard: str) -> list[Shard]:
        """The children of a closed shard, in one call however many shards there are. Right after
        it closed there may be none yet."""
        only = {"ShardFilter": {"Type": "CHILD_SHARDS", "ShardId": shard}}
        return [each for page in self._shard_pages(stream_arn, **only) for each in page]

    def _shard_pages(self, stream_arn: str, **only: Any) -> Iterator[list[Shard]]:
        start: dict[str, str] = {}
        for _ in range(SHARD_PAGES_MAX):
            self.calls += 1
            description = call(
                self._aws.client("dynamodbstreams").describe_stream,
                "dynamodb:DescribeStream",
                f"stream {stream_arn}",
                self._aws.region,
                StreamArn=stream_arn,
                **start,
                **only,
            )["StreamDescription"]
            yield [
                Shard(
                    each["ShardId"],
                    each.get("ParentShardId"),
                    "EndingSequenceNumber" in each["SequenceNumberRange"],
                )
                for each in description["Shards"]
            ]
            last = description.get("LastEvaluatedShardId")
            if not last:
                return
            start = {"ExclusiveStartShardId": last}
        raise Terminal(
            f"{stream_arn} lists more than {SHARD_PAGES_MAX * 100} shards.",
            "No such stream is known; report this.",
        )

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str:
        """An iterator after the sequence number `after`, or from the oldest record kept.

        Raises Trimmed where `after` has left the stream's 24 hours, SourceMissing for a shard
        that is gone.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_GetShardIterator.html
        """
        place = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": after}
            if after
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        self.calls += 1
        try:
            answer = call(
                self._aws.client("dynamodbstreams").get_shard_iterator,
                "dynamodb:GetShardIterator",
                f"shard {shard} of {stream_arn}",
                self._aws.region,
                StreamArn=stream_arn,
                ShardId=shard,
                **place,
            )
        except Terminal as error:
            raise _trimmed(error, shard, after) or error from error
        return str(answer["ShardIterator"])

    def read(self, iterator: str, shard: str, limit: int = RECORDS_PER_CALL) -> RecordPage:
        """The next page (at most 1,000 records or 1 MB). An empty page is not the end.

        Raises IteratorExpired, Trimmed.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_GetRecords.html
        """
        self.calls += 1
        try:
            answer = call(
                self._aws.client("dynamodbstreams").get_records,
                "dynamodb:GetRecords",
                f"shard {shard}",
                self._aws.region,
                ShardIterator=iterator,
                Limit=limit,
            )
        except Terminal as error:
            if code_of(error) == "ExpiredIteratorException":
                raise IteratorExpired(f"The iterator of shard {shard} has expired.") from error
            raise _trimmed(error, shard, None) or error from error
        body = _bodies.decode(answer[RAW_BODY])
        first, last = _ends(body.Records)
        return RecordPage(
            lines=json_lines(body.Records),
            count=len(body.Records),
            last_position=last.SequenceNumber if last else None,
            oldest=_time(first),
            newest=_time(last),
            next_iterator=body.NextShardIterator,
            bytes=len(answer[RAW_BODY]),
        )

    def whole(self, page: RecordPage) -> RecordPage:
        """The page with whole items: as it is, the records carry them."""
        return page


def _ends(records: list[msgspec.Raw]) -> tuple[_Change | None, _Change | None]:
    if not records:
        return None, None
    return _records.decode(records[0]).dynamodb, _records.decode(records[-1]).dynamodb


def _time(change: _Change | None) -> datetime | None:
    return datetime.fromtimestamp(change.ApproximateCreationDateTime, UTC) if change else None


def _trimmed(error: Terminal, shard: str, after: str | None) -> Trimmed | None:
    if code_of(error) != "TrimmedDataAccessException":
        return None
    return Trimmed(
        f"Shard {shard} no longer holds what follows {after or 'the last read'}: the stream keeps"
        " 24 hours, and no pass came in time."
    )

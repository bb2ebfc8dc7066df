"""Kinesis records: which are the table's, what is done with the rest, and what each error says."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tailrace.config import DynamoDbStreamsConfig, KinesisConfig
from tailrace.errors import AccessDenied, IteratorExpired, Retryable, SourceMissing, Terminal
from tailrace.model import Epoch, Head, RecordPage, TableDescription
from tailrace.sources.aws import RAW_BODY
from tailrace.sources.kinesis import AGGREGATED, SHARED_BYTES, KinesisSource, KinesisStream, Pages

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/changes"
CREATED = datetime(2026, 11, 1, tzinfo=UTC)
IDENTITY = f"{ARN}@2026-11-01T00:00:00"
TABLE = TableDescription("orders", "arn:table", "id", ())
MILLIS = 1_764_000_000_123
BEGINS = CREATED + timedelta(days=2)


class FakeClient:
    """boto3's client of Kinesis and of DynamoDB, over one shard's records."""

    def __init__(self, *records: bytes, created: datetime = CREATED) -> None:
        self.records = list(records)
        self.created = created
        self.destinations = [{"StreamArn": ARN, "DestinationStatus": "ACTIVE"}]
        self.asked: list[dict[str, Any]] = []
        self.reads = 0
        self.errors: list[str] = []
        self.hours = 48

    def describe_kinesis_streaming_destination(self, **_: Any) -> Any:
        return {"KinesisDataStreamDestinations": self.destinations}

    def describe_stream_summary(self, **_: Any) -> Any:
        summary = {"StreamCreationTimestamp": self.created, "RetentionPeriodHours": self.hours}
        return {"StreamDescriptionSummary": summary}

    def list_shards(self, **asked: Any) -> Any:
        self.asked.append(asked)
        closed = {"EndingSequenceNumber": "9"}
        if "NextToken" not in asked:
            shards = [
                {"ShardId": "a", "SequenceNumberRange": closed},
                {"ShardId": "b", "SequenceNumberRange": closed},
            ]
            return {"Shards": shards, "NextToken": "more"}
        parents = {"ParentShardId": "a", "AdjacentParentShardId": "b"}
        return {"Shards": [{"ShardId": "c", "SequenceNumberRange": {}, **parents}]}

    def get_shard_iterator(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return {"ShardIterator": str(int(asked.get("StartingSequenceNumber", -1)) + 1)}

    def get_records(self, **asked: Any) -> Any:
        self.reads += 1
        if self.errors:
            error = {"Error": {"Code": self.errors.pop(0), "Message": "injected"}}
            raise ClientError(error, "GetRecords")
        start = int(asked["ShardIterator"])
        page = self.records[start : start + 2]
        records = [
            {
                "SequenceNumber": str(start + number),
                "ApproximateArrivalTimestamp": 1.5,
                "Data": base64.b64encode(data).decode(),
                "PartitionKey": "k",
            }
            for number, data in enumerate(page)
        ]
        end = start + len(page)
        behind = 1000 if end < len(self.records) else 0
        body = {"Records": records, "NextShardIterator": str(end), "MillisBehindLatest": behind}
        return {RAW_BODY: json.dumps(body).encode()}


def aws(client: FakeClient) -> Any:
    return SimpleNamespace(region="us-east-1", client=lambda service: client)


def stream(client: FakeClient, pages: Pages | None = None, table: str = "orders") -> KinesisStream:
    source = KinesisSource(aws(client), table, KinesisConfig(), pages or Pages())
    return source.listing(IDENTITY, None)


def data(table: str = "orders", at: int = MILLIS, **more: Any) -> bytes:
    dynamodb = {"ApproximateCreationDateTime": at, "Keys": {"pk": {"S": "a"}}, **more}
    record = {"eventID": "e", "eventName": "INSERT", "tableName": table, "dynamodb": dynamodb}
    return json.dumps(record).encode()


def read(found: KinesisStream, after: str | None = None) -> list[RecordPage]:
    """All pages of the shard, to its tip."""
    iterator = found.iterator(IDENTITY, "a", after)
    pages = []
    while True:
        page = found.read(iterator, "a")
        pages.append(page)
        if page.at_tip:
            return pages
        assert page.next_iterator
        iterator = page.next_iterator


def test_a_record_is_handed_on_as_it_came_with_its_sequence_number() -> None:
    pretty = json.dumps(json.loads(data()), indent=2).encode()
    (page,) = read(stream(FakeClient(data(), pretty)))
    one, other = (json.loads(line) for line in page.lines.splitlines())
    assert one == {"sequenceNumber": "0"} | json.loads(data())
    assert other == one | {"sequenceNumber": "1"}
    assert (page.count, page.last_position) == (2, "1")
    assert page.newest == datetime.fromtimestamp(MILLIS / 1000, UTC)


def test_what_is_not_the_tables_is_counted_by_name_and_moves_the_position() -> None:
    client = FakeClient(data("other"), b"\xff\xfe", b"plain", b'{"a":1}', data(), data("other"))
    found = stream(client)
    pages = read(found)
    assert [page.count for page in pages] == [0, 0, 1]
    assert pages[-1].last_position == "5"
    assert found.notices == (
        "The stream has records of other tables, which are not read: other (2).",
        "1 records of the stream are not DynamoDB's, and are not read: JSON of another kind.",
        "2 records of the stream are not DynamoDB's, and are not read: no JSON.",
    )


def test_two_precisions_in_one_stream_are_told() -> None:
    precise = data(at=MILLIS * 1000 + 7, ApproximateCreationDateTimePrecision="MICROSECOND")
    found = stream(FakeClient(data(), precise))
    (page,) = read(found)
    assert page.newest == datetime.fromtimestamp(MILLIS / 1000 + 7e-6, UTC)
    assert "two precisions (1 in milliseconds and 1 in microseconds)" in found.notices[0]


def test_aggregated_records_are_refused_by_name() -> None:
    with pytest.raises(Terminal, match=r"Record 0 of shard a was aggregated.*\(KPL\)"):
        read(stream(FakeClient(AGGREGATED + b"packed")))


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("ExpiredIteratorException", IteratorExpired, "has expired"),
        ("ProvisionedThroughputExceededException", Retryable, "slow down"),
        ("KMSThrottlingException", Retryable, "slow down"),
        ("InternalFailureException", Retryable, "AWS failed"),
        ("KMSAccessDeniedException", AccessDenied, "kms:Decrypt"),
        ("KMSDisabledException", Terminal, "cannot be used"),
        ("ResourceNotFoundException", SourceMissing, "not found"),
    ],
)
def test_what_the_errors_of_kinesis_mean(code: str, error: type[Exception], says: str) -> None:
    client = FakeClient(data())
    client.errors = [code]
    with pytest.raises(error) as caught:
        read(stream(client))
    assert says in str(caught.value)


def test_a_stream_begins_at_an_instant_and_goes_on_after_a_sequence_number() -> None:
    client = FakeClient(data(), data(), data())
    found = KinesisSource(aws(client), "orders", KinesisConfig()).listing(IDENTITY, BEGINS)
    read(found)
    assert client.asked[-1]["ShardIteratorType"] == "AT_TIMESTAMP"
    assert client.asked[-1]["Timestamp"] == BEGINS
    (page,) = read(found, after="1")
    assert (page.count, page.last_position) == (1, "2")
    found.shards(IDENTITY)
    assert client.asked[-2]["ShardFilter"] == {"Type": "FROM_TIMESTAMP", "Timestamp": BEGINS}


def test_shards_come_by_pages_with_two_parents_after_a_merge_and_the_streams_retention() -> None:
    found = stream(FakeClient())
    shards = {each.id: each for each in found.shards(IDENTITY)}
    assert shards["c"].parents == ("a", "b")
    assert [each.id for each in shards.values() if not each.closed] == ["c"]
    assert found.traits.retention == timedelta(hours=48)
    assert [each.id for each in found.children(IDENTITY, "b")] == ["c"]


def test_another_stream_of_the_same_name_is_not_the_stream() -> None:
    made_anew = FakeClient(created=CREATED + timedelta(hours=1))
    with pytest.raises(SourceMissing, match="was deleted; the one that has its name now"):
        stream(made_anew).shards(IDENTITY)


@pytest.mark.parametrize(
    ("destinations", "name", "says"),
    [
        ([], None, "it has no streaming destination"),
        ([("changes", "DISABLED")], None, r"it has changes \(DISABLED\)"),
        ([("changes", "ENABLING")], None, "Wait while it is ENABLING"),
        ([("changes", "ENABLE_FAILED")], None, r"changes \(ENABLE_FAILED\)"),
        ([("changes", "ACTIVE")], "wanted", "no Kinesis stream of the name wanted"),
        ([("changes", "ACTIVE"), ("too", "ACTIVE")], None, "Name one of them: stream.stream_name"),
    ],
)
def test_a_table_without_a_usable_destination_is_told_what_it_has(
    destinations: list[tuple[str, str]], name: str | None, says: str
) -> None:
    client = FakeClient()
    client.destinations = [
        {"StreamArn": ARN.replace("changes", each), "DestinationStatus": status}
        for each, status in destinations
    ]
    source = KinesisSource(aws(client), "orders", KinesisConfig(stream_name=name))
    with pytest.raises(Terminal, match=says) as caught:
        source.require(TABLE)
    assert "aws dynamodb enable-kinesis-streaming-destination" in caught.value.remedy or (
        "Name one" in caught.value.remedy
    )
    assert source.describe(TABLE).stream_arn is None


def test_the_streams_name_chooses_among_several() -> None:
    client = FakeClient()
    client.destinations.append(
        {"StreamArn": ARN.replace("changes", "too"), "DestinationStatus": "ACTIVE"}
    )
    source = KinesisSource(aws(client), "orders", KinesisConfig(stream_name="changes"))
    assert source.require(TABLE).stream_arn == source.describe(TABLE).stream_arn == IDENTITY
    head = Head(epochs=(epoch(stream_from=BEGINS.isoformat()),))
    read(source.open(head, head.epochs[0]))
    assert client.asked[-1]["Timestamp"] == BEGINS


def epoch(**detail: Any) -> Epoch:
    return Epoch(1, "full", "scan", "live", "id", IDENTITY, CREATED, CREATED, detail)


# ---------------------------------------------------------------------------------- shared streams


def test_a_record_may_come_as_late_as_is_configured_or_usual_once_the_table_has_moved_on() -> None:
    for config, late in (
        (KinesisConfig(late_seconds=7), 7),
        (DynamoDbStreamsConfig(), KinesisConfig().late_seconds),
    ):
        source = KinesisSource(aws(FakeClient()), "orders", config)
        assert source.traits.late == timedelta(seconds=late)
    assert late > 0


def test_tables_that_share_a_stream_read_each_page_once() -> None:
    client = FakeClient(*[data(name) for name in ("orders", "people", "unknown") * 3])
    both = ("orders", "people")
    pages = Pages(both, both)
    orders, people = stream(client, pages), stream(client, pages, "people")
    assert sum(page.count for page in read(orders)) == 3
    reads = client.reads
    assert sum(page.count for page in read(people)) == 3
    # Only what came after the first one's tip is asked for again: a pass proves what it asked for.
    assert client.reads == reads + 1
    assert orders.notices == people.notices
    assert "not read: unknown (3)" in orders.notices[0]


def test_a_table_that_lags_reads_its_own_pages_and_meets_the_others_at_the_tip() -> None:
    client = FakeClient(*[data(name) for name in ("orders", "people") * 4])
    both = ("orders", "people")
    pages = Pages(both, both)
    assert sum(page.count for page in read(stream(client, pages), after="4")) == 1
    assert sum(page.count for page in read(stream(client, pages, "people"))) == 4


def test_shared_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(*[data(pad="x" * 1000) for _ in range(40)])
    monkeypatch.setattr("tailrace.sources.kinesis.SHARED_BYTES", 5_000)
    both = ("orders", "people")
    pages = Pages(both, both)
    read(stream(client, pages))
    assert pages._bytes <= 5_000 < SHARED_BYTES
    assert len(pages._pages) < 5

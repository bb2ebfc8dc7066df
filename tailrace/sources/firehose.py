"""The objects that Firehose delivers to S3: finding them by their keys, and reading one.

Firehose names an object by the time at which the oldest record in it arrived, so one that was
delivered late has an old key. What was read already, and what that proves, is capture's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any

from tailrace.config import FirehoseConfig, StreamConfig
from tailrace.errors import SourceMissing, Terminal
from tailrace.model import (
    FIREHOSE,
    Contents,
    Delivery,
    Epoch,
    Head,
    Shape,
    StreamTraits,
    TableDescription,
)
from tailrace.privacy import Privacy
from tailrace.sources.aws import Aws, call, explained
from tailrace.sources.delivered import (
    ORC,
    PARQUET,
    DamagedError,
    take_apart,
    unpacked,
)
from tailrace.sources.kinesis import ACTIVE, VIEW, destinations_of

# https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html
DEFAULT_TIME = "!{timestamp:yyyy/MM/dd/HH/}"
EXPRESSION = re.compile(r"!\{(?P<space>[A-Za-z]+):(?P<value>[^}]*)\}")
PATTERN = re.compile(r"'(?P<quoted>[^']*)'|(?P<letters>([A-Za-z])\3*)|(?P<other>.)", re.DOTALL)
UNITS = ("yyyy", "MM", "dd", "HH", "mm", "ss")
STRFTIME = dict(zip(UNITS, ("%Y", "%m", "%d", "%H", "%M", "%S"), strict=True))

# Keys may be in a time zone of their own, up to 12 hours behind UTC.
ZONES = timedelta(hours=12)

# What Firehose could not process lies in folders of these names (processing-failed,
# format-conversion-failed …), which follow the error output's prefix.
FAILED = re.compile(r"[A-Za-z]-failed/")

LISTINGS_MOST = 10_000
SAMPLE = datetime(2026, 1, 1, 12, tzinfo=UTC)

Converted = Callable[[Path, str], Iterable[bytes]]


# What the ledger knows a delivery stream's objects by: as IAM would write them.
ARN = re.compile(r"arn:aws:s3:::(?P<bucket>[^/]+)/(?P<prefix>.*)\*", re.DOTALL)


def arn_of(bucket: str, prefix: str) -> str:
    """The name of the objects of a delivery stream."""
    return f"arn:aws:s3:::{bucket}/{prefix}*"


@dataclass(frozen=True)
class FirehoseSource:
    """The delivery stream of one table. `stream_arn` is what an epoch follows, which may be another
    than is configured; None for what is configured."""

    aws: Aws
    table: str
    config: StreamConfig
    stream_arn: str | None
    converted: Converted

    @property
    def traits(self) -> StreamTraits:
        """Records as Kinesis has them, in objects."""
        return StreamTraits(
            source=FIREHOSE,
            shape=Shape.KINESIS_RECORDS,
            late=self.delivery,
            timed=True,
            ends=False,
        )

    @property
    def delivery(self) -> timedelta:
        """Within which time a change is delivered."""
        return timedelta(seconds=self._setting("delivery_seconds"))

    @property
    def late(self) -> timedelta:
        """How late an object may come under an old key."""
        return timedelta(hours=self._setting("late_hours"))

    def describe(self, table: TableDescription) -> TableDescription:
        """The table with its delivery stream; with None where it streams to no Kinesis stream, so
        that nothing can be delivered."""
        statuses = destinations_of(self.aws, self.table).values()
        arn = self._arn() if any(status in ACTIVE for status in statuses) else None
        return replace(table, stream_arn=arn, view_type=VIEW)

    def require(self, table: TableDescription) -> TableDescription:
        """As describe. Raises Terminal where the table streams to no Kinesis stream, which is where
        a delivery stream takes its changes from, where the bucket is gone, and where what lies in
        it has other keys."""
        described = self.describe(table)
        if described.stream_arn is None:
            raise Terminal(
                f"Table {self.table} streams to no Kinesis stream that is ACTIVE, so that Firehose"
                " delivers none of its changes.",
                f"Enable one: aws dynamodb enable-kinesis-streaming-destination --table-name"
                f" {self.table} --stream-arn ARN — and let the delivery stream read that.",
            )
        if self.stream_arn is None:
            self._objects_of(self._arn()).require_layout()
        return described

    def open(self, head: Head, epoch: Epoch, privacy: Privacy | None = None) -> FirehoseObjects:
        """The objects of the delivery stream that an epoch follows, read in private if they are
        to be."""
        return self._objects_of(epoch.stream_arn, privacy)

    def _objects_of(self, stream_arn: str, privacy: Privacy | None = None) -> FirehoseObjects:
        found = ARN.fullmatch(stream_arn)
        assert found is not None
        return FirehoseObjects(
            self.aws, self.table, found["bucket"], found["prefix"], self.converted, privacy
        )

    def _arn(self) -> str:
        if self.stream_arn is not None:
            return self.stream_arn
        assert isinstance(self.config, FirehoseConfig)
        return arn_of(self.config.bucket, self.config.prefix)

    def _setting(self, name: str) -> float:
        """What is configured, or the default once the table takes its changes from elsewhere."""
        default = FirehoseConfig.model_fields[name].default
        return float(getattr(self.config, name, default))


class FirehoseObjects:
    """The objects of one delivery stream, as far as they are of `table`. `prefix` is that of the
    delivery stream, its `!{…}` forms included; `converted` makes lines of the
    records in a Parquet file of that name. With `privacy` the records that are read are private,
    and no plain value is written. `calls` counts the calls made. Thread-safe."""

    def __init__(
        self,
        aws: Aws,
        table: str,
        bucket: str,
        prefix: str,
        converted: Converted,
        privacy: Privacy | None = None,
    ) -> None:
        self._aws = aws
        self._table = table
        self._bucket = bucket
        self._prefix = prefix
        self._static = static_prefix(prefix)
        self._converted = converted
        self._privacy = privacy
        self._taking_apart = Lock()
        self.calls = 0

    def listed(self, since: datetime) -> list[Delivery]:
        """What was delivered since then under a key of that time or later, in that order.

        A list is consistent: it holds every object that was put before it was asked for. Raises
        SourceMissing where the bucket is gone.
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        """
        found = [
            Delivery(key, int(each["Size"]), each["LastModified"], self._is_failed(key))
            for each in self._objects(first_key(self._prefix, since))
            if each["LastModified"] >= since and not (key := each["Key"]).endswith("/")
        ]
        return sorted(found, key=lambda each: (each.at, each.key))

    def require_layout(self) -> None:
        """Raises Terminal where objects lie under the prefix, but none has a key of its form:
        what is new would never be found."""
        page = self._listed_page()
        keys = [each["Key"] for each in page.get("Contents", ())]
        keys = [key for key in keys if not (key.endswith("/") or self._is_failed(key))]
        form = first_key(self._prefix, SAMPLE)
        if keys and not any(_is_of(form, key) for key in keys):
            raise Terminal(
                f"s3://{self._bucket} holds {keys[0]}; expected keys such as {form}….",
                "Write into stream.prefix exactly what the delivery stream has as its S3 prefix,"
                " with its last slash and its !{timestamp:…} forms, if any.",
            )

    def _listed_page(self, **further: str) -> Any:
        self.calls += 1
        return call(
            self._aws.client("s3").list_objects_v2,
            "s3:ListBucket",
            f"bucket {self._bucket}",
            self._aws.region,
            Bucket=self._bucket,
            Prefix=self._static,
            **further,
        )

    def _objects(self, after: str) -> Iterator[dict[str, Any]]:
        further: dict[str, str] = {"StartAfter": after} if after else {}
        for _ in range(LISTINGS_MOST):
            answer = self._listed_page(**further)
            yield from answer.get("Contents", ())
            if not answer.get("IsTruncated"):
                return
            further = {"ContinuationToken": answer["NextContinuationToken"]}
        raise Terminal(
            f"s3://{self._bucket}/{self._static} holds more than {LISTINGS_MOST * 1_000:,} objects"
            " that may be new.",
            "Write the delivery stream's time into stream.prefix, e.g."
            " orders/!{timestamp:yyyy/MM/dd/HH}/, so that only late keys are listed.",
        )

    def _is_failed(self, key: str) -> bool:
        return FAILED.search(key, len(self._static)) is not None

    def read(self, delivery: Delivery) -> Contents:
        """The table's records in an object, and what else it held.

        What cannot be read is told as damage, as is an object that is gone. Raises Terminal for a
        format that is not read at all."""
        name = f"s3://{self._bucket}/{delivery.key}"
        self.calls += 1
        try:
            body = self._body(delivery.key, name)
        except SourceMissing:
            return Contents(damage=f"{name} was deleted before it was read")
        if body.startswith(ORC):
            raise Terminal(
                f"{name} is an ORC file.",
                "Have Firehose deliver JSON, or convert it to Parquet.",
            )
        # Taking apart is Python's work: several at a time would only wait for each other.
        with self._taking_apart:
            found = take_apart(self._table, self._chunks(delivery.key, body, name), self._privacy)
        return Contents(
            changes=tuple(found.changes),
            rows=sum(map(len, found.changes)),
            coarse=sum(each.coarse for each in found.changes),
            bytes=sum(each.bytes for each in found.changes),
            oldest=_time(found.oldest),
            newest=_time(found.newest),
            others=dict(found.others),
            foreign=found.foreign,
            damage=f"{name} {found.damage}" if found.damage else "",
        )

    def _body(self, key: str, name: str) -> bytes:
        with explained("s3:GetObject", name, self._aws.region):
            body: bytes = (
                self._aws.client("s3").get_object(Bucket=self._bucket, Key=key)["Body"].read()
            )
            return body

    def _chunks(self, key: str, body: bytes, name: str) -> Iterator[bytes]:
        if not body.startswith(PARQUET):
            yield from unpacked(key, body)
            return
        with _as_file(body) as file:
            try:
                yield from self._converted(file, name)
            except ValueError as error:
                what = "is not a whole Parquet file of records" if self._privacy else str(error)
                raise DamagedError(what) from error


@contextmanager
def _as_file(body: bytes) -> Iterator[Path]:
    """A file that is on no disk, which only Linux has; elsewhere one in TMPDIR for the moment."""
    if not hasattr(os, "memfd_create"):
        with NamedTemporaryFile() as named:
            named.write(body)
            named.flush()
            yield Path(named.name)
        return
    with open(os.memfd_create("object"), "wb") as file:
        file.write(body)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def static_prefix(prefix: str) -> str:
    """What every key begins with: the prefix up to its first `!{…}` form."""
    return prefix.partition("!{")[0]


def first_key(prefix: str, at: datetime) -> str:
    """A text that sorts before every key of `at` and later, and as close to them as the prefix
    allows: its time is followed as long as it goes from the year to smaller units.

    Where the prefix names no time, Firehose appends year, month, day and hour."""
    if "!{timestamp:" not in prefix:
        prefix += DEFAULT_TIME
    local = at.astimezone(UTC) - ZONES
    text, units = "", iter(UNITS)
    end = 0
    for form in EXPRESSION.finditer(prefix):
        text += prefix[end : form.start()]
        end = form.end()
        if form["space"] != "timestamp":
            return text
        for piece in PATTERN.finditer(form["value"]):
            if piece["letters"] is None:
                text += piece["quoted"] if piece["quoted"] is not None else piece["other"]
            elif piece["letters"] == next(units, None):
                text += local.strftime(STRFTIME[piece["letters"]])
            else:
                return text
    return text + prefix[end:]


def _is_of(form: str, key: str) -> bool:
    """True where a key begins like this one, of another time."""
    return len(key) >= len(form) and all(
        mine == its or (mine.isdigit() and its.isdigit())
        for mine, its in zip(form, key, strict=False)
    )


def _time(micros: int | None) -> datetime | None:
    if micros is None:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)

"""What a Firehose behind a Kinesis stream leaves in S3: its records in objects that are named and
packed as AWS does (https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html).

When something is delivered, in which order and how often, is the caller's."""

from __future__ import annotations

import gzip
import io
import random
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sandbox.kinesis import Stream

EXTENSIONS = {"UNCOMPRESSED": "", "GZIP": ".gz", "ZIP": ".zip"}


@dataclass
class DeliveryStream:
    """One Firehose stream. `newlines` appends one to each record, as Firehose can be told to;
    `taken` is the last record of each shard that was taken."""

    name: str
    prefix: str = ""
    compression: str = "GZIP"
    newlines: bool = False
    random: random.Random = field(default_factory=random.Random)
    taken: dict[str, int] = field(default_factory=dict)

    def take(self, stream: Stream) -> list[bytes]:
        """The records that came to a Kinesis stream and were not taken yet, shard by shard."""
        records = []
        for shard in stream.shards.values():
            last = self.taken.get(shard.id, 0)
            records += [each.data for each in shard.records if each.sequence > last]
            if shard.records:
                self.taken[shard.id] = max(last, shard.records[-1].sequence)
        return records

    def packed(self, records: Sequence[bytes]) -> bytes:
        """An object's bytes."""
        end = b"\n" if self.newlines else b""
        body = b"".join(record + end for record in records)
        if self.compression == "GZIP":
            return gzip.compress(body, 6, mtime=0)
        if self.compression == "ZIP":
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("records", body)
            return file.getvalue()
        return body

    def key(self, arrived: int) -> str:
        """An object's key; `arrived` is when its oldest record did, in microseconds."""
        at = datetime.fromtimestamp(arrived / 1_000_000, UTC)
        name = uuid.UUID(int=self.random.getrandbits(128))
        return (
            f"{self.prefix}{at:%Y/%m/%d/%H/}{self.name}-1-{at:%Y-%m-%d-%H-%M-%S}-{name}"
            f"{EXTENSIONS[self.compression]}"
        )

"""ExportTableToPointInTime: what it refuses, how an export proceeds, and the files it leaves in S3,
in AWS's layout (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html).
The table's journal gives the state at the export's time; `sandbox.dynamodb` dispatches to here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from sandbox.clock import Clock
from sandbox.errors import AwsError, validation
from sandbox.streams import HASH_SPACE, Change, Image
from sandbox.tables import Table

SECOND = 1_000_000
TOKEN_MICROS = 8 * 3600 * SECOND
SHORTEST_WINDOW, LONGEST_WINDOW = 15 * 60 * SECOND, 24 * 3600 * SECOND


class NoSuchBucketError(Exception):
    """The bucket to export to does not exist."""


PutObject = Callable[[str, str, bytes], None]
"""(bucket, key, content) → stored; raises NoSuchBucketError."""


@dataclass
class Export:
    """One export. Times are microseconds; `window` is None for a full export."""

    table: Table
    request: dict[str, Any]
    id: str
    started: int
    time: int
    window: tuple[int, int] | None
    status: str = "IN_PROGRESS"
    ended: int | None = None
    items: int = 0
    bytes: int = 0
    failure: tuple[str, str] | None = None

    @property
    def arn(self) -> str:
        return f"{self.table.arn}/export/{self.id}"

    @property
    def folder(self) -> str:
        prefix = (self.request.get("S3Prefix") or "").rstrip("/")
        return f"{prefix}/AWSDynamoDB" if prefix else "AWSDynamoDB"

    @property
    def kind(self) -> str:
        return "FULL_EXPORT" if self.window is None else "INCREMENTAL_EXPORT"

    @property
    def view(self) -> str:
        asked = self.request.get("IncrementalExportSpecification") or {}
        return str(asked.get("ExportViewType", "NEW_AND_OLD_IMAGES"))

    def describe(self) -> dict[str, Any]:
        description = {
            "ExportArn": self.arn,
            "ExportStatus": self.status,
            "StartTime": self.started / SECOND,
            "TableArn": self.table.arn,
            "TableId": self.table.id,
            "ClientToken": self.request["ClientToken"],
            "S3Bucket": self.request["S3Bucket"],
            "S3SseAlgorithm": self.request.get("S3SseAlgorithm", "AES256"),
            "ExportFormat": self.request.get("ExportFormat", "DYNAMODB_JSON"),
            "ExportType": self.kind,
        }
        for name in ("S3Prefix", "S3BucketOwner", "S3SseKmsKeyId"):
            if self.request.get(name):
                description[name] = self.request[name]
        if self.window is None:
            description["ExportTime"] = self.time / SECOND
        else:
            description["IncrementalExportSpecification"] = {
                "ExportFromTime": self.window[0] // SECOND,
                "ExportToTime": self.window[1] // SECOND,
                "ExportViewType": self.view,
            }
        if self.ended is not None:
            description["EndTime"] = self.ended / SECOND
        if self.failure is not None:
            description["FailureCode"], description["FailureMessage"] = self.failure
        if self.status == "COMPLETED":
            description["ItemCount"] = self.items
            description["BilledSizeBytes"] = self.bytes
            description["ExportManifest"] = f"{self.folder}/{self.id}/manifest-summary.json"
        return description


@dataclass
class Exports:
    """All exports of a server. `seconds` is how long one stays IN_PROGRESS, `files` over how many
    data files it is spread (the last one is always empty, as an empty partition's is),
    `restore_lag_seconds` how far the latest restorable time is behind now."""

    clock: Clock
    lock: threading.RLock
    put_object: PutObject
    seconds: float = 0.5
    files: int = 4
    restore_lag_seconds: float = 300
    fail_next: tuple[str, str] | None = None
    by_arn: dict[str, Export] = field(default_factory=dict)

    def start(self, table: Table, request: dict[str, Any]) -> Export:
        """Starts an export, or finds the one that the same ClientToken started.

        Raises the exceptions of ExportTableToPointInTime."""
        now = self.clock.now()
        request = {"ClientToken": secrets.token_hex(16), **request}
        for export in self.by_arn.values():
            if export.request["ClientToken"] != request["ClientToken"]:
                continue
            if export.started + TOKEN_MICROS < now:
                continue
            if export.request != request:
                raise AwsError(
                    "ExportConflictException",
                    "There was a conflict when writing to the specified S3 bucket: the client "
                    "token was already used with other parameters",
                )
            return export
        window = self._window(table, request)
        export = Export(
            table=table,
            request=request,
            id=f"{now // 1000:014d}-{secrets.token_hex(4)}",
            started=now,
            time=self._time(table, request, now),
            window=window,
        )
        self.by_arn[export.arn] = export
        failure, self.fail_next = self.fail_next, None
        timer = threading.Timer(max(self.seconds, 0.005), self._finish, [export, failure])
        timer.daemon = True
        timer.start()
        return export

    def describe(self, arn: str) -> Export:
        if arn not in self.by_arn:
            raise AwsError("ExportNotFoundException", f"Export not found: {arn}")
        return self.by_arn[arn]

    def recovery(self, table: Table) -> tuple[int, int]:
        """The earliest and the latest time the table can be restored to."""
        now = self.clock.now()
        earliest = max(table.pitr_since or now, now - table.pitr_days * 86_400 * SECOND)
        return earliest, max(earliest, now - int(self.restore_lag_seconds * SECOND))

    def _time(self, table: Table, request: dict[str, Any], now: int) -> int:
        asked = request.get("ExportTime")
        if asked is None:
            return -(-now // 1000) * 1000
        time = int(asked * SECOND)
        earliest, latest = self.recovery(table)
        if not earliest <= time <= latest:
            raise AwsError(
                "InvalidExportTimeException",
                f"Export time {_iso(time)} is outside of the point in time recovery window "
                f"{_iso(earliest)} to {_iso(latest)}",
            )
        return time

    def _window(self, table: Table, request: dict[str, Any]) -> tuple[int, int] | None:
        if table.pitr_since is None:
            raise AwsError(
                "PointInTimeRecoveryUnavailableException",
                f"Point in time recovery is not enabled for table '{table.name}'",
            )
        if request.get("ExportFormat", "DYNAMODB_JSON") != "DYNAMODB_JSON":
            raise validation("the sandbox exports DYNAMODB_JSON only")
        if request.get("ExportType", "FULL_EXPORT") == "FULL_EXPORT":
            return None
        asked = request.get("IncrementalExportSpecification") or {}
        if "ExportFromTime" not in asked:
            raise validation("IncrementalExportSpecification.ExportFromTime is required")
        earliest, latest = self.recovery(table)
        start = int(asked["ExportFromTime"]) * SECOND
        end = int(asked.get("ExportToTime", latest // SECOND)) * SECOND
        if not earliest - SECOND < start < end <= latest:
            raise AwsError(
                "InvalidExportTimeException",
                f"Export window {_iso(start)} to {_iso(end)} is outside of the point in time "
                f"recovery window {_iso(earliest)} to {_iso(latest)}",
            )
        if not SHORTEST_WINDOW <= end - start <= LONGEST_WINDOW:
            raise AwsError(
                "InvalidExportTimeException",
                "Difference between export from time and export to time must be between "
                "15 minutes and 24 hours",
            )
        return start, end

    def _finish(self, export: Export, failure: tuple[str, str] | None) -> None:
        try:
            if failure is None:
                self._write(export)
        except NoSuchBucketError:
            failure = ("S3NoSuchBucket", "The specified bucket does not exist")
        export.failure = failure
        export.ended = export.ended or self.clock.now()
        export.status = "FAILED" if failure else "COMPLETED"

    def _write(self, export: Export) -> None:
        bucket, own = export.request["S3Bucket"], f"{export.folder}/{export.id}"
        self.put_object(bucket, f"{own}/_started", b"")
        # An incremental export keeps its data in a folder that all of them share.
        data = f"{own}/data" if export.window is None else f"{export.folder}/data"
        with self.lock:
            parts = self._parts(export)
        files = []
        for lines in parts:
            content = gzip.compress(b"".join(line + b"\n" for line in lines), 6)
            key = f"{data}/{secrets.token_hex(13)}.json.gz"
            self.put_object(bucket, key, content)
            digest = hashlib.md5(content, usedforsecurity=False)
            files.append(
                {
                    "itemCount": len(lines),
                    "md5Checksum": base64.b64encode(digest.digest()).decode(),
                    "etag": digest.hexdigest(),
                    "dataFileS3Key": key,
                }
            )
            export.items += len(lines)
        listing = b"".join(msgspec.json.encode(file) + b"\n" for file in files)
        self._put_with_checksum(bucket, f"{own}/manifest-files", listing)
        export.ended = self.clock.now()
        summary = msgspec.json.encode(self._summary(export, f"{own}/manifest-files.json"))
        self._put_with_checksum(bucket, f"{own}/manifest-summary", summary)

    def _parts(self, export: Export) -> list[list[bytes]]:
        parts: list[list[bytes]] = [[] for _ in range(self.files)]
        filled = max(1, self.files - 1)
        if export.window is None:
            for position, image in export.table.state_at(export.time).items():
                parts[position[0] * filled // HASH_SPACE].append(b'{"Item":' + image.raw + b"}")
                export.bytes += image.size
        else:
            for change in export.table.changes_between(*export.window):
                line = _incremental_line(change, export.view)
                parts[change.position[0] * filled // HASH_SPACE].append(line)
                export.bytes += len(line)
        return parts

    def _put_with_checksum(self, bucket: str, name: str, content: bytes) -> None:
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        self.put_object(bucket, f"{name}.json", content)
        self.put_object(bucket, f"{name}.checksum", base64.b64encode(digest))

    def _summary(self, export: Export, files_key: str) -> dict[str, Any]:
        request = export.request
        summary = {
            "version": "2020-06-30" if export.window is None else "2023-08-01",
            "exportArn": export.arn,
            "startTime": _iso(export.started),
            "endTime": _iso(export.ended or self.clock.now()),
            "tableArn": export.table.arn,
            "tableId": export.table.id,
            "exportTime": _iso(export.time),
            "s3Bucket": request["S3Bucket"],
            "s3Prefix": request.get("S3Prefix"),
            "s3SseAlgorithm": request.get("S3SseAlgorithm", "AES256"),
            "s3SseKmsKeyId": request.get("S3SseKmsKeyId"),
            "manifestFilesS3Key": files_key,
            "billedSizeBytes": export.bytes,
            "itemCount": export.items,
            "outputFormat": "DYNAMODB_JSON",
        }
        if export.window is not None:
            del summary["exportTime"]
            summary |= {
                "exportFromTime": _iso(export.window[0]),
                "exportToTime": _iso(export.window[1]),
                "outputView": export.view,
                "exportType": export.kind,
            }
        return summary


def _incremental_line(change: Change, view: str) -> bytes:
    line: dict[str, Any] = {
        "Metadata": {"WriteTimestampMicros": {"N": str(change.micros)}},
        "Keys": msgspec.Raw(change.keys),
    }
    images: list[tuple[str, Image | None]] = [("NewImage", change.new)]
    if view == "NEW_AND_OLD_IMAGES":
        images.insert(0, ("OldImage", change.old))
    line |= {name: msgspec.Raw(image.raw) for name, image in images if image is not None}
    return msgspec.json.encode(line)


def _iso(micros: int) -> str:
    moment = datetime.fromtimestamp(micros / SECOND, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

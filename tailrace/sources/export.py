"""Point-in-time exports in S3: start or adopt one, read its manifests, fetch its files verified.

A data file is gunzipped while it comes: isal does that several times faster than DuckDB or zlib.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime
from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import Any, Protocol

import msgspec
from isal import igzip, isal_zlib

from tailrace.config import ExportBase
from tailrace.errors import (
    RESTORE_OR_RESTART,
    AccessDenied,
    CorruptExport,
    Retryable,
    SourceMissing,
    Terminal,
)
from tailrace.lines import Lines
from tailrace.model import ExportFile, ExportManifest, ExportState, TableDescription, Window
from tailrace.privacy import Privacy
from tailrace.sources.aws import Aws, call, code_of, explained
from tailrace.sources.tables import point_in_time_recovery

FULL, INCREMENTAL = "FULL_EXPORT", "INCREMENTAL_EXPORT"
COMPLETED = "COMPLETED"
FAILED = "FAILED"

# What is gunzipped at a time, and then read by one thread of DuckDB's.
UNPACK_BYTES = 4 * 1024 * 1024

# What of a file is kept in memory; AWS's files are smaller as a rule.
IN_MEMORY_BYTES = 256 * 1024 * 1024

# What AWS writes before an item of a full export; after it comes one brace.
ITEM = b'{"Item":'

# AWS's docs name the files *.checksum, its own loader reads *.md5; neither is required.
CHECKSUM_SUFFIXES = (".checksum", ".md5")

FAILURES = {
    "S3NoSuchBucket": "Create the bucket, or correct base.bucket in tailrace.yaml",
    "S3AccessDenied": "Allow s3:PutObject, s3:PutObjectAcl and s3:AbortMultipartUpload on the"
    " bucket for the role or user that requests the export (docs/iam.md)",
}


class _Summary(msgspec.Struct):
    manifestFilesS3Key: str  # noqa: N815
    itemCount: int  # noqa: N815
    billedSizeBytes: int = 0  # noqa: N815
    outputFormat: str = "DYNAMODB_JSON"  # noqa: N815
    tableId: str | None = None  # noqa: N815
    exportTime: datetime | None = None  # noqa: N815
    exportType: str = FULL  # noqa: N815
    exportFromTime: datetime | None = None  # noqa: N815
    exportToTime: datetime | None = None  # noqa: N815


class _File(msgspec.Struct):
    itemCount: int  # noqa: N815
    dataFileS3Key: str  # noqa: N815
    md5Checksum: str | None = None  # noqa: N815


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    Item: msgspec.Raw


class TableExport:
    """The exports of one table to the bucket its base names."""

    def __init__(
        self, aws: Aws, table: str, base: ExportBase, privacy: Privacy | None = None
    ) -> None:
        self._aws = aws
        self._table = table
        self._base = base
        self._privacy = privacy

    @property
    def adopted(self) -> str | None:
        """The ARN of an export to use instead of requesting one."""
        return self._base.export_arn

    def latest_time(self) -> datetime:
        """The latest instant an export can be of, about five minutes ago. Raises Terminal where
        point-in-time recovery is off."""
        window = point_in_time_recovery(self._aws, self._table)
        if window is None:
            raise pitr_is_off(self._table)
        return window[1]

    def request(self, table: TableDescription, at: datetime, token: str) -> str:
        """Requests a full export of the table's state at `at` (whole seconds); returns its ARN.

        The same `token` and arguments give the same export again (8 hours). Raises Terminal where
        PITR is off, Retryable while PITR has not reached `at`.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_ExportTableToPointInTime.html
        """
        return self._request(table, token, ExportTime=at)

    def request_changes(
        self, table: TableDescription, window: Window, token: str, *, old_images: bool
    ) -> str:
        """Requests an incremental export of what changed in `window`, with the items as they were
        before it if `old_images`; returns its ARN. Otherwise like `request`."""
        return self._request(
            table,
            token,
            ExportType=INCREMENTAL,
            IncrementalExportSpecification={
                "ExportFromTime": window.begin,
                "ExportToTime": window.end,
                "ExportViewType": "NEW_AND_OLD_IMAGES" if old_images else "NEW_IMAGE",
            },
        )

    def _request(self, table: TableDescription, token: str, **what: Any) -> str:
        base = self._base
        encryption: dict[str, Any] = {"S3SseAlgorithm": "AES256"}
        if base.kms_key_id:
            encryption = {"S3SseAlgorithm": "KMS", "S3SseKmsKeyId": base.kms_key_id}
        owner = {"S3BucketOwner": base.bucket_owner} if base.bucket_owner else {}
        prefix = {"S3Prefix": base.prefix} if base.prefix else {}
        try:
            answer = call(
                self._aws.client("dynamodb").export_table_to_point_in_time,
                "dynamodb:ExportTableToPointInTime",
                f"table {table.name} (to bucket {base.bucket})",
                self._aws.region,
                TableArn=table.arn,
                ClientToken=token,
                S3Bucket=base.bucket,
                ExportFormat="DYNAMODB_JSON",
                **what,
                **prefix,
                **owner,
                **encryption,
            )
        except Terminal as error:
            raise _export_refused(error, table) or error from error
        return str(answer["ExportDescription"]["ExportArn"])

    def state(self, arn: str) -> ExportState:
        """The state of an export. Raises SourceMissing after 90 days, or for an unknown ARN."""
        description = call(
            self._aws.client("dynamodb").describe_export,
            "dynamodb:DescribeExport",
            f"export {arn}",
            self._aws.region,
            ExportArn=arn,
        )["ExportDescription"]
        failure = None
        if description["ExportStatus"] == FAILED:
            code = description.get("FailureCode") or "no code"
            failure = f"{code}: {description.get('FailureMessage') or 'no message'}"
        return ExportState(
            arn=arn,
            status=description["ExportStatus"],
            export_time=description.get("ExportTime"),
            bucket=description["S3Bucket"],
            manifest_key=description.get("ExportManifest"),
            failure=failure,
        )

    def failed(self, state: ExportState) -> Terminal:
        """The error of a FAILED export: AWS's reason and what to do about it."""
        code = (state.failure or "").partition(":")[0]
        remedy = FAILURES.get(code, "Mend what the reason names")
        return Terminal(
            f"The export {state.arn} of table {self._table} to bucket {state.bucket} failed:"
            f" {state.failure}",
            f"{remedy}; then start the base again: a new export is requested.",
        )

    def manifest(self, state: ExportState) -> ExportManifest:
        """An export's manifests, checked against their checksum files (where there are any) and
        against each other. Raises CorruptExport."""
        bucket, summary_key = state.bucket, state.manifest_key or ""
        summary = _decode(_Summary, self._object(bucket, summary_key), bucket, summary_key)
        if summary.outputFormat != "DYNAMODB_JSON":
            raise Terminal(
                f"s3://{bucket}/{summary_key} describes an export in {summary.outputFormat};"
                " expected DYNAMODB_JSON.",
                "Name an export in DynamoDB JSON in base.export_arn, or leave it out.",
            )
        body = self._object(bucket, summary.manifestFilesS3Key)
        lines = [line for line in body.splitlines() if line.strip()]
        window = None
        if summary.exportFromTime and summary.exportToTime:
            window = Window(summary.exportFromTime, summary.exportToTime)
        files = tuple(
            ExportFile(each.dataFileS3Key, each.itemCount, each.md5Checksum, window is not None)
            for each in (_decode(_File, line, bucket, summary.manifestFilesS3Key) for line in lines)
        )
        total = sum(each.items for each in files)
        if total != summary.itemCount:
            raise CorruptExport(
                f"s3://{bucket}/{summary.manifestFilesS3Key} lists {len(files)} files with {total}"
                f" items, but manifest-summary.json counts {summary.itemCount}.",
                "The manifest was altered or cut off. Nothing was loaded. " + RESTORE_OR_RESTART,
            )
        size = summary.billedSizeBytes
        return ExportManifest(
            bucket, summary.tableId, summary.exportTime, total, files, window, size
        )

    def fetch(self, bucket: str, file: ExportFile, folder: Path) -> list[Lines]:
        """What a data file holds, as `unpack` returns it."""
        with explained("s3:GetObject", f"s3://{bucket}/{file.key}", self._aws.region):
            body = self._aws.client("s3").get_object(Bucket=bucket, Key=file.key)["Body"]
            return unpack(body, file, f"s3://{bucket}/{file.key}", folder, self._privacy)

    def _object(self, bucket: str, key: str) -> bytes:
        """A manifest's bytes, checked against its checksum file if it has one."""
        body = self._get(bucket, key)
        stem = key.removesuffix(".json")
        for suffix in CHECKSUM_SUFFIXES:
            try:
                expected = self._get(bucket, stem + suffix).decode().strip()
            except (
                SourceMissing,
                AccessDenied,
            ):  # S3 says 403 for a missing key without ListBucket
                continue
            found = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            if found != expected:
                raise CorruptExport(
                    f"s3://{bucket}/{key} has the MD5 {found}, but {stem}{suffix} says {expected}.",
                    "The manifest was altered. Nothing was loaded. " + RESTORE_OR_RESTART,
                )
            break
        return body

    def _get(self, bucket: str, key: str) -> bytes:
        with explained("s3:GetObject", f"s3://{bucket}/{key}", self._aws.region):
            body: bytes = self._aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            return body


class Body(Protocol):
    """Compressed bytes as they come."""

    def readinto(self, buffer: Any, /) -> int: ...


class _Hashed(RawIOBase):
    """A body whose MD5 is taken as it is read."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._digest = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def readinto(self, buffer: Any) -> int:
        size = self._body.readinto(buffer)
        self._digest.update(memoryview(buffer)[:size])
        self.size += size
        return size

    def md5(self) -> str:
        """Reads the body to its end; the MD5 of all of it, in base64."""
        while self.read(UNPACK_BYTES):
            pass
        return base64.b64encode(self._digest.digest()).decode()


def unpack(
    body: Body, file: ExportFile, name: str, folder: Path, privacy: Privacy | None = None
) -> list[Lines]:
    """What the data file `name` holds, an item or a change a text, checked: it is a whole gzip file
    with the MD5 and the item count of its manifest. With `privacy` no plain value is kept. What
    goes beyond IN_MEMORY_BYTES lies in a file in `folder` that has no name.

    Raises CorruptExport; what reading `body` raises goes through."""
    hashed = _Hashed(body)
    take = _changes if file.incremental else _items
    lines: list[Lines] = []
    kept, fault = 0, None
    try:
        with igzip.GzipFile(fileobj=hashed, mode="rb") as stream:
            for text in _whole_lines(stream):
                taken = take(text, name)
                if privacy is not None:
                    private = privacy.changes if file.incremental else privacy.items
                    taken = Lines.of(private(b"\n".join(taken)), name)
                kept += len(taken.data)
                taken = taken if kept <= IN_MEMORY_BYTES else taken.on_disk(folder)
                lines.append(taken.with_views())
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]
        fault = f"is not a whole gzip file: {error}."
    except msgspec.DecodeError as error:
        fault = f'holds a line that is not {{"Item":…}}: {error}.'
    found = sum(map(len, lines))
    md5 = hashed.md5()
    if file.md5 and md5 != file.md5:
        fault = f"({hashed.size} bytes) has the MD5 {md5}, but its manifest says {file.md5}."
    elif fault is None and found != file.items:
        fault = f"holds {found} items, but its manifest counts {file.items}."
    if fault is not None:
        raise CorruptExport(
            f"{name} {fault}",
            "The file was truncated or altered after the export. Nothing of it was loaded. "
            + RESTORE_OR_RESTART,
        )
    return lines


def _whole_lines(stream: BufferedIOBase) -> Iterator[memoryview]:
    """The text of a stream, some whole lines at a time, each in a buffer of its own."""
    begun = memoryview(b"")
    while True:
        buffer = bytearray(len(begun) + UNPACK_BYTES)
        text, size = memoryview(buffer), len(begun)
        text[:size] = begun
        while size < len(buffer) and (read := stream.readinto(text[size:])):
            size += read
        if size < len(buffer):  # the last text: it may be small, so it does not keep its buffer
            if size:
                yield memoryview(bytes(text[:size]))
            return
        end = buffer.rfind(b"\n") + 1
        if end:
            yield text[:end]
        begun = text[end:]


def _items(text: memoryview, name: str) -> Lines:
    """The items of lines {"Item":…}. Raises msgspec.DecodeError for a line that is another.

    What else stands in a line that begins as AWS writes it is left beside the item, which then is
    no JSON: whoever reads the items refuses it."""
    lines = Lines.of(text, name)
    items = lines.within(ITEM, b"}")
    return Lines.joined(map(_item, lines), name) if items is None else items


def _item(line: bytes) -> msgspec.Raw:
    return msgspec.json.decode(line, type=_Line).Item


def _changes(text: memoryview, name: str) -> Lines:
    """Lines of an incremental export as they are."""
    return Lines.of(text, name)


def _export_refused(error: Terminal, table: TableDescription) -> Exception | None:
    code = code_of(error)
    if code == "PointInTimeRecoveryUnavailableException":
        return pitr_is_off(table.name)
    if code == "InvalidExportTimeException":
        return Retryable(
            f"Point-in-time recovery of {table.name} has not reached the export's time yet:"
            f" {error.message}",
            "It lags by about five minutes; run again.",
        )
    if code == "NoSuchBucket":
        return SourceMissing(error.message, FAILURES["S3NoSuchBucket"] + ".")
    return None


def pitr_is_off(table: str) -> Terminal:
    """The refusal of an export where PITR is off, with both ways out."""
    return Terminal(
        f"Point-in-time recovery of table {table} is off; an export needs it.",
        f"Enable it: aws dynamodb update-continuous-backups --table-name {table}"
        " --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true"
        " — or set base.method: scan.",
    )


def _decode(kind: Any, body: bytes, bucket: str, key: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptExport(
            f"s3://{bucket}/{key} is not the manifest that AWS writes: {error}.",
            "It was altered or cut off. Nothing was loaded. " + RESTORE_OR_RESTART,
        ) from error

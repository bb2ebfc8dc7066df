"""What an object holds that Firehose delivered: unpacked, and taken apart into records.

Firehose joins the records of a buffer as they came, with or without newlines between them, and
packs them or not. A record is kept as the bytes that came; only what its place in the order needs
is read from it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
from isal import igzip, isal_zlib

from tailrace.changes import MICROSECOND, Changes, Record, records_of
from tailrace.privacy import Privacy
from tailrace.sources import snappy

# What is unpacked at a time: it should fit the processor's cache.
UNPACK_BYTES = 256 * 1024

# What is gathered in one buffer, and then read by one thread of DuckDB's.
GATHERED_BYTES = 12 * 1024 * 1024

GZIP, ZIP, PARQUET, ORC = b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"ORC"
SNAPPY_NAMES = (".snappy", ".hsnappy")

# How the records begin that DynamoDB sends. No letter can follow the quote that ends a text, so
# between a brace and this lies always the end of a record, and never the inside of a text.
HEAD = b'{"awsRegion":'
ANY_HEAD = re.compile(rb'\s*(\{\s*"[A-Za-z][^"\\]*"\s*:)')
BEGINNING = re.compile(r'\{\s*"[A-Za-z]')

# What tells a record of DynamoDB's where it cannot be read: then a change is lost.
OURS = (b'"awsRegion"', b'"aws:dynamodb"', b'"dynamodb"')

# What a version holds of a record's id and of its time: tailrace.lake.version.
ID_MOST = 56
MICROS_MOST = 10**16


class DamagedError(ValueError):
    """What AWS delivered is not whole any more; the text says how."""


@dataclass
class Found:
    """What an object held: records of the table, and the first and last time of a change in
    microseconds; how many records were of which other tables, how many were none of DynamoDB's; and
    what of it may be lost, in words."""

    changes: list[Changes] = field(default_factory=list)
    oldest: int | None = None
    newest: int | None = None
    others: Counter[str] = field(default_factory=Counter)
    foreign: int = 0
    damage: str = ""


_any = msgspec.json.Decoder(msgspec.Raw)
_scan = json.JSONDecoder()


def unpacked(key: str, body: bytes) -> Iterator[bytes]:
    """The text of an object, piece by piece: gzip, zip, snappy or plain. Raises DamagedError
    where it is cut off."""
    try:
        if body.startswith(GZIP):
            with igzip.GzipFile(fileobj=io.BytesIO(body), mode="rb") as stream:
                while chunk := stream.read(UNPACK_BYTES):
                    yield chunk
        elif body.startswith(ZIP):
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                for name in archive.namelist():
                    yield archive.read(name)
        elif key.endswith(SNAPPY_NAMES) or body.startswith((snappy.FRAMED, snappy.XERIAL)):
            yield from snappy.chunks(body)
        else:
            for at in range(0, len(body), UNPACK_BYTES):
                yield body[at : at + UNPACK_BYTES]
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]
        raise DamagedError(f"is not a whole gzip file: {error}") from error
    except zipfile.BadZipFile as error:
        raise DamagedError(f"is not a whole zip file: {error}") from error
    except snappy.NotSnappyError as error:
        raise DamagedError(f"is not a whole snappy file: {error}") from error


def take_apart(table: str, chunks: Iterable[bytes], privacy: Privacy | None = None) -> Found:
    """What an object of these chunks holds; the records of `table`, private if they are to be."""
    taking = _Taking(table, privacy)
    try:
        taking.all_of(iter(chunks))
    except DamagedError as error:
        taking.found.damage = str(error)
    taking.gather()
    return taking.found


class _Taking:
    """One object being taken apart."""

    def __init__(self, table: str, privacy: Privacy | None) -> None:
        self._table = table
        self._privacy = privacy
        self._own: list[Record] = []
        self._own_bytes = 0
        self.found = Found()

    def all_of(self, chunks: Iterator[bytes]) -> None:
        left = b""
        heads: tuple[bytes, ...] = ()
        for chunk in chunks:
            text = left + chunk
            heads = heads or _heads(text)
            end = 1 + max(text.rfind(b"\n"), *(text.rfind(b"}" + head) for head in heads))
            whole, left = memoryview(text)[:end], text[end:]
            if (
                not self._take(whole)
                and (unread := self._one_by_one(bytes(whole), heads)) is not None
            ):
                self._slowly(unread + left + b"".join(chunks))
                return
        if not self._take(left) and (unread := self._one_by_one(left, heads)) is not None:
            self._slowly(unread)

    def _take(self, text: bytes) -> bool:
        """Takes a text that holds whole records and nothing else; returns whether it was one. The
        hot path."""
        if self._privacy is not None:
            return False
        try:
            records = records_of(text)
        except (ValueError, RecursionError):
            return False
        if not all(map(_is_whole, records)):
            return False
        own = [each for each in records if each.table == self._table]
        if len(own) < len(records):
            self.found.others.update(each.table for each in records if each.table != self._table)
        self._add(own, len(text))
        return True

    def _add(self, own: list[Record], size: int) -> None:
        self._own += own
        self._own_bytes += size
        if self._own_bytes > GATHERED_BYTES:
            self.gather()

    def _one_by_one(self, text: bytes, heads: Iterable[bytes]) -> bytes | None:
        """Takes records that each begin with a head or on a line of their own, up to what is
        none; returns that and what follows, or None."""
        for head in heads:
            text = text.replace(b"}" + head, b"}\n" + head)
        lines = text.split(b"\n")
        number = self._lines(lines)
        return b"\n".join(lines[number:]) if number < len(lines) else None

    def _lines(self, lines: list[bytes]) -> int:
        """Takes lines that each hold one JSON value, or nothing, up to one that does not; returns
        how many."""
        for number, line in enumerate(lines):
            try:
                (record,) = records_of(line)
            except (ValueError, RecursionError) as error:
                if not self._is_other(line, error):
                    return number
                continue
            if not _is_whole(record):
                self.found.foreign += 1
            elif record.table != self._table:
                self.found.others[record.table] += 1
            elif self._privacy is None:
                self._add([record], len(line))
            else:
                self._add(records_of(self._privacy.records(line)), len(line))
        return len(lines)

    def gather(self) -> None:
        """Makes columns of what was taken so far."""
        if not self._own:
            return
        changes, found = Changes.of_kinesis(self._own).with_views(), self.found
        self._own, self._own_bytes = [], 0
        first, last = int(changes.micros.min()), int(changes.micros.max())
        found.oldest = first if found.oldest is None else min(found.oldest, first)
        found.newest = last if found.newest is None else max(found.newest, last)
        found.changes.append(changes)

    def _is_other(self, line: bytes, error: Exception) -> bool:
        """Counts a line that holds one JSON value of somebody else's, or nothing."""
        if isinstance(error, msgspec.ValidationError):
            return self._foreign(line)
        return not line.strip()

    def _foreign(self, line: bytes) -> bool:
        try:
            _any.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return False
        self.found.foreign += 1
        return True

    def _slowly(self, body: bytes) -> None:
        """Takes JSON values one behind the other, whatever stands between them."""
        text, at = body.decode("utf-8", "surrogateescape"), 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            try:
                _, end = _scan.raw_decode(text, at)
                is_read = bool(self._lines([_in_one_line(text[at:end])]))
            except (ValueError, RecursionError):
                end, is_read = _next(text, at), False
            if not is_read:
                self._unreadable(_in_one_line(text[at:end]))
            at = end

    def _unreadable(self, part: bytes) -> None:
        if any(mark in part for mark in OURS):
            shown = "" if self._privacy else f": {part[:60].decode('utf-8', 'replace')!r}"
            self.found.damage = f"holds a record that cannot be read{shown}"
        else:
            self.found.foreign += 1


def _is_whole(record: Record) -> bool:
    """Whether a record has its key and its place in the order."""
    change = record.change
    if change.time is None:
        return False
    micros = change.time if change.precision == MICROSECOND else change.time * 1_000
    is_placed = 0 < len(record.id) <= ID_MOST and 0 <= micros < MICROS_MOST
    return is_placed and len(change.keys) > 0 and bool(record.op and record.table)


def _heads(text: bytes) -> tuple[bytes, ...]:
    """What a record may begin with: as DynamoDB's do, and as the first one does."""
    first = ANY_HEAD.match(text)
    return tuple({HEAD, first[1]}) if first else (HEAD,)


def _next(text: str, at: int) -> int:
    """Where something else may begin after what cannot be read."""
    begins = BEGINNING.search(text, at + 1)
    ends = text.find("\n", at)
    return min(each for each in (begins and begins.start(), ends, len(text)) if each and each > 0)


def _in_one_line(text: str) -> bytes:
    """A value without its newlines: between tokens they mean nothing, in texts none can be."""
    return text.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogateescape")

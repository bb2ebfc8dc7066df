"""The ports of capture, filled in memory and scripted: a clock that only sleeping moves, a table
that is scanned or exported, a stream of shards. The log is the simulation's."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tailrace.errors import IteratorExpired, SourceMissing, TailraceError, Terminal, Trimmed
from tailrace.lines import Lines
from tailrace.model import (
    OPEN,
    Commit,
    Epoch,
    ExportFile,
    ExportManifest,
    ExportState,
    KeyAttribute,
    RecordPage,
    ScanPage,
    Shard,
    StreamTraits,
    TableDescription,
    Window,
)
from tailrace.sources.export import unpack
from tests.simulation.memory_log import MemoryLog, Store

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
STREAM = "arn:aws:dynamodb:us-east-1:1:table/orders/stream/2026-10-01T00:00:00.000"
TABLE = TableDescription(
    "orders", "arn:table", "id-1", (KeyAttribute("pk", "S"),), STREAM, "NEW_IMAGE"
)


class FakeClock:
    """Stands still unless somebody sleeps."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds

    def aws_now(self) -> datetime:
        return NOW + timedelta(seconds=self.elapsed)


class Killed(BaseException):
    """The process ends here."""


def open_log(
    method: str = "scan", hook: Callable[[str], None] = lambda moment: None, **detail: Any
) -> tuple[MemoryLog, Store]:
    """A log with one open epoch."""
    store = Store()
    log = MemoryLog(store)
    epoch = Epoch(1, "full", method, OPEN, "id-1", STREAM, NOW, NOW, detail)
    log.open_epoch("orders", TABLE, epoch)
    return MemoryLog(store, hook), store


def reach(log: MemoryLog, *states: str) -> None:
    """Takes the newest epoch through `states`."""
    for state in states:
        epoch = log.head("orders").epoch
        assert epoch is not None
        log.commit("orders", Commit(epoch, state=state, at=NOW))


@dataclass
class FakeShard:
    """`numbers` are its records' sequence numbers; each writes the key k<number>. `empties` are
    answered before the record of that index is."""

    id: str
    numbers: list[int] = field(default_factory=list)
    parent: str | None = None
    closed: bool = False
    empties: dict[int, int] = field(default_factory=dict)
    trimmed: int = 0


class FakeStream:
    """A stream of two records a page. `before_read` may raise, or change the world."""

    traits = StreamTraits()
    notices: tuple[str, ...] = ()

    def __init__(self, *shards: FakeShard) -> None:
        self.all = {each.id: each for each in shards}
        self.calls = 0
        self.reads = 0
        self.listings = 0
        self.before_read: Callable[[int], None] = lambda number: None
        self.before_listing: Callable[[int], None] = lambda number: None
        self.started: list[tuple[str, str | None]] = []
        self.unlisted: set[str] = set()
        self.asked_children: list[str] = []

    def shards(self, stream_arn: str) -> list[Shard]:
        self.listings += 1
        self.before_listing(self.listings)
        return [
            Shard(each.id, each.parent, each.closed)
            for each in self.all.values()
            if each.id not in self.unlisted
        ]

    def children(self, stream_arn: str, shard: str) -> list[Shard]:
        self.asked_children.append(shard)
        return [Shard(x.id, x.parent, x.closed) for x in self.all.values() if x.parent == shard]

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str:
        if shard not in self.all:
            raise SourceMissing(f"ResourceNotFoundException: {shard}")
        found = self.all[shard]
        if after is not None and int(after) <= found.trimmed:
            raise Trimmed(f"shard {shard} no longer holds {after}")
        self.started.append((shard, after))
        first = max(int(after or 0), found.trimmed)
        return str(sum(number <= first for number in found.numbers))

    def read(self, iterator: str, shard: str, limit: int = 1000) -> RecordPage:
        self.reads += 1
        self.before_read(self.reads)
        found, index = self.all[shard], int(iterator)
        if found.empties.get(index, 0):
            found.empties[index] -= 1
            return RecordPage(b"", 0, None, None, None, iterator)
        numbers = found.numbers[index : index + min(limit, 2)]
        index += len(numbers)
        ended = found.closed and index >= len(found.numbers)
        lines = b"".join(json.dumps(_record(each)).encode() + b"\n" for each in numbers)
        last = str(numbers[-1]) if numbers else None
        time = NOW - timedelta(minutes=1) if numbers else None
        return RecordPage(lines, len(numbers), last, time, time, None if ended else str(index))

    def whole(self, page: RecordPage) -> RecordPage:
        return page


def expired(*reads: int) -> Callable[[int], None]:
    """A `before_read` whose `reads`-th calls find the iterator expired."""

    def check(number: int) -> None:
        if number in reads:
            raise IteratorExpired("expired")

    return check


def _record(number: int) -> dict[str, Any]:
    item = {"pk": {"S": f"k{number}"}}
    change = {"Keys": item, "NewImage": item, "SequenceNumber": str(number)}
    time = (NOW - timedelta(minutes=1)).timestamp()
    return {"eventName": "INSERT", "dynamodb": change | {"ApproximateCreationDateTime": time}}


def landed(store: Store) -> list[str]:
    """The keys in the log, in the order in which they landed."""
    return [json.loads(row.key)["pk"]["S"] for row in store.rows]


class FakeScan:
    """Segment n of m holds the items whose number leaves n when divided by m; one a page."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.pages: list[tuple[int, str | None]] = []
        self.before_page: Callable[[int], None] = lambda number: None

    def page(self, segment: int, segments: int, start: str | None) -> ScanPage:
        self.before_page(len(self.pages) + 1)
        self.pages.append((segment, start))
        own = list(range(segment, self.items, segments))
        at = 0
        if start is not None:
            total, last = map(int, start.split("/"))
            if total != segments:
                raise Terminal("The provided starting key is of another TotalSegments")
            at = own.index(last) + 1
        lines = b"".join(
            json.dumps({"pk": {"S": f"i{each}"}}).encode() + b"\n" for each in own[at : at + 1]
        )
        more = f"{segments}/{own[at]}" if at + 1 < len(own) else None
        return ScanPage(lines, int(bool(lines)), more, 5.0, NOW)


class FakeExport:
    """Exports whose files lie in a folder; each is asked for by its token, as AWS does."""

    def __init__(self, folder: Path, files: list[list[str]]) -> None:
        self.folder = folder
        self.adopted: str | None = None
        self.latest = NOW - timedelta(minutes=5)
        self.requests: dict[str, datetime] = {}
        self.windows: dict[str, Window] = {}
        self.fetched: list[str] = []
        self.failure: str | None = None
        self.table_id = "id-1"
        self.time: datetime | None = None
        self.after_request: Callable[[], None] = lambda: None
        self.files = tuple(self._write(number, keys) for number, keys in enumerate(files))

    def _write(self, number: int, keys: list[str]) -> ExportFile:
        lines = "".join(f'{{"Item":{{"pk":{{"S":"{key}"}}}}}}\n' for key in keys)
        content = gzip.compress(lines.encode())
        (self.folder / f"f{number}.json.gz").write_bytes(content)
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        return ExportFile(f"f{number}.json.gz", len(keys), digest)

    def latest_time(self) -> datetime:
        self.latest += timedelta(seconds=60)
        return self.latest

    def request(self, table: TableDescription, at: datetime, token: str) -> str:
        assert at <= self.latest, "PITR has not reached it"
        self.requests.setdefault(token, at)
        self.after_request()
        return f"arn:export/{token}"

    def request_changes(
        self, table: TableDescription, window: Window, token: str, *, old_images: bool
    ) -> str:
        assert window.end <= self.latest, "PITR has not reached it"
        self.windows.setdefault(token, window)
        self.after_request()
        return f"arn:export/{token}"

    def state(self, arn: str) -> ExportState:
        status = "FAILED" if self.failure else "COMPLETED"
        time = self.time or self.requests.get(arn.rpartition("/")[2])
        return ExportState(arn, status, time, "bucket", "manifest", self.failure)

    def failed(self, state: ExportState) -> TailraceError:
        return Terminal(f"The export failed: {state.failure}")

    def manifest(self, state: ExportState) -> ExportManifest:
        total = sum(each.items for each in self.files)
        window = self.windows.get(state.arn.rpartition("/")[2])
        return ExportManifest("bucket", self.table_id, state.export_time, total, self.files, window)

    def fetch(self, bucket: str, file: ExportFile, folder: Path) -> list[Lines]:
        self.fetched.append(file.key)
        with (self.folder / file.key).open("rb") as body:
            return unpack(body, file, file.key, folder)


def dies_at(moment: str, number: int) -> Callable[[str], None]:
    """A hook for the log: the process is killed at the `number`-th such moment, all its threads
    with it."""
    seen: list[str] = []
    dead: list[str] = []

    def hook(now: str) -> None:
        seen.append(now)
        if dead or (now == moment and seen.count(moment) == number):
            dead.append(now)
            raise Killed

    return hook

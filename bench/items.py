"""What AWS would send: items of about 1 KB in DynamoDB JSON, and the records that change them.

Eighteen attributes: short and long strings, numbers, a flag, a set, a nested map and a list of
maps. Every item is different, and follows from its number.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import uuid
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tailrace.model import KeyAttribute

KEY = (KeyAttribute("customer", "S"), KeyAttribute("placed", "N"))
ATTRIBUTES = 18

_START = 1_790_000_000
_WORDS = (
    "river", "turbine", "channel", "gate", "sluice", "weir", "basin", "tunnel", "penstock", "shaft",
    "rotor", "valve", "crest", "spill", "level", "gauge", "meter", "pump", "canal", "lock", "dam",
    "reservoir", "intake", "surge", "outlet", "stream", "current", "flow",
)  # fmt: skip
_CITIES = ("Basel", "Porto", "Turku", "Lyon", "Graz", "Cork", "Lund", "Bari", "Ghent", "Bergen")
_STATES = ("open", "paid", "packed", "shipped", "returned")


class Items:
    """Items by number: the same number gives the same key, a new `revision` another content."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._notes = [
            " ".join(self._random.choices(_WORDS, k=self._random.randint(16, 28)))
            for _ in range(4_000)
        ]
        self._streets = [
            f"{self._random.choice(_WORDS).title()} {self._random.choice(_WORDS)} street"
            for _ in range(500)
        ]

    def key(self, number: int) -> str:
        """The key of an item, as DynamoDB JSON."""
        return f'{{"customer":{{"S":"c-{number:012d}"}},"placed":{{"N":"{_START + number}"}}}}'

    def item(self, number: int, revision: int = 0) -> str:
        """An item, as DynamoDB JSON."""
        r = self._random
        bits = r.getrandbits(128)
        cents = bits % 9_000_000 + 1_000_000
        city = _CITIES[bits % 10]
        state = _STATES[(bits >> 8) % 5]
        street = self._streets[(bits >> 16) % 500]
        note = self._notes[(bits >> 32) % 4_000]
        paid = "true" if bits & 1 else "false"
        at = _START + number % 30_000_000
        lines = ",".join(
            f'{{"M":{{"sku":{{"S":"SKU-{(bits >> shift) % 1_000_000:06d}"}},'
            f'"count":{{"N":"{(bits >> shift) % 9 + 1}"}},'
            f'"price":{{"N":"{(bits >> shift) % 90_000 + 10_000}.{bits % 90 + 10}"}}}}}}'
            for shift in (40, 60, 80)
        )
        return (
            f'{{"customer":{{"S":"c-{number:012d}"}},"placed":{{"N":"{_START + number}"}},'
            f'"order_id":{{"S":"{bits:032x}"}},"state":{{"S":"{state}"}},'
            f'"revision":{{"N":"{revision}"}},"total":{{"N":"{cents // 100}.{cents % 90 + 10}"}},'
            f'"currency":{{"S":"EUR"}},"paid":{{"BOOL":{paid}}},'
            f'"email":{{"S":"user{bits % 999_983}@example.com"}},'
            f'"created_at":{{"S":"{at}"}},"updated_at":{{"N":"{at + revision}"}},'
            f'"weight_grams":{{"N":"{bits % 20_000}"}},"channel":{{"S":"web"}},'
            f'"note":{{"S":"{note}"}},"tags":{{"SS":["{state}","{city}"]}},'
            f'"address":{{"M":{{"street":{{"S":"{street}"}},"city":{{"S":"{city}"}},'
            f'"zip":{{"S":"{bits % 90_000 + 10_000}"}},"geo":{{"M":{{'
            f'"lat":{{"N":"{bits % 89}.{bits % 9_999}"}},'
            f'"lon":{{"N":"{bits % 179}.{bits % 9_973}"}}}}}}}}}},'
            f'"lines":{{"L":[{lines}]}},'
            f'"trace":{{"S":"{bits ^ 0x5DEECE66D:032x}{bits >> 3:032x}"}}}}'
        )

    def record(self, number: int, sequence: int, event: str = "MODIFY") -> str:
        """A stream record of an item, with both images where the event has both."""
        new = f'"NewImage":{self.item(number, 1)},' if event != "REMOVE" else ""
        old = f'"OldImage":{self.item(number)},' if event != "INSERT" else ""
        return (
            f'{{"eventID":"{self._random.getrandbits(128):032x}","eventName":"{event}",'
            f'"eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"us-east-1",'
            f'"dynamodb":{{"ApproximateCreationDateTime":{_START + sequence // 1_000},'
            f'"Keys":{self.key(number)},{new}{old}"SequenceNumber":"{10**23 + sequence}",'
            f'"SizeBytes":1700,"StreamViewType":"NEW_AND_OLD_IMAGES"}}}}'
        )

    def kinesis_record(self, number: int) -> str:
        """A record of an item as DynamoDB sends it to Kinesis, with both images."""
        bits = self._random.getrandbits(128)
        return (
            f'{{"awsRegion":"us-east-1","eventID":"{uuid.UUID(int=bits)}","eventName":"MODIFY",'
            f'"userIdentity":null,"recordFormat":"application/json","tableName":"bench",'
            f'"dynamodb":{{"ApproximateCreationDateTime":{_START * 1_000_000 + number},'
            f'"Keys":{self.key(number)},"NewImage":{self.item(number, 1)},'
            f'"OldImage":{self.item(number)},"SizeBytes":1700,'
            f'"ApproximateCreationDateTimePrecision":"MICROSECOND"}},"eventSource":"aws:dynamodb"}}'
        )


def scan_pages(folder: Path, items: int, per_page: int = 1_000) -> None:
    """Writes `items` as pages for the replay server, where they are not there yet."""
    made = Items()
    _pages(
        folder,
        [
            '"Items":['
            + ",".join(made.item(n) for n in range(start, min(start + per_page, items)))
            + f'],"Count":{per_page},"ScannedCount":{per_page},'
            '"ConsumedCapacity":{"TableName":"bench","CapacityUnits":128.5}'
            for start in range(0, items, per_page)
        ],
    )


def record_pages(folder: Path, records: int, per_page: int = 800) -> None:
    """Writes `records` as GetRecords pages for the replay server: 1.3 KB each by DynamoDB's
    count (it counts no JSON), so about 800 fill the megabyte of an answer."""
    made = Items()
    _pages(
        folder,
        [
            '"Records":['
            + ",".join(made.record(n, n) for n in range(start, min(start + per_page, records)))
            + "]"
            for start in range(0, records, per_page)
        ],
    )


def kinesis_pages(folder: Path, records: int, per_page: int = 3_000) -> None:
    """Writes `records` as GetRecords pages of Kinesis for the replay server: about the 10 MB that
    an answer may hold."""
    made = Items()

    def shown(number: int) -> str:
        data = base64.b64encode(made.kinesis_record(number).encode()).decode()
        return (
            f'{{"SequenceNumber":"{49 * 10**54 + number}","ApproximateArrivalTimestamp":1.767e9,'
            f'"PartitionKey":"{number:032d}","Data":"{data}"}}'
        )

    _pages(
        folder,
        [
            '"Records":['
            + ",".join(shown(n) for n in range(start, min(start + per_page, records)))
            + "]"
            for start in range(0, records, per_page)
        ],
    )


def delivered_objects(folder: Path, records: int, objects: int) -> None:
    """Writes `records` as objects that Firehose delivered (gz, back to back), where they are not
    there yet."""
    if (folder / "whole").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [records * number // objects for number in range(objects + 1)]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_delivered_object, [folder] * objects, bounds[:-1], bounds[1:]))
    (folder / "whole").touch()


def _delivered_object(folder: Path, start: int, end: int) -> None:
    made = Items(start)
    text = "".join(made.kinesis_record(number) for number in range(start, end))
    body = gzip.compress(text.encode(), compresslevel=6, mtime=0)
    (folder / f"{start:012d}.gz").write_bytes(body)


def _pages(folder: Path, pages: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(pages):
        (folder / f"{number:05d}").write_text("{" + page)


def export_files(folder: Path, items: int, files: int) -> None:
    """Writes `items` as an export's data files (gz, one {"Item": …} a line) and a list of them,
    where they are not there yet. Two processes, because gzip is the slow part."""
    if (folder / "manifest").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [items * number // files for number in range(files + 1)]
    with ProcessPoolExecutor(2) as pool:
        lines = list(pool.map(_export_file, [folder] * files, bounds[:-1], bounds[1:]))
    (folder / "manifest").write_text("".join(lines))


def _export_file(folder: Path, start: int, end: int) -> str:
    made = Items(start)
    text = "".join(f'{{"Item":{made.item(number)}}}\n' for number in range(start, end))
    body = gzip.compress(text.encode(), compresslevel=6, mtime=0)
    name = f"{start:012d}.json.gz"
    (folder / name).write_bytes(body)
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    return f"{name} {end - start} {digest}\n"

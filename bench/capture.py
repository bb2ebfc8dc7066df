"""Export, scan and drain, from what AWS sends to committed rows of the change log, each against
the hand-written way on the same bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import handwritten, items, replay, tailrace_side
from bench.measure import in_child, median
from bench.report import Figure

PER = 100_000


@dataclass(frozen=True)
class Size:
    """How much is read: items of the export and in how many files, items or records of the
    others, and how many of each the hand-written way gets."""

    export_items: int = 2_000_000
    export_files: int = 64
    export_by_hand: int = 250_000
    scan_items: int = 100_000
    records: int = 100_000
    delivered: int = 1_000_000
    by_hand: int = 25_000
    pairs: int = 3


SMALL = Size(2_000, 2, 400, 1_000, 800, 800, 400, 1)


def export(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Export files to the change log: rate against the hand-written way, and peak memory."""
    folder = cache / f"export-{size.export_items}-{size.export_files}"
    tell(f"export: {size.export_items:,} items in {size.export_files} files")
    items.export_files(folder, size.export_items, size.export_files)
    files = [str(path) for path in sorted(folder.glob("*.gz"))]
    ours, theirs = [], []
    with _scratch() as scratch:
        for number in range(size.pairs):
            tell(f"export: pair {number + 1} of {size.pairs}")
            ours.append(in_child(tailrace_side.load_export, folder=str(folder), repeat=1))
            theirs.append(
                in_child(
                    handwritten.load_export,
                    files=files,
                    database=scratch,
                    items=size.export_by_hand,
                )
            )
        tell("export: twice the size")
        double = in_child(tailrace_side.load_export, folder=str(folder), repeat=2)
    rates = [run["rows"] / run["wall"] for run in ours]
    hand_rates = [run["rows"] / run["wall"] for run in theirs]
    ratios = [a / b for a, b in zip(rates, hand_rates, strict=True)]
    cpu = [
        (b["cpu"] / b["rows"]) / (a["cpu"] / a["rows"]) for a, b in zip(ours, theirs, strict=True)
    ]
    peaks = [run["peak_mb"] for run in ours]
    growth = double["peak_mb"] / median(peaks)
    return [
        _figure("export", "rate", rates, "items/s"),
        _figure(
            "export", "rate by hand", hand_rates, "items/s",
            note=f"{size.export_by_hand:,} items",
        ),
        _figure("export", "rate, times by hand", ratios, "×", "≥ 20", median(ratios) >= 20),
        _figure("export", "CPU of an item", [_micro(run) for run in ours], "µs"),
        _figure("export", "CPU of an item by hand", [_micro(run) for run in theirs], "µs"),
        _figure("export", "CPU of by hand", cpu, "× ours"),
        _figure("export", "peak memory", peaks, "MB", "< 1,500", max(peaks) < 1_500),
        Figure(
            "export", "peak memory at twice the size", double["peak_mb"], "MB",
            target="flat (< 1.2×)", met=growth < 1.2, note=f"{double['rows']:,} items",
        ),
    ]  # fmt: skip


def _micro(run: dict[str, Any]) -> float:
    return float(run["cpu"] / run["rows"] * 1e6)


def scan(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Scan, client CPU from the wire to committed rows."""
    folder = cache / f"scan-{size.scan_items}"
    if not folder.exists():
        tell(f"scan: writing pages of {size.scan_items:,} items")
        items.scan_pages(folder, size.scan_items)

    def by_hand(url: str, database: str) -> dict[str, Any]:
        return in_child(handwritten.scan, endpoint=url, database=database, items=size.by_hand)

    return _wire("scan", folder, tailrace_side.scan, by_hand, size.pairs, 10, tell)


def drain(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Drain, client CPU from the wire to committed rows."""
    folder = cache / f"records-{size.records}"
    if not folder.exists():
        tell(f"drain: writing pages of {size.records:,} records")
        items.record_pages(folder, size.records)

    def by_hand(url: str, database: str) -> dict[str, Any]:
        return in_child(
            handwritten.drain,
            endpoint=url,
            stream_arn=replay.STREAM_ARN,
            database=database,
            items=size.by_hand,
        )

    return _wire("drain", folder, tailrace_side.drain_stream, by_hand, size.pairs, 15, tell)


def firehose(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Delivered objects to the change log, beside the export loader on as many bytes."""
    folder = cache / f"delivered-{size.delivered}-{size.export_files}"
    exported = cache / f"export-{size.delivered * 2}-{size.export_files}"
    tell(f"firehose: {size.delivered:,} records in {size.export_files} objects")
    items.delivered_objects(folder, size.delivered, size.export_files)
    items.export_files(exported, size.delivered * 2, size.export_files)
    ours, theirs = [], []
    for number in range(size.pairs):
        tell(f"firehose: pair {number + 1} of {size.pairs}")
        ours.append(in_child(tailrace_side.read_deliveries, folder=str(folder)))
        theirs.append(in_child(tailrace_side.load_export, folder=str(exported), repeat=1))
    delivered_mb, exported_mb = _unpacked_mb(folder), _unpacked_mb(exported)
    rates = [delivered_mb / run["wall"] for run in ours]
    export_rates = [exported_mb / run["wall"] for run in theirs]
    ratios = [a / b for a, b in zip(rates, export_rates, strict=True)]
    cpu = [
        (a["cpu"] / delivered_mb) / (b["cpu"] / exported_mb)
        for a, b in zip(ours, theirs, strict=True)
    ]
    records = [run["rows"] / run["wall"] for run in ours]
    peaks = [run["peak_mb"] for run in ours]
    note = f"{ours[0]['rows']:,} records with both images"
    return [
        _figure("firehose", "rate", records, "records/s", note=note),
        _figure("firehose", "rate in bytes of JSON", rates, "MB/s"),
        _figure("firehose", "the export loader's", export_rates, "MB/s"),
        _figure(
            "firehose", "rate, times export's", ratios, "×", "≥ 1", median(ratios) >= 1
        ),
        _figure("firehose", "CPU of a byte, times export's", cpu, "×"),
        _figure("firehose", "CPU of a record", [_micro(run) for run in ours], "µs"),
        _figure("firehose", "peak memory", peaks, "MB"),
    ]  # fmt: skip


def _unpacked_mb(folder: Path) -> float:
    """The size of the gz files of a folder, unpacked: it is what each ends with."""
    ends = (path.read_bytes()[-4:] for path in folder.glob("*.gz"))
    return sum(int.from_bytes(end, "little") for end in ends) / 1e6


def kinesis(size: Size, cache: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Drain of a Kinesis stream, client CPU beside that of a DynamoDB stream in the same run."""
    streams = cache / f"records-{size.records}"
    folder = cache / f"kinesis-{size.records}"
    if not streams.exists():
        items.record_pages(streams, size.records)
    if not folder.exists():
        tell(f"kinesis: writing pages of {size.records:,} records")
        items.kinesis_pages(folder, size.records)
    ours, beside = [], []
    os.environ.update(replay.CREDENTIALS)
    with replay.serving(folder) as url, replay.serving(streams) as streams_url:
        for number in range(size.pairs):
            tell(f"kinesis: pair {number + 1} of {size.pairs}")
            ours.append(in_child(tailrace_side.drain_kinesis, endpoint=url))
            beside.append(in_child(tailrace_side.drain_stream, endpoint=streams_url))
    cpu = [run["cpu"] / run["rows"] * PER for run in ours]
    theirs = [run["cpu"] / run["rows"] * PER for run in beside]
    ratios = [a / b for a, b in zip(cpu, theirs, strict=True)]
    return [
        _figure("kinesis", f"client CPU per {PER:,}", cpu, "s", note=f"{ours[0]['rows']:,} rows"),
        _figure("kinesis", f"client CPU per {PER:,} of DynamoDB Streams", theirs, "s"),
        _figure("kinesis", "CPU", ratios, "× Streams", "≤ 1.5", median(ratios) <= 1.5),
        _figure("kinesis", "peak memory", [run["peak_mb"] for run in ours], "MB"),
    ]


def _wire(
    bench: str,
    folder: Path,
    ours_piece: Callable[..., Any],
    by_hand: Callable[[str, str], dict[str, Any]],
    pairs: int,
    factor: int,
    tell: Callable[[str], None],
) -> list[Figure]:
    ours, theirs = [], []
    os.environ.update(replay.CREDENTIALS)
    with _scratch() as scratch, replay.serving(folder) as url:
        for number in range(pairs):
            tell(f"{bench}: pair {number + 1} of {pairs}")
            ours.append(in_child(ours_piece, endpoint=url))
            theirs.append(by_hand(url, scratch))
    cpu = [run["cpu"] / run["rows"] * PER for run in ours]
    hand = [run["cpu"] / run["rows"] * PER for run in theirs]
    parts = [b / a for a, b in zip(cpu, hand, strict=True)]
    wall = [
        (b["wall"] / b["rows"]) / (a["wall"] / a["rows"]) for a, b in zip(ours, theirs, strict=True)
    ]
    return [
        _figure(bench, f"client CPU per {PER:,}", cpu, "s", note=f"{ours[0]['rows']:,} rows"),
        _figure(
            bench, f"client CPU per {PER:,} by hand", hand, "s", note=f"{theirs[0]['rows']:,} rows"
        ),
        _figure(bench, "CPU of by hand", parts, "× ours", f"≥ {factor}", median(parts) >= factor),
        _figure(bench, "wall time of by hand, a row", wall, "× ours"),
        _figure(bench, "peak memory", [run["peak_mb"] for run in ours], "MB"),
    ]


def _figure(
    bench: str,
    name: str,
    samples: list[float],
    unit: str,
    target: str = "",
    met: bool | None = None,
    note: str = "",
) -> Figure:
    return Figure(bench, name, median(samples), unit, tuple(samples), target, met, note)


@contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        yield f"{folder}/by-hand.duckdb"

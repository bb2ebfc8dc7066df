"""What a person watching sees: lines and progress bars on standard error, tables on standard
output. What is shown, and when, is left to the commands.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tailrace.model import BaseProgress, Maintenance, Reconciliation, TableStatus, gap_text
from tailrace.tabular import Column, plain_text

PROGRESS_LINE_SECONDS = 10.0
PIPED_WIDTH = 10_000  # a table into a pipe or file is never cut to a terminal's width
NOT_KNOWN = "–"
NUMBER = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DECIMAL\(.*\)|DOUBLE|FLOAT)")


def standard_error() -> Console:
    """Where everything goes that is not data."""
    return Console(stderr=True)


def standard_output() -> Console:
    """Where data goes: as wide as it is, unless a terminal limits it."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def note(text: str, style: str = "") -> None:
    """One line, or what is given, on standard error, as it stands."""
    standard_error().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_rows(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """A query's result as a table on standard output."""
    table = Table()
    for column in columns:
        side: Literal["left", "right"] = "right" if NUMBER.fullmatch(column.type) else "left"
        table.add_column(Text(visible(column.name)), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row, columns))
    standard_output().print(table)


def _cell(value: Any, column: Column) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    return Text(visible(plain_text(value, column)))


def print_status(lines: Sequence[TableStatus]) -> None:
    """How the tables stand, as a table on standard output."""
    table = Table()
    numbers = ("epoch", "base", "rows", "lag", "shards", "idle polling")
    for name in ("table", "model", "epoch", "state", "base", "rows", "last pass", *numbers[3:]):
        is_number = name in numbers
        table.add_column(name, justify="right" if is_number else "left")
    for each in lines:
        table.add_row(*map(Text, _status_cells(each)), style="red" if each.gaps else "")
    standard_output().print(table)
    for each in lines:
        if each.gaps:
            text = f"{each.model}: {gap_text(each.gaps)}. Repair: tailrace repair {each.model}"
            standard_output().print(Text(visible(text), style="red"), soft_wrap=True)
        if each.lost:
            text = (
                f"{each.model}: the source that is taken over from lacks changes: {each.lost}."
                " Readers have them once the new source is live; nothing is proven until then."
            )
            standard_output().print(Text(visible(text), style="yellow"), soft_wrap=True)


# What AWS asks for a GetRecords call to a stream, us-east-1, without its free tier.
# https://aws.amazon.com/dynamodb/pricing/on-demand/
READ_DOLLARS = 0.02 / 100_000
DAYS_A_MONTH = 30


def _status_cells(each: TableStatus) -> Sequence[str]:
    at = each.last_pass_at
    return (
        each.table_name,
        each.model,
        NOT_KNOWN if each.epoch is None else str(each.epoch),
        each.state,
        f"{each.base_parts_done}/{each.base_parts_total}" if each.base_parts_total else NOT_KNOWN,
        f"{each.rows:,}",
        f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if at else NOT_KNOWN,
        NOT_KNOWN if each.lag_seconds is None else duration(each.lag_seconds),
        str(each.shards_open),
        f"${each.idle_reads_a_day * DAYS_A_MONTH * READ_DOLLARS:.2f}/month",
    )


def print_reconciliation(result: Reconciliation) -> None:
    """What was compared, how much of it differs, and the first differences with both sides, on
    standard output."""
    console, found = standard_output(), result.found
    console.print(_reconciled(result), soft_wrap=True)
    counts = Table(show_header=False)
    counts.add_column()
    counts.add_column(justify="right")
    for name, count in (
        ("items of the table", found.source_items),
        ("items of the warehouse", found.warehouse_items),
        ("equal", found.equal),
        ("missing in the warehouse", found.missing),
        ("extra in the warehouse", found.extra),
        ("different", found.different),
        (f"items of {result.model}_latest", found.latest_items),
        ("of them not what the log says", found.latest_different),
    ):
        counts.add_row(name, NOT_KNOWN if count is None else f"{count:,}")
    if found.unsettled:
        counts.add_row("changed meanwhile, not judged", f"{found.unsettled:,}")
    console.print(counts)
    if found.shown:
        console.print(_differences(result))
    if len(found.shown) < found.count:
        console.print(f"These are the first {len(found.shown):,}.", highlight=False)
    if result.is_equal:
        console.print(Text(f"{result.model}: equal", "bold green"))
    else:
        console.print(Text(f"{result.model}: {found.count:,} differences", "bold red"))


def _reconciled(result: Reconciliation) -> Text:
    span = (result.began_at, result.ended_at)
    began, ended = (f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" for at in span)
    time = f"as of {began}" if began == ended else f"from {began} to {ended}"
    units = f", {result.capacity_units:,.0f} RCU" if result.capacity_units else ""
    return Text(f"{result.model} by {result.method}, {time}, in {duration(result.seconds)}{units}")


def _differences(result: Reconciliation) -> Table:
    table = Table(show_lines=True)
    for heading in ("kind", "key", "in the table", "in the warehouse"):
        table.add_column(heading, overflow="fold")
    for each in result.found.shown:
        kind = "latest: the log, the model" if each.kind == "latest" else each.kind
        cells = (kind, each.key, each.source, each.warehouse)
        table.add_row(*(Text(visible("(not there)" if c is None else c)) for c in cells))
    return table


def print_maintenance(result: Maintenance) -> None:
    """The sizes before and after on standard output, and what failed."""
    was = {each.name: each for each in result.before.tables}
    table = Table()
    for name in ("", "rows", "files before", "files after", "MB before", "MB after"):
        table.add_column(name, justify="right" if name else "left")
    for each in result.after.tables:
        before = was.get(each.name, each)
        files = (before.files + before.delete_files, each.files + each.delete_files)
        table.add_row(
            each.name,
            f"{each.rows:,}",
            *(f"{n:,}" for n in files),
            *_mega(before.bytes, each.bytes),
        )
    table.add_section()
    old, new = result.before, result.after
    table.add_row("kept for old snapshots", "", f"{old.old_files:,}", f"{new.old_files:,}")
    table.add_row("snapshots", "", f"{old.snapshots:,}", f"{new.snapshots:,}")
    table.add_row("catalog", "", "", "", *_mega(old.catalog_bytes, new.catalog_bytes))
    standard_output().print(table)
    for failure in result.failures:
        note(f"failed: {visible(failure)}", style="red")


def _mega(*sizes: int) -> list[str]:
    return [f"{each / 10**6:,.1f}" for each in sizes]


def visible(text: str) -> str:
    """A text whose control characters are spelled out: data must not steer a terminal."""
    return "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text
    )


def duration(seconds: float) -> str:
    """A length of time as a person says it: 8 s, 3 min, 5.2 h, 2.5 d."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


class Reporter:
    """Progress on standard error: a bar for each base on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = standard_error()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def tell(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def progress(self, at: BaseProgress) -> None:
        """A moment of a base. Called from the engine's threads."""
        with self._lock:
            if self._console.is_terminal:
                self._draw(at)
            elif self._is_due(at):
                self.tell(_progress_line(at))

    def _is_due(self, at: BaseProgress) -> bool:
        now, last = time.monotonic(), self._told.get(at.model)
        if last is not None and now - last < PROGRESS_LINE_SECONDS:
            return False
        self._told[at.model] = now
        return True

    def _draw(self, at: BaseProgress) -> None:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.fields[model]}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._console,
            )
            self._bars.start()
        total = float(max(at.expected_items, at.items)) if at.expected_items else None
        if at.model not in self._tasks:
            self._tasks[at.model] = self._bars.add_task("", total=total, model=at.model, detail="")
        self._bars.update(
            self._tasks[at.model], total=total, completed=at.items, detail=_progress_detail(at)
        )


def _progress_line(at: BaseProgress) -> str:
    return f"{at.model}: {_progress_detail(at)}"


def _progress_detail(at: BaseProgress) -> str:
    if not at.parts_total:  # only an export does not know its files from the beginning
        return f"waiting for the export of about {at.expected_items:,} items"
    of = f" of about {at.expected_items:,}" if at.expected_items else ""
    rate = f", {at.rate:,.0f} items/s" if at.rate else ""
    left = f", {duration(at.seconds_left)} left" if at.seconds_left is not None else ""
    return (
        f"{at.items:,}{of} items, {at.bytes / 10**6:,.1f} MB, parts {at.parts_done}/"
        f"{at.parts_total}{rate}{left}"
    )

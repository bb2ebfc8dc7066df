"""What a benchmark found, as a table for people and as JSON lines for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One number. `samples` are the runs it is the median of; `target` says what it should be,
    `met` whether it is (None: it is for information). `note` says how it was measured."""

    bench: str
    name: str
    value: float
    unit: str
    samples: tuple[float, ...] = ()
    target: str = ""
    met: bool | None = None
    note: str = ""


def as_json(figures: Sequence[Figure]) -> str:
    """One JSON object a line."""
    return "\n".join(json.dumps(vars(figure)) for figure in figures)


def show(figures: Sequence[Figure], console: Console) -> None:
    """Prints the figures as a table, one section a benchmark."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("least to most", justify="right", style="dim")
    table.add_column("target")
    table.add_column("", style="dim")
    last = None
    for figure in figures:
        if figure.bench != last:
            table.add_section()
            table.add_row(f"[bold cyan]{figure.bench}[/]")
            last = figure.bench
        table.add_row(
            f"  {figure.name}",
            f"{_number(figure.value)} {figure.unit}",
            _range(figure.samples),
            _verdict(figure),
            figure.note,
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _range(samples: Sequence[float]) -> str:
    if len(samples) < 2:
        return ""
    return f"{_number(min(samples))} to {_number(max(samples))}"


def _verdict(figure: Figure) -> str:
    if figure.met is None:
        return figure.target
    return f"[green]{figure.target} ✓[/]" if figure.met else f"[red]{figure.target} ✗[/]"

"""`python -m bench [NAME…]`: runs the benchmarks and prints what they found.

Exits with 1 where a target is missed and --strict is given."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from bench import capture, merge, minute, proof, readers, tables, week
from bench.report import Figure, as_json, show

WIDTH = 110
NAMES = (
    "export", "scan", "drain", "kinesis", "firehose", "proof", "merge", "typed", "many", "minute",
)  # fmt: skip
# They take long, or are part of another: only by name.
LONG = ("week", "readers", "idle")


def main() -> int:
    """Runs what the command line names; everything by default."""
    options = _options()
    signal.signal(signal.SIGTERM, _ended)
    console = Console(stderr=True, highlight=False)
    cache = Path(options.cache)
    is_missed = False
    for name in options.names or NAMES:
        figures = _run(name, options, cache, lambda text: console.print(f"[dim]{text}[/]"))
        is_missed = is_missed or any(figure.met is False for figure in figures)
        if options.json:
            print(as_json(figures), flush=True)
        else:
            show(figures, Console(highlight=False, width=WIDTH))
    if options.small and not options.json:
        console.print("Tiny sizes: this shows that they run, the targets do not apply.")
    return 1 if options.strict and is_missed else 0


def _ended(number: int, frame: object) -> NoReturn:
    """Has what was started end as well."""
    sys.exit(128 + number)


def _run(
    name: str, options: argparse.Namespace, cache: Path, tell: Callable[[str], None]
) -> list[Figure]:
    if name == "merge":
        return merge.run(merge.SMALL if options.small else merge.Size(), tell)
    if name in ("minute", "idle"):
        measured = minute.run if name == "minute" else minute.idle
        return measured(minute.SMALL if options.small else minute.Size(), tell)
    if name in ("typed", "many"):
        typed = tables.SMALL if options.small else tables.Size()
        return getattr(tables, name)(replace(typed, pairs=options.pairs or typed.pairs), tell)
    if name == "readers":
        return readers.run(12.0 if options.small else options.seconds, tell)
    if name == "week":
        return week.run(week.SMALL if options.small else week.Size(), tell)
    if name == "proof":
        return proof.run(proof.SMALL if options.small else proof.Size(), cache, tell)
    size = capture.SMALL if options.small else capture.Size()
    size = replace(size, pairs=options.pairs or size.pairs)
    if options.items:
        size = replace(size, export_items=options.items)
    return getattr(capture, name)(size, cache, tell)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES + LONG)}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seconds", type=float, default=600.0, help="of `readers` (600)")
    parser.add_argument("--pairs", type=int, help="interleaved pairs of each (3)")
    parser.add_argument(
        "--items", type=int, help=f"items in the export ({capture.Size.export_items:,})"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where a target is missed"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        default=os.environ.get("SMALL", "0") not in ("", "0"),
        help="tiny sizes: does it run at all? (SMALL=1)",
    )
    parser.add_argument(
        "--cache",
        default=str(Path(tempfile.gettempdir()) / "tailrace-bench-cache"),
        help="where prepared input is kept between runs",
    )
    options = parser.parse_args()
    unknown = set(options.names) - {*NAMES, *LONG}
    if unknown:
        parser.error(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES + LONG)}"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())

"""What can go wrong, one class per kind of failure.

An error says what was found, where, what was expected, and what to do next. Whether a failure is
worth another try is decided here and nowhere else: `Retryable` is, the others are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TailraceError(Exception):
    """Base of every failure that Tailrace explains. `remedy` says what to do next."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\nWhat to do: {self.remedy}" if self.remedy else self.message


class ConfigError(TailraceError):
    """tailrace.yaml, or the way a command was called, is wrong. Exit code 2."""


class Retryable(TailraceError):
    """The same call may succeed later: throttling, a lock, a 500, a lost connection."""


class Terminal(TailraceError):
    """Calling again cannot help: a person has to change something first."""


class AccessDenied(Terminal):
    """AWS refused the call. The message names the IAM action and the resource."""


class SourceMissing(Terminal):
    """The table, stream, bucket or export does not exist where we look for it."""


RESTORE_OR_RESTART = (
    "Restore the file and run again, or give this base up for a new one:"
    " `tailrace base TABLE --restart`."
)


class CorruptExport(Terminal):
    """An export's manifest or a file of it does not say what AWS wrote: nothing of it landed."""


class Stale(TailraceError):
    """Another run has moved this position on; what was staged is dropped whole, nothing is lost."""


class IteratorExpired(Retryable):
    """A shard iterator lives 15 minutes; ask for a new one at the same position."""


class Trimmed(TailraceError):
    """A position has left the stream's retention: records after it may be lost."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises what a signal's handler has raised as it was raised: a DuckDB that is at work then
    tells of it as a RuntimeError of its own."""
    try:
        yield
    except RuntimeError as error:
        told = error.__cause__
        if told is None or isinstance(told, Exception):
            raise
        raise told from None

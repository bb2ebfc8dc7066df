"""`version`: one text column that orders everything ever captured of a key.

Six digits of epoch, one sign of phase, and a position. Compared as text, the greatest version of a
key wins: a later epoch beats an earlier one, within an epoch the stream (1) beats the base (0), and
within the stream the later position beats the earlier one. What the stream tells of the time before
the base (-) the base knows better, and beats. Nothing but this module knows the layout; dbt
compares whole versions and asks the macros generated from here.

A position is forty digits where the source orders its records by one number (a sequence number),
and 72 where time is the order: 16 digits of microseconds, then 56 of what tells two records of one
microsecond apart. Positions of two widths are never compared with each other: an epoch has one
stream source, so within an epoch and a phase all positions are equally wide, and wherever epoch or
phase differ they decide, standing before it.
"""

from __future__ import annotations

EPOCH_DIGITS = 6
POSITION_DIGITS = 40
MICROS_DIGITS = 16  # until the year 2286
RECORD_DIGITS = 56  # of a Kinesis sequence number
TIMED_DIGITS = EPOCH_DIGITS + 1 + MICROS_DIGITS
AFTER_DIGITS = "~"
PRIOR_PHASE = "-"  # sorts before any digit
BASE_PHASE = "0"
STREAM_PHASE = "1"


def version_sql(epoch: int, phase: str, position: str | None) -> str:
    """The SQL expression of a row's version. `position` is a SQL expression of decimal digits
    (a sequence number has at most 40; an incremental base counts in microseconds), or None for a
    full base, where a key stands once."""
    if not 0 <= epoch < 10**EPOCH_DIGITS:
        raise ValueError(f"epoch {epoch} does not fit {EPOCH_DIGITS} digits")
    head = f"{epoch:0{EPOCH_DIGITS}d}{phase}"
    if position is None:
        return f"'{head}{'0' * POSITION_DIGITS}'"
    return f"'{head}' || lpad({position}, {POSITION_DIGITS}, '0')"


def timed_version_sql(epoch: int, phase: str, micros: str, record: str) -> str:
    """As version_sql, of a stream whose order is time: `micros` is a SQL expression of whole
    microseconds, `record` one of what tells records of one microsecond apart, at most 56
    characters. NULL where either is."""
    head = version_sql(epoch, phase, None)[1 : 1 + EPOCH_DIGITS + len(phase)]
    return (
        f"'{head}' || lpad({micros}::VARCHAR, {MICROS_DIGITS}, '0')"
        f" || lpad({record}, {RECORD_DIGITS}, '0')"
    )


def is_base_sql(version: str) -> str:
    """The SQL condition that tells a base's row from a stream's."""
    return f"substr({version}, {EPOCH_DIGITS + 1}, 1) = '{BASE_PHASE}'"


def floor_sql(epoch: int) -> str:
    """The SQL text of the least version of an epoch's base: whatever is less came before it."""
    return version_sql(epoch, BASE_PHASE, None)


def epoch_sql(version: str) -> str:
    """The SQL expression of the epoch under which a row has landed."""
    return f"substr({version}, 1, {EPOCH_DIGITS})::INTEGER"


def time_sql(version: str) -> str:
    """The SQL expression of the part of a version, where time is the order, that two changes of one
    time have in common."""
    return f"substr({version}, 1, {TIMED_DIGITS})"


def span_of(first: str, last: str) -> tuple[str, str]:
    """Between which versions everything lies that has the time of one of these, or lies between."""
    return first[:TIMED_DIGITS], last[:TIMED_DIGITS] + AFTER_DIGITS


def neighbour(version: str, step: int) -> str:
    """The version next to another one of the same time, `step` 1 after or -1 before it; the same
    where what tells its record apart is no number."""
    head, number = version[:-RECORD_DIGITS], version[-RECORD_DIGITS:]
    return f"{head}{int(number) + step:0{RECORD_DIGITS}d}" if number.isdecimal() else version

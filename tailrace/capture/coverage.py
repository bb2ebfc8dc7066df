"""What the ledger proves of a stream's coverage, and what it cannot prove: a gap. Pure.

A complete pass proves that every change made before it began is in the log, provided that it came
in time: a stream keeps its records for 24 hours, or for as long as its source says. What no pass,
no base and no epoch accounts for is a gap. It is stored, and stays open until an epoch is live that
covers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from tailrace.capture.shards import CLOSING_MARGIN, born_since, closed_before
from tailrace.model import BASE_COMPLETE, FULL, LIVE, Epoch, Gap, Head, Part, Position, Shard

# DynamoDB Streams keeps records for 24 hours; an hour is kept as margin.
RETENTION = timedelta(hours=24)
RETENTION_MARGIN = timedelta(hours=1)
IN_TIME = RETENTION - RETENTION_MARGIN

# A stream's ARN ends in the time at which it was enabled; its records begin soon after.
ENABLING_MARGIN = timedelta(minutes=1)

# Why there is a gap where a stream was not the table's for a while.
REGAINED = "until then the table did not stream to it"


def accounted_until(head: Head) -> datetime | None:
    """Every change made before this is in the log, or will be in the base of the first epoch, or
    lies in a gap that is stored. None for a table without an epoch."""
    if head.epoch is None:
        return None
    known = [(head.live or head.epoch).base_at]
    if head.last_proof:
        known.append(head.last_proof.proves_until)
    return max(known + [gap.until for gap in head.gaps])


def open_gaps(head: Head) -> list[Gap]:
    """The stored gaps that no live epoch covers: a full one whose base is younger, or an
    incremental one that also begins before the gap."""
    live = [epoch for epoch in head.epochs if epoch.state == LIVE]
    return [gap for gap in head.gaps if not any(_covers(epoch, gap) for epoch in live)]


def _covers(epoch: Epoch, gap: Gap) -> bool:
    if epoch.base_at < gap.until:
        return False
    return epoch.kind == FULL or datetime.fromisoformat(epoch.detail["begin"]) <= gap.since


def closes_gaps(head: Head) -> bool:
    """True where gaps are open, and none is left as soon as the newest epoch, whose base is
    complete, is live: nothing is to be repaired meanwhile."""
    epoch, gaps = head.epoch, open_gaps(head)
    if epoch is None or epoch.state != BASE_COMPLETE or not gaps:
        return False
    return all(_covers(epoch, gap) for gap in gaps)


def is_void(head: Head) -> bool:
    """True where the newest epoch must never be live: it takes over from another source, and its
    own stream lost changes since its base. Readers were shown the other source's meanwhile, and the
    base would take them back. Only a younger base helps."""
    epoch = head.epoch
    if epoch is None or epoch.state == LIVE or "beside" not in epoch.detail:
        return False
    return any(gap.epoch == epoch.number and not _covers(epoch, gap) for gap in head.gaps)


def is_covered(head: Head, lost: Gap) -> bool:
    """True where changes of that time are in a base, or in a gap that is open already."""
    if any(gap.since <= lost.since and lost.until <= gap.until for gap in open_gaps(head)):
        return True
    live = [epoch for epoch in head.epochs if epoch.state == LIVE]
    return any(_covers(epoch, lost) for epoch in live or head.epochs[-1:])


def surely_kept(head: Head, retention: timedelta) -> timedelta:
    """For how long a stream has kept its records since the last pass, `retention` being what it is
    now. If it was raised meanwhile, what had expired by then stays lost."""
    seconds = head.last_pass.kept_seconds if head.last_pass else 0.0
    return min(retention, timedelta(seconds=seconds) if seconds else RETENTION)


def outage(
    head: Head,
    now: datetime,
    retention: timedelta = RETENTION,
    late: timedelta = timedelta(0),
) -> Gap | None:
    """The gap that passes too far apart leave: records may have come and gone in it without a
    trace, whole shards included. A record that came in it may be `late`, its change older."""
    retention = surely_kept(head, retention)
    since, in_time = accounted_until(head), retention - RETENTION_MARGIN
    if since is None or now - since <= in_time:
        return None
    return Gap(
        max([since - late, *(gap.until for gap in head.gaps)]),
        now - in_time,
        now,
        f"no pass over the stream was complete for {_hours(now - since)}; it keeps"
        f" {_hours(retention)}",
    )


def regained(head: Head, now: datetime, late: timedelta = timedelta(0)) -> Gap | None:
    """The gap of a stream that is followed again, and had lost changes while it was drained beside
    another one, which was never live. What came before may be `late`."""
    epoch, since = head.epoch, accounted_until(head)
    if epoch is None or since is None or not (reason := head.lost_beside(epoch)):
        return None
    begins = max([since - late, *(gap.until for gap in head.gaps)])
    return Gap(begins, epoch.opened_at, now, reason) if begins < epoch.opened_at else None


def lost_shards(head: Head, stream_arn: str, shards: Sequence[Shard]) -> list[Part]:
    """Shards seen before, not read to their end, and no longer listed."""
    listed = {shard.id for shard in shards}
    return [
        part
        for part, position in head.positions.items()
        if part.origin == stream_arn and not position.finished and part.id not in listed
    ]


def unseen_parents(head: Head, stream_arn: str, shards: Sequence[Shard]) -> list[str]:
    """Parents of new shards that are neither listed nor known: a whole generation was born and
    expired unseen. The shards that a stream had when its epoch was opened are known; of these, the
    parents of such as were surely born since what is accounted for: an export may be older than the
    opening."""
    known = {part.id for part in head.positions if part.origin == stream_arn}
    listed = {shard.id for shard in shards}
    since = accounted_until(head)
    young = born_since(shards, since - CLOSING_MARGIN) if since else set()
    return sorted(
        {
            parent
            for shard in shards
            if (known and shard.id not in known) or shard.id in young
            for parent in shard.parents
            if parent not in listed | known
        }
    )


def is_younger(shard: str, shards: Sequence[Shard], head: Head, gap: Gap | None) -> bool:
    """True where what a shard that is gone held may be younger than what is accounted for: no
    child that is listed was surely born before that. Of an outage's `gap`, all that went in its
    time lies in it: there, such a child has to be listed that was not surely born before its
    end."""
    if gap is None:
        until = accounted_until(head)
        return until is None or shard not in closed_before(shards, until - CLOSING_MARGIN)
    is_parent = any(shard in each.parents for each in shards)
    return is_parent and shard not in closed_before(shards, gap.until)


def is_older_than_base(head: Head, part: Part) -> bool:
    """True where what a shard has lost was lost before the base that will be seen: it was known
    before that, and nothing was proven since."""
    assert head.epoch is not None
    begun = (head.live or head.epoch).base_at
    proof = head.last_proof
    unproven = proof is None or proof.proves_until < begun
    return unproven and head.positions[part].epoch < head.epoch.number


def noted(head: Head) -> list[str]:
    """Why gaps were stored since the newest epoch was opened, since the last pass that proved
    something began, and since the table was found to stream there again; the last one last."""
    assert head.epoch is not None
    began = head.last_proof.began_at if head.last_proof else head.epoch.opened_at
    since = max(began, head.epoch.opened_at)
    reasons: list[str] = []
    for gap in head.gaps:
        if gap.found_at >= since:
            reasons = [] if gap.reason == REGAINED else [*reasons, gap.reason]
    return reasons


def expired_by_age(head: Head, position: Position, now: datetime) -> bool:
    """True where a position was trimmed only because its shard was silent for a day: all that was
    trimmed is older than 24 hours, and everything that old is accounted for."""
    since = accounted_until(head)
    silent = position.newest is None or now - position.newest > IN_TIME
    return silent and since is not None and now - since <= IN_TIME


def broken(
    head: Head,
    now: datetime,
    reason: str,
    newest: Iterable[datetime | None] = (),
    late: timedelta = timedelta(0),
) -> Gap:
    """The gap that something lost in the stream itself leaves: since the last proof, or the last
    change known of what was lost, whichever is older, but after every gap that is known. What was
    lost may have come `late`."""
    since = accounted_until(head)
    assert since is not None
    earliest = min([since - late, *filter(None, newest)])
    begins = max([earliest, *(gap.until for gap in head.gaps)])
    # Whoever found the gap before may have been a moment ahead.
    return Gap(min(begins, now), now, now, reason)


def begins_at(stream_arn: str) -> datetime | None:
    """From when on a stream surely has every change, by the time in its ARN, if it has one."""
    try:
        enabled = datetime.fromisoformat(stream_arn.rpartition("/")[2]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return enabled + ENABLING_MARGIN


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.0f} hours"

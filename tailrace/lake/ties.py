"""Changes of one key that bear the same time: which of them is the later one. Pure.

Where time is the order of a stream it can tie: a millisecond may hold two changes of a key, and a
record may come twice. What came twice is dropped. Of two changes the one whose old image is what
the other made is the later; where old images do not tell, the order stands in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tailrace.canonical import same_item
from tailrace.lake.version import neighbour


@dataclass(frozen=True)
class Tied:
    """One of the rows of a key and a time; `is_new` where it is yet to land. Images are JSON."""

    version: str
    op: str
    image: str | None
    old_image: str | None
    is_new: bool


def settled(tied: Sequence[Tied]) -> dict[str, str | None]:
    """What becomes of the new ones' versions, by version: another one where the old images tell
    that it is in the wrong place, None where the row stands there already."""
    stand = [each for each in tied if not each.is_new]
    found: dict[str, str | None] = {}
    for new in sorted((each for each in tied if each.is_new), key=lambda each: each.version):
        if any(_is_again(new, each) for each in stand):
            found[new.version] = None
            continue
        placed = _placed(new, stand)
        if placed != new.version:
            found[new.version] = placed
        stand.append(replace(new, version=placed))
    return found


def _placed(new: Tied, stand: Sequence[Tied]) -> str:
    """The version that stands after all that it follows, or else before all that follow it."""
    before = [x.version for x in stand if _follows(new, x) and not _follows(x, new)]
    after = [x.version for x in stand if _follows(x, new) and not _follows(new, x)]
    if before and new.version < max(before):
        return neighbour(max(before), 1)
    if after and not before and new.version > min(after):
        return neighbour(min(after), -1)
    return new.version


def _follows(later: Tied, earlier: Tied) -> bool:
    """Whether the one found what the other made."""
    knows = later.old_image is not None or later.op == "INSERT"
    return knows and _same(later.old_image, earlier.image)


def _is_again(one: Tied, other: Tied) -> bool:
    same = _same(one.image, other.image) and _same(one.old_image, other.old_image)
    return one.op == other.op and same


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or same_item(one, other)

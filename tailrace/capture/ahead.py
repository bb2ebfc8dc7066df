"""What is read and committed group by group: while one is committed, the next is read.

So memory holds two groups. What is in a group, and what becomes of it, is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# The first group is so much smaller: nothing is committed while it is read.
FIRST_OF_MOST = 8

Each = TypeVar("Each")
Content = TypeVar("Content")


def groups_of(
    found: Iterable[Each], size_of: Callable[[Each], int], most: int, most_count: int
) -> list[list[Each]]:
    """What was found, in its order, in groups: each ends with the one that takes it to the size
    `most` (the first: to an eighth of it), or to `most_count`."""
    groups: list[list[Each]] = []
    size = 0
    for each in found:
        full = most if len(groups) > 1 else max(1, most // FIRST_OF_MOST)
        if not groups or size >= full or len(groups[-1]) >= most_count:
            groups.append([])
            size = 0
        groups[-1].append(each)
        size += size_of(each)
    return groups


def read_ahead(
    groups: Sequence[list[Each]],
    read: Callable[[Each], Content],
    threads: int,
    is_over: Callable[[], bool],
) -> Generator[tuple[list[Each], list[Content]], None, None]:
    """Group after group with what `read` made of it, in so many threads; ends early where
    `is_over`. Whoever stops before has to close this. Raises what `read` raises."""
    coming: list[Future[Content]] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        try:
            for number, group in enumerate(groups):
                if is_over():
                    return
                arrived = coming or [pool.submit(read, each) for each in group]
                contents = [one.result() for one in arrived]
                following = groups[number + 1] if number + 1 < len(groups) else []
                coming = [pool.submit(read, each) for each in following]
                yield group, contents
        finally:
            for one in coming:
                one.cancel()

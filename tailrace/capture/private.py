"""Sources whose private attributes are changed before anybody sees them: what leaves here, staged
or kept as a position, holds no plain value. (An export does the same while it unpacks a file.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tailrace.capture.ports import Sample, Stream
from tailrace.errors import Terminal
from tailrace.model import ItemPage, RecordPage, ScanPage, Shard, StreamTraits
from tailrace.privacy import Privacy


class PrivateScan:
    """A scan of private items. Its positions are sealed."""

    def __init__(self, scan: Sample, privacy: Privacy) -> None:
        self._scan = scan
        self._privacy = privacy

    def page(
        self, segment: int, segments: int, start: str | None, limit: int | None = None
    ) -> ScanPage:
        """As TableScan.page; `start` is a `next_key` of this."""
        page = self._scan.page(segment, segments, self._privacy.unseal(start), limit)
        return replace(
            page,
            lines=self._privacy.items(page.lines),
            next_key=self._privacy.seal(page.next_key),
        )

    def items(self, keys: Sequence[str]) -> ItemPage:
        """As TableScan.items. Raises Terminal where the key is hashed: nothing can be found by a
        hash."""
        if self._privacy.hashes_key:
            raise Terminal("A hashed key cannot be looked up in the table.", "Scan the table.")
        page = self._scan.items(keys)
        return replace(page, lines=self._privacy.items(page.lines))


class PrivateStream:
    """A stream of private records."""

    def __init__(self, stream: Stream, privacy: Privacy) -> None:
        self._stream = stream
        self._privacy = privacy

    @property
    def traits(self) -> StreamTraits:
        """As the stream's."""
        return self._stream.traits

    @property
    def calls(self) -> int:
        """As the stream's."""
        return self._stream.calls

    @property
    def notices(self) -> tuple[str, ...]:
        """As the stream's."""
        return self._stream.notices

    def shards(self, stream_arn: str) -> list[Shard]:
        """As the stream's."""
        return self._stream.shards(stream_arn)

    def children(self, stream_arn: str, shard: str) -> list[Shard]:
        """As the stream's."""
        return self._stream.children(stream_arn, shard)

    def iterator(self, stream_arn: str, shard: str, after: str | None) -> str:
        """As the stream's."""
        return self._stream.iterator(stream_arn, shard, after)

    def read(self, iterator: str, shard: str, limit: int = 1_000) -> RecordPage:
        """As the stream's: plain still, because `whole` has to look keys up."""
        return self._stream.read(iterator, shard, limit)

    def whole(self, page: RecordPage) -> RecordPage:
        """The page with whole items, and private."""
        page = self._stream.whole(page)
        return replace(page, lines=self._privacy.records(page.lines))

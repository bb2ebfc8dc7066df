"""Snappy, read in plain Python: Firehose offers it, and nothing that is installed anyway reads it.

Several times slower than gzip; whoever delivers much should let Firehose write GZIP.
Formats: https://github.com/google/snappy/blob/main/format_description.txt, its framing format
beside it, and the blocks that Hadoop and the xerial library write.
"""

from __future__ import annotations

from collections.abc import Iterator

FRAMED = b"\xff\x06\x00\x00sNaPpY"
XERIAL = b"\x82SNAPPY\x00"
XERIAL_HEADER_BYTES = 16

COMPRESSED_CHUNK, PLAIN_CHUNK, SKIPPABLE = 0x00, 0x01, 0x80
CHECKSUM_BYTES = 4


class NotSnappyError(ValueError):
    """The bytes are cut off, or of another format."""


def chunks(body: bytes) -> Iterator[bytes]:
    """What `body` holds, piece by piece: framed, or in the blocks of xerial or Hadoop.

    Raises NotSnappyError where it is cut off or something else."""
    if body.startswith(FRAMED):
        yield from _framed(body)
    elif body.startswith(XERIAL):
        yield from _blocks(body, XERIAL_HEADER_BYTES)
    else:
        yield from _hadoop(body)


def _framed(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        kind, size = body[at], _number(body, at + 1, 3, "little")
        chunk = _slice(body, at + 4, size)
        if kind == COMPRESSED_CHUNK:
            yield decompress(chunk[CHECKSUM_BYTES:])
        elif kind == PLAIN_CHUNK:
            yield chunk[CHECKSUM_BYTES:]
        elif kind < SKIPPABLE:
            raise NotSnappyError(f"a chunk of the unknown kind {kind}")
        at += 4 + size


def _blocks(body: bytes, at: int) -> Iterator[bytes]:
    while at < len(body):
        size = _number(body, at, 4, "big")
        yield decompress(_slice(body, at + 4, size))
        at += 4 + size


def _hadoop(body: bytes) -> Iterator[bytes]:
    """Blocks that tell their size unpacked, of which each is one or more compressed pieces."""
    at = 0
    while at < len(body):
        left = _number(body, at, 4, "big")
        at += 4
        while left > 0:
            size = _number(body, at, 4, "big")
            piece = decompress(_slice(body, at + 4, size))
            at += 4 + size
            left -= len(piece)
            if left < 0 or not piece:
                raise NotSnappyError("a block that is not of the size it tells")
            yield piece


def decompress(data: bytes) -> bytes:
    """One raw block. Raises NotSnappyError where it is cut off or not one."""
    size, at = _varint(data)
    out = bytearray()
    end = len(data)
    try:
        while at < end:
            tag = data[at]
            at += 1
            kind = tag & 3
            if kind == 0:
                length = tag >> 2
                if length >= 60:
                    wide = length - 59
                    length = int.from_bytes(data[at : at + wide], "little")
                    at += wide
                length += 1
                out += data[at : at + length]
                at += length
                continue
            if kind == 1:
                length, offset = 4 + (tag >> 2 & 7), (tag & 0xE0) << 3 | data[at]
                at += 1
            else:
                wide = 2 if kind == 2 else 4
                length, offset = 1 + (tag >> 2), int.from_bytes(data[at : at + wide], "little")
                at += wide
            start = len(out) - offset
            if start < 0 or offset == 0:
                raise NotSnappyError("a copy from before the block's beginning")
            if offset >= length:
                out += out[start : start + length]
            else:  # it copies what it is writing
                out += (bytes(out[start:]) * (length // offset + 1))[:length]
    except IndexError:
        raise NotSnappyError("a block that is cut off") from None
    if at != end or len(out) != size:
        raise NotSnappyError(f"a block of {len(out)} bytes that says it holds {size}")
    return bytes(out)


def _varint(data: bytes) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, at + 1
    raise NotSnappyError("a block without its size")


def _number(body: bytes, at: int, width: int, order: str) -> int:
    return int.from_bytes(_slice(body, at, width), "big" if order == "big" else "little")


def _slice(body: bytes, at: int, size: int) -> bytes:
    found = body[at : at + size]
    if len(found) != size:
        raise NotSnappyError("it is cut off")
    return found

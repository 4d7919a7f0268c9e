"""Frames: the unit in which journal and checkpoints are written, and the judgement of what a bad one means.

    crc u32 | payload size u32 | position u64 | synced u64 | epoch u32 | payload        (big-endian)

The CRC-32C covers everything behind itself. *position* is the frame's place in the logical journal, so that a frame of
another place or time is never taken for this one. *synced* says up to which position the journal was on stable storage
when this frame was written: a good frame behind a bad one, written when the bad one had been synced, proves that the
bad one was good once. Then it is corruption, and nobody may cut it. Otherwise it is a torn tail, which was promised to
nobody. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

HEADER = struct.Struct(">IIQQI")
_SUMMED = struct.Struct(">IQQI")
HEADER_SIZE = HEADER.size
SEARCH_STEP = 1 << 20

Read = Callable[[int, int], bytes]
"""(position in the file, octets) -> that many, fewer at its end."""


class Frame(NamedTuple):
    """A whole and valid frame; `position` is logical."""

    position: int
    synced: int
    epoch: int
    payload: bytes

    @property
    def end(self) -> int:
        """Position behind it."""
        return self.position + HEADER_SIZE + len(self.payload)


def encode(position: int, synced: int, epoch: int, payload: Sequence[bytes]) -> bytes:
    """The header of a frame; the payload, here in pieces, follows it."""
    summed = _SUMMED.pack(sum(map(len, payload)), position, synced, epoch)
    crc = crc32c(summed)
    for piece in payload:
        crc = crc32c(piece, crc)
    return crc.to_bytes(4, "big") + summed


def read_frame(read: Read, base: int, position: int, size: int) -> Frame | None:
    """The frame at `position` of a file that begins at `base` and has `size` octets; None if none stands there whole.

    Allocates no more than the file has.
    """
    head = read(position - base, HEADER_SIZE)
    if len(head) < HEADER_SIZE:
        return None
    crc, payload_size, own, synced, epoch = HEADER.unpack(head)
    if own != position or not payload_size or payload_size > base + size - position - HEADER_SIZE:
        return None
    payload = read(position - base + HEADER_SIZE, payload_size)
    if len(payload) < payload_size or crc32c(payload, crc32c(head[4:])) != crc:
        return None
    return Frame(position, synced, epoch, payload)


def scan(read: Read, base: int, size: int) -> Iterator[Frame]:
    """The frames of a file from its beginning up to the first that is not whole and valid, or the end."""
    position = base
    while position < base + size:
        frame = read_frame(read, base, position, size)
        if frame is None:
            return
        yield frame
        position = frame.end


def data_end(read: Read, start: int, size: int) -> int:
    """Behind the last octet of a file that is not zero, `start` if all from there on are: room that was reserved."""
    end = size
    while end > start:
        first = max(start, end - SEARCH_STEP)
        data = read(first, end - first).rstrip(b"\0")
        if data:
            return first + len(data)
        end = first
    return start


def find_later(read: Read, base: int, position: int, size: int) -> Frame | None:
    """The first valid frame anywhere behind `position`: evidence on what a bad spot is.

    A frame's own position stands at its ninth octet, and its upper octets are the same over long stretches.
    """
    end = base + size
    start = position + 1
    while start < end - HEADER_SIZE:
        stretch_end = min(((start >> 24) + 1) << 24, start + SEARCH_STEP)
        pattern = (start >> 24).to_bytes(5, "big")
        data = read(start - base, stretch_end - start + HEADER_SIZE)
        found = data.find(pattern)
        while found >= 0:
            candidate = start + found - 8
            at = data[found : found + 8]
            if len(at) == 8 and candidate > position and int.from_bytes(at, "big") == candidate:
                frame = read_frame(read, base, candidate, size)
                if frame is not None:
                    return frame
            found = data.find(pattern, found + 1)
        start = stretch_end
    return None

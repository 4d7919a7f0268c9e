"""Extents: where whole batches of a log lie one behind the other, and how they are read, split and cut.

A log keeps its extents in order of offsets. A file is described by as few of them as can each be read at once, except
a segment after a restart, which is one extent until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from broker.log.disk import FileRange
from broker.log.errors import Corrupt
from protocol.kafka.records import HEADER_SIZE, BatchHeader, CorruptBatch, check_batch, parse_header

EXTENT_BYTES_MAX = 256 << 10
"""What is read at once: larger costs memory and time in the loop, smaller more calls."""


class Source(Protocol):
    """Where octets can be read from."""

    def read(self, position: int, size: int) -> bytes:
        """Octets from a position on; fewer only when the file is shorter than it should be. Raises OSError."""
        ...

    def range(self, position: int, size: int) -> FileRange | None:
        """The same, to be sent from the file; None where that cannot be done. Raises OSError."""
        ...


class OpenSource(Source, Protocol):
    """One that holds a handle."""

    def close(self) -> None:
        """Give it back; again is nothing."""


class Extent(NamedTuple):
    """Whole batches that lie one behind the other; `first` and `end` are offsets, gaps within are settled."""

    first: int
    end: int
    source: Source
    position: int
    size: int


class Batch(NamedTuple):
    """A batch that was read: it stands in `data` at `position`, and its checksum is right."""

    header: BatchHeader
    data: bytes
    position: int


def batches(extent: Extent) -> Iterator[Batch]:
    """Its batches, in order; all of it is read at once. Raises Corrupt and OSError."""
    data = extent.source.read(extent.position, extent.size)
    position = 0
    while position < extent.size:
        try:
            header = parse_header(data, position)
            check_batch(data, position, header)
        except CorruptBatch as error:
            raise Corrupt(f"at offset {extent.first} or behind: {error}") from None
        _check_place(header, extent)
        yield Batch(header, data, position)
        position += header.size


def first_header(extent: Extent) -> BatchHeader:
    """The header of its first batch. Raises Corrupt and OSError."""
    return _header(extent.source.read(extent.position, HEADER_SIZE), 0, extent)


def is_one_batch(extent: Extent) -> bool:
    """Whether it is a single batch, however large. Raises Corrupt and OSError."""
    return first_header(extent).size == extent.size


def split(extent: Extent) -> list[Extent]:
    """A part in front that can be read at once (or is one batch), and the rest if there is one.

    Raises Corrupt and OSError.
    """
    if is_one_batch(extent):
        return [extent]
    data = extent.source.read(extent.position, EXTENT_BYTES_MAX)
    end, position = extent.first, 0
    while position + HEADER_SIZE <= len(data):
        header = _header(data, position, extent)
        _check_place(header, extent)
        if position and position + header.size > EXTENT_BYTES_MAX:
            break
        end, position = header.next_offset, position + header.size
    if not position or position > extent.size:
        raise Corrupt(f"at offset {extent.first}: a batch is longer than its file")
    front = Extent(extent.first, min(end, extent.end), extent.source, extent.position, position)
    rest = Extent(end, extent.end, extent.source, extent.position + position, extent.size - position)
    return [front, rest] if rest.size and rest.first < rest.end else [front]


def clip(extents: Sequence[Extent], offset: int) -> list[Extent]:
    """The extents up to `offset`, the first of a batch. Reads the one that it lies in. Raises Corrupt and OSError."""
    kept = [one for one in extents if one.first < offset]
    if kept and kept[-1].end > offset:
        kept[-1] = shrink(kept[-1], offset)
        if not kept[-1].size:
            kept.pop()  # It began with offsets that are nowhere.
    return kept


def is_empty(first: int, end: int) -> bool:
    """Whether there are no offsets in [first, end)."""
    return first >= end


def shrink(extent: Extent, offset: int, is_done: Callable[[int, int], bool] = is_empty) -> Extent:
    """The part of an extent that is below `offset`, the first of a batch. Raises Corrupt and OSError.

    Nothing is read once `is_done` says that nobody needs what may follow below `offset`: from there on a checkpoint
    that did not come to its end may have left anything.
    """
    position, end = 0, extent.first
    while position < extent.size and not is_done(end, offset):
        header = _header(extent.source.read(extent.position + position, HEADER_SIZE), 0, extent)
        if header.base_offset >= offset:
            break
        position, end = position + header.size, header.next_offset
    return extent._replace(end=offset, size=position)


def _check_place(header: BatchHeader, extent: Extent) -> None:
    """The base offset of a batch is outside of its checksum, as Kafka has it; the checksum repeats most of it."""
    if header.base_offset < extent.first or header.next_offset > extent.end:
        raise Corrupt(f"a batch claims offset {header.base_offset} among those of {extent.first} to {extent.end}")


def _header(data: bytes, position: int, extent: Extent) -> BatchHeader:
    try:
        return parse_header(data, position)
    except CorruptBatch as error:
        raise Corrupt(f"behind offset {extent.first}: {error}") from None

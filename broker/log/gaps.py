"""Gaps: offsets of a log whose octets are damaged, so that nobody can have them, and what lies around them.

Who meets damage in an extent asks `step_over` for what of it can be read: the batches before the first that cannot,
and the rest from the next one that can. Nothing is changed on the disk: the file may yet be put back from a copy. Pure
but for the reads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from broker.log.extents import Extent, Source
from protocol.kafka.records import HEADER_SIZE, BatchHeader, CorruptBatch, check_batch, parse_header

SEARCH_STEP = 1 << 20
_MAGIC_AT = 16
"""Of a batch: behind base offset, length and leader epoch. The magic byte is 2."""


class Gap(NamedTuple):
    """[first, end) cannot be read: `size` octets at `position` of the file `place` are not what was written."""

    first: int
    end: int
    place: str
    position: int
    size: int
    what: str

    def __str__(self) -> str:
        return (
            f"offsets {self.first} to {self.end - 1} ({self.place} at {self.position}, {self.size} octets: {self.what})"
        )


def _file_of(source: Source) -> str:
    """The file of a source, as far as it has one name."""
    return str(getattr(source, "name", "journal"))


def step_over(extent: Extent) -> tuple[list[Extent], Gap | None]:
    """(what of the extent can be read, the first gap in it or None). Raises OSError."""
    position, offset = 0, extent.first
    what = ""
    while position < extent.size:
        try:
            header = _whole(extent, position, offset)
        except CorruptBatch as error:
            what = str(error)
            break
        position, offset = position + header.size, header.next_offset
    else:
        return [extent], None
    resume, first = _next_whole(extent, position, offset)
    source, start = extent.source, extent.position
    parts = [Extent(extent.first, offset, source, start, position)] if position else []
    if resume < extent.size:
        parts.append(Extent(first, extent.end, source, start + resume, extent.size - resume))
    return parts, Gap(offset, first, _file_of(source), start + position, resume - position, what)


def cut_out(extent: Extent, gap: Gap) -> list[Extent] | None:
    """The extent without a gap that was found in it before; None when it lies elsewhere, or can be read now.

    Raises OSError.
    """
    at = gap.position - extent.position
    inside = at >= 0 and at + gap.size <= extent.size and extent.first <= gap.first and gap.end <= extent.end
    if not inside or gap.place != _file_of(extent.source):
        return None
    if step_over(Extent(gap.first, gap.end, extent.source, gap.position, gap.size))[1] is None:
        return None
    parts = [Extent(extent.first, gap.first, extent.source, extent.position, at)] if at else []
    rest = extent.size - at - gap.size
    if rest:
        parts.append(Extent(gap.end, extent.end, extent.source, gap.position + gap.size, rest))
    return parts


def _whole(extent: Extent, position: int, offset: int) -> BatchHeader:
    """The header of the batch that stands there whole. Raises CorruptBatch and OSError."""
    source, start = extent.source, extent.position + position
    head = source.read(start, min(HEADER_SIZE, extent.size - position))
    header = parse_header(head, 0)
    if header.size > extent.size - position:
        raise CorruptBatch(f"a batch of {header.size} octets, {extent.size - position} are left")
    if header.base_offset < offset or header.next_offset > extent.end:
        raise CorruptBatch(f"a batch claims offset {header.base_offset} among those of {offset} to {extent.end}")
    check_batch(source.read(start, header.size), 0, header)
    return header


def _next_whole(extent: Extent, position: int, offset: int) -> tuple[int, int]:
    """(where the next whole batch behind a damaged one begins, its first offset); the end of the extent for none.

    The upper octets of its base offset are known, and so is its magic: a search for them is C's work.
    """
    low, high = offset.to_bytes(8, "big"), (extent.end - 1).to_bytes(8, "big")
    known = 0
    while known < 8 and low[known] == high[known]:
        known += 1
    pattern = re.compile(re.escape(low[:known]) + b"[\\s\\S]{%d}\\x02" % (_MAGIC_AT - known))
    start = position + 1
    while start < extent.size:
        data = extent.source.read(extent.position + start, min(SEARCH_STEP + HEADER_SIZE, extent.size - start))
        found = pattern.search(data)
        while found is not None and found.start() < SEARCH_STEP:
            candidate = start + found.start()
            try:
                return candidate, _whole(extent, candidate, offset).base_offset
            except CorruptBatch:
                found = pattern.search(data, found.start() + 1)
        start += SEARCH_STEP
    return extent.size, extent.end

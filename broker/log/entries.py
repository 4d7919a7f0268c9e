"""Entries: what a frame's payload is made of. The same in the journal and in a checkpoint, which is a short journal.

Each begins with its kind, one octet. All entries of a frame happen together or not at all: that is how a dead letter
leaves one log and enters another. Offsets are message numbers; sizes are octets; everything is big-endian.

| kind | of | means |
|---|---|---|
| BEGIN | checkpoint | format version, generation, position from which the journal is to be replayed, epoch, next log |
| PUT, DELETE | both | one key of the catalog |
| OPEN, DROP | both, journal | a log appears (number and uuid), is gone for good |
| STATE | checkpoint | of a log: next offset, settled floor and bitmaps (with what a restart drops), segments, epochs |
| EDITIONS | checkpoint | of a log: which of the segments in its STATE were written anew, as what, with how many gaps |
| SEALED | checkpoint | files of the journal that batches stay in: where each begins, its size, its index's edition |
| PLACES | index of a sealed file | of a log: where in the file its batches lie |
| APPEND | both | batches of a log, verbatim |
| VOLATILE | both | the same, of messages that a restart drops |
| SETTLE | journal | ranges of offsets that are done with |
| SETTLE_EACH | journal | single offsets of any logs that are done with; stands before all else of these logs |
| RETURN | both | how often an offset was delivered and came back |
| KEEP | both | of a log: from this offset on, batches are kept although they are settled |
| TRUNCATE | journal | a log ends before this offset now |
| SEEN | journal | everything below this offset may have been delivered |
| CLEAN | journal | written last by a broker that stopped in order |
| END | checkpoint | it is complete |
| START | journal | written first by every run: from here on the last run counts as not stopped in order |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from broker.log.ackset import CHUNK, FULL, AckSet
from broker.log.errors import Corrupt

BEGIN, PUT, DELETE, OPEN, DROP, STATE, APPEND, VOLATILE, SETTLE, RETURN, TRUNCATE, SEEN, CLEAN, END, START = range(
    1, 16
)
SETTLE_EACH, KEEP, EDITIONS, SEALED, PLACES = 16, 17, 18, 19, 20

FORMAT_VERSION = 3
FORMAT_VERSIONS = (1, 2, FORMAT_VERSION)
"""Those that can be read. What is different since 1 is in the catalog's values, so its owner brings them along; 3 has
SEALED and PLACES, which an older broker would not look for."""
_BEGIN = struct.Struct(">BHQQII")
_PUT = struct.Struct(">BHI")
_OPEN = struct.Struct(">BI16s")
_NUMBERED = struct.Struct(">BI")
APPEND_HEAD = struct.Struct(">BII")
_OFFSET = struct.Struct(">BIQ")
_RETURN = struct.Struct(">BIQI")
_STATE = struct.Struct(">BIQQIIIII")
_SEGMENT = struct.Struct(">QQQ")
_EDITION = struct.Struct(">QIQ")
_SEALED = struct.Struct(">QQI")
_PLACE = struct.Struct(">QQQI")
_EPOCH = struct.Struct(">IQ")
_RANGE = struct.Struct(">QQ")
_BITMAP_SIZE = CHUNK // 8


class Begin(NamedTuple):
    """The first entry of a checkpoint."""

    version: int
    generation: int
    replay_from: int
    epoch: int
    next_log: int


class SegmentState(NamedTuple):
    """A segment as a checkpoint promises it: `size` octets of the file that is named after `base` are its."""

    base: int
    end: int
    size: int


class Edition(NamedTuple):
    """A segment that was written anew; `gaps` as in `Segment`."""

    base: int
    edition: int
    gaps: int


class SealedState(NamedTuple):
    """A sealed file as a checkpoint promises it: its `size` octets, and the `edition` of its index."""

    base: int
    size: int
    edition: int


class Place(NamedTuple):
    """Batches of [first, end) that lie in the `size` octets at `position` of a sealed file."""

    first: int
    end: int
    position: int
    size: int


class State(NamedTuple):
    """A log as a checkpoint knows it."""

    number: int
    next_offset: int
    settled: AckSet
    segments: list[SegmentState]
    epochs: list[tuple[int, int]]
    volatile: list[tuple[int, int]]


class Append(NamedTuple):
    """Batches of a log; `start` and `size` place them in the payload."""

    number: int
    start: int
    size: int


class Entry(NamedTuple):
    """One entry: `value` is as wide as its kind needs."""

    kind: int
    value: tuple  # type: ignore[type-arg]  # the row of the kind in `_READERS` says which


def begin(generation: int, replay_from: int, epoch: int, next_log: int) -> bytes:
    """BEGIN."""
    return _BEGIN.pack(BEGIN, FORMAT_VERSION, generation, replay_from, epoch, next_log)


def put(key: bytes, value: bytes) -> bytes:
    """PUT."""
    return _PUT.pack(PUT, len(key), len(value)) + key + value


def delete(key: bytes) -> bytes:
    """DELETE."""
    return _PUT.pack(DELETE, len(key), 0) + key


def open_log(number: int, uuid: bytes) -> bytes:
    """OPEN."""
    return _OPEN.pack(OPEN, number, uuid)


def drop(number: int) -> bytes:
    """DROP."""
    return _NUMBERED.pack(DROP, number)


def settle(number: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    """SETTLE."""
    flat = [bound for pair in ranges for bound in pair]
    return APPEND_HEAD.pack(SETTLE, number, len(ranges)) + struct.pack(f">{len(flat)}Q", *flat)


def settle_each(settled: Sequence[tuple[int, int]]) -> bytes:
    """SETTLE_EACH, of (log, offset); all numbers of logs stand before all offsets."""
    count = len(settled)
    numbers, offsets = zip(*settled, strict=True)
    return (
        _NUMBERED.pack(SETTLE_EACH, count) + struct.pack(f">{count}I", *numbers) + struct.pack(f">{count}Q", *offsets)
    )


def returned(number: int, offset: int, count: int) -> bytes:
    """RETURN."""
    return _RETURN.pack(RETURN, number, offset, count)


def truncate(number: int, offset: int) -> bytes:
    """TRUNCATE."""
    return _OFFSET.pack(TRUNCATE, number, offset)


def keep(number: int, offset: int) -> bytes:
    """KEEP."""
    return _OFFSET.pack(KEEP, number, offset)


def seen(number: int, offset: int) -> bytes:
    """SEEN."""
    return _OFFSET.pack(SEEN, number, offset)


def mark(kind: int) -> bytes:
    """CLEAN, END or START."""
    return bytes((kind,))


def state(
    number: int,
    next_offset: int,
    settled: AckSet,
    segments: Sequence[SegmentState],
    epochs: Sequence[tuple[int, int]],
    volatile: Sequence[tuple[int, int]],
) -> bytes:
    """STATE."""
    full, partial = _split_chunks(settled)
    counts = (len(segments), len(epochs), len(volatile), len(full), len(partial))
    parts = [
        _STATE.pack(STATE, number, next_offset, settled.floor, *counts),
        *(_SEGMENT.pack(*segment) for segment in segments),
        *(_EPOCH.pack(*epoch) for epoch in epochs),
        *(_RANGE.pack(*run) for run in volatile),
        *(_RANGE.pack(*run) for run in full),
    ]
    for chunk, bitmap in partial:
        parts += (chunk.to_bytes(8, "big"), bitmap.to_bytes(_BITMAP_SIZE, "big"))
    return b"".join(parts)


def editions(number: int, of_segments: Sequence[Edition]) -> bytes:
    """EDITIONS."""
    parts = [_EDITION.pack(*one) for one in of_segments]
    return APPEND_HEAD.pack(EDITIONS, number, len(parts)) + b"".join(parts)


def sealed(files: Sequence[SealedState]) -> bytes:
    """SEALED."""
    return _NUMBERED.pack(SEALED, len(files)) + b"".join([_SEALED.pack(*one) for one in files])


def places(number: int, of_log: Sequence[Place]) -> bytes:
    """PLACES."""
    return APPEND_HEAD.pack(PLACES, number, len(of_log)) + b"".join([_PLACE.pack(*one) for one in of_log])


def _split_chunks(settled: AckSet) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(runs of full chunks as chunk numbers [first, end), the others with their bitmaps)."""
    full: list[tuple[int, int]] = []
    partial: list[tuple[int, int]] = []
    for chunk, bitmap in sorted(settled.chunks.items()):
        if bitmap != FULL:
            partial.append((chunk, bitmap))
        elif full and full[-1][1] == chunk:
            full[-1] = (full[-1][0], chunk + 1)
        else:
            full.append((chunk, chunk + 1))
    return full, partial


class _Reader:
    """A cursor over one payload; whatever does not fit is Corrupt."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        """The next values."""
        start = self.position
        if start + form.size > len(self.data):
            raise Corrupt(f"an entry ends {start + form.size - len(self.data)} octets behind its frame")
        self.position = start + form.size
        return form.unpack_from(self.data, start)

    def take(self, size: int) -> bytes:
        """The next octets."""
        start = self.skip(size)
        return self.data[start : start + size]

    def skip(self, size: int) -> int:
        """Step over `size` octets; returns where they begin."""
        start = self.position
        if start + size > len(self.data):
            raise Corrupt(f"an entry ends {start + size - len(self.data)} octets behind its frame")
        self.position = start + size
        return start


def read_entries(payload: bytes) -> Iterator[Entry]:
    """The entries of a frame, in order. Raises Corrupt for what no version of this format wrote."""
    reader = _Reader(payload)
    end = len(payload)
    while reader.position < end:
        kind = payload[reader.position]
        read = _READERS.get(kind)
        if read is None:
            raise Corrupt(f"an entry of unknown kind {kind}")
        yield Entry(kind, read(reader))


def _read_begin(reader: _Reader) -> Begin:
    version, generation, replay_from, epoch, next_log = reader.unpack(_BEGIN)[1:]
    return Begin(version, generation, replay_from, epoch, next_log)


def _read_put(reader: _Reader) -> tuple[bytes, bytes]:
    _, key_size, value_size = reader.unpack(_PUT)
    return reader.take(key_size), reader.take(value_size)


def _read_append(reader: _Reader) -> Append:
    _, number, size = reader.unpack(APPEND_HEAD)
    return Append(number, reader.skip(size), size)


def _read_settle(reader: _Reader) -> tuple[int, list[tuple[int, int]]]:
    _, number, count = reader.unpack(APPEND_HEAD)
    octets = reader.take(count * _RANGE.size)
    return number, list(_RANGE.iter_unpack(octets))


def _read_settle_each(reader: _Reader) -> tuple[tuple[int, int], ...]:
    _, count = reader.unpack(_NUMBERED)
    numbers = struct.unpack(f">{count}I", reader.take(4 * count))
    return tuple(zip(numbers, struct.unpack(f">{count}Q", reader.take(8 * count)), strict=True))


def _read_state(reader: _Reader) -> State:
    _, number, next_offset, floor, segments, epochs, volatile, full, partial = reader.unpack(_STATE)
    found = State(number, next_offset, AckSet(floor), [], [], [])
    found.segments.extend(SegmentState(*reader.unpack(_SEGMENT)) for _ in range(segments))
    found.epochs.extend((epoch, offset) for epoch, offset in (reader.unpack(_EPOCH) for _ in range(epochs)))
    found.volatile.extend((first, end) for first, end in (reader.unpack(_RANGE) for _ in range(volatile)))
    for _ in range(full):
        first, end = reader.unpack(_RANGE)
        # Not through `add`: the bound is the disk's word, so count what it makes us allocate.
        if end - first > len(reader.data) * CHUNK:
            raise Corrupt(f"a settled run of {end - first} chunks")
        found.settled.chunks.update(dict.fromkeys(range(first, end), FULL))
    for _ in range(partial):
        chunk = int.from_bytes(reader.take(8), "big")
        found.settled.chunks[chunk] = int.from_bytes(reader.take(_BITMAP_SIZE), "big")
    return found


def _read_editions(reader: _Reader) -> tuple[int, list[Edition]]:
    _, number, count = reader.unpack(APPEND_HEAD)
    octets = reader.take(count * _EDITION.size)
    return number, [Edition(*one) for one in _EDITION.iter_unpack(octets)]


def _read_sealed(reader: _Reader) -> tuple[SealedState, ...]:
    _, count = reader.unpack(_NUMBERED)
    octets = reader.take(count * _SEALED.size)
    return tuple(SealedState(*one) for one in _SEALED.iter_unpack(octets))


def _read_places(reader: _Reader) -> tuple[int, list[Place]]:
    _, number, count = reader.unpack(APPEND_HEAD)
    octets = reader.take(count * _PLACE.size)
    return number, [Place(*one) for one in _PLACE.iter_unpack(octets)]


def _read_mark(reader: _Reader) -> tuple[()]:
    reader.skip(1)
    return ()


_READERS = {
    BEGIN: _read_begin,
    PUT: _read_put,
    DELETE: _read_put,
    OPEN: lambda reader: reader.unpack(_OPEN)[1:],
    DROP: lambda reader: reader.unpack(_NUMBERED)[1:],
    STATE: _read_state,
    EDITIONS: _read_editions,
    SEALED: _read_sealed,
    PLACES: _read_places,
    APPEND: _read_append,
    VOLATILE: _read_append,
    SETTLE: _read_settle,
    SETTLE_EACH: _read_settle_each,
    RETURN: lambda reader: reader.unpack(_RETURN)[1:],
    TRUNCATE: lambda reader: reader.unpack(_OFFSET)[1:],
    SEEN: lambda reader: reader.unpack(_OFFSET)[1:],
    KEEP: lambda reader: reader.unpack(_OFFSET)[1:],
    CLEAN: _read_mark,
    END: _read_mark,
    START: _read_mark,
}


def merged(offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in any order, as the fewest ranges in order."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(offsets):
        if found and first <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = (found[-1][0], end)
        else:
            found.append((first, end))
    return found

"""Hot path. Looks at every record of a batch without making objects: is it one that every client can read?

Budget: 0.6 µs per record, 0.1 µs where records of one layout follow each other (what most producers send); held by
`jackalope bench kafka`. Rules of Kafka's LogValidator and DefaultRecord.readFrom: lengths that fit, offset deltas 0, 1,
..., as many records as the header says, nothing behind the last. Pure. What is compressed is opened piece by piece, so
that a batch that opens to a gigabyte takes no more memory than one piece and one record.

Records of one layout are looked at in columns: the octet at one place in each of them, which slices, `lstrip` and
`translate` do at C's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple, TypeVar

from protocol.kafka.compression import OPENED_BYTES_MAX, TooLarge, pieces
from protocol.kafka.records import (
    COMPRESSION,
    HEADER_SIZE,
    LEAST_RECORD,
    LOG_APPEND_TIME,
    NULL,
    BatchHeader,
    CorruptBatch,
    Octets,
    read_varint,
)

PARTS_MAX = 1 << 20
"""Records and headers of one batch: half a second's work, in slices. Without compression Kafka's default batch of 1 MB
holds 150,000 at most."""
RECORDS_AT_ONCE = 1000
RECORDS_UNITS = 600
PIECE_UNITS = 300
LARGE_RECORD = 512
"""Where records are larger than this on average an uncompressed batch is looked at where it lies."""
NEVER = 1 << 70
PATIENCE = 4
"""After so many records of one size a run is looked for."""
RUN_LEAST, RUN_FIRST = 16, 32
"""A run of less is dearer in columns than one by one."""
_RUN_MOST = 4096
_WIDTH_MOST = 3
_SHORT = 1 << 14
"""Numbers of two octets are below."""
_MEDIUM = 1 << 21
"""Those of three."""
_INT_OCTETS, _LONG_OCTETS = 5, 10
_INT64 = range(-(1 << 63), 1 << 63)
_EVEN, _ENDING = bytes(range(0, 256, 2)), bytes(range(0x80))
_GOING_ON = bytes(range(0x80, 0x100))
_PERIOD = 8192
_ONLY = bytes(range(0, 0x80, 2)) * (_PERIOD >> 6)
_LOW = bytes(range(0x80, 0x100, 2)) * (_PERIOD >> 6)
_HIGH = b"".join([bytes((high,)) * 64 for high in range(_PERIOD >> 6)])
_MIDDLE = b"".join([bytes((high | 0x80,)) * 64 for high in range(_PERIOD >> 6)])


class Facts(NamedTuple):
    """What was seen; the times are those of records, in ms, and `largest_offset` is the first that has the largest."""

    least_ms: int
    largest_ms: int
    largest_offset: int
    lacks_key: bool
    is_found: bool
    """A record at or behind the time that was asked for; it is the one with the largest then, as nothing behind it
    was looked at."""


class Walk:
    """The records of one batch, as their octets come."""

    __slots__ = ("_begin", "_gaps", "_until", "budget", "delta", "is_found", "lacks_key", "largest", "largest_at",
                 "least", "left", "need", "parts")  # fmt: skip

    def __init__(self, header: BatchHeader, begin: int = 0, until: int = NEVER) -> None:
        self.left = self.parts = header.records
        self.delta = 0
        """Of the next record."""
        self.budget = 0
        self.need = 0
        """Octets that the next record takes, when they were not all there."""
        self.least, self.largest, self.largest_at = NEVER, -NEVER, -1
        self.lacks_key = self.is_found = False
        self._gaps = header.records <= header.last_offset_delta
        self._begin = begin
        self._until = until

    def feed(self, data: Octets, at: int, end: int, budget: int) -> int:
        """Look at records from `at` on, until the budget is used up or the next one is not whole; returns where it is.

        Raises CorruptBatch, and TooLarge for more than PARTS_MAX.
        """
        patience, look = PATIENCE, RUN_FIRST
        self.budget = budget
        while self.left and self.budget > 0 and not self.is_found:
            if not self._gaps and self.delta >= self._begin:
                left = self.left
                at, layout = self._regular(data, at, end, min(self.budget, left), patience)
                self.budget -= left - self.left
                if layout is not None:
                    run = self._run(data, at, min(look, self.left, (end - at) // layout[0]), layout)
                    at += run * layout[0]
                    self.budget -= run >> 3
                    # The shorter the runs, the less they are looked for.
                    patience = patience if run >= RUN_FIRST else 2 * patience
                    look = min(4 * look, _RUN_MOST) if run == look else RUN_FIRST
                    continue
                if not self.left or self.budget <= 0 or self.is_found:
                    break
            start, at = at, self._one(data, at, end)
            if at == start:
                break
            self.budget -= 2
        return at

    def _regular(  # noqa: C901 - a call for each number would double the cost of all
        self, data: Octets, at: int, end: int, count: int, patience: int
    ) -> tuple[int, tuple[int, int, int, int, int] | None]:
        """Look at records, `count` at most, whose numbers are short and right and that have no headers.

        Returns where the first is that is not so, or where `patience` of one size have gone by; then also the layout of
        the last one: its size, and where in it its time, offset delta, key and value begin.
        """
        wanted, wanted_end = 2 * self.delta, 2 * (self.delta + count)
        least, largest, until = 2 * self.least, 2 * self.largest, 2 * self._until
        size_before = same = 0
        layout = None
        start, end = at, end - 2
        while wanted < wanted_end and start < end:
            # One octet is the number, or two, or three; what is longer is not regular.
            octet, at = data[start], start + 1
            if octet >= 0x80:
                octet, at = octet & 0x7F | data[at] << 7, at + 1
                if octet >= _SHORT:
                    octet, at = octet & 0x3FFF | data[at] << 14, at + 1
            stop = at + (octet >> 1)
            if octet & 1 or octet >= _MEDIUM or octet < 2 * LEAST_RECORD or stop > end + 2:
                break
            time_at = at + 1
            time, at = data[time_at], time_at + 1
            if time >= 0x80:
                time, at = time & 0x7F | data[at] << 7, at + 1
                if time >= _SHORT:
                    time, at = time & 0x3FFF | data[at] << 14, at + 1
            delta_at = at
            octet, at = data[at], at + 1
            if octet >= 0x80:
                octet, at = octet & 0x7F | data[at] << 7, at + 1
                if octet >= _SHORT:
                    octet, at = octet & 0x3FFF | data[at] << 14, at + 1
            if octet != wanted or time & 1 or time >= _MEDIUM:
                break
            key_at = at
            key = data[at]
            value_at = at = at + 1 + (key >> 1)
            if ((key & 1 or key >= 0x80) and key != NULL) or at >= stop:
                break
            octet, at = data[at], at + 1
            if octet >= 0x80:
                octet, at = octet & 0x7F | data[at] << 7, at + 1
                if octet >= _SHORT:
                    octet, at = octet & 0x3FFF | data[at] << 14, at + 1
            if (octet & 1 and octet != NULL) or at + (octet >> 1) != stop - 1 or data[stop - 1] or octet >= _MEDIUM:
                break
            if key == NULL:
                self.lacks_key = True
            if time > largest:
                largest, self.largest_at = time, wanted >> 1
            if time < least:
                least = time
            wanted += 2
            size = stop - start
            same = same + 1 if size == size_before else 0
            if same >= patience or largest >= until:
                layout = size, time_at - start, delta_at - start, key_at - start, value_at - start
                start = stop
                break
            size_before, start = size, stop
        self.left -= (wanted >> 1) - self.delta
        self.delta = wanted >> 1
        self.least, self.largest, self.is_found = least >> 1, largest >> 1, largest >= until
        return start, layout

    def _one(self, data: Octets, at: int, end: int) -> int:
        """Look at the record at `at`, whatever it is like; returns where it ends, or `at` when it is not whole."""
        if end - at < _INT_OCTETS and all(data[index] >= 0x80 for index in range(at, end)):
            self.need = end - at + 1
            return at
        length, time_at = _read_int(data, at, end)
        stop = time_at + length
        if length < LEAST_RECORD:
            raise CorruptBatch(f"a record of {length} octets")
        if length > OPENED_BYTES_MAX:
            raise TooLarge(f"a record of {length} octets is more than a batch may open to")
        if stop > end:
            self.need = stop - at
            return at
        self._record(data, time_at + 1, stop)
        return stop

    def _record(self, data: Octets, at: int, stop: int) -> None:
        """One record from its time on."""
        time, at = _read(data, at, stop, _LONG_OCTETS)
        delta, at = _read_int(data, at, stop)
        if delta != self.delta and (not self._gaps or delta < self.delta):
            raise CorruptBatch(f"a record has the offset delta {delta}, expected is {self.delta}")
        length, _ = _read_int(data, at, stop)
        self.lacks_key = self.lacks_key or length < 0
        at = _behind(data, _behind(data, at, stop), stop)
        at = self._headers(data, at, stop)
        if at != stop:
            raise CorruptBatch(f"a record ends at {at} instead of {stop}")
        self.left -= 1
        self.delta = delta + 1
        if delta >= self._begin:
            if time > self.largest:
                self.largest, self.largest_at = time, delta
                self.is_found = time >= self._until
            self.least = min(self.least, time)

    def _headers(self, data: Octets, at: int, stop: int) -> int:
        """Where the headers end."""
        count, at = _read_int(data, at, stop)
        if not 0 <= count <= stop - at:
            raise CorruptBatch(f"{count} headers in {stop - at} octets")
        self.parts += count
        if self.parts > PARTS_MAX:
            raise _too_many(self.parts)
        for _ in range(count):
            size, at = _read_int(data, at, stop)
            if size < 0:
                raise CorruptBatch("a header without a name")
            at = _behind(data, at + size, stop)
        self.budget -= count
        return at

    def _run(self, data: Octets, at: int, most: int, layout: tuple[int, int, int, int, int]) -> int:
        """How many records from `at` on have the layout of the one before them, `most` at most; notes what they say."""
        size, time_at, delta_at, key_at, value_at = layout
        delta, width, time_width = self.delta, key_at - delta_at, delta_at - time_at
        most = min(most, 64 - delta if width == 1 else _PERIOD - delta % _PERIOD)
        if most < RUN_LEAST or width > _WIDTH_MOST or time_width > _WIDTH_MOST:
            return 0
        before = at - size
        places = [*range(time_at - 1), *_width_of(data, before, key_at), *_width_of(data, before, value_at), size - 1]
        for place in places:
            column = bytes(data[at + place : at + most * size : size])
            most = len(column) - len(column.lstrip(bytes((data[before + place],))))
            if most < RUN_LEAST:
                return 0
        first = delta % _PERIOD
        wanted = (_ONLY,) if width == 1 else (_LOW, _HIGH) if width == 2 else (_LOW, _MIDDLE)
        stop = at + most * size
        for place, table in enumerate(wanted, delta_at):
            if bytes(data[at + place : stop : size]) != table[first : first + most]:
                return 0
        if width == _WIDTH_MOST and bytes(data[at + key_at - 1 : stop : size]).strip(bytes((delta >> 13,))):
            return 0
        columns = [bytes(data[at + place : stop : size]) for place in range(time_at, delta_at)]
        return most if self._note_times(columns, most) else 0

    def _note_times(self, columns: list[bytes], count: int) -> bool:
        """The times of a run, an octet of each in a column; False where they have to be looked at one by one."""
        last = columns[-1]
        if columns[0].translate(None, _EVEN) or last.translate(None, _ENDING):
            return False  # Times before the batch's, or of another width.
        if any(column.translate(None, _GOING_ON) for column in columns[:-1]):
            return False
        if all(column.count(column[0]) == count for column in columns):
            values = [_value(columns, 0)]
        elif len(columns) == 1:
            values = [octet >> 1 for octet in last]
        else:
            values = [_value(columns, index) for index in range(count)] if len(columns) > 2 else [
                (low & 0x7F | high << 7) >> 1 for low, high in zip(*columns, strict=True)
            ]  # fmt: skip
        largest = max(values)
        if largest >= self._until:
            return False
        if largest > self.largest:
            self.largest, self.largest_at = largest, self.delta + values.index(largest)
        if self.least > 0:
            self.least = min(self.least, *values) if len(values) > 1 else min(self.least, values[0])
        self.left -= count
        self.delta += count
        return True


def _value(columns: list[bytes], index: int) -> int:
    return sum((column[index] & 0x7F) << 7 * place for place, column in enumerate(columns)) >> 1


def _width_of(data: Octets, record: int, place: int) -> range:
    """The places of the octets of a number."""
    end = place
    while data[record + end] >= 0x80:
        end += 1
    return range(place, end + 1)


def _read(data: Octets, at: int, stop: int, octets: int) -> tuple[int, int]:
    """A number of at most so many octets; more than that Kafka's clients do not read."""
    value, end = read_varint(data, at)
    if end > stop or end - at > octets:
        raise CorruptBatch(f"a number at {at} reaches behind its record, or takes {end - at} octets")
    return value, end


def _read_int(data: Octets, at: int, stop: int) -> tuple[int, int]:
    first = data[at]
    if at + 1 < stop and first >= 0x80 > (second := data[at + 1]):
        rest = first & 0x7F | second << 7
        return (rest >> 1) ^ -(rest & 1), at + 2
    value, end = _read(data, at, stop, _INT_OCTETS)
    if not -(1 << 31) <= value < 1 << 31:
        raise CorruptBatch(f"{value} at {at} is no 32-bit number")
    return value, end


def _behind(data: Octets, at: int, stop: int) -> int:
    """Where octets that are led by their length end; a length below 0 is null."""
    length, at = _read_int(data, at, stop)
    if length > stop - at:
        raise CorruptBatch(f"{length} octets at {at} reach behind their record")
    return at + length if length > 0 else at


def _too_many(parts: int) -> TooLarge:
    return TooLarge(f"{parts} records and headers are more than a batch may hold")


def examine(
    data: Octets, position: int, header: BatchHeader, begin: int = 0, until_ms: int | None = None
) -> Generator[int, None, Facts]:
    """Look at all records of a batch, in steps that yield units of work.

    The times are those of records from the offset delta `begin` on, and nothing is looked at behind the first that has
    the time `until_ms`. Raises CorruptBatch, and TooLarge for what opens to too much.
    """
    base_ms = header.base_timestamp_ms
    walk = Walk(header, begin, NEVER if until_ms is None else until_ms - base_ms)
    if header.records > PARTS_MAX:
        raise _too_many(header.records)
    try:
        if header.attributes & COMPRESSION:
            yield from _opened(walk, data, position, header)
        else:
            yield from _lying(walk, data, position, header)
    except IndexError:
        raise CorruptBatch("a record reaches behind the batch") from None
    if walk.largest_at >= 0 and (base_ms + walk.least not in _INT64 or base_ms + walk.largest not in _INT64):
        raise CorruptBatch("the time of a record is no 64-bit number")
    largest_ms = base_ms + walk.largest
    if header.attributes & LOG_APPEND_TIME:
        largest_ms = header.max_timestamp_ms
    return Facts(base_ms + walk.least, largest_ms, header.base_offset + walk.largest_at, walk.lacks_key, walk.is_found)


class _Visit(Walk):
    """Has each record looked at by itself, and told."""

    __slots__ = ("_base_ms", "_note")

    def __init__(self, header: BatchHeader, note: Callable[[int, int, bool], bool]) -> None:
        super().__init__(header)
        self._gaps = True  # What is regular is passed over in runs.
        self._base_ms = header.base_timestamp_ms
        self._note = note

    def _record(self, data: Octets, at: int, stop: int) -> None:
        self.largest, self.lacks_key = -NEVER, False
        super()._record(data, at, stop)
        self.is_found = not self._note(self.delta - 1, self._base_ms + self.largest, not self.lacks_key)


def visit(
    data: Octets, position: int, header: BatchHeader, note: Callable[[int, int, bool], bool]
) -> Generator[int, None, None]:
    """Tell of each record of a batch that `examine` has passed, in steps that yield units of work.

    `note` is called with the offset delta, the time in ms and whether there is a key, until it returns False.
    """
    walk = _Visit(header, note)
    yield from (
        _opened(walk, data, position, header)
        if header.attributes & COMPRESSION
        else _lying(walk, data, position, header)
    )


def _lying(walk: Walk, data: Octets, position: int, header: BatchHeader) -> Iterator[int]:
    """Records that are not compressed."""
    at, end = position + HEADER_SIZE, position + header.size
    if not isinstance(data, bytes) and header.size < header.records * LARGE_RECORD:
        data, at, end = bytes(data[at:end]), 0, end - at  # A third faster to look at.
    while walk.left and not walk.is_found:
        left = walk.left
        at = walk.feed(data, at, end, RECORDS_AT_ONCE)
        if walk.left == left:
            raise CorruptBatch(f"{left} records of {header.records} are not in the batch")
        if walk.left:
            yield RECORDS_UNITS
    _check_end(walk, end - at)


def _opened(walk: Walk, data: Octets, position: int, header: BatchHeader) -> Iterator[int]:
    """Records that are compressed: piece by piece."""
    block = bytes(memoryview(data)[position + HEADER_SIZE : position + header.size])
    rest: list[bytes] = []
    have = 0
    for piece in pieces(header.attributes & COMPRESSION, block, OPENED_BYTES_MAX):
        rest.append(piece)
        have += len(piece)
        if have >= walk.need:
            octets = b"".join(rest) if len(rest) > 1 else piece
            at, left = 0, -1
            while walk.left != left and walk.left and not walk.is_found:
                if left >= 0:
                    yield RECORDS_UNITS
                left, walk.need = walk.left, 0
                at = walk.feed(octets, at, have, RECORDS_AT_ONCE)
            if walk.is_found:
                return
            rest, have = [octets[at:]] if at < have else [], have - at
            if not walk.left and have:
                break
        yield PIECE_UNITS
    _check_end(walk, have)


def _check_end(walk: Walk, octets: int) -> None:
    if not walk.is_found and (walk.left or octets):
        raise CorruptBatch(f"{walk.left} records are missing, and {octets} octets follow the last")


T = TypeVar("T")


def finish(steps: Generator[int, None, T]) -> T:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found

"""The time index of a partition: from a time to the first record at or behind it.

Sparse: a mark for each interval of batches, `(largest time of all before an offset, that offset)`, both never falling,
as in Kafka's time index. Past `MARKS_MAX` marks every second goes and the interval doubles. The marks are kept in the
catalog now and then (`topics.registry`); what came behind the last that was kept is looked through after a restart,
soon or when somebody asks. A mark only says where to begin reading.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Generator, Iterator

from broker.log.extents import Batch
from broker.log.log import Log
from protocol.kafka.compression import open_batch
from protocol.kafka.records import LOG_APPEND_TIME
from protocol.kafka.walk import Facts, examine

INTERVAL_BYTES = 256 << 10
MARKS_MAX = 4096
BATCHES_AT_ONCE = 200
ANY_MS = 1 << 65
"""No record's time is so much before its batch's."""
NONE = (-1, -1)
_HEAD = struct.Struct(">Q")
_MARK = struct.Struct(">qq")


class Times:
    """See the module."""

    __slots__ = ("_before", "_interval_bytes", "_largest_ms", "_log", "_marks", "_since")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before = log.next_offset
        """What lies below was there at the start, and is not marked behind what was kept; 0: all of it is."""
        self._marks: list[tuple[int, int]] = []
        self._interval_bytes = INTERVAL_BYTES
        self._largest_ms = -1
        self._since = 0

    def note(self, next_offset: int, timestamp_ms: int, size: int) -> None:
        """A batch was appended that ends before `next_offset`."""
        if timestamp_ms > self._largest_ms:
            self._largest_ms = timestamp_ms
        self._since += size
        if self._since >= self._interval_bytes:
            self._marks.append((self._largest_ms, next_offset))
            self._since = 0
            if len(self._marks) > MARKS_MAX:
                del self._marks[::2]
                self._interval_bytes *= 2

    def drop_before(self, offset: int) -> None:
        """The log begins with `offset` now."""
        if self._marks and self._marks[0][1] < offset:
            self._marks = [mark for mark in self._marks if mark[1] >= offset]

    def truncate(self, offset: int) -> None:
        """The log ends before `offset` now: what is behind the last mark that stays has to be looked through again."""
        # What was noted while something before it was not known yet says nothing of that.
        limit = min(offset, self._before) if self._before else offset
        self._marks = [mark for mark in self._marks if mark[1] <= limit]
        self._largest_ms = self._marks[-1][0] if self._marks else -1
        self._since = 0
        self._before = offset

    def snapshot(self) -> bytes:
        """The marks, for the catalog; nothing when there are none, or not all that could be told."""
        if self._before or not self._marks:
            return b""
        return _HEAD.pack(self._interval_bytes) + b"".join([_MARK.pack(*mark) for mark in self._marks])

    def restore(self, octets: bytes) -> None:
        """What `snapshot` has written; before anything is noted."""
        (self._interval_bytes,) = _HEAD.unpack_from(octets)
        self._marks = [(time_ms, offset) for time_ms, offset in _MARK.iter_unpack(octets[_HEAD.size :])]
        self._largest_ms = self._marks[-1][0]

    def catch_up(self) -> Iterator[int]:
        """Mark what was there before this run, behind the marks that were kept; yields units of work.

        Raises Corrupt and OSError.
        """
        while self._before:  # It changes when the log is cut meanwhile.
            yield from self._look_through(self._before)

    def _look_through(self, before: int) -> Iterator[int]:
        found = Times(self._log)
        found._interval_bytes = self._interval_bytes
        found._marks = [mark for mark in self._marks if mark[1] <= before]
        found._largest_ms = found._marks[-1][0] if found._marks else -1
        batches = self._log.read(found._marks[-1][1] if found._marks else 0)
        for count, (header, _, _) in enumerate(batches, 1):
            if header.base_offset >= before:
                break
            found.note(header.next_offset, header.max_timestamp_ms, header.size)
            if count % BATCHES_AT_ONCE == 0:
                yield BATCHES_AT_ONCE
        if self._before == before:  # Else somebody could not wait and it is done, or the log was cut.
            largest_ms = found._largest_ms
            later = [mark for mark in self._marks if mark[1] > before]
            self._marks = found._marks + [(max(time_ms, largest_ms), offset) for time_ms, offset in later]
            self._interval_bytes = found._interval_bytes
            self._since += found._since
            self._largest_ms = max(self._largest_ms, largest_ms)
            self._before = 0

    def _begin(self, timestamp_ms: int, start: int) -> int:
        """An offset before which everything is earlier."""
        index = bisect_left(self._marks, (timestamp_ms, -1))
        return max(self._marks[index - 1][1] if index else 0, start)

    def first(self, timestamp_ms: int, start: int, end: int) -> Generator[int, None, tuple[int, int]]:
        """(time, offset) of the first record of [start, end) at or behind a time, in steps that yield units of work.

        Raises Corrupt, CorruptBatch and OSError.
        """
        yield from self.catch_up()
        for count, batch in enumerate(self._log.read(self._begin(timestamp_ms, start)), 1):
            header = batch.header
            if header.base_offset >= end:
                break
            if header.max_timestamp_ms >= timestamp_ms:
                facts = yield from _facts(batch, start, timestamp_ms)
                if facts.is_found:
                    return (facts.largest_ms, facts.largest_offset) if facts.largest_offset < end else NONE
            if count % BATCHES_AT_ONCE == 0:
                yield BATCHES_AT_ONCE
        return NONE

    def largest(self, start: int, end: int) -> Generator[int, None, tuple[int, int]]:
        """(time, offset) of the record of [start, end) with the largest time (KIP-734), in steps.

        Raises Corrupt, CorruptBatch and OSError.
        """
        yield from self.catch_up()
        wanted_ms = self._marks[-1][0] if self._marks else NONE[0]
        found = yield from self._largest_batch(self._begin(wanted_ms, start), end)
        found_ms = found.header.max_timestamp_ms if found is not None else NONE[0]
        if found_ms < wanted_ms:
            # The record that the mark knows of is gone. What is as large as what was found, and larger, is behind here.
            found = yield from self._largest_batch(self._begin(found_ms, start), end)
        if found is None:
            return NONE
        if found.header.next_offset <= end:
            facts = yield from _facts(found, start, None)
            return (facts.largest_ms, facts.largest_offset) if facts.largest_ms >= 0 else NONE
        # A batch of our own, of some hundred records, that is durable in part.
        best = NONE
        for record in open_batch(found.data, found.position, found.header):
            if start <= record.offset < end and record.timestamp_ms > best[0]:
                best = record.timestamp_ms, record.offset
        return best

    def _largest_batch(self, begin: int, end: int) -> Generator[int, None, Batch | None]:
        """The first of those from `begin` on that have the largest time."""
        found: Batch | None = None
        for count, batch in enumerate(self._log.read(begin), 1):
            if batch.header.base_offset >= end:
                break
            if found is None or batch.header.max_timestamp_ms > found.header.max_timestamp_ms:
                found = batch
            if count % BATCHES_AT_ONCE == 0:
                yield BATCHES_AT_ONCE
        return found


def _facts(batch: Batch, start: int, until_ms: int | None) -> Generator[int, None, Facts]:
    """What there is from `start` on, up to the first record with the time `until_ms`."""
    header = batch.header
    begin = max(start - header.base_offset, 0)
    if not header.attributes & LOG_APPEND_TIME:
        return (yield from examine(batch.data, batch.position, header, begin, until_ms))
    # All records have the batch's time; the first that is there is the one.
    facts = yield from examine(batch.data, batch.position, header, begin, header.base_timestamp_ms - ANY_MS)
    return facts._replace(largest_ms=header.max_timestamp_ms)


def clipped(octets: bytes, offset: int) -> bytes:
    """Return what `snapshot` would have written of a log that ends before `offset`."""
    marks = [mark for mark in _MARK.iter_unpack(octets[_HEAD.size :]) if mark[1] <= offset]
    return octets[: _HEAD.size] + b"".join([_MARK.pack(*mark) for mark in marks]) if marks else b""

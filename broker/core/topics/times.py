"""The time index of a partition: from a time to the first record at or behind it.

Sparse: a mark for each `INTERVAL_BYTES` of batches, `(largest time of all before an offset, that offset)`, both never
falling, as in Kafka's time index. What was appended in this run is marked as it comes; what was there before is looked
through when somebody first asks. A mark only says where to begin reading.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from broker.log.extents import Batch
from broker.log.log import Log
from protocol.kafka.compression import open_batch
from protocol.kafka.records import LOG_APPEND_TIME, Record

INTERVAL_BYTES = 256 << 10
NONE = (-1, -1)


class Times:
    """See the module."""

    __slots__ = ("_before", "_largest_ms", "_log", "_marks", "_since")

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before = log.next_offset  # What lies below was there at the start and is not marked.
        self._marks: list[tuple[int, int]] = []
        self._largest_ms = -1
        self._since = 0

    def note(self, next_offset: int, timestamp_ms: int, size: int) -> None:
        """A batch was appended that ends before `next_offset`."""
        if timestamp_ms > self._largest_ms:
            self._largest_ms = timestamp_ms
        self._since += size
        if self._since >= INTERVAL_BYTES:
            self._marks.append((self._largest_ms, next_offset))
            self._since = 0

    def drop_before(self, offset: int) -> None:
        """The log begins with `offset` now."""
        self._marks = [mark for mark in self._marks if mark[1] >= offset]

    def _look_through(self) -> None:
        """Mark what was there before this run."""
        if not self._before:
            return
        later, since, largest_ms = self._marks, self._since, self._largest_ms
        self._marks, self._since, self._largest_ms = [], 0, -1
        for header, _, _ in self._log.read(0):
            if header.base_offset >= self._before:
                break
            self.note(header.next_offset, header.max_timestamp_ms, header.size)
        self._marks += [(max(time_ms, self._largest_ms), offset) for time_ms, offset in later]
        self._since += since
        self._largest_ms = max(largest_ms, self._largest_ms)
        self._before = 0

    def _begin(self, timestamp_ms: int, start: int) -> int:
        """An offset before which everything is earlier."""
        index = bisect_left(self._marks, (timestamp_ms, -1))
        return max(self._marks[index - 1][1] if index else 0, start)

    def first(self, timestamp_ms: int, start: int, end: int) -> tuple[int, int]:
        """(time, offset) of the first record of [start, end) at or behind a time. Raises Corrupt and OSError."""
        self._look_through()
        for batch in self._log.read(self._begin(timestamp_ms, start)):
            if batch.header.base_offset >= end:
                break
            if batch.header.max_timestamp_ms >= timestamp_ms:
                for record in _records(batch):
                    if record.timestamp_ms >= timestamp_ms and start <= record.offset < end:
                        return record.timestamp_ms, record.offset
        return NONE

    def largest(self, start: int, end: int) -> tuple[int, int]:
        """(time, offset) of the record of [start, end) with the largest time (KIP-734). Raises Corrupt and OSError."""
        self._look_through()
        found: Batch | None = None
        for batch in self._log.read(self._begin(self._largest_ms, start)):
            if batch.header.base_offset >= end:
                break
            if found is None or batch.header.max_timestamp_ms > found.header.max_timestamp_ms:
                found = batch
        best = NONE
        for record in _records(found) if found is not None else ():
            if start <= record.offset < end and record.timestamp_ms > best[0]:
                best = record.timestamp_ms, record.offset
        return best


def _records(batch: Batch) -> Iterator[Record]:
    header = batch.header
    for record in open_batch(batch.data, batch.position, header):
        if header.attributes & LOG_APPEND_TIME:
            yield record._replace(timestamp_ms=header.max_timestamp_ms)
        else:
            yield record

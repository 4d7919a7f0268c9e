"""Hot path. Between a queue and its log: what is stored as it comes, and what is brought back into the head.

Budget: 1 µs per persistent message stored in a run, 1.5 µs per message brought back; held by `jackalope bench log`.

The head of a queue's cursor is a window on its log. While it reaches to the log's end, new messages enter both; past
`HEAD_BYTES_MAX` they enter the log alone (the head is *closed*) and come back in order as the head empties. So a
backlog costs disk, not memory.

| queue, message | head open | head closed |
|---|---|---|
| durable, persistent | log and head | log |
| durable, not persistent | head, with an offset of the log | log, marked volatile: a restart drops it |
| transient | head (no log at all until the head is closed once) | a log that does not outlive the process |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker.core.cursor.lease import LeaseCursor
from broker.core.message import Message, redelivered
from broker.core.record_format import Renderer, read
from broker.log.entries import merged
from broker.log.errors import Corrupt
from broker.log.extents import Batch
from broker.log.log import Log
from broker.log.store import Store
from protocol.amqp.content import body_size
from protocol.kafka.records import CorruptBatch

HEAD_BYTES_MAX = 32 << 20
MESSAGE_OVERHEAD_BYTES = 200
"""About what Python needs to keep one message beside its octets."""
LOW_MESSAGES = 1024
"""When fewer are in the head, more are brought back."""
LOAD_BYTES = 256 << 10
"""How much is brought back at once: a millisecond or two of work."""
BATCH_RECORDS_MAX = 512
BATCH_BYTES_MAX = 128 << 10
"""Longer runs are cut into several batches, so that none takes long to read."""


class Backlog:
    """The log of one queue, as the queue uses it."""

    __slots__ = (
        "_head_count",
        "_recovered_end",
        "_renderer",
        "head_bytes",
        "log",
        "redelivered_below",
        "store",
        "tail_offset",
    )

    def __init__(self, store: Store, log: Log) -> None:
        self.store = store
        self.log = log
        self.tail_offset = log.next_offset  # Behind the last message that the head has had.
        self.head_bytes = 0  # About what the head held when it had `_head_count` messages.
        self._head_count = 0
        self.redelivered_below = 0
        self._recovered_end = 0  # Behind what was there when the broker started.
        self._renderer = Renderer()

    def recover(self, cursor: LeaseCursor, *, clean: bool) -> None:
        """The queue comes back: all is behind the head. After an unclean stop all of it may have been delivered."""
        log = self.log
        cursor.unloaded_count = log.live_count
        cursor.head_offset = log.next_offset
        self.tail_offset = log.settled.floor if cursor.unloaded_count else log.next_offset
        self.redelivered_below = log.seen_offset if clean else log.next_offset
        self._recovered_end = log.next_offset

    def note_seen(self, cursor: LeaseCursor) -> None:
        """Before a stop in order: everything in front of the head has been delivered once."""
        seen = cursor.head_offset if cursor.head else self.tail_offset
        self.log.seen_offset = max(seen, self.redelivered_below)

    def adopt(self, cursor: LeaseCursor) -> None:
        """The queue had no log so far, and a full head."""
        self.head_bytes = HEAD_BYTES_MAX
        self._head_count = len(cursor.head)

    # Into the log.

    def enqueue(self, cursor: LeaseCursor, messages: Sequence[Message], wall_ms: int) -> None:
        """Give the messages their offsets, keep what has to be kept, and let them into the head if it is open."""
        log = self.log
        first = log.next_offset
        is_open = not cursor.unloaded_count and (not cursor.windowed or self._has_room(cursor))
        size = len(messages) * len(messages[0][1])  # Good enough for one publisher's run.
        if is_open and not log.durable:
            log.skip(len(messages))
        else:
            step = min(BATCH_RECORDS_MAX, max(BATCH_BYTES_MAX // len(messages[0][1]), 1))
            for start in range(0, len(messages), step):
                self._append(messages[start : start + step], wall_ms, spill=not is_open)
        if not is_open:
            cursor.unloaded_count += len(messages)
            return
        cursor.extend(first, messages, self.tail_offset)
        self.tail_offset = log.next_offset
        self.head_bytes += size + MESSAGE_OVERHEAD_BYTES * len(messages)
        self._head_count = len(cursor.head)

    def _append(self, messages: Sequence[Message], wall_ms: int, *, spill: bool) -> None:
        log = self.log
        for persistent, records, count in self._renderer.render(messages):
            if persistent and log.durable:
                log.append(records, count, wall_ms)
                self.store.promised_count += 1
                self.store.pending_bytes += len(records)
            elif spill:
                log.append(records, count, wall_ms, volatile=log.durable)
                self.store.pending_bytes += len(records)
            else:
                log.skip(count)

    def _has_room(self, cursor: LeaseCursor) -> bool:
        """Whether the head may grow; what it holds is known on average only."""
        count = len(cursor.head)
        if count < self._head_count:
            self.head_bytes = self.head_bytes * count // self._head_count
            self._head_count = count
        return self.head_bytes < HEAD_BYTES_MAX

    def settle(self, offsets: Sequence[int]) -> None:
        """These leases are over for good."""
        log = self.log
        count = len(offsets)
        if not count:
            return
        if not isinstance(offsets, range):
            offsets = sorted(offsets)
        first = offsets[0]
        if offsets[-1] - first == count - 1:
            log.settle(first, first + count)
            return
        before = first
        for offset in offsets[1:]:
            if offset != before + 1:
                log.settle(first, before + 1)
                first = offset
            before = offset
        log.settle(first, before + 1)

    def purge(self, cursor: LeaseCursor) -> None:
        """All that is ready is settled; to be called before the cursor is cleared."""
        log = self.log
        for first, end in merged(cursor.ready_ranges()):
            log.settle(first, end)
        if self.tail_offset < log.next_offset:
            log.settle(self.tail_offset, log.next_offset)
        self.tail_offset = log.next_offset
        self.head_bytes = self._head_count = 0

    # Out of the log.

    def load(self, cursor: LeaseCursor) -> tuple[int, list[Arrival]]:
        """Bring back what comes next: (how many messages, those of an earlier run). Raises Corrupt and OSError."""
        log = self.log
        size = loaded = 0
        arrivals: list[Arrival] = []
        for batch in log.read(self.tail_offset):
            messages = _messages(batch)
            base, end = batch.header.base_offset, batch.header.next_offset
            for first, stop in log.settled.missing(max(base, self.tail_offset), end):
                some = messages[first - base : stop - base]
                if first < self.redelivered_below:
                    some = [redelivered(message) for message in some]
                if first < self._recovered_end:
                    arrivals.append((first, some, batch.header.base_timestamp_ms))
                cursor.extend(first, some, self.tail_offset)
                self.tail_offset = stop
                loaded += len(some)
            size += batch.header.size
            if size >= LOAD_BYTES:
                break
        if not loaded:
            raise Corrupt(f"log {log.uuid.hex()}: {cursor.unloaded_count} messages behind {self.tail_offset} are gone")
        cursor.unloaded_count -= loaded
        self.head_bytes += size + MESSAGE_OVERHEAD_BYTES * loaded
        self._head_count = len(cursor.head)
        return loaded, arrivals

    def scan(self, start: int = 0) -> Iterator[Arrival]:
        """Everything from `start` on that is not in memory, batch by batch; it stays where it is.

        Raises Corrupt and OSError.
        """
        log = self.log
        start = max(start, self.tail_offset)
        for batch in log.read(start):
            base, end = batch.header.base_offset, batch.header.next_offset
            messages = _messages(batch)
            for first, stop in log.settled.missing(max(base, start), end):
                yield first, messages[first - base : stop - base], batch.header.base_timestamp_ms

    def take_at(self, cursor: LeaseCursor, offset: int) -> Message | None:
        """Lease one message that is not in memory; None when it is, or is settled. Raises Corrupt and OSError."""
        if offset < self.tail_offset or offset in self.log.settled:
            return None
        for batch in self.log.read(offset):
            cursor.unloaded_count -= 1
            cursor.leased_count += 1
            return _messages(batch)[offset - batch.header.base_offset]
        return None

    def count_bytes(self) -> int:
        """How many octets the bodies have that are not in memory; reads them all. Raises Corrupt and OSError."""
        return sum(body_size(content) for _, messages, _ in self.scan() for _, content in messages)


Arrival = tuple[int, list[Message], int]
"""(offset of the first, messages, wall clock in ms when they came)."""


def _messages(batch: Batch) -> list[Message]:
    try:
        return read(batch.data, batch.position, batch.header)
    except CorruptBatch as error:
        raise Corrupt(str(error)) from None

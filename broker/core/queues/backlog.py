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

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from broker.core.message import Message, memory_of, redelivered, with_delivery_count
from broker.core.queues.lease_cursor import LeaseCursor
from broker.core.queues.records import Persistence, Renderer, is_persistent, read
from broker.log.entries import merged
from broker.log.errors import Corrupt
from broker.log.extents import Batch
from broker.log.log import Log
from broker.log.store import Store
from protocol.kafka.records import CorruptBatch

HEAD_BYTES_MAX = 32 << 20
MESSAGE_OVERHEAD_BYTES = 200
"""About what Python needs to keep one message beside its octets."""
SAMPLED = 8
LOAD_BYTES = 256 << 10
"""How much is brought back at once: a millisecond or two of work."""
LOW_BYTES = 2 * LOAD_BYTES
"""When the head holds less, more is brought back."""
READ_ON_OFFSETS = 1024
"""Closer than this, reading on is cheaper than looking for the place anew."""
BATCH_RECORDS_MAX = 512
BATCH_BYTES_MAX = 128 << 10
"""Longer runs are cut into several batches, so that none takes long to read."""


_is_persistent = Persistence().of


class HeadGauge:
    """About how much memory the head of a cursor takes: what leaves counts as the average of what was there.

    Since what leaves is the oldest, that is wrong by a factor of two at worst.
    """

    __slots__ = ("_count", "octets")

    def __init__(self) -> None:
        self.octets = 0  # When the head had `_count` messages.
        self._count = 0

    def add(self, before: int, messages: Sequence[Message]) -> int:
        """These have come into a head of `before` messages; returns the octets now."""
        count = len(messages)
        size = _memory(messages)
        self.look(before)
        if before > self._count:
            self.octets += (before - self._count) * size // count  # Nobody measured them as they came.
        self.octets += size
        self._count = before + count
        return self.octets

    def look(self, count: int) -> int:
        """The head has `count` messages, none of them new; returns the octets now."""
        if count < self._count:
            self.octets = self.octets * count // self._count
            self._count = count
        return self.octets

    def take_out(self, message: Message) -> None:
        """It is no longer in memory, but still in the count."""
        self.octets = max(self.octets - memory_of(message) - MESSAGE_OVERHEAD_BYTES, 0)


def _memory(messages: Sequence[Message]) -> int:
    """What these take, from three of them when they are many."""
    count = len(messages)
    if count == 1:
        origin, content = messages[0]
        return (len(content) if type(origin) is bytes else memory_of(messages[0])) + MESSAGE_OVERHEAD_BYTES
    some = messages if count < SAMPLED else (messages[0], messages[count // 2], messages[-1])
    return count * (sum(map(memory_of, some)) // len(some) + MESSAGE_OVERHEAD_BYTES)


class Backlog:
    """The log of one queue, as the queue uses it."""

    __slots__ = (
        "_away", "_gaps_counted", "_gauge", "_recovered_end", "_renderer", "log", "redelivered_below", "store",
        "tail_offset",
    )  # fmt: skip

    def __init__(self, store: Store, log: Log, gauge: HeadGauge) -> None:
        self.store = store
        self.log = log
        self.tail_offset = log.next_offset  # Behind the last message that the head has had.
        self.redelivered_below = 0
        self._gauge = gauge
        self._recovered_end = 0  # Behind what was there when the broker started.
        self._renderer = Renderer()
        log.render = self._renderer.render_one
        self._gaps_counted = 0  # How many of the log's are not in the cursor's count.
        self._away: set[int] = set()  # Leased from behind `tail_offset`, without having been in the head.

    def recover(self, cursor: LeaseCursor, *, clean: bool) -> None:
        """The queue comes back: all is behind the head. After an unclean stop all of it may have been delivered."""
        log = self.log
        cursor.unloaded_count = log.live_count
        self._gaps_counted = len(log.gaps)
        cursor.head_offset = log.next_offset
        self.tail_offset = log.settled.floor if cursor.unloaded_count else log.next_offset
        self.redelivered_below = log.seen_offset if clean else log.next_offset
        self._recovered_end = log.next_offset

    def note_seen(self, cursor: LeaseCursor) -> None:
        """Before a stop in order: what has been delivered once (everything in front of the head, and perhaps more)."""
        if cursor.windowed:
            seen = cursor.head_offset if cursor.head else self.tail_offset
        elif cursor.leased_count:
            seen = self.tail_offset
        else:
            # In the order of priorities: what has come back says so.
            seen = 1 + max((offset for offset, (origin, _) in cursor.ready_messages() if origin[0]), default=-1)
        self.log.seen_offset = max(seen, self.redelivered_below)

    # Into the log.

    def enqueue(self, cursor: LeaseCursor, messages: Sequence[Message], wall_ms: int) -> None:
        """Give the messages their offsets, keep what has to be kept, and let them into the head if it is open."""
        log = self.log
        first = log.next_offset
        head = cursor.head
        is_open = not cursor.unloaded_count and (not cursor.windowed or self._gauge.look(len(head)) < HEAD_BYTES_MAX)
        if is_open and not log.durable:
            log.skip(len(messages))
        else:
            step = min(BATCH_RECORDS_MAX, max(BATCH_BYTES_MAX // len(messages[0][1]), 1))
            for start in range(0, len(messages), step):
                self._append(messages[start : start + step], wall_ms, spill=not is_open)
        if not is_open:
            cursor.unloaded_count += len(messages)
            return
        before = len(head)
        cursor.extend(first, messages, self.tail_offset)
        self.tail_offset = log.next_offset
        self._gauge.add(before, messages)

    def _append(self, messages: Sequence[Message], wall_ms: int, *, spill: bool) -> None:
        log = self.log
        for persistent, records, count, joined in self._renderer.render(messages, log.open_count(wall_ms)):
            if persistent and log.durable:
                log.extend(records, count, wall_ms, joined)
                self.store.promised_count += 1
                self.store.pending_bytes += len(records)
            elif spill:
                log.append(records, count, wall_ms, volatile=log.durable)
                self.store.pending_bytes += len(records)
            else:
                log.skip(count)

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
        for gap in log.lost:
            log.settle(gap.first, gap.end)  # Nobody will have it, and whoever purges says that nobody need.
        self._gaps_counted = len(log.gaps)
        self.tail_offset = log.next_offset
        self._gauge.look(0)
        self._away.clear()

    # Out of the log.

    def load(self, cursor: LeaseCursor) -> tuple[int, list[Arrival]]:
        """Bring back what comes next: (how many messages, those of an earlier run). Raises Corrupt and OSError."""
        log = self.log
        size = loaded = 0
        self.count_lost(cursor, self.tail_offset)
        start = self.tail_offset
        arrivals: list[Arrival] = []
        for batch in log.read(self.tail_offset):
            messages = _messages(batch)
            base, end = batch.header.base_offset, batch.header.next_offset
            for first, stop in self.ready(max(base, self.tail_offset), end):
                some = messages[first - base : stop - base]
                if first < self.redelivered_below:
                    some = [redelivered(message) for message in some]
                if first < self._recovered_end:
                    if log.returns:
                        some = self._with_counts(first, some)
                    arrivals.append((first, some, batch.header.base_timestamp_ms))
                before = len(cursor.head)
                cursor.extend(first, some, self.tail_offset)
                self._gauge.add(before, some)
                self.tail_offset = stop
                loaded += len(some)
            size += batch.header.size
            if size >= LOAD_BYTES and loaded:
                break
        self.count_lost(cursor, start)
        if not loaded and cursor.unloaded_count:
            raise Corrupt(f"log {log.uuid.hex()}: {cursor.unloaded_count} messages behind {self.tail_offset} are gone")
        if self._away:
            self._away = {offset for offset in self._away if offset >= self.tail_offset}
        cursor.unloaded_count -= loaded
        return loaded, arrivals

    def count_lost(self, cursor: LeaseCursor, start: int) -> None:
        """What has turned out to be damaged since the last look is not waiting any more; `start` is where the head
        ended when it was found."""
        gaps = self.log.gaps
        while self._gaps_counted < len(gaps):
            gap = gaps[self._gaps_counted]
            self._gaps_counted += 1
            ranges = list(self.log.settled.missing(max(gap.first, start), gap.end))
            cursor.unloaded_count -= sum(end - first for first, end in ranges)
            cursor.unloaded_count += sum(any(first <= one < end for first, end in ranges) for one in self._away)

    def _with_counts(self, first: int, messages: list[Message]) -> list[Message]:
        """Those that have come back before say how often."""
        returns = self.log.returns
        return [
            with_delivery_count(message, returns[offset]) if offset in returns else message
            for offset, message in enumerate(messages, first)
        ]

    def ready(self, first: int, end: int) -> list[tuple[int, int]]:
        """The ranges of [first, end), all of it stored, that are neither settled nor in memory nor leased."""
        ranges = list(self.log.settled.missing(max(first, self.tail_offset), end))
        if not self._away:
            return ranges
        found: list[tuple[int, int]] = []
        for start, stop in ranges:
            for offset in range(start, stop):
                if offset in self._away:
                    found += ((start, offset),) if start < offset else ()
                    start = offset + 1
            found += ((start, stop),) if start < stop else ()
        return found

    def scan(self, start: int = 0) -> Iterator[Arrival]:
        """Everything from `start` on that is not in memory, batch by batch; it stays where it is.

        Lazy; what is settled or loaded between two steps may still be among what follows. Raises Corrupt and OSError.
        """
        start = max(start, self.tail_offset)
        for batch in self.log.read(start):
            base, end = batch.header.base_offset, batch.header.next_offset
            messages = _messages(batch)
            for first, stop in self.ready(max(base, start), end):
                yield first, messages[first - base : stop - base], batch.header.base_timestamp_ms

    def scan_kept(self, start: int) -> Iterator[tuple[int, list[tuple[int, Message]]]]:
        """What is settled and kept from `start` on, batch by batch: (where it ends, [(offset, message)]).

        Without messages that are not persistent: a restart does not bring back those that were waiting. Lazy; raises
        Corrupt and OSError.
        """
        log = self.log
        start, settled = max(start, log.kept_from), log.settled
        for batch in log.read(start, kept=True):
            base, end = batch.header.base_offset, batch.header.next_offset
            found: list[tuple[int, Message]] = []
            if settled.count(max(base, start), end):
                for offset, message in enumerate(_messages(batch), base):
                    if offset >= start and offset in settled and _is_persistent(message[1]):
                        found.append((offset, message))
            yield end, found

    def first_ms(self) -> int | None:
        """When the first message came in that is not in memory, or one stored before it. Raises Corrupt and OSError."""
        header = self.log.first_header(self.tail_offset)
        return header.base_timestamp_ms if header is not None else None

    def take_each(self, cursor: LeaseCursor, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """Lease these (ascending): those that are ready and not in memory. Raises Corrupt and OSError, taking none."""
        found = self.read_each([one for one in offsets if one >= self.tail_offset and one not in self._away])
        cursor.unloaded_count -= len(found)
        cursor.leased_count += len(found)
        self._away.update(offset for offset, _ in found)
        return found

    def read_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """These (ascending), as far as they are stored and not settled. What lies close together is read once.

        Raises Corrupt and OSError.
        """
        found: list[tuple[int, Message]] = []
        index = 0
        while index < len(offsets):
            for batch in self.log.read(offsets[index]):
                index = bisect_left(offsets, batch.header.base_offset, index)
                end = bisect_left(offsets, batch.header.next_offset, index)
                if index < end:
                    found += self._pick(batch, offsets[index:end])
                    index = end
                if index == len(offsets) or offsets[index] - batch.header.next_offset > READ_ON_OFFSETS:
                    break
            else:
                break
        return found

    def _pick(self, batch: Batch, offsets: Sequence[int]) -> Iterator[tuple[int, Message]]:
        log = self.log
        messages = _messages(batch)
        for offset in offsets:
            if offset in log.settled:
                continue
            message = messages[offset - batch.header.base_offset]
            if offset in log.returns:
                message = with_delivery_count(message, log.returns[offset])
            yield offset, redelivered(message) if offset < self.redelivered_below else message

    def keeps(self, message: Message) -> bool:
        """Whether a message of this queue can be read again, from the log."""
        return self.log.durable and is_persistent(message[1])


Arrival = tuple[int, list[Message], int]
"""(offset of the first, messages, wall clock in ms when they came)."""


def _messages(batch: Batch) -> list[Message]:
    try:
        return read(batch.data, batch.position, batch.header)
    except CorruptBatch as error:
        raise Corrupt(str(error)) from None

"""Hot path. The lease cursor: which messages of a queue are ready, in which order, and what comes back.

Budget: 0.15 µs per message taken in a batch; held by `jackalope bench amqp` (rows autoack, multiack, ack1). Pure.
A message's *offset* is its number in the queue, from 0. Taking leases it, `release` returns it, acknowledging ends it.

`head` holds the next messages in order. Their offsets are consecutive as a rule; where they are not (some in between
were settled before a restart, or have expired) they are *runs*: the first is [head_offset, run_end), the others stand
in `runs`, and the last one has no end. What is behind the head may lie in a log, see `core.queues.backlog`.

What is taken out of the middle (an expired message) leaves a *hole*: it is counted out at once, and stepped over when
its turn comes.

Invariant: every returned offset lies below `head_offset` (it was taken once), so that serving what was returned first,
lowest offset first, restores the original order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from operator import itemgetter
from typing import ClassVar

from broker.core.message import Message
from broker.log.ackset import AckSet

BATCH_MAX = 256
"""Messages taken at once: long enough to spread the cost of a take, short enough for others to get their turn."""
_GONE: Message = (b"", b"")
"""Stands in a hole, so that what was taken out is not kept in memory."""
ENDLESS = 1 << 63
"""The end of the last run: it grows."""
_FIRST = itemgetter(0)


class LeaseCursor:
    """The ready messages of one queue that are in memory, and those that were returned."""

    __slots__ = (
        "_highest", "_holes", "head", "head_offset", "holes_count", "leased_count", "returned", "run_end", "runs",
        "unloaded_count",
    )  # fmt: skip

    windowed: ClassVar[bool] = True
    """Whether the head may be a part of what is ready, the rest being in a log."""

    def __init__(self) -> None:
        self.head: deque[Message] = deque()
        self.head_offset = 0
        self.run_end = ENDLESS
        self.runs: deque[tuple[int, int]] = deque()
        self.leased_count = 0
        self.unloaded_count = 0
        """Ready messages behind the head that are not in memory."""
        self.returned: list[tuple[int, Message]] = []
        self._highest = -1  # No offset in `returned` is above it.
        self._holes = AckSet()
        self.holes_count = 0

    @property
    def ready_count(self) -> int:
        """Messages that can be taken now."""
        return len(self.head) + len(self.returned) + self.unloaded_count - self.holes_count

    @property
    def tail_offset(self) -> int:
        """The offset behind the last message of the head."""
        if not self.runs:
            return self.head_offset + len(self.head)
        behind = sum(end - first for first, end in list(self.runs)[:-1]) + self.run_end - self.head_offset
        return self.runs[-1][0] + len(self.head) - behind

    def extend(self, first: int, messages: Iterable[Message], tail_offset: int) -> None:
        """Append messages from offset `first` on, which may leave a gap behind `tail_offset`."""
        if not self.head:
            self.head_offset, self.run_end = first, ENDLESS
            self.runs.clear()
        elif first != tail_offset:
            if self.runs:
                self.runs[-1] = (self.runs[-1][0], tail_offset)
            else:
                self.run_end = tail_offset
            self.runs.append((first, ENDLESS))
        self.head.extend(messages)

    def take(self, count: int) -> tuple[list[Message], Sequence[int]]:
        """Lease up to `count` messages, lowest offset first; returns them with their offsets.

        An answer has either returned messages or one run of fresh ones, so it may be shorter than what is ready.
        """
        if self.returned:
            return self._take_returned(count)
        if self.holes_count:
            self._skip_holes()
        head = self.head
        first = self.head_offset
        if self.holes_count:
            count = self._up_to_hole(first, count)
        if first + count > self.run_end:
            count = self.run_end - first
        if count >= len(head):
            messages = list(head)
            head.clear()
        else:
            popleft = head.popleft
            messages = [popleft() for _ in range(count)]
        taken = len(messages)
        self.head_offset = end = first + taken
        if end == self.run_end:
            self.head_offset, self.run_end = self.runs.popleft()
        self.leased_count += taken
        return messages, range(first, end)

    # Out of the middle.

    def take_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """Lease these (ascending) wherever they stand: those that are in the head or among the returned."""
        position = bisect_left(offsets, self.head_offset)
        found = self._take_returned_each(offsets[:position]) if position else []
        start, end, index = self.head_offset, self.run_end, 0
        runs = iter(self.runs)
        for offset in offsets[position:]:
            while offset >= end:
                index += end - start
                start, end = next(runs)  # There is one: the last has no end.
            if offset < start or offset in self._holes:
                continue
            at = index + offset - start
            if at >= len(self.head):
                break
            found.append((offset, self.head[at]))
            self.head[at] = _GONE
            self._holes.add(offset, offset + 1)
            self.holes_count += 1
            self.leased_count += 1
        return found

    def _take_returned_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        wanted = frozenset(offsets)
        found = [lease for lease in self.returned if lease[0] in wanted]
        if found:
            self.returned = [lease for lease in self.returned if lease[0] not in wanted]
            heapify(self.returned)
            self.leased_count += len(found)
        return sorted(found)

    def take_below(self, offset: int, count: int) -> tuple[list[Message], Sequence[int]]:
        """Like `take`, but only of messages below an offset."""
        if self.returned:
            return self._take_returned(1) if self.returned[0][0] < offset else ([], ())
        if self.holes_count:
            self._skip_holes()
        return self.take(min(count, offset - self.head_offset)) if self.head_offset < offset else ([], ())

    def _skip_holes(self) -> None:
        """Step over the holes in front."""
        head = self.head
        while head and self.head_offset in self._holes:
            head.popleft()
            self.holes_count -= 1
            self.head_offset += 1
            if self.head_offset == self.run_end:
                self.head_offset, self.run_end = self.runs.popleft()
        if not self.holes_count:
            self._holes = AckSet()

    def _up_to_hole(self, first: int, count: int) -> int:
        """How many of `count` from `first` on stand in front of the next hole."""
        for begin, end in self._holes.missing(first, first + count):
            return end - begin if begin == first else 0
        return 0

    def _take_returned(self, count: int) -> tuple[list[Message], list[int]]:
        returned = self.returned
        pairs = [heappop(returned) for _ in range(min(count, len(returned)))]
        if not returned:
            self._highest = -1
        self.leased_count += len(pairs)
        return [message for _, message in pairs], [offset for offset, _ in pairs]

    def release(self, leases: Iterable[tuple[int, Message]]) -> int:
        """Leases (offset, message) come back to their places; returns how many."""
        leases = sorted(leases)
        if not leases:
            return 0
        returned = self.returned
        if not returned or leases[0][0] > self._highest:
            returned += leases  # In order behind the highest: still a heap.
        elif len(leases) * 8 < len(returned):
            for lease in leases:
                heappush(returned, lease)
        else:
            returned += leases
            heapify(returned)
        self._highest = max(self._highest, leases[-1][0])
        self.leased_count -= len(leases)
        return len(leases)

    def ready_ranges(self) -> Iterator[tuple[int, int]]:
        """The offsets of what is ready in memory, as ranges; holes among them."""
        for offset, _ in self.returned:
            yield offset, offset + 1
        left = len(self.head)
        for first, end in ((self.head_offset, self.run_end), *self.runs):
            if left:
                end = min(end, first + left)
                left -= end - first
                yield first, end

    def ready_messages(self, start: int = 0) -> Iterator[tuple[int, Message]]:
        """(offset, message) of everything ready in memory from an offset on, by offset. Lazy; nothing may change it."""
        yield from sorted(lease for lease in self.returned if lease[0] >= start)
        # The last run that begins before `start`, if it is not the first, and how many messages stand before it.
        number = bisect_right(self.runs, start, key=_FIRST)
        index = 0
        runs: Iterable[tuple[int, int]] = chain(((self.head_offset, self.run_end),), self.runs)
        if number:
            index = self.run_end - self.head_offset + sum([end - first for first, end in islice(self.runs, number - 1)])
            runs = islice(self.runs, number - 1, None)
        for first, end in runs:
            count = min(end - first, len(self.head) - index)
            skipped = min(max(start - first, 0), count)
            some = islice(self.head, index + skipped, index + count)
            for offset, message in enumerate(some, first + skipped):
                if offset not in self._holes:
                    yield offset, message
            index += count

    def clear_ready(self) -> tuple[int, list[Sequence[object]]]:
        """Drop everything ready; returns the count, and the containers for somebody to free at leisure."""
        count = self.ready_count
        garbage: list[Sequence[object]] = [self.head, self.returned]
        self.head_offset = self.tail_offset
        self.run_end = ENDLESS
        self.runs.clear()
        self.head = deque()
        self.returned = []
        self._highest = -1
        self._holes = AckSet()
        self.holes_count = 0
        self.unloaded_count = 0
        return count, garbage

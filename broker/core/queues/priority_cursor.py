"""The cursor of a queue with priorities: a lease cursor for each level in use, the highest first.

A message's level is its priority, at most `priority_max`; none is 0. Within a level order is that of a plain queue.
All messages of such a queue are in memory: which one is next cannot be told from the order of its log. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import ClassVar

from broker.core.message import Message
from broker.core.queues.lease_cursor import LeaseCursor
from protocol.amqp import content as wire

_PRIORITY = frozenset({"priority"})


class PriorityCursor(LeaseCursor):
    """What a queue needs of `LeaseCursor`, over levels. `head` is a truth value: whether any level has something."""

    __slots__ = ("_levels", "_order", "_tail", "_tails", "priority_max")

    windowed: ClassVar[bool] = False

    def __init__(self, priority_max: int) -> None:
        super().__init__()
        self.priority_max = priority_max
        self._levels: dict[int, LeaseCursor] = {}
        self._order: list[int] = []  # Descending.
        self._tail = 0
        self._tails: dict[int, int] = {}

    def _number(self, message: Message) -> int:
        content = message[1]
        number = 0
        if content[19] & (wire.PRIORITY >> 8):
            value = wire.parse_properties(wire.header_payload(content), _PRIORITY).get("priority")
            number = min(value or 0, self.priority_max)
        if number not in self._levels:
            self._levels[number] = LeaseCursor()
            self._tails[number] = 0
            self._order = sorted(self._levels, reverse=True)
        return number

    @property
    def ready_count(self) -> int:
        """Messages that can be taken now."""
        return sum(level.ready_count for level in self._levels.values()) + self.unloaded_count

    @property
    def tail_offset(self) -> int:
        """The offset behind the last message that came in."""
        return self._tail

    def extend(self, first: int, messages: Iterable[Message], tail_offset: int) -> None:
        """Messages come in from offset `first` on, each to its level."""
        for offset, message in enumerate(messages, first):
            number = self._number(message)
            self._levels[number].extend(offset, (message,), self._tails[number])
            self._tails[number] = self._tail = offset + 1
        self._note()

    def _note(self) -> None:
        """Keep `head` true to whether there is anything, for those who only ask that."""
        some = any(level.head or level.returned for level in self._levels.values())
        if some != bool(self.head):
            self.head.clear() if self.head else self.head.append((b"", b""))

    def take(self, count: int) -> tuple[list[Message], Sequence[int]]:
        """Lease up to `count` messages of the highest level that has any."""
        return self._first_of(lambda level: level.take(count))

    def take_below(self, offset: int, count: int) -> tuple[list[Message], Sequence[int]]:
        """Like `take`, but only of messages below an offset, whatever their level."""
        return self._first_of(lambda level: level.take_below(offset, count))

    def _first_of(self, take: Take) -> tuple[list[Message], Sequence[int]]:
        for number in self._order:
            level = self._levels[number]
            if level.head or level.returned:
                messages, offsets = take(level)
                if messages:
                    level.leased_count -= len(messages)  # Counted here instead.
                    self.leased_count += len(messages)
                    self._note()
                    return messages, offsets
        self._note()
        return [], ()

    def take_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """Lease these (ascending) wherever they stand: those that are ready."""
        found = []
        for level in self._levels.values():
            some = level.take_each(offsets)
            level.leased_count -= len(some)  # Counted here instead.
            found += some
        self.leased_count += len(found)
        return sorted(found)

    def release(self, leases: Iterable[tuple[int, Message]]) -> int:
        """Leases (offset, message) come back to their places; returns how many."""
        leases = list(leases)
        by_number: dict[int, list[tuple[int, Message]]] = {}
        for lease in leases:
            by_number.setdefault(self._number(lease[1]), []).append(lease)
        for number, some in by_number.items():
            level = self._levels[number]
            level.leased_count += len(some)
            level.release(some)
        self.leased_count -= len(leases)
        self._note()
        return len(leases)

    def ready_ranges(self) -> Iterator[tuple[int, int]]:
        """The offsets of what is ready, as ranges; holes among them."""
        for level in self._levels.values():
            yield from level.ready_ranges()

    def ready_messages(self, start: int = 0) -> Iterator[tuple[int, Message]]:
        """(offset, message) of everything ready from an offset on, by offset, whatever the level."""
        return merge(*(level.ready_messages(start) for level in self._levels.values()))

    def clear_ready(self) -> tuple[int, list[Sequence[object]]]:
        """Drop everything ready; returns the count, and the containers for somebody to free at leisure."""
        count = self.ready_count
        garbage: list[Sequence[object]] = []
        for level in self._levels.values():
            garbage += level.clear_ready()[1]
        self._levels.clear()
        self._tails.clear()
        self._order = []
        self.unloaded_count = 0
        self._note()
        return count, garbage


Take = Callable[[LeaseCursor], tuple[list[Message], Sequence[int]]]

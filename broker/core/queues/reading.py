"""How messages leave a queue: from the head, from wherever they stand, and out of the log behind it.

What cannot be read stops the queue, and says so, but not the broker: for good when the log is damaged, else for a
while. `core.queues.queue.Queue` is a `Taking` that messages come into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from broker.core.message import Message
from broker.core.queues.backlog import Arrival, Backlog
from broker.core.queues.dispatch import Serving
from broker.log.errors import StorageError

RETRY_MS = 1000
GET_STEPS_MAX = 64
"""Steps of preparation (loading, expiring) that one basic.get may cost; an empty answer is better than a standstill."""
T = TypeVar("T")


class _TryAgain:
    """Lets a queue whose log could not be read try again, a second later."""

    __slots__ = ("_queue",)

    def __init__(self, queue: Taking) -> None:
        self._queue = queue

    def tick(self) -> None:
        queue = self._queue
        if not queue.deleted:
            queue.broken = False
            if queue.limits is not None:
                queue.limits.look_on()
            queue.wake()


class Taking(Serving):
    """The ready messages of one queue, and the ways out."""

    __slots__ = ("backlog", "broken", "deleted", "enqueued_count", "settled_count")

    backlog: Backlog | None
    deleted: bool
    enqueued_count: int
    settled_count: int

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        self.broken = False

    def load(self) -> int:
        """Bring messages back from the log; returns how many. What cannot be read stops the queue, not the broker."""
        backlog = self.backlog
        assert backlog is not None
        nothing: tuple[int, list[Arrival]] = (0, [])
        loaded, arrivals = self._read(lambda: backlog.load(self.cursor), nothing)
        for first, messages, wall_ms in arrivals:
            if self.limits is not None:
                self.limits.loaded(first, messages, wall_ms)
        return loaded

    def _read(self, read: Callable[[], T], otherwise: T) -> T:
        """What is read from the log, or the other if that cannot be done."""
        try:
            return read()
        except (StorageError, OSError) as error:
            self.cannot_read(error)
            return otherwise
        finally:
            backlog = self.backlog
            if backlog is not None and backlog.log.gaps:
                backlog.count_lost(self.cursor, backlog.tail_offset)

    def cannot_read(self, error: StorageError | OSError) -> None:
        """Stop: for good when the log is damaged, else (out of handles, perhaps) for a while."""
        self.broken = True
        if isinstance(error, StorageError):
            self.scheduler.report(f"{self.place} cannot be read, delivers nothing", error)
        else:
            self.scheduler.report(f"{self.place} cannot be read now", error)
            self.scheduler.timed.ask(_TryAgain(self), self.scheduler.wall_ms + RETRY_MS)

    @property
    def place(self) -> str:
        """What it is, for an operator."""
        return f"queue '{self.name}' in vhost '{self.vhost}'"

    def get(self) -> tuple[Message, int] | None:
        """Lease one message for basic.get: (message, offset), None when nothing is ready."""
        for _ in range(GET_STEPS_MAX):
            if self.held:
                return None
            if self.limits is not None and self.limits.expiry.is_pressing:
                self.limits.expiry.expire()
            elif self.must_load:
                self.load()
            else:
                messages, offsets = self.take(1)
                if messages or not self.must_load:
                    return (messages[0], offsets[0]) if messages else None
        return None

    @property
    def must_load(self) -> bool:
        """Whether what comes first is in the log, or may be."""
        cursor = self.cursor
        return (
            cursor.unloaded_count > 0
            and not self.broken
            and not (cursor.windowed and bool(cursor.head or cursor.returned))
        )

    def take(self, count: int) -> tuple[Sequence[Message], Sequence[int]]:
        """Lease up to `count` messages in order, for nobody in particular.

        None of them although there are some: what was in memory had gone, ask again.
        """
        while self.must_load:
            self.load()
        messages, offsets = self.cursor.take(count)
        if self.limits is not None and messages:
            self.limits.taken(messages)
        return messages, offsets

    def take_below(self, offset: int, count: int) -> tuple[Sequence[Message], Sequence[int]]:
        """Lease up to `count` messages that are in memory, below an offset."""
        messages, offsets = self.cursor.take_below(offset, count)
        if self.limits is not None and messages:
            self.limits.taken(messages)
        return messages, offsets

    def take_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """Lease these (ascending) wherever they stand; returns those that were ready, as (offset, message)."""
        cursor, limits = self.cursor, self.limits
        found = cursor.take_each(offsets)
        for _, message in found:
            self.gauge.take_out(message)
        counted = [message for _, message in found]
        if len(found) < len(offsets) and self.backlog is not None and cursor.unloaded_count and not self.broken:
            backlog = self.backlog
            nothing: list[tuple[int, Message]] = []
            more = self._read(lambda: backlog.take_each(cursor, offsets), nothing)
            found = sorted(found + more)
            counted += [message for offset, message in more if limits is None or limits.knows(offset)]
        if limits is not None and counted:
            limits.taken(counted)
        return found

    def read_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """These (ascending), of which `backlog.keeps` was true, as far as they can be read now."""
        backlog = self.backlog
        nothing: list[tuple[int, Message]] = []
        if backlog is None or self.broken:
            return nothing
        return self._read(lambda: backlog.read_each(offsets), nothing)

    def first_unloaded_ms(self) -> int | None:
        """When the first message came in that is in the log only, or an earlier one; None if that cannot be read."""
        backlog = self.backlog
        return self._read(backlog.first_ms, None) if backlog is not None and not self.broken else None

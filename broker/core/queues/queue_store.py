"""Hot path. What one queue holds: messages that are ready in memory, ready in its log only, or leased.

Budget: 0.1 µs per message enqueued in a run; held by `jackalope bench amqp`. Synchronous; knows no consumers and no
rules. It is made of three parts, which change through it alone: the lease cursor (`core.queues.lease_cursor`: order
and leases), the log behind it (`core.queues.backlog`) and the gauge that says when the head is full.

| who | asks for |
|---|---|
| `core.queues.queue` | `enqueue`, `append_alone` (then `let_in` or `pass_by`), `settle`, `settle_one`, `release`, |
| | `watch`, `purge`, `recover`, `close` |
| `core.queues.dispatch` | `take`, `settle` (no-ack), `load`, `is_low`, `must_load`; whether `cursor` has anything |
| `core.queues.limits`, `core.queues.expiry` | counts, scans, leases out of the middle; `Limits` is the `Watcher` |
| `core.queues.at_least_once` | `settle`, `read_each`, `keeps` |
| `core.vhosts.replay`, `core.vhosts.redelivery` | reads: `ready_messages`, `scan`, `read_each`, `scan_kept`; |
| | a replay of dead letters leases and ends: `take_each`, `settle` |

A log that cannot be read stops its queue (`broken`), whose owner is told, but not the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from broker.core.message import Message
from broker.core.queues.backlog import HEAD_BYTES_MAX, LOW_BYTES, Arrival, Backlog, HeadGauge
from broker.core.queues.lease_cursor import ENDLESS, LeaseCursor
from broker.core.queues.records import Persistence
from broker.core.scheduler import Scheduler
from broker.log.errors import StorageError
from broker.log.log import Log
from broker.log.store import Store

GAUGED_COUNT, GAUGED_BYTES = 32, 1 << 16
"""The head of a queue without a log is measured from so many messages on, or when one is so large."""
T = TypeVar("T")
_is_persistent = Persistence().of


class Watcher(Protocol):
    """What is told about the messages of a queue with rules: `core.queues.limits.Limits`."""

    def taken(self, messages: Sequence[Message]) -> None:
        """These messages are leased, and no longer ready."""

    def settled(self, offsets: Sequence[int]) -> None:
        """The leases of these offsets are over for good."""

    def loaded(self, first: int, messages: Sequence[Message], wall_ms: int) -> None:
        """Messages from offset `first` on, which came in at `wall_ms` in an earlier run, are in memory again."""

    def purged(self) -> None:
        """No message is ready any more."""

    def knows(self, offset: int) -> bool:
        """Whether the watcher has looked at a message that is in the log only; asked about no other messages."""
        ...


class Owner(Protocol):
    """The queue that a store belongs to."""

    def unreadable(self, error: StorageError | OSError) -> None:
        """The log could not be read, and the store is `broken` until somebody says otherwise."""


class QueueStore:
    """The messages of one queue. `cursor` is open to be read: whether it has anything is asked on every turn."""

    __slots__ = (
        "_backlog", "_gauge", "_logs", "_owner", "_plain_log", "_scheduler", "broken", "closed", "cursor",
        "enqueued_count", "settled_count", "watcher",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, scheduler: Scheduler, cursor: LeaseCursor, logs: Store | None, log: Log | None
    ) -> None:
        self.cursor = cursor
        self._gauge = HeadGauge()
        self._backlog = Backlog(logs, log, self._gauge) if logs is not None and log is not None else None
        self._plain_log = log if self._backlog is not None else None  # Of a queue that nobody watches, until it closes.
        self.watcher: Watcher | None = None
        self.closed = False
        """Whether the queue is deleted: leases still end, and the log is none of its business any more."""
        self.enqueued_count = 0
        self.settled_count = 0
        self.broken = False
        """Whether the log could not be read: nothing is loaded from it."""
        self._scheduler = scheduler
        self._owner: Owner | None = owner
        self._logs = logs  # Where a queue without a log gets one, when its head is full.

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody what becomes of messages, from now on."""
        self.watcher = watcher
        self._plain_log = None

    # What there is.

    @property
    def ready_count(self) -> int:
        """Messages that wait for a consumer."""
        return self.cursor.ready_count

    @property
    def leased_count(self) -> int:
        """Messages that are with somebody."""
        return self.cursor.leased_count

    @property
    def unloaded_count(self) -> int:
        """Ready messages that are in the log only."""
        return self.cursor.unloaded_count

    @property
    def end_offset(self) -> int:
        """Behind the last message that has come in."""
        return self.cursor.tail_offset if self._backlog is None else self._backlog.log.next_offset

    @property
    def front_offset(self) -> int | None:
        """All below this offset is leased or gone, and all that is ready stands in order from it on; None if not so."""
        cursor = self.cursor
        if cursor.returned or cursor.holes_count or not cursor.windowed or self.must_load:
            return None
        return cursor.head_offset if cursor.head else self.end_offset

    @property
    def log(self) -> Log | None:
        """The queue's log; None while all is in memory."""
        return self._backlog.log if self._backlog is not None else None

    @property
    def kept(self) -> bool:
        """Whether a restart finds the messages again."""
        return self._backlog is not None and self._backlog.log.durable

    def keeps(self, message: Message) -> bool:
        """Whether `read_each` can read this message again, so that nobody else need hold it."""
        return self._backlog is not None and self._backlog.keeps(message)

    # In.

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Append messages in order, to a queue without priorities or with a log."""
        backlog = self._backlog
        if backlog is not None:
            backlog.enqueue(self.cursor, messages, self._scheduler.wall_ms)
        else:
            head = self.cursor.head
            head.extend(messages)
            if len(head) >= GAUGED_COUNT or len(messages[-1][1]) >= GAUGED_BYTES:
                self._measure(messages)
        self.enqueued_count += len(messages)

    def append(self, messages: Sequence[Message]) -> int:
        """`enqueue` for whoever has to know their offsets, to any queue; returns that of the first."""
        cursor, backlog = self.cursor, self._backlog
        if backlog is not None:
            first = backlog.log.next_offset
            backlog.enqueue(cursor, messages, self._scheduler.wall_ms)
        else:
            first = cursor.tail_offset
            cursor.extend(first, messages, first)
            if cursor.windowed:
                self._measure(messages)
        self.enqueued_count += len(messages)
        return first

    def append_alone(self, message: Message) -> int:
        """Store one message that meets an empty head, in a frame that has nothing else of this queue.

        The message does not enter the head: the caller goes on with `let_in` or `pass_by`. Returns the message's
        offset; -1, with nothing stored, where the queue or the message asks for more than that.
        """
        backlog, cursor = self._backlog, self.cursor
        if backlog is None or cursor.head or cursor.unloaded_count or not cursor.windowed:
            return -1
        log = backlog.log
        content = message[1]
        if log.dirty or log.alone is not None or not log.durable or not _is_persistent(content):
            return -1
        offset = log.append_alone(message, self._scheduler.wall_ms)
        backlog.tail_offset = offset + 1
        logs = backlog.store
        logs.promised_count += 1
        logs.pending_bytes += len(content)
        self.enqueued_count += 1
        return offset

    def let_in(self, offset: int, message: Message) -> None:
        """The message of `append_alone` is ready."""
        self.cursor.extend(offset, (message,), offset)
        self._gauge.octets = 0  # The head was empty; a single message need not be measured.

    def pass_by(self, offset: int) -> None:
        """The message of `append_alone` is leased at once."""
        cursor = self.cursor
        cursor.head_offset = offset + 1
        if cursor.run_end != ENDLESS:
            cursor.run_end = ENDLESS
            cursor.runs.clear()
        cursor.leased_count += 1

    def _measure(self, messages: Sequence[Message]) -> None:
        """Measure messages that have come into the head of a queue without a log. If the head is full, the queue gets
        a log, for the next messages, that ends with the process."""
        if self._gauge.add(len(self.cursor.head) - len(messages), messages) > HEAD_BYTES_MAX and self._logs is not None:
            log = self._logs.create_log(durable=False)
            log.begin_at(self.cursor.tail_offset)
            self._backlog = Backlog(self._logs, log, self._gauge)
            self._plain_log = log if self.watcher is None else None

    # Out: leases begin.

    def take(self, count: int) -> tuple[Sequence[Message], Sequence[int]]:
        """Lease up to `count` messages in order.

        May return none although some are ready: the messages in memory were gone already. Then ask again.
        """
        cursor = self.cursor
        if cursor.unloaded_count:
            while self.must_load:
                self.load()
        taken = cursor.take(count)
        if self.watcher is not None and taken[0]:
            self.watcher.taken(taken[0])
        return taken

    def take_below(self, offset: int, count: int) -> tuple[Sequence[Message], Sequence[int]]:
        """Lease up to `count` messages that are in memory, below an offset."""
        taken = self.cursor.take_below(offset, count)
        if self.watcher is not None and taken[0]:
            self.watcher.taken(taken[0])
        return taken

    def take_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """Lease these (ascending) wherever they stand; returns those that were ready, as (offset, message)."""
        cursor, watcher = self.cursor, self.watcher
        found = cursor.take_each(offsets)
        for _, message in found:
            self._gauge.take_out(message)
        counted = [message for _, message in found]
        if len(found) < len(offsets) and self._backlog is not None and cursor.unloaded_count and not self.broken:
            backlog = self._backlog
            nothing: list[tuple[int, Message]] = []
            more = self._read(lambda: backlog.take_each(cursor, offsets), nothing)
            found = sorted(found + more)
            counted += [message for offset, message in more if watcher is None or watcher.knows(offset)]
        if watcher is not None and counted:
            watcher.taken(counted)
        return found

    # Leases end, or come back.

    def settle(self, offsets: Sequence[int]) -> None:
        """The leases of these offsets are over for good."""
        count = len(offsets)
        self.cursor.leased_count -= count
        self.settled_count += count
        if self.watcher is not None:
            self.watcher.settled(offsets)
        if self._backlog is not None and not self.closed:
            self._backlog.settle(offsets)

    def settle_one(self, offset: int) -> None:
        """The same of one lease."""
        log = self._plain_log
        if log is not None:
            self.cursor.leased_count -= 1
            self.settled_count += 1
            log.settle_one(offset)
        else:
            self.settle((offset,))

    def release(self, leases: Sequence[tuple[int, Message]]) -> None:
        """Leases (offset, message) come back to their places; nobody is told."""
        self.cursor.release(leases)

    def purge(self) -> int:
        """Drop what is ready; what is leased stays. Returns how many were dropped; they are freed in later slices."""
        if self._backlog is not None and not self.closed:
            self._backlog.purge(self.cursor)
            if self.kept:
                self._backlog.store.promised_count += 1
        count, garbage = self.cursor.clear_ready()
        self.settled_count += count
        if self.watcher is not None:
            self.watcher.purged()
        for container in garbage:
            self._scheduler.discard(container)
        return count

    def close(self) -> None:
        """The queue is deleted: what is ready goes, and the log with it."""
        self.closed = True
        self._plain_log = None
        self._owner = None  # Or the two would wait for the garbage collector.
        self.purge()
        if self._backlog is not None:
            self._backlog.store.drop_log(self._backlog.log)

    # Between memory and the log.

    @property
    def must_load(self) -> bool:
        """Whether what comes first is in the log, or may be."""
        cursor = self.cursor
        return (
            cursor.unloaded_count > 0
            and not self.broken
            and not (cursor.windowed and bool(cursor.head or cursor.returned))
        )

    @property
    def must_load_all(self) -> bool:
        """Whether what comes first is known only when all of the log is in memory, as by priority."""
        return not self.cursor.windowed and self.cursor.unloaded_count > 0

    @property
    def begins_in_log(self) -> bool:
        """Whether nothing but what was returned stands before what is in the log only."""
        return self.cursor.unloaded_count > 0 and not self.cursor.head

    def is_low(self, *, is_served: bool) -> bool:
        """Whether to `load` before a take: little is left in memory and consumers are served, or the order (by
        priority) is known only when more messages are in memory."""
        cursor = self.cursor
        if self.broken or not cursor.unloaded_count:
            return False
        return not cursor.windowed or (is_served and self._gauge.look(len(cursor.head)) < LOW_BYTES)

    def load(self) -> int:
        """Bring messages back from the log; returns how many."""
        backlog = self._backlog
        assert backlog is not None
        nothing: tuple[int, list[Arrival]] = (0, [])
        loaded, arrivals = self._read(lambda: backlog.load(self.cursor), nothing)
        if self.watcher is not None:
            for first, messages, wall_ms in arrivals:
                self.watcher.loaded(first, messages, wall_ms)
        return loaded

    @property
    def unloaded_range(self) -> tuple[int, int] | None:
        """The offsets [first, end) among which lies what is in the log only; None when there is nothing."""
        backlog = self._backlog
        if backlog is None or not self.cursor.unloaded_count:
            return None
        return backlog.tail_offset, backlog.log.next_offset

    def scan(self, start: int = 0) -> Iterator[Arrival]:
        """See `Backlog.scan`: what is in the log only, from `start` on. Lazy; raises Corrupt and OSError."""
        return self._backlog.scan(start) if self._backlog is not None else iter(())

    def unloaded(self, first: int, end: int) -> list[tuple[int, int]]:
        """The ranges of [first, end), which `scan` gave, that still are ready and in the log only."""
        return self._backlog.ready(first, end) if self._backlog is not None else []

    def scan_kept(self, start: int) -> Iterator[tuple[int, list[tuple[int, Message]]]]:
        """See `Backlog.scan_kept`: what was settled and is kept. Lazy; raises Corrupt and OSError."""
        return self._backlog.scan_kept(start) if self._backlog is not None else iter(())

    def ready_messages(self, start: int = 0) -> Iterator[tuple[int, Message]]:
        """(offset, message) of all that is ready in memory from `start` on. Lazy; nothing may change it meanwhile."""
        return self.cursor.ready_messages(start)

    def read_each(self, offsets: Sequence[int]) -> list[tuple[int, Message]]:
        """These (ascending), of which `keeps` was true, as far as they can be read now."""
        backlog = self._backlog
        nothing: list[tuple[int, Message]] = []
        if backlog is None or self.broken:
            return nothing
        return self._read(lambda: backlog.read_each(offsets), nothing)

    def first_unloaded_ms(self) -> int | None:
        """When the first message came in that is in the log only, or an earlier one; None if that cannot be read."""
        backlog = self._backlog
        return self._read(backlog.first_ms, None) if backlog is not None and not self.broken else None

    def _read(self, read: Callable[[], T], otherwise: T) -> T:
        """What `read` reads from the log; `otherwise`, after `cannot_read`, if the log cannot be read."""
        try:
            return read()
        except (StorageError, OSError) as error:
            self.cannot_read(error)
            return otherwise
        finally:
            self.count_lost()

    def cannot_read(self, error: StorageError | OSError) -> None:
        """Nothing is loaded from now on, and the owner is told."""
        self.broken = True
        if self._owner is not None:
            self._owner.unreadable(error)

    def count_lost(self) -> None:
        """What has turned out to be damaged does not wait any more."""
        backlog = self._backlog
        if backlog is not None and backlog.log.gaps:
            backlog.count_lost(self.cursor, backlog.tail_offset)

    # From one run to the next.

    def recover(self, *, clean: bool) -> None:
        """All that the log holds is back; `clean` says how the last run ended."""
        assert self._backlog is not None
        self._backlog.recover(self.cursor, clean=clean)

    def note_seen(self) -> None:
        """Before a stop in order: note for the next run what may have been delivered."""
        if self._backlog is not None:
            self._backlog.note_seen(self.cursor)

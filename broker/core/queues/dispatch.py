"""Hot path. Who gets the next message of a queue: its consumers, their levels, and rounds among equals.

Budget: 0.2 µs per message handed to a consumer in a batch; held by `jackalope bench amqp`. Synchronous; knows no
sockets and no protocol: consumers are a port (`Consumer`), messages are the store's (`core.queues.queue_store`).

The next message goes to the highest priority level that has a consumer with capacity; within a level consumers take
turns (round-robin), one message each, in order of registration. `dispatch` hands out whole rounds as slices, which is
the same order. A queue none of whose consumers has capacity sleeps (`hungry` is false) until a consumer calls `wake`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from broker.core.message import Message
from broker.core.queues.lease_cursor import BATCH_MAX
from broker.core.queues.queue_store import QueueStore
from broker.core.scheduler import SLICE_UNITS, Scheduler

if TYPE_CHECKING:
    from broker.core.queues.effective_policy import Rules
    from broker.core.queues.limits import Limits

GET_STEPS_MAX = 64
"""Steps of preparation (loading, expiring) that one basic.get may cost; an empty answer is better than a standstill."""
Lease = tuple["Holder", int, Message]
"""(who holds it, offset, message): what a channel remembers of an unacknowledged delivery."""


class Lender(Protocol):
    """Where leases come from, and where they end: a queue, or what a consumer reads of a stream."""

    name: str
    vhost: str

    @property
    def rules(self) -> Rules:
        """What it was told."""
        ...

    @property
    def kept(self) -> bool:
        """Whether a restart knows of leases that ended for good."""
        ...

    @property
    def deaths_max(self) -> int:
        """How many messages are to die in one step."""
        ...

    @property
    def returns_max(self) -> int:
        """How many leases are to come back in one step."""
        ...

    @property
    def death_units(self) -> int:
        """What the death of one costs, for the scheduler."""
        ...

    def settle(self, offsets: Sequence[int]) -> None:
        """The leases of these offsets are over for good."""

    def settle_one(self, offset: int) -> None:
        """`settle` for a single lease."""

    def reject(self, leases: Sequence[Lease]) -> None:
        """End leases whose messages are not to be requeued: the messages are dropped, or dead-lettered."""

    def release(self, leases: Sequence[Lease], *, counted: bool = True) -> None:
        """Take leases back, to be delivered again; `counted` as deliveries that failed."""

    def hold(self) -> None:
        """Hand out nothing until `unhold`: returns begin that take several slices."""

    def unhold(self) -> None:
        """The returns that `hold` announced are complete."""

    def wake(self) -> None:
        """A consumer may have capacity again."""

    def is_active(self, consumer: Consumer) -> bool:
        """Whether the consumer is served; not if it waits behind a single active consumer."""
        ...

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        """Detach a consumer."""


class Holder(Protocol):
    """Who leased a message: a consumer, or a channel's basic.get."""

    @property
    def queue(self) -> Lender:
        """Where it comes from."""
        ...

    in_flight: int

    def settled(self, count: int) -> None:
        """`count` leases of this holder ended, in whatever way."""

    def end_one(self, offset: int) -> None:
        """This lease is over for good: `settle_one` of the queue, and `settled`."""


class Consumer(Holder, Protocol):
    """What a queue needs to know of a consumer."""

    tag: str
    priority: int
    exclusive: bool
    no_ack: bool

    @property
    def shares_capacity(self) -> bool:
        """Whether it is to be served one message at a time, because delivering to another consumer may take from its
        capacity (channel-wide prefetch) or both share a channel, on which messages must keep their order."""
        ...

    def capacity(self) -> int:
        """How many messages it would take now; 0 or less for none."""
        ...

    def deliver(self, messages: Sequence[Message], offsets: Sequence[int]) -> None:
        """Take these leases (no more than `capacity`)."""

    def deliver_one(self, message: Message, offset: int) -> bool:
        """Take this lease, or have no capacity for it; write nothing before the end of the turn."""
        ...

    def cancelled(self) -> None:
        """The queue is gone; the consumer is no longer attached."""


class Serving:
    """The consumers of one queue, and the leases that they get from its store."""

    __slots__ = (
        "consumers",
        "dirty",
        "hungry",
        "last_used_ms",
        "levels",
        "limits",
        "ranks",
        "returning_count",
        "scheduler",
        "single_active",
        "sole",
        "store",
        "takes_over",
        "yielding",
    )  # fmt: skip

    def __init__(
        self, store: QueueStore, scheduler: Scheduler, now_ms: int, *, single_active: bool, takes_over: bool
    ) -> None:
        self.store = store
        self.scheduler = scheduler
        self.limits: Limits | None = None
        """What enforces the queue's rules: messages that are due to expire have to go before anybody is served."""
        self.single_active = single_active
        """Whether only one consumer is served while the others wait."""
        self.takes_over = takes_over
        """Whether the single active consumer makes way for a higher priority (RabbitMQ 4: quorum queues)."""
        self.last_used_ms = now_ms
        self.consumers: list[Consumer] = []  # In order of registration.
        self.ranks: list[deque[Consumer]] = []  # By descending priority; equals in order of registration, or in rounds.
        self.levels: list[deque[Consumer]] = []  # Those of them that may be served.
        self.sole: Consumer | None = None  # Whoever is the only one that may be served.
        self.yielding: Consumer | None = None  # Was the single active one, and has deliveries that are not settled.
        self.dirty = False
        self.hungry = True
        self.returning_count = 0
        """Returns in progress: nothing is handed out before they are complete, or order is lost."""

    def wake(self) -> None:
        """A consumer may have capacity again."""
        self.hungry = True
        cursor = self.store.cursor
        if not self.dirty and (cursor.head or cursor.returned or cursor.unloaded_count):
            self.dirty = True
            self.scheduler.dirty.append(self)

    def dispatch(self) -> int:
        """Hand out one batch to whoever has capacity; asks to be called again while it could go on."""
        store = self.store
        cursor = store.cursor
        if (cursor.unloaded_count or self.limits is not None) and (units := self._prepare()):
            return self._again(units)
        if self.returning_count or not (cursor.head or cursor.returned):
            return 1
        for level in self.levels:
            if len(level) == 1:
                consumer = level[0]
                capacity = consumer.capacity()
                if capacity > 0:
                    messages, offsets = store.take(min(BATCH_MAX, capacity))
                    if messages:  # `_hand`, without a call: it would be 3 % of a short run.
                        if consumer.no_ack:
                            store.settle(offsets)
                        consumer.deliver(messages, offsets)
                    if len(self.levels) > 1 or consumer.capacity() > 0:
                        return self._again(len(messages))
                    self.hungry = False
                    return len(messages) + 2
            else:
                served = self._dispatch_level(level)
                if served:
                    return self._again(served)
        if self.yielding is not None and not self.yielding.in_flight:
            self._rank()
            return self._again(1)
        self.hungry = False
        return 1 + len(self.consumers)

    def _prepare(self) -> int:
        """Load, or expire, what has to be before anybody is served: the units of work done, 0 when there was none."""
        store = self.store
        if store.cursor.unloaded_count and store.is_low(is_served=bool(self.levels)):
            return 1 + store.load()
        if self.limits is not None and self.limits.expiry.is_pressing and not self.returning_count:
            return SLICE_UNITS if self.limits.expiry.expire() else 1
        return 0

    def serve(self) -> None:
        """Let waiting consumers take what they can, now."""
        cursor = self.store.cursor
        while self.levels and self.hungry and not self.returning_count:
            before = cursor.ready_count
            self.dispatch()
            if not 0 < cursor.ready_count < before:
                return

    def _again(self, served: int) -> int:
        cursor = self.store.cursor
        if cursor.head or cursor.returned or (cursor.unloaded_count and not self.store.broken):
            self.scheduler.mark(self)
        return served + 2

    def _dispatch_level(self, level: deque[Consumer]) -> int:
        """One batch among equals; returns how many messages were handed out, 0 if nobody has room for any."""
        able = []
        most = self.store.cursor.ready_count  # Enough consumers for all messages: the rest of thousands are not asked.
        for consumer in level:
            capacity = consumer.capacity()
            if capacity > 0:
                able.append((consumer, capacity))
                if len(able) == most:
                    break
        if not able:
            return 0
        if any(consumer.shares_capacity for consumer, _ in able):
            return self._dispatch_singly(level)
        rounds = min(min(capacity for _, capacity in able), max(BATCH_MAX // len(able), 1))
        messages, offsets = self.store.take(rounds * len(able))
        width = len(able)
        for index, (consumer, _) in enumerate(able):
            share = messages[index::width]
            if not share:
                break
            self._hand(consumer, share, offsets[index::width])
        if len(messages) % width or (width == most and messages):
            # An unfinished round: whoever was served last goes to the back, and all before it.
            last = able[len(messages) % width - 1][0]
            level.rotate(-1 - level.index(last))
        return max(len(messages), 1)  # There may have been nothing but what had expired.

    def _dispatch_singly(self, level: deque[Consumer]) -> int:
        """One message at a time, since what one consumer gets another may have no room for any more."""
        served = refused = 0
        store, cursor = self.store, self.store.cursor
        while (cursor.head or cursor.returned) and served < BATCH_MAX and refused < len(level):
            consumer = level[0]
            level.rotate(-1)
            if consumer.capacity() > 0:
                self._hand(consumer, *store.take(1))
                served += 1
                refused = 0
            else:
                refused += 1
        return served

    def _hand(self, consumer: Consumer, messages: Sequence[Message], offsets: Sequence[int]) -> None:
        if not messages:
            return  # There was nothing left but what had expired.
        if consumer.no_ack:
            self.store.settle(offsets)
        consumer.deliver(messages, offsets)

    def get(self) -> tuple[Message, int] | None:
        """Lease one message for basic.get: (message, offset), None when nothing is ready."""
        store = self.store
        for _ in range(GET_STEPS_MAX):
            if self.returning_count:
                return None
            if self.limits is not None and self.limits.expiry.is_pressing:
                self.limits.expiry.expire()
            elif store.must_load:
                store.load()
            else:
                messages, offsets = store.take(1)
                if messages or not store.must_load:
                    return (messages[0], offsets[0]) if messages else None
        return None

    # Who they are.

    def attach(self, consumer: Consumer) -> None:
        """Serve one more consumer, behind those of its priority; nobody is woken."""
        self.consumers.append(consumer)
        index, is_there = self._rank_of(consumer.priority)
        if not is_there:
            self.ranks.insert(index, deque())
        self.ranks[index].append(consumer)
        self._rank()

    def detach(self, consumer: Consumer, now_ms: int) -> None:
        """Forget one of the consumers; nobody is woken."""
        self.consumers.remove(consumer)
        self.last_used_ms = now_ms
        index, _ = self._rank_of(consumer.priority)
        self.ranks[index].remove(consumer)
        if not self.ranks[index]:
            del self.ranks[index]
        if consumer is self.sole:
            self.sole = None
        if consumer is self.yielding:
            self.yielding = None
        self._rank()

    def detach_all(self) -> list[Consumer]:
        """Nobody is served any more; returns who was."""
        consumers, self.consumers, self.levels, self.ranks = self.consumers, [], [], []
        return consumers

    def is_active(self, consumer: Consumer) -> bool:
        """False only for those that wait behind a single active consumer."""
        return not self.single_active or any(consumer in level for level in self.levels)

    def _rank_of(self, priority: int) -> tuple[int, bool]:
        """Where those of a priority stand, or would stand, and whether there are any."""
        ranks = self.ranks
        index = bisect_left(ranks, -priority, key=lambda rank: -rank[0].priority)
        return index, index < len(ranks) and ranks[index][0].priority == priority

    def _rank(self) -> None:
        """Say anew who is served. Costs the same however many there are."""
        if not self.single_active:
            self.levels = self.ranks
            self.sole = self.consumers[0] if len(self.consumers) == 1 else None
            return
        serving = self._single()
        self.levels = [deque(serving)] if serving else []
        self.sole = serving[0] if len(serving) == 1 else None

    def _single(self) -> list[Consumer]:
        """The single active consumer: the first to come; in a quorum queue first of the highest priority (RabbitMQ 4).

        A higher priority takes over when the last active one has nothing unacknowledged; until then nobody is served.
        """
        if not self.takes_over or not self.consumers:
            return self.consumers[:1]
        best = self.ranks[0][0]
        before = self.yielding or self.sole
        holds = before is not None and before is not best and before.in_flight
        self.yielding = before if holds else None
        return [] if holds else [best]

"""Hot path. What one consumer of a stream takes from: a position in each partition; nothing is taken away.

Budget: 0.5 µs per message handed to a consumer in a batch; held by `jackalope bench kafka` (row topic-to-amqp).
To its consumer (the `core.queues.dispatch.Consumer` port) a reading is what a queue is to others: it is woken when
there may be capacity and told how deliveries ended. An acknowledgement makes room in the prefetch window and nothing
else, and so does a rejection (RabbitMQ's streams). To the partitions it is a waiter, to the scheduler something to
dispatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.core.message import Message
from broker.core.queues.lease_cursor import BATCH_MAX
from broker.core.streams.position import Decoded, Position
from broker.log.errors import StorageError
from protocol.kafka.records import CorruptBatch

if TYPE_CHECKING:
    from broker.core.queues.dispatch import Consumer, Lease
    from broker.core.queues.effective_policy import Rules
    from broker.core.scheduler import Scheduler
    from broker.core.streams.stream import Stream
    from broker.core.topics.partition import Partition

EMPTY_BATCHES = 8
"""Batches without anything for the consumer that one dispatch looks through."""


class Reading:
    """See the module. `starts` has an offset for each partition."""

    __slots__ = (
        "_decoded",
        "_turn",
        "_wanted",
        "consumer",
        "dirty",
        "exclusive",
        "hungry",
        "name",
        "positions",
        "returning_count",
        "scheduler",
        "stream",
        "vhost",
    )  # fmt: skip

    kept = False
    deleted = False
    returns_max = deaths_max = 4096
    death_units = 1

    def __init__(
        self,
        stream: Stream,
        scheduler: Scheduler,
        decoded: Decoded,
        starts: Sequence[int],
        wanted: Callable[[Message], bool] | None,
    ) -> None:
        self.stream = stream
        self.name = stream.name
        self.vhost = stream.vhost
        self.scheduler = scheduler
        self.dirty = False
        self.hungry = True
        self.returning_count = 0
        self.consumer: Consumer | None = None
        self.exclusive = False
        self.positions: list[Position] = []
        self._decoded = decoded
        self._wanted = wanted
        self._turn = 0
        for partition, offset in zip(stream.topic.partitions, starts, strict=False):
            self._follow(partition, offset)

    @property
    def rules(self) -> Rules:
        """What its queue was told."""
        return self.stream.rules

    def _follow(self, partition: Partition, offset: int) -> None:
        is_only = len(self.stream.topic.partitions) == 1
        self.positions.append(Position(self._decoded, partition, offset, is_only=is_only))

    # Its life.

    def begin(self, consumer: Consumer) -> None:
        """Serve this consumer from now on. Raises Refused 403 when exclusive use forbids it."""
        self.stream.add(self, exclusive=consumer.exclusive)
        self.exclusive = consumer.exclusive
        self.consumer = consumer
        for position in self.positions:
            position.partition.waiters[self] = None
        self.wake()

    def grown(self) -> None:
        """The topic has more partitions: all of what is in those is new."""
        for partition in self.stream.topic.partitions[len(self.positions) :]:
            self._follow(partition, 0)
            partition.waiters[self] = None
        self.wake()

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        """It is cancelled, or its channel is gone."""
        self.stream.remove(self)
        self.stream.last_used_ms = now_ms
        self._let_go()

    def close(self) -> None:
        """The stream is deleted."""
        consumer = self.consumer
        self._let_go()
        if consumer is not None:
            consumer.cancelled()

    def _let_go(self) -> None:
        self.consumer = None
        for position in self.positions:
            position.partition.waiters.pop(self, None)
            position.rest()
        self.positions = []

    def is_active(self, consumer: Consumer) -> bool:
        """Whether it is served."""
        return consumer is self.consumer

    # Messages out.

    def wake(self, partition: Partition | None = None) -> None:
        """There may be capacity, or messages, again."""
        self.hungry = self.hungry or partition is None
        if not self.dirty and self.hungry and not self.returning_count and any(one.has_more for one in self.positions):
            self.dirty = True
            self.scheduler.dirty.append(self)

    def dispatch(self) -> int:
        """Hand out some messages; returns the units of work done."""
        consumer = self.consumer
        if consumer is None or self.returning_count:
            return 1
        capacity = consumer.capacity()
        if capacity <= 0:
            self.hungry = False  # Until the consumer says otherwise.
            return 2
        try:
            units = self._hand_out(consumer, min(capacity, BATCH_MAX))
        except (StorageError, CorruptBatch, OSError) as error:
            self.scheduler.report(f"stream '{self.name}' in vhost '{self.vhost}' cannot be read", error)
            self.stream.remove(self)
            self.close()
            return 2
        self.wake()
        return units

    def _hand_out(self, consumer: Consumer, capacity: int) -> int:
        """From the partitions in turns, some of one at a time. Raises Corrupt, CorruptBatch and OSError."""
        positions = self.positions
        units = 1
        for _ in range(len(positions) + EMPTY_BATCHES):
            self._turn = (self._turn + 1) % len(positions)
            position = positions[self._turn]
            if not position.has_more:
                continue
            messages, offsets, cost = position.gather(capacity, self._wanted)
            units += cost
            if messages:
                self._deliver(consumer, position, messages, offsets)
                break
        return units

    def _deliver(
        self, consumer: Consumer, position: Position, messages: Sequence[Message], offsets: Sequence[int]
    ) -> None:
        consumer.deliver(messages, offsets)

    # How deliveries end.

    def settle(self, offsets: Sequence[int]) -> None:
        """Acknowledged: nothing but room for more."""

    def settle_one(self, offset: int) -> None:
        """The same of one."""

    def reject(self, leases: Sequence[Lease]) -> None:
        """Rejected: the same."""

    def release(self, leases: Sequence[Lease], *, counted: bool = True) -> None:
        """Given back: they are where they were, and whoever wants them again says where to begin."""

    def hold(self) -> None:
        """Returns begin that take several slices."""
        self.returning_count += 1

    def unhold(self) -> None:
        """They are complete."""
        self.returning_count -= 1
        self.wake()

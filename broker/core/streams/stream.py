"""Hot path. A topic as AMQP sees it: a queue of type `stream` that exchanges lead to and that consumers read.

Budget: 2.5 µs per message enqueued in a run of one shape; held by `jackalope bench kafka` (row amqp-to-topic).
Whoever made the topic (a declaration, Kafka's clients, YAML), there is one `Stream` for it in its vhost. What comes in
is appended to a partition: that of its key (`records`), by Kafka's own hash; without a key each run of messages goes to
one partition, in turns (KIP-480). Who reads it is a `Reader` each, and takes nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from broker.core.message import Message
from broker.core.queues.effective_policy import Rules
from broker.core.streams.declaration import arguments_of
from broker.core.streams.records import Renderer
from broker.core.topics.partition import Partition
from broker.core.topics.topic import Topic
from broker.errors import Refused
from protocol.amqp.errors import ACCESS_REFUSED
from protocol.kafka.partitioner import partition_for_key

if TYPE_CHECKING:
    from broker.core.queues.dispatch import Consumer
    from broker.core.scheduler import Scheduler
    from broker.core.streams.reading import Reading
    from broker.log.store import Store

BATCH_RECORDS_MAX = 512
BATCH_BYTES_MAX = 128 << 10
"""Longer runs are cut into several batches, so that none takes long to read."""
KEYS_KEPT = 4096
"""Keys whose partition is remembered."""


class Stream:
    """See the module. What its users need of a queue: a destination, counts, and consumers."""

    __slots__ = ("_next", "_of_key", "_renderer", "_scheduler", "_store", "deleted", "enqueued_count",
                 "last_used_ms", "name", "readings", "rules", "topic", "vhost")  # fmt: skip

    kind: ClassVar = "queue"
    durable = kept = True
    auto_delete = False

    def __init__(self, topic: Topic, vhost: str, scheduler: Scheduler, store: Store) -> None:
        self.topic = topic
        self.name = topic.name
        self.vhost = vhost
        self.rules = Rules()
        self.readings: list[Reading] = []
        self.deleted = False
        self.enqueued_count = 0
        self.last_used_ms = 0
        self._scheduler = scheduler
        self._store = store
        self._renderer = Renderer()
        self._next = 0
        self._of_key: dict[bytes, int] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """As a declaration would say it."""
        return arguments_of(self.topic)

    @property
    def ready_count(self) -> int:
        """Records that a consumer which begins at the first offset finds, about (compaction leaves gaps)."""
        known = sum(one.high_watermark - one.start_offset for one in self.topic.partitions)
        return known - self.damaged_count

    @property
    def damaged_count(self) -> int:
        """Records that cannot be read."""
        return sum(one.log.lost_count for one in self.topic.partitions if one.log.gaps)

    # Messages in.

    @property
    def rejects(self) -> bool:
        """Whether a publish may be refused, so that each has to be looked at: a compacted topic takes no null keys."""
        return self.topic.config.compact

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Append messages, those of one key in order."""
        partitions = self.topic.partitions
        if len(partitions) == 1:
            self._append(partitions[0], messages)
        else:
            shares: dict[int, list[Message]] = {}
            self._next = keyless = (self._next + 1) % len(partitions)
            for message in messages:
                key = self._renderer.look(message)
                shares.setdefault(keyless if key is None else self._partition_of(key), []).append(message)
            for index, share in shares.items():
                self._append(partitions[index], share)
        self.enqueued_count += len(messages)
        self._store.promised_count += 1

    def enqueue_alone(self, message: Message) -> None:
        """One message."""
        self.enqueue((message,))

    def enqueue_one(self, message: Message) -> bool:
        """One message of any kind; False when the topic does not take it."""
        if not self.accepts(message):
            return False
        self.enqueue((message,))
        return True

    def accepts(self, message: Message) -> bool:
        """Whether this one may be appended: a compacted topic has only records with a key."""
        return not self.topic.config.compact or self._renderer.look(message) is not None

    def _partition_of(self, key: bytes) -> int:
        found = self._of_key.get(key)
        count = len(self.topic.partitions)
        if found is None or found >= count:
            if len(self._of_key) >= KEYS_KEPT:
                self._of_key.clear()
            found = self._of_key[key] = partition_for_key(key, count)
        return found

    def _append(self, partition: Partition, messages: Sequence[Message]) -> None:
        render = self._renderer.render
        wall_ms = self._scheduler.wall_ms
        step = min(BATCH_RECORDS_MAX, max(BATCH_BYTES_MAX // len(messages[0][1]), 1))
        for start in range(0, len(messages), step):
            joined = partition.log.open_count(wall_ms)
            some = messages[start : start + step]
            records = [render(message, delta) for delta, message in enumerate(some, joined)]
            partition.extend_own(b"".join(records), len(records), wall_ms, joined)

    # Consumers.

    @property
    def consumers(self) -> list[Consumer]:
        """Those that read, in order of registration: what a queue's `consumers` are."""
        return [one.consumer for one in self.readings if one.consumer is not None]

    def check_access(self, connection: object) -> None:
        """Nobody owns a stream."""

    def add(self, reading: Reading, *, exclusive: bool) -> None:
        """Somebody reads. Raises Refused 403 when exclusive use forbids it."""
        if self.readings and (exclusive or any(one.exclusive for one in self.readings)):
            raise Refused(ACCESS_REFUSED, f"queue '{self.name}' in vhost '{self.vhost}' in exclusive use")
        self.readings.append(reading)

    def remove(self, reading: Reading) -> None:
        """It does no longer."""
        if reading in self.readings:
            self.readings.remove(reading)

    def grown(self) -> None:
        """The topic has more partitions, and so other places for its keys."""
        self._of_key.clear()
        for reading in self.readings:
            reading.grown()

    def close(self) -> None:
        """The topic is gone: its consumers are told."""
        self.deleted = True
        readings, self.readings = self.readings, []
        for reading in readings:
            reading.close()

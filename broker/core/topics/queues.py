"""Durable queues that Kafka's clients may read as topics of one partition: `x-kafka-topic`, or a policy `kafka-topic`.

Such a topic is a view of the queue's log and has no entry in the catalog; its id is that of the log. Readers see what
the log holds: what is not settled, and what is kept although it is (`core.vhosts.retaining`). They change nothing: the
queue settles as before, and what it lets go is gone for readers too. Offsets of messages that only memory has had are
gaps. Records are the queue's own, see `core.queues.records`: key is the routing key, value the body, headers `p` or
`q` (properties), `x` (exchange) and `k` (routing keys that no consumer of AMQP sees: whoever may read the log sees
BCC).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from broker.core.queues.records import is_persistent_batch
from broker.core.topics.config import TopicConfig
from broker.core.topics.errors import TopicRefused
from broker.core.topics.intake import Examined
from broker.core.topics.partition import (
    EARLIEST,
    EARLIEST_LOCAL,
    LATEST,
    LATEST_TIERED,
    MAX_TIMESTAMP,
    Appended,
    Found,
    Partition,
    Read,
    Waiter,
)
from broker.core.topics.producers import UNKNOWN
from broker.core.topics.topic import Topic
from broker.log.recovering import NOTHING_KEPT
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.queues.effective_policy import Rules
    from broker.core.queues.queue import Queue
    from broker.core.topics.registry import Topics
    from broker.log.extents import Batch
    from broker.log.log import Log

RESERVED = "__"
"""How the names of topics begin that are the broker's own, or may become so."""
NONE = Found(-1, -1)


def _read_only(name: str, code: ErrorCode) -> TopicRefused:
    return TopicRefused(code, f"'{name}' is a queue, and open to Kafka's clients for reading only")


class QueuePartition(Partition):
    """The log of a queue, as readers of a topic see it."""

    __slots__ = ("_told", "_watched")

    def __init__(self, topic: QueueTopic, log: Log, watched: dict[QueuePartition, None]) -> None:
        super().__init__(topic.name, 0, log, topic.config, lambda *_: None, lambda _: None)
        self._watched = watched
        self._told = 0

    def configure(self, config: TopicConfig) -> None:
        """How the log is laid out is the queue's affair."""
        self.config = config

    @property
    def start_offset(self) -> int:
        """Nothing below can be read any more."""
        log = self.log
        return min(log.settled.floor, log.kept_from, log.high_watermark)

    @start_offset.setter
    def start_offset(self, _: int) -> None:
        """It follows the queue."""

    # In: nothing.

    def append(
        self, data: bytes | memoryview, now_ms: int, seen: Examined | None = None, owner: int = UNKNOWN
    ) -> Appended:
        """Raises TopicRefused 29."""
        raise _read_only(self.topic_name, ErrorCode.TOPIC_AUTHORIZATION_FAILED)

    def delete_before(self, offset: int) -> int:
        """Raises TopicRefused 44."""
        raise _read_only(self.topic_name, ErrorCode.POLICY_VIOLATION)

    # Out.

    def stored(self, offset: int, bytes_max: int) -> Read | None:
        """Each batch has to be looked at."""
        return None

    def batches(self, offset: int) -> Iterator[Batch]:
        """See `Partition.batches`. What is settled and not persistent may lie there until a restart, and is no more."""
        settled = self.log.settled
        for batch in self.log.read(offset, kept=True):
            header = batch.header
            if not settled.covers(header.base_offset, header.next_offset) or is_persistent_batch(*batch):
                yield batch

    def check_offset(self, offset: int) -> None:
        """Raises TopicRefused 1 for what is behind the end, and for what was kept once and has become too old.

        Where nothing is kept, what consumers of the queue have settled meanwhile is a gap, and no reason to begin anew.
        """
        if offset < 0 or offset > self.log.next_offset or self.log.kept_from != NOTHING_KEPT:
            super().check_offset(offset)

    def find_offset(self, timestamp_ms: int) -> Generator[int, None, Found]:
        """See `Partition.find_offset`; as far as the wall clock never goes back. Raises Corrupt and OSError."""
        yield from ()  # It takes one step: its log is in order of time.
        end = self.high_watermark
        if timestamp_ms == LATEST_TIERED:
            return NONE
        if timestamp_ms in (EARLIEST, EARLIEST_LOCAL, LATEST):
            return Found(-1, end if timestamp_ms == LATEST else self.start_offset)
        if timestamp_ms == MAX_TIMESTAMP:
            return self._last(end)
        header = self.log.first_since(timestamp_ms)
        if header is None or header.base_offset >= end:
            return NONE
        return Found(header.max_timestamp_ms, max(header.base_offset, self.start_offset))

    def _last(self, end: int) -> Found:
        first = self.log.first_header(max(end - 1, 0))
        found = NONE
        for header, _, _ in self.batches(first.base_offset) if first is not None else ():
            if header.base_offset >= end:
                break
            found = Found(header.max_timestamp_ms, header.base_offset)
        return found

    # Who waits.

    def wait(self, waiter: Waiter) -> None:
        """Nobody tells us of what comes to the queue: as long as somebody waits, each frame is looked at."""
        super().wait(waiter)
        if self not in self._watched:
            self._watched[self] = None
            self._told = self.high_watermark

    def synced(self) -> bool:
        """A frame is durable: wake who waits for something in it; returns whether anybody still waits."""
        if self.waiters and self._told != self.high_watermark:
            self._told = self.high_watermark
            self.wake()
        return bool(self.waiters)


class QueueTopic(Topic):
    """A queue as a topic."""

    __slots__ = ()

    def __init__(self, name: str, log: Log, rules: Rules, watched: dict[QueuePartition, None]) -> None:
        super().__init__(name, log.uuid, overrides_of(rules), internal=False)
        self.partitions.append(QueuePartition(self, log, watched))

    def check_changeable(self) -> None:
        """Raises TopicRefused 44."""
        raise _read_only(self.name, ErrorCode.POLICY_VIOLATION)


def overrides_of(rules: Rules) -> dict[str, str]:
    """What of a queue's rules is configuration of a topic. 0 ms: what was delivered goes at once."""
    if not rules.retains:
        return {"retention.ms": "0"}
    return {
        "retention.ms": str(-1 if rules.retain_ms is None else rules.retain_ms),
        "retention.bytes": str(-1 if rules.retain_bytes is None else rules.retain_bytes),
    }


class QueueTopics:
    """Those of a vhost, beside its topics."""

    __slots__ = ("_by_id", "_by_name", "_topics", "watched")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._by_name: dict[str, QueueTopic] = {}
        self._by_id: dict[bytes, QueueTopic] = {}
        self.watched: dict[QueuePartition, None] = {}
        """Those that somebody waits for."""

    def get(self, name: str) -> QueueTopic | None:
        """The queue of this name, if it is open."""
        return self._by_name.get(name)

    def by_id(self, topic_id: bytes) -> QueueTopic | None:
        """The same by the id of its log."""
        return self._by_id.get(topic_id)

    def all(self) -> list[QueueTopic]:
        """All that are open."""
        return list(self._by_name.values())

    def follow(self, queue: Queue) -> None:
        """Open the queue or close it, as its rules say now. Raises TopicRefused when it cannot be opened."""
        found = self._by_name.get(queue.name)
        is_wanted = queue.rules.kafka_topic and queue.kept
        if found is not None and not is_wanted:
            self._close(found)
        elif found is not None:
            found.configure(overrides_of(queue.rules))
        elif is_wanted and (log := queue.store.log) is not None:
            if queue.name.startswith(RESERVED):
                raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"names that begin with {RESERVED} are reserved")
            self._topics.claim(queue.name)
            topic = QueueTopic(queue.name, log, queue.rules, self.watched)
            self._by_name[topic.name] = self._by_id[topic.id] = topic

    def forget(self, queue: Queue) -> None:
        """The queue is gone, and what groups have committed for it goes."""
        topic = self._by_name.get(queue.name)
        if topic is not None:
            self._close(topic)
            for call in self._topics.on_deleted:
                call(topic.name)

    def _close(self, topic: QueueTopic) -> None:
        del self._by_name[topic.name], self._by_id[topic.id]
        self._topics.unclaim(topic.name)
        topic.gone = True
        for partition in topic.partitions:
            partition.gone = True
            partition.wake()

    def synced(self) -> None:
        """A frame is durable."""
        for partition in list(self.watched):
            if not partition.synced():
                del self.watched[partition]

"""The topics of a vhost: create, change, delete, and what of them a restart finds.

A topic is one key of the catalog: its id, the logs of its partitions, its overrides, where its partitions begin (only
where that cannot be told from their logs). What idempotent producers have sent is a key a partition, written now and
then; what came behind it is looked through when a producer first sends to the partition again.

| key | value |
|---|---|
| `t` vhost, topic | id, internal, uuids of the logs, starts; overrides |
| `s` vhost, topic, partition | offset up to which it counts, the producers |
| `m` vhost, topic, partition | its time index, see `times` |
| `k` vhost, topic, partition | what compaction has done, see `compaction.Cleaned` |
| `n` | producer ids below this number may have been given out |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from broker.core import catalog
from broker.core.metadata import Change, Proposal, at_once
from broker.core.topics.broker_config import BrokerConfig
from broker.core.topics.compaction import Cleaned, compact, is_due
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.core.topics.proposing import (
    TopicProposing,
    check_name,
    collision,
    deletion_of,
    starts_of,
    unpacked,
    uuids_of,
)
from broker.core.topics.queues import QueueTopics
from broker.core.topics.rates import Rates
from broker.core.topics.retention import expire
from broker.core.topics.topic import Topic
from broker.core.topics.troubles import CLEAN, ERRORS, Troubles
from broker.log.pledges import Pledge
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.metadata import MetadataStore
    from broker.core.scheduler import Scheduler
    from broker.log.log import Log
    from broker.log.store import Store

PRODUCER_IDS_BLOCK = 1000
FOLLOW_UNITS, FOLLOW_PARTITION_UNITS = 50, 5
"""What it costs a topic to read its configuration again, and each of its partitions."""
SNAPSHOT_BYTES = 16 << 20
"""What a partition with idempotent producers takes in before their state is written again: it bounds what is looked
through after a restart."""


class _Moved(Pledge):
    """The partitions of a vhost that something came into in one frame."""

    __slots__ = ("partitions", "topics")

    is_urgent = False

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.partitions: list[Partition] = []

    def kept(self, committed: bool) -> None:
        """See `Pledge.kept`."""
        if committed:
            self.topics.moved(self.partitions)


class Topics(TopicProposing):
    """See the module."""

    __slots__ = (
        "_by_id",
        "_collisions",
        "_expire_every_ms",
        "_expire_ms",
        "_is_expiring",
        "_limit",
        "_moved",
        "_next_producer_id",
        "_producer_ids_end",
        "_topics",
        "broker_config",
        "deletion_of",
        "is_taken",
        "metadata",
        "on_changed",
        "on_deleted",
        "partition_count",
        "queues",
        "rates",
        "store",
        "troubles",
        "vhost",
    )  # fmt: skip

    def __init__(
        self, vhost: str, store: Store, metadata: MetadataStore, partitions_max: int, expire_every_ms: int
    ) -> None:
        self.vhost = vhost
        self.store = store
        self.metadata = metadata
        self.partition_count = 0
        self._next_producer_id = self._producer_ids_end = 0
        self._expire_every_ms = expire_every_ms
        self._expire_ms = 0
        self._is_expiring = False
        self.on_deleted: list[Callable[[str], None]] = []
        """Called with the name of a topic that is gone."""
        self.on_changed: list[Callable[[Topic], None]] = []
        """Called with a topic that is new or has more partitions."""
        self.is_taken: Callable[[str], bool] = lambda _: False
        """Whether something else that publishers and consumers can name has this name."""
        self.deletion_of: Callable[[Topic], Proposal[None]] = lambda topic: deletion_of(topic, vhost)
        """The proposal that deletes a topic, and with it what others have made of it."""
        self._moved: _Moved | None = None
        self.broker_config = BrokerConfig(vhost, metadata)
        self.rates = Rates()
        self.troubles = Troubles()
        self._limit = partitions_max
        self._topics: dict[str, Topic] = {}
        self._by_id: dict[bytes, Topic] = {}
        self._collisions: dict[str, str] = {}
        self.queues = QueueTopics(self)
        """Queues that are open for reading; look-ups find them too."""

    # Look-up.

    def get(self, name: str) -> Topic | None:
        """The topic of this name."""
        return self._topics.get(name) or self.queues.get(name)

    def by_id(self, topic_id: bytes) -> Topic | None:
        """The topic of this id."""
        return self._by_id.get(topic_id) or self.queues.by_id(topic_id)

    def all(self) -> list[Topic]:
        """Every topic, by name."""
        return sorted((*self._topics.values(), *self.queues.all()), key=attrgetter("name"))

    def partition(self, name: str, index: int) -> Partition:
        """Raises TopicRefused 3 when there is no such partition."""
        topic = self.get(name)
        if topic is None or not 0 <= index < len(topic.partitions):
            raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"no partition {index} of topic '{name}'")
        return topic.partitions[index]

    # Changes, proposed and committed at once: each is durable when the frame that is being filled is.

    def create(
        self, name: str, partitions: int, overrides: Mapping[str, str | None], *, internal: bool = False
    ) -> Topic:
        """See `propose_create`."""
        at_once(self.metadata, self.propose_create, name, partitions, overrides, internal=internal)
        return self._topics[name]

    def add_partitions(self, topic: Topic, count: int) -> None:
        """See `propose_partitions`."""
        at_once(self.metadata, self.propose_partitions, topic, count)

    def configure(self, topic: Topic, overrides: Mapping[str, str | None]) -> None:
        """See `propose_configuration`."""
        at_once(self.metadata, self.propose_configuration, topic, overrides)

    def delete(self, topic: Topic) -> None:
        """See `propose_delete`."""
        at_once(self.metadata, self.propose_delete, topic)

    # Changes, applied.

    def apply(self, change: Change) -> bool:
        """Make, change or end what a committed change names; whether topics are to follow other defaults by it."""
        if change.kind == catalog.BROKER_CONFIG:
            return self.broker_config.apply(change)
        name = change.names[1]
        topic = self._topics.get(name)
        if change.gone:
            assert topic is not None
            self._end(topic)
            return False
        logs = uuids_of(change.known)
        if topic is None:
            topic = self.made(
                name, bytes.fromhex(change.known["id"]), change.arguments, internal=change.known["internal"]
            )
            self._add(topic)
        elif change.arguments != topic.overrides:
            # Else it only grows: new defaults are followed by `follow_defaults`, which writes where partitions begin.
            topic.configure(change.arguments)
        new = logs[len(topic.partitions) :]
        if new:
            for uuid in new:
                log = self.store.create_log(durable=True, uuid=uuid)
                topic.partitions.append(self._partition(topic, len(topic.partitions), log))
            self.partition_count += len(new)
            for call in self.on_changed:
                call(topic)
        return False

    def _end(self, topic: Topic) -> None:
        del self._topics[topic.name], self._by_id[topic.id], self._collisions[collision(topic.name)]
        topic.gone = True
        self.partition_count -= len(topic.partitions)
        for partition in topic.partitions:
            partition.gone = True
            self.store.delete(self._key(catalog.PRODUCERS, partition))
            self.store.delete(self._key(catalog.CLEANED, partition))
            self.store.delete(self._key(catalog.TIMES, partition))
            self.store.drop_log(partition.log)
            partition.wake()
        for call in self.on_deleted:
            call(topic.name)

    def claim(self, name: str) -> None:
        """A queue is to be found by this name. Raises TopicRefused 17 when it cannot."""
        check_name(name)
        self.check_collision(name)
        self._collisions[collision(name)] = name

    def unclaim(self, name: str) -> None:
        """It no longer is."""
        del self._collisions[collision(name)]

    def follow_defaults(self) -> Iterator[int]:
        """Topics follow the broker's configuration, in steps that yield units of work."""
        for topic in list(self._topics.values()):
            if not topic.gone and topic.follow_defaults():
                self._put(topic)  # A compacted one has to know where its partitions begin.
            yield FOLLOW_UNITS + len(topic.partitions) * FOLLOW_PARTITION_UNITS

    def delete_records(self, partition: Partition, offset: int) -> int:
        """Drop what is below `offset` of a partition; returns its new start. Raises TopicRefused 1."""
        start = partition.delete_before(offset)
        if partition.config.compact:
            self._put(self._topics[partition.topic_name])  # It cannot be told from what is left of the log.
        return start

    def next_producer_id(self) -> int:
        """A producer id that nobody has had (KIP-730: in blocks, and a restart begins a new one)."""
        if self._next_producer_id == self._producer_ids_end:
            first = int.from_bytes(self.store.catalog.get(catalog.PRODUCER_IDS, b""), "big")
            self._next_producer_id, self._producer_ids_end = first, first + PRODUCER_IDS_BLOCK
            self.store.put(catalog.PRODUCER_IDS, self._producer_ids_end.to_bytes(8, "big"))
        self._next_producer_id += 1
        return self._next_producer_id - 1

    def _add(self, topic: Topic) -> None:
        self._topics[topic.name] = self._by_id[topic.id] = topic
        self._collisions[collision(topic.name)] = topic.name

    def _partition(self, topic: Topic, index: int, log: Log) -> Partition:
        return Partition(topic.name, index, log, topic.config, self._appended, self._save)

    def _put(self, topic: Topic) -> None:
        """Where its partitions begin has changed, by what is in them: that comes with the data, in the same frame,
        whoever decides about definitions."""
        logs = [partition.log.uuid for partition in topic.partitions]
        change = self.definition(topic, topic.overrides, logs, starts_of(topic) if topic.config.compact else [])
        key, value = change.entry
        assert value is not None  # It is no deletion.
        self.store.put(key, value)

    def _appended(self, partition: Partition, size: int) -> None:
        """A batch of `size` octets came in."""
        store = self.store
        store.pending_bytes += size
        if partition.frame != store.frame:
            partition.frame = store.frame
            moved = self._moved
            if moved is None or moved.frame != store.frame:
                moved = self._moved = _Moved(self)
                store.pledge(moved)
            moved.partitions.append(partition)
        partition.bytes_in += size
        partition.unsaved_bytes += size
        if partition.unsaved_bytes >= SNAPSHOT_BYTES:
            self._save(partition)

    def moved(self, partitions: list[Partition]) -> None:
        """The high watermarks of these partitions have moved: who waits for their data may have it."""
        self.rates.note(partitions)
        for partition in partitions:
            if partition.waiters:
                partition.wake()

    # Time.

    def tick(self, scheduler: Scheduler, now_ms: int) -> None:
        """Time has passed: look, now and then, for what is too old or too much. `now_ms` is monotonic."""
        if self.rates.is_due(now_ms):
            scheduler.add_job(self.rates.roll(now_ms))
        if self._topics and scheduler.wall_ms >= self._expire_ms and not self._is_expiring:
            self._is_expiring = True
            scheduler.add_job(self._expire(scheduler))

    def _expire(self, scheduler: Scheduler) -> Iterator[int]:
        for partition in [partition for topic in self._topics.values() for partition in topic.partitions]:
            try:
                yield from self._clean(partition, scheduler.wall_ms)
            except ERRORS as error:
                if self.troubles.note(partition, CLEAN, error):
                    place = f"{partition.topic_name}-{partition.index} in vhost '{self.vhost}'"
                    scheduler.report(f"what is too old in {place}, or superseded, stays for now", error)
            else:
                self.troubles.is_over(partition, CLEAN)
        self.troubles.try_again()
        self._expire_ms = scheduler.wall_ms + self._expire_every_ms
        self._is_expiring = False

    def _clean(self, partition: Partition, now_ms: int) -> Iterator[int]:
        yield from expire([partition], now_ms)
        yield from partition.times.catch_up()
        partition.producers.expire(now_ms)
        if partition.gone or not partition.config.compact or self._topics[partition.topic_name].internal:
            return
        key = self._key(catalog.CLEANED, partition)
        cleaned = Cleaned.read(self.store.catalog.get(key, b""))
        yield 1
        if is_due(partition, cleaned, now_ms):
            cleaned = yield from compact(partition, cleaned, now_ms)
            if not partition.gone:
                self.store.put(key, cleaned.octets())

    # What is known of what the logs hold: who has sent it, and when it is from.

    def _key(self, kind: bytes, partition: Partition) -> bytes:
        return catalog.partition_key(kind, self.vhost, partition.topic_name, partition.index)

    def _save(self, partition: Partition) -> None:
        """Write what a restart would have to look for in the log."""
        partition.unsaved_bytes = partition.producers.unsaved_count = 0
        partition.log.has_waste = partition.config.compact  # The offsets of groups are settled as they come.
        if len(partition.producers):
            end = partition.log.next_offset.to_bytes(8, "big")
            self.store.put(self._key(catalog.PRODUCERS, partition), end + partition.producers.snapshot())
        marks = partition.times.snapshot()
        if marks:
            self.store.put(self._key(catalog.TIMES, partition), marks)

    def _recover_producers(self, partition: Partition) -> None:
        """Bring back what is known of a partition's producers. Raises Corrupt and OSError."""
        saved = self.store.catalog.get(self._key(catalog.PRODUCERS, partition), b"")
        partition.recover_producers(saved[8:], int.from_bytes(saved[:8], "big"))

    def close_in_order(self) -> None:
        """Write what the next start would have to look for."""
        for topic in self._topics.values():
            for partition in topic.partitions:
                if partition.unsaved_bytes:
                    self._save(partition)

    # The start.

    def restore(self, name: str, known: Mapping[str, Any], overrides: Mapping[str, str]) -> list[bytes]:
        """A topic that the catalog knows comes back; returns the uuids of its logs."""
        topic = self.made(name, bytes.fromhex(known["id"]), overrides, internal=known["internal"])
        logs, starts = uuids_of(known), unpacked(known.get("starts", b""))
        for index, log in enumerate([self.store.by_uuid[uuid] for uuid in logs]):
            partition = self._partition(topic, index, log)
            if index < len(starts):
                partition.start_offset = starts[index]
            partition.recover = self._recover_producers
            marks = self.store.catalog.get(self._key(catalog.TIMES, partition))
            if marks:
                partition.times.restore(marks)
            topic.partitions.append(partition)
        self._add(topic)
        self.partition_count += len(topic.partitions)
        for call in self.on_changed:
            call(topic)
        return logs

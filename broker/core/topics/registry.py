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

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from broker.core import catalog
from broker.core.topics.broker_config import BrokerConfig
from broker.core.topics.compaction import Cleaned, compact, is_due
from broker.core.topics.config import NO_DEFAULTS, check_overrides
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.core.topics.queues import QueueTopics
from broker.core.topics.rates import Rates
from broker.core.topics.retention import expire
from broker.core.topics.topic import Topic
from broker.core.topics.troubles import CLEAN, ERRORS, Troubles
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.log.log import Log
    from broker.log.store import Store

NAME_LENGTH_MAX = 249
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
PARTITIONS_PER_TOPIC_MAX = 10_000
PRODUCER_IDS_BLOCK = 1000
FOLLOW_UNITS, FOLLOW_PARTITION_UNITS = 50, 5
"""What it costs a topic to read its configuration again, and each of its partitions."""
SNAPSHOT_BYTES = 16 << 20
"""What a partition with idempotent producers takes in before their state is written again: it bounds what is looked
through after a restart."""


def check_name(name: str) -> None:
    """Raises TopicRefused 17 for what is no name of a topic (Kafka: Topic.validate)."""
    if name in (".", ".."):
        raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: '{name}' is not allowed")
    if not _NAME.fullmatch(name):
        raise TopicRefused(
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            f"Topic name is invalid: '{name[:NAME_LENGTH_MAX]}' is not 1 to {NAME_LENGTH_MAX} of [a-zA-Z0-9._-]",
        )


def _packed(numbers: Iterable[int]) -> bytes:
    """One value of a table, which has room for some thousands only."""
    return b"".join([number.to_bytes(8, "big") for number in numbers])


def _unpacked(value: bytes) -> list[int]:
    """What `_packed` has made."""
    return [int.from_bytes(value[at : at + 8], "big") for at in range(0, len(value), 8)]


def _collision(name: str) -> str:
    """Names that are equal here cannot both exist: metrics write dots as underscores."""
    return name.replace(".", "_")


class Topics:
    """See the module."""

    __slots__ = (
        "_by_id",
        "_collisions",
        "_expire_every_ms",
        "_expire_ms",
        "_is_expiring",
        "_limit",
        "_next_producer_id",
        "_producer_ids_end",
        "_topics",
        "broker_config",
        "is_taken",
        "on_changed",
        "on_deleted",
        "partition_count",
        "queues",
        "rates",
        "store",
        "troubles",
        "unsynced",
        "vhost",
    )  # fmt: skip

    def __init__(self, vhost: str, store: Store, partitions_max: int, expire_every_ms: int) -> None:
        self.vhost = vhost
        self.store = store
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
        self.unsynced: list[tuple[int, Partition]] = []
        """(frame, partition) in order of frames: whose high watermark moves when the frame is durable."""
        self.broker_config = BrokerConfig(vhost, store)
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

    # Changes. Each is durable when the frame that is being filled is.

    def create(
        self,
        name: str,
        partitions: int,
        overrides: Mapping[str, str | None],
        *,
        internal: bool = False,
        validate_only: bool = False,
    ) -> Topic:
        """A new topic. Raises TopicRefused: 17 name, 36 exists, 37 partitions, 40 configuration, 44 too many."""
        check_name(name)
        if name in self._topics:
            raise TopicRefused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        if self.is_taken(name):
            raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"'{name}' is a queue already")
        self._check_collision(name)
        self._check_count(partitions, partitions)
        topic = Topic(
            name,
            self.store.new_uuid(),
            check_overrides(overrides),
            internal=internal,
            defaults=self._defaults(internal),
        )
        if validate_only:
            return topic
        self._add(topic)
        self._grow(topic, partitions)
        self._put(topic)
        self._tell(topic)
        return topic

    def _check_collision(self, name: str) -> None:
        other = self._collisions.get(_collision(name))
        if other is not None:
            raise TopicRefused(
                ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topics: {other}"
            )

    def claim(self, name: str) -> None:
        """A queue is to be found by this name. Raises TopicRefused 17 when it cannot."""
        check_name(name)
        self._check_collision(name)
        self._collisions[_collision(name)] = name

    def unclaim(self, name: str) -> None:
        """It no longer is."""
        del self._collisions[_collision(name)]

    def _tell(self, topic: Topic) -> None:
        for call in self.on_changed:
            call(topic)

    def _check_count(self, partitions: int, more: int) -> None:
        if not 1 <= partitions <= PARTITIONS_PER_TOPIC_MAX:
            raise TopicRefused(
                ErrorCode.INVALID_PARTITIONS,
                f"a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {partitions}",
            )
        if self.partition_count + more > self._limit:
            raise TopicRefused(ErrorCode.POLICY_VIOLATION, f"there may be {self._limit} partitions in all")

    def add_partitions(self, topic: Topic, count: int, *, validate_only: bool = False) -> None:
        """Give the topic `count` partitions in all. Raises TopicRefused 37 when that is not more than it has."""
        topic.check_changeable()
        if count <= len(topic.partitions):
            raise TopicRefused(
                ErrorCode.INVALID_PARTITIONS,
                f"The topic {topic.name} currently has {len(topic.partitions)} partition(s); {count} would not be an"
                " increase.",
            )
        self._check_count(count, count - len(topic.partitions))
        if not validate_only:
            self._grow(topic, count - len(topic.partitions))
            self._put(topic)
            self._tell(topic)

    def configure(self, topic: Topic, overrides: Mapping[str, str | None], *, validate_only: bool = False) -> None:
        """Replace the overrides; None is a default. Raises TopicRefused 40."""
        topic.check_changeable()
        checked = check_overrides(overrides)
        if not validate_only:
            topic.configure(checked)
            self._put(topic)

    def _defaults(self, internal: bool) -> Mapping[str, str]:
        """What holds for a topic that says nothing: the broker's own are as they are."""
        return NO_DEFAULTS if internal else self.broker_config.topic_defaults

    def follow_defaults(self) -> Iterator[int]:
        """Topics follow the broker's configuration, in steps that yield units of work."""
        for topic in list(self._topics.values()):
            if not topic.gone and topic.follow_defaults():
                self._put(topic)  # A compacted one has to know where its partitions begin.
            yield FOLLOW_UNITS + len(topic.partitions) * FOLLOW_PARTITION_UNITS

    def delete(self, topic: Topic) -> None:
        """The topic goes with all that is in it; who waits for its data is woken. Raises TopicRefused."""
        topic.check_changeable()
        del self._topics[topic.name], self._by_id[topic.id], self._collisions[_collision(topic.name)]
        topic.gone = True
        self.partition_count -= len(topic.partitions)
        self.store.delete(catalog.key(catalog.TOPIC, self.vhost, topic.name))
        for partition in topic.partitions:
            partition.gone = True
            self.store.delete(self._key(catalog.PRODUCERS, partition))
            self.store.delete(self._key(catalog.CLEANED, partition))
            self.store.delete(self._key(catalog.TIMES, partition))
            self.store.drop_log(partition.log)
            partition.wake()
        for call in self.on_deleted:
            call(topic.name)

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
        self._collisions[_collision(topic.name)] = topic.name

    def _grow(self, topic: Topic, count: int) -> None:
        for _ in range(count):
            log = self.store.create_log(durable=True)
            topic.partitions.append(self._partition(topic, len(topic.partitions), log))
        self.partition_count += count

    def _partition(self, topic: Topic, index: int, log: Log) -> Partition:
        return Partition(topic.name, index, log, topic.config, self._appended, self._save)

    def _put(self, topic: Topic) -> None:
        known: dict[str, Any] = {
            "id": topic.id.hex(),
            "internal": topic.internal,
            "uuids": b"".join([partition.log.uuid for partition in topic.partitions]),
        }
        if topic.config.compact:
            known["starts"] = _packed(partition.start_offset for partition in topic.partitions)
        self.store.put(catalog.key(catalog.TOPIC, self.vhost, topic.name), catalog.value(known, topic.overrides))

    def _appended(self, partition: Partition, size: int) -> None:
        """A batch of `size` octets came in."""
        store = self.store
        store.pending_bytes += size
        if partition.frame != store.frame:
            partition.frame = store.frame
            self.unsynced.append((store.frame, partition))
        partition.bytes_in += size
        partition.unsaved_bytes += size
        if partition.unsaved_bytes >= SNAPSHOT_BYTES:
            self._save(partition)

    def synced(self, frame: int) -> None:
        """Everything up to `frame` is durable: who waits for data of these partitions may have it."""
        if self.queues.watched:
            self.queues.synced()
        unsynced = self.unsynced
        count = 0
        while count < len(unsynced) and unsynced[count][0] <= frame:
            count += 1
        moved = [partition for _, partition in unsynced[:count]]
        del unsynced[:count]
        self.rates.note(moved)
        for partition in moved:
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
        topic = Topic(
            name,
            bytes.fromhex(known["id"]),
            overrides,
            internal=known["internal"],
            defaults=self._defaults(known["internal"]),
        )
        uuids = [known["uuids"][at : at + 16] for at in range(0, len(known["uuids"]), 16)]
        starts = _unpacked(known.get("starts", b""))
        for index, log in enumerate([self.store.by_uuid[uuid] for uuid in uuids]):
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
        self._tell(topic)
        return uuids

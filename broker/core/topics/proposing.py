"""What may become of a vhost's topics: every rule of creating, growing, configuring and deleting them, as proposals.

What is refused is raised, as TopicRefused with Kafka's code; see `core.metadata` for what becomes of a proposal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.core import catalog
from broker.core.metadata import Change, Guard, Proposal
from broker.core.topics.config import NO_DEFAULTS, check_overrides
from broker.core.topics.errors import TopicRefused
from broker.core.topics.topic import Topic
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.metadata import MetadataStore
    from broker.core.topics.broker_config import BrokerConfig
    from broker.log.store import Store

NAME_LENGTH_MAX = 249
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
PARTITIONS_PER_TOPIC_MAX = 10_000


def check_name(name: str) -> None:
    """Raises TopicRefused 17 for what is no name of a topic (Kafka: Topic.validate)."""
    if name in (".", ".."):
        raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: '{name}' is not allowed")
    if not _NAME.fullmatch(name):
        raise TopicRefused(
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            f"Topic name is invalid: '{name[:NAME_LENGTH_MAX]}' is not 1 to {NAME_LENGTH_MAX} of [a-zA-Z0-9._-]",
        )


UUID_BYTES = 16


def packed(numbers: Iterable[int]) -> bytes:
    """One value of a table, which has room for some thousands only."""
    return b"".join([number.to_bytes(8, "big") for number in numbers])


def uuids_of(known: Mapping[str, Any]) -> list[bytes]:
    """The uuids of a topic's logs, by partition."""
    uuids: bytes = known["uuids"]
    return [uuids[at : at + UUID_BYTES] for at in range(0, len(uuids), UUID_BYTES)]


def unpacked(value: bytes) -> list[int]:
    """What `packed` has made."""
    return [int.from_bytes(value[at : at + 8], "big") for at in range(0, len(value), 8)]


def starts_of(topic: Topic) -> list[int]:
    """Where its partitions begin."""
    return [partition.start_offset for partition in topic.partitions]


def deletion_of(topic: Topic, vhost: str) -> Proposal[None]:
    """The proposal that deletes a topic that nothing else depends on."""
    return Proposal((Change(catalog.TOPIC, (vhost, topic.name), {}, {}, gone=True),), (), None)


def collision(name: str) -> str:
    """Names that are equal here cannot both exist: metrics write dots as underscores."""
    return name.replace(".", "_")


class TopicProposing:
    """The asking half of `Topics`."""

    __slots__ = ()

    vhost: str
    store: Store
    metadata: MetadataStore
    partition_count: int
    broker_config: BrokerConfig
    is_taken: Callable[[str], bool]
    deletion_of: Callable[[Topic], Proposal[None]]
    _limit: int
    _topics: dict[str, Topic]
    _collisions: dict[str, str]

    def propose_create(
        self, name: str, partitions: int, overrides: Mapping[str, str | None], *, internal: bool = False
    ) -> Proposal[Topic]:
        """A new topic; the reply is what it will be, without partitions.

        Raises TopicRefused: 17 name, 36 exists, 37 partitions, 40 configuration, 44 too many.
        """
        check_name(name)
        if name in self._topics:
            raise TopicRefused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        if self.is_taken(name):
            raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"'{name}' is a queue already")
        self.check_collision(name)
        self._check_count(partitions, partitions)
        topic = self.made(name, self.store.new_uuid(), check_overrides(overrides), internal=internal)
        logs = [self.store.new_uuid() for _ in range(partitions)]
        starts = [0] * partitions if topic.config.compact else []
        guards = [
            Guard(kind, (self.vhost, name), "absent", self.metadata.revision) for kind in (catalog.TOPIC, catalog.QUEUE)
        ]
        return Proposal((self.definition(topic, topic.overrides, logs, starts),), guards, topic)

    def propose_partitions(self, topic: Topic, count: int) -> Proposal[None]:
        """Give the topic `count` partitions in all. Raises TopicRefused 37 when that is not more than it has."""
        topic.check_changeable()
        has = len(topic.partitions)
        if count <= has:
            raise TopicRefused(
                ErrorCode.INVALID_PARTITIONS,
                f"The topic {topic.name} currently has {has} partition(s); {count} would not be an increase.",
            )
        self._check_count(count, count - has)
        new = [self.store.new_uuid() for _ in range(count - has)]
        logs = [*(partition.log.uuid for partition in topic.partitions), *new]
        starts = [*starts_of(topic), *[0] * (count - has)] if topic.config.compact else []
        change = self.definition(topic, topic.overrides, logs, starts)
        return Proposal((change,), (self._unchanged(topic),), None)

    def propose_configuration(self, topic: Topic, overrides: Mapping[str, str | None]) -> Proposal[None]:
        """Replace the overrides; None is a default. Raises TopicRefused 40."""
        topic.check_changeable()
        checked = check_overrides(overrides)
        configured = self.made(topic.name, topic.id, checked, internal=topic.internal)
        starts = starts_of(topic) if configured.config.compact else []
        change = self.definition(topic, checked, [partition.log.uuid for partition in topic.partitions], starts)
        return Proposal((change,), (self._unchanged(topic),), None)

    def propose_delete(self, topic: Topic) -> Proposal[None]:
        """The topic goes with all that is in it; who waits for its data is woken. Raises TopicRefused."""
        topic.check_changeable()
        return self.deletion_of(topic)

    def _unchanged(self, topic: Topic) -> Guard:
        return Guard(catalog.TOPIC, (self.vhost, topic.name), "present", self.metadata.revision)

    def made(self, name: str, topic_id: bytes, overrides: Mapping[str, str], *, internal: bool) -> Topic:
        """A topic with these overrides, without partitions."""
        return Topic(name, topic_id, overrides, internal=internal, defaults=self._defaults(internal))

    def definition(
        self, topic: Topic, overrides: Mapping[str, str], logs: Iterable[bytes], starts: Sequence[int]
    ) -> Change:
        """The definition of a topic; `starts` are there where it is compacted: they cannot be told from the logs."""
        known: dict[str, Any] = {"id": topic.id.hex(), "internal": topic.internal, "uuids": b"".join(logs)}
        if starts:
            known["starts"] = packed(starts)
        return Change(catalog.TOPIC, (self.vhost, topic.name), known, overrides)

    def check_collision(self, name: str) -> None:
        """Raises TopicRefused 17 where a name differs from another only by dots and underscores."""
        other = self._collisions.get(collision(name))
        if other is not None:
            raise TopicRefused(
                ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topics: {other}"
            )

    def _check_count(self, partitions: int, more: int) -> None:
        if not 1 <= partitions <= PARTITIONS_PER_TOPIC_MAX:
            raise TopicRefused(
                ErrorCode.INVALID_PARTITIONS,
                f"a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {partitions}",
            )
        if self.partition_count + more > self._limit:
            raise TopicRefused(ErrorCode.POLICY_VIOLATION, f"there may be {self._limit} partitions in all")

    def _defaults(self, internal: bool) -> Mapping[str, str]:
        """What holds for a topic that says nothing: the broker's own are as they are."""
        return NO_DEFAULTS if internal else self.broker_config.topic_defaults

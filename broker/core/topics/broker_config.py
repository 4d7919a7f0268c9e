"""The broker's configuration as Kafka's administrators change it: what topics have that say nothing themselves.

It has two scopes: that of all brokers (Kafka's resource ""), and over it that of this one. Most keys are defaults of
topics, under the broker's names for them (Kafka's `ServerTopicConfigSynonyms`); they hold for every topic that has no
override of its own but the broker's own topics. The throttles of replication are kept and shown, since
`kafka-reassign-partitions` sets and deletes them; there is nothing here that they could slow. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from broker.core import catalog
from broker.core.metadata import NOTHING, Change, Found, Guard, MetadataStore, Proposal
from broker.core.topics.config import KEYS, LONG_MAX, Key, long_key
from broker.core.topics.errors import TopicRefused
from protocol.kafka.errors import ErrorCode

Scope = Literal["all", "this"]
SCOPES: tuple[Scope, ...] = ("this", "all")
"""The one that wins first."""
THROTTLES = (
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
)
BROKER_NAMES = {
    "cleanup.policy": "log.cleanup.policy",
    "delete.retention.ms": "log.cleaner.delete.retention.ms",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "flush.messages": "log.flush.interval.messages",
    "flush.ms": "log.flush.interval.ms",
    "index.interval.bytes": "log.index.interval.bytes",
    "local.retention.bytes": "log.local.retention.bytes",
    "local.retention.ms": "log.local.retention.ms",
    "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
    "message.timestamp.type": "log.message.timestamp.type",
    "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
    "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
    "preallocate": "log.preallocate",
    "retention.bytes": "log.retention.bytes",
    "retention.ms": "log.retention.ms",
    "segment.bytes": "log.segment.bytes",
    "segment.index.bytes": "log.index.size.max.bytes",
    "segment.jitter.ms": "log.roll.jitter.ms",
    "segment.ms": "log.roll.ms",
    **{
        name: name
        for name in (
            "compression.gzip.level", "compression.lz4.level", "compression.type", "compression.zstd.level",
            "min.insync.replicas", "unclean.leader.election.enable",
        )
    },
}  # fmt: skip
"""What the broker calls the default of a topic's key."""
IN_HOURS = {
    "retention.ms": "log.retention.hours",
    "segment.ms": "log.roll.hours",
    "segment.jitter.ms": "log.roll.jitter.hours",
}
"""Defaults that Kafka has in hours, where nothing says otherwise; these cannot be changed while it runs."""
HOUR_MS = 3_600_000
TOPIC_NAMES = {broker: topic for topic, broker in BROKER_NAMES.items()}
ALTERABLE: dict[str, Key] = {broker: KEYS[topic] for topic, broker in BROKER_NAMES.items()} | {
    name: long_key(0, LONG_MAX, works=False) for name in THROTTLES
}
"""What may be changed while the broker runs."""


class Sourced(NamedTuple):
    """A value and who says so; `scope` None is the default."""

    name: str
    value: str
    scope: Scope | None


class BrokerConfig:
    """See the module. One a vhost: its topics are those that Kafka's clients see."""

    __slots__ = ("_metadata", "_overrides", "_vhost", "topic_defaults")

    def __init__(self, vhost: str, metadata: MetadataStore) -> None:
        self._vhost = vhost
        self._metadata = metadata
        self._overrides: dict[Scope, dict[str, str]] = {"all": {}, "this": {}}
        self.topic_defaults: dict[str, str] = {}
        """By the topics' names of the keys; the same object for good."""

    def overrides(self, scope: Scope) -> Mapping[str, str]:
        """What was set in a scope."""
        return self._overrides[scope]

    def sources(self, name: str) -> list[Sourced]:
        """The values of a broker's key that was set, the one that holds first."""
        return [
            Sourced(name, value, scope) for scope in SCOPES if (value := self._overrides[scope].get(name)) is not None
        ]

    def check(self, overrides: Mapping[str, str | None]) -> dict[str, str]:
        """The overrides as they are kept; None is no override, of whatever key. Raises TopicRefused 42."""
        kept = {name: value for name, value in overrides.items() if value is not None}
        fixed = [name for name in kept if name not in ALTERABLE]
        if fixed:
            text = f"Cannot update these configs dynamically: [{', '.join(fixed)}]"
            raise TopicRefused(ErrorCode.INVALID_REQUEST, text)
        for name, value in kept.items():
            try:
                ALTERABLE[name].read(value)
            except ValueError as error:
                text = f"Invalid value {value} for configuration {name}: {error}"
                raise TopicRefused(ErrorCode.INVALID_REQUEST, text) from None
        return kept

    def propose_replace(self, scope: Scope, overrides: Mapping[str, str | None]) -> Proposal[None]:
        """All that a scope has. Raises TopicRefused 42."""
        kept = self.check(overrides)
        if kept == self._overrides[scope]:
            return NOTHING
        change = Change(catalog.BROKER_CONFIG, (self._vhost, scope), {}, kept, gone=not kept)
        found: Found = "present" if self._overrides[scope] else "absent"
        return Proposal((change,), (Guard(change.kind, change.names, found, self._metadata.revision),), None)

    def apply(self, change: Change) -> bool:
        """A scope has what a committed change says; returns whether topics have other defaults now."""
        self._overrides[_scope(change.names[1])] = {} if change.gone else dict(change.arguments)
        return self._follow()

    def restore(self, scope: str, overrides: Mapping[str, str]) -> None:
        """What the catalog knows of a scope. Raises TopicRefused for what this version does not know."""
        self._overrides[_scope(scope)] = self.check(overrides)
        self._follow()

    def _follow(self) -> bool:
        merged = self._overrides["all"] | self._overrides["this"]
        defaults = {TOPIC_NAMES[name]: value for name, value in merged.items() if name in TOPIC_NAMES}
        if defaults == self.topic_defaults:
            return False
        self.topic_defaults.clear()
        self.topic_defaults.update(defaults)
        return True


def _scope(name: str) -> Scope:
    return "this" if name == "this" else "all"

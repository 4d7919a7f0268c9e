"""A topic: a name, an id for life, its configuration and its partitions. Made by `Topics` only."""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.topics.config import TopicConfig, read_config
from broker.core.topics.partition import Partition


class Topic:
    """`id` is 16 octets, new whenever a topic of this name is created (KIP-516)."""

    __slots__ = ("config", "gone", "id", "internal", "name", "overrides", "partitions")

    def __init__(self, name: str, topic_id: bytes, overrides: Mapping[str, str], *, internal: bool) -> None:
        self.name = name
        self.id = topic_id
        self.internal = internal
        self.overrides = dict(overrides)
        self.config: TopicConfig = read_config(overrides)
        self.partitions: list[Partition] = []
        self.gone = False

    def check_changeable(self) -> None:
        """Raises TopicRefused unless it may be configured, grown and deleted by whoever has the permissions."""

    def configure(self, overrides: Mapping[str, str]) -> None:
        """New overrides, which `check_overrides` has passed; partitions follow at once."""
        self.overrides = dict(overrides)
        self.config = read_config(overrides)
        for partition in self.partitions:
            partition.configure(self.config)

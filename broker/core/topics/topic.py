"""A topic: a name, an id for life, its configuration and its partitions. Made by `Topics` only."""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.topics.config import KEYS, NO_DEFAULTS, TopicConfig, read_config
from broker.core.topics.partition import Partition


class Topic:
    """`id` is 16 octets, new whenever a topic of this name is created (KIP-516). `defaults` are the broker's, if it
    follows them, and may change (`broker_config`)."""

    __slots__ = ("_defaults", "config", "gone", "id", "internal", "name", "overrides", "partitions")

    def __init__(
        self,
        name: str,
        topic_id: bytes,
        overrides: Mapping[str, str],
        *,
        internal: bool,
        defaults: Mapping[str, str] = NO_DEFAULTS,
    ) -> None:
        self.name = name
        self.id = topic_id
        self.internal = internal
        self.overrides = dict(overrides)
        self.config: TopicConfig = read_config(overrides, defaults)
        self._defaults = defaults
        self.partitions: list[Partition] = []
        self.gone = False

    @property
    def follows_broker(self) -> bool:
        """Whether the broker's configuration holds where it says nothing itself."""
        return self._defaults is not NO_DEFAULTS

    def value_of(self, key: str) -> str:
        """What holds for it: its own, the broker's, or the default."""
        own = self.overrides.get(key)
        return own if own is not None else self._defaults.get(key, KEYS[key].default)

    def follow_defaults(self) -> bool:
        """The broker's have changed; returns whether that changes anything here."""
        config = read_config(self.overrides, self._defaults)
        if config == self.config:
            return False
        self.configure(self.overrides)
        return True

    def check_changeable(self) -> None:
        """Raises TopicRefused unless it may be configured, grown and deleted by whoever has the permissions."""

    def configure(self, overrides: Mapping[str, str]) -> None:
        """New overrides, which `check_overrides` has passed; partitions follow at once."""
        self.overrides = dict(overrides)
        self.config = read_config(overrides, self._defaults)
        for partition in self.partitions:
            partition.configure(self.config)

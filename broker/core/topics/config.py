"""Topic configuration: Kafka's names, types and defaults, and what a topic of ours makes of them.

A topic keeps only what differs from the defaults (its *overrides*, as text: that is how Kafka's clients send them).
`TopicConfig` is the typed reading of them that partitions work with. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from broker.core.topics.errors import TopicRefused
from protocol.kafka.compression import LZ4_LEVEL_FAST
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import GZIP, LZ4, NO_COMPRESSION, SNAPPY, ZSTD

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1
COMPRESSIONS = {"uncompressed": NO_COMPRESSION, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


class ConfigType(enum.IntEnum):
    """How DescribeConfigs v3 names the type of a value."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7


class Key(NamedTuple):
    """One key: `read` gives the typed value of a text, or raises ValueError with what would be allowed."""

    default: str
    type: ConfigType
    read: Callable[[str], Any]
    works: bool
    """Whether it changes anything here; the others are kept and shown, since tools set and compare them."""


def _number(kind: ConfigType, low: int, high: int, default: int, *, works: bool = True) -> Key:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"not a number of type {kind.name}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return Key(str(default), kind, read, works)


def long_key(low: int, default: int, *, works: bool = True) -> Key:
    """A number of 64 bits, of at least `low`."""
    return _number(ConfigType.LONG, low, LONG_MAX, default, works=works)


def _int(low: int, default: int, *, high: int = INT_MAX, works: bool = True) -> Key:
    return _number(ConfigType.INT, low, high, default, works=works)


def _boolean(default: str, *, works: bool) -> Key:
    def read(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"

    return Key(default, ConfigType.BOOLEAN, read, works)


def _choice(default: str, *words: str) -> Key:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return Key(default, ConfigType.STRING, read, True)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("not a number of type DOUBLE") from None
    if not 0 <= value <= 1:
        raise ValueError("must be from 0 to 1")
    return value


def _policies(text: str) -> frozenset[str]:
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    if not words <= {"delete", "compact"}:
        raise ValueError("must be delete, compact or both")
    return words


def _replicas(text: str) -> str:
    return text


KEYS: dict[str, Key] = {
    "cleanup.policy": Key("delete", ConfigType.LIST, _policies, True),
    "compression.gzip.level": _int(-1, -1, high=9),
    "compression.lz4.level": _int(1, LZ4_LEVEL_FAST, high=17),
    "compression.type": _choice("producer", "producer", *COMPRESSIONS),
    "compression.zstd.level": _int(-131072, 3, high=22),
    "delete.retention.ms": long_key(0, 86_400_000),
    "file.delete.delay.ms": long_key(0, 60_000, works=False),
    "flush.messages": long_key(1, LONG_MAX, works=False),
    "flush.ms": long_key(0, LONG_MAX, works=False),
    "follower.replication.throttled.replicas": Key("", ConfigType.LIST, _replicas, False),
    "index.interval.bytes": _int(0, 4096, works=False),
    "leader.replication.throttled.replicas": Key("", ConfigType.LIST, _replicas, False),
    "local.retention.bytes": long_key(-2, -2, works=False),
    "local.retention.ms": long_key(-2, -2, works=False),
    "max.compaction.lag.ms": long_key(1, LONG_MAX),
    "max.message.bytes": _int(0, 1_048_588),
    "message.timestamp.after.max.ms": long_key(0, 3_600_000),
    "message.timestamp.before.max.ms": long_key(0, LONG_MAX),
    "message.timestamp.type": _choice("CreateTime", "CreateTime", "LogAppendTime"),
    "min.cleanable.dirty.ratio": Key("0.5", ConfigType.DOUBLE, _share, True),
    "min.compaction.lag.ms": long_key(0, 0),
    "min.insync.replicas": _int(1, 1, works=False),
    "preallocate": _boolean("false", works=False),
    "remote.storage.enable": _boolean("false", works=False),
    "retention.bytes": long_key(-1, -1),
    "retention.ms": long_key(-1, 604_800_000),
    "segment.bytes": _int(1_048_576, 1_073_741_824),
    "segment.index.bytes": _int(4, 10_485_760, works=False),
    "segment.jitter.ms": long_key(0, 0, works=False),
    "segment.ms": long_key(1, 604_800_000, works=False),
    "unclean.leader.election.enable": _boolean("false", works=False),
}
"""Kafka 4's table. `segment.bytes` has its lower bound of 1 MiB (KIP-1030); larger than the storage's own 64 MiB it
changes nothing. `segment.ms` has nothing to do: retention and compaction look at batches, whatever file they are in."""


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The values that partitions ask for, typed."""

    compact: bool
    delete: bool
    compression: int | None
    """As in a batch's attributes; None: as the producer had it."""
    compression_level: int | None
    delete_retention_ms: int
    max_compaction_lag_ms: int
    max_message_bytes: int
    timestamp_after_max_ms: int
    timestamp_before_max_ms: int
    log_append_time: bool
    min_cleanable_ratio: float
    min_compaction_lag_ms: int
    retention_bytes: int
    retention_ms: int
    segment_bytes: int


def check_overrides(overrides: Mapping[str, str | None]) -> dict[str, str]:
    """The overrides as they are kept; a value of None is the default and left out. Raises TopicRefused 40."""
    for name, text in overrides.items():
        wrong = override_problem(name, text)
        if wrong is not None:
            raise TopicRefused(ErrorCode.INVALID_CONFIG, wrong)
    return {name: text for name, text in overrides.items() if text is not None}


def override_problem(name: str, text: str | None) -> str | None:
    """What is wrong with an override, in Kafka's words; None when nothing is."""
    key = KEYS.get(name)
    if key is None:
        return f"Unknown topic config name: {name}"
    try:
        if text is not None:
            key.read(text)
    except ValueError as error:
        return f"Invalid value {text} for configuration {name}: {error}"
    return None


def text_of(value: object) -> str | None:
    """A value of YAML as Kafka has it, in text; None is the default. A list is one of Kafka's, with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join([str(one) for one in value])
    return None if value is None else str(value)


NO_DEFAULTS: Mapping[str, str] = {}
"""Of who does not follow the broker's configuration."""


def read_config(overrides: Mapping[str, str], defaults: Mapping[str, str] = NO_DEFAULTS) -> TopicConfig:
    """The typed configuration of a topic whose overrides `check_overrides` has passed; `defaults` are the broker's."""

    def value(name: str) -> Any:
        key = KEYS[name]
        return key.read(overrides[name] if name in overrides else defaults.get(name, key.default))

    policies = value("cleanup.policy")
    compression = value("compression.type")
    return TopicConfig(
        compact="compact" in policies,
        delete="delete" in policies,
        compression=COMPRESSIONS.get(compression),
        compression_level=value(level) if (level := f"compression.{compression}.level") in KEYS else None,
        delete_retention_ms=value("delete.retention.ms"),
        max_compaction_lag_ms=value("max.compaction.lag.ms"),
        max_message_bytes=value("max.message.bytes"),
        timestamp_after_max_ms=value("message.timestamp.after.max.ms"),
        timestamp_before_max_ms=value("message.timestamp.before.max.ms"),
        log_append_time=value("message.timestamp.type") == "LogAppendTime",
        min_cleanable_ratio=value("min.cleanable.dirty.ratio"),
        min_compaction_lag_ms=value("min.compaction.lag.ms"),
        retention_bytes=value("retention.bytes"),
        retention_ms=value("retention.ms"),
        segment_bytes=value("segment.bytes"),
    )

"""What consumer groups write: members' metadata on the wire, and the records of the topic that keeps groups.

Each is an int16 version, then a struct of that version. The records of `__consumer_offsets` are Kafka's own, so that
its tools can read them: keys of version 0 and 1 are offsets, of version 2 groups; a value of null is a deletion.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

from protocol.kafka.codec import encode, read
from protocol.kafka.schema import MalformedRequest, array, int32, int64, message, octets, string, uuid

T = TypeVar("T")

OFFSET_KEY_VERSION, GROUP_KEY_VERSION = 1, 2
OFFSET_VALUE_VERSION, GROUP_VALUE_VERSION = 3, 3
OFFSET_VALUE_VERSION_MAX = GROUP_VALUE_VERSION_MAX = FLEXIBLE_RECORDS_FROM = 4
"""The newest that is read: compact, with tagged fields. What is written suits older tools too."""
SUBSCRIPTION_VERSION_MAX, ASSIGNMENT_VERSION_MAX = 3, 3
_VERSION = struct.Struct(">h")


@message
class OwnedPartitions:
    """Partitions of one topic."""

    topic: str = string()
    partitions: list[int] = array(int32())


@message
class Subscription:
    """What a consumer says of itself when it joins (ConsumerProtocolSubscription)."""

    topics: list[str] = array(string())
    user_data: bytes | None = octets(nullable=True, default=None)
    owned_partitions: list[OwnedPartitions] = array(OwnedPartitions, since=1)
    generation_id: int = int32(since=2, default=-1)
    rack_id: str | None = string(since=3, nullable=True, default=None)


@message
class Assignment:
    """What a consumer is told to read (ConsumerProtocolAssignment)."""

    assigned_partitions: list[OwnedPartitions] = array(OwnedPartitions)
    user_data: bytes | None = octets(nullable=True, default=None)


@message
class OffsetKey:
    """Whose offset of what."""

    group: str = string()
    topic: str = string()
    partition: int = int32()


@message
class OffsetValue:
    """A committed offset."""

    offset: int = int64()
    leader_epoch: int = int32(since=3, default=-1)
    metadata: str = string()
    commit_timestamp: int = int64()
    expire_timestamp: int = int64(since=1, until=1, default=-1)
    topic_id: bytes = uuid(since=4, tag=0)


@message
class GroupKey:
    """Which group."""

    group: str = string()


@message
class GroupMember:
    """A member of a stable generation."""

    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    client_id: str = string()
    client_host: str = string()
    rebalance_timeout: int = int32(since=1, default=-1)
    session_timeout: int = int32()
    subscription: bytes = octets()
    assignment: bytes = octets()


@message
class GroupValue:
    """A group: stable with its members, or empty."""

    protocol_type: str = string()
    generation: int = int32()
    protocol: str | None = string(nullable=True)
    leader: str | None = string(nullable=True)
    current_state_timestamp: int = int64(since=2, default=-1)
    members: list[GroupMember] = array(GroupMember)


def write_versioned(value: Any, version: int) -> bytes:
    """The version, then the struct."""
    return _VERSION.pack(version) + encode(value, version, is_flexible=_is_flexible(type(value), version))


def read_version(data: bytes) -> int:
    """The version that stands in front. Raises MalformedRequest."""
    if len(data) < _VERSION.size:
        raise MalformedRequest(f"{len(data)} octets have no version")
    return int(_VERSION.unpack_from(data)[0])


def read_versioned(cls: type[T], data: bytes, version_max: int) -> T:
    """The struct behind its version. Later versions than are known are read as the last one, as consumers do.

    Raises MalformedRequest.
    """
    version = min(read_version(data), version_max)
    if version < 0:
        raise MalformedRequest(f"version {version}")
    value, _ = read(cls, version, data, _VERSION.size, is_flexible=_is_flexible(cls, version))
    return value  # type: ignore[no-any-return]


def _is_flexible(cls: type, version: int) -> bool:
    """Members' metadata never is, records of groups are from a version that we read but do not write."""
    return version >= FLEXIBLE_RECORDS_FROM and cls in (OffsetValue, GroupValue)


def subscribed_topics(metadata: bytes) -> frozenset[str] | None:
    """The topics that a consumer's metadata subscribe to; None when they cannot be read."""
    try:
        return frozenset(read_versioned(Subscription, metadata, SUBSCRIPTION_VERSION_MAX).topics)
    except MalformedRequest:
        return None

"""OffsetFetch (API 9), versions 1 to 9."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, int64, message, string


@message
class OffsetFetchRequestTopic:
    """OffsetFetchRequestTopic of the request."""

    name: str = string(until=7)
    partition_indexes: list[int] = array(int32(), until=7)


@message
class OffsetFetchRequestTopics:
    """OffsetFetchRequestTopics of the request."""

    name: str = string(since=8)
    partition_indexes: list[int] = array(int32(), since=8)


@message
class OffsetFetchRequestGroup:
    """OffsetFetchRequestGroup of the request."""

    group_id: str = string(since=8)
    member_id: str | None = string(since=9, nullable=True, default=None)
    member_epoch: int = int32(since=9, default=-1)
    topics: list[OffsetFetchRequestTopics] | None = array(OffsetFetchRequestTopics, since=8, nullable=True)


@message
class OffsetFetchRequest:
    """What is asked."""

    group_id: str = string(until=7)
    topics: list[OffsetFetchRequestTopic] | None = array(OffsetFetchRequestTopic, until=7, nullable_since=2)
    groups: list[OffsetFetchRequestGroup] = array(OffsetFetchRequestGroup, since=8)
    require_stable: bool = boolean(since=7)


@message
class OffsetFetchResponsePartition:
    """OffsetFetchResponsePartition of the response."""

    partition_index: int = int32(until=7)
    committed_offset: int = int64(until=7)
    committed_leader_epoch: int = int32(since=5, until=7, default=-1)
    metadata: str | None = string(until=7, nullable=True)
    error_code: int = int16(until=7)


@message
class OffsetFetchResponseTopic:
    """OffsetFetchResponseTopic of the response."""

    name: str = string(until=7)
    partitions: list[OffsetFetchResponsePartition] = array(OffsetFetchResponsePartition, until=7)


@message
class OffsetFetchResponsePartitions:
    """OffsetFetchResponsePartitions of the response."""

    partition_index: int = int32(since=8)
    committed_offset: int = int64(since=8)
    committed_leader_epoch: int = int32(since=8, default=-1)
    metadata: str | None = string(since=8, nullable=True)
    error_code: int = int16(since=8)


@message
class OffsetFetchResponseTopics:
    """OffsetFetchResponseTopics of the response."""

    name: str = string(since=8)
    partitions: list[OffsetFetchResponsePartitions] = array(OffsetFetchResponsePartitions, since=8)


@message
class OffsetFetchResponseGroup:
    """OffsetFetchResponseGroup of the response."""

    group_id: str = string(since=8)
    topics: list[OffsetFetchResponseTopics] = array(OffsetFetchResponseTopics, since=8)
    error_code: int = int16(since=8)


@message
class OffsetFetchResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=3)
    topics: list[OffsetFetchResponseTopic] = array(OffsetFetchResponseTopic, until=7)
    error_code: int = int16(since=2, until=7)
    groups: list[OffsetFetchResponseGroup] = array(OffsetFetchResponseGroup, since=8)

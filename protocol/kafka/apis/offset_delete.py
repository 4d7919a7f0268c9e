"""OffsetDelete (API 47), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class OffsetDeleteRequestPartition:
    """OffsetDeleteRequestPartition of the request."""

    partition_index: int = int32()


@message
class OffsetDeleteRequestTopic:
    """OffsetDeleteRequestTopic of the request."""

    name: str = string()
    partitions: list[OffsetDeleteRequestPartition] = array(OffsetDeleteRequestPartition)


@message
class OffsetDeleteRequest:
    """What is asked."""

    group_id: str = string()
    topics: list[OffsetDeleteRequestTopic] = array(OffsetDeleteRequestTopic)


@message
class OffsetDeleteResponsePartition:
    """OffsetDeleteResponsePartition of the response."""

    partition_index: int = int32()
    error_code: int = int16()


@message
class OffsetDeleteResponseTopic:
    """OffsetDeleteResponseTopic of the response."""

    name: str = string()
    partitions: list[OffsetDeleteResponsePartition] = array(OffsetDeleteResponsePartition)


@message
class OffsetDeleteResponse:
    """What is answered."""

    error_code: int = int16()
    throttle_time_ms: int = int32()
    topics: list[OffsetDeleteResponseTopic] = array(OffsetDeleteResponseTopic)

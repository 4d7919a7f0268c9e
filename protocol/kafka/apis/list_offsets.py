"""ListOffsets (API 2), versions 1 to 9."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, int64, message, string


@message
class ListOffsetsPartition:
    """ListOffsetsPartition of the request."""

    partition_index: int = int32()
    current_leader_epoch: int = int32(since=4, default=-1)
    timestamp: int = int64()


@message
class ListOffsetsTopic:
    """ListOffsetsTopic of the request."""

    name: str = string()
    partitions: list[ListOffsetsPartition] = array(ListOffsetsPartition)


@message
class ListOffsetsRequest:
    """What is asked."""

    replica_id: int = int32()
    isolation_level: int = int8(since=2)
    topics: list[ListOffsetsTopic] = array(ListOffsetsTopic)


@message
class ListOffsetsPartitionResponse:
    """ListOffsetsPartitionResponse of the response."""

    partition_index: int = int32()
    error_code: int = int16()
    timestamp: int = int64(default=-1)
    offset: int = int64(default=-1)
    leader_epoch: int = int32(since=4, default=-1)


@message
class ListOffsetsTopicResponse:
    """ListOffsetsTopicResponse of the response."""

    name: str = string()
    partitions: list[ListOffsetsPartitionResponse] = array(ListOffsetsPartitionResponse)


@message
class ListOffsetsResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=2)
    topics: list[ListOffsetsTopicResponse] = array(ListOffsetsTopicResponse)

"""DescribeTopicPartitions (API 75), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, message, string, struct, uuid


@message
class TopicRequest:
    """TopicRequest of the request."""

    name: str = string()


@message
class Cursor:
    """Cursor of the request."""

    topic_name: str = string()
    partition_index: int = int32()


@message
class DescribeTopicPartitionsRequest:
    """What is asked."""

    topics: list[TopicRequest] = array(TopicRequest)
    response_partition_limit: int = int32(default=2000)
    cursor: Cursor | None = struct(Cursor, nullable=True)


@message
class DescribeTopicPartitionsResponsePartition:
    """DescribeTopicPartitionsResponsePartition of the response."""

    error_code: int = int16()
    partition_index: int = int32()
    leader_id: int = int32()
    leader_epoch: int = int32(default=-1)
    replica_nodes: list[int] = array(int32())
    isr_nodes: list[int] = array(int32())
    eligible_leader_replicas: list[int] | None = array(int32(), nullable=True, default=None)
    last_known_elr: list[int] | None = array(int32(), nullable=True, default=None)
    offline_replicas: list[int] = array(int32())


@message
class DescribeTopicPartitionsResponseTopic:
    """DescribeTopicPartitionsResponseTopic of the response."""

    error_code: int = int16()
    name: str | None = string(nullable=True)
    topic_id: bytes = uuid()
    is_internal: bool = boolean()
    partitions: list[DescribeTopicPartitionsResponsePartition] = array(DescribeTopicPartitionsResponsePartition)
    topic_authorized_operations: int = int32(default=-2147483648)


@message
class DescribeTopicPartitionsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    topics: list[DescribeTopicPartitionsResponseTopic] = array(DescribeTopicPartitionsResponseTopic)
    next_cursor: Cursor | None = struct(Cursor, nullable=True)

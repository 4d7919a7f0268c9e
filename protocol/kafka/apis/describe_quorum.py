"""DescribeQuorum (API 55), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string, uint16, uuid


@message
class PartitionData:
    """PartitionData of the request."""

    partition_index: int = int32()


@message
class TopicData:
    """TopicData of the request."""

    topic_name: str = string()
    partitions: list[PartitionData] = array(PartitionData)


@message
class DescribeQuorumRequest:
    """What is asked."""

    topics: list[TopicData] = array(TopicData)


@message
class ReplicaState:
    """ReplicaState of the response."""

    replica_id: int = int32()
    replica_directory_id: bytes = uuid(since=2)
    log_end_offset: int = int64()
    last_fetch_timestamp: int = int64(since=1, default=-1)
    last_caught_up_timestamp: int = int64(since=1, default=-1)


@message
class PartitionResponse:
    """PartitionData of the response."""

    partition_index: int = int32()
    error_code: int = int16()
    error_message: str | None = string(since=2, nullable=True, default=None)
    leader_id: int = int32()
    leader_epoch: int = int32()
    high_watermark: int = int64()
    current_voters: list[ReplicaState] = array(ReplicaState)
    observers: list[ReplicaState] = array(ReplicaState)


@message
class TopicResponse:
    """TopicData of the response."""

    topic_name: str = string()
    partitions: list[PartitionResponse] = array(PartitionResponse)


@message
class Listener:
    """Listener of the response."""

    name: str = string(since=2)
    host: str = string(since=2)
    port: int = uint16(since=2)


@message
class Node:
    """Node of the response."""

    node_id: int = int32(since=2)
    listeners: list[Listener] = array(Listener, since=2)


@message
class DescribeQuorumResponse:
    """What is answered."""

    error_code: int = int16()
    error_message: str | None = string(since=2, nullable=True, default=None)
    topics: list[TopicResponse] = array(TopicResponse)
    nodes: list[Node] = array(Node, since=2)

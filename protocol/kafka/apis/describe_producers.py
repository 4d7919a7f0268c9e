"""DescribeProducers (API 61), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class TopicRequest:
    """TopicRequest of the request."""

    name: str = string()
    partition_indexes: list[int] = array(int32())


@message
class DescribeProducersRequest:
    """What is asked."""

    topics: list[TopicRequest] = array(TopicRequest)


@message
class ProducerState:
    """ProducerState of the response."""

    producer_id: int = int64()
    producer_epoch: int = int32()
    last_sequence: int = int32(default=-1)
    last_timestamp: int = int64(default=-1)
    coordinator_epoch: int = int32()
    current_txn_start_offset: int = int64(default=-1)


@message
class PartitionResponse:
    """PartitionResponse of the response."""

    partition_index: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True, default=None)
    active_producers: list[ProducerState] = array(ProducerState)


@message
class TopicResponse:
    """TopicResponse of the response."""

    name: str = string()
    partitions: list[PartitionResponse] = array(PartitionResponse)


@message
class DescribeProducersResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    topics: list[TopicResponse] = array(TopicResponse)

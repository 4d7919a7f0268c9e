"""Produce (API 0), versions 3 to 12."""

from __future__ import annotations

from typing import Any

from protocol.kafka.schema import array, int16, int32, int64, message, records, string, struct


@message
class PartitionProduceData:
    """PartitionProduceData of the request."""

    index: int = int32()
    records: Any = records(nullable=True)


@message
class TopicProduceData:
    """TopicProduceData of the request."""

    name: str = string()
    partition_data: list[PartitionProduceData] = array(PartitionProduceData)


@message
class ProduceRequest:
    """What is asked."""

    transactional_id: str | None = string(nullable=True, default=None)
    acks: int = int16()
    timeout_ms: int = int32()
    topic_data: list[TopicProduceData] = array(TopicProduceData)


@message
class BatchIndexAndErrorMessage:
    """BatchIndexAndErrorMessage of the response."""

    batch_index: int = int32(since=8)
    batch_index_error_message: str | None = string(since=8, nullable=True, default=None)


@message
class LeaderIdAndEpoch:
    """LeaderIdAndEpoch of the response."""

    leader_id: int = int32(since=10, default=-1)
    leader_epoch: int = int32(since=10, default=-1)


@message
class PartitionProduceResponse:
    """PartitionProduceResponse of the response."""

    index: int = int32()
    error_code: int = int16()
    base_offset: int = int64()
    log_append_time_ms: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    record_errors: list[BatchIndexAndErrorMessage] = array(BatchIndexAndErrorMessage, since=8)
    error_message: str | None = string(since=8, nullable=True, default=None)
    current_leader: LeaderIdAndEpoch | None = struct(LeaderIdAndEpoch, since=10, tag=0)


@message
class TopicProduceResponse:
    """TopicProduceResponse of the response."""

    name: str = string()
    partition_responses: list[PartitionProduceResponse] = array(PartitionProduceResponse)


@message
class NodeEndpoint:
    """NodeEndpoint of the response."""

    node_id: int = int32(since=10)
    host: str = string(since=10)
    port: int = int32(since=10)
    rack: str | None = string(since=10, nullable=True, default=None)


@message
class ProduceResponse:
    """What is answered."""

    responses: list[TopicProduceResponse] = array(TopicProduceResponse)
    throttle_time_ms: int = int32()
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, since=10, tag=0)

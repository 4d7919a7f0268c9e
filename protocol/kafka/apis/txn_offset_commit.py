"""TxnOffsetCommit (API 28), versions 0 to 4."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class TxnOffsetCommitRequestPartition:
    """TxnOffsetCommitRequestPartition of the request."""

    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=2, default=-1)
    committed_metadata: str | None = string(nullable=True)


@message
class TxnOffsetCommitRequestTopic:
    """TxnOffsetCommitRequestTopic of the request."""

    name: str = string()
    partitions: list[TxnOffsetCommitRequestPartition] = array(TxnOffsetCommitRequestPartition)


@message
class TxnOffsetCommitRequest:
    """What is asked."""

    transactional_id: str = string()
    group_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    generation_id: int = int32(since=3, default=-1)
    member_id: str = string(since=3)
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    topics: list[TxnOffsetCommitRequestTopic] = array(TxnOffsetCommitRequestTopic)


@message
class TxnOffsetCommitResponsePartition:
    """TxnOffsetCommitResponsePartition of the response."""

    partition_index: int = int32()
    error_code: int = int16()


@message
class TxnOffsetCommitResponseTopic:
    """TxnOffsetCommitResponseTopic of the response."""

    name: str = string()
    partitions: list[TxnOffsetCommitResponsePartition] = array(TxnOffsetCommitResponsePartition)


@message
class TxnOffsetCommitResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    topics: list[TxnOffsetCommitResponseTopic] = array(TxnOffsetCommitResponseTopic)

"""OffsetCommit (API 8), versions 2 to 9."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class OffsetCommitRequestPartition:
    """OffsetCommitRequestPartition of the request."""

    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=6, default=-1)
    committed_metadata: str | None = string(nullable=True)


@message
class OffsetCommitRequestTopic:
    """OffsetCommitRequestTopic of the request."""

    name: str = string()
    partitions: list[OffsetCommitRequestPartition] = array(OffsetCommitRequestPartition)


@message
class OffsetCommitRequest:
    """What is asked."""

    group_id: str = string()
    generation_id_or_member_epoch: int = int32(default=-1)
    member_id: str = string()
    group_instance_id: str | None = string(since=7, nullable=True, default=None)
    retention_time_ms: int = int64(until=4, default=-1)
    topics: list[OffsetCommitRequestTopic] = array(OffsetCommitRequestTopic)


@message
class OffsetCommitResponsePartition:
    """OffsetCommitResponsePartition of the response."""

    partition_index: int = int32()
    error_code: int = int16()


@message
class OffsetCommitResponseTopic:
    """OffsetCommitResponseTopic of the response."""

    name: str = string()
    partitions: list[OffsetCommitResponsePartition] = array(OffsetCommitResponsePartition)


@message
class OffsetCommitResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=3)
    topics: list[OffsetCommitResponseTopic] = array(OffsetCommitResponseTopic)

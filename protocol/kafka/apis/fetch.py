"""Fetch (API 1), versions 4 to 17."""

from __future__ import annotations

from typing import Any

from protocol.kafka.schema import array, int8, int16, int32, int64, message, records, string, struct, uuid


@message
class ReplicaState:
    """ReplicaState of the request."""

    replica_id: int = int32(since=15, default=-1)
    replica_epoch: int = int64(since=15, default=-1)


@message
class FetchPartition:
    """FetchPartition of the request."""

    partition: int = int32()
    current_leader_epoch: int = int32(since=9, default=-1)
    fetch_offset: int = int64()
    last_fetched_epoch: int = int32(since=12, default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    partition_max_bytes: int = int32()
    replica_directory_id: bytes = uuid(since=17, tag=0)


@message
class FetchTopic:
    """FetchTopic of the request."""

    topic: str = string(until=12)
    topic_id: bytes = uuid(since=13)
    partitions: list[FetchPartition] = array(FetchPartition)


@message
class ForgottenTopic:
    """ForgottenTopic of the request."""

    topic: str = string(since=7, until=12)
    topic_id: bytes = uuid(since=13)
    partitions: list[int] = array(int32(), since=7)


@message
class FetchRequest:
    """What is asked."""

    cluster_id: str | None = string(since=12, nullable=True, tag=0, default=None)
    replica_id: int = int32(until=14, default=-1)
    replica_state: ReplicaState | None = struct(ReplicaState, since=15, tag=1)
    max_wait_ms: int = int32()
    min_bytes: int = int32()
    max_bytes: int = int32(default=2147483647)
    isolation_level: int = int8()
    session_id: int = int32(since=7)
    session_epoch: int = int32(since=7, default=-1)
    topics: list[FetchTopic] = array(FetchTopic)
    forgotten_topics_data: list[ForgottenTopic] = array(ForgottenTopic, since=7)
    rack_id: str = string(since=11)


@message
class EpochEndOffset:
    """EpochEndOffset of the response."""

    epoch: int = int32(since=12, default=-1)
    end_offset: int = int64(since=12, default=-1)


@message
class LeaderIdAndEpoch:
    """LeaderIdAndEpoch of the response."""

    leader_id: int = int32(since=12, default=-1)
    leader_epoch: int = int32(since=12, default=-1)


@message
class SnapshotId:
    """SnapshotId of the response."""

    end_offset: int = int64(default=-1)
    epoch: int = int32(default=-1)


@message
class AbortedTransaction:
    """AbortedTransaction of the response."""

    producer_id: int = int64()
    first_offset: int = int64()


@message
class PartitionData:
    """PartitionData of the response."""

    partition_index: int = int32()
    error_code: int = int16()
    high_watermark: int = int64()
    last_stable_offset: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    diverging_epoch: EpochEndOffset | None = struct(EpochEndOffset, since=12, tag=0)
    current_leader: LeaderIdAndEpoch | None = struct(LeaderIdAndEpoch, since=12, tag=1)
    snapshot_id: SnapshotId | None = struct(SnapshotId, since=12, tag=2)
    aborted_transactions: list[AbortedTransaction] | None = array(AbortedTransaction, nullable=True)
    preferred_read_replica: int = int32(since=11, default=-1)
    records: Any = records(nullable=True)


@message
class FetchableTopicResponse:
    """FetchableTopicResponse of the response."""

    topic: str = string(until=12)
    topic_id: bytes = uuid(since=13)
    partitions: list[PartitionData] = array(PartitionData)


@message
class NodeEndpoint:
    """NodeEndpoint of the response."""

    node_id: int = int32(since=16)
    host: str = string(since=16)
    port: int = int32(since=16)
    rack: str | None = string(since=16, nullable=True, default=None)


@message
class FetchResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16(since=7)
    session_id: int = int32(since=7)
    responses: list[FetchableTopicResponse] = array(FetchableTopicResponse)
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, since=16, tag=0)

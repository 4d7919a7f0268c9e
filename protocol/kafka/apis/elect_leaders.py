"""ElectLeaders (API 43), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class TopicPartitions:
    """TopicPartitions of the request."""

    topic: str = string()
    partitions: list[int] = array(int32())


@message
class ElectLeadersRequest:
    """What is asked."""

    election_type: int = int8(since=1)
    topic_partitions: list[TopicPartitions] | None = array(TopicPartitions, nullable=True)
    timeout_ms: int = int32(default=60000)


@message
class PartitionResult:
    """PartitionResult of the response."""

    partition_id: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)


@message
class ReplicaElectionResult:
    """ReplicaElectionResult of the response."""

    topic: str = string()
    partition_result: list[PartitionResult] = array(PartitionResult)


@message
class ElectLeadersResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16(since=1)
    replica_election_results: list[ReplicaElectionResult] = array(ReplicaElectionResult)

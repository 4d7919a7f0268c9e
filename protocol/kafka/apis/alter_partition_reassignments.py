"""AlterPartitionReassignments (API 45), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class ReassignablePartition:
    """ReassignablePartition of the request."""

    partition_index: int = int32()
    replicas: list[int] | None = array(int32(), nullable=True, default=None)


@message
class ReassignableTopic:
    """ReassignableTopic of the request."""

    name: str = string()
    partitions: list[ReassignablePartition] = array(ReassignablePartition)


@message
class AlterPartitionReassignmentsRequest:
    """What is asked."""

    timeout_ms: int = int32(default=60000)
    topics: list[ReassignableTopic] = array(ReassignableTopic)


@message
class ReassignablePartitionResponse:
    """ReassignablePartitionResponse of the response."""

    partition_index: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)


@message
class ReassignableTopicResponse:
    """ReassignableTopicResponse of the response."""

    name: str = string()
    partitions: list[ReassignablePartitionResponse] = array(ReassignablePartitionResponse)


@message
class AlterPartitionReassignmentsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    responses: list[ReassignableTopicResponse] = array(ReassignableTopicResponse)

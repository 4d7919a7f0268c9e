"""ListPartitionReassignments (API 46), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class ListPartitionReassignmentsTopics:
    """ListPartitionReassignmentsTopics of the request."""

    name: str = string()
    partition_indexes: list[int] = array(int32())


@message
class ListPartitionReassignmentsRequest:
    """What is asked."""

    timeout_ms: int = int32(default=60000)
    topics: list[ListPartitionReassignmentsTopics] | None = array(
        ListPartitionReassignmentsTopics, nullable=True, default=None
    )


@message
class OngoingPartitionReassignment:
    """OngoingPartitionReassignment of the response."""

    partition_index: int = int32()
    replicas: list[int] = array(int32())
    adding_replicas: list[int] = array(int32())
    removing_replicas: list[int] = array(int32())


@message
class OngoingTopicReassignment:
    """OngoingTopicReassignment of the response."""

    name: str = string()
    partitions: list[OngoingPartitionReassignment] = array(OngoingPartitionReassignment)


@message
class ListPartitionReassignmentsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    topics: list[OngoingTopicReassignment] = array(OngoingTopicReassignment)

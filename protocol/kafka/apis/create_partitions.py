"""CreatePartitions (API 37), versions 0 to 3."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, message, string


@message
class CreatePartitionsAssignment:
    """CreatePartitionsAssignment of the request."""

    broker_ids: list[int] = array(int32())


@message
class CreatePartitionsTopic:
    """CreatePartitionsTopic of the request."""

    name: str = string()
    count: int = int32()
    assignments: list[CreatePartitionsAssignment] | None = array(CreatePartitionsAssignment, nullable=True)


@message
class CreatePartitionsRequest:
    """What is asked."""

    topics: list[CreatePartitionsTopic] = array(CreatePartitionsTopic)
    timeout_ms: int = int32()
    validate_only: bool = boolean()


@message
class CreatePartitionsTopicResult:
    """CreatePartitionsTopicResult of the response."""

    name: str = string()
    error_code: int = int16()
    error_message: str | None = string(nullable=True, default=None)


@message
class CreatePartitionsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[CreatePartitionsTopicResult] = array(CreatePartitionsTopicResult)

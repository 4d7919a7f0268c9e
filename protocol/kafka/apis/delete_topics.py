"""DeleteTopics (API 20), versions 1 to 6."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string, uuid


@message
class DeleteTopicState:
    """DeleteTopicState of the request."""

    name: str | None = string(since=6, nullable=True, default=None)
    topic_id: bytes = uuid(since=6)


@message
class DeleteTopicsRequest:
    """What is asked."""

    topics: list[DeleteTopicState] = array(DeleteTopicState, since=6)
    topic_names: list[str] = array(string(), until=5)
    timeout_ms: int = int32()


@message
class DeletableTopicResult:
    """DeletableTopicResult of the response."""

    name: str | None = string(nullable_since=6)
    topic_id: bytes = uuid(since=6)
    error_code: int = int16()
    error_message: str | None = string(since=5, nullable=True, default=None)


@message
class DeleteTopicsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    responses: list[DeletableTopicResult] = array(DeletableTopicResult)

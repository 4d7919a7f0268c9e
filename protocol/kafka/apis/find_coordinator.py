"""FindCoordinator (API 10), versions 0 to 5."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class FindCoordinatorRequest:
    """What is asked."""

    key: str = string(until=3)
    key_type: int = int8(since=1)
    coordinator_keys: list[str] = array(string(), since=4)


@message
class Coordinator:
    """Coordinator of the response."""

    key: str = string(since=4)
    node_id: int = int32(since=4)
    host: str = string(since=4)
    port: int = int32(since=4)
    error_code: int = int16(since=4)
    error_message: str | None = string(since=4, nullable=True)


@message
class FindCoordinatorResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    error_code: int = int16(until=3)
    error_message: str | None = string(since=1, until=3, nullable=True)
    node_id: int = int32(until=3)
    host: str = string(until=3)
    port: int = int32(until=3)
    coordinators: list[Coordinator] = array(Coordinator, since=4)

"""Heartbeat (API 12), versions 0 to 4."""

from __future__ import annotations

from protocol.kafka.schema import int16, int32, message, string


@message
class HeartbeatRequest:
    """What is asked."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=True, default=None)


@message
class HeartbeatResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()

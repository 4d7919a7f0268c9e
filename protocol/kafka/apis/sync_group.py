"""SyncGroup (API 14), versions 0 to 5."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, octets, string


@message
class SyncGroupRequestAssignment:
    """SyncGroupRequestAssignment of the request."""

    member_id: str = string()
    assignment: bytes = octets()


@message
class SyncGroupRequest:
    """What is asked."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    protocol_type: str | None = string(since=5, nullable=True, default=None)
    protocol_name: str | None = string(since=5, nullable=True, default=None)
    assignments: list[SyncGroupRequestAssignment] = array(SyncGroupRequestAssignment)


@message
class SyncGroupResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    protocol_type: str | None = string(since=5, nullable=True, default=None)
    protocol_name: str | None = string(since=5, nullable=True, default=None)
    assignment: bytes = octets()

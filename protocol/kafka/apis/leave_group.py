"""LeaveGroup (API 13), versions 0 to 5."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class MemberIdentity:
    """MemberIdentity of the request."""

    member_id: str = string(since=3)
    group_instance_id: str | None = string(since=3, nullable=True, default=None)
    reason: str | None = string(since=5, nullable=True, default=None)


@message
class LeaveGroupRequest:
    """What is asked."""

    group_id: str = string()
    member_id: str = string(until=2)
    members: list[MemberIdentity] = array(MemberIdentity, since=3)


@message
class MemberResponse:
    """MemberResponse of the response."""

    member_id: str = string(since=3)
    group_instance_id: str | None = string(since=3, nullable=True)
    error_code: int = int16(since=3)


@message
class LeaveGroupResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    members: list[MemberResponse] = array(MemberResponse, since=3)

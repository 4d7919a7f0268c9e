"""JoinGroup (API 11), versions 0 to 9."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, message, octets, string


@message
class JoinGroupRequestProtocol:
    """JoinGroupRequestProtocol of the request."""

    name: str = string()
    metadata: bytes = octets()


@message
class JoinGroupRequest:
    """What is asked."""

    group_id: str = string()
    session_timeout_ms: int = int32()
    rebalance_timeout_ms: int = int32(since=1, default=-1)
    member_id: str = string()
    group_instance_id: str | None = string(since=5, nullable=True, default=None)
    protocol_type: str = string()
    protocols: list[JoinGroupRequestProtocol] = array(JoinGroupRequestProtocol)
    reason: str | None = string(since=8, nullable=True, default=None)


@message
class JoinGroupResponseMember:
    """JoinGroupResponseMember of the response."""

    member_id: str = string()
    group_instance_id: str | None = string(since=5, nullable=True, default=None)
    metadata: bytes = octets()


@message
class JoinGroupResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=2)
    error_code: int = int16()
    generation_id: int = int32(default=-1)
    protocol_type: str | None = string(since=7, nullable=True, default=None)
    protocol_name: str | None = string(nullable_since=7)
    leader: str = string()
    skip_assignment: bool = boolean(since=9)
    member_id: str = string()
    members: list[JoinGroupResponseMember] = array(JoinGroupResponseMember)

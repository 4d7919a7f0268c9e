"""DescribeGroups (API 15), versions 0 to 6."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, message, octets, string


@message
class DescribeGroupsRequest:
    """What is asked."""

    groups: list[str] = array(string())
    include_authorized_operations: bool = boolean(since=3)


@message
class DescribedGroupMember:
    """DescribedGroupMember of the response."""

    member_id: str = string()
    group_instance_id: str | None = string(since=4, nullable=True, default=None)
    client_id: str = string()
    client_host: str = string()
    member_metadata: bytes = octets()
    member_assignment: bytes = octets()


@message
class DescribedGroup:
    """DescribedGroup of the response."""

    error_code: int = int16()
    error_message: str | None = string(since=6, nullable=True, default=None)
    group_id: str = string()
    group_state: str = string()
    protocol_type: str = string()
    protocol_data: str = string()
    members: list[DescribedGroupMember] = array(DescribedGroupMember)
    authorized_operations: int = int32(since=3, default=-2147483648)


@message
class DescribeGroupsResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    groups: list[DescribedGroup] = array(DescribedGroup)

"""ListGroups (API 16), versions 0 to 5."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class ListGroupsRequest:
    """What is asked."""

    states_filter: list[str] = array(string(), since=4)
    types_filter: list[str] = array(string(), since=5)


@message
class ListedGroup:
    """ListedGroup of the response."""

    group_id: str = string()
    protocol_type: str = string()
    group_state: str = string(since=4)
    group_type: str = string(since=5)


@message
class ListGroupsResponse:
    """What is answered."""

    throttle_time_ms: int = int32(since=1)
    error_code: int = int16()
    groups: list[ListedGroup] = array(ListedGroup)

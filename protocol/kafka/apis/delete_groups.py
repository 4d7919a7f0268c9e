"""DeleteGroups (API 42), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class DeleteGroupsRequest:
    """What is asked."""

    groups_names: list[str] = array(string())


@message
class DeletableGroupResult:
    """DeletableGroupResult of the response."""

    group_id: str = string()
    error_code: int = int16()


@message
class DeleteGroupsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[DeletableGroupResult] = array(DeletableGroupResult)

"""ListConfigResources (API 74), versions 0 to 1."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class ListConfigResourcesRequest:
    """What is asked."""

    resource_types: list[int] = array(int8(), since=1)


@message
class ConfigResource:
    """ConfigResource of the response."""

    resource_name: str = string()
    resource_type: int = int8(since=1, default=16)


@message
class ListConfigResourcesResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    config_resources: list[ConfigResource] = array(ConfigResource)

"""IncrementalAlterConfigs (API 44), versions 0 to 1."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int8, int16, int32, message, string


@message
class AlterableConfig:
    """AlterableConfig of the request."""

    name: str = string()
    config_operation: int = int8()
    value: str | None = string(nullable=True)


@message
class AlterConfigsResource:
    """AlterConfigsResource of the request."""

    resource_type: int = int8()
    resource_name: str = string()
    configs: list[AlterableConfig] = array(AlterableConfig)


@message
class IncrementalAlterConfigsRequest:
    """What is asked."""

    resources: list[AlterConfigsResource] = array(AlterConfigsResource)
    validate_only: bool = boolean()


@message
class AlterConfigsResourceResponse:
    """AlterConfigsResourceResponse of the response."""

    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    resource_type: int = int8()
    resource_name: str = string()


@message
class IncrementalAlterConfigsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    responses: list[AlterConfigsResourceResponse] = array(AlterConfigsResourceResponse)

"""DescribeConfigs (API 32), versions 1 to 4."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int8, int16, int32, message, string


@message
class DescribeConfigsResource:
    """DescribeConfigsResource of the request."""

    resource_type: int = int8()
    resource_name: str = string()
    configuration_keys: list[str] | None = array(string(), nullable=True)


@message
class DescribeConfigsRequest:
    """What is asked."""

    resources: list[DescribeConfigsResource] = array(DescribeConfigsResource)
    include_synonyms: bool = boolean()
    include_documentation: bool = boolean(since=3)


@message
class DescribeConfigsSynonym:
    """DescribeConfigsSynonym of the response."""

    name: str = string()
    value: str | None = string(nullable=True)
    source: int = int8()


@message
class DescribeConfigsResourceResult:
    """DescribeConfigsResourceResult of the response."""

    name: str = string()
    value: str | None = string(nullable=True)
    read_only: bool = boolean()
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean()
    synonyms: list[DescribeConfigsSynonym] = array(DescribeConfigsSynonym)
    config_type: int = int8(since=3)
    documentation: str | None = string(since=3, nullable=True)


@message
class DescribeConfigsResult:
    """DescribeConfigsResult of the response."""

    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    resource_type: int = int8()
    resource_name: str = string()
    configs: list[DescribeConfigsResourceResult] = array(DescribeConfigsResourceResult)


@message
class DescribeConfigsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[DescribeConfigsResult] = array(DescribeConfigsResult)

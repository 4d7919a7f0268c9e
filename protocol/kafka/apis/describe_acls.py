"""DescribeAcls (API 29), versions 1 to 3."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class DescribeAclsRequest:
    """What is asked."""

    resource_type_filter: int = int8()
    resource_name_filter: str | None = string(nullable=True)
    pattern_type_filter: int = int8(default=3)
    principal_filter: str | None = string(nullable=True)
    host_filter: str | None = string(nullable=True)
    operation: int = int8()
    permission_type: int = int8()


@message
class AclDescription:
    """AclDescription of the response."""

    principal: str = string()
    host: str = string()
    operation: int = int8()
    permission_type: int = int8()


@message
class DescribeAclsResource:
    """DescribeAclsResource of the response."""

    resource_type: int = int8()
    resource_name: str = string()
    pattern_type: int = int8(default=3)
    acls: list[AclDescription] = array(AclDescription)


@message
class DescribeAclsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    resources: list[DescribeAclsResource] = array(DescribeAclsResource)

"""CreateAcls (API 30), versions 1 to 3."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class AclCreation:
    """AclCreation of the request."""

    resource_type: int = int8()
    resource_name: str = string()
    resource_pattern_type: int = int8(default=3)
    principal: str = string()
    host: str = string()
    operation: int = int8()
    permission_type: int = int8()


@message
class CreateAclsRequest:
    """What is asked."""

    creations: list[AclCreation] = array(AclCreation)


@message
class AclCreationResult:
    """AclCreationResult of the response."""

    error_code: int = int16()
    error_message: str | None = string(nullable=True)


@message
class CreateAclsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[AclCreationResult] = array(AclCreationResult)

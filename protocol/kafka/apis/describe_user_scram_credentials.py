"""DescribeUserScramCredentials (API 50), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, string


@message
class UserName:
    """UserName of the request."""

    name: str = string()


@message
class DescribeUserScramCredentialsRequest:
    """What is asked."""

    users: list[UserName] | None = array(UserName, nullable=True)


@message
class CredentialInfo:
    """CredentialInfo of the response."""

    mechanism: int = int8()
    iterations: int = int32()


@message
class DescribeUserScramCredentialsResult:
    """DescribeUserScramCredentialsResult of the response."""

    user: str = string()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    credential_infos: list[CredentialInfo] = array(CredentialInfo)


@message
class DescribeUserScramCredentialsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    results: list[DescribeUserScramCredentialsResult] = array(DescribeUserScramCredentialsResult)

"""AlterUserScramCredentials (API 51), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int8, int16, int32, message, octets, string


@message
class ScramCredentialDeletion:
    """ScramCredentialDeletion of the request."""

    name: str = string()
    mechanism: int = int8()


@message
class ScramCredentialUpsertion:
    """ScramCredentialUpsertion of the request."""

    name: str = string()
    mechanism: int = int8()
    iterations: int = int32()
    salt: bytes = octets()
    salted_password: bytes = octets()


@message
class AlterUserScramCredentialsRequest:
    """What is asked."""

    deletions: list[ScramCredentialDeletion] = array(ScramCredentialDeletion)
    upsertions: list[ScramCredentialUpsertion] = array(ScramCredentialUpsertion)


@message
class AlterUserScramCredentialsResult:
    """AlterUserScramCredentialsResult of the response."""

    user: str = string()
    error_code: int = int16()
    error_message: str | None = string(nullable=True)


@message
class AlterUserScramCredentialsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[AlterUserScramCredentialsResult] = array(AlterUserScramCredentialsResult)

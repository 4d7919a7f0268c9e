"""SaslAuthenticate (API 36), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import int16, int64, message, octets, string


@message
class SaslAuthenticateRequest:
    """What is asked."""

    auth_bytes: bytes = octets()


@message
class SaslAuthenticateResponse:
    """What is answered."""

    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    auth_bytes: bytes = octets()
    session_lifetime_ms: int = int64(since=1)

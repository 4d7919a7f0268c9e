"""SaslHandshake (API 17), versions 0 to 1."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, message, string


@message
class SaslHandshakeRequest:
    """What is asked."""

    mechanism: str = string()


@message
class SaslHandshakeResponse:
    """What is answered."""

    error_code: int = int16()
    mechanisms: list[str] = array(string())

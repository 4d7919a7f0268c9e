"""EndTxn (API 26), versions 0 to 4."""

from __future__ import annotations

from protocol.kafka.schema import boolean, int16, int32, int64, message, string


@message
class EndTxnRequest:
    """What is asked."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    committed: bool = boolean()


@message
class EndTxnResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()

"""AddOffsetsToTxn (API 25), versions 0 to 4."""

from __future__ import annotations

from protocol.kafka.schema import int16, int32, int64, message, string


@message
class AddOffsetsToTxnRequest:
    """What is asked."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    group_id: str = string()


@message
class AddOffsetsToTxnResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()

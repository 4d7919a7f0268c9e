"""InitProducerId (API 22), versions 0 to 5."""

from __future__ import annotations

from protocol.kafka.schema import int16, int32, int64, message, string


@message
class InitProducerIdRequest:
    """What is asked."""

    transactional_id: str | None = string(nullable=True)
    transaction_timeout_ms: int = int32()
    producer_id: int = int64(since=3, default=-1)
    producer_epoch: int = int16(since=3, default=-1)


@message
class InitProducerIdResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    producer_id: int = int64(default=-1)
    producer_epoch: int = int16()

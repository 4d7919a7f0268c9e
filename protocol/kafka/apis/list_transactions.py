"""ListTransactions (API 66), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class ListTransactionsRequest:
    """What is asked."""

    state_filters: list[str] = array(string())
    producer_id_filters: list[int] = array(int64())
    duration_filter: int = int64(since=1, default=-1)
    transactional_id_pattern: str | None = string(since=2, nullable=True, default=None)


@message
class TransactionState:
    """TransactionState of the response."""

    transactional_id: str = string()
    producer_id: int = int64()
    transaction_state: str = string()


@message
class ListTransactionsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    unknown_state_filters: list[str] = array(string())
    transaction_states: list[TransactionState] = array(TransactionState)

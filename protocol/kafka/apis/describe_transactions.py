"""DescribeTransactions (API 65), versions 0 to 0."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class DescribeTransactionsRequest:
    """What is asked."""

    transactional_ids: list[str] = array(string())


@message
class TopicData:
    """TopicData of the response."""

    topic: str = string()
    partitions: list[int] = array(int32())


@message
class TransactionState:
    """TransactionState of the response."""

    error_code: int = int16()
    transactional_id: str = string()
    transaction_state: str = string()
    transaction_timeout_ms: int = int32()
    transaction_start_time_ms: int = int64()
    producer_id: int = int64()
    producer_epoch: int = int16()
    topics: list[TopicData] = array(TopicData)


@message
class DescribeTransactionsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    transaction_states: list[TransactionState] = array(TransactionState)

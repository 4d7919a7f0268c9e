"""AddPartitionsToTxn (API 24), versions 0 to 3."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class AddPartitionsToTxnTopic:
    """AddPartitionsToTxnTopic of the request."""

    name: str = string()
    partitions: list[int] = array(int32())


@message
class AddPartitionsToTxnRequest:
    """What is asked."""

    v3_and_below_transactional_id: str = string()
    v3_and_below_producer_id: int = int64()
    v3_and_below_producer_epoch: int = int16()
    v3_and_below_topics: list[AddPartitionsToTxnTopic] = array(AddPartitionsToTxnTopic)


@message
class AddPartitionsToTxnPartitionResult:
    """AddPartitionsToTxnPartitionResult of the response."""

    partition_index: int = int32()
    partition_error_code: int = int16()


@message
class AddPartitionsToTxnTopicResult:
    """AddPartitionsToTxnTopicResult of the response."""

    name: str = string()
    results_by_partition: list[AddPartitionsToTxnPartitionResult] = array(AddPartitionsToTxnPartitionResult)


@message
class AddPartitionsToTxnResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results_by_topic_v3_and_below: list[AddPartitionsToTxnTopicResult] = array(AddPartitionsToTxnTopicResult)

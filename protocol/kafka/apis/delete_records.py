"""DeleteRecords (API 21), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, int64, message, string


@message
class DeleteRecordsPartition:
    """DeleteRecordsPartition of the request."""

    partition_index: int = int32()
    offset: int = int64()


@message
class DeleteRecordsTopic:
    """DeleteRecordsTopic of the request."""

    name: str = string()
    partitions: list[DeleteRecordsPartition] = array(DeleteRecordsPartition)


@message
class DeleteRecordsRequest:
    """What is asked."""

    topics: list[DeleteRecordsTopic] = array(DeleteRecordsTopic)
    timeout_ms: int = int32()


@message
class DeleteRecordsPartitionResult:
    """DeleteRecordsPartitionResult of the response."""

    partition_index: int = int32()
    low_watermark: int = int64()
    error_code: int = int16()


@message
class DeleteRecordsTopicResult:
    """DeleteRecordsTopicResult of the response."""

    name: str = string()
    partitions: list[DeleteRecordsPartitionResult] = array(DeleteRecordsPartitionResult)


@message
class DeleteRecordsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    topics: list[DeleteRecordsTopicResult] = array(DeleteRecordsTopicResult)

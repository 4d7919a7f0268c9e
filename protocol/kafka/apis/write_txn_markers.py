"""WriteTxnMarkers (API 27), versions 1 to 1."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, int64, message, string


@message
class WritableTxnMarkerTopic:
    """WritableTxnMarkerTopic of the request."""

    name: str = string()
    partition_indexes: list[int] = array(int32())


@message
class WritableTxnMarker:
    """WritableTxnMarker of the request."""

    producer_id: int = int64()
    producer_epoch: int = int16()
    transaction_result: bool = boolean()
    topics: list[WritableTxnMarkerTopic] = array(WritableTxnMarkerTopic)
    coordinator_epoch: int = int32()


@message
class WriteTxnMarkersRequest:
    """What is asked."""

    markers: list[WritableTxnMarker] = array(WritableTxnMarker)


@message
class WritableTxnMarkerPartitionResult:
    """WritableTxnMarkerPartitionResult of the response."""

    partition_index: int = int32()
    error_code: int = int16()


@message
class WritableTxnMarkerTopicResult:
    """WritableTxnMarkerTopicResult of the response."""

    name: str = string()
    partitions: list[WritableTxnMarkerPartitionResult] = array(WritableTxnMarkerPartitionResult)


@message
class WritableTxnMarkerResult:
    """WritableTxnMarkerResult of the response."""

    producer_id: int = int64()
    topics: list[WritableTxnMarkerTopicResult] = array(WritableTxnMarkerTopicResult)


@message
class WriteTxnMarkersResponse:
    """What is answered."""

    markers: list[WritableTxnMarkerResult] = array(WritableTxnMarkerResult)

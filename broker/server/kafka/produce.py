"""Hot path. Produce (API 0): batches of producers into partitions, answered when they are durable.

Budget: 25 µs per request beside what its batches cost (`core.topics.partition`); held by `jackalope bench kafka`.
acks=1 waits like acks=all: on a single node the leader's log is all there is, and what is answered survives. acks=0 is
never answered; what is refused closes the connection then (Kafka), the only way to be heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import handles
from protocol.kafka.apis.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import COMPRESSION, ZSTD

if TYPE_CHECKING:
    from broker.core.topics.topic import Topic
    from broker.server.kafka.connection import KafkaConnection, Slot

ZSTD_VERSION = 7
"""The first version whose clients may send zstd (KIP-110)."""
_ATTRIBUTES_LOW = 22
"""Where the compression of a batch stands."""


@handles(0)
def on_produce(connection: KafkaConnection, slot: Slot, request: ProduceRequest) -> object:
    """See the module."""
    from broker.server.kafka.connection import NO_ANSWER

    hub = connection.hub
    if not hub.has_room():
        hub.hold(slot, request)
        return None
    refused = ErrorCode.NONE
    if request.acks not in (-1, 0, 1):
        refused = ErrorCode.INVALID_REQUIRED_ACKS
    elif request.transactional_id is not None:
        refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    response = ProduceResponse(
        responses=[_produce_topic(connection, one, refused, slot.header.api_version) for one in request.topic_data]
    )
    if request.acks == 0:
        if any(one.error_code for topic in response.responses for one in topic.partition_responses):
            connection.end("what was sent with acks=0 is refused")
        return NO_ANSWER
    hub.answer_when_durable(slot, response)
    return None


def _produce_topic(
    connection: KafkaConnection, data: TopicProduceData, refused: ErrorCode, version: int
) -> TopicProduceResponse:
    hub = connection.hub
    topic = hub.topics.get(data.name)
    if refused is ErrorCode.NONE:
        if not hub.can(connection, "write", data.name):
            refused = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        elif topic is None:
            refused = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topic.internal:
            refused = ErrorCode.INVALID_TOPIC_EXCEPTION
    if topic is None or refused is not ErrorCode.NONE:
        answers = [PartitionProduceResponse(index=one.index, error_code=refused) for one in data.partition_data]
    else:
        answers = [_produce_partition(topic, one, hub.wall_ms, version) for one in data.partition_data]
    return TopicProduceResponse(name=data.name, partition_responses=answers)


def _produce_partition(topic: Topic, data: PartitionProduceData, now_ms: int, version: int) -> PartitionProduceResponse:
    index, records = data.index, data.records
    if not 0 <= index < len(topic.partitions):
        return PartitionProduceResponse(index=index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    partition = topic.partitions[index]
    try:
        if not records:
            raise TopicRefused(ErrorCode.INVALID_RECORD, "no batch")
        if version < ZSTD_VERSION and len(records) > _ATTRIBUTES_LOW and records[_ATTRIBUTES_LOW] & COMPRESSION == ZSTD:
            raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce 7")
        base_offset, timestamp_ms = partition.append(records, now_ms)
    except TopicRefused as refused:
        return PartitionProduceResponse(
            index=index,
            error_code=refused.code,
            error_message=refused.text,
            log_start_offset=partition.start_offset,
        )
    return PartitionProduceResponse(
        index=index,
        base_offset=base_offset,
        log_append_time_ms=timestamp_ms,
        log_start_offset=partition.start_offset,
    )

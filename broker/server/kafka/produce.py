"""Hot path. Produce (API 0): batches of producers into partitions, answered when they are durable.

Budget: 25 µs per request beside what its batches cost (`core.topics.partition`); held by `jackalope bench kafka`.
acks=1 waits like acks=all: on a single node the leader's log is all there is, and what is answered survives. acks=0 is
never answered; what is refused closes the connection then (Kafka), the only way to be heard.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import Steps, each_partition, handles
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
BATCH_UNITS = 50
"""What one partition's batch costs, beside its octets."""
_BATCHES = attrgetter("partition_data")
_ATTRIBUTES_LOW = 22
"""Where the compression of a batch stands."""


@handles(0)
def on_produce(connection: KafkaConnection, slot: Slot, request: ProduceRequest) -> Steps | None:
    """See the module."""
    hub = connection.hub
    if not hub.has_room():
        hub.hold(slot, request)
        return None
    refused = ErrorCode.NONE
    if request.acks not in (-1, 0, 1):
        refused = ErrorCode.INVALID_REQUIRED_ACKS
    elif request.transactional_id is not None:
        refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return _produce(connection, slot, request, refused)


def _produce(connection: KafkaConnection, slot: Slot, request: ProduceRequest, refused: ErrorCode) -> Steps:
    from broker.server.kafka.connection import NO_ANSWER

    hub = connection.hub
    version = slot.header.api_version
    now_ms = hub.wall_ms

    def append(topic_data: TopicProduceData, data: PartitionProduceData) -> PartitionProduceResponse:
        name = topic_data.name
        topic = hub.topics.get(name)
        code = refused
        if code is ErrorCode.NONE:
            if not hub.can(connection, "write", name):
                code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
            elif topic is None:
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif topic.internal:
                code = ErrorCode.INVALID_TOPIC_EXCEPTION
        if topic is None or code is not ErrorCode.NONE:
            return PartitionProduceResponse(index=data.index, error_code=code)
        return _produce_partition(topic, data, now_ms, version)

    found = yield from each_partition(request.topic_data, _BATCHES, append, BATCH_UNITS)
    if request.acks == 0:
        if any(one.error_code for _, responses in found for one in responses):
            connection.end("what was sent with acks=0 is refused")
        return NO_ANSWER
    response = ProduceResponse(
        responses=[TopicProduceResponse(name=topic.name, partition_responses=results) for topic, results in found]
    )
    hub.answer_when_durable(slot, response)
    return None


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

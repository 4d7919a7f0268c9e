"""Hot path. Produce (API 0): batches of producers into partitions, answered when they are durable.

Budget: 25 µs per request beside what its batches cost (`core.topics.partition`); held by `jackalope bench kafka`.
acks=1 waits like acks=all: on a single node the leader's log is all there is, and what is answered survives. acks=0 is
never answered; what is refused closes the connection then (Kafka), the only way to be heard.

Each record is looked at before anything is stored. That is done at once where it is little; a batch of a kilobyte may
hold a million records, so the rest is done in slices, while the connection is held: its requests keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.core.topics.intake import Examined, examined
from broker.log.errors import StorageError
from broker.server.kafka.handlers import handles
from broker.server.kafka.looking import is_done_soon
from protocol.kafka.apis.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import COMPRESSION, ZSTD, CorruptBatch

if TYPE_CHECKING:
    from broker.core.topics.topic import Topic
    from broker.server.kafka.connection import KafkaConnection, Slot

ZSTD_VERSION = 7
"""The first version whose clients may send zstd (KIP-110)."""
_ATTRIBUTES_LOW = 22
"""Where the compression of a batch stands."""


class Looked:
    """A request whose batches are looked at, and what was found out, by the places of topic and partition in it."""

    __slots__ = ("request", "seen")

    def __init__(self, request: ProduceRequest) -> None:
        self.request = request
        self.seen: dict[tuple[int, int], Examined | TopicRefused] = {}

    def steps(self, connection: KafkaConnection, version: int) -> Iterator[int]:
        """Look at each batch that may be stored; yields units of work."""
        topics = connection.hub.topics
        for place, data in enumerate(self.request.topic_data):
            topic = topics.get(data.name)
            if topic is None or not connection.hub.can(connection, "write", data.name):
                continue
            for number, one in enumerate(data.partition_data):
                try:
                    _check_sendable(one.records, version)
                    self.seen[place, number] = yield from examined(one.records, topic.config)
                except TopicRefused as refused:
                    self.seen[place, number] = refused


@handles(0)
def on_produce(connection: KafkaConnection, slot: Slot, request: ProduceRequest | Looked) -> object:
    """See the module."""
    from broker.server.kafka.connection import NO_ANSWER

    hub, version = connection.hub, slot.header.api_version
    if not hub.has_room():
        hub.hold(slot, request)
        return None
    if isinstance(request, Looked):
        looked, request = request, request.request
    else:
        looked = Looked(request)
        steps = looked.steps(connection, version)
        if not is_done_soon(steps):
            connection.hold(slot, looked)
            hub.looking.go_on(connection, steps, connection.release)
            return None
    refused = ErrorCode.NONE
    if request.acks not in (-1, 0, 1):
        refused = ErrorCode.INVALID_REQUIRED_ACKS
    elif request.transactional_id is not None:
        refused = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    response = ProduceResponse(
        responses=[
            _produce_topic(connection, one, refused, looked, place) for place, one in enumerate(request.topic_data)
        ]
    )
    if request.acks == 0:
        if any(one.error_code for topic in response.responses for one in topic.partition_responses):
            connection.end("what was sent with acks=0 is refused")
        return NO_ANSWER
    hub.answer_when_durable(slot, response)
    return None


def _produce_topic(
    connection: KafkaConnection, data: TopicProduceData, refused: ErrorCode, looked: Looked, place: int
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
        answers = [
            _produce_partition(topic, one, hub.wall_ms, looked.seen.get((place, number)), connection.number)
            for number, one in enumerate(data.partition_data)
        ]
    return TopicProduceResponse(name=data.name, partition_responses=answers)


def _check_sendable(records: memoryview | None, version: int) -> None:
    """Whether there is something that this version of the request may bring. Raises TopicRefused."""
    if not records:
        raise TopicRefused(ErrorCode.INVALID_RECORD, "no batch")
    if version < ZSTD_VERSION and len(records) > _ATTRIBUTES_LOW and records[_ATTRIBUTES_LOW] & COMPRESSION == ZSTD:
        raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce 7")


def _produce_partition(
    topic: Topic, data: PartitionProduceData, now_ms: int, seen: Examined | TopicRefused | None, owner: int
) -> PartitionProduceResponse:
    index, records = data.index, data.records
    if not 0 <= index < len(topic.partitions) or seen is None:  # Or it was not there when its batch would have been
        return PartitionProduceResponse(index=index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)  # looked at.
    partition = topic.partitions[index]
    try:
        if isinstance(seen, TopicRefused):
            raise seen
        base_offset, timestamp_ms = partition.append(records, now_ms, seen, owner)
    except TopicRefused as refused:
        return PartitionProduceResponse(
            index=index,
            error_code=refused.code,
            error_message=refused.text,
            log_start_offset=partition.start_offset,
        )
    except (StorageError, CorruptBatch, OSError) as error:  # What its producers have sent cannot be found out.
        return PartitionProduceResponse(
            index=index, error_code=ErrorCode.KAFKA_STORAGE_ERROR, error_message=str(error),
            log_start_offset=partition.start_offset,
        )  # fmt: skip
    return PartitionProduceResponse(
        index=index,
        base_offset=base_offset,
        log_append_time_ms=timestamp_ms,
        log_start_offset=partition.start_offset,
    )

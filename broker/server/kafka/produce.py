"""Hot path. Produce (API 0): batches of producers into partitions, answered when they are durable.

Budget: 25 µs per request beside what its batches cost (`core.topics.partition`); held by `jackalope bench kafka`.
acks=1 waits like acks=all: on a single node the leader's log is all there is, and what is answered survives. acks=0 is
never answered; what is refused closes the connection then (Kafka), the only way to be heard.

Each record is looked at before its batch is stored (`core.topics.intake`). A batch of a kilobyte may hold a million
records: what takes long goes on in slices, while the connection's other requests wait, so that they keep their order.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.config import TopicConfig
from broker.core.topics.errors import RecordsRefused, TopicRefused
from broker.core.topics.intake import bad_records, examined
from broker.log.errors import StorageError
from broker.server.kafka.handlers import NO_ANSWER, Steps, handles, in_turn
from protocol.kafka.apis.produce import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import COMPRESSION, ZSTD, CorruptBatch, parse_header

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

ZSTD_VERSION = 7
"""The first version whose clients may send zstd (KIP-110)."""
BATCH_UNITS, REFUSED_UNITS = 50, 10
"""What one partition's batch costs, beside its octets and records, and one that has no place."""
BAD_RECORDS_MAX = 1000
"""That are told in one answer; Kafka tells all, and a kilobyte may hold a million."""
NOWHERE = -1
"""Where a batch is that is refused."""
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
    responses = []
    version = slot.header.api_version
    is_refused = False
    room = BAD_RECORDS_MAX
    spent = 0
    for topic in request.topic_data:
        answer = TopicProduceResponse(name=topic.name, partition_responses=[])
        responses.append(answer)
        for data in topic.partition_data:
            one, units = yield from _append(connection, topic.name, data, refused, version, room)
            answer.partition_responses.append(one)
            if one.error_code:
                is_refused = True
                room -= len(one.record_errors)
            spent += units
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
        spent += 1
    if request.acks == 0:
        if is_refused:
            connection.end("what was sent with acks=0 is refused")
        return NO_ANSWER
    connection.hub.answer_when_durable(slot, ProduceResponse(responses=responses))
    return None


def _append(
    connection: KafkaConnection, name: str, data: PartitionProduceData, code: ErrorCode, version: int, room: int
) -> Generator[int, None, tuple[PartitionProduceResponse, int]]:
    """(what is answered, units of work that were not yielded yet) for a partition's batch."""
    hub = connection.hub
    index, records = data.index, data.records
    topic = hub.topics.get(name)
    if code is ErrorCode.NONE:
        if not hub.can(connection, "write", name):
            code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        elif topic is None or not 0 <= index < len(topic.partitions):
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topic.internal:
            code = ErrorCode.INVALID_TOPIC_EXCEPTION
    if topic is None or code is not ErrorCode.NONE:
        return PartitionProduceResponse(index=index, error_code=code, base_offset=NOWHERE), REFUSED_UNITS
    partition = topic.partitions[index]
    units = BATCH_UNITS
    answer = PartitionProduceResponse(index=index, base_offset=NOWHERE)
    try:
        _check_sendable(records, version)
        seen, spent = yield from in_turn(examined(records, topic.config))
        units += spent
        if hub.topics.get(name) is not topic:
            raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "the topic was deleted meanwhile")
        answer.base_offset, answer.log_append_time_ms = partition.append(records, hub.wall_ms, seen, connection.number)
    except RecordsRefused as refused:
        spent = yield from _blame(answer, refused, records, topic.config, hub.wall_ms, room)
        units += spent
    except TopicRefused as refused:
        answer.error_code, answer.error_message = refused.code, refused.text
    except (StorageError, CorruptBatch, OSError) as error:  # What its producers have sent cannot be found out.
        answer.error_code, answer.error_message = ErrorCode.KAFKA_STORAGE_ERROR, str(error)
    answer.log_start_offset = partition.start_offset
    return answer, units


def _blame(
    answer: PartitionProduceResponse,
    refused: RecordsRefused,
    records: memoryview,
    config: TopicConfig,
    now_ms: int,
    most: int,
) -> Generator[int, None, int]:
    """Say which records are not taken (KIP-467): a client gives up these, and tells the others that they were beside.

    The value is the units of work that were not yielded yet.
    """
    answer.error_code, answer.error_message = refused.code, refused.text
    if most <= 0:
        return 0
    found, units = yield from in_turn(bad_records(records, parse_header(records), config, now_ms, most))
    if any(one.code is ErrorCode.INVALID_TIMESTAMP for one in found):  # It wins (`LogValidator.processRecordErrors`).
        answer.error_code = ErrorCode.INVALID_TIMESTAMP
    answer.record_errors = [
        BatchIndexAndErrorMessage(batch_index=one.delta, batch_index_error_message=one.text) for one in found
    ]
    return units


def _check_sendable(records: memoryview | None, version: int) -> None:
    """Whether there is something that this version of the request may bring. Raises TopicRefused."""
    if not records:
        raise TopicRefused(ErrorCode.INVALID_RECORD, "no batch")
    if version < ZSTD_VERSION and len(records) > _ATTRIBUTES_LOW and records[_ATTRIBUTES_LOW] & COMPRESSION == ZSTD:
        raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce 7")

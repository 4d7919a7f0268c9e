"""Metadata, ApiVersions, DescribeCluster, ListOffsets, OffsetsForLeaderEpoch: what a client asks before it works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.access_lists import CLUSTER_NAME
from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import EARLIEST, EARLIEST_LOCAL, LATEST, LATEST_TIERED, MAX_TIMESTAMP
from broker.core.topics.proposing import check_name
from broker.core.topics.topic import Topic
from broker.log.errors import StorageError
from broker.server.kafka.handlers import SERVED, Steps, each_partition, handles, in_turn
from broker.server.kafka.rights import OPERATIONS_UNITS, operations
from protocol.kafka.apis import APIS, NEVER
from protocol.kafka.apis.api_versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse
from protocol.kafka.apis.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from protocol.kafka.apis.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from protocol.kafka.apis.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from protocol.kafka.apis.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
    OffsetForLeaderTopicResult,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import CorruptBatch

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

NO_ID = bytes(16)
TIMES_SINCE = {LATEST: 0, EARLIEST: 0, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}
"""The first version of ListOffsets with what stands for a time (KIP-734, KIP-405, KIP-1005); no other is below 0."""
BY_ID_VERSION = 12
"""The first in which a topic may be asked for by its id alone (KIP-516); 10 and 11 have a place for it."""
CLIENT_TEXT_MAX = 100
PARTITIONS_TOLD_MAX = 2000
NAMES_AT_ONCE = 100
TOPIC_UNITS, END_UNITS = 10, 15
"""What looking up a topic costs, and an end of a partition's log."""


@handles(18)
def on_api_versions(connection: KafkaConnection, slot: Slot, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """What is served. No feature is announced: transactions are version 1, groups the classic ones."""
    if request.client_software_name:
        software = f"{request.client_software_name} {request.client_software_version}"
        connection.client_software = software[:CLIENT_TEXT_MAX]
    return ApiVersionsResponse(
        api_keys=[
            ApiVersion(api_key=api.key, min_version=api.advertised_min, max_version=api.max_version)
            for api in APIS.values()
            if api.key in SERVED
        ]
    )


@handles(3)
def on_metadata(connection: KafkaConnection, slot: Slot, request: MetadataRequest) -> Steps:
    """Brokers (this one), and the topics that were asked for: all for null, and in v0 for an empty list."""
    hub = connection.hub
    host, port = hub.address(connection)
    node_id = hub.settings.node_id
    problem = _malformed(request, slot.header.api_version)
    if problem is not None:
        return problem
    with_operations = request.include_topic_authorized_operations
    wants_all = request.topics is None or (slot.header.api_version == 0 and not request.topics)
    before = hub.topics.partition_count
    found = []
    spent = 0
    for topic in _every(connection) if wants_all else _named(connection, request):
        found.append(topic)
        spent += TOPIC_UNITS + len(topic.partitions)
        if with_operations and topic.name and not topic.error_code:
            topic.topic_authorized_operations = operations(connection, topic.name, "topic")
            spent += OPERATIONS_UNITS
        if spent >= SLICE_UNITS:
            yield spent
            spent = 0
    response = MetadataResponse(
        brokers=[MetadataResponseBroker(node_id=node_id, host=host, port=port)],
        cluster_id=hub.settings.cluster_id,
        controller_id=node_id,
        topics=found,
    )
    if request.include_cluster_authorized_operations:
        response.cluster_authorized_operations = operations(connection, CLUSTER_NAME, "cluster")
    if hub.topics.partition_count == before:
        return response
    hub.answer_when_durable(slot, response)
    return None


def _malformed(request: MetadataRequest, version: int) -> MetadataResponse | None:
    """What answers a topic without a name, or with an id, where the version has none of it (`MetadataRequest.Builder`).

    From version 12 on either will do; neither is an error as well.
    """
    topics = request.topics or ()
    if version >= BY_ID_VERSION:
        is_bad = any(one.name is None and one.topic_id == NO_ID for one in topics)
    else:
        is_bad = any(one.name is None or one.topic_id != NO_ID for one in topics)
    if not is_bad:
        return None
    code = ErrorCode.INVALID_REQUEST
    told = dict.fromkeys((one.name or "", one.topic_id) for one in topics)
    return MetadataResponse(
        topics=[MetadataResponseTopic(error_code=code, name=name, topic_id=topic_id) for name, topic_id in told],
        error_code=code,
    )


def _every(connection: KafkaConnection) -> Iterator[MetadataResponseTopic]:
    for topic in list(connection.hub.topics.all()):
        if connection.hub.can(connection, "describe", topic.name):
            yield _describe(connection, topic)


def _named(connection: KafkaConnection, request: MetadataRequest) -> Iterator[MetadataResponseTopic]:
    """Each topic once, however often it is named, as in Kafka (`KafkaApis.handleTopicMetadataRequest`)."""
    for name, topic_id in dict.fromkeys((one.name, one.topic_id) for one in request.topics or ()):
        yield _look_up(connection, name, topic_id, may_create=request.allow_auto_topic_creation)


def _look_up(
    connection: KafkaConnection, name: str | None, topic_id: bytes, *, may_create: bool
) -> MetadataResponseTopic:
    hub = connection.hub
    if topic_id != NO_ID:  # Java's client sends an empty name with it.
        name = None
        topic = hub.topics.by_id(topic_id)
        if topic is not None and not hub.can(connection, "describe", topic.name):
            return MetadataResponseTopic(error_code=ErrorCode.TOPIC_AUTHORIZATION_FAILED, name=None, topic_id=topic_id)
        code = ErrorCode.UNKNOWN_TOPIC_ID
    else:
        assert name is not None
        if not hub.can(connection, "describe", name):
            return MetadataResponseTopic(error_code=ErrorCode.TOPIC_AUTHORIZATION_FAILED, name=name, topic_id=NO_ID)
        topic = hub.topics.get(name)
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        try:
            check_name(name)
        except TopicRefused as refused:
            code = refused.code
            may_create = False
        if topic is None and may_create and hub.settings.auto_create_topics and hub.may_create(connection, name):
            try:
                topic = hub.topics.create(name, hub.settings.partitions_default, {})
            except TopicRefused as refused:
                code = refused.code
    if topic is None:
        return MetadataResponseTopic(error_code=code, name=name, topic_id=topic_id)
    return _describe(connection, topic)


def _describe(connection: KafkaConnection, topic: Topic) -> MetadataResponseTopic:
    node_id = connection.hub.settings.node_id
    return MetadataResponseTopic(
        name=topic.name,
        topic_id=topic.id,
        is_internal=topic.internal,
        partitions=[
            MetadataResponsePartition(
                partition_index=one.index,
                leader_id=node_id,
                leader_epoch=one.leader_epoch,
                replica_nodes=[node_id],
                isr_nodes=[node_id],
            )
            for one in topic.partitions
        ],
    )


@handles(2)
def on_list_offsets(connection: KafkaConnection, slot: Slot, request: ListOffsetsRequest) -> Steps:
    """Offsets by time, or the ends of partitions; nothing at or behind a time is offset -1 and no error.

    A partition that is asked for more than once is INVALID_REQUEST each time, as in Kafka: each is looked for in a log.
    """
    counts = Counter((topic.name, one.partition_index) for topic in request.topics for one in topic.partitions)
    response = ListOffsetsResponse(topics=[])
    spent = 0
    for topic in request.topics:
        answer = ListOffsetsTopicResponse(name=topic.name, partitions=[])
        response.topics.append(answer)
        for asked in topic.partitions:
            is_only = counts[topic.name, asked.partition_index] == 1
            is_known = asked.timestamp >= 0 or slot.header.api_version >= TIMES_SINCE.get(asked.timestamp, NEVER)
            one, units = yield from _list_offset(connection, topic.name, asked, is_only=is_only, is_known=is_known)
            answer.partitions.append(one)
            spent += END_UNITS + units
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
        spent += 1
    return response


def _list_offset(
    connection: KafkaConnection, name: str, asked: ListOffsetsPartition, *, is_only: bool, is_known: bool
) -> Generator[int, None, tuple[ListOffsetsPartitionResponse, int]]:
    """(what is answered, units of work that were not yielded yet): a time is looked for within a batch."""
    answer = ListOffsetsPartitionResponse(
        partition_index=asked.partition_index, timestamp=-1, offset=-1, leader_epoch=-1
    )
    hub = connection.hub
    units = 0
    try:
        if not hub.can(connection, "describe", name):
            raise TopicRefused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, name)
        if not is_only:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"partition {asked.partition_index} is asked for twice")
        partition = hub.topics.partition(name, asked.partition_index)
        partition.check_epoch(asked.current_leader_epoch)
        if not is_known:
            raise TopicRefused(ErrorCode.UNSUPPORTED_VERSION, f"no such time: {asked.timestamp}")
        (answer.timestamp, answer.offset), units = yield from in_turn(partition.find_offset(asked.timestamp))
    except TopicRefused as refused:
        answer.error_code = refused.code
        return answer, units
    except (StorageError, CorruptBatch, OSError):
        answer.error_code = ErrorCode.KAFKA_STORAGE_ERROR
        return answer, units
    if answer.offset >= 0:
        answer.leader_epoch = partition.epoch_at(answer.offset)
    return answer, units


@handles(23)
def on_offset_for_leader_epoch(connection: KafkaConnection, slot: Slot, request: OffsetForLeaderEpochRequest) -> Steps:
    """Where the batches of a leader epoch end (KIP-101, KIP-320): how a client learns that a log was truncated."""
    hub = connection.hub

    def find(topic: OffsetForLeaderTopic, one: OffsetForLeaderPartition) -> EpochEndOffset:
        answer = EpochEndOffset(partition=one.partition, leader_epoch=-1, end_offset=-1)
        try:
            if not hub.can(connection, "describe", topic.topic):
                raise TopicRefused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, topic.topic)
            partition = hub.topics.partition(topic.topic, one.partition)
            partition.check_epoch(one.current_leader_epoch)
            answer.leader_epoch, answer.end_offset = partition.epoch_end(one.leader_epoch)
        except TopicRefused as refused:
            answer.error_code = refused.code
        return answer

    found = yield from each_partition(request.topics, attrgetter("partitions"), find, END_UNITS)
    return OffsetForLeaderEpochResponse(
        topics=[OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions) for topic, partitions in found]
    )


@handles(75)
def on_describe_topic_partitions(
    connection: KafkaConnection, slot: Slot, request: DescribeTopicPartitionsRequest
) -> Steps:
    """Topics by name, in order, up to a number of partitions; the cursor says where to go on (KIP-966)."""
    hub = connection.hub
    names = sorted({one.name for one in request.topics} or {topic.name for topic in hub.topics.all()})
    room = max(min(request.response_partition_limit, PARTITIONS_TOLD_MAX), 1)
    skip = 0
    if request.cursor is not None:
        names = [name for name in names if name >= request.cursor.topic_name]
        if names and names[0] == request.cursor.topic_name:
            skip = max(request.cursor.partition_index, 0)
    response = DescribeTopicPartitionsResponse(next_cursor=None)
    for number, name in enumerate(names, 1):
        if number % NAMES_AT_ONCE == 0:
            yield SLICE_UNITS
        found = _look_up(connection, name, NO_ID, may_create=False)
        if not request.topics and found.error_code:
            continue
        if not found.error_code:
            found.topic_authorized_operations = operations(connection, name, "topic")
        told = found.partitions[skip : skip + room]
        response.topics.append(_told(found, told))
        if skip + len(told) < len(found.partitions):
            response.next_cursor = Cursor(topic_name=name, partition_index=skip + len(told))
            break
        room -= len(told)
        skip = 0
        if room <= 0:
            response.next_cursor = Cursor(topic_name=names[number], partition_index=0) if number < len(names) else None
            break
    return response


def _told(
    found: MetadataResponseTopic, partitions: list[MetadataResponsePartition]
) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        error_code=found.error_code,
        name=found.name,
        topic_id=found.topic_id,
        is_internal=found.is_internal,
        partitions=[
            DescribeTopicPartitionsResponsePartition(
                partition_index=one.partition_index,
                leader_id=one.leader_id,
                leader_epoch=one.leader_epoch,
                replica_nodes=one.replica_nodes,
                isr_nodes=one.isr_nodes,
                eligible_leader_replicas=[],
                last_known_elr=[],
            )
            for one in partitions
        ],
        topic_authorized_operations=found.topic_authorized_operations,
    )

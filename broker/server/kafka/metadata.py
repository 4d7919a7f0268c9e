"""Metadata, ApiVersions, DescribeCluster, ListOffsets, OffsetsForLeaderEpoch: what a client asks before it works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.access_lists import CLUSTER_NAME
from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import (
    EARLIEST,
    EARLIEST_LOCAL,
    LATEST,
    LATEST_TIERED,
    MAX_TIMESTAMP,
    Partition,
)
from broker.core.topics.proposing import check_name
from broker.core.topics.topic import Topic
from broker.log.errors import StorageError
from broker.server.kafka.handlers import NAME_UNITS, SERVED, Steps, each, each_partition, handles, in_turn
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

Found = Topic | MetadataResponseTopic
Asked = dict[tuple[str | None, bytes], None]
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
    asked, is_malformed = yield from _asked(request, slot.header.api_version)
    if is_malformed:
        return (yield from _malformed(asked))
    with_operations = request.include_topic_authorized_operations
    wants_all = request.topics is None or (slot.header.api_version == 0 and not request.topics)
    before = hub.topics.partition_count
    found = []
    spent = 0
    for topic in _every(connection) if wants_all else _named(connection, request, asked):
        spent += TOPIC_UNITS
        if isinstance(topic, MetadataResponseTopic):
            found.append(topic)
        else:
            answer = yield from _describe(connection, topic)
            spent += min(len(answer.partitions), SLICE_UNITS)  # `_describe` has yielded all but the last slice.
            if with_operations:
                answer.topic_authorized_operations = operations(connection, topic.name, "topic")
                spent += OPERATIONS_UNITS
            found.append(answer)
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


def _asked(request: MetadataRequest, version: int) -> Generator[int, None, tuple[Asked, bool]]:
    """The (name, id) of the topics that are asked for, each once, however often it is named, as in Kafka
    (`KafkaApis.handleTopicMetadataRequest`); and whether one of them is malformed.

    That is one without a name, or with an id, where the version has none of it (`MetadataRequest.Builder`); from
    version 12 on either will do, and neither is an error as well.
    """
    asked: Asked = {}
    is_malformed = False
    by_id = version >= BY_ID_VERSION
    for index, one in enumerate(request.topics or (), 1):
        has_id = one.topic_id != NO_ID
        if (one.name is None and not (by_id and has_id)) or (has_id and not by_id):
            is_malformed = True
        asked[one.name, one.topic_id] = None
        if index % NAMES_AT_ONCE == 0:
            yield NAMES_AT_ONCE * NAME_UNITS
    return asked, is_malformed


def _malformed(asked: Asked) -> Steps:
    code = ErrorCode.INVALID_REQUEST

    def refuse(one: tuple[str | None, bytes]) -> MetadataResponseTopic:
        return MetadataResponseTopic(error_code=code, name=one[0] or "", topic_id=one[1])

    topics = yield from each(asked, refuse, NAME_UNITS)
    return MetadataResponse(topics=topics, error_code=code)


def _every(connection: KafkaConnection) -> Iterator[Found]:
    for topic in list(connection.hub.topics.all()):
        if connection.hub.can(connection, "describe", topic.name):
            yield topic


def _named(connection: KafkaConnection, request: MetadataRequest, asked: Asked) -> Iterator[Found]:
    for name, topic_id in asked:
        yield _look_up(connection, name, topic_id, may_create=request.allow_auto_topic_creation)


def _look_up(connection: KafkaConnection, name: str | None, topic_id: bytes, *, may_create: bool) -> Found:
    """The topic of a name or an id, or what answers that there is none to be told of."""
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
    return topic


def _describe(connection: KafkaConnection, topic: Topic) -> Generator[int, None, MetadataResponseTopic]:
    node_id = connection.hub.settings.node_id

    def describe(one: Partition) -> MetadataResponsePartition:
        return MetadataResponsePartition(
            partition_index=one.index,
            leader_id=node_id,
            leader_epoch=one.leader_epoch,
            replica_nodes=[node_id],
            isr_nodes=[node_id],
        )

    partitions = yield from each(topic.partitions, describe, 1)
    return MetadataResponseTopic(name=topic.name, topic_id=topic.id, is_internal=topic.internal, partitions=partitions)


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

    topics = yield from each_partition(
        request.topics,
        attrgetter("partitions"),
        find,
        END_UNITS,
        lambda topic, found: OffsetForLeaderTopicResult(topic=topic.topic, partitions=found),
    )
    return OffsetForLeaderEpochResponse(topics=topics)


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
        topic = _look_up(connection, name, NO_ID, may_create=False)
        if isinstance(topic, MetadataResponseTopic):
            if request.topics:
                code = topic.error_code
                response.topics.append(DescribeTopicPartitionsResponseTopic(error_code=code, name=name, topic_id=NO_ID))
                skip = 0
            continue
        told = topic.partitions[skip : skip + room]
        response.topics.append(_told(connection, topic, told))
        if skip + len(told) < len(topic.partitions):
            response.next_cursor = Cursor(topic_name=name, partition_index=skip + len(told))
            break
        room -= len(told)
        skip = 0
        if room <= 0:
            response.next_cursor = Cursor(topic_name=names[number], partition_index=0) if number < len(names) else None
            break
    return response


def _told(
    connection: KafkaConnection, topic: Topic, partitions: list[Partition]
) -> DescribeTopicPartitionsResponseTopic:
    node_id = connection.hub.settings.node_id
    return DescribeTopicPartitionsResponseTopic(
        name=topic.name,
        topic_id=topic.id,
        is_internal=topic.internal,
        partitions=[
            DescribeTopicPartitionsResponsePartition(
                partition_index=one.index,
                leader_id=node_id,
                leader_epoch=one.leader_epoch,
                replica_nodes=[node_id],
                isr_nodes=[node_id],
                eligible_leader_replicas=[],
                last_known_elr=[],
            )
            for one in partitions
        ],
        topic_authorized_operations=operations(connection, topic.name, "topic"),
    )

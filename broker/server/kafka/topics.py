"""Topics as Kafka's administrators see them: create, delete, grow, shorten.

Each topic of a request succeeds or fails by itself. What was done is answered when it is durable. Configuring needs the
vhost's `configure` permission for the topic's name, delete-records `write` as well (it destroys what was written).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.access_lists import Operation
from broker.core.topics.config import KEYS
from broker.core.topics.errors import TopicRefused
from broker.core.topics.topic import Topic
from broker.log.errors import StorageError
from broker.server.kafka.broker_configs import DEFAULT_SOURCE, SOURCES, TOPIC_SOURCE, topic_sources
from broker.server.kafka.handlers import Steps, each, each_partition, handles
from protocol.kafka.apis.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from protocol.kafka.apis.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from protocol.kafka.apis.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
    DeleteRecordsTopicResult,
)
from protocol.kafka.apis.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import CorruptBatch
from protocol.kafka.schema import NO_UUID

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

BY_NAME_UNTIL = 5
"""The last version of DeleteTopics that has names alone."""
PARTITIONS_MADE_MAX = 10_000
"""Of one request, as in Kafka (`ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`)."""
CONFIGS_TOLD_MAX = 500
"""New topics of one request that are answered with their configuration, some 25 values each."""
CREATE_UNITS, DELETE_UNITS, SHORTEN_UNITS = 300, 100, 50
"""What making or deleting a topic costs, and deleting records of a partition."""
STANDARD = -1
"""Partitions or replicas: as the broker has it (KIP-464)."""


def require(connection: KafkaConnection, operation: Operation, name: str) -> None:
    """Raises TopicRefused 29 unless the user may."""
    if not connection.hub.can(connection, operation, name):
        raise TopicRefused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"no permission to {operation} topic '{name}'")


@handles(19, changes=True)
def on_create_topics(connection: KafkaConnection, slot: Slot, request: CreateTopicsRequest) -> Steps:
    """CreateTopics: -1 partitions or replicas are the defaults; a name that is there twice is an error of each."""
    counts = Counter(one.name for one in request.topics)
    tells_configs = len(counts) <= CONFIGS_TOLD_MAX
    left = PARTITIONS_MADE_MAX

    def create(one: CreatableTopic) -> CreatableTopicResult:
        nonlocal left
        try:
            if counts[one.name] > 1:
                raise TopicRefused(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            asked = max(one.num_partitions, len(one.assignments), 1)
            left -= asked if asked <= PARTITIONS_MADE_MAX else 0  # No topic may have more: it is refused for that.
            if left < 0:
                raise TopicRefused(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")
            topic, count = _create(connection, one, validate_only=request.validate_only)
        except TopicRefused as refused:
            return CreatableTopicResult(
                name=one.name, error_code=refused.code, error_message=refused.text, configs=None
            )
        return CreatableTopicResult(
            name=one.name,
            topic_id=topic.id,
            error_message=None,
            num_partitions=count,
            replication_factor=1,
            configs=_configs(connection, topic) if tells_configs else None,
            topic_config_error_code=ErrorCode.NONE if tells_configs else ErrorCode.POLICY_VIOLATION,
        )

    wanted = {one.name: one for one in request.topics}
    results = yield from each(wanted.values(), create, CREATE_UNITS)
    connection.hub.answer_when_durable(slot, CreateTopicsResponse(topics=results))
    return None


def _create(connection: KafkaConnection, wanted: CreatableTopic, *, validate_only: bool) -> tuple[Topic, int]:
    hub = connection.hub
    if not hub.may_create(connection, wanted.name):
        raise TopicRefused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"no permission to create topic '{wanted.name}'")
    node_id = hub.settings.node_id
    count = wanted.num_partitions
    if wanted.assignments:
        if (count, wanted.replication_factor) != (STANDARD, STANDARD):
            raise TopicRefused(
                ErrorCode.INVALID_REQUEST,
                "Both partition counts and manual assignments were given: one excludes the other.",
            )
        indexes = sorted(one.partition_index for one in wanted.assignments)
        if indexes != list(range(len(indexes))) or any(one.broker_ids != [node_id] for one in wanted.assignments):
            raise TopicRefused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"broker {node_id} is all there is")
        count = len(indexes)
    elif wanted.replication_factor not in (STANDARD, 1):
        code = ErrorCode.INVALID_REPLICATION_FACTOR
        raise TopicRefused(code, f"Replication factor: {wanted.replication_factor} larger than available brokers: 1.")
    if count == STANDARD:
        count = hub.settings.partitions_default
    nulls = ",".join([one.name for one in wanted.configs if one.value is None])
    if nulls:
        raise TopicRefused(ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {nulls}")
    overrides = {one.name: one.value for one in wanted.configs}
    if validate_only:
        return hub.topics.propose_create(wanted.name, count, overrides).reply, count
    return hub.topics.create(wanted.name, count, overrides), count


def _configs(connection: KafkaConnection, topic: Topic) -> list[CreatableTopicConfigs]:
    def source(name: str) -> int:
        if name in topic.overrides:
            return TOPIC_SOURCE
        return next((SOURCES[one.scope] for one in topic_sources(connection, name)), DEFAULT_SOURCE)

    return [CreatableTopicConfigs(name=name, value=topic.value_of(name), config_source=source(name)) for name in KEYS]


@handles(20, changes=True)
def on_delete_topics(connection: KafkaConnection, slot: Slot, request: DeleteTopicsRequest) -> Steps:
    """DeleteTopics, by name or id."""
    wanted = request.topics
    if slot.header.api_version <= BY_NAME_UNTIL:
        wanted = [DeleteTopicState(name=name) for name in request.topic_names]
    names = Counter(one.name for one in wanted if one.name is not None)
    ids = Counter(one.topic_id for one in wanted if one.name is None)

    def delete(one: DeleteTopicState) -> DeletableTopicResult:
        is_again = names[one.name] > 1 if one.name is not None else ids[one.topic_id] > 1
        return _delete(connection, one, is_again=is_again)

    told = {(one.name, one.topic_id): one for one in wanted}
    responses = yield from each(told.values(), delete, DELETE_UNITS)
    connection.hub.answer_when_durable(slot, DeleteTopicsResponse(responses=responses))
    return None


def _delete(connection: KafkaConnection, wanted: DeleteTopicState, *, is_again: bool) -> DeletableTopicResult:
    """Who may not delete it does not learn whether there is a topic of a name, nor the name of an id that is not to be
    described (`ControllerApis.deleteTopics`)."""
    topics = connection.hub.topics
    result = DeletableTopicResult(name=wanted.name, topic_id=wanted.topic_id, error_message=None)
    try:
        if wanted.name is None and wanted.topic_id == NO_UUID:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
        if wanted.name is not None and wanted.topic_id != NO_UUID:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
        if is_again:
            which = "id" if wanted.name is None else "name"
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"Duplicate topic {which}.")
        if wanted.name is not None:
            require(connection, "delete", wanted.name)
            topic = topics.get(wanted.name)
            if topic is None:
                raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic.")
        else:
            topic = topics.by_id(wanted.topic_id)
            if topic is None:
                raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
            if not connection.hub.can(connection, "describe", topic.name):
                raise TopicRefused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, "no permission to delete the topic of this id")
            result.name = topic.name
            require(connection, "delete", topic.name)
        if topic.internal:
            raise TopicRefused(ErrorCode.INVALID_TOPIC_EXCEPTION, "The topic is the broker's own.")
        result.name, result.topic_id = topic.name, topic.id
        topics.delete(topic)
    except TopicRefused as refused:
        result.error_code, result.error_message = refused.code, refused.text
    return result


@handles(37, changes=True)
def on_create_partitions(connection: KafkaConnection, slot: Slot, request: CreatePartitionsRequest) -> Steps:
    """CreatePartitions: `count` is what the topic is to have in all."""
    grow = partial(_grow, connection, validate_only=request.validate_only)
    results = yield from each(request.topics, grow, CREATE_UNITS)
    connection.hub.answer_when_durable(slot, CreatePartitionsResponse(results=results))
    return None


def _grow(
    connection: KafkaConnection, wanted: CreatePartitionsTopic, *, validate_only: bool
) -> CreatePartitionsTopicResult:
    topics = connection.hub.topics
    result = CreatePartitionsTopicResult(name=wanted.name)
    try:
        require(connection, "alter", wanted.name)
        topic = topics.get(wanted.name)
        if topic is None:
            raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "The topic does not exist.")
        if wanted.assignments is not None:
            more = wanted.count - len(topic.partitions)
            if len(wanted.assignments) != more:
                raise TopicRefused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{more} assignments are needed")
            if any(one.broker_ids != [connection.hub.settings.node_id] for one in wanted.assignments):
                raise TopicRefused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "an assignment names an unknown broker")
        if validate_only:
            topics.propose_partitions(topic, wanted.count)
        else:
            topics.add_partitions(topic, wanted.count)
    except TopicRefused as refused:
        result.error_code, result.error_message = refused.code, refused.text
    return result


@handles(21, changes=True)
def on_delete_records(connection: KafkaConnection, slot: Slot, request: DeleteRecordsRequest) -> Steps:
    """DeleteRecords: everything below an offset goes, -1 being the high watermark."""
    hub = connection.hub

    def shorten(topic: DeleteRecordsTopic, one: DeleteRecordsPartition) -> DeleteRecordsPartitionResult:
        answer = DeleteRecordsPartitionResult(partition_index=one.partition_index, low_watermark=-1)
        try:
            require(connection, "delete", topic.name)
            require(connection, "write", topic.name)
            partition = hub.topics.partition(topic.name, one.partition_index)
            answer.low_watermark = hub.topics.delete_records(partition, one.offset)
        except TopicRefused as refused:
            answer.error_code = refused.code
        except (StorageError, CorruptBatch, OSError):
            answer.error_code = ErrorCode.KAFKA_STORAGE_ERROR
        return answer

    results = yield from each_partition(
        request.topics,
        attrgetter("partitions"),
        shorten,
        SHORTEN_UNITS,
        lambda topic, found: DeleteRecordsTopicResult(name=topic.name, partitions=found),
    )
    hub.answer_when_durable(slot, DeleteRecordsResponse(topics=results))
    return None

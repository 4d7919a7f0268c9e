"""A cluster of one, to who asks for a cluster: DescribeCluster, leaders, reassignments, log directories, producers."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.access_lists import CLUSTER_NAME
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.core.topics.topic import Topic
from broker.server.kafka.handlers import Steps, each_partition, handles
from broker.server.kafka.rights import (
    NOT_ASKED,
    may_with_cluster,
    may_write_idempotently,
    operations,
    require_of_cluster,
)
from broker.server.kafka.topics import require
from protocol.kafka.apis.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignablePartitionResponse,
    ReassignableTopic,
    ReassignableTopicResponse,
)
from protocol.kafka.apis.describe_cluster import DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse
from protocol.kafka.apis.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from protocol.kafka.apis.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicRequest,
    TopicResponse,
)
from protocol.kafka.apis.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
    TopicPartitions,
)
from protocol.kafka.apis.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from protocol.kafka.apis.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

BROKERS, CONTROLLERS = 1, 2
ELECTION_TYPES = (0, 1)
"""Preferred and unclean."""
PARTITION_UNITS, PRODUCERS_UNITS = 10, 100
"""What a partition costs that is looked at, and one whose producers are listed."""


@handles(22)
def on_init_producer_id(
    connection: KafkaConnection, slot: Slot, request: InitProducerIdRequest
) -> InitProducerIdResponse | None:
    """A producer id for an idempotent producer; never the same twice, over restarts. Transactions are not served."""
    hub = connection.hub
    if request.transactional_id is not None:
        return InitProducerIdResponse(error_code=ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    if not may_write_idempotently(connection):
        return InitProducerIdResponse(error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    hub.answer_when_durable(slot, InitProducerIdResponse(producer_id=hub.topics.next_producer_id(), producer_epoch=0))
    return None


@handles(60)
def on_describe_cluster(
    connection: KafkaConnection, slot: Slot, request: DescribeClusterRequest
) -> DescribeClusterResponse:
    """This broker."""
    hub = connection.hub
    if request.endpoint_type != BROKERS:
        if request.endpoint_type == CONTROLLERS:
            code = ErrorCode.MISMATCHED_ENDPOINT_TYPE
            text = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
        else:
            code = ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
            text = f"Unsupported endpoint type {request.endpoint_type}"
        return DescribeClusterResponse(error_code=code, error_message=text)
    host, port = hub.address(connection)
    is_asked = request.include_cluster_authorized_operations
    return DescribeClusterResponse(
        cluster_authorized_operations=operations(connection, CLUSTER_NAME, "cluster") if is_asked else NOT_ASKED,
        endpoint_type=BROKERS,
        cluster_id=hub.settings.cluster_id,
        controller_id=hub.settings.node_id,
        brokers=[DescribeClusterBroker(broker_id=hub.settings.node_id, host=host, port=port)],
    )


@handles(35)
def on_describe_log_dirs(connection: KafkaConnection, slot: Slot, request: DescribeLogDirsRequest) -> Steps:
    """The data directory, and what each partition takes of it: for who may describe the cluster, as in Kafka."""
    hub = connection.hub
    if not may_with_cluster(connection, "describe"):
        return DescribeLogDirsResponse(error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    wanted = None if request.topics is None else {one.topic: set(one.partitions) for one in request.topics}
    topics = [topic for topic in hub.topics.all() if wanted is None or topic.name in wanted]

    def partitions(topic: Topic) -> list[Partition]:
        return [one for one in topic.partitions if wanted is None or one.index in wanted[topic.name]]

    def describe(_: Topic, one: Partition) -> DescribeLogDirsPartition:
        return DescribeLogDirsPartition(partition_index=one.index, partition_size=one.size_bytes)

    described = yield from each_partition(
        topics,
        partitions,
        describe,
        PARTITION_UNITS,
        lambda topic, found: DescribeLogDirsTopic(name=topic.name, partitions=found),
    )
    disk = hub.durability.store.disk
    answer = DescribeLogDirsResult(log_dir=disk.path, topics=described)
    try:
        answer.total_bytes, answer.usable_bytes = disk.total_bytes(), disk.free_bytes()
    except OSError:  # The directory is gone, or another's.
        answer.error_code, answer.topics = ErrorCode.KAFKA_STORAGE_ERROR, []
    return DescribeLogDirsResponse(results=[answer])


@handles(43)
def on_elect_leaders(connection: KafkaConnection, slot: Slot, request: ElectLeadersRequest) -> Steps:
    """Every partition has its leader: there is nothing to elect."""
    if request.election_type not in ELECTION_TYPES:
        return ElectLeadersResponse(error_code=ErrorCode.INVALID_REQUEST, replica_election_results=[])

    def elect(wanted: TopicPartitions, index: int) -> PartitionResult:
        answer = PartitionResult(partition_id=index, error_message=None)
        try:
            require(connection, "alter", wanted.topic)
            connection.hub.topics.partition(wanted.topic, index)
            answer.error_code = ErrorCode.ELECTION_NOT_NEEDED
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    wanted = request.topic_partitions or ()
    results = yield from each_partition(
        wanted,
        attrgetter("partitions"),
        elect,
        PARTITION_UNITS,
        lambda one, found: ReplicaElectionResult(topic=one.topic, partition_result=found),
    )
    return ElectLeadersResponse(replica_election_results=results)


@handles(45)
def on_alter_reassignments(
    connection: KafkaConnection, slot: Slot, request: AlterPartitionReassignmentsRequest
) -> Steps:
    """Partitions are where they are: moving one here is done at once, there is none under way to be cancelled."""

    def reassign(topic: ReassignableTopic, one: ReassignablePartition) -> ReassignablePartitionResponse:
        return _reassign(connection, topic.name, one)

    responses = yield from each_partition(
        request.topics,
        attrgetter("partitions"),
        reassign,
        PARTITION_UNITS,
        lambda topic, found: ReassignableTopicResponse(name=topic.name, partitions=found),
    )
    return AlterPartitionReassignmentsResponse(error_message=None, responses=responses)


def _reassign(connection: KafkaConnection, name: str, wanted: ReassignablePartition) -> ReassignablePartitionResponse:
    answer = ReassignablePartitionResponse(partition_index=wanted.partition_index, error_message=None)
    try:
        require(connection, "alter", name)
        connection.hub.topics.partition(name, wanted.partition_index)
        if wanted.replicas is None:
            raise TopicRefused(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "No partition reassignment is in progress.")
        if wanted.replicas != [connection.hub.settings.node_id]:
            raise TopicRefused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "there is no other broker")
    except TopicRefused as refused:
        answer.error_code, answer.error_message = refused.code, refused.text
    return answer


@handles(46)
def on_list_reassignments(
    connection: KafkaConnection, slot: Slot, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    """None is under way; for who may describe the cluster, as in Kafka."""
    try:
        require_of_cluster(connection, "describe")
    except TopicRefused as refused:
        return ListPartitionReassignmentsResponse(error_code=refused.code, error_message=refused.text, topics=[])
    return ListPartitionReassignmentsResponse(error_message=None, topics=[])


@handles(61)
def on_describe_producers(connection: KafkaConnection, slot: Slot, request: DescribeProducersRequest) -> Steps:
    """The idempotent producers that partitions know of (KIP-664)."""

    def describe(topic: TopicRequest, index: int) -> PartitionResponse:
        answer = PartitionResponse(partition_index=index)
        try:
            require(connection, "read", topic.name)
            partition = connection.hub.topics.partition(topic.name, index)
            answer.active_producers = [
                ProducerState(
                    producer_id=one.producer_id,
                    producer_epoch=one.epoch,
                    last_sequence=one.last_sequence,
                    last_timestamp=one.seen_ms,
                    coordinator_epoch=-1,
                )
                for one in partition.producers.all()
            ]
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    def partitions(topic: TopicRequest) -> Iterable[int]:
        return dict.fromkeys(topic.partition_indexes)  # Each once: one may have 10,000 producers.

    described = yield from each_partition(
        request.topics,
        partitions,
        describe,
        PRODUCERS_UNITS,
        lambda topic, found: TopicResponse(name=topic.name, partitions=found),
    )
    return DescribeProducersResponse(topics=described)

"""A cluster of one, to who asks for a cluster: DescribeCluster, leaders, reassignments, log directories, producers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import handles
from broker.server.kafka.topics import require
from protocol.kafka.apis.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignablePartitionResponse,
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
    TopicResponse,
)
from protocol.kafka.apis.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from protocol.kafka.apis.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from protocol.kafka.apis.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection, Slot

BROKERS = 1


@handles(22)
def on_init_producer_id(
    connection: KafkaConnection, slot: Slot, request: InitProducerIdRequest
) -> InitProducerIdResponse | None:
    """A producer id for an idempotent producer; never the same twice, over restarts. Transactions are not served."""
    hub = connection.hub
    if request.transactional_id is not None:
        return InitProducerIdResponse(error_code=ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    hub.answer_when_durable(slot, InitProducerIdResponse(producer_id=hub.topics.next_producer_id(), producer_epoch=0))
    return None


@handles(60)
def on_describe_cluster(
    connection: KafkaConnection, slot: Slot, request: DescribeClusterRequest
) -> DescribeClusterResponse:
    """This broker."""
    hub = connection.hub
    if request.endpoint_type != BROKERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE, error_message="there are no controllers to be asked"
        )
    host, port = hub.address(connection)
    return DescribeClusterResponse(
        endpoint_type=BROKERS,
        cluster_id=hub.settings.cluster_id,
        controller_id=hub.settings.node_id,
        brokers=[DescribeClusterBroker(broker_id=hub.settings.node_id, host=host, port=port)],
    )


@handles(35)
def on_describe_log_dirs(
    connection: KafkaConnection, slot: Slot, request: DescribeLogDirsRequest
) -> DescribeLogDirsResponse:
    """The data directory, and what each partition takes of it."""
    hub = connection.hub
    wanted = None if request.topics is None else {one.topic: set(one.partitions) for one in request.topics}
    topics = []
    for topic in hub.topics.all():
        if (wanted is not None and topic.name not in wanted) or not hub.can(connection, "describe", topic.name):
            continue
        indexes = None if wanted is None else wanted[topic.name]
        topics.append(
            DescribeLogDirsTopic(
                name=topic.name,
                partitions=[
                    DescribeLogDirsPartition(partition_index=one.index, partition_size=one.size_bytes)
                    for one in topic.partitions
                    if indexes is None or one.index in indexes
                ],
            )
        )
    disk = hub.durability.store.disk
    return DescribeLogDirsResponse(
        results=[DescribeLogDirsResult(log_dir=str(disk), topics=topics, usable_bytes=disk.free_bytes())]
    )


@handles(43)
def on_elect_leaders(connection: KafkaConnection, slot: Slot, request: ElectLeadersRequest) -> ElectLeadersResponse:
    """Every partition has its leader: there is nothing to elect."""
    hub = connection.hub
    results = []
    for wanted in request.topic_partitions or ():
        answers = []
        for index in wanted.partitions:
            answer = PartitionResult(partition_id=index, error_message=None)
            try:
                require(connection, "alter", wanted.topic)
                hub.topics.partition(wanted.topic, index)
                answer.error_code = ErrorCode.ELECTION_NOT_NEEDED
            except TopicRefused as refused:
                answer.error_code, answer.error_message = refused.code, refused.text
            answers.append(answer)
        results.append(ReplicaElectionResult(topic=wanted.topic, partition_result=answers))
    return ElectLeadersResponse(replica_election_results=results)


@handles(45)
def on_alter_reassignments(
    connection: KafkaConnection, slot: Slot, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    """Partitions are where they are: moving one here is done at once, there is none under way to be cancelled."""
    return AlterPartitionReassignmentsResponse(
        error_message=None,
        responses=[
            ReassignableTopicResponse(
                name=topic.name, partitions=[_reassign(connection, topic.name, one) for one in topic.partitions]
            )
            for topic in request.topics
        ],
    )


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
    """None is under way."""
    return ListPartitionReassignmentsResponse(error_message=None, topics=[])


@handles(61)
def on_describe_producers(
    connection: KafkaConnection, slot: Slot, request: DescribeProducersRequest
) -> DescribeProducersResponse:
    """The idempotent producers that partitions know of (KIP-664)."""
    response = DescribeProducersResponse()
    for topic in request.topics:
        answers = []
        for index in topic.partition_indexes:
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
            answers.append(answer)
        response.topics.append(TopicResponse(name=topic.name, partitions=answers))
    return response

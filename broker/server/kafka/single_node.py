"""What a cluster of one node answers administrators who ask for transactions, quotas and other log directories.

There are no transactions and no quotas, and one directory; what is asked wrongly is refused in Kafka's words all the
same (`TransactionStateManager.listTransactionStates`, `ClientQuotaCache.describeClientQuotas`,
`ReplicaManager.alterReplicaLogDirs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.access import check_pattern
from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import Steps, each_partition, handles
from broker.server.kafka.rights import may_with_cluster, require_of_cluster
from protocol.kafka.apis.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)
from protocol.kafka.apis.describe_client_quotas import (
    ComponentData,
    DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
)
from protocol.kafka.apis.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

MOVE_UNITS = 5
TRANSACTION_STATES = frozenset((
    "Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "PrepareEpochFence", "Dead",
))  # fmt: skip
ENTITY_TYPES = ("user", "client-id", "ip")
MATCH_EXACT, MATCH_DEFAULT, MATCH_SPECIFIED = range(3)


@handles(34)
def on_alter_replica_log_dirs(connection: KafkaConnection, slot: Slot, request: AlterReplicaLogDirsRequest) -> Steps:
    """Replicas onto a directory: where they are already there is nothing to do, and there is no other (KIP-113).

    The last directory that is named for a partition counts.
    """
    hub = connection.hub
    may = may_with_cluster(connection, "alter")
    here = hub.durability.store.disk.path
    wanted: dict[str, dict[int, str]] = {}
    spent = 0
    for directory in request.dirs:
        for topic in directory.topics:
            wanted.setdefault(topic.name, {}).update(dict.fromkeys(topic.partitions, directory.path))
            spent += 1 + len(topic.partitions) // 10
        if spent >= MOVE_UNITS * 100:
            yield spent
            spent = 0

    def move(name: str, index: int) -> AlterReplicaLogDirPartitionResult:
        topic = hub.topics.get(name)
        code = ErrorCode.NONE
        if not may:
            code = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        elif wanted[name][index] != here:
            code = ErrorCode.LOG_DIR_NOT_FOUND
        elif topic is None or not 0 <= index < len(topic.partitions):
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code)

    results = yield from each_partition(
        wanted,
        lambda name: wanted[name],
        move,
        MOVE_UNITS,
        lambda name, found: AlterReplicaLogDirTopicResult(topic_name=name, partitions=found),
    )
    return AlterReplicaLogDirsResponse(results=results)


@handles(48)
def on_describe_client_quotas(
    connection: KafkaConnection, slot: Slot, request: DescribeClientQuotasRequest
) -> DescribeClientQuotasResponse:
    """Nobody has a quota (KIP-546)."""
    try:
        require_of_cluster(connection, "describe_configs")
        seen: set[str] = set()
        for one in request.components:
            _check_component(one)
            if one.entity_type in seen:
                text = f"Entity type {one.entity_type} cannot appear more than once in the filter."
                raise TopicRefused(ErrorCode.INVALID_REQUEST, text)
            seen.add(one.entity_type)
        if "ip" in seen and len(seen) > 1:
            text = "Invalid entity filter component combination, IP filter component should not be used with user or "
            raise TopicRefused(ErrorCode.INVALID_REQUEST, text + "clientId filter component.")
    except TopicRefused as refused:
        return DescribeClientQuotasResponse(error_code=refused.code, error_message=refused.text, entries=None)
    return DescribeClientQuotasResponse()


def _check_component(one: ComponentData) -> None:
    """Raises TopicRefused 35, 42."""
    text = None
    if not one.entity_type:
        text = "Invalid empty entity type."
    elif one.match_type == MATCH_EXACT:
        if one.match is None:
            text = "Request specified MATCH_TYPE_EXACT, but set match string to null."
    elif one.match_type not in (MATCH_DEFAULT, MATCH_SPECIFIED):
        text = f"Unknown match type {one.match_type}"
    elif one.match is not None:
        name = "DEFAULT" if one.match_type == MATCH_DEFAULT else "SPECIFIED"
        text = f"Request specified MATCH_TYPE_{name}, but also specified a match string."
    if text is not None:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, text)
    if one.entity_type not in ENTITY_TYPES:
        raise TopicRefused(ErrorCode.UNSUPPORTED_VERSION, f"Unsupported entity type {one.entity_type}")


@handles(66)
def on_list_transactions(
    connection: KafkaConnection, slot: Slot, request: ListTransactionsRequest
) -> ListTransactionsResponse:
    """There is none; states that do not exist are told, and a pattern that is none is refused (KIP-664, KIP-1152)."""
    try:
        if request.transactional_id_pattern:
            check_pattern(request.transactional_id_pattern)
    except ValueError:
        return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    unknown = [one for one in dict.fromkeys(request.state_filters) if one not in TRANSACTION_STATES]
    return ListTransactionsResponse(unknown_state_filters=unknown)

"""What a user may do, as answers tell it: operations as bits, and the rules of the cluster as a resource (KIP-430).

The bits are those of Kafka's `AclEntry.supportedOperations`, a resource type each. The cluster is nothing to a vhost's
permissions: what the access list does not say of it is for administrators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.access_lists import CLUSTER_NAME, Kind, Operation
from broker.core.topics.errors import TopicRefused
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection

NOT_ASKED = -(1 << 31)
"""What stands for operations that nobody has asked for, or may not know."""
OPERATIONS_UNITS = 10
BITS: dict[Operation, int] = {
    "read": 3, "write": 4, "create": 5, "delete": 6, "alter": 7, "describe": 8, "cluster_action": 9,
    "describe_configs": 10, "alter_configs": 11, "idempotent_write": 12,
}  # fmt: skip
SUPPORTED: dict[Kind, tuple[Operation, ...]] = {
    "topic": ("read", "write", "create", "delete", "alter", "describe", "describe_configs", "alter_configs"),
    "group": ("read", "delete", "describe", "describe_configs", "alter_configs"),
    "cluster": (
        "create", "alter", "describe", "cluster_action", "describe_configs", "alter_configs", "idempotent_write",
    ),
}  # fmt: skip


def operations(connection: KafkaConnection, name: str, kind: Kind) -> int:
    """What the user may do with the topic or group, or (of kind `cluster`) the cluster."""
    hub = connection.hub
    found = 0
    for operation in SUPPORTED[kind]:
        may = may_with_cluster(connection, operation) if kind == "cluster" else hub.can(
            connection, operation, name, kind
        )  # fmt: skip
        if may:
            found |= 1 << BITS[operation]
    return found


def may_with_cluster(connection: KafkaConnection, operation: Operation) -> bool:
    """Whether the user may do that with the cluster."""
    listed = connection.hub.listed(connection, operation, CLUSTER_NAME, "cluster")
    return connection.hub.is_administrator(connection) if listed is None else listed


def require_of_cluster(connection: KafkaConnection, operation: Operation) -> None:
    """Raises TopicRefused 31 unless the user may."""
    if not may_with_cluster(connection, operation):
        raise TopicRefused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "Cluster authorization failed.")


def may_write_idempotently(connection: KafkaConnection) -> bool:
    """Whether a producer id is the user's to have: who may write to some topic may write to it once (KIP-679)."""
    hub = connection.hub
    return may_with_cluster(connection, "idempotent_write") or hub.hub.access.may_write_somewhere(
        connection.user, hub.settings.vhost, connection.peer[0]
    )

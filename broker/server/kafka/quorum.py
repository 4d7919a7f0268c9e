"""What a node without KRaft answers who asks for the quorum and for features: DescribeQuorum, UpdateFeatures.

The quorum is one voter, this node. What Kafka keeps in `__cluster_metadata` is in the journal here, so its offsets are
the journal's positions (octets, which a restart goes on from) and its epoch is the number of the run. There is no
controller's listener to tell of. No feature is supported, so none is announced (`metadata.on_api_versions`), and every
update is refused as Kafka 4.3 refuses one of a feature that it does not know (`FeatureControlManager.updateFeature`).
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import Steps, each_partition, handles
from broker.server.kafka.rights import require_of_cluster
from protocol.kafka.apis.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    Node,
    PartitionData,
    PartitionResponse,
    ReplicaState,
    TopicData,
    TopicResponse,
)
from protocol.kafka.apis.update_features import (
    FeatureUpdateKey,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

METADATA_TOPIC = "__cluster_metadata"
PARTITION_UNITS = 2
UPGRADE_TYPES = (1, 2, 3)
"""Upgrade, safe and unsafe downgrade (`FeatureUpdate.UpgradeType`)."""


@handles(55)
def on_describe_quorum(connection: KafkaConnection, slot: Slot, request: DescribeQuorumRequest) -> Steps:
    """For who may describe the cluster. Asked for anything but the one partition, Kafka knows none of what is asked
    (`RaftUtil.hasValidTopicPartition`)."""
    try:
        require_of_cluster(connection, "describe")
    except TopicRefused as refused:
        return DescribeQuorumResponse(error_code=refused.code, error_message=refused.text)
    wanted = request.topics
    if len(wanted) == 1 and wanted[0].topic_name == METADATA_TOPIC and wanted[0].partitions == [PartitionData()]:
        topic = TopicResponse(topic_name=METADATA_TOPIC, partitions=[_metadata(connection)])
        node = Node(node_id=connection.hub.settings.node_id)
        return DescribeQuorumResponse(error_message="", topics=[topic], nodes=[node])
    topics = yield from each_partition(
        wanted,
        attrgetter("partitions"),
        _unknown,
        PARTITION_UNITS,
        lambda one, found: TopicResponse(topic_name=one.topic_name, partitions=found),
    )
    return DescribeQuorumResponse(error_message="", topics=topics)


def _metadata(connection: KafkaConnection) -> PartitionResponse:
    hub = connection.hub
    node_id = hub.settings.node_id
    journal = hub.durability.store.journal
    now_ms = hub.wall_ms
    voter = ReplicaState(
        replica_id=node_id,
        log_end_offset=journal.end,
        last_fetch_timestamp=now_ms,
        last_caught_up_timestamp=now_ms,
    )
    return PartitionResponse(
        error_message="",
        leader_id=node_id,
        leader_epoch=journal.epoch,
        high_watermark=journal.synced,
        current_voters=[voter],
    )


def _unknown(_: TopicData, one: PartitionData) -> PartitionResponse:
    text = "This server does not host this topic-partition."
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return PartitionResponse(partition_index=one.partition_index, error_code=code, error_message=text)


@handles(57)
def on_update_features(
    connection: KafkaConnection, slot: Slot, request: UpdateFeaturesRequest
) -> UpdateFeaturesResponse:
    """For who may alter the cluster. All updates fail with the first that does (KIP-1022), so the first is told."""
    try:
        require_of_cluster(connection, "alter")
        for one in request.feature_updates[:1]:
            text = "The update failed for all features since the following feature had an error: "
            text += f"Invalid update version {one.max_version_level} for feature {one.feature}. "
            raise TopicRefused(ErrorCode.INVALID_UPDATE_VERSION, text + _why(one, connection.hub.settings.node_id))
    except TopicRefused as refused:
        return UpdateFeaturesResponse(error_code=refused.code, error_message=refused.text)
    return UpdateFeaturesResponse()


def _why(update: FeatureUpdateKey, node_id: int) -> str:
    if update.upgrade_type not in UPGRADE_TYPES:
        return "The controller does not support the given upgrade type."
    if update.max_version_level < 0:
        return "A feature version cannot be less than 0."
    if update.max_version_level == 0:
        return f"Feature {update.feature} not found."
    return f"Local controller {node_id} does not support this feature."

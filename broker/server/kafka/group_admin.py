"""Groups as administrators and consumers look at them: find, list, describe, delete; fetch and delete offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.groups.values import Fetched, MemberDescription, State
from broker.server.kafka.handlers import handles
from protocol.kafka.apis.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from protocol.kafka.apis.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from protocol.kafka.apis.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from protocol.kafka.apis.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from protocol.kafka.apis.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from protocol.kafka.apis.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection, Slot

GROUP_KEY = 0
"""Key type of FindCoordinator; 1 would be a transaction's."""
KEYS_VERSION = 4
"""From this version on FindCoordinator names several (KIP-699)."""
GROUPS_VERSION = 8
"""From this version on OffsetFetch names several groups (KIP-709)."""
ALL_SINCE = 2
"""From this version of OffsetFetch on null topics are all of them."""
CLASSIC = "classic"


@handles(10)
def on_find_coordinator(
    connection: KafkaConnection, slot: Slot, request: FindCoordinatorRequest
) -> FindCoordinatorResponse:
    """FindCoordinator: this broker, for every group. There are no transactions."""
    hub = connection.hub
    host, port = hub.address(connection)
    is_batch = slot.header.api_version >= KEYS_VERSION

    def find(key: str) -> Coordinator:
        error = ErrorCode.NONE
        if request.key_type != GROUP_KEY:
            error = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        elif not hub.may_see(connection, key):
            error = ErrorCode.GROUP_AUTHORIZATION_FAILED
        if error is not ErrorCode.NONE:
            return Coordinator(key=key, node_id=-1, port=-1, error_code=error, error_message=error.name)
        return Coordinator(key=key, node_id=hub.settings.node_id, host=host, port=port, error_message=None)

    if is_batch:
        return FindCoordinatorResponse(coordinators=[find(key) for key in request.coordinator_keys])
    found = find(request.key)
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


@handles(16)
def on_list_groups(connection: KafkaConnection, slot: Slot, request: ListGroupsRequest) -> ListGroupsResponse:
    """ListGroups: those that the user may use, in the states that are asked for."""
    groups = connection.hub.groups
    error, found = groups.coordinator.listing(request.states_filter)
    types = {one.casefold() for one in request.types_filter}
    return ListGroupsResponse(
        error_code=error,
        groups=[
            ListedGroup(
                group_id=one.group_id,
                protocol_type=one.protocol_type,
                group_state=one.state.value,
                group_type=CLASSIC,
            )
            for one in found
            if connection.hub.may_see(connection, one.group_id) and (not types or CLASSIC in types)
        ],
    )


@handles(15)
def on_describe_groups(
    connection: KafkaConnection, slot: Slot, request: DescribeGroupsRequest
) -> DescribeGroupsResponse:
    """DescribeGroups: an unknown group is Dead, which is no error up to version 5."""
    return DescribeGroupsResponse(groups=[_describe(connection, group_id) for group_id in request.groups])


def _describe(connection: KafkaConnection, group_id: str) -> DescribedGroup:
    groups = connection.hub.groups
    if not connection.hub.may_see(connection, group_id):
        return DescribedGroup(group_id=group_id, error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    error, found = groups.coordinator.describe(group_id)
    return DescribedGroup(
        error_code=ErrorCode.NONE if error is ErrorCode.GROUP_ID_NOT_FOUND else error,
        group_id=group_id,
        group_state=found.state.value,
        protocol_type=found.protocol_type,
        protocol_data=found.protocol if found.state is State.STABLE else "",
        members=[_describe_member(one) for one in found.members],
    )


def _describe_member(member: MemberDescription) -> DescribedGroupMember:
    return DescribedGroupMember(
        member_id=member.member_id,
        group_instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        member_metadata=member.metadata,
        member_assignment=member.assignment,
    )


@handles(42)
def on_delete_groups(connection: KafkaConnection, slot: Slot, request: DeleteGroupsRequest) -> None:
    """DeleteGroups: only those without members, for who may also configure them."""
    hub = connection.hub
    groups = hub.groups
    results = []
    for group_id in request.groups_names:
        if hub.can(connection, "delete", group_id, "group"):
            error = groups.coordinator.delete(group_id, groups.now_ms)
            groups.carry_out()
        else:
            error = ErrorCode.GROUP_AUTHORIZATION_FAILED
        results.append(DeletableGroupResult(group_id=group_id, error_code=error))
    hub.answer_when_durable(slot, DeleteGroupsResponse(results=results))


@handles(47)
def on_offset_delete(
    connection: KafkaConnection, slot: Slot, request: OffsetDeleteRequest
) -> OffsetDeleteResponse | None:
    """OffsetDelete: offsets of topics that no member subscribes to (KIP-496)."""
    hub = connection.hub
    groups = hub.groups
    if not hub.can(connection, "delete", request.group_id, "group"):
        return OffsetDeleteResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    places = [(topic.name, one.partition_index) for topic in request.topics for one in topic.partitions]
    error, errors = groups.coordinator.delete_offsets(request.group_id, places)
    groups.carry_out()
    if error is not ErrorCode.NONE:
        return OffsetDeleteResponse(error_code=error)
    rest = iter(errors)
    response = OffsetDeleteResponse(
        topics=[
            OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetDeleteResponsePartition(partition_index=one.partition_index, error_code=next(rest))
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )
    hub.answer_when_durable(slot, response)
    return None


@handles(9)
def on_offset_fetch(connection: KafkaConnection, slot: Slot, request: OffsetFetchRequest) -> OffsetFetchResponse:
    """OffsetFetch: nothing committed is offset -1 and no error."""
    if slot.header.api_version >= GROUPS_VERSION:
        return OffsetFetchResponse(
            groups=[_fetch_group(connection, one, stable=request.require_stable) for one in request.groups]
        )
    topics = None
    if request.topics is not None:
        topics = [OffsetFetchRequestTopics(name=one.name, partition_indexes=one.partition_indexes)
                  for one in request.topics]  # fmt: skip
    asked = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    found = _fetch_group(connection, asked, stable=request.require_stable)
    code = found.error_code
    answers = found.topics
    if code and slot.header.api_version < ALL_SINCE:  # There is no place for the error but with the partitions.
        missing = Fetched()
        answers = [
            OffsetFetchResponseTopics(
                name=one.name, partitions=[_partition(index, missing, code) for index in one.partition_indexes]
            )
            for one in topics or ()
        ]
    return OffsetFetchResponse(
        error_code=code,
        topics=[
            OffsetFetchResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetFetchResponsePartition(
                        partition_index=one.partition_index,
                        committed_offset=one.committed_offset,
                        committed_leader_epoch=one.committed_leader_epoch,
                        metadata=one.metadata,
                        error_code=one.error_code,
                    )
                    for one in topic.partitions
                ],
            )
            for topic in answers
        ],
    )


def _fetch_group(
    connection: KafkaConnection, asked: OffsetFetchRequestGroup, *, stable: bool
) -> OffsetFetchResponseGroup:
    hub = connection.hub
    if not hub.may_see(connection, asked.group_id):
        return OffsetFetchResponseGroup(group_id=asked.group_id, error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    wanted = None if asked.topics is None else {one.name: one.partition_indexes for one in asked.topics}
    error, found = hub.groups.coordinator.fetch(asked.group_id, wanted, require_stable=stable)
    answers = []
    for name, partitions in found.items():
        may_read = hub.can(connection, "describe", name)
        if not may_read and wanted is None:
            continue
        code = ErrorCode.NONE if may_read else ErrorCode.TOPIC_AUTHORIZATION_FAILED
        answers.append(
            OffsetFetchResponseTopics(
                name=name,
                partitions=[
                    _partition(index, one if may_read else Fetched(), code or one.error)
                    for index, one in partitions.items()
                ],
            )
        )
    return OffsetFetchResponseGroup(group_id=asked.group_id, topics=answers, error_code=error)


def _partition(index: int, found: Fetched, code: int) -> OffsetFetchResponsePartitions:
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=found.offset,
        committed_leader_epoch=found.leader_epoch,
        metadata=found.metadata,
        error_code=code,
    )

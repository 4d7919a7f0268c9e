"""Groups as administrators and consumers look at them: find, list, describe, delete; fetch and delete offsets."""

from __future__ import annotations

from collections.abc import Generator
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.groups.values import Fetched, GroupListing, MemberDescription, State
from broker.core.scheduler import SLICE_UNITS
from broker.server.kafka.handlers import Steps, each, each_partition, handles
from broker.server.kafka.rights import operations
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
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
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
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

GROUP_KEY = 0
"""Key type of FindCoordinator; 1 would be a transaction's."""
UNKNOWN_VERSION = 6
"""The first of DescribeGroups that says of a group that it is not there (KIP-1043)."""
KEYS_VERSION = 4
"""From this version on FindCoordinator names several (KIP-699)."""
GROUPS_VERSION = 8
"""From this version on OffsetFetch names several groups (KIP-709)."""
ALL_SINCE = 2
"""From this version of OffsetFetch on null topics are all of them."""
CLASSIC = "classic"
FIND_UNITS, LIST_UNITS, DESCRIBE_UNITS, DELETE_UNITS, OFFSET_UNITS = 10, 5, 50, 100, 10
"""What one group, or one offset, costs."""


@handles(10)
def on_find_coordinator(connection: KafkaConnection, slot: Slot, request: FindCoordinatorRequest) -> Steps:
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
        return FindCoordinatorResponse(coordinators=(yield from each(request.coordinator_keys, find, FIND_UNITS)))
    found = find(request.key)
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


@handles(16)
def on_list_groups(connection: KafkaConnection, slot: Slot, request: ListGroupsRequest) -> Steps:
    """ListGroups: those that the user may use, in the states that are asked for."""
    groups = connection.hub.groups
    error, found = groups.coordinator.listing(request.states_filter)
    types = {one.casefold() for one in request.types_filter}
    if types and CLASSIC not in types:
        found = []

    def shown(one: GroupListing) -> ListedGroup | None:
        if not connection.hub.may_see(connection, one.group_id):
            return None
        return ListedGroup(
            group_id=one.group_id, protocol_type=one.protocol_type, group_state=one.state.value, group_type=CLASSIC
        )

    listed = yield from each(found, shown, LIST_UNITS)
    return ListGroupsResponse(error_code=error, groups=[one for one in listed if one is not None])


@handles(15)
def on_describe_groups(connection: KafkaConnection, slot: Slot, request: DescribeGroupsRequest) -> Steps:
    """DescribeGroups: an unknown group is Dead, which is no error up to version 5 (KIP-1043)."""
    wanted = dict.fromkeys(request.groups)  # Each once: one may have 1,000 members.
    is_error = slot.header.api_version >= UNKNOWN_VERSION

    def describe(group_id: str) -> DescribedGroup:
        found = _describe(connection, group_id, unknown_is_error=is_error)
        if request.include_authorized_operations and not found.error_code:
            found.authorized_operations = operations(connection, group_id, "group")
        return found

    return DescribeGroupsResponse(groups=(yield from each(wanted, describe, DESCRIBE_UNITS)))


def _describe(connection: KafkaConnection, group_id: str, *, unknown_is_error: bool) -> DescribedGroup:
    groups = connection.hub.groups
    if not connection.hub.may_see(connection, group_id):
        return DescribedGroup(group_id=group_id, error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    error, found = groups.coordinator.describe(group_id)
    message = None
    if error is ErrorCode.GROUP_ID_NOT_FOUND:
        if unknown_is_error:
            message = f"Group {group_id} not found."
        else:
            error = ErrorCode.NONE
    return DescribedGroup(
        error_code=error,
        error_message=message,
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


@handles(42, changes=True)
def on_delete_groups(connection: KafkaConnection, slot: Slot, request: DeleteGroupsRequest) -> Steps:
    """DeleteGroups: only those without members, for who may also configure them."""
    hub = connection.hub
    groups = hub.groups

    def delete(group_id: str) -> DeletableGroupResult:
        if hub.can(connection, "delete", group_id, "group"):
            error = groups.coordinator.delete(group_id, groups.now_ms)
            groups.carry_out()
        else:
            error = ErrorCode.GROUP_AUTHORIZATION_FAILED
        return DeletableGroupResult(group_id=group_id, error_code=error)

    results = yield from each(request.groups_names, delete, DELETE_UNITS)
    hub.answer_when_durable(slot, DeleteGroupsResponse(results=results))


@handles(47, changes=True)
def on_offset_delete(connection: KafkaConnection, slot: Slot, request: OffsetDeleteRequest) -> Steps:
    """OffsetDelete: offsets of topics that no member subscribes to (KIP-496)."""
    hub = connection.hub
    groups = hub.groups
    if not hub.can(connection, "delete", request.group_id, "group"):
        return OffsetDeleteResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    if not request.group_id:  # It may have offsets; Kafka's `GroupCoordinatorService.isGroupIdNotEmpty` all the same.
        return OffsetDeleteResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    error, _ = groups.coordinator.delete_offsets(request.group_id, ())
    if error is not ErrorCode.NONE:
        return OffsetDeleteResponse(error_code=error)

    def delete(topic: OffsetDeleteRequestTopic, one: OffsetDeleteRequestPartition) -> OffsetDeleteResponsePartition:
        problem = _undeletable(connection, topic.name, one.partition_index)
        if problem is not None:
            return OffsetDeleteResponsePartition(partition_index=one.partition_index, error_code=problem)
        error, errors = groups.coordinator.delete_offsets(request.group_id, ((topic.name, one.partition_index),))
        groups.carry_out()
        code = errors[0] if errors else error
        return OffsetDeleteResponsePartition(partition_index=one.partition_index, error_code=code)

    topics = yield from each_partition(
        request.topics,
        attrgetter("partitions"),
        delete,
        DELETE_UNITS,
        lambda topic, found: OffsetDeleteResponseTopic(name=topic.name, partitions=found),
    )
    hub.answer_when_durable(slot, OffsetDeleteResponse(topics=topics))
    return None


def _undeletable(connection: KafkaConnection, name: str, index: int) -> ErrorCode | None:
    """Why offsets of a partition are not deleted: no right to read it, or no such partition (`handleOffsetDelete`)."""
    if not connection.hub.can(connection, "read", name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    topic = connection.hub.topics.get(name)
    if topic is None or not 0 <= index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return None


@handles(9)
def on_offset_fetch(connection: KafkaConnection, slot: Slot, request: OffsetFetchRequest) -> Steps:
    """OffsetFetch: nothing committed is offset -1 and no error. Answered when what it tells is durable.

    Kafka shows a commit when it is in the log (GroupMetadata.scala, pendingOffsetCommits): nobody goes by an offset
    that a crash may take back.
    """
    hub = connection.hub
    if slot.header.api_version >= GROUPS_VERSION:
        groups = []
        by_id = {one.group_id: one for one in request.groups}  # Each once: one may have offsets by the thousand.
        spent = 0
        for one in by_id.values():
            found = yield from _fetch_group(connection, one, stable=request.require_stable)
            groups.append(found)
            # What made a slice of a group's offsets was yielded there, but for the last.
            spent += FIND_UNITS + min(sum(len(topic.partitions) for topic in found.topics) * OFFSET_UNITS, SLICE_UNITS)
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
        hub.answer_when_durable(slot, OffsetFetchResponse(groups=groups))
        return
    topics = None
    if request.topics is not None:
        topics = [OffsetFetchRequestTopics(name=one.name, partition_indexes=one.partition_indexes)
                  for one in request.topics]  # fmt: skip
    asked = OffsetFetchRequestGroup(group_id=request.group_id, topics=topics)
    found = yield from _fetch_group(connection, asked, stable=request.require_stable)
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

    def as_before(_: OffsetFetchResponseTopics, one: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition:
        return OffsetFetchResponsePartition(
            partition_index=one.partition_index,
            committed_offset=one.committed_offset,
            committed_leader_epoch=one.committed_leader_epoch,
            metadata=one.metadata,
            error_code=one.error_code,
        )

    told = yield from each_partition(
        answers,
        attrgetter("partitions"),
        as_before,
        OFFSET_UNITS,
        lambda topic, found: OffsetFetchResponseTopic(name=topic.name, partitions=found),
    )
    hub.answer_when_durable(slot, OffsetFetchResponse(error_code=code, topics=told))


def _fetch_group(
    connection: KafkaConnection, asked: OffsetFetchRequestGroup, *, stable: bool
) -> Generator[int, None, OffsetFetchResponseGroup]:
    hub = connection.hub
    group_id = asked.group_id
    if not hub.may_see(connection, group_id):
        return OffsetFetchResponseGroup(group_id=group_id, error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    coordinator = hub.groups.coordinator
    error, _ = coordinator.fetch(group_id, {}, require_stable=stable)
    if error is not ErrorCode.NONE:
        return OffsetFetchResponseGroup(group_id=group_id, error_code=error)
    topics = asked.topics
    if topics is None:
        topics = [
            OffsetFetchRequestTopics(name=name, partition_indexes=list(coordinator.partitions_of(group_id, name)))
            for name in coordinator.topics_of(group_id)
            if hub.can(connection, "describe", name)
        ]

    def fetch(topic: OffsetFetchRequestTopics, index: int) -> OffsetFetchResponsePartitions:
        if not hub.can(connection, "describe", topic.name):
            return _partition(index, Fetched(), ErrorCode.TOPIC_AUTHORIZATION_FAILED)
        _, found = coordinator.fetch(group_id, {topic.name: (index,)}, require_stable=stable)
        one = found[topic.name][index]
        return _partition(index, one, one.error)

    answers = yield from each_partition(
        topics,
        attrgetter("partition_indexes"),
        fetch,
        OFFSET_UNITS,
        lambda topic, found: OffsetFetchResponseTopics(name=topic.name, partitions=found),
    )
    return OffsetFetchResponseGroup(group_id=group_id, topics=answers)


def _partition(index: int, found: Fetched, code: int) -> OffsetFetchResponsePartitions:
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=found.offset,
        committed_leader_epoch=found.leader_epoch,
        metadata=found.metadata,
        error_code=code,
    )

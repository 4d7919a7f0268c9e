"""Consumer groups on the wire: joins, syncs, heartbeats, leaves and commits, as `server.groups` understands them.

A parked join or sync is an `_Asker`. Members and committers need `read` for the group's name.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.core.groups.values import (
    Committer,
    JoinRequest,
    JoinResult,
    Leaver,
    OffsetCommit,
    SyncRequest,
    SyncResult,
)
from broker.server.kafka.handlers import NAME_UNITS, Steps, each_partition, handles
from protocol.kafka.apis.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.kafka.apis.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember
from protocol.kafka.apis.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from protocol.kafka.apis.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from protocol.kafka.apis.sync_group import SyncGroupRequest, SyncGroupResponse
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.hub import KafkaHub
    from broker.server.kafka.slot import Slot

ID_VERSION = 4
"""From this version of JoinGroup on a new member is told its id first (KIP-394)."""
NULL_PROTOCOL_VERSION = 7
SKIP_VERSION = 9
BATCH_VERSION = 3
"""From this version on LeaveGroup names several members."""
RETENTION_VERSION_MAX = 4
LEAVERS_AT_ONCE, LEAVER_UNITS = 100, 20
COMMITS_AT_ONCE, COMMIT_UNITS = 100, 50
"""Offsets that are committed in one step, and what one costs."""


class _Asker:
    """A join or sync whose answer goes into a slot; when its connection goes the coordinator is told."""

    __slots__ = ("_group_id", "_hub", "_slot")

    def __init__(self, hub: KafkaHub, group_id: str, slot: Slot) -> None:
        self._hub = hub
        self._group_id = group_id
        self._slot = slot
        slot.connection.on_close[slot] = self._forget

    def _forget(self) -> None:
        self._hub.groups.forget(self._group_id, self)

    def reply(self, result: JoinResult | SyncResult, *, after_save: bool) -> None:
        """See `server.groups.Asker`."""
        slot = self._slot
        slot.connection.on_close.pop(slot, None)
        response = _answer(slot, result)
        if after_save:
            self._hub.answer_when_durable(slot, response)
        else:
            slot.answer(response)


def _answer(slot: Slot, result: JoinResult | SyncResult) -> JoinGroupResponse | SyncGroupResponse:
    version = slot.header.api_version
    if not isinstance(result, JoinResult):
        return SyncGroupResponse(
            error_code=result.error,
            protocol_type=result.protocol_type,
            protocol_name=result.protocol,
            assignment=result.assignment,
        )
    protocol = result.protocol
    return JoinGroupResponse(
        error_code=result.error,
        generation_id=result.generation,
        protocol_type=result.protocol_type,
        protocol_name="" if protocol is None and version < NULL_PROTOCOL_VERSION else protocol,
        leader=result.leader,
        skip_assignment=result.skip_assignment,
        member_id=result.member_id,
        members=[
            JoinGroupResponseMember(member_id=one.member_id, group_instance_id=one.instance_id, metadata=one.metadata)
            for one in result.members
        ],
    )


@handles(11)
def on_join_group(connection: KafkaConnection, slot: Slot, request: JoinGroupRequest) -> JoinGroupResponse | None:
    """JoinGroup: answered when the group's members are together."""
    groups = connection.hub.groups
    if not connection.hub.may_use(connection, request.group_id):
        return JoinGroupResponse(
            error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED, protocol_name="", member_id=request.member_id
        )
    version = slot.header.api_version
    join = JoinRequest(
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client_id=connection.client_id,
        client_host="/" + connection.peer[0],
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        protocol_type=request.protocol_type,
        protocols=tuple((one.name, one.metadata) for one in request.protocols),
        id_required=version >= ID_VERSION,
        can_skip_assignment=version >= SKIP_VERSION,
        reason=request.reason or "",
    )
    groups.coordinator.join(request.group_id, _Asker(connection.hub, request.group_id, slot), join, groups.now_ms)
    groups.carry_out()
    return None


@handles(14)
def on_sync_group(connection: KafkaConnection, slot: Slot, request: SyncGroupRequest) -> SyncGroupResponse | None:
    """SyncGroup: answered when the leader has assigned, and that is durable."""
    groups = connection.hub.groups
    if not connection.hub.may_use(connection, request.group_id):
        return SyncGroupResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    sync = SyncRequest(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments={one.member_id: one.assignment for one in request.assignments},
    )
    groups.coordinator.sync(request.group_id, _Asker(connection.hub, request.group_id, slot), sync, groups.now_ms)
    groups.carry_out()
    return None


@handles(12)
def on_heartbeat(connection: KafkaConnection, slot: Slot, request: HeartbeatRequest) -> HeartbeatResponse:
    """Heartbeat: whether the member is still one, and whether it has to join again."""
    groups = connection.hub.groups
    if not connection.hub.may_use(connection, request.group_id):
        return HeartbeatResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    return HeartbeatResponse(
        error_code=groups.coordinator.heartbeat(
            request.group_id, request.member_id, request.generation_id, groups.now_ms, request.group_instance_id
        )
    )


@handles(13, changes=True)
def on_leave_group(connection: KafkaConnection, slot: Slot, request: LeaveGroupRequest) -> Steps:
    """LeaveGroup: the member, or several from version 3 on, each with an answer of its own."""
    groups = connection.hub.groups
    if not connection.hub.may_use(connection, request.group_id):
        return LeaveGroupResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    is_batch = slot.header.api_version >= BATCH_VERSION
    members = request.members if is_batch else [MemberIdentity(member_id=request.member_id)]
    leavers = [Leaver(one.member_id, one.group_instance_id, one.reason or "") for one in members]
    error, errors = ErrorCode.NONE, []
    for start in range(0, max(len(leavers), 1), LEAVERS_AT_ONCE):
        if start:
            yield LEAVERS_AT_ONCE * LEAVER_UNITS
        some = leavers[start : start + LEAVERS_AT_ONCE]
        error, codes = groups.coordinator.leave(request.group_id, some, groups.now_ms)
        groups.carry_out()
        if error is not ErrorCode.NONE:
            break
        errors += codes
    if not is_batch:
        return LeaveGroupResponse(error_code=error if error is not ErrorCode.NONE else errors[0])
    return LeaveGroupResponse(
        error_code=error,
        members=[
            MemberResponse(member_id=one.member_id, group_instance_id=one.group_instance_id, error_code=code)
            for one, code in zip(members, errors, strict=False)
        ],
    )


@handles(8, changes=True)
def on_offset_commit(connection: KafkaConnection, slot: Slot, request: OffsetCommitRequest) -> Steps:
    """OffsetCommit: answered when the offsets are durable. A long one goes on in parts, each checked by itself: members
    that lose their place meanwhile are told so with the rest."""
    if not connection.hub.may_use(connection, request.group_id):
        return (yield from _commit_response(request, repeat(ErrorCode.GROUP_AUTHORIZATION_FAILED)))
    retention_ms = request.retention_time_ms if slot.header.api_version <= RETENTION_VERSION_MAX else -1
    who = Committer(request.member_id, request.generation_id_or_member_epoch, request.group_instance_id)
    places = ((topic.name, one) for topic in request.topics for one in topic.partitions)
    part = list(islice(places, COMMITS_AT_ONCE))
    error, codes = _commit(connection, request.group_id, who, part, retention_ms)
    if error is not ErrorCode.NONE:
        return (yield from _commit_response(request, repeat(error)))
    while part := list(islice(places, COMMITS_AT_ONCE)):
        yield COMMITS_AT_ONCE * COMMIT_UNITS
        codes += _commit(connection, request.group_id, who, part, retention_ms)[1]
    response = yield from _commit_response(request, iter(codes))
    connection.hub.answer_when_durable(slot, response)
    return None


def _commit(
    connection: KafkaConnection,
    group_id: str,
    who: Committer,
    places: list[tuple[str, OffsetCommitRequestPartition]],
    retention_ms: int,
) -> tuple[ErrorCode, list[ErrorCode]]:
    """For the member or committer, and for each of the (topic name, partition with its offset)."""
    groups = connection.hub.groups
    refusals = [_refused(connection, name, one) for name, one in places]
    commits = [
        OffsetCommit(
            name,
            one.partition_index,
            one.committed_offset,
            one.committed_leader_epoch,
            one.committed_metadata or "",
            retention_ms,
        )
        for (name, one), refused in zip(places, refusals, strict=True)
        if refused is None
    ]
    error, errors = groups.coordinator.commit(group_id, who, commits, groups.now_ms)
    groups.carry_out()
    rest = iter(errors) if error is ErrorCode.NONE else repeat(error)
    return error, [next(rest) if refused is None else refused for refused in refusals]


def _refused(connection: KafkaConnection, name: str, one: OffsetCommitRequestPartition) -> ErrorCode | None:
    """Why the offset of a partition is not kept; None when it may be."""
    hub = connection.hub
    if not hub.can(connection, "read", name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    topic = hub.topics.get(name)
    if topic is None or not 0 <= one.partition_index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return None


def _commit_response(
    request: OffsetCommitRequest, codes: Iterator[ErrorCode]
) -> Generator[int, None, OffsetCommitResponse]:
    """The response to a commit, with the next of the `codes` for each partition in order."""
    topics = yield from each_partition(
        request.topics,
        attrgetter("partitions"),
        lambda _, one: OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=next(codes)),
        NAME_UNITS,
        lambda topic, found: OffsetCommitResponseTopic(name=topic.name, partitions=found),
    )
    return OffsetCommitResponse(topics=topics)

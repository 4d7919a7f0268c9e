"""Consumer groups on the wire: requests into the coordinator, its effects out to the disk and to who waits.

Owns the coordinator, where it keeps things, and its clock. A parked join or sync is a ticket (the slot of its answer);
when its connection goes the coordinator is told. Members and committers need `read` for the group's name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from broker.core.groups.coordinator import Coordinator
from broker.core.groups.storage import GroupStore
from broker.core.groups.values import (
    Committer,
    GroupSettings,
    JoinRequest,
    JoinResult,
    Leaver,
    OffsetCommit,
    Reply,
    StateChanged,
    SyncRequest,
)
from broker.core.scheduler import SLICE_UNITS
from broker.server.kafka.handlers import handles
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
from protocol.kafka.group_records import subscribed_topics

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection, Slot
    from broker.server.kafka.hub import KafkaHub

log = logging.getLogger("jackalope.groups")

SWEEP_MS = 60_000
"""How often offsets are looked through for those that nobody needs any more."""
ID_VERSION = 4
"""From this version of JoinGroup on a new member is told its id first (KIP-394)."""
NULL_PROTOCOL_VERSION = 7
SKIP_VERSION = 9
BATCH_VERSION = 3
"""From this version on LeaveGroup names several members."""
RETENTION_VERSION_MAX = 4


class Groups:
    """The groups of this process."""

    def __init__(self, hub: KafkaHub, settings: GroupSettings) -> None:
        self._hub = hub
        self._ahead_ms = hub.wall_ms - hub.now_ms
        self._sweep_ms = 0
        self.coordinator = Coordinator(settings, lambda prefix: f"{prefix}-{hub.hub.new_token()}", subscribed_topics)
        self.store = GroupStore(hub.topics)
        self.store.load(self.coordinator, self.now_ms)

    @property
    def now_ms(self) -> int:
        """The wall clock as it was at the start, and what a clock that never jumps has counted since."""
        return self._ahead_ms + self._hub.now_ms

    def tick(self) -> None:
        """Time has passed."""
        now_ms = self.now_ms
        due_ms = self.coordinator.next_deadline_ms
        if due_ms is not None and due_ms <= now_ms:
            self.coordinator.tick(now_ms)
            self.carry_out()
        if now_ms >= self._sweep_ms:
            is_more = self.coordinator.retention.sweep(now_ms)
            self._sweep_ms = now_ms if is_more else now_ms + SWEEP_MS
            self.carry_out()

    def forget_topic(self, name: str) -> None:
        """A topic is deleted: nobody has offsets of it any more."""
        self._hub.hub.scheduler.add_job(self._forget_topic(name))

    def _forget_topic(self, name: str) -> Iterator[int]:
        for _ in self.coordinator.drop_topic(name):
            self.carry_out()
            yield SLICE_UNITS

    def carry_out(self) -> None:
        """Do what the coordinator wants, in order."""
        hub = self._hub
        for effect in self.coordinator.take_effects():
            if isinstance(effect, Reply):
                slot: Slot = effect.ticket  # type: ignore[assignment]  # tickets are slots here
                slot.connection.on_close.pop(slot, None)
                response = _answer(slot, effect)
                if effect.after_save:
                    hub.answer_when_durable(slot, response)
                else:
                    slot.answer(response)
            elif isinstance(effect, StateChanged):
                log.info("group %r: %s, generation %d: %s", effect.group_id, effect.state.value, effect.generation,
                         effect.reason)  # fmt: skip
            else:
                self.store.save(effect, hub.wall_ms)

    def park(self, group_id: str, slot: Slot) -> None:
        """The slot waits for its group, unless it was answered at once."""
        if slot.answered or slot.connection.finished:
            return

        def forget() -> None:
            self.coordinator.forget(group_id, slot, self.now_ms)
            self.carry_out()

        slot.connection.on_close[slot] = forget

    def may_use(self, connection: KafkaConnection, group_id: str) -> bool:
        """Whether the user may be a member of the group, and see and commit its offsets."""
        return self._hub.can(connection, "read", group_id)


def _answer(slot: Slot, reply: Reply) -> JoinGroupResponse | SyncGroupResponse:
    result, version = reply.result, slot.header.api_version
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
    if not groups.may_use(connection, request.group_id):
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
    groups.park(request.group_id, slot)
    groups.coordinator.join(request.group_id, slot, join, groups.now_ms)
    groups.carry_out()
    return None


@handles(14)
def on_sync_group(connection: KafkaConnection, slot: Slot, request: SyncGroupRequest) -> SyncGroupResponse | None:
    """SyncGroup: answered when the leader has assigned, and that is durable."""
    groups = connection.hub.groups
    if not groups.may_use(connection, request.group_id):
        return SyncGroupResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    sync = SyncRequest(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments={one.member_id: one.assignment for one in request.assignments},
    )
    groups.park(request.group_id, slot)
    groups.coordinator.sync(request.group_id, slot, sync, groups.now_ms)
    groups.carry_out()
    return None


@handles(12)
def on_heartbeat(connection: KafkaConnection, slot: Slot, request: HeartbeatRequest) -> HeartbeatResponse:
    """Heartbeat: whether the member is still one, and whether it has to join again."""
    groups = connection.hub.groups
    if not groups.may_use(connection, request.group_id):
        return HeartbeatResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    return HeartbeatResponse(
        error_code=groups.coordinator.heartbeat(
            request.group_id, request.member_id, request.generation_id, groups.now_ms, request.group_instance_id
        )
    )


@handles(13)
def on_leave_group(connection: KafkaConnection, slot: Slot, request: LeaveGroupRequest) -> LeaveGroupResponse:
    """LeaveGroup: the member, or several from version 3 on, each with an answer of its own."""
    groups = connection.hub.groups
    if not groups.may_use(connection, request.group_id):
        return LeaveGroupResponse(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
    is_batch = slot.header.api_version >= BATCH_VERSION
    members = request.members if is_batch else [MemberIdentity(member_id=request.member_id)]
    leavers = [Leaver(one.member_id, one.group_instance_id, one.reason or "") for one in members]
    error, errors = groups.coordinator.leave(request.group_id, leavers, groups.now_ms)
    groups.carry_out()
    if not is_batch:
        return LeaveGroupResponse(error_code=error if error is not ErrorCode.NONE else errors[0])
    return LeaveGroupResponse(
        error_code=error,
        members=[
            MemberResponse(member_id=one.member_id, group_instance_id=one.group_instance_id, error_code=code)
            for one, code in zip(members, errors, strict=False)
        ],
    )


@handles(8)
def on_offset_commit(
    connection: KafkaConnection, slot: Slot, request: OffsetCommitRequest
) -> OffsetCommitResponse | None:
    """OffsetCommit: answered when the offsets are durable."""
    groups = connection.hub.groups
    if not groups.may_use(connection, request.group_id):
        return _commit_response(request, ErrorCode.GROUP_AUTHORIZATION_FAILED)
    retention_ms = request.retention_time_ms if slot.header.api_version <= RETENTION_VERSION_MAX else -1
    commits: list[OffsetCommit] = []
    codes: list[ErrorCode | None] = []
    for topic in request.topics:
        for one in topic.partitions:
            refused = _refused(connection, topic.name, one)
            codes.append(refused)
            if refused is None:
                commits.append(
                    OffsetCommit(
                        topic.name,
                        one.partition_index,
                        one.committed_offset,
                        one.committed_leader_epoch,
                        one.committed_metadata or "",
                        retention_ms,
                    )
                )
    who = Committer(request.member_id, request.generation_id_or_member_epoch, request.group_instance_id)
    error, errors = groups.coordinator.commit(request.group_id, who, commits, groups.now_ms)
    groups.carry_out()
    if error is not ErrorCode.NONE:
        return _commit_response(request, error)
    rest = iter(errors)
    response = _commit_response(request, [next(rest) if code is None else code for code in codes])
    connection.hub.answer_when_durable(slot, response)
    return None


def _refused(connection: KafkaConnection, name: str, one: OffsetCommitRequestPartition) -> ErrorCode | None:
    """Why the offset of a partition is not kept; None when it may be."""
    hub = connection.hub
    if not hub.can(connection, "read", name):
        return ErrorCode.TOPIC_AUTHORIZATION_FAILED
    topic = hub.topics.get(name)
    if topic is None or not 0 <= one.partition_index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return None


def _commit_response(request: OffsetCommitRequest, errors: ErrorCode | Sequence[ErrorCode]) -> OffsetCommitResponse:
    """The same error for all, or one for each partition in order."""
    codes = repeat(errors) if isinstance(errors, ErrorCode) else iter(errors)
    return OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=next(codes))
                    for one in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )

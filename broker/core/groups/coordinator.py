"""All consumer groups of this broker: what clients and operators ask of them, under limits.

Synchronous and pure: the time is handed in (see `values`); answers of joins and syncs, and everything that has to be
kept, come out of `take_effects`, in the order in which they have to be carried out. The answer to a commit or a
deletion goes out when the effects that it caused are durable. Knows nothing of sockets, of the wire, of topics'
existence, and of permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from broker.core.groups.members import protocol_bytes
from broker.core.groups.retention import Retention
from broker.core.groups.settings import GroupSettings
from broker.core.groups.table import Entry, GroupTable
from broker.core.groups.values import (
    CONSUMER,
    Committed,
    Committer,
    DropGroup,
    DropOffsets,
    Effect,
    Fetched,
    GroupDescription,
    GroupListing,
    GroupSnapshot,
    JoinRequest,
    JoinResult,
    Leaver,
    OffsetCommit,
    Reply,
    SaveOffsets,
    State,
    Surroundings,
    SyncRequest,
    SyncResult,
    Ticket,
    TopicPartition,
)
from protocol.kafka.errors import ErrorCode

_SLICE = 1_000
"""Groups that are looked at in one step where all have to be."""


def partition_for(group_id: str, partition_count: int) -> int:
    """The partition of the offsets topic that keeps this group: Java's hash of a string, which clients rely on."""
    value = 0
    raw = group_id.encode("utf-16-be", "surrogatepass")
    for position in range(0, len(raw), 2):
        value = (31 * value + (raw[position] << 8 | raw[position + 1])) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >> 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % partition_count


class Coordinator:
    """The groups, by their requests."""

    __slots__ = ("_around", "_restored", "_table", "loading", "retention", "settings")

    def __init__(
        self,
        settings: GroupSettings,
        new_member_id: Callable[[str], str],
        subscription_of: Callable[[bytes], frozenset[str] | None],
    ) -> None:
        self.settings = settings
        self.loading = True  # Until `finish_loading`: what was kept is not known yet, so nothing is answered.
        self._around = Surroundings(settings, new_member_id, subscription_of)
        self._table = GroupTable(self._around)
        self._restored: dict[str, GroupSnapshot] = {}
        self.retention = Retention(self._table)

    def __len__(self) -> int:
        return len(self._table.by_id)

    @property
    def held_bytes(self) -> int:
        """About what all groups take in memory."""
        return self._table.held_bytes

    def take_effects(self) -> list[Effect]:
        """What the caller has to do, in this order."""
        effects = self._around.effects[:]
        self._around.effects.clear()
        return effects

    # Membership.

    def join(self, group_id: str, ticket: Ticket, request: JoinRequest, now_ms: int) -> None:
        """The answer is a `Reply` with this ticket, now or later."""
        error = self._check_join(group_id, request)
        entry = None
        if error is ErrorCode.NONE:
            entry = self._table.by_id.get(group_id)
            if entry is None:
                entry, error = self._first_join(group_id, request, now_ms)
        if entry is None:
            self._around.effects.append(Reply(ticket, JoinResult(error, request.member_id)))
            return
        entry.group.join(ticket, self._within_limits(request), now_ms)
        self._table.settle(group_id, entry)

    def _check_join(self, group_id: str, request: JoinRequest) -> ErrorCode:
        settings = self.settings
        error = self._check_group(group_id)
        if error is not ErrorCode.NONE:
            return error
        if not settings.session_timeout_ms_min <= request.session_timeout_ms <= settings.session_timeout_ms_max:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        held_bytes = protocol_bytes(request.protocols)
        if len(request.protocols) > settings.protocols_max or held_bytes > settings.member_metadata_bytes_max:
            return ErrorCode.INVALID_REQUEST
        if self._table.is_full(held_bytes, is_in=bool(request.member_id)):
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        return ErrorCode.NONE

    def _first_join(self, group_id: str, request: JoinRequest, now_ms: int) -> tuple[Entry | None, ErrorCode]:
        if request.member_id:
            return None, ErrorCode.UNKNOWN_MEMBER_ID
        return self._table.make(group_id, now_ms), ErrorCode.GROUP_MAX_SIZE_REACHED

    def _within_limits(self, request: JoinRequest) -> JoinRequest:
        timeout_ms = request.rebalance_timeout_ms
        if timeout_ms <= 0:
            timeout_ms = request.session_timeout_ms
        timeout_ms = min(timeout_ms, self.settings.rebalance_timeout_ms_max)
        protocols = tuple(dict(request.protocols).items())  # A name that comes twice would be counted twice.
        if timeout_ms == request.rebalance_timeout_ms and len(protocols) == len(request.protocols):
            return request
        return replace(request, rebalance_timeout_ms=timeout_ms, protocols=protocols)

    def sync(self, group_id: str, ticket: Ticket, request: SyncRequest, now_ms: int) -> None:
        """The answer is a `Reply` with this ticket, now or later."""
        entry, error = self._find_member_group(group_id)
        sizes = [len(assignment) for assignment in request.assignments.values()]
        if entry is not None and sizes:
            is_too_much = self._table.is_full(sum(sizes), is_in=True)
            if is_too_much or max(sizes) > self.settings.assignment_bytes_max:
                entry, error = None, ErrorCode.INVALID_REQUEST
        if entry is None:
            self._around.effects.append(Reply(ticket, SyncResult(error)))
            return
        entry.group.sync(ticket, request, now_ms)
        self._table.settle(group_id, entry)

    def heartbeat(
        self, group_id: str, member_id: str, generation: int, now_ms: int, instance_id: str | None = None
    ) -> ErrorCode:
        """The answer at once. Nothing falls due earlier by it, so nothing else is touched."""
        entry = self._table.by_id.get(group_id)
        if entry is None or self.loading:
            return self._find_member_group(group_id)[1]
        return entry.group.heartbeat(member_id, instance_id, generation, now_ms)

    def leave(self, group_id: str, leavers: Sequence[Leaver], now_ms: int) -> tuple[ErrorCode, list[ErrorCode]]:
        """The answers at once: for the request, and for each that leaves."""
        entry, error = self._find_member_group(group_id)
        if entry is None:
            if error is ErrorCode.UNKNOWN_MEMBER_ID:
                return ErrorCode.NONE, [error] * len(leavers)
            return error, []
        errors = entry.group.leave(leavers, now_ms)
        self._table.settle(group_id, entry)
        return ErrorCode.NONE, errors

    def forget(self, group_id: str, ticket: Ticket, now_ms: int) -> None:
        """The connection that this join or sync came from is gone; its answer would reach nobody."""
        entry = self._table.by_id.get(group_id)
        if entry is not None:
            entry.group.forget(ticket, now_ms)
            self._table.settle(group_id, entry)

    # Offsets.

    def commit(
        self, group_id: str, who: Committer, commits: Sequence[OffsetCommit], now_ms: int
    ) -> tuple[ErrorCode, list[ErrorCode]]:
        """For the request, and for each; to be answered when the effects are durable."""
        entry, error = self._check_commit(group_id, who, now_ms)
        if entry is None:
            return error, []
        errors = []
        kept = []
        for commit in commits:
            error = self._check_offset(commit)
            errors.append(error)
            if error is ErrorCode.NONE:
                expires_ms = now_ms + commit.retention_ms if commit.retention_ms >= 0 else None
                committed = Committed(commit.offset, commit.leader_epoch, commit.metadata, now_ms, expires_ms)
                entry.offsets.commit(commit.topic, commit.partition, committed)
                kept.append(((commit.topic, commit.partition), committed))
        if kept:
            self._around.effects.append(SaveOffsets(group_id, tuple(kept)))
        self._table.settle(group_id, entry)
        return ErrorCode.NONE, errors

    def _check_commit(self, group_id: str, who: Committer, now_ms: int) -> tuple[Entry | None, ErrorCode]:
        if self.loading:
            return None, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        entry = self._table.by_id.get(group_id)
        if entry is None:
            if who.generation >= 0:
                return None, ErrorCode.ILLEGAL_GENERATION
            return self._table.make(group_id, now_ms), ErrorCode.GROUP_MAX_SIZE_REACHED
        error = entry.group.check_commit(who, now_ms)
        return (entry, error) if error is ErrorCode.NONE else (None, error)

    def _check_offset(self, commit: OffsetCommit) -> ErrorCode:
        if len(commit.metadata) > self.settings.offset_metadata_chars_max:
            return ErrorCode.OFFSET_METADATA_TOO_LARGE
        if self._table.is_full(len(commit.metadata), is_in=True):
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        return ErrorCode.NONE

    def fetch(
        self, group_id: str, wanted: Mapping[str, Sequence[int]] | None, *, require_stable: bool = False
    ) -> tuple[ErrorCode, dict[str, dict[int, Fetched]]]:
        """What is committed for these, or for all. Neither an unknown group nor an unknown partition is an error."""
        if self.loading:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, {}
        entry = self._table.by_id.get(group_id)
        if entry is None:
            unknown = {topic: dict.fromkeys(partitions, Fetched()) for topic, partitions in (wanted or {}).items()}
            return ErrorCode.NONE, unknown
        return ErrorCode.NONE, entry.offsets.fetch(wanted, require_stable=require_stable)

    def delete_offsets(self, group_id: str, partitions: Sequence[TopicPartition]) -> tuple[ErrorCode, list[ErrorCode]]:
        """For the request, and for each: what members subscribe to stays. To be answered when that is durable."""
        entry, error = self._find(group_id)
        if entry is None:
            return error, []
        spared: frozenset[str] | None = frozenset()
        if entry.group.state is not State.EMPTY:
            if entry.group.protocol_type != CONSUMER:
                return ErrorCode.NON_EMPTY_GROUP, []
            spared = entry.group.subscribed_topics()
        errors = []
        gone = []
        for topic, partition in partitions:
            if spared is None or topic in spared:
                errors.append(ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC)
                continue
            errors.append(ErrorCode.NONE)
            if entry.offsets.delete(topic, partition):
                gone.append((topic, partition))
        if gone:
            self._around.effects.append(DropOffsets(group_id, tuple(gone), "deleted"))
        self._table.settle(group_id, entry)
        return ErrorCode.NONE, errors

    def drop_topic(self, topic: str) -> Iterator[None]:
        """A topic is deleted, and what groups have committed for it with it: in slices, an iteration each."""
        by_id = self._table.by_id
        ids = iter(list(by_id))
        while some := list(islice(ids, _SLICE)):
            for group_id in some:
                entry = by_id.get(group_id)
                gone = tuple((topic, partition) for partition in entry.offsets.partitions(topic)) if entry else ()
                if entry is not None and gone:
                    for _, partition in gone:
                        entry.offsets.delete(topic, partition)
                    self._around.effects.append(DropOffsets(group_id, gone, "the topic is deleted"))
                    self._table.settle(group_id, entry)
            yield

    # Operators.

    def describe(self, group_id: str) -> tuple[ErrorCode, GroupDescription]:
        """A group that is not there is Dead, which old clients take for an answer and new ones want as an error."""
        entry, error = self._find(group_id)
        if entry is None:
            return error, GroupDescription(group_id, State.DEAD)
        return ErrorCode.NONE, entry.group.describe()

    def listing(self, states: Collection[str] = ()) -> tuple[ErrorCode, list[GroupListing]]:
        """All groups, or those in one of these states; their names are compared without case."""
        if self.loading:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, []
        wanted = {state.casefold() for state in states}
        return ErrorCode.NONE, [
            GroupListing(group_id, entry.group.protocol_type, entry.group.state)
            for group_id, entry in self._table.by_id.items()
            if not wanted or entry.group.state.value.casefold() in wanted
        ]

    def ids(self) -> list[str]:
        """Of all groups; for whoever looks at them in steps."""
        return list(self._table.by_id)

    def offsets_of(self, group_id: str) -> list[tuple[TopicPartition, Committed]]:
        """All that a group has committed; nothing of one that is not there."""
        entry = self._table.by_id.get(group_id)
        return list(entry.offsets) if entry is not None else []

    def topics_of(self, group_id: str) -> list[str]:
        """The topics that a group has committed offsets for."""
        entry = self._table.by_id.get(group_id)
        return entry.offsets.topics() if entry is not None else []

    def partitions_of(self, group_id: str, topic: str) -> tuple[int, ...]:
        """The partitions of a topic that a group has committed offsets for."""
        entry = self._table.by_id.get(group_id)
        return entry.offsets.partitions(topic) if entry is not None else ()

    def delete(self, group_id: str, now_ms: int) -> ErrorCode:
        """Only a group without members goes, with its offsets. To be answered when that is durable."""
        entry, error = self._find(group_id)
        if entry is None:
            return error
        if entry.group.state is not State.EMPTY:
            return ErrorCode.NON_EMPTY_GROUP
        partitions = tuple(place for place, _ in entry.offsets)
        if partitions:
            self._around.effects.append(DropOffsets(group_id, partitions, "the group is deleted"))
        if entry.group.is_kept:
            self._around.effects.append(DropGroup(group_id))
        entry.group.die(now_ms)
        self._table.drop(group_id, entry)
        return ErrorCode.NONE

    # Time.

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do, at the earliest."""
        return self._table.wakeups.next_ms

    def tick(self, now_ms: int, at_once: int = 100) -> bool:
        """Give up what is overdue in some groups; returns whether more are."""
        table = self._table
        for _ in range(at_once):
            group_id = table.wakeups.take(now_ms)
            if group_id is None:
                return False
            entry = table.by_id[group_id]
            entry.group.tick(now_ms)
            table.settle(group_id, entry)
        return (self.next_deadline_ms or now_ms + 1) <= now_ms

    # After a restart: what was kept, in the order in which it was.

    def load_group(self, snapshot: GroupSnapshot) -> None:
        """As `SaveGroup` had it."""
        self._restored[snapshot.group_id] = snapshot

    def load_drop_group(self, group_id: str) -> None:
        """As `DropGroup` had it."""
        self._restored.pop(group_id, None)

    def load_offset(self, group_id: str, topic: str, partition: int, committed: Committed) -> None:
        """As `SaveOffsets` had it."""
        self._entry_to_load(group_id).offsets.commit(topic, partition, committed)

    def load_drop_offset(self, group_id: str, topic: str, partition: int) -> None:
        """As `DropOffsets` had it."""
        entry = self._entry_to_load(group_id)
        entry.offsets.delete(topic, partition)
        self._table.settle(group_id, entry)

    def finish_loading(self, now_ms: int) -> None:
        """That was all: requests are answered from now on, and every member has its whole session before it."""
        for group_id, snapshot in self._restored.items():
            self._entry_to_load(group_id).group.restore(snapshot, now_ms)
        self._restored.clear()
        for group_id, entry in list(self._table.by_id.items()):
            self._table.settle(group_id, entry)
        self.loading = False

    def _entry_to_load(self, group_id: str) -> Entry:
        entry = self._table.by_id.get(group_id)
        return entry if entry is not None else self._table.add(group_id, 0)

    # Finding.

    def _check_group(self, group_id: str) -> ErrorCode:
        if not group_id:
            return ErrorCode.INVALID_GROUP_ID
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if self.loading else ErrorCode.NONE

    def _find_member_group(self, group_id: str) -> tuple[Entry | None, ErrorCode]:
        """For requests of members: nobody is a member of what is not there."""
        error = self._check_group(group_id)
        entry = self._table.by_id.get(group_id) if error is ErrorCode.NONE else None
        return entry, error if error is not ErrorCode.NONE or entry is not None else ErrorCode.UNKNOWN_MEMBER_ID

    def _find(self, group_id: str) -> tuple[Entry | None, ErrorCode]:
        """For requests of operators; the empty id is one like any other here, since offsets can be kept under it."""
        if self.loading:
            return None, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        entry = self._table.by_id.get(group_id)
        return entry, ErrorCode.NONE if entry is not None else ErrorCode.GROUP_ID_NOT_FOUND

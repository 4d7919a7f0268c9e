"""One consumer group of the classic protocol, by its requests: who may say what, in which state.

Synchronous and pure: requests come in with the time; answers of joins and syncs are effects, of this call or of a later
one, under the ticket that the caller gave. What a request sets off is in `rebalance`. Knows nothing of offsets, sockets
and other groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.groups.members import Member
from broker.core.groups.rebalance import NEVER_MS, Rebalance
from broker.core.groups.values import (
    CONSUMER,
    Committer,
    GroupDescription,
    GroupSnapshot,
    JoinRequest,
    JoinResult,
    Leaver,
    MemberDescription,
    Reply,
    State,
    Surroundings,
    SyncRequest,
    SyncResult,
    Ticket,
    in_own_words,
)
from protocol.kafka.errors import ErrorCode


class Group:
    """One group."""

    __slots__ = ("_around", "_rebalance")

    def __init__(self, group_id: str, around: Surroundings, now_ms: int) -> None:
        self._around = around
        self._rebalance = Rebalance(group_id, around, now_ms)

    # Requests.

    def join(self, ticket: Ticket, request: JoinRequest, now_ms: int) -> None:
        """A member comes, or comes again."""
        if self.state is State.DEAD:
            error = ErrorCode.COORDINATOR_NOT_AVAILABLE
        elif not request.member_id:
            error = self._join_without_id(ticket, request, now_ms)
        elif request.member_id in self._rebalance.members.pending:
            error = self._join_new(ticket, request, request.member_id, now_ms)
        else:
            error = self._rejoin(ticket, request, now_ms)
        if error is not ErrorCode.NONE:
            self._around.effects.append(Reply(ticket, JoinResult(error, request.member_id)))

    def sync(self, ticket: Ticket, request: SyncRequest, now_ms: int) -> None:
        """A member asks for its assignment, the leader brings them."""
        rebalance = self._rebalance
        member, error = self._check_sync(request)
        if member is None:
            self._around.effects.append(Reply(ticket, SyncResult(error)))
            return
        rebalance.wait_for_leader(member, ticket, now_ms)
        if self.state is State.COMPLETING_REBALANCE and member.member_id == rebalance.leader:
            rebalance.become_stable(dict(request.assignments), now_ms)

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int, now_ms: int) -> ErrorCode:
        """A member is alive. While everybody is to rejoin it is told so."""
        rebalance = self._rebalance
        member, error = rebalance.members.check(member_id, instance_id)
        if member is None:
            return error if rebalance.state is not State.DEAD else ErrorCode.COORDINATOR_NOT_AVAILABLE
        if generation != rebalance.generation:
            return ErrorCode.ILLEGAL_GENERATION
        member.seen_ms = now_ms
        return ErrorCode.REBALANCE_IN_PROGRESS if rebalance.state is State.PREPARING_REBALANCE else ErrorCode.NONE

    def leave(self, leavers: Sequence[Leaver], now_ms: int) -> list[ErrorCode]:
        """Members go, several in one rebalance; an answer for each."""
        if self.state is State.DEAD:
            return [ErrorCode.COORDINATOR_NOT_AVAILABLE] * len(leavers)
        gone: dict[Member, str] = {}
        errors = []
        for leaver in leavers:
            if self._rebalance.members.pending.pop(leaver.member_id, None) is not None:
                errors.append(ErrorCode.NONE)
                continue
            member, error = self._leaving(leaver)
            errors.append(error)
            if member is not None:
                gone[member] = f"{member.name} left{in_own_words(leaver.reason)}"
        self._rebalance.remove(gone.items(), now_ms)
        self._rebalance.maybe_complete_join(now_ms)
        return errors

    def forget(self, ticket: Ticket, now_ms: int) -> None:
        """Nobody waits for this answer any more: the connection is gone.

        Its member may come back until its session ends; one that was never told its id cannot.
        """
        members = self._rebalance.members
        member = members.parked.get(ticket)
        if member is None:
            return
        members.unpark(member)
        member.seen_ms = now_ms
        self._rebalance.wake(now_ms + member.session_timeout_ms)
        if not member.is_told and member.instance_id is None:
            self._rebalance.remove([(member, f"{member.name} disconnected before it was in")], now_ms)

    def check_commit(self, who: Committer, now_ms: int, *, in_transaction: bool = False) -> ErrorCode:
        """Whether offsets may be committed in this name; a member is alive if it may."""
        state = self.state
        if state is State.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if who.generation < 0 and (state is State.EMPTY or (not who.member_id and who.instance_id is None)):
            return ErrorCode.NONE if state is State.EMPTY or in_transaction else ErrorCode.UNKNOWN_MEMBER_ID
        member, error = self._rebalance.members.check(who.member_id, who.instance_id)
        if member is None:
            return error
        if who.generation != self._rebalance.generation:
            return ErrorCode.ILLEGAL_GENERATION
        member.seen_ms = now_ms
        if state is State.COMPLETING_REBALANCE and not in_transaction:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def tick(self, now_ms: int) -> None:
        """Give up what is overdue."""
        self._rebalance.tick(now_ms)

    def die(self, now_ms: int) -> None:
        """The group is deleted; only one without members can be."""
        self._rebalance.die(now_ms)

    def restore(self, snapshot: GroupSnapshot, now_ms: int) -> None:
        """What was kept before a restart; every member has its whole session before it."""
        self._rebalance.restore(snapshot, now_ms)

    # What can be seen.

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._rebalance.state

    @property
    def since_ms(self) -> int:
        """When it came into this state."""
        return self._rebalance.since_ms

    @property
    def due_ms(self) -> int:
        """When `tick` is to be called next, at the latest; `NEVER_MS` for never."""
        return self._rebalance.due_ms

    @property
    def protocol_type(self) -> str:
        """What its members do, or did; nothing for a group that only ever kept offsets."""
        return self._rebalance.members.protocol_type

    @property
    def held_bytes(self) -> int:
        """About what its members take in memory."""
        return self._rebalance.members.held_bytes

    @property
    def is_unused(self) -> bool:
        """It has no member and no id is on its way to one."""
        return self.state is State.EMPTY and not self._rebalance.members.pending

    @property
    def is_kept(self) -> bool:
        """It was ever more than an id or a name; something of it may have been saved."""
        return self._rebalance.generation > 0

    def subscribed_topics(self) -> frozenset[str] | None:
        """What its consumers subscribe to; None if that cannot be told."""
        if self.protocol_type != CONSUMER:
            return None
        topics: set[str] = set()
        for member in self._rebalance.members:
            for _, metadata in member.protocols:
                one = self._around.subscription_of(metadata)
                if one is None:
                    return None
                topics |= one
        return frozenset(topics)

    def describe(self) -> GroupDescription:
        """As operators see it: also why it rebalances, and whom it waits for."""
        rebalance = self._rebalance
        stable = self.state is State.STABLE
        return GroupDescription(
            group_id=rebalance.group_id,
            state=self.state,
            protocol_type=self.protocol_type,
            protocol=(rebalance.protocol or "") if stable else "",
            generation=rebalance.generation,
            leader=rebalance.leader,
            since_ms=rebalance.since_ms,
            reason=rebalance.reason,
            rebalance_count=rebalance.count,
            rebalance_began_ms=rebalance.began_ms,
            pending_count=len(rebalance.members.pending),
            deadline_ms=rebalance.barrier_ms if rebalance.barrier_ms != NEVER_MS else None,
            members=tuple(
                MemberDescription(
                    member.member_id, member.instance_id, member.client_id, member.client_host,
                    member.metadata(rebalance.protocol) if stable else b"", member.assignment if stable else b"",
                    rebalance.is_awaited(member), member.seen_ms,
                )
                for member in rebalance.members
            ),
        )  # fmt: skip

    # Joining.

    def _join_without_id(self, ticket: Ticket, request: JoinRequest, now_ms: int) -> ErrorCode:
        """It was never here, or it is a static member that was restarted."""
        prefix = request.client_id
        if request.instance_id is not None:
            old = self._rebalance.members.instances.get(request.instance_id)
            if old is not None:
                return self._replace_static(ticket, request, old, now_ms)
            prefix = request.instance_id
        elif request.id_required:
            error = self._may_come_in(request)
            if error is ErrorCode.NONE:
                self._give_out_id(ticket, request, now_ms)
            return error
        return self._join_new(ticket, request, self._around.new_member_id(prefix), now_ms)

    def _may_come_in(self, request: JoinRequest) -> ErrorCode:
        members = self._rebalance.members
        if not members.supports(request, None):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if len(members) >= self._around.settings.members_max:
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        return ErrorCode.NONE

    def _give_out_id(self, ticket: Ticket, request: JoinRequest, now_ms: int) -> None:
        pending = self._rebalance.members.pending
        if len(pending) >= self._around.settings.members_max:
            del pending[next(iter(pending))]  # The oldest: whoever has it asks for another one.
        member_id = self._around.new_member_id(request.client_id)
        pending[member_id] = now_ms + request.session_timeout_ms
        self._rebalance.wake(pending[member_id])
        self._around.effects.append(Reply(ticket, JoinResult(ErrorCode.MEMBER_ID_REQUIRED, member_id)))

    def _join_new(self, ticket: Ticket, request: JoinRequest, member_id: str, now_ms: int) -> ErrorCode:
        rebalance = self._rebalance
        rebalance.members.pending.pop(member_id, None)
        error = self._may_come_in(request)
        if error is not ErrorCode.NONE:
            rebalance.maybe_complete_join(now_ms)  # It may have been the one that was missing.
            return error
        member = Member(member_id, request, now_ms)
        rebalance.add(member, request.protocol_type)
        rebalance.wait_for_all(member, ticket, f"{member.name} joined{in_own_words(request.reason)}", now_ms)
        return ErrorCode.NONE

    def _rejoin(self, ticket: Ticket, request: JoinRequest, now_ms: int) -> ErrorCode:
        rebalance = self._rebalance
        member, error = rebalance.members.check(request.member_id, request.instance_id)
        if member is None:
            return error
        if not rebalance.members.supports(request, member):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        is_changed = member.protocols != request.protocols
        leads = self.state is State.STABLE and member.member_id == rebalance.leader
        if self.state is not State.PREPARING_REBALANCE and not is_changed and not leads:
            # The answer to its first try may have got lost; nothing is new, so nobody else has to hear of it.
            member.seen_ms = now_ms
            self._around.effects.append(Reply(ticket, rebalance.join_result(member)))
            return ErrorCode.NONE
        rebalance.members.update(member, request)
        reason = ""  # It comes since it was told to.
        if self.state is not State.PREPARING_REBALANCE:
            what = "changed its metadata" if is_changed else "asked for a rebalance as leader"
            reason = f"{member.name} {what}{in_own_words(request.reason)}"
        rebalance.wait_for_all(member, ticket, reason, now_ms)
        return ErrorCode.NONE

    def _replace_static(self, ticket: Ticket, request: JoinRequest, member: Member, now_ms: int) -> ErrorCode:
        """A static member was restarted: it takes its old place under a new id, and the old id is worth nothing."""
        rebalance = self._rebalance
        if not rebalance.members.supports(request, member):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        old_leader, old_metadata = rebalance.leader, member.metadata(rebalance.protocol)
        rebalance.replace(member, self._around.new_member_id(request.instance_id or ""), now_ms)
        rebalance.members.update(member, request)
        if self.state is not State.STABLE or self._changes_something(member, old_metadata):
            reason = f"{member.name} was restarted{in_own_words(request.reason)}"
            rebalance.wait_for_all(member, ticket, reason, now_ms)
            return ErrorCode.NONE
        member.is_told = True
        rebalance.save()
        leads = member.member_id == rebalance.leader
        if not request.can_skip_assignment:
            # A stable group takes no new assignment. Told its old id as the leader's, it does not take itself for it.
            result = rebalance.join_result(member, leader=old_leader)
        else:
            result = rebalance.join_result(member, skip_assignment=leads)
        self._around.effects.append(Reply(ticket, result, after_save=True))
        return ErrorCode.NONE

    def _changes_something(self, member: Member, old_metadata: bytes) -> bool:
        """Whether a static member that came back makes a rebalance necessary.

        Its metadata may well differ although its subscription does not, since they can hold what it owned; so they are
        compared by what can be read of them, and taken for the same if nothing can.
        """
        rebalance = self._rebalance
        if rebalance.members.vote() != rebalance.protocol:
            return True
        old = self._around.subscription_of(old_metadata)
        new = self._around.subscription_of(member.metadata(rebalance.protocol))
        return old is not None and new is not None and old != new

    # Checks.

    def _check_sync(self, request: SyncRequest) -> tuple[Member | None, ErrorCode]:
        """The member that may sync now, or why it may not."""
        rebalance = self._rebalance
        member, error = rebalance.members.check(request.member_id, request.instance_id)
        if self.state is State.DEAD:
            error = ErrorCode.COORDINATOR_NOT_AVAILABLE
        elif member is None:
            pass
        elif request.generation != rebalance.generation:
            error = ErrorCode.ILLEGAL_GENERATION
        elif self.state is State.PREPARING_REBALANCE:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        elif request.protocol_type not in (None, self.protocol_type) or (
            request.protocol not in (None, rebalance.protocol)
        ):
            error = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return (member, error) if error is ErrorCode.NONE else (None, error)

    def _leaving(self, leaver: Leaver) -> tuple[Member | None, ErrorCode]:
        members = self._rebalance.members
        if leaver.member_id or leaver.instance_id is None:
            return members.check(leaver.member_id, leaver.instance_id)
        member = members.instances.get(leaver.instance_id)
        return member, ErrorCode.NONE if member is not None else ErrorCode.UNKNOWN_MEMBER_ID

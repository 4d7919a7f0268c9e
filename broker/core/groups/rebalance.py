"""The life of a group between its requests: generations, the two barriers of a rebalance, and what falls due.

Pure: the time is handed in, answers go out as effects (`values`), in the order in which they have to be carried out.
Knows nothing of what requests may say (`group`), of offsets and of other groups. `README.md` has the table.

Invariants
* A ticket is parked only in PreparingRebalance (joins) and CompletingRebalance (syncs), one a member at most; so
  "everybody has rejoined" is "as many parked as members".
* The generation grows by one with every PreparingRebalance that ends, and never else.
* Entering Stable or Empty puts a `SaveGroup` before the answers that tell of it.
* `due_ms` is never after the earliest time at which `tick` has something to do. It may be before it: whoever is heard
  of is only given a newer `seen_ms`, and the next tick finds that it was early.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.groups.members import Member, Members
from broker.core.groups.values import (
    GroupSnapshot,
    JoinResult,
    Reply,
    SaveGroup,
    State,
    StateChanged,
    Surroundings,
    SyncResult,
    Ticket,
)
from protocol.kafka.errors import ErrorCode

NEVER_MS = 1 << 62
REASONS_MAX = 8
"""Of one rebalance that are kept word by word."""


class Rebalance:
    """Members, generation and state of one group."""

    __slots__ = ("_around", "_initial_end_ms", "_joined_meanwhile", "_reason_count", "_reasons", "_unsynced",
                 "barrier_ms", "began_ms", "count", "due_ms", "generation", "group_id", "leader", "members", "protocol",
                 "since_ms", "state")  # fmt: skip

    def __init__(self, group_id: str, around: Surroundings, now_ms: int) -> None:
        self.group_id = group_id
        self.state = State.EMPTY
        self.since_ms = now_ms
        self.generation = 0
        self.protocol: str | None = None
        self.leader = ""
        self.members = Members()
        self.due_ms = NEVER_MS
        self.barrier_ms = NEVER_MS  # When those that this state waits for are given up.
        self.count = 0  # Of rebalances that began.
        self.began_ms = 0  # The last one.
        self._around = around
        self._reasons: list[str] = []
        self._reason_count = 0
        self._initial_end_ms: int | None = None  # While the first rebalance of an empty group waits for more members.
        self._joined_meanwhile = False  # Somebody joined since that wait was last prolonged.
        self._unsynced: dict[Member, None] = {}  # Their join is answered, and they have not asked for an assignment.

    # What the requests set off.

    def add(self, member: Member, protocol_type: str) -> None:
        """A new member, before its join comes to the barrier."""
        self.members.add(member, protocol_type)
        self._joined_meanwhile = self.state is State.PREPARING_REBALANCE

    def wait_for_all(self, member: Member, ticket: Ticket, reason: str, now_ms: int) -> None:
        """A join that all others have to follow."""
        self._prepare(reason, now_ms)
        self._park(member, ticket, JoinResult(ErrorCode.REBALANCE_IN_PROGRESS), now_ms)
        if member.is_new:
            self.wake(now_ms + self._around.settings.new_member_join_timeout_ms)
        self.maybe_complete_join(now_ms)

    def wait_for_leader(self, member: Member, ticket: Ticket, now_ms: int) -> None:
        """A sync; in a stable group there is nothing to wait for."""
        if self.state is not State.STABLE:
            self._park(member, ticket, SyncResult(ErrorCode.REBALANCE_IN_PROGRESS), now_ms)
        else:
            member.seen_ms = now_ms
            self._around.effects.append(Reply(ticket, self._assignment(member), after_save=True))
        self._unsynced.pop(member, None)
        if self.state is State.STABLE and not self._unsynced:
            self.barrier_ms = NEVER_MS

    def become_stable(self, assignments: dict[str, bytes], now_ms: int) -> None:
        """The leader has brought the assignments; whoever waits for them gets them once they are kept."""
        self.members.assign(assignments)
        self._enter(State.STABLE, now_ms)
        if not self._unsynced:
            self.barrier_ms = NEVER_MS
        self.save()
        for member in list(self.members.parked.values()):
            member.seen_ms = now_ms
            self.wake(now_ms + member.session_timeout_ms)
            self._answer(member, self._assignment(member), after_save=True)

    def remove(self, gone: Iterable[tuple[Member, str]], now_ms: int) -> None:
        """These are members no more, each with the reason why; one rebalance for all of them."""
        reasons = []
        for member, reason in gone:
            ticket = self.members.remove(member)
            self._unsynced.pop(member, None)
            if ticket is not None:
                self._around.effects.append(Reply(ticket, self._refusal(ErrorCode.UNKNOWN_MEMBER_ID)))
            if member.member_id == self.leader:
                self.leader = next((other.member_id for other in self.members), "")
            reasons.append(reason)
        if reasons:
            self._prepare(reasons[0], now_ms)
            for reason in reasons[1:]:
                self._note(reason)
            self.maybe_complete_join(now_ms)

    def replace(self, member: Member, new_id: str, now_ms: int) -> None:
        """A static member goes on under a new id; what is parked under its old one is refused."""
        leads = member.member_id == self.leader
        ticket = self.members.replace(member, new_id)
        if ticket is not None:
            self._around.effects.append(Reply(ticket, self._refusal(ErrorCode.FENCED_INSTANCE_ID)))
        if leads:
            self.leader = new_id
        member.seen_ms = now_ms
        self.wake(now_ms + member.session_timeout_ms)

    def save(self) -> None:
        """Have the group kept as it is."""
        self._around.effects.append(SaveGroup(self.snapshot()))

    def die(self, now_ms: int) -> None:
        """The group is deleted; only one without members can be."""
        assert not self.members
        self.members.pending.clear()
        self._reasons[:], self._reason_count = ["the group is deleted"], 1
        self._enter(State.DEAD, now_ms)

    def restore(self, snapshot: GroupSnapshot, now_ms: int) -> None:
        """What was kept before a restart; every member has its whole session before it."""
        self.generation = snapshot.generation
        self.protocol = snapshot.protocol
        self.leader = snapshot.leader
        self.since_ms = snapshot.since_ms
        self.members.protocol_type = snapshot.protocol_type
        for kept in snapshot.members:
            self.members.restore(kept, snapshot.protocol_type, now_ms)
            self.wake(now_ms + kept.session_timeout_ms)
        self.state = State.STABLE if snapshot.members else State.EMPTY

    # What can be seen.

    @property
    def reason(self) -> str:
        """Why the last rebalance began, and what else came while it was under way."""
        more = self._reason_count - len(self._reasons)
        return "; ".join([*self._reasons, f"and {more} more"] if more else self._reasons)

    def is_awaited(self, member: Member) -> bool:
        """Whether the group waits for this member to join or to sync."""
        if self.state is State.PREPARING_REBALANCE:
            return member.ticket is None
        return member in self._unsynced

    def join_result(self, member: Member, *, skip_assignment: bool = False, leader: str = "") -> JoinResult:
        """The generation as this member is told of it: only its leader hears who else is in."""
        members = self.members
        told = tuple(one.joined(self.protocol) for one in members) if member.member_id == self.leader else ()
        return JoinResult(
            ErrorCode.NONE, member.member_id, self.generation, members.protocol_type, self.protocol,
            leader or self.leader, skip_assignment, told if not leader else (),
        )  # fmt: skip

    def snapshot(self) -> GroupSnapshot:
        """As it is kept."""
        return GroupSnapshot(
            self.group_id, self.generation, self.members.protocol_type, self.protocol, self.leader, self.since_ms,
            tuple(member.snapshot() for member in self.members),
        )  # fmt: skip

    # Time.

    def wake(self, due_ms: int) -> None:
        """`tick` has something to do then."""
        self.due_ms = min(self.due_ms, due_ms)

    def tick(self, now_ms: int) -> None:
        """Give up what is overdue: sessions, ids that nobody came with, those that a barrier waits for."""
        if now_ms < self.due_ms:
            return
        members = self.members
        overdue = [member_id for member_id, due_ms in members.pending.items() if due_ms <= now_ms]
        for member_id in overdue:
            del members.pending[member_id]
        self.remove([(member, _expiry(member)) for member in members if self._deadline_ms(member) <= now_ms], now_ms)
        self.maybe_complete_join(now_ms)
        if self.barrier_ms <= now_ms:
            self._give_up_waiting(now_ms)
        deadlines = [self._deadline_ms(member) for member in members]
        self.due_ms = min([*deadlines, *members.pending.values(), self.barrier_ms])

    def _deadline_ms(self, member: Member) -> int:
        if member.ticket is None:
            return member.seen_ms + member.session_timeout_ms
        # Whoever is parked cannot heartbeat. A first join has a bound of its own, since its client may not know its id.
        return member.seen_ms + self._around.settings.new_member_join_timeout_ms if member.is_new else NEVER_MS

    def _give_up_waiting(self, now_ms: int) -> None:
        if self.state is not State.PREPARING_REBALANCE:
            self.remove([(member, f"{member.name} did not sync in time") for member in self._unsynced], now_ms)
        elif self._initial_end_ms is not None and self._joined_meanwhile and now_ms < self._initial_end_ms:
            self._joined_meanwhile = False
            self._set_barrier(min(now_ms + self._around.settings.initial_rebalance_delay_ms, self._initial_end_ms))
        else:
            self._complete_join(now_ms)

    def _set_barrier(self, due_ms: int) -> None:
        self.barrier_ms = due_ms
        self.wake(due_ms)

    # The join barrier.

    def _prepare(self, reason: str, now_ms: int) -> None:
        """Everybody has to rejoin; if that is so already, this is one more reason for it."""
        if self.state is State.PREPARING_REBALANCE:
            self._note(reason)
            return
        for member in list(self.members.parked.values()):
            self._answer(member, SyncResult(ErrorCode.REBALANCE_IN_PROGRESS))
        self._unsynced.clear()
        self._reasons.clear()
        self._reason_count = 0
        self._note(reason)
        self.count += 1
        self.began_ms = now_ms
        is_initial = self.state is State.EMPTY
        self._enter(State.PREPARING_REBALANCE, now_ms)
        timeout_ms = self.members.rebalance_timeout_ms
        delay_ms = min(self._around.settings.initial_rebalance_delay_ms if is_initial else timeout_ms, timeout_ms)
        self._joined_meanwhile = False
        self._initial_end_ms = now_ms + timeout_ms if is_initial else None
        self._set_barrier(now_ms + delay_ms)

    def _note(self, reason: str) -> None:
        self._reason_count += bool(reason)
        if reason and len(self._reasons) < REASONS_MAX:
            self._reasons.append(reason)

    def maybe_complete_join(self, now_ms: int) -> None:
        """The barrier opens if nobody is missing; an empty group's first one not before its time."""
        if self.state is not State.PREPARING_REBALANCE:
            return
        members = self.members
        if not members:
            self._complete_join(now_ms)
        elif self._initial_end_ms is not None:
            if self.barrier_ms <= now_ms and not self._joined_meanwhile:
                self._complete_join(now_ms)
        elif len(members.parked) == len(members) and not members.pending:
            self._complete_join(now_ms)

    def _complete_join(self, now_ms: int) -> None:
        """The next generation: those who have rejoined, and static members, which may still come back."""
        members = self.members
        for member in [one for one in members if one.ticket is None and one.instance_id is None]:
            members.remove(member)
            self._note(f"{member.name} did not rejoin in time")
        if members and not members.parked:
            # Only static members, all away: nobody could lead. Their sessions end, or one of them comes.
            self._initial_end_ms = None
            self._set_barrier(now_ms + members.rebalance_timeout_ms)
            return
        self.generation += 1
        self._initial_end_ms = None
        if not members:
            self.protocol, self.leader, self.barrier_ms = None, "", NEVER_MS
            self._enter(State.EMPTY, now_ms)
            self.save()
            return
        leader = members.get(self.leader)
        if leader is None or leader.ticket is None:
            self.leader = next(iter(members.parked.values())).member_id
        self.protocol = members.vote()
        self._enter(State.COMPLETING_REBALANCE, now_ms)
        self._set_barrier(now_ms + members.rebalance_timeout_ms)
        for member in list(members.parked.values()):
            member.seen_ms = now_ms
            member.is_new = False
            member.is_told = True
            self.wake(now_ms + member.session_timeout_ms)
            self._unsynced[member] = None
            self._answer(member, self.join_result(member))

    # Answers.

    def _enter(self, state: State, now_ms: int) -> None:
        took_ms = now_ms - self.since_ms
        self.state = state
        self.since_ms = now_ms
        self._around.effects.append(StateChanged(self.group_id, state, self.generation, self.reason, took_ms))

    def _park(self, member: Member, ticket: Ticket, instead: JoinResult | SyncResult, now_ms: int) -> None:
        """Its answer has to wait; if another request of it does already, that one is told `instead`."""
        self._answer(member, instead)
        self.members.park(member, ticket)
        member.seen_ms = now_ms

    def _answer(self, member: Member, result: JoinResult | SyncResult, *, after_save: bool = False) -> None:
        ticket = self.members.unpark(member)
        if ticket is not None:
            self._around.effects.append(Reply(ticket, result, after_save))

    def _assignment(self, member: Member) -> SyncResult:
        return SyncResult(ErrorCode.NONE, self.members.protocol_type, self.protocol, member.assignment)

    def _refusal(self, error: ErrorCode) -> JoinResult | SyncResult:
        """Of what is parked in this state."""
        return JoinResult(error) if self.state is State.PREPARING_REBALANCE else SyncResult(error)


def _expiry(member: Member) -> str:
    if member.ticket is not None:
        return f"{member.name} waited too long for its first generation"
    return f"{member.name}'s session expired"

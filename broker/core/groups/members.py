"""Who is in a group: members, static members by instance id, and ids that were given out but have not joined yet.

Knows nothing of states, generations and time-outs' consequences. Invariants: `instances` has exactly the members with
an instance id; `_support` counts for each protocol how many members offer it; `parked` has exactly those with a ticket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from broker.core.groups.values import JoinedMember, JoinRequest, MemberSnapshot, Ticket
from protocol.kafka.errors import ErrorCode

_MEMBER_BYTES = 600
"""What the objects of one member take, about."""

Protocols = tuple[tuple[str, bytes], ...]


class Member:
    """One of a group."""

    __slots__ = ("assignment", "client_host", "client_id", "instance_id", "is_new", "is_told", "member_id", "protocols",
                 "rebalance_timeout_ms", "seen_ms", "session_timeout_ms", "ticket")  # fmt: skip

    def __init__(self, member_id: str, request: JoinRequest, now_ms: int) -> None:
        self.member_id = member_id
        self.instance_id = request.instance_id
        self.client_id = request.client_id
        self.client_host = request.client_host
        self.session_timeout_ms = request.session_timeout_ms
        self.rebalance_timeout_ms = request.rebalance_timeout_ms
        self.protocols: Protocols = request.protocols
        self.assignment = b""
        self.seen_ms = now_ms
        self.ticket: Ticket | None = None  # Of its join or sync, while that is parked.
        self.is_new = True  # Its first join has not been answered.
        self.is_told = bool(request.member_id)  # The client knows its id.

    @property
    def name(self) -> str:
        """For people."""
        return f"member {self.member_id}" if self.instance_id is None else f"static member {self.instance_id}"

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        held = len(self.member_id) + len(self.client_id) + len(self.client_host) + len(self.assignment)
        return _MEMBER_BYTES + held + protocol_bytes(self.protocols)

    def metadata(self, protocol: str | None) -> bytes:
        """What it said for this protocol."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def joined(self, protocol: str | None) -> JoinedMember:
        """As the leader is told."""
        return JoinedMember(self.member_id, self.instance_id, self.metadata(protocol))

    def snapshot(self) -> MemberSnapshot:
        """As it is kept."""
        return MemberSnapshot(
            self.member_id, self.instance_id, self.client_id, self.client_host, self.session_timeout_ms,
            self.rebalance_timeout_ms, self.protocols, self.assignment,
        )  # fmt: skip


def protocol_bytes(protocols: Protocols) -> int:
    """Names and metadata together."""
    return sum(len(name) + len(metadata) for name, metadata in protocols)


class Members:
    """All members of one group, in the order in which they joined."""

    __slots__ = ("_by_id", "_support", "held_bytes", "instances", "parked", "pending", "protocol_type")

    def __init__(self) -> None:
        self._by_id: dict[str, Member] = {}
        self.instances: dict[str, Member] = {}
        self.pending: dict[str, int] = {}  # Ids given out, with the time at which they are worth nothing any more.
        self.parked: dict[Ticket, Member] = {}
        self.protocol_type = ""  # Stays when the last member leaves: what an Empty group was.
        self.held_bytes = 0
        self._support: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_id.values())

    def __contains__(self, member: Member) -> bool:
        return self._by_id.get(member.member_id) is member

    def get(self, member_id: str) -> Member | None:
        """The member, if there is one with this id."""
        return self._by_id.get(member_id)

    def check(self, member_id: str, instance_id: str | None) -> tuple[Member | None, ErrorCode]:
        """The member that a request names, or why it is none: its instance id may belong to a newer one."""
        if instance_id is not None:
            holder = self.instances.get(instance_id)
            if holder is None:
                return None, ErrorCode.UNKNOWN_MEMBER_ID
            if holder.member_id != member_id:
                return None, ErrorCode.FENCED_INSTANCE_ID
        member = self._by_id.get(member_id)
        return member, ErrorCode.NONE if member is not None else ErrorCode.UNKNOWN_MEMBER_ID

    def add(self, member: Member, protocol_type: str) -> None:
        """One more."""
        self.protocol_type = protocol_type
        self._by_id[member.member_id] = member
        if member.instance_id is not None:
            self.instances[member.instance_id] = member
        self._count(member, 1)

    def restore(self, kept: MemberSnapshot, protocol_type: str, now_ms: int) -> None:
        """One that was here before a restart, as if just heard of."""
        request = JoinRequest(
            member_id=kept.member_id,
            instance_id=kept.instance_id,
            client_id=kept.client_id,
            client_host=kept.client_host,
            session_timeout_ms=kept.session_timeout_ms,
            rebalance_timeout_ms=kept.rebalance_timeout_ms,
            protocols=kept.protocols,
        )
        member = Member(kept.member_id, request, now_ms)
        member.assignment = kept.assignment
        member.is_new = False
        self.add(member, protocol_type)

    def remove(self, member: Member) -> Ticket | None:
        """One less; returns its ticket if it was parked."""
        del self._by_id[member.member_id]
        if member.instance_id is not None:
            del self.instances[member.instance_id]
        self._count(member, -1)
        return self.unpark(member)

    def replace(self, old: Member, new_id: str) -> Ticket | None:
        """A static member goes on under a new id; returns its ticket if it was parked."""
        ticket = self.unpark(old)
        self.held_bytes += len(new_id) - len(old.member_id)
        self._by_id[new_id] = self._by_id.pop(old.member_id)
        old.member_id = new_id
        return ticket

    def update(self, member: Member, request: JoinRequest) -> None:
        """What it says now replaces what it said before."""
        self._count(member, -1)
        member.client_id = request.client_id
        member.client_host = request.client_host
        member.protocols = request.protocols
        member.session_timeout_ms = request.session_timeout_ms
        member.rebalance_timeout_ms = request.rebalance_timeout_ms
        self.protocol_type = request.protocol_type
        self._count(member, 1)

    def assign(self, assignments: dict[str, bytes]) -> None:
        """Everybody gets a new assignment; nothing is one too."""
        for member in self:
            assignment = assignments.get(member.member_id, b"")
            self.held_bytes += len(assignment) - len(member.assignment)
            member.assignment = assignment

    def park(self, member: Member, ticket: Ticket) -> None:
        """Its join or sync waits; it may not be waiting already."""
        assert member.ticket is None
        assert ticket not in self.parked
        member.ticket = ticket
        self.parked[ticket] = member

    def unpark(self, member: Member) -> Ticket | None:
        """It waits no longer; returns its ticket."""
        ticket = member.ticket
        if ticket is not None:
            member.ticket = None
            del self.parked[ticket]
        return ticket

    def supports(self, request: JoinRequest, beside: Member | None) -> bool:
        """Whether all members but `beside` offer one of the protocols of this request."""
        if not request.protocol_type or not request.protocols:
            return False
        others = len(self) - (beside is not None)
        if others == 0:
            return True
        if request.protocol_type != self.protocol_type:
            return False
        own = {name for name, _ in beside.protocols} if beside is not None else frozenset()
        return any(self._support[name] - (name in own) == others for name, _ in request.protocols)

    def vote(self) -> str:
        """The protocol that most members like best among those that all offer; there has to be a member."""
        everybody = len(self)
        votes: Counter[str] = Counter()
        for member in self:
            votes[next(name for name, _ in member.protocols if self._support[name] == everybody)] += 1
        return votes.most_common(1)[0][0]

    @property
    def rebalance_timeout_ms(self) -> int:
        """The largest of all; 0 if there is nobody to wait for."""
        return max((member.rebalance_timeout_ms for member in self), default=0)

    def _count(self, member: Member, by: int) -> None:
        self.held_bytes += by * member.held_bytes
        for name, _ in member.protocols:
            self._support[name] += by
            if not self._support[name]:
                del self._support[name]

"""What goes into the group coordinator and what comes out: plain values, no behaviour, nothing of the wire.

Times are milliseconds since the epoch of a clock that never jumps and never goes back (wall clock at the start plus
what a monotonic clock has counted since): sessions would end together when a wall clock is set.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.core.groups.settings import GroupSettings
from protocol.kafka.errors import ErrorCode

CONSUMER = "consumer"
"""The protocol type of consumer groups: their members' metadata says which topics they subscribe to."""

Ticket = Hashable
"""Stands for a request that waits for its answer; means something only to the caller. Never used twice."""

TopicPartition = tuple[str, int]


class State(enum.Enum):
    """Of a group. The names are a contract of the wire: clients compare them."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(slots=True, frozen=True, kw_only=True)
class JoinRequest:
    """What a member says when it joins."""

    member_id: str = ""
    instance_id: str | None = None
    """Of a static member."""
    client_id: str = ""
    client_host: str = ""
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000
    """JoinGroup v0 has none: the session timeout stands for it."""
    protocol_type: str = CONSUMER
    protocols: tuple[tuple[str, bytes], ...]
    """(name, metadata), the one it likes best first."""
    id_required: bool = False
    """v4+: who comes without an id gets one, and has to come again with it."""
    can_skip_assignment: bool = False
    """v9+: a leader can be told to leave the assignment as it is."""
    reason: str = ""
    """Why it joins, in the client's own words (v8+)."""


class JoinedMember(NamedTuple):
    """What the leader is told about a member."""

    member_id: str
    instance_id: str | None
    metadata: bytes


@dataclass(slots=True, frozen=True)
class JoinResult:
    """The answer to a join."""

    error: ErrorCode
    member_id: str = ""
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@dataclass(slots=True, frozen=True, kw_only=True)
class SyncRequest:
    """What a member says when it asks for its assignment; only the leader brings assignments."""

    member_id: str
    generation: int
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class SyncResult:
    """The answer to a sync."""

    error: ErrorCode
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


class Leaver(NamedTuple):
    """Who leaves. Static members may be sent away by their instance id alone."""

    member_id: str
    instance_id: str | None = None
    reason: str = ""


class Committer(NamedTuple):
    """Who commits offsets; the defaults are those of a consumer outside group management."""

    member_id: str = ""
    generation: int = -1
    instance_id: str | None = None


class Committed(NamedTuple):
    """A committed offset."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    committed_ms: int = 0
    expires_ms: int | None = None
    """Set by clients so old that they bring their own retention."""


class Fetched(NamedTuple):
    """What a fetch says of one partition; the defaults say that nothing is committed, which is no error."""

    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error: ErrorCode = ErrorCode.NONE


class OffsetCommit(NamedTuple):
    """One offset of a commit request."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    retention_ms: int = -1


# What is kept.


@dataclass(slots=True, frozen=True)
class MemberSnapshot:
    """A member, as it is kept."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes


@dataclass(slots=True, frozen=True)
class GroupSnapshot:
    """A group that is Stable, or Empty if it has no members, as it is kept."""

    group_id: str
    generation: int
    protocol_type: str
    protocol: str | None
    leader: str
    since_ms: int
    """When it came into this state: the retention of an Empty group's offsets starts here."""
    members: tuple[MemberSnapshot, ...] = ()


# What a describe shows.


@dataclass(slots=True, frozen=True)
class MemberDescription:
    """A member, as operators see it."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    """For the protocol in use; none outside Stable."""
    assignment: bytes
    awaited: bool
    """The rebalance waits for its join or sync."""
    seen_ms: int
    """When it was last heard of."""


@dataclass(slots=True, frozen=True)
class GroupDescription:
    """A group, as operators see it."""

    group_id: str
    state: State
    protocol_type: str = ""
    protocol: str = ""
    generation: int = 0
    leader: str = ""
    since_ms: int = 0
    """When it came into this state."""
    reason: str = ""
    """Why the last rebalance began."""
    rebalance_count: int = 0
    rebalance_began_ms: int = 0
    pending_count: int = 0
    """Ids that were given out and nobody has come with yet; a rebalance waits for those too."""
    deadline_ms: int | None = None
    """When those that are awaited are given up."""
    members: tuple[MemberDescription, ...] = ()


class GroupListing(NamedTuple):
    """A line of the list of groups."""

    group_id: str
    protocol_type: str
    state: State


# Effects: what the caller has to do, in this order.


class Reply(NamedTuple):
    """Answer this request. With `after_save` not before every effect that came before it is durable."""

    ticket: Ticket
    result: JoinResult | SyncResult
    after_save: bool = False


class SaveGroup(NamedTuple):
    """Keep this; it replaces what was kept of the group before."""

    snapshot: GroupSnapshot


class SaveOffsets(NamedTuple):
    """Keep these."""

    group_id: str
    offsets: tuple[tuple[TopicPartition, Committed], ...]


class DropGroup(NamedTuple):
    """Nothing is kept of the group itself any more."""

    group_id: str


class DropOffsets(NamedTuple):
    """Nothing is kept of these any more."""

    group_id: str
    partitions: tuple[TopicPartition, ...]
    reason: str


class StateChanged(NamedTuple):
    """For logs and metrics only."""

    group_id: str
    state: State
    generation: int
    reason: str
    """Why the rebalance began that this state is a part of."""
    took_ms: int
    """How long the state before it lasted."""


Effect = Reply | SaveGroup | SaveOffsets | DropGroup | DropOffsets | StateChanged


OWN_WORDS_CHARS_MAX = 255


def in_own_words(reason: str) -> str:
    """A client's reason, to be put behind ours."""
    return f" ({reason[:OWN_WORDS_CHARS_MAX]})" if reason else ""


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all groups of a coordinator share."""

    settings: GroupSettings
    new_member_id: Callable[[str], str]
    """Makes an id that was never used before, from a prefix."""
    subscription_of: Callable[[bytes], frozenset[str] | None]
    """The topics that a consumer's metadata subscribe to; None if that cannot be read. Nothing that has to be right
    depends on it: metadata are opaque."""
    effects: list[Effect] = field(default_factory=list)

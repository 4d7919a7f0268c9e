"""A member of a group that lives in the broker itself: a consumer of AMQP beside Kafka's clients. Pure.

The coordinator's answers come in, what is to be asked next comes out; who carries that back and forth, and when, is
`server.local_members`. Partitions are of one topic. When it is elected to lead, it shares out all topics of all members
by the assignor that the group has agreed on.

    OUTSIDE --begin--> JOINING --joined--> SYNCING --synced--> STABLE --rebalance--> JOINING        any --leave--> GONE
                          ^---------- refused, or the next rebalance has begun -------'
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from broker.core.groups.assignors import (
    ASSIGNORS,
    RANGE,
    ROUND_ROBIN,
    assigned_partitions,
    subscribers_of,
    subscription,
    write_assignment,
)
from broker.core.groups.settings import GroupSettings
from broker.core.groups.values import (
    CONSUMER,
    Committer,
    JoinRequest,
    JoinResult,
    Leaver,
    SyncRequest,
    SyncResult,
)
from protocol.kafka.errors import ErrorCode

CLIENT_ID_PREFIX = "amqp:"
"""What the client id of such a member begins with: a restart knows by it who cannot come back."""
SESSION_TIMEOUT_MS = 45_000
REBALANCE_TIMEOUT_MS = 60_000
"""It answers at once; the group waits as long as its slowest member asks for."""
FATAL = frozenset({
    ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ErrorCode.GROUP_MAX_SIZE_REACHED, ErrorCode.INVALID_GROUP_ID,
    ErrorCode.INVALID_SESSION_TIMEOUT, ErrorCode.INVALID_REQUEST,
})  # fmt: skip
"""Asking again would not help."""


class Step(enum.Enum):
    """Where in its life a member is."""

    OUTSIDE = "outside"
    JOINING = "joining"
    SYNCING = "syncing"
    STABLE = "stable"
    GONE = "gone"


Ask = JoinRequest | SyncRequest | None


class LocalMember:
    """See the module. `count_of` says how many partitions a topic has, None where there is none of that name."""

    __slots__ = ("_client_host", "_client_id", "_count_of", "_counts", "_timeout_ms", "assigned", "generation",
                 "member_id", "refusal", "step", "topic")  # fmt: skip

    def __init__(
        self,
        topic: str,
        client_id: str,
        client_host: str,
        settings: GroupSettings,
        count_of: Callable[[str], int | None],
    ) -> None:
        self.topic = topic
        self.member_id = ""
        self.generation = -1
        self.step = Step.OUTSIDE
        self.assigned: list[int] = []
        """The partitions of the last assignment."""
        self.refusal: ErrorCode | None = None
        """Why the group does not take it."""
        self._client_id = CLIENT_ID_PREFIX + client_id
        self._client_host = client_host
        self._count_of = count_of
        self._counts: dict[str, int | None] = {}  # What it has shared out as leader, by topic.
        self._timeout_ms = min(
            max(SESSION_TIMEOUT_MS, settings.session_timeout_ms_min), settings.session_timeout_ms_max
        )

    @property
    def committer(self) -> Committer:
        """In whose name it commits."""
        return Committer(self.member_id, self.generation)

    @property
    def leaver(self) -> Leaver:
        """How it leaves."""
        return Leaver(self.member_id, None, "its consumer is gone")

    def join(self) -> JoinRequest:
        """Come in, or come again."""
        self.step = Step.JOINING
        metadata = subscription(self.topic)
        return JoinRequest(
            member_id=self.member_id,
            client_id=self._client_id,
            client_host=self._client_host,
            session_timeout_ms=self._timeout_ms,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            protocol_type=CONSUMER,
            protocols=((RANGE, metadata), (ROUND_ROBIN, metadata)),
        )

    def joined(self, result: JoinResult) -> Ask:
        """The answer to a join. None: it failed, see `refusal`; else the caller asks again on its next tick."""
        if self.step is not Step.JOINING:
            return None
        if result.error is not ErrorCode.NONE:
            return self._failed(result.error)
        self.member_id, self.generation = result.member_id, result.generation
        self.step = Step.SYNCING
        self._counts = {}
        assignments: Mapping[str, bytes] = {}
        if result.leader == result.member_id:
            assignments = self._share_out(result)
        return SyncRequest(
            member_id=self.member_id,
            generation=self.generation,
            protocol_type=CONSUMER,
            protocol=result.protocol,
            assignments=assignments,
        )

    def _share_out(self, result: JoinResult) -> dict[str, bytes]:
        subscribers = subscribers_of(result.members)
        topics = frozenset[str]().union(*(one.topics for one in subscribers))
        self._counts = {topic: self._count_of(topic) for topic in topics}
        counts = {topic: count for topic, count in self._counts.items() if count is not None}
        shares = ASSIGNORS[result.protocol or RANGE](subscribers, counts)
        return {member_id: write_assignment(share) for member_id, share in shares.items()}

    def synced(self, result: SyncResult) -> Ask:
        """The answer to a sync: `assigned` is what it says when the step is STABLE."""
        if self.step is not Step.SYNCING:
            return None
        if result.error is not ErrorCode.NONE:
            return self._failed(result.error)
        self.step = Step.STABLE
        count = self._count_of(self.topic) or 0
        self.assigned = [one for one in assigned_partitions(result.assignment, self.topic) if 0 <= one < count]
        return None

    def beaten(self, error: ErrorCode) -> Ask:
        """The answer to a heartbeat."""
        if self.step is not Step.STABLE or error is ErrorCode.NONE:
            return None
        return self._failed(error)

    def topics_changed(self) -> Ask:
        """A topic is new, or has more partitions, or is gone: whoever leads has to share out anew."""
        if self.step is Step.STABLE and any(self._count_of(topic) != count for topic, count in self._counts.items()):
            return self.join()
        return None

    def _failed(self, error: ErrorCode) -> Ask:
        if error in FATAL:
            self.refusal = error
            self.step = Step.GONE
            return None
        if error is ErrorCode.REBALANCE_IN_PROGRESS:
            return self.join()
        if error is not ErrorCode.ILLEGAL_GENERATION:
            self.member_id, self.generation = "", -1  # The group does not know it any more.
        self.step = Step.OUTSIDE
        return None

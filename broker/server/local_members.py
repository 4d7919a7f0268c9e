"""The members of consumer groups that live in this broker: AMQP's consumers, for one vhost's groups.

Carries what a `core.groups.local_member` asks to the coordinator and the answers back, commits what its reading has got
done, and heartbeats. Nothing waits for a tick but that: a rebalance, an answer, and a consumer that goes put the member
into the scheduler, which comes to it at the end of the turn. Knows no wire.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.core.groups.local_member import CLIENT_ID_PREFIX, FATAL, Ask, LocalMember, Step
from broker.core.groups.values import JoinRequest, JoinResult, Leaver, OffsetCommit, State, SyncResult
from broker.log.errors import StorageError
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import CorruptBatch

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.core.streams.group_reading import GroupReading
    from broker.core.topics.topic import Topic
    from broker.server.groups import Groups

log = logging.getLogger("jackalope.groups")

COMMIT_EVERY_MS = 250
BEAT_EVERY_MS = 3_000
STOP_MS = 30_000
"""How long a cancelled consumer keeps its partitions while deliveries are with it."""
DRAIN_MS = 5_000
"""How long a rebalance waits for what is with the consumer: what is acknowledged meanwhile comes to nobody again."""
EVENT_UNITS = 50


class _Asker:
    """A join or sync on its way (`server.groups.Asker`)."""

    __slots__ = ("_membership",)

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def reply(self, result: JoinResult | SyncResult, *, after_save: bool) -> None:
        """The answer. It need not wait for the disk: after a crash there is no such member."""
        self._membership.answered(self, result)


class Membership:
    """One member, its reading, and what has happened to it that it has not dealt with yet. To the scheduler it is
    something to dispatch."""

    __slots__ = ("_answer", "_asker", "_drain_ms", "_is_due", "_is_leaving", "_is_moved", "_is_topics_changed",
                 "_is_watched", "_local", "_stop_ms", "dirty", "group_id", "member", "reading")  # fmt: skip

    def __init__(self, local: LocalMembers, group_id: str, member: LocalMember, reading: GroupReading) -> None:
        self._local = local
        self.group_id = group_id
        self.member = member
        self.reading = reading
        self.dirty = False
        self._asker: _Asker | None = None  # Of what was asked last.
        self._answer: JoinResult | SyncResult | None = None
        self._is_moved = self._is_due = self._is_leaving = self._is_topics_changed = self._is_watched = False
        self._stop_ms: int | None = None
        self._drain_ms: int | None = None

    @property
    def member_id(self) -> str:
        """What the group calls it; nothing before it is in."""
        return self.member.member_id

    # What happens to it.

    def begin(self) -> ErrorCode | None:
        """Join; returns why the group does not take it, if it says so at once."""
        self._send(self.member.join())
        answer = self._answer
        if isinstance(answer, JoinResult) and answer.error in FATAL:
            self.member.step = Step.GONE
            return answer.error
        return None

    def answered(self, asker: _Asker, result: JoinResult | SyncResult) -> None:
        """The coordinator has answered."""
        if asker is self._asker:
            self._asker = None
            self._answer = result
            self._local.mark(self)

    def state_changed(self) -> None:
        """The group rebalances: ask what it wants of this member."""
        if self.member.step is Step.STABLE:
            self._is_watched = True
            self._local.mark(self)

    def topics_changed(self) -> None:
        """There are other topics, or partitions."""
        self._is_topics_changed = True
        self._local.mark(self)

    def moved(self, *, at_once: bool = False) -> None:
        """There is something to commit: soon, or at the end of the turn, which it also is while a rebalance waits."""
        if not self._is_moved:
            self._is_moved = True
            self._local.moved[self] = None
        if at_once or self.reading.is_paused:
            self._is_due = True
            self._local.mark(self)

    def leave(self) -> None:
        """Nothing is with the consumer any more, and nothing will be."""
        self._is_leaving = True
        self._local.mark(self)

    # What it does about it.

    def dispatch(self) -> int:
        """Deal with it; returns the units of work done."""
        member = self.member
        if member.step is Step.GONE:
            return 1
        if self._is_leaving:
            self._leave()
            return EVENT_UNITS
        answer, self._answer = self._answer, None
        if isinstance(answer, JoinResult):
            self._send(member.joined(answer))
        elif answer is not None:
            self._send(member.synced(answer))
            if member.step is Step.STABLE:
                self._assign()
        if self._is_watched:
            self._is_watched = False
            self.beat()
        if self._is_topics_changed:
            self._is_topics_changed = False
            self._send(member.topics_changed())
        if self._is_due:
            self._is_due = False
            self.commit()
            if self._drain_ms is not None and not self.reading.is_away:
                self.beat()
        self._look_whether_known()
        return EVENT_UNITS

    def _send(self, ask: Ask) -> None:
        local = self._local
        groups = local.groups
        if ask is None:
            return
        asker = self._asker = _Asker(self)
        if isinstance(ask, JoinRequest):
            self.reading.pause()
            self._drain_ms = None
            self.commit()  # While the group still knows this generation.
            groups.coordinator.join(self.group_id, asker, ask, groups.now_ms)
        else:
            groups.coordinator.sync(self.group_id, asker, ask, groups.now_ms)
        groups.carry_out()

    def _look_whether_known(self) -> None:
        """Dropped by the group it comes again, with nothing; if it is not taken at all, its consumer is told."""
        member = self.member
        if member.step is Step.OUTSIDE:
            self.reading.pause()
            if not member.member_id:
                self.reading.let_go()
            self._local.outside[self] = None
        elif member.step is Step.GONE and member.refusal is not None:
            text = "group %r does not take a consumer of AMQP: %s"
            self._local.groups.log_lines.warning(log, text, self.group_id, member.refusal.name)
            self._local.remove(self)
            self.reading.let_go()
            self.reading.close()

    def _assign(self) -> None:
        """Read what the group has given it, from where that was left."""
        member, groups = self.member, self._local.groups
        if self.reading.is_stopping:
            self._leave()
            return
        topic, assigned = member.topic, member.assigned
        _, fetched = groups.coordinator.fetch(self.group_id, {topic: assigned})
        known = {index: (one.offset, one.metadata) for index, one in fetched.get(topic, {}).items()}
        try:
            self.reading.assign(assigned, known)
        except (StorageError, CorruptBatch, OSError) as error:
            self._local.scheduler.report(f"stream '{topic}' cannot be read", error)
            self.reading.close()
            return
        self.commit()  # Also where it begins, if nobody has said so before.

    def commit(self) -> None:
        """Commit what there is, if the group lets it."""
        self._is_moved = False
        groups, member = self._local.groups, self.member
        progress = self.reading.progress()
        if not progress or not member.member_id:
            return
        epochs = self.reading.stream.topic.partitions
        commits = [
            OffsetCommit(member.topic, index, offset, epochs[index].leader_epoch, metadata)
            for index, offset, metadata in progress
        ]
        error, errors = groups.coordinator.commit(self.group_id, member.committer, commits, groups.now_ms)
        groups.carry_out()
        if error is ErrorCode.NONE:
            self.reading.committed([one for one, code in zip(progress, errors, strict=True) if code is ErrorCode.NONE])
        if error is not ErrorCode.NONE or any(code is not ErrorCode.NONE for code in errors):
            self._is_moved = True  # The next generation, or the next time.
            self._local.moved[self] = None

    def beat(self) -> None:
        """Say that it is alive, and hear whether the group rebalances."""
        member, groups = self.member, self._local.groups
        if member.step is Step.OUTSIDE:
            self._send(member.join())
        elif member.step is Step.STABLE:
            error = groups.coordinator.heartbeat(self.group_id, member.member_id, member.generation, groups.now_ms)
            if error is ErrorCode.REBALANCE_IN_PROGRESS and self._is_draining():
                return
            if error is not ErrorCode.NONE and self.reading.is_stopping:
                self.leave()
                return
            self._send(member.beaten(error))
            self._look_whether_known()
        if self.reading.is_stopping:
            self._stop_ms = self._stop_ms or groups.now_ms + STOP_MS
            if groups.now_ms >= self._stop_ms:
                self.leave()

    def _is_draining(self) -> bool:
        """Whether to let the consumer get done with what it has, before the group shares out anew."""
        now_ms = self._local.groups.now_ms
        self.reading.pause()
        self._drain_ms = self._drain_ms or now_ms + DRAIN_MS
        if self.reading.is_away and now_ms < self._drain_ms:
            self._local.outside[self] = None
            return True
        self._drain_ms = None
        return False

    def _leave(self) -> None:
        """Commit, go, and be forgotten."""
        member, groups = self.member, self._local.groups
        self._local.remove(self)
        if isinstance(self._answer, JoinResult):
            member.joined(self._answer)  # It is in, or knows at least as whom.
        self.commit()
        if self._asker is not None:
            groups.forget(self.group_id, self._asker)
        member.step = Step.GONE
        if member.member_id:
            groups.coordinator.leave(self.group_id, [member.leaver], groups.now_ms)
        groups.carry_out()
        self.reading.let_go()


class LocalMembers:
    """See the module. One for each `Groups`."""

    __slots__ = ("_beat_ms", "_by_group", "_commit_ms", "groups", "moved", "outside", "scheduler")

    def __init__(self, groups: Groups, scheduler: Scheduler) -> None:
        self.groups = groups
        self.scheduler = scheduler
        self.moved: dict[Membership, None] = {}
        """Those that have something to commit."""
        self.outside: dict[Membership, None] = {}
        """Those that join again, or look whether they can, when time has passed."""
        self._by_group: dict[str, dict[Membership, None]] = {}
        self._commit_ms = self._beat_ms = 0
        groups.on_state.append(self._state_changed)
        groups.topics.on_changed.append(self._topic_changed)
        groups.topics.on_deleted.append(self._topics_changed)

    def mark(self, membership: Membership) -> None:
        """It has something to do at the end of the turn."""
        self.scheduler.mark(membership)

    def add(self, membership: Membership) -> None:
        """One more."""
        self._by_group.setdefault(membership.group_id, {})[membership] = None

    def remove(self, membership: Membership) -> None:
        """It is gone."""
        members = self._by_group.get(membership.group_id, {})
        members.pop(membership, None)
        if not members:
            self._by_group.pop(membership.group_id, None)

    def _all(self) -> list[Membership]:
        return [one for members in self._by_group.values() for one in members]

    def _state_changed(self, group_id: str) -> None:
        for one in self._by_group.get(group_id, ()):
            one.state_changed()

    def _topic_changed(self, topic: Topic) -> None:
        self._topics_changed(topic.name)

    def _topics_changed(self, _: str) -> None:
        for one in self._all():
            one.topics_changed()

    def tick(self, now_ms: int) -> None:
        """Time has passed."""
        if now_ms >= self._commit_ms and self.moved:
            self._commit_ms = now_ms + COMMIT_EVERY_MS
            moved, self.moved = self.moved, {}
            self.scheduler.add_job(self._commit(list(moved)))
        if self.outside:
            outside, self.outside = self.outside, {}
            self.scheduler.add_job(self._beat(list(outside)))
        if now_ms >= self._beat_ms and self._by_group:
            self._beat_ms = now_ms + BEAT_EVERY_MS
            self.scheduler.add_job(self._beat(self._all()))

    @staticmethod
    def _commit(memberships: list[Membership]) -> Iterator[int]:
        for one in memberships:
            if one.member.step is not Step.GONE:
                one.commit()
                yield EVENT_UNITS

    @staticmethod
    def _beat(memberships: list[Membership]) -> Iterator[int]:
        for one in memberships:
            if one.member.step is not Step.GONE:
                one.beat()
                yield EVENT_UNITS


def forget_earlier_run(groups: Groups) -> None:
    """What was kept of groups may name members that lived in this broker's last run: they do not come back."""
    coordinator = groups.coordinator
    for listing in coordinator.listing([State.STABLE.value])[1]:
        description = coordinator.describe(listing.group_id)[1]
        gone = [one for one in description.members if one.client_id.startswith(CLIENT_ID_PREFIX)]
        if gone:
            leavers = [Leaver(one.member_id, one.instance_id, "the broker was restarted") for one in gone]
            coordinator.leave(listing.group_id, leavers, groups.now_ms)
            groups.carry_out()

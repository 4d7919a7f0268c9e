"""A coordinator with a clock, members that speak in one line, and everything that came out of it."""

from dataclasses import replace

from broker.core.groups.coordinator import Coordinator
from broker.core.groups.values import (
    Committer,
    GroupSettings,
    JoinRequest,
    JoinResult,
    Leaver,
    OffsetCommit,
    Reply,
    SaveGroup,
    State,
    SyncRequest,
)
from protocol.kafka.errors import ErrorCode

START_MS = 1_790_000_000_000
AT_ONCE = GroupSettings(initial_rebalance_delay_ms=0)
RANGE = (("range", b"t"),)


def topics_of(metadata):
    """Metadata of these tests: topics with commas between them; with a question mark it cannot be read."""
    return None if b"?" in metadata else frozenset(metadata.decode().split(","))


class Site:
    """One coordinator, ready for requests."""

    def __init__(self, settings=AT_ONCE, *, load=True):
        self.now_ms = START_MS
        self.effects = []
        self.kept = []  # The effects of the runs before.
        self.answers = {}
        self.tickets = 0
        self.ids = 0
        self.groups = Coordinator(settings, self.new_member_id, topics_of)
        if load:
            self.groups.finish_loading(self.now_ms)

    def new_member_id(self, prefix):
        self.ids += 1
        return f"{prefix}-{self.ids}"

    def drain(self):
        """Carries out what is to be done."""
        for effect in self.groups.take_effects():
            self.effects.append(effect)
            if isinstance(effect, Reply):
                assert effect.ticket not in self.answers, "a second answer"
                self.answers[effect.ticket] = effect

    def start_join(self, group="g", protocols=RANGE, **fields):
        """Returns the ticket."""
        self.tickets += 1
        self.groups.join(group, self.tickets, JoinRequest(protocols=protocols, **fields), self.now_ms)
        self.drain()
        return self.tickets

    def start_sync(self, joined, assignments=None, group="g", **fields):
        """Returns the ticket."""
        self.tickets += 1
        request = SyncRequest(member_id=joined.member_id, generation=joined.generation, assignments=assignments or {})
        self.groups.sync(group, self.tickets, replace(request, **fields), self.now_ms)
        self.drain()
        return self.tickets

    def result(self, ticket):
        """What the request was answered; None while it is parked."""
        reply = self.answers.get(ticket)
        return reply.result if reply is not None else None

    def join(self, *args, **fields) -> JoinResult:
        """A join that is answered at once."""
        return self.result(self.start_join(*args, **fields))

    def sync(self, *args, **fields):
        """A sync that is answered at once."""
        return self.result(self.start_sync(*args, **fields))

    def beat(self, joined, group="g", **fields):
        """The answer to a heartbeat."""
        return self.groups.heartbeat(group, joined.member_id, joined.generation, self.now_ms, **fields)

    def leave(self, *leavers, group="g"):
        """The answers for each."""
        answer = self.groups.leave(group, [Leaver(*one) for one in leavers], self.now_ms)
        self.drain()
        return answer

    def commit(self, who=None, offset=1, topic="t", group="g", metadata="", retention_ms=-1):
        """The error of the request, or of its one offset."""
        who = Committer() if who is None else Committer(who.member_id, who.generation)
        commits = [OffsetCommit(topic, 0, offset, 3, metadata, retention_ms)]
        error, errors = self.groups.commit(group, who, commits, self.now_ms)
        self.drain()
        return error or errors[0]

    def forget(self, ticket, group="g"):
        """Its connection closed."""
        self.groups.forget(group, ticket, self.now_ms)
        self.drain()

    def wait(self, ms):
        """Time passes, and whatever falls due meanwhile does so at its time."""
        until_ms = self.now_ms + ms
        while (due_ms := self.groups.next_deadline_ms) is not None and due_ms <= until_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self.groups.tick(self.now_ms)
            self.drain()
        self.now_ms = until_ms

    def describe(self, group="g"):
        return self.groups.describe(group)[1]

    @property
    def state(self):
        return self.describe().state

    def stable(self, count=1, **fields):
        """That many members in a stable group; returns their join results, the leader's first."""
        joined = []
        for number in range(count):
            tickets = [self.start_join(client_id=f"c{number}", **fields)]
            tickets += [self.start_join(**fields, member_id=one.member_id) for one in joined]
            joined = sorted(map(self.result, tickets), key=lambda one: one.member_id != one.leader)
        for one in reversed(joined):
            self.start_sync(one, {other.member_id: other.member_id.encode() for other in joined})
        assert self.state is State.STABLE
        return joined

    def saved(self):
        """The last snapshot of a group."""
        return next(effect.snapshot for effect in reversed(self.effects) if isinstance(effect, SaveGroup))

    def restarted(self):
        """A new coordinator that knows what this one had kept."""
        other = Site(self.groups.settings, load=False)
        other.ids = self.ids
        other.now_ms = self.now_ms
        other.kept = [*self.kept, *self.effects]
        for effect in other.kept:
            if isinstance(effect, SaveGroup):
                other.groups.load_group(effect.snapshot)
            elif type(effect).__name__ == "SaveOffsets":
                for (topic, partition), committed in effect.offsets:
                    other.groups.load_offset(effect.group_id, topic, partition, committed)
            elif type(effect).__name__ == "DropGroup":
                other.groups.load_drop_group(effect.group_id)
            elif type(effect).__name__ == "DropOffsets":
                for topic, partition in effect.partitions:
                    other.groups.load_drop_offset(effect.group_id, topic, partition)
        other.groups.finish_loading(other.now_ms)
        return other


def error_of(result):
    assert result is not None, "still parked"
    return result.error


__all__ = ["AT_ONCE", "RANGE", "START_MS", "ErrorCode", "GroupSettings", "Site", "error_of", "topics_of"]

"""The consumer groups of a vhost: requests into the coordinator, its effects out to the disk and to who waits.

Owns the coordinator, where it keeps things, and its clock. Every face uses the same groups: Kafka's clients, consumers
of AMQP (`x-group`), operators over HTTP. Who asks is an `Asker` and is answered within a turn. Knows no wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from broker.core.groups.coordinator import Coordinator
from broker.core.groups.settings import GroupSettings
from broker.core.groups.storage import GroupStore
from broker.core.groups.values import JoinResult, Reply, StateChanged, SyncResult
from broker.core.scheduler import SLICE_UNITS
from broker.server.local_members import LocalMembers, forget_earlier_run
from broker.server.log_lines import LogLines
from protocol.kafka.group_records import subscribed_topics

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.core.topics.registry import Topics

log = logging.getLogger("jackalope.groups")

SWEEP_MS = 60_000
"""How often offsets are looked through for those that nobody needs any more."""


class Asker(Protocol):
    """Who has sent a join or a sync: its ticket in the coordinator. Never used twice."""

    def __hash__(self) -> int:
        """Each is one of its kind."""

    def reply(self, result: JoinResult | SyncResult, *, after_save: bool) -> None:
        """The answer; with `after_save` it is to be told when all that was done so far is durable."""


class Groups:
    """See the module."""

    __slots__ = ("_ahead_ms", "_now_ms", "_scheduler", "_sweep_ms", "coordinator", "local", "log_lines", "on_state",
                 "store", "topics")  # fmt: skip

    def __init__(
        self,
        topics: Topics,
        scheduler: Scheduler,
        settings: GroupSettings,
        now_ms: Callable[[], int],
        new_token: Callable[[], str],
        log_lines: LogLines,
    ) -> None:
        """`now_ms` is a monotonic clock, `new_token` makes what nobody can guess. Raises Corrupt and OSError."""
        self.topics = topics
        self.log_lines = log_lines
        self._scheduler = scheduler
        self._now_ms = now_ms
        self._ahead_ms = scheduler.wall_ms - now_ms()
        self._sweep_ms = 0
        self.on_state: list[Callable[[str], None]] = []
        """Called with the id of a group whose state has changed."""
        self.coordinator = Coordinator(settings, lambda prefix: f"{prefix}-{new_token()}", subscribed_topics)
        self.store = GroupStore(topics)
        self.store.load(self.coordinator, self.now_ms)
        topics.on_deleted.append(self._forget_topic)
        self.local = LocalMembers(self, scheduler)
        forget_earlier_run(self)

    @property
    def now_ms(self) -> int:
        """The wall clock as it was at the start, and what a clock that never jumps has counted since."""
        return self._ahead_ms + self._now_ms()

    def next_due_ms(self) -> int | None:
        """When a session or a rebalance is over next, by the clock that was given; None if there is none."""
        due_ms = self.coordinator.next_deadline_ms
        return due_ms - self._ahead_ms if due_ms is not None else None

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
        self.local.tick(now_ms)

    def carry_out(self) -> None:
        """Do what the coordinator wants, in order."""
        changed: list[str] = []
        for effect in self.coordinator.take_effects():
            if isinstance(effect, Reply):
                asker: Asker = effect.ticket  # type: ignore[assignment]  # Tickets are askers here.
                asker.reply(effect.result, after_save=effect.after_save)
            elif isinstance(effect, StateChanged):
                text = "group %r: %s, generation %d: %s"
                self.log_lines.info(log, text, effect.group_id, effect.state.value, effect.generation, effect.reason)
                changed.append(effect.group_id)
            else:
                self.store.save(effect, self._scheduler.wall_ms)
        for group_id in changed:
            for call in self.on_state:
                call(group_id)

    def forget(self, group_id: str, asker: Asker) -> None:
        """Whoever waits for this answer is gone."""
        self.coordinator.forget(group_id, asker, self.now_ms)
        self.carry_out()

    def _forget_topic(self, name: str) -> None:
        """A topic is deleted: nobody has offsets of it any more."""
        self._scheduler.add_job(self._forget(name))

    def _forget(self, name: str) -> Iterator[int]:
        for _ in self.coordinator.drop_topic(name):
            self.carry_out()
            yield SLICE_UNITS

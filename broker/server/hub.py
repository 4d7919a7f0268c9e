"""What all connections of a process share on the server's side: clocks, tokens, access, and the end of a turn.

A *turn* is what one event (octets arrived, a socket drained, a tick) sets off, without an await. It ends with
`end_turn`, which says what is done then and in which order; which turn comes when is the poller's (`Poller._away`) and,
for what is due by a clock, the ticker's (`Ticker._turn`).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.core.broker import Broker
from broker.core.groups.settings import OFFSETS_TOPIC, GroupSettings
from broker.server.durability import Durability
from broker.server.env import Env
from broker.server.half_open import HalfOpen, Hosts
from broker.server.log_lines import LogLines
from broker.server.unfinished import Unfinished

if TYPE_CHECKING:
    from broker.core.access import Access
    from broker.server.auth import Authenticator
    from broker.server.face import Face
    from broker.server.groups import Groups
    from broker.server.outbox import Outbox

log = logging.getLogger("jackalope.amqp")


def _stands_still() -> None:
    """Without a clock, time is what the hub and the scheduler are told."""


def _no_haste(_due_ms: int) -> None:
    """Without a ticker nobody calls `on_tick` but whoever drives the hub."""


class Hub:
    """Shared by the connections of one broker process."""

    __slots__ = (
        "_groups", "access", "amqp", "authenticator", "broker", "durability", "env", "faces", "group_settings",
        "half_open", "hasten", "hosts", "kafka", "log_lines", "next_dues", "now_ms", "on_tick", "read_clock",
        "scheduler", "touched", "turns", "unfinished",
    )  # fmt: skip

    def __init__(
        self,
        broker: Broker,
        access: Access,
        authenticator: Authenticator,
        durability: Durability | None = None,
        unfinished_bytes_max: int = 256 << 20,
        env: Env | None = None,
    ) -> None:
        self.env = env = env or Env()
        self.broker = broker
        self.durability = durability  # None keeps everything in memory.
        self.scheduler = broker.scheduler
        self.access = access
        self.authenticator = authenticator
        self.now_ms = self.scheduler.now_ms = env.monotonic_ns() // 1_000_000  # Never jumps.
        self.read_clock: Callable[[], None] = _stands_still
        """Moves `now_ms` and the scheduler's times; called before an event is handled (`server.clock`)."""
        self.hasten: Callable[[int], None] = _no_haste
        """Has `on_tick` called when `now_ms` has reached a time, if that is before the next tick."""
        self.faces: list[Face] = []
        self.amqp: Any = None
        """The face of AMQP, once it is served."""
        self.touched: list[Outbox] = []
        """Those that the end of the turn writes."""
        self.on_tick: list[Callable[[int], None]] = []
        """Called with the clock, each tick, by whoever keeps time for connections of its own."""
        self.next_dues: list[Callable[[], int | None]] = []
        """When they want to be called next, by `now_ms`; None if any tick will do."""
        self.turns = 0
        self.kafka: Any = None
        """The face of Kafka's protocol where it is served: that of `kafka.vhost`, if listeners lead to several."""
        self.group_settings = GroupSettings()
        self._groups: dict[str, Groups] = {}
        self.half_open = HalfOpen()
        self.hosts = Hosts()
        self.log_lines = LogLines(env.monotonic_s)
        self.unfinished = Unfinished(unfinished_bytes_max, lambda: self.now_ms)
        if durability is not None:
            durability.on_synced.append(broker.synced)

    def groups_of(self, vhost: str) -> Groups:
        """The consumer groups of a vhost, which has to have topics. Raises Corrupt and OSError."""
        groups = self._groups.get(vhost)
        if groups is None:
            # Imported late: who speaks AMQP alone need not wait for it.
            from broker.server.groups import Groups

            topics = self.broker.vhosts[vhost].topics
            assert topics is not None
            groups = self._groups[vhost] = Groups(
                topics, self.scheduler, self.group_settings, lambda: self.now_ms, self.new_token, self.log_lines
            )
            self.on_tick.append(lambda _: groups.tick())
            self.next_dues.append(groups.next_due_ms)
        return groups

    def restore_groups(self) -> None:
        """Bring back what was kept of groups, wherever there is something. Raises Corrupt and OSError."""
        for vhost in list(self.broker.vhosts.values()):
            if vhost.topics is not None and vhost.topics.get(OFFSETS_TOPIC) is not None:
                self.groups_of(vhost.name)

    def end_turn(self, *, gather: bool = False) -> None:
        """What follows when an event has been handled. The order, and why it is this one:

        1. Marked queues hand out, for one slice. They come first, because deliveries go out with the answers of the
           same turn, and because what handing out changes (leases, delivery counts, dead letters moved to other
           queues) belongs into the turn's frame. What is left over, and what those moves mark, is for later slices.
        2. The frame goes to the flusher, whose thread then writes it while the loop sends. With `gather` it may stay
           for the turns that follow, and the caller sees to it that the disk gets it soon.
        3. Every connection of any face that was written to sends once. Nothing that waits for the disk is among it:
           that is written in the turn in which the flusher reports the frame.
        """
        self.turns += 1
        if self.scheduler.dirty:
            self.scheduler.dispatch()
        if self.durability is not None:
            if gather:
                self.durability.turn_ended_among_others()
            else:
                self.durability.turn_ended()
        touched = self.touched
        for outbox in touched:
            outbox.touched = False
            if outbox.writer is not None:
                outbox.writer.flush()
        touched.clear()

    def set_space(self, there_is: bool) -> None:
        """The disk is full, or no longer."""
        self.set_alarm("disk", active=not there_is)

    def set_alarm(self, reason: str, *, active: bool) -> None:
        """Publishers wait as long as the broker is low on anything (`reason`: "memory", "disk")."""
        broker = self.broker
        if active == (reason in broker.alarms):
            return
        broker.alarms = broker.alarms | {reason} if active else broker.alarms - {reason}
        self.unfinished.set_short("memory" in broker.alarms)
        self._on_alarm("low on " + " & ".join(sorted(broker.alarms, reverse=True)) if broker.alarms else None)

    def _on_alarm(self, reason: str | None) -> None:
        log.warning("alarm: %s", reason or "cleared")
        self.broker.alarm = reason
        if reason is None:
            for face in self.faces:
                face.alarm_ended()
            self.end_turn()

    def sweep(self) -> None:
        """Timeouts of all connections, and whoever sends nothing while others wait for the room that it takes."""
        for face in self.faces:
            face.sweep()
        one = self.unfinished.in_the_way()
        if one is not None:
            one.turn_out()

    def end_all(self, *, failed: bool) -> None:
        """The broker stops, or the disk has failed: every peer is asked to go."""
        for face in self.faces:
            face.end_all(failed=failed)
        self.end_turn()

    @property
    def open_count(self) -> int:
        """How many connections are open, of all faces."""
        return sum(face.open_count for face in self.faces)

    def new_token(self) -> str:
        """22 characters of base64url nobody can guess."""
        return base64.urlsafe_b64encode(self.env.random_bytes(16)).decode().rstrip("=")

    def statistics(self) -> dict[str, Any]:
        """Counts of what is there."""
        return {
            **(self.amqp.statistics() if self.amqp is not None else {}),
            "half_open": self.half_open.count,
            "unfinished_bytes": self.unfinished.octets,
            "turns": self.turns,
            "storage_frames": self.durability.flusher.frames_count if self.durability is not None else 0,
            "storage_checkpoints": self.durability.flusher.checkpoints_count if self.durability is not None else 0,
        }

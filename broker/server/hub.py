"""What all connections of a process share on the server's side: clocks, tokens, access, and the end of a turn.

A *turn* is what one event (octets arrived, a socket drained, a tick) sets off, without an await. It ends with
`end_turn`: queues hand out what they have, then every connection that was written to sends once.
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
    from broker.server.amqp.connection import Connection
    from broker.server.amqp.reply_to import ReplySink
    from broker.server.auth import Authenticator, LoginRefused
    from broker.server.groups import Groups
    from broker.server.machine import Machine

log = logging.getLogger("jackalope.amqp")

ORIGINS_MAX = 10_000


def _stands_still() -> None:
    """Without a clock, time is what the hub and the scheduler are told."""


def _no_haste(_due_ms: int) -> None:
    """Without a ticker nobody calls `on_tick` but whoever drives the hub."""


class Hub:
    """Shared by the connections of one broker process."""

    __slots__ = (
        "_groups", "_origins", "access", "authenticator", "blocked", "broker", "connections", "durability", "env",
        "group_settings", "half_open", "hasten", "hosts", "kafka", "log_lines", "next_dues", "now_ms", "on_tick",
        "read_clock", "reply_sinks", "scheduler", "touched", "turns", "unfinished",
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
        self.connections: dict[Connection, None] = {}
        self.blocked: dict[Connection, None] = {}
        self.reply_sinks: dict[str, ReplySink] = {}
        """Consumers of direct replies, by their address."""
        self.touched: list[Machine] = []
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
        self.log_lines = LogLines()
        self.unfinished = Unfinished(unfinished_bytes_max, lambda: self.now_ms)
        self._origins: dict[tuple[bytes, bytes, int], bytes] = {}
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

    def shared_origin(self, origin: bytes, channel: bytes, frame_max: int) -> bytes:
        """One object for all who publish with this origin on channels of this number (two octets) in such frames.

        So what many connections publish to one queue is delivered, and stored, as if one had (`delivery`: an origin
        object says how contents are framed).
        """
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        return self._origins.setdefault((origin, channel, frame_max), origin)

    def end_turn(self, *, gather: bool = False) -> None:
        """Dispatch a slice, then write; with `gather` the caller sees to it that the disk gets its frame soon."""
        self.turns += 1
        if self.scheduler.dirty:
            self.scheduler.dispatch()
        if self.durability is not None:
            if gather:
                self.durability.turn_ended_among_others()
            else:
                self.durability.turn_ended()
        touched = self.touched
        for connection in touched:
            connection.touched = False
            if connection.transport is not None:
                connection.transport.flush()
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
            blocked, self.blocked = self.blocked, {}
            for connection in blocked:
                connection.resume()
                if connection.transport is not None:
                    connection.transport.resume()
            self.end_turn()

    def add(self, connection: Connection) -> None:
        """A connection was accepted; it counts as half open until it has logged in and opened its vhost."""
        self.connections[connection] = None
        self.hosts.add(connection.peer[0])
        self.half_open.add(connection)

    def remove(self, connection: Connection) -> None:
        """The connection is closed."""
        if connection in self.connections:
            self.half_open.discard(connection)
            del self.connections[connection]
            self.hosts.remove(connection.peer[0])
            self.blocked.pop(connection, None)

    def new_token(self) -> str:
        """22 characters of base64url nobody can guess."""
        return base64.urlsafe_b64encode(self.env.random_bytes(16)).decode().rstrip("=")

    def log_refused(self, connection: Connection, refused: LoginRefused) -> None:
        """A login failed; what the peer is told says less."""
        text = "login refused: peer=%s:%s mechanism=%r reason=%s"
        self.log_lines.warning(log, text, *connection.peer[:2], connection.mechanism[:32], refused)

    def statistics(self) -> dict[str, Any]:
        """Counts of what is there."""
        return {
            "connections": len(self.connections),
            "channels": sum(len(connection.channels) for connection in self.connections),
            "half_open": self.half_open.count,
            "unfinished_bytes": self.unfinished.octets,
            "blocked": len(self.blocked),
            "turns": self.turns,
            "storage_frames": self.durability.flusher.frames_count if self.durability is not None else 0,
            "storage_checkpoints": self.durability.flusher.checkpoints_count if self.durability is not None else 0,
        }

"""What all connections of AMQP share: who they are, who is blocked, addresses of replies, and their timeouts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from broker.core.scheduler import SLICE_UNITS
from broker.server.amqp.ack_timeout import close_overdue
from broker.server.amqp.blocking import go_on
from broker.server.amqp.state import State
from broker.server.ticker import TICK_MS
from protocol.amqp.frames import HEARTBEAT_FRAME

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection
    from broker.server.amqp.delivery import Consumer
    from broker.server.amqp.reply_to import ReplySink
    from broker.server.auth import LoginRefused
    from broker.server.hub import Hub
    from broker.server.log_lines import LogLines
    from broker.server.shown import ShownChannel, ShownConnection, ShownConsumer

    def _shown(
        connection: Connection, channel: Channel, consumer: Consumer
    ) -> tuple[ShownConnection, ShownChannel, ShownConsumer]:
        return connection, channel, consumer  # So that mypy holds `server.shown` to them.


log = logging.getLogger("jackalope.amqp")

ORIGINS_MAX = 10_000
MISSED_INTERVALS = 3
"""A peer silent for so many heartbeat intervals is gone. RabbitMQ 4.0.5 was seen to wait 3.0 s for heartbeat 1."""
WATCH_UNITS, CHANNELS_A_UNIT = 2, 10
"""What it costs to look at a connection, and at its channels that have nothing unacknowledged."""
STOPS = 320, "CONNECTION_FORCED - broker is shutting down"
FAILS = 541, "INTERNAL_ERROR - storage failed, the broker stops"


class AmqpHub:
    """See the module; a `server.face.Face`. `hub` is the process's."""

    __slots__ = (
        "_handshake_timeout_ms", "_is_sweeping", "_origins", "_send_timeout_ms", "blocked", "connections", "hub",
        "reply_sinks",
    )  # fmt: skip

    def __init__(self, hub: Hub, handshake_timeout_ms: int = 10_000, send_timeout_ms: int = 30_000) -> None:
        self.hub = hub
        self.connections: dict[Connection, None] = {}
        self.blocked: dict[Connection, None] = {}
        """Those that publish, and have to wait for the end of an alarm."""
        self.reply_sinks: dict[str, ReplySink] = {}
        """Consumers of direct replies, by their address."""
        self._origins: dict[tuple[bytes, bytes, int], bytes] = {}
        self._handshake_timeout_ms = handshake_timeout_ms
        self._send_timeout_ms = send_timeout_ms
        self._is_sweeping = False
        hub.amqp = self
        hub.faces.append(self)

    @property
    def now_ms(self) -> int:
        """The clock that never jumps, as of the event that is handled."""
        return self.hub.now_ms

    @property
    def log_lines(self) -> LogLines:
        """Those of the process."""
        return self.hub.log_lines

    # Connections.

    @property
    def open_count(self) -> int:
        """How many connections are open."""
        return len(self.connections)

    def add(self, connection: Connection) -> None:
        """A connection was accepted; it counts as half open until it has logged in and opened its vhost."""
        self.connections[connection] = None
        self.hub.hosts.add(connection.peer[0])
        self.hub.half_open.add(connection)

    def remove(self, connection: Connection) -> None:
        """The connection is closed."""
        if connection in self.connections:
            self.hub.half_open.discard(connection)
            del self.connections[connection]
            self.hub.hosts.remove(connection.peer[0])
            self.blocked.pop(connection, None)

    def log_refused(self, connection: Connection, refused: LoginRefused) -> None:
        """A login failed; what the peer is told says less."""
        text = "login refused: peer=%s:%s mechanism=%r reason=%s"
        self.hub.log_lines.warning(log, text, *connection.peer[:2], connection.mechanism[:32], refused)

    def shared_origin(self, origin: bytes, channel: bytes, frame_max: int) -> bytes:
        """One object for all who publish with this origin on channels of this number (two octets) in such frames.

        So what many connections publish to one queue is delivered, and stored, as if one had (`delivery`: an origin
        object says how contents are framed).
        """
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        return self._origins.setdefault((origin, channel, frame_max), origin)

    # The process.

    def alarm_ended(self) -> None:
        """Publishers may go on."""
        blocked, self.blocked = self.blocked, {}
        for connection in blocked:
            go_on(connection)

    def end_all(self, *, failed: bool) -> None:
        """Every peer hears of the end; nothing that was in flight is confirmed if the disk has failed."""
        code, text = FAILS if failed else STOPS
        for connection in list(self.connections):
            connection.fail(code, text)

    def statistics(self) -> dict[str, Any]:
        """Counts of what is there."""
        return {
            "connections": len(self.connections),
            "channels": sum(len(connection.channels) for connection in self.connections),
            "blocked": len(self.blocked),
        }

    # Timeouts.

    def sweep(self) -> None:
        """Look at every connection, in slices; once a quarter of a second is enough for a heartbeat of 1 s."""
        if not self._is_sweeping:
            self._is_sweeping = True
            self.hub.scheduler.add_job(self._sweep())

    def _sweep(self) -> Iterator[int]:
        spent = 0
        for connection in list(self.connections):
            if connection in self.connections:  # Not gone meanwhile.
                self._watch(connection, self.now_ms)
            spent += WATCH_UNITS + len(connection.channels) // CHANNELS_A_UNIT
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
        self._is_sweeping = False

    def _watch(self, connection: Connection, now_ms: int) -> None:
        """Handshake and close timeouts, and heartbeats: any octet counts (spec 4.2.7; rabbit_heartbeat.erl)."""
        if connection.received_octets != connection.seen_received:
            connection.seen_received = connection.received_octets
            connection.last_received_ms = now_ms
        if connection.sent_octets != connection.seen_sent:
            connection.seen_sent = connection.sent_octets
            connection.last_sent_ms = now_ms
        elif connection.transport.pending_bytes and now_ms - connection.transport.progress_ms >= self._send_timeout_ms:
            self._turn_out(connection, "peer takes nothing")
            return
        if connection.drop_at_ms is not None:
            if now_ms >= connection.drop_at_ms:
                connection.transport.close()
            return
        if connection.state is not State.RUNNING:
            if now_ms - connection.started_ms >= self._handshake_timeout_ms:
                self._turn_out(connection, "handshake timeout")
            return
        for channel in list(connection.channels.values()):
            if channel.unacked:
                close_overdue(channel, now_ms)
        self._beat(connection, now_ms)

    def _beat(self, connection: Connection, now_ms: int) -> None:
        """Heartbeats, both ways."""
        if connection.heartbeat_s:
            interval_ms = connection.heartbeat_s * 1000
            if now_ms - connection.last_received_ms >= MISSED_INTERVALS * interval_ms and not connection.paused:
                self._turn_out(connection, "missed heartbeats")
            elif now_ms - connection.last_sent_ms >= interval_ms // 2 - TICK_MS:
                connection.last_sent_ms = now_ms
                connection.outbox.send(HEARTBEAT_FRAME)

    def _turn_out(self, connection: Connection, why: str) -> None:
        self.hub.log_lines.info(log, why + ": peer=%s:%s", *connection.peer[:2])  # Each reason is a kind of its own.
        connection.transport.close()

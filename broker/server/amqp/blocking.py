"""Publishers under an alarm (RabbitMQ 3.10/99-101, and better where connections are shared).

The first publish after the alarm sends connection.blocked with the reason and is held. A connection without consumers
is not read any further. One that also consumes is still read, so that its acks apply: its publishes are refused with
basic.nack where they are to be confirmed, and held to a bound where not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import Refused
from broker.server.amqp import room
from protocol.amqp.errors import PeerError
from protocol.amqp.frames import method_frame

if TYPE_CHECKING:
    from broker.server.amqp.channel import Asked, Channel
    from broker.server.amqp.connection import Connection


class HeldPublishes:
    """The publishes that one connection has to wait with."""

    __slots__ = ("_connection", "_held", "octets")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: list[tuple[Channel, Asked, int, bytes]] = []
        self.octets = 0
        reason = connection.broker.alarm
        if reason is not None and connection.peer_can("connection.blocked"):
            connection.outbox.send(method_frame(0, "connection.blocked", reason))
        connection.face.blocked[connection] = None

    @property
    def full(self) -> bool:
        """Whether reading has to stop."""
        connection = self._connection
        if self.octets > connection.settings.parked_bytes_max:
            return True
        return bool(self._held) and not any(
            channel.consumers or channel.unacked for channel in connection.channels.values()
        )

    def add(self, channel: Channel, asked: Asked, flags: int, content: bytes) -> bool:
        """Hold or refuse one publish; False when it may go through.

        What belongs to a transaction of a peer that is still read goes through, since its commit will: it is bounded.
        """
        consuming = any(other.consumers or other.unacked for other in self._connection.channels.values())
        if consuming and channel.transaction is not None:
            return False
        if channel.confirming and consuming:
            channel.send_nack()
        else:
            self._held.append((channel, asked, flags, content))
            self.octets += len(content)
        return True

    def let_go(self, channel: Channel) -> None:
        """The channel ends in order: what it published before counts, alarm or not."""
        held, self._held = self._held, [one for one in self._held if one[0] is not channel]
        for other, asked, flags, content in held:
            if other is channel:
                self.octets -= len(content)
                channel.publish(asked, flags, content)
        room.hold(self._connection, 0)

    def replay(self) -> None:
        """The alarm is over: tell the peer, then publish what was held, in order."""
        connection = self._connection
        if connection.peer_can("connection.blocked"):
            connection.outbox.send(method_frame(0, "connection.unblocked"))
        for channel, asked, flags, content in self._held:
            if channel.closing:
                continue
            connection.current, connection.culprit = channel, (60, 40)
            try:
                channel.publish(asked, flags, content)
            except (PeerError, Refused) as error:
                connection.on_error(error)
        connection.send_confirms()


def hold(channel: Channel, asked: Asked, flags: int, content: bytes) -> bool:
    """The alarm is on: keep or refuse this publish. False when it should go through after all."""
    connection = channel.connection
    if connection.held is None:
        connection.held = HeldPublishes(connection)
    is_held = connection.held.add(channel, asked, flags, content)
    room.hold(connection, 0)
    return is_held


def go_on(connection: Connection) -> None:
    """The alarm is over: what was held is published in order, and the peer is read again."""
    if connection.held is not None:
        held, connection.held = connection.held, None
        held.replay()
        room.hold(connection, 0)
    if connection.transport is not None:
        connection.transport.resume()

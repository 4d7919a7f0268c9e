"""What AMQP's clients are told when it is committed: confirms of channels, and replies of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.log.pledges import Pledge

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection


class Confirms(Pledge):
    """What a channel has published up to `seq` is confirmed, or refused."""

    __slots__ = ("channel", "seq")

    def __init__(self, channel: Channel, seq: int) -> None:
        self.channel = channel
        self.seq = seq

    def kept(self, committed: bool) -> None:
        """See `Pledge.kept`."""
        channel = self.channel
        if channel.waiting is self:
            channel.waiting = None
        if committed:
            channel.confirm(self.seq)
        else:
            channel.refuse(self.seq)


class Unparking(Pledge):
    """A connection says what it has to say, and is read again."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def kept(self, committed: bool) -> None:
        """See `Pledge.kept`. A connection whose reply will never be true stays parked until the process ends."""
        if committed:
            self.connection.unpark()

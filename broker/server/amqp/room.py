"""Room for the messages of one connection that are not whole, or that an alarm holds (`broker.server.unfinished`)."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from broker.server.unfinished import LARGE_BYTES, Begun

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection

log = logging.getLogger("jackalope.server")


def hold(connection: Connection, came: int) -> None:
    """Count the octets of the connection's messages that are not whole, or held; `came` octets have come for them."""
    octets, begun = connection.assembling_bytes, connection.begun
    if connection.held is not None:
        octets += connection.held.octets
    if octets <= LARGE_BYTES:
        if begun is not None:
            connection.begun = None
            begun.let_go()
        return
    if begun is None:
        begun = connection.begun = Begun(
            connection.hub.unfinished,
            partial(_on_room, connection),
            partial(_turn_out, connection),
            lambda: connection.paused,
        )
    begun.has_come(came)
    begun.holds(octets)


def _on_room(connection: Connection) -> None:
    """There is room for the messages that come."""
    if connection.transport is not None:
        connection.transport.resume()


def _turn_out(connection: Connection) -> None:
    text = "closed: peer=%s:%s others wait for the room that its messages take"
    connection.hub.log_lines.info(log, text, *connection.peer[:2])
    connection.transport.close()

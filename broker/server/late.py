"""Parts of the broker that are imported after it has said that it is ready, or when somebody first needs them.

A part is imported module by module, and others have their turn in between: all of one at once would hold the loop for
40 to 80 ms.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from importlib import import_module

import trio

from broker.log.disk import NO_HANDLES

log = logging.getLogger("jackalope.server")

RETRY_S = 1.0

AMQP_PART = (
    "broker.server.amqp.transaction", "broker.server.amqp.methods_basic", "broker.server.amqp.connection",
    "broker.server.amqp.door",
)  # fmt: skip
KAFKA_PART = (
    "broker.server.bulk", "msgspec", "broker.core.groups.values", "broker.core.groups.coordinator",
    "broker.server.groups", "broker.server.kafka.fetch", "broker.server.kafka.connection", "broker.server.kafka.hub",
    "broker.server.scram", "broker.server.kafka.door",
)  # fmt: skip
HTTP_PART = (
    "h11", "broker.core.vhosts.redelivery", "broker.core.streams.letters", "broker.server.http.messages",
    "broker.server.http.views", "broker.server.http.api", "broker.server.http.browse", "broker.server.http.topics",
    "broker.server.http.groups", "broker.server.http.records", "broker.server.http.topology",
    "broker.server.http.server",
)  # fmt: skip
"""Each module after those that it imports."""


async def import_part(part: Sequence[str]) -> None:
    """Import the modules of a part, with a checkpoint after each; out of handles it waits for some to come back."""
    for name in part:
        while True:
            try:
                import_module(name)
                break
            except OSError as error:
                if error.errno not in NO_HANDLES:
                    raise
                log.error("%s cannot be imported yet: %s", name, error)
                await trio.sleep(RETRY_S)
        await trio.lowlevel.checkpoint()


async def first_visitor(sockets: Sequence[socket.socket]) -> None:
    """Wait until somebody connects to one of these listening sockets; nobody is accepted yet."""
    async with trio.open_nursery() as nursery:
        for sock in sockets:
            nursery.start_soon(_visited, nursery.cancel_scope, sock)


async def _visited(others: trio.CancelScope, sock: socket.socket) -> None:
    await trio.lowlevel.wait_readable(sock)
    others.cancel()

"""A slot: the place of one answer among those of its connection, which are sent in the order of the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.server.kafka.owed import held_size
from protocol.kafka.headers import RequestHeader, write_response

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.machine import Octets


class Slot:
    """The place of one answer among those of its connection."""

    __slots__ = ("answered", "connection", "header", "held", "parts")

    def __init__(self, connection: KafkaConnection, header: RequestHeader) -> None:
        self.connection = connection
        self.header = header
        self.answered = False
        self.parts: Octets = ()
        self.held = 0  # Octets of them that are in memory.

    def answer(self, response: Any) -> None:
        """Send this when all answers before it have gone. The peer may be gone: then nothing happens."""
        connection = self.connection
        if not connection.finished and not self.answered:
            self._has(write_response(self.header, response))

    def answer_raw(self, parts: Octets) -> None:
        """The same of octets that are a frame already."""
        if not self.connection.finished and not self.answered:
            self._has(parts)

    def _has(self, parts: Octets) -> None:
        self.parts = parts
        self.answered = True
        self.held = held_size(parts)
        self.connection.debt.add(self.held)
        self.connection.answers_came()

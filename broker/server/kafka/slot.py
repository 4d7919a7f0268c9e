"""A slot: the place of one answer among those of its connection, which are sent in the order of the requests.

What was asked in many steps is written in many steps as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from broker.server.kafka.owed import memory_size
from protocol.kafka.headers import RequestHeader, response_steps, write_response

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.machine import Octets

WRITE_UNITS = 500
"""What it costs to write the elements between two pauses."""


class Slot:
    """The place of one answer among those of its connection."""

    __slots__ = ("answered", "connection", "header", "is_long", "memory_size", "parts")

    def __init__(self, connection: KafkaConnection, header: RequestHeader) -> None:
        self.connection = connection
        self.header = header
        self.answered = False
        self.is_long = False  # What is asked takes many steps.
        self.parts: Octets = ()
        self.memory_size = 0  # Octets of them that are in memory.

    def answer(self, response: Any) -> None:
        """Send this when all answers before it have gone. The peer may be gone: then nothing happens."""
        connection = self.connection
        if connection.finished or self.answered:
            return
        if self.is_long:
            connection.pledged_count += 1
            connection.hub.hub.scheduler.add_job(self._guarded(response))
        else:
            self._has(write_response(self.header, response))

    def _guarded(self, response: Any) -> Iterator[int]:
        try:
            yield from self.answer_in_steps(response)
        except Exception:  # noqa: BLE001 - see end_by_bug
            self.connection.end_by_bug()
        self.connection.pledged_count -= 1
        self.connection.go_on()

    def answer_in_steps(self, response: Any) -> Iterator[int]:
        """Do what `answer` does; yields units of work, and stops when the peer is gone."""
        steps = response_steps(self.header, response)
        while not self.connection.finished and not self.answered:
            try:
                next(steps)
            except StopIteration as done:
                self._has(done.value)
            else:
                yield WRITE_UNITS

    def answer_raw(self, parts: Octets) -> None:
        """The same of octets that are a frame already."""
        if not self.connection.finished and not self.answered:
            self._has(parts)

    def _has(self, parts: Octets) -> None:
        self.parts = parts
        self.answered = True
        self.memory_size = memory_size(parts)
        self.connection.debt.add(self.memory_size)
        self.connection.answers_came()

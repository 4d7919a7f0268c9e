"""Requests that may have very many elements are read in steps: everybody else has a turn meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.server.kafka.handlers import SERVED
from protocol.kafka.headers import UnsupportedVersion, request_steps
from protocol.kafka.schema import MalformedRequest

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection

READ_AT_ONCE_BYTES, READ_UNITS = 32 << 10, 500
"""What is larger is read in steps, of which each costs so much."""
PRODUCE = b"\0\0"


def is_long(data: memoryview) -> bool:
    """Whether a request is to be read in steps: none of a producer's, whose records are left alone as they are."""
    return len(data) > READ_AT_ONCE_BYTES and data[:2] != PRODUCE


def read_on(connection: KafkaConnection, data: memoryview) -> Iterator[int]:
    """Read the request, as a job of the scheduler; those behind it wait. A bug ends the connection."""
    steps = request_steps(data, SERVED)
    try:
        while not connection.finished:
            try:
                next(steps)
            except StopIteration as done:
                connection.working = False
                connection.on_read(*done.value)
                connection.go_on()
                return
            yield READ_UNITS
    except (UnsupportedVersion, MalformedRequest) as error:
        connection.working = False
        connection.not_read(error)
        connection.go_on()
    except Exception:  # noqa: BLE001 - see end_by_bug
        connection.end_by_bug()

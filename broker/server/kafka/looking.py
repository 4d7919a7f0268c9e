"""Requests for which batches are looked into, record by record: at once where that is little, else in slices.

A batch of a kilobyte may hold a million records. Only some requests are looked into at a time: each may have one large
record opened. The others wait for their turn, and with them only their own connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.server.kafka.connection import KafkaConnection

AT_ONCE_UNITS = 2000
AT_A_TIME = 2
"""Each may have a record of 64 MiB opened, and a copy."""


def is_done_soon(steps: Iterator[int]) -> bool:
    """Take steps up to AT_ONCE_UNITS; whether they have come to their end."""
    units = 0
    for cost in steps:
        units += cost
        if units >= AT_ONCE_UNITS:
            return False
    return True


class Looking:
    """What takes longer. One of each process."""

    __slots__ = ("_count", "_scheduler", "_waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._count = 0
        self._waiting: deque[tuple[KafkaConnection, Iterator[int], Callable[[], None]]] = deque()

    def go_on(self, connection: KafkaConnection, steps: Iterator[int], then: Callable[[], None]) -> None:
        """Take the other steps in slices, then call `then`; neither for a peer that is gone."""
        self._waiting.append((connection, steps, then))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._count < AT_A_TIME:
            self._count += 1
            self._scheduler.add_job(self._job(*self._waiting.popleft()))

    def _job(self, connection: KafkaConnection, steps: Iterator[int], then: Callable[[], None]) -> Iterator[int]:
        try:
            while not connection.finished and (units := next(steps, None)) is not None:
                yield units
        finally:
            self._count -= 1
            self._begin()
        if not connection.finished:
            then()

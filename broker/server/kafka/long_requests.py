"""Requests for which batches are looked into, record by record, and that take long.

A batch of a kilobyte may hold a million records. Only some requests are looked into at a time: each may have one large
record opened. The others wait for their turn, and with them only their own connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.server.kafka.connection import KafkaConnection

AT_A_TIME = 2
"""Each may have a record of 64 MiB opened, and a copy."""


class LongRequests:
    """See the module. One of each process."""

    __slots__ = ("_count", "_scheduler", "_waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._count = 0
        self._waiting: deque[tuple[KafkaConnection, Iterator[int]]] = deque()

    def add(self, connection: KafkaConnection, job: Iterator[int]) -> None:
        """Have the scheduler do the job when it has its turn; it is dropped when its peer is gone by then."""
        self._waiting.append((connection, job))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._count < AT_A_TIME:
            connection, job = self._waiting.popleft()
            if not connection.finished:
                self._count += 1
                self._scheduler.add_job(self._take(job))

    def _take(self, job: Iterator[int]) -> Iterator[int]:
        try:
            yield from job
        finally:
            self._count -= 1
            self._begin()

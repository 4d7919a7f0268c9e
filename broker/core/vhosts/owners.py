"""Exclusive queues and the connections that own them: they go together, the queues in slices when they are many.

What is left of a connection's queues while they go is found by nobody who names it, since that drops it at once
(RabbitMQ's rabbit_queue_collector.erl has deleted all of them before it answers connection.close).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from broker.core.scheduler import Scheduler

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue

DROPPED_AT_ONCE = 100
DROP_UNITS = 10
"""What it costs to drop one queue, for the scheduler."""


class Owners:
    """The owners of one vhost; `drop` deletes a queue, and tells `forget` of it."""

    __slots__ = ("_drop", "_leaving", "_owned", "_scheduler")

    def __init__(self, scheduler: Scheduler, drop: Callable[[Queue], None]) -> None:
        self._scheduler = scheduler
        self._drop = drop
        self._owned: dict[object, dict[Queue, None]] = {}
        self._leaving: set[object] = set()

    def add(self, queue: Queue) -> None:
        """A queue has been declared, perhaps an exclusive one."""
        if queue.owner is not None:
            self._owned.setdefault(queue.owner, {})[queue] = None

    def forget(self, queue: Queue) -> None:
        """It is deleted."""
        owned = self._owned.get(queue.owner)
        if owned is not None:
            owned.pop(queue, None)

    def present(self, queue: Queue | None) -> Queue | None:
        """The queue, if it is there and its owner as well; one without goes now."""
        if queue is None or queue.owner is None or queue.owner not in self._leaving:
            return queue
        self._drop(queue)
        return None

    def leave(self, connection: object) -> None:
        """A connection has ended: its queues go."""
        if connection not in self._owned or connection in self._leaving:
            return
        self._leaving.add(connection)
        job = self._drop_all(connection)
        if next(job, None) is not None:
            self._scheduler.add_job(job)

    def _drop_all(self, connection: object) -> Iterator[int]:
        owned = self._owned[connection]
        while owned:
            some = list(islice(owned, DROPPED_AT_ONCE))
            for queue in some:
                self._drop(queue)
            if owned:
                yield len(some) * DROP_UNITS
        del self._owned[connection]
        self._leaving.discard(connection)

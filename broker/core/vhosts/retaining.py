"""What is asked of the logs of queues: to keep what was delivered, and to be open to Kafka's clients.

`x-retain` (time), `x-retain-bytes`, or a policy with `retain`, `retain-bytes`: a queue's log is told from which offset
on settled messages stay (`Log.keep_from`). Here that offset moves, in slices, as what is kept becomes too old or too
much: as with topics, by whole batches from the front. Both counts include what still waits in the queue, which is not
dropped by it: it is only not kept once it is delivered. For Kafka's clients see `topics.queues`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.core.topics.retention import BATCHES_AT_ONCE, LOOK_UNITS, start_by_bytes, start_by_time
from broker.log.errors import StorageError
from broker.log.recovering import NOTHING_KEPT

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost


class Retaining:
    """Of the queues of a vhost; `queues` are those that keep something."""

    __slots__ = ("_due_ms", "_home", "_is_looking", "queues")

    def __init__(self, home: VHost) -> None:
        self.queues: dict[Queue, None] = {}
        self._home = home
        self._due_ms = 0
        self._is_looking = False

    def follow(self, queue: Queue) -> None:
        """The queue keeps what its rules say now, and is as open; when it is to keep nothing, what was kept goes."""
        log = queue.store.log
        if log is None or not log.durable:
            return
        if queue.rules.retains:
            self.queues[queue] = None
            if log.kept_from == NOTHING_KEPT:
                log.keep_from(log.settled.floor)
        else:
            self.queues.pop(queue, None)
            log.keep_from(NOTHING_KEPT)
        if self._home.topics is not None:
            try:
                self._home.topics.queues.follow(queue)
            except TopicRefused as refused:
                text = f"queue '{queue.name}' in vhost '{self._home.name}' is not shown to Kafka's clients"
                self._home.scheduler.report(text, refused)

    def forget(self, queue: Queue) -> None:
        """The queue is gone."""
        self.queues.pop(queue, None)
        if self._home.topics is not None:
            self._home.topics.queues.forget(queue)

    def tick(self, now_ms: int) -> None:
        """Time has passed, on the monotonic clock: look, now and then, for what is too old or too much."""
        if self.queues and now_ms >= self._due_ms and not self._is_looking:
            self._is_looking = True
            self._due_ms = now_ms + self._home.limits.retention_check_ms
            self._home.scheduler.add_job(self._look())

    def _look(self) -> Iterator[int]:
        scheduler = self._home.scheduler
        for queue in list(self.queues):
            try:
                yield from self._expire(queue, scheduler.wall_ms)
            except (StorageError, OSError) as error:
                scheduler.report(f"what queue '{queue.name}' has kept for too long stays for now", error)
        self._is_looking = False

    def _expire(self, queue: Queue, now_ms: int) -> Iterator[int]:
        rules, log = queue.rules, queue.store.log
        assert log is not None
        if queue in self.queues and rules.retain_bytes is not None:
            log.keep_from(start_by_bytes(log, log.kept_from, rules.retain_bytes))
            yield LOOK_UNITS
        count = BATCHES_AT_ONCE
        while queue in self.queues and rules.retain_ms is not None and count == BATCHES_AT_ONCE:
            start, count = start_by_time(log, log.kept_from, now_ms - rules.retain_ms)
            log.keep_from(start)
            yield LOOK_UNITS + count

"""Dead letters that wait, under `at-least-once`: each stays in its queue until all queues it goes to have taken it.

RabbitMQ's quorum queues with `x-dead-letter-strategy: at-least-once` and `overflow: reject-publish`; here any queue. A
letter waits while nothing is bound behind the dead letter exchange, or while a queue there refuses what is published.
It counts towards the limits of its queue meanwhile, is with nobody, and after a restart is ready again. Letters to the
same place leave in the order in which they died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from broker.core.message import Message
from protocol.amqp.content import body_size

if TYPE_CHECKING:
    from broker.core.queue import Queue

Letter = tuple[int, Message, str]
"""(offset, message, reason of its death)."""
RETRY_MS = 1000
BATCH = 64


class Limbo:
    """The waiting dead letters of one queue; they are leased, and not settled."""

    __slots__ = ("_due_ms", "_elsewhere", "_queue", "_trying", "_waiting", "body_bytes")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: deque[Letter] = deque()
        self._trying = False
        self._due_ms = 0
        self._elsewhere = 0
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """These died: they go at once, unless others wait."""
        letters = [(offset, message, reason) for offset, message in zip(offsets, messages, strict=True)]
        if self._waiting:
            self._tried(letters, letters)
        else:
            self._queue.bury_surely(self._queue, letters, self._tried)

    def _tried(self, letters: Sequence[Letter], left: Sequence[Letter]) -> None:
        """Of these letters `left` could not go; in the turn that moved the others they are settled."""
        stays = {offset for offset, _, _ in left}
        self._queue.settle([offset for offset, _, _ in letters if offset not in stays])
        self._waiting.extend(left)
        self.body_bytes += sum(body_size(message[1]) for _, message, _ in left)
        if self._waiting and not self._trying:
            self._wait()

    def _wait(self) -> None:
        self._due_ms = self._queue.scheduler.wall_ms + RETRY_MS
        self._queue.scheduler.timed.add(self)

    def tick(self) -> None:
        """Time has passed: try again."""
        queue = self._queue
        if not self._waiting or queue.deleted:
            queue.scheduler.timed.discard(self)
        elif queue.scheduler.wall_ms >= self._due_ms and not self._trying:
            self._trying = True
            queue.scheduler.add_job(self._try_again())

    def _try_again(self) -> Iterator[int]:
        """One pass from the front. Where a whole batch cannot go, one other is tried, each time another one: what waits
        for one queue must not hold up for ever what goes elsewhere."""
        position = 0
        while position < len(self._waiting) and not self._queue.deleted:
            count, left = self._try_batch(position)
            if left < count:
                position += left
            elif position:
                break
            else:
                position = self._elsewhere = (self._elsewhere + BATCH) % len(self._waiting)
                if not position:
                    break
            yield BATCH * 10
        self._trying = False
        self._wait()

    def _try_batch(self, position: int) -> tuple[int, int]:
        """Try some letters from a position on: (how many, how many of them stay where they are)."""
        waiting = self._waiting
        waiting.rotate(-position)
        letters = [waiting.popleft() for _ in range(min(BATCH, len(waiting) - position))]
        self.body_bytes -= sum(body_size(message[1]) for _, message, _ in letters)
        before = len(waiting)
        if self._queue.rules.at_least_once:
            self._queue.bury_surely(self._queue, letters, self._tried)
        else:
            self._give_up(letters)
        left = len(waiting) - before
        waiting.rotate(left + position)
        return len(letters), left

    def _give_up(self, letters: Sequence[Letter]) -> None:
        """A policy has changed: these go as others do now."""
        for offset, message, reason in letters:
            self._queue.drop((message,), (offset,), reason)

    def purge(self) -> int:
        """They are all dropped; returns how many."""
        offsets = [offset for offset, _, _ in self._waiting]
        self._waiting.clear()
        self.body_bytes = 0
        self._queue.settle(sorted(offsets))
        return len(offsets)

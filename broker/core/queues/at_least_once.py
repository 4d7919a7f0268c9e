"""Dead letters that wait, under `at-least-once`: each stays in its queue until all queues it goes to have taken it.

RabbitMQ's quorum queues with `x-dead-letter-strategy: at-least-once` and `overflow: reject-publish`; here any queue. A
letter waits while nothing is bound behind the dead letter exchange, or while a queue there refuses what is published.
It counts towards the limits of its queue meanwhile, is with nobody, and after a restart is ready again. Letters to the
same place leave in the order in which they died. When many wait, most are in the log only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from broker.core.message import Message, memory_of
from protocol.amqp.content import body_size

if TYPE_CHECKING:
    from broker.core.queues.host import Host, Letter

_Waiting = tuple[int, "Message | None", str]
"""A `Letter`; None where the message is in the log only."""
RETRY_MS = 1000
TRIED_PER_MS = 10
"""A pass over many letters is followed by a pause as long as this many of them take a millisecond."""
BATCH = 64
HELD_BYTES_MAX = 8 << 20
"""Octets of messages that are kept in memory; those of others are read from the log each time."""


class AtLeastOnce:
    """The waiting dead letters of one queue; they are leased, and not settled."""

    __slots__ = ("_ahead", "_due_ms", "_held_bytes", "_late", "_queue", "_trying", "_waiting", "body_bytes")

    def __init__(self, queue: Host) -> None:
        self._queue = queue
        self._waiting: deque[_Waiting] = deque()
        self._ahead: deque[_Waiting] = deque()  # During a pass: those that it has not come to; `_waiting` stayed.
        self._late: deque[_Waiting] = deque()  # Those that died meanwhile.
        self._held_bytes = 0
        self._trying = False
        self._due_ms = 0
        self.body_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ahead) + len(self._late)

    def letters(self) -> Iterator[tuple[int, Message | None, str]]:
        """(offset, message, reason) of all, in order; None for a message that is in the log only."""
        return chain(self._waiting, self._ahead, self._late)

    def add(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """These died: they go at once, unless others wait."""
        letters = [(offset, message, reason) for offset, message in zip(offsets, messages, strict=True)]
        if self._trying:
            self._keep(letters, self._late)
        elif self._waiting:
            self._keep(letters, self._waiting)
        else:
            self._queue.offer(letters, self._tried, set())

    def _tried(self, letters: Sequence[Letter], left: Sequence[Letter]) -> None:
        """Of these letters `left` could not go; in the turn that moved the others they are settled."""
        stays = {offset for offset, _, _ in left}
        self._queue.store.settle([offset for offset, _, _ in letters if offset not in stays])
        self._keep(left, self._waiting)
        if self._waiting and not self._trying:
            self._wait(RETRY_MS)

    def _keep(self, letters: Sequence[Letter], where: deque[_Waiting]) -> None:
        store = self._queue.store
        for letter in letters:
            offset, message, reason = letter
            self.body_bytes += body_size(message[1])
            if self._held_bytes < HELD_BYTES_MAX or not store.keeps(message):
                self._held_bytes += memory_of(message)
                where.append(letter)
            else:
                where.append((offset, None, reason))

    def _wait(self, pause_ms: int) -> None:
        self._due_ms = self._queue.scheduler.wall_ms + pause_ms
        self._queue.scheduler.timed.ask(self, self._due_ms)

    def tick(self) -> None:
        """Time has passed: try again."""
        queue = self._queue
        if not self or queue.deleted or self._trying:
            return
        if queue.scheduler.wall_ms < self._due_ms:
            # This was for letters that were purged: those that have come since have a later time.
            queue.scheduler.timed.ask(self, self._due_ms)
        else:
            self._trying = True
            self._ahead, self._waiting = self._waiting, deque()
            queue.scheduler.add_job(self._try_again())

    def _try_again(self) -> Iterator[int]:
        """One pass over all of them, in order. A queue that has refused one gets none of those behind it, so what waits
        for one queue holds up nothing that goes elsewhere, and nothing overtakes."""
        queue, rules = self._queue, self._queue.rules
        blocked: set[object] = set()
        one_place = rules.dead_letter_exchange == "" and rules.dead_letter_routing_key is not None
        tried = 0
        while self._ahead and not queue.deleted and not (one_place and blocked):
            letters = self._take()
            tried += len(letters)
            if queue.rules.at_least_once:
                queue.offer(letters, self._tried, blocked)
            else:
                self._give_up(letters)
            yield BATCH * queue.death_units
        self._waiting += self._ahead
        self._waiting += self._late
        self._ahead.clear()
        self._late.clear()
        self._trying = False
        if self._waiting:
            self._wait(max(RETRY_MS, tried // TRIED_PER_MS))

    def _take(self) -> list[Letter]:
        """The next batch, with messages; what cannot be read now stays."""
        some = [self._ahead.popleft() for _ in range(min(BATCH, len(self._ahead)))]
        in_log = sorted(offset for offset, message, _ in some if message is None)
        read = dict(self._queue.store.read_each(in_log)) if in_log else {}
        letters: list[Letter] = []
        for offset, held, reason in some:
            message = held or read.get(offset)
            if message is None:
                self._waiting.append((offset, None, reason))
                continue
            if held is not None:
                self._held_bytes -= memory_of(held)
            self.body_bytes -= body_size(message[1])
            letters.append((offset, message, reason))
        return letters

    def _give_up(self, letters: Sequence[Letter]) -> None:
        """A policy has changed: these go as others do now."""
        for offset, message, reason in letters:
            self._queue.drop((message,), (offset,), reason)

    def purge(self) -> int:
        """They are all dropped; returns how many."""
        offsets = sorted(offset for offset, _, _ in self.letters())
        for some in (self._waiting, self._ahead, self._late):
            some.clear()
        self.body_bytes = self._held_bytes = 0
        self._queue.store.settle(offsets)
        return len(offsets)

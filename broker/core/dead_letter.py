"""Where dead letters go: from a queue to its dead letter exchange, and to the queues behind it.

All of a turn are moved in it, so that they leave one log and enter another in one frame: none is lost, none doubled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.deaths import Grave, bury, is_cycle
from broker.core.message import Incoming, Message
from broker.core.routing import route
from protocol.amqp.errors import PeerError

if TYPE_CHECKING:
    from broker.core.queue import Queue
    from broker.core.vhost import VHost


class DeadLetters:
    """The dead letters of one vhost: all of a turn are moved in it, so that a crash moves all or none of them."""

    __slots__ = ("_busy", "_vhost", "_waiting", "dropped_count")

    def __init__(self, vhost: VHost) -> None:
        self._vhost = vhost
        self._waiting: deque[tuple[Queue, Sequence[Message], str]] = deque()
        self._busy = False
        self.dropped_count = 0
        """Dead letters that no queue took."""

    def add(self, queue: Queue, messages: Sequence[Message], reason: str) -> None:
        """These messages, settled already, died in a queue that has a dead letter exchange.

        What dies on its way (a full queue behind the exchange) is dealt with in a loop, not by recursion.
        """
        self._waiting.append((queue, messages, reason))
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._move(*self._waiting.popleft())
        finally:
            self._busy = False

    def _move(self, queue: Queue, messages: Sequence[Message], reason: str) -> None:
        rules = queue.rules
        vhost = self._vhost
        assert rules.dead_letter_exchange is not None
        for message in messages:
            grave = bury(message, queue.name, reason, rules.dead_letter_exchange, rules.dead_letter_routing_key,
                         vhost.scheduler.wall_ms)  # fmt: skip
            taken = False
            for target in self._targets(rules.dead_letter_exchange, grave):
                if not is_cycle(grave.deaths, target.name) and target.enqueue_one(grave.message):
                    taken = True
            self.dropped_count += not taken

    def _targets(self, exchange_name: str, grave: Grave) -> Sequence[Queue]:
        vhost = self._vhost
        if not exchange_name:
            found = (vhost.queues.get(key) for key in grave.keys)
            return tuple(dict.fromkeys(queue for queue in found if queue is not None))
        exchange = vhost.exchanges.get(exchange_name)
        if exchange is None:
            return ()
        exchange.published_count += 1
        publication = Incoming(exchange_name, grave.keys[0], grave.message, vhost.scheduler.wall_ms)
        try:
            return route(vhost.exchanges, exchange, publication, grave.keys[1:])
        except PeerError:
            return ()

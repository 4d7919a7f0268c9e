"""Where dead letters go: from a queue to its dead letter exchange, and to the queues behind it.

All of a turn are moved in it, so that they leave one log and enter another in one frame: none is lost, none doubled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.core.arguments import is_name
from broker.core.message import Incoming, Message
from broker.core.queues.x_death import DeadLetterMaker, is_cycle
from broker.core.sink import Sink
from broker.core.vhosts.publishing import deliver, find_for_nobody
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

if TYPE_CHECKING:
    from broker.core.queues.host import Letter, Tried
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost


class DeadLetters:
    """The dead letters of one vhost: all of a turn are moved in it, so that a crash moves all or none of them.

    What dies on its way (a full queue behind the exchange) is dealt with in a loop, not by recursion.
    """

    __slots__ = ("_busy", "_maker", "_told", "_vhost", "_waiting", "dropped_count")

    def __init__(self, vhost: VHost) -> None:
        self._vhost = vhost
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False
        self._maker = DeadLetterMaker()
        self._told: set[str] = set()  # Queues whose rules nothing can follow, and that were reported.
        self.dropped_count = 0
        """Dead letters, and delayed messages that were due, that no queue took."""

    def add(self, queue: Queue, messages: Sequence[Message], reason: str) -> None:
        """These messages, settled already, died in a queue that has a dead letter exchange."""
        self._do(lambda: self._move(queue, messages, reason))

    def add_at_least_once(self, queue: Queue, letters: Sequence[Letter], tried: Tried, blocked: set[object]) -> None:
        """These died as well, and are not settled: `tried` is told which of them could not go, in the same turn.

        None goes to a queue of `blocked`; those that refuse one are added, so that what is behind it stays there.
        """
        self._do(lambda: tried(letters, self._move_whole(queue, letters, blocked)))

    def _do(self, move: Callable[[], None]) -> None:
        self._waiting.append(move)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._busy = False

    def _move(self, queue: Queue, messages: Sequence[Message], reason: str) -> None:
        run: list[Message] = []
        run_targets: Sequence[Sink] = ()
        for message in messages:
            letter, targets = self._open(queue, message, reason)
            if run and targets != run_targets:
                _enqueue(run, run_targets)
                run = []
            if targets and not any(target.rejects for target in targets):
                run.append(letter.message)
                run_targets = targets
                continue
            taken, _ = deliver(None, targets, letter.message, letter)
            if not taken:
                self.dropped_count += 1
        if run:
            _enqueue(run, run_targets)

    def _move_whole(self, queue: Queue, letters: Sequence[Letter], blocked: set[object]) -> Sequence[Letter]:
        """Each to every queue behind the exchange, or to none of them; returns those that went to none."""
        left = []
        for one in letters:
            _, message, reason = one
            letter, targets = self._open(queue, message, reason)
            if targets and blocked.isdisjoint(targets) and all(target.accepts(letter.message) for target in targets):
                deliver(None, targets, letter.message, letter)
            else:
                blocked.update(targets)
                letter.forget()
                left.append(one)
        return left

    def _open(self, queue: Queue, message: Message, reason: str) -> tuple[Incoming, Sequence[Sink]]:
        """What becomes of a message, and the queues it is to go to."""
        exchange, routing_key = queue.rules.dead_letter_exchange, queue.rules.dead_letter_routing_key
        wall_ms = self._vhost.scheduler.wall_ms
        if exchange is None or not self._is_possible(queue, exchange, routing_key or ""):
            return Incoming("", "", message, wall_ms), ()
        dead = self._maker.make(message, queue.name, reason, exchange, routing_key, wall_ms)
        letter = Incoming(exchange, dead.keys[0], dead.message, wall_ms)
        # What waits in an exchange that delays may have the name of a queue, and is none.
        target_of = self._vhost.target
        targets = [
            target
            for target in self._targets(letter, dead.keys)
            if target_of(target.name) is not target or not is_cycle(dead.deaths, target.name)
        ]
        return letter, targets

    def _is_possible(self, queue: Queue, exchange: str, routing_key: str) -> bool:
        """Whether any message can be sent there: what was declared before names were checked is kept in the catalog."""
        if is_name(exchange) and is_name(routing_key):
            return True
        if queue.name not in self._told:
            self._told.add(queue.name)
            reason = Refused(PRECONDITION_FAILED, "its dead letter exchange or routing key is too long for AMQP")
            where = f"queue '{queue.name}' in vhost '{self._vhost.name}'"
            self._vhost.scheduler.report(f"{where} cannot send its dead letters anywhere", reason)
        return False

    def _targets(self, letter: Incoming, keys: Sequence[str]) -> Sequence[Sink]:
        exchange = self._vhost.exchanges.get(letter.exchange)
        if exchange is not None:
            exchange.published_count += 1
        return find_for_nobody(self._vhost, letter, keys[1:])


def _enqueue(messages: list[Message], targets: Sequence[Sink]) -> None:
    """Dead letters have no expiration, and these queues refuse nothing: they go in one run."""
    for target in targets:
        target.enqueue(messages)

"""What waits in an x-delayed-message exchange: a queue that nobody consumes from, and whose messages leave when due.

When it is due a message is settled here and enqueued where its exchange routes it, in one turn: one frame, so that a
crash moves it or leaves it. Its `x-delay` is then negative (as RabbitMQ's plugin has it), so that no other delayed
exchange on its way makes it wait again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.exchange.delayed import HEADER, delay_ms
from broker.core.message import Incoming, Message, further_keys, origin_names
from broker.core.queues.effective_policy import Rules
from broker.core.queues.limits import Limits
from broker.core.queues.queue import Queue
from broker.core.vhosts.publishing import deliver, find
from broker.errors import Refused
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import with_entries

if TYPE_CHECKING:
    from broker.core.exchange.exchange import Exchange
    from broker.core.vhosts.vhost import VHost
    from broker.log.log import Log

_HEADERS = frozenset({"headers"})


def _delay_of(content: bytes) -> int:
    """Its delay in ms; of what cannot be read 0, so that it waits for nothing."""
    try:
        return delay_ms(wire.parse_properties(wire.header_payload(content), _HEADERS).get("headers") or {})
    except PeerError:
        return 0


def _sent(content: bytes) -> bytes:
    """The content with its delay behind it. Raises PeerError 502 for malformed headers."""
    delay = _delay_of(content)
    if not delay:
        return content
    table = with_entries(wire.property_octets(content, "headers"), {HEADER: -delay})
    return wire.with_properties(content, {"headers": table})


class _DelayLimits(Limits):
    """Due times come from `x-delay`."""

    __slots__ = ()

    def wait_ms(self, content: bytes) -> int | None:
        return _delay_of(content)


class DelayQueue(Queue):
    """The messages of one exchange that are not due yet."""

    __slots__ = ("_exchange", "_home")

    limits_type = _DelayLimits

    def __init__(self, home: VHost, exchange: Exchange, log: Log | None) -> None:
        super().__init__(exchange.name, home.name, home.scheduler, durable=exchange.durable, store=home.store, log=log)
        self._home = home
        self._exchange = exchange
        self.watch()
        self.rules = Rules(dead_letter_exchange=exchange.name)  # What expires goes to `dead_letter`.
        self.dead_letter = self._release

    def recover(self, *, clean: bool, has_expirations: bool = True) -> None:
        """After a restart: find out in slices what is due when."""
        super().recover(clean=clean, has_expirations=has_expirations)
        self.watch().look_through()

    @property
    def delayed_count(self) -> int:
        """All that is in it."""
        return self.ready_count

    @property
    def place(self) -> str:
        return f"x-delayed-message exchange '{self.name}' in vhost '{self.vhost}'"

    def _release(self, _queue: Queue, messages: Sequence[Message], _reason: str) -> None:
        """These are due."""
        home = self._home
        for message in messages:
            origin, content = message
            publication = Incoming(self._exchange.name, origin_names(origin)[1], message, self.scheduler.wall_ms)
            try:
                publication.message = (origin, _sent(content))
                keys = further_keys(origin, publication.headers)
                sinks = find(home, self._exchange, publication, keys)
            except (PeerError, Refused):
                sinks = ()  # Headers or a key that the exchange cannot route by; nobody waits for an answer any more.
            # It was counted when it was published.
            taken, _ = deliver(None, sinks, publication.message, publication)
            if not taken:
                home.dead_letters.dropped_count += 1

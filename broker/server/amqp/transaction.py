"""tx on one channel (spec 1.9): publishes and settlements that wait for commit.

Checks happen when the methods come, effects at commit (RabbitMQ 3.5/64). Rollback drops the publishes and gives the
settled deliveries back to the channel as unacknowledged; it does not requeue them. What an exchange remembers of its
messages is an effect as well, so whatever may come to such a one is routed at commit.

A commit is one turn, so that it is in one frame whole: the limits of a transaction bound how long it holds the loop,
1 µs a regular message of the same kind as the last, 11 µs one with an expiration or that is deduplicated.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.core.exchange.exchange import Exchange
from broker.core.exchange.routing import remembers
from broker.core.message import Incoming, Message, has_expiration, memory_of
from broker.core.queues.dispatch import Lease
from broker.core.vhosts.publishing import find
from broker.errors import Refused
from broker.server.amqp import settle
from broker.server.amqp.publish import Run, enqueue_runs
from broker.server.amqp.routes import RUN_MAX, Port
from protocol.amqp.errors import PRECONDITION_FAILED, RESOURCE_ERROR, PeerError

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection
    from broker.server.amqp.settings import AmqpSettings


ENDED, REJECTED, RETURNED = range(3)


class Publish(NamedTuple):
    """A message that waits for the commit. `queues` is None if it is routed only then, by `incoming` and `more_keys`;
    `incoming` is None if a cache knew where it goes."""

    exchange: Exchange | None
    queues: tuple[Any, ...] | None
    message: Message
    mandatory: bool
    incoming: Incoming | None
    more_keys: tuple[str, ...]


def is_late(connection: Connection, port: Port) -> bool:
    """Whether what is published there may be remembered by an exchange on its way."""
    exchange = port.exchange
    return exchange is not None and not port.cacheable and remembers(connection.vhost.exchanges, exchange)


class Transaction:
    """What has happened since tx.select or the last commit or rollback."""

    __slots__ = ("_bytes", "_is_late", "publishes", "settlements")

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self.settlements: list[tuple[int, Lease, int]] = []  # (delivery tag, lease, ENDED or REJECTED or RETURNED)
        self._bytes = 0
        self._is_late = False  # Some of the publishes are routed at the commit.

    def add_publish(self, publish: Publish, settings: AmqpSettings) -> None:
        """Keep a publish. Raises PeerError 506 when the transaction grows past its limits."""
        self._bytes += memory_of(publish.message)
        if publish.more_keys:
            self._bytes += sum(map(getsizeof, publish.more_keys))
        if len(self.publishes) >= settings.tx_messages_max or self._bytes > settings.tx_bytes_max:
            raise PeerError(RESOURCE_ERROR, "transaction too large")
        self._is_late = self._is_late or publish.queues is None
        self.publishes.append(publish)

    def add_settlement(self, tagged: list[tuple[int, Lease]], outcome: int) -> None:
        """Keep an ack, a reject or a requeueing nack of these leases."""
        self.settlements += [(tag, lease, outcome) for tag, lease in tagged]

    def commit(self, channel: Channel) -> None:
        """Publishes in order, then settlements; the transaction is empty afterwards.

        Raises PeerError and Refused if one cannot be routed; then nothing has happened. Raises Refused 406 if a queue
        refused one; then all the rest has happened (RabbitMQ: rabbit_channel.erl, complete_tx).
        """
        publishes = self._routed(channel.connection) if self._is_late else self.publishes
        settlements = self.settlements
        self._clear()
        whole = _publish(channel, publishes)
        store = channel.connection.broker.store
        if store is not None:
            holders = {lease[0] for _, lease, outcome in settlements if outcome != RETURNED}
            if any(holder.queue.kept for holder in holders):
                store.promised_count += 1  # commit-ok says that they will not come again.
        settle.end_leases([lease for _, lease, outcome in settlements if outcome == ENDED])
        settle.reject_leases(lease for _, lease, outcome in settlements if outcome == REJECTED)
        returned = [lease for _, lease, outcome in settlements if outcome == RETURNED]
        settle.return_in_slices(channel.connection.broker.scheduler, returned)
        if not whole:
            raise Refused(PRECONDITION_FAILED, "partial tx completion")

    def _clear(self) -> None:
        self.publishes, self.settlements, self._bytes, self._is_late = [], [], 0, False

    def _routed(self, connection: Connection) -> list[Publish]:
        """The publishes, all with their queues."""
        found: list[Publish] = []
        exchanges = connection.vhost.exchanges
        try:
            for one in self.publishes:
                exchange, incoming = one.exchange, one.incoming
                if one.queues is None and exchange is not None and incoming is not None:
                    incoming.wall_ms = connection.hub.scheduler.wall_ms
                    is_there = exchanges.get(exchange.name) is exchange
                    queues = find(connection.vhost, exchange, incoming, one.more_keys) if is_there else ()
                    found.append(one._replace(queues=queues))
                else:
                    found.append(one)
        except (PeerError, Refused):
            for one in found:
                if one.incoming is not None:
                    one.incoming.forget()
            raise
        return found

    def rollback(self, channel: Channel) -> None:
        """Forget the publishes; what was settled is unacknowledged again."""
        settlements = sorted(self.settlements, key=lambda settlement: settlement[0])
        self._clear()
        if settlements:
            channel.unacked.update((tag, lease) for tag, lease, _ in settlements)
            channel.lowest_tag = min(channel.lowest_tag, settlements[0][0])

    def abandon(self, channel: Channel) -> None:
        """The channel ends: like rollback, and the channel returns the leases."""
        self.rollback(channel)


def _publish(channel: Channel, publishes: list[Publish]) -> bool:
    """Into their queues: the regular ones in runs, the others one by one, each queue's in order.

    Returns whether no queue refused any.
    """
    whole = True
    runs: list[Run] = []
    count = 0
    known: tuple[Any, ...] | None = None
    exchange: Exchange | None = None
    messages: list[Message] = []
    is_regular = False
    origin = b""
    for one in publishes:
        queues = one.queues or ()
        if queues != known or one.exchange is not exchange:
            known, exchange, messages = queues, one.exchange, []
            is_regular = not any(queue.rejects for queue in queues)
        is_lost = not queues and (one.mandatory or one.incoming is not None)  # Somebody has to be told.
        if not is_regular or is_lost or has_expiration(one.message[1]):
            enqueue_runs(channel, runs)
            whole &= channel.deliver_published(one.exchange, queues, one.message, one.mandatory, one.incoming)
            runs, count, known = [], 0, None
            continue
        if not messages:
            runs.append((queues, exchange, messages))
        if one.message[0] == origin:
            messages.append((origin, one.message[1]))  # One object: what follows looks at it by `is`.
        else:
            origin = one.message[0]
            messages.append(one.message)
        count += 1
        if count == RUN_MAX:
            enqueue_runs(channel, runs)
            runs, count, known = [], 0, None
    enqueue_runs(channel, runs)
    return whole

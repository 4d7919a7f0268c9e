"""tx on one channel (spec 1.9): publishes and settlements that wait for commit.

Checks happen when the methods come, effects at commit (RabbitMQ 3.5/64). Rollback drops the publishes and gives the
settled deliveries back to the channel as unacknowledged; it does not requeue them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.exchange.exchange import Exchange
from broker.core.message import Message
from broker.core.serving import Lease
from broker.server.amqp import settle
from protocol.amqp.errors import RESOURCE_ERROR, PeerError

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.settings import AmqpSettings


ENDED, REJECTED, RETURNED = range(3)


class Transaction:
    """What has happened since tx.select or the last commit or rollback."""

    __slots__ = ("_bytes", "publishes", "settlements")

    def __init__(self) -> None:
        self.publishes: list[tuple[Exchange | None, tuple[Any, ...], Message, bool]] = []
        self.settlements: list[tuple[int, Lease, int]] = []  # (delivery tag, lease, ENDED or REJECTED or RETURNED)
        self._bytes = 0

    def add_publish(
        self,
        exchange: Exchange | None,
        queues: tuple[Any, ...],
        message: Message,
        mandatory: bool,
        settings: AmqpSettings,
    ) -> None:
        """Keep a publish. Raises PeerError 506 when the transaction grows past its limits."""
        self._bytes += len(message[1])
        if len(self.publishes) >= settings.tx_messages_max or self._bytes > settings.tx_bytes_max:
            raise PeerError(RESOURCE_ERROR, "transaction too large")
        self.publishes.append((exchange, queues, message, mandatory))

    def add_settlement(self, tagged: list[tuple[int, Lease]], outcome: int) -> None:
        """Keep an ack, a reject or a requeueing nack of these leases."""
        self.settlements += [(tag, lease, outcome) for tag, lease in tagged]

    def commit(self, channel: Channel) -> None:
        """Publishes in order, then settlements; the transaction is empty afterwards."""
        publishes, settlements = self.publishes, self.settlements
        self.publishes, self.settlements, self._bytes = [], [], 0
        for exchange, queues, message, mandatory in publishes:
            channel.deliver_published(exchange, queues, message, mandatory)
        settle.end_leases(lease for _, lease, outcome in settlements if outcome == ENDED)
        settle.reject_leases(lease for _, lease, outcome in settlements if outcome == REJECTED)
        returned = [lease for _, lease, outcome in settlements if outcome == RETURNED]
        settle.return_in_slices(channel.connection.broker.scheduler, returned)

    def rollback(self, channel: Channel) -> None:
        """Forget the publishes; what was settled is unacknowledged again."""
        settlements = sorted(self.settlements, key=lambda settlement: settlement[0])
        self.publishes, self.settlements, self._bytes = [], [], 0
        if settlements:
            channel.unacked.update((tag, lease) for tag, lease, _ in settlements)
            channel.lowest_tag = min(channel.lowest_tag, settlements[0][0])

    def abandon(self, channel: Channel) -> None:
        """The channel ends: like rollback, and the channel returns the leases."""
        self.rollback(channel)

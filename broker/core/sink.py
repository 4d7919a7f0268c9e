"""What stands at the end of a route: whatever takes messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.core.exchange.base import Message


class Sink(Protocol):
    """A queue, a stream, or the address of a reply. Compared by identity."""

    @property
    def name(self) -> str: ...

    @property
    def deleted(self) -> bool:
        """It is gone, while bindings to it may be left (`core.vhosts.unbinding`)."""
        ...

    @property
    def rejects(self) -> bool:
        """Whether a publish may be refused, so that each has to be asked for by `enqueue_one`."""
        ...

    def accepts(self, message: Message) -> bool:
        """Whether this message would be taken now."""
        ...

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Append messages in order.

        They are of the regular kind: without an expiration of their own, to a sink that does not refuse any.
        """
        ...

    def enqueue_alone(self, message: Message) -> None:
        """Like `enqueue` for one message, which may go straight to a consumer that is free.

        Only where the end of the turn writes to all connections: what is handed out here is not written before.
        """
        ...

    def enqueue_one(self, message: Message) -> bool:
        """Append one message of any kind; returns False when it is refused."""
        ...

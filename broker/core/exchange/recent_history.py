"""`x-recent-history`: a fanout whose last messages are given to every new binding at once.

RabbitMQ's rabbitmq_recent_history_exchange: `x-recent-history-length` says how many (20), oldest first; a message with
the header `x-recent-history-no-store` true is routed and not kept. The history lives in memory and is not durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication
from broker.core.exchange.fanout import FanoutRouter
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

LENGTH_DEFAULT = 20
HISTORY_BYTES_MAX = 16 << 20
"""What one exchange keeps at most, besides the newest message, which is kept whatever its size."""
MESSAGE_OVERHEAD_BYTES = 256
"""Counted on top of each message, so that empty ones have an end as well."""


class RecentHistoryRouter(FanoutRouter):
    """A fanout, and the last messages that went through it."""

    __slots__ = ("_history", "_history_bytes", "_length")

    type_name: ClassVar[str] = "x-recent-history"
    cacheable: ClassVar[bool] = False
    remembers: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        super().__init__(arguments, choose)
        length = arguments.get("x-recent-history-length", LENGTH_DEFAULT)
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            text = f"Invalid argument {str(length)[:64]}, 'x-recent-history-length' must be a positive integer"
            raise Refused(PRECONDITION_FAILED, text)
        self._length = length
        self._history: deque[Message] = deque()
        self._history_bytes = 0

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; returns the history, oldest first."""
        super().add(binding)
        return tuple(self._history)

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """Every destination; keeps the message. Raises PeerError (502) for malformed headers."""
        if publication.headers.get("x-recent-history-no-store") is not True:
            self._keep(publication.message)
        return super().route(publication)

    def _keep(self, message: Message) -> None:
        history = self._history
        history.append(message)
        self._history_bytes += _size_bytes(message)
        while len(history) > self._length or (self._history_bytes > HISTORY_BYTES_MAX and len(history) > 1):
            self._history_bytes -= _size_bytes(history.popleft())


def _size_bytes(message: Message) -> int:
    origin, content = message
    return len(origin) + len(content) + MESSAGE_OVERHEAD_BYTES

"""x-delayed-message: an exchange that keeps what has an `x-delay` header (milliseconds) until it is due.

It routes like the type in its argument `x-delayed-type`. What is to wait goes to `holder`, a queue of the exchange's
own which nobody consumes from; when a message is due, it is routed by `inner` (RabbitMQ's plugin; there a delay is lost
when the node is, here it is as durable as the exchange and the message).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import ceil
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication, Router
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED
from protocol.amqp.fields import Timestamp

DELAY_MS_MAX = 2**32 - 1
HEADER = "x-delay"
_NUMBER = re.compile(r"\+?[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)
"""Longer ones are text; int() and float() would take blanks, underscores and other scripts' digits as well."""


def delay_ms(headers: Mapping[str, Any]) -> int:
    """How long a message with these headers is to wait; 0 is not at all.

    Any number will do, and text that is one (clients send what their language makes of it; RabbitMQ's plugin converts
    likewise); a timestamp is a moment and no delay. A part of a millisecond is a whole one, so that none is short.
    """
    value = headers.get(HEADER)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool | Timestamp) or not isinstance(value, int | float | Decimal):
        return 0
    if not value > 0:  # Not a number is not, either.
        return 0
    return ceil(value) if value < DELAY_MS_MAX else DELAY_MS_MAX


class DelayedRouter:
    """The router of x-delayed-message."""

    __slots__ = ("holder", "inner")

    type_name: ClassVar[str] = "x-delayed-message"
    cacheable: ClassVar[bool] = False
    inner_types: ClassVar[Mapping[str, type[Router]]] = {}
    """What `x-delayed-type` may be; filled by the registry."""

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        inner = arguments.get("x-delayed-type")
        if not isinstance(inner, str) or inner not in self.inner_types:
            allowed = ", ".join(sorted(self.inner_types))
            raise Refused(PRECONDITION_FAILED, f"Invalid argument, 'x-delayed-type' must be one of {allowed}")
        self.inner: Router = self.inner_types[inner](arguments, choose)
        self.holder: Destination | None = None
        """Where messages wait; set by the vhost that owns the exchange."""

    @property
    def remembers(self) -> bool:
        """As the inner type has it."""
        return self.inner.remembers

    @property
    def keyed(self) -> bool:
        """As the inner type has it."""
        return self.inner.keyed

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """As the inner type has it."""
        self.inner.check_binding(routing_key, arguments)

    def add(self, binding: Binding) -> Sequence[Message]:
        """As the inner type has it."""
        return self.inner.add(binding)

    def remove(self, binding: Binding) -> None:
        """As the inner type has it."""
        self.inner.remove(binding)

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """The holder for what is to wait; else as the inner type has it. Raises what that raises."""
        if self.holder is not None and delay_ms(publication.headers):
            return (self.holder,)
        return self.inner.route(publication)

"""A message as the broker keeps it, and the view of it that exchanges get.

A *message* is a tuple `(origin, content)` of two `bytes`, shared by every queue that holds it:
- origin: what basic.deliver and basic.get-ok say of it, in wire form: one octet `redelivered`, exchange (shortstr),
  routing key (shortstr), frame end;
- content: header frame and body frames as they came, see `protocol.amqp.content`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long, encode_table, with_entries

Message = tuple[bytes, bytes]

_EXPIRATION = wire.EXPIRATION >> 8
_HEADERS = wire.HEADERS >> 8
REDELIVERED = b"\x01"


def make_origin(exchange: bytes, routing_key: bytes) -> bytes:
    """The origin of a fresh message."""
    return b"\x00%c%b%c%b\xce" % (len(exchange), exchange, len(routing_key), routing_key)


def redelivered(message: Message) -> Message:
    """The same message, marked as delivered before."""
    origin, content = message
    return message if origin[0] else (REDELIVERED + origin[1:], content)


def has_expiration(content: bytes) -> bool:
    """Whether the message has an expiration of its own."""
    return bool(content[19] & _EXPIRATION)


def with_delivery_count(message: Message, count: int) -> Message:
    """The message with the header `x-delivery-count` (RabbitMQ: on redeliveries of quorum queues).

    One whose headers are malformed inside, which nobody looked at when it was published, stays as it is.
    """
    origin, content = message
    try:
        return origin, with_headers(content, {"x-delivery-count": Long(count)})
    except PeerError:
        return message


def with_headers(content: bytes, entries: Mapping[str, Any]) -> bytes:
    """The content with these headers besides its others. Raises PeerError 502 when those are malformed inside."""
    octets = wire.property_octets(content, "headers") if content[19] & _HEADERS else encode_table({})
    return wire.with_properties(content, {"headers": with_entries(octets, entries)})


def origin_names(origin: bytes) -> tuple[str, str]:
    """(exchange, routing key)."""
    split = 2 + origin[1]
    return origin[2:split].decode(), origin[split + 1 : -1].decode()


class Incoming:
    """One publication on its way through the exchanges (`core.exchange.base.Publication`); parses only when asked."""

    __slots__ = ("_headers", "_undo", "exchange", "message", "routing_key", "wall_ms")

    def __init__(self, exchange: str, routing_key: str, message: Message, wall_ms: int) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.message = message
        self.wall_ms = wall_ms
        self._headers: Mapping[str, Any] | None = None
        self._undo: list[Callable[[], None]] = []

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers table, {} if there is none. Raises PeerError 502 when it is malformed inside."""
        if self._headers is None:
            self._headers = self._parse("headers") or {}
        return self._headers

    def check(self) -> None:
        """Raises PeerError 502 when the headers are malformed inside, now and not when a router asks for them."""
        self.headers  # noqa: B018

    def property(self, name: str) -> Any | None:
        """Another basic property by its AMQP name, None if absent."""
        return self._parse(name)

    def remembered(self, forget: Callable[[], None]) -> None:
        """A router keeps something of this publication, and this undoes it."""
        self._undo.append(forget)

    def forget(self) -> None:
        """No queue has taken it, or one that should have it has refused it: routers have not seen it.

        In the turn in which it was routed, so that nothing of it is in any frame.
        """
        for forget in self._undo:
            forget()
        self._undo.clear()

    def _parse(self, name: str) -> Any | None:
        return wire.parse_properties(wire.header_payload(self.message[1]), frozenset({name})).get(name)

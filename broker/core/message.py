"""A message as the broker keeps it, and the view of it that exchanges get.

A *message* is a tuple `(origin, content)` of two `bytes`, shared by every queue that holds it:
- origin: what basic.deliver and basic.get-ok say of it, in wire form: one octet `redelivered`, exchange (shortstr),
  routing key (shortstr), frame end;
- content: header frame and body frames as they came, see `protocol.amqp.content`.

Routing keys of CC and BCC stay with a message: whatever sends it on without a key of its own follows them (RabbitMQ
keeps them as an annotation, `mc:routing_keys/1`). Mostly its CC header tells them; where it does not, the origin knows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long, encode_table, with_entries

Message = tuple[bytes, bytes]

_U32 = struct.Struct(">I")
_EXPIRATION = wire.EXPIRATION >> 8
_HEADERS = wire.HEADERS >> 8
REDELIVERED = b"\x01"


class KeyedOrigin(bytes):
    """An origin that knows the further routing keys of its message, where the CC header does not tell them.

    Because some were in BCC, which nobody may see, or because a dead letter exchange was told another key and those of
    CC are not to be followed any more. Never equal to an origin that does not know them.
    """

    keys: bytes
    """They themselves, each as a longstr: as text thousands of them would take many times the memory."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyedOrigin) and bytes.__eq__(self, other) and self.keys == other.keys

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((bytes(self), self.keys))


def make_origin(exchange: bytes, routing_key: bytes, keys: bytes | None = None) -> bytes:
    """The origin of a fresh message; `keys` None where its CC header tells all of its further routing keys."""
    origin = b"\x00%c%b%c%b\xce" % (len(exchange), exchange, len(routing_key), routing_key)
    return origin if keys is None else _keyed(origin, keys)


def _keyed(origin: bytes, keys: bytes) -> KeyedOrigin:
    keyed = KeyedOrigin(origin)
    keyed.keys = keys
    return keyed


def pack_keys(keys: Iterable[str]) -> bytes:
    """Routing keys as origins know them."""
    return b"".join([_U32.pack(len(key)) + key for key in map(str.encode, keys)])


def unpack_keys(octets: bytes) -> list[str]:
    """And back. Raises ValueError for other octets."""
    keys = []
    position = 0
    while position < len(octets):
        start = position + 4
        position = start + int.from_bytes(octets[position:start], "big")
        if position > len(octets):
            raise ValueError("a routing key reaches behind the end")
        keys.append(octets[start:position].decode())
    return keys


def copied_keys(headers: Mapping[str, Any]) -> list[str]:
    """The routing keys that a CC header tells."""
    copies = headers.get("CC")
    return [key for key in copies if isinstance(key, str)] if isinstance(copies, list) else []


def further_keys(origin: bytes, headers: Mapping[str, Any]) -> list[str]:
    """The routing keys that a message with this origin and these headers has besides its first: CC and BCC."""
    return unpack_keys(origin.keys) if isinstance(origin, KeyedOrigin) else copied_keys(headers)


def memory_of(message: Message) -> int:
    """The octets that it keeps, but for its names."""
    origin, content = message
    return len(content) + (len(origin.keys) if isinstance(origin, KeyedOrigin) else 0)


def redelivered(message: Message) -> Message:
    """The same message, marked as delivered before."""
    origin, content = message
    if origin[0]:
        return message
    again = REDELIVERED + origin[1:]
    return (_keyed(again, origin.keys) if isinstance(origin, KeyedOrigin) else again), content


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

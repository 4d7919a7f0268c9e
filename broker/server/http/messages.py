"""Publishing and getting over HTTP, as the management API has it: slow, for people and scripts, by the same rules."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Mapping
from typing import Any

from broker.core.access import User
from broker.core.exchange.exchange import Exchange
from broker.core.message import Incoming, Message, make_origin, origin_names
from broker.core.queues.dispatch import Lease
from broker.core.queues.queue import Queue
from broker.core.vhosts.publishing import deliver, find
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused
from broker.server import properties as special
from protocol.amqp import content as wire
from protocol.amqp.errors import ACCESS_REFUSED, PRECONDITION_FAILED, PeerError
from protocol.amqp.fields import encode_table

FRAME_MAX_BYTES = 131_072
PROPERTIES_BYTES_MAX = FRAME_MAX_BYTES - 22
"""A header frame is never split, and no client could have sent a longer one: 8 octets of frame, 14 of header."""
GET_MAX = 10_000
"""Messages one request may take."""
_WANTED = {
    "z": "text of 255 octets at most", "F": "an object that a field table can hold",
    "o": "a whole number from 0 to 255", "T": "a whole number of seconds since 1970",
}  # fmt: skip
"""What a property of each type of `wire.PROPERTIES` is made of."""
_BUT_HEADERS = frozenset(name for _, name, _ in wire.PROPERTIES) - {"headers"}


class GetHolder:
    """Who holds what a request took, for the moment between taking and settling."""

    __slots__ = ("in_flight", "queue")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.in_flight = 0

    def settled(self, count: int) -> None:
        """Nobody waits for it."""
        self.in_flight -= count

    def end_one(self, offset: int) -> None:
        """One message is over for good."""
        self.queue.settle_one(offset)
        self.settled(1)


def _bad(text: str) -> Refused:
    return Refused(PRECONDITION_FAILED, text)


def encode_properties(properties: Mapping[str, Any]) -> tuple[int, bytes]:
    """(flags, octets) of properties by their management names (`delivery_mode`, ...). Raises Refused 406."""
    if not isinstance(properties, Mapping):
        raise _bad("properties are not an object")
    known = {name.replace("-", "_"): (flag, letter) for flag, name, letter in wire.PROPERTIES}
    unknown = set(properties) - set(known)
    if unknown:
        raise _bad(f"unknown property '{min(unknown)}'")
    flags = 0
    parts = []
    for name, (flag, letter) in known.items():
        if name not in properties:
            continue
        value = properties[name]
        flags |= flag
        try:
            if letter == "z":
                raw = str(value).encode()
                parts.append(bytes([len(raw)]) + raw)
            elif letter == "F":
                parts.append(encode_table(value))
            else:
                parts.append(int(value).to_bytes(1 if letter == "o" else 8, "big"))
        except (ValueError, OverflowError, TypeError, AttributeError, struct.error):
            raise _bad(f"property '{name}': {_WANTED[letter]}") from None
    octets = b"".join(parts)
    if len(octets) > PROPERTIES_BYTES_MAX:
        raise _bad(f"properties of {len(octets)} octets do not fit a frame")
    return flags, octets


def publish(
    vhost: VHost,
    exchange: str,
    body: Mapping[str, Any],
    user: User,
    size_max: int,
    is_denied: Callable[[str], bool] = lambda _: False,
) -> bool:
    """Route one message of `user`; True when it reached a queue. Raises Refused 403, 404, 406.

    `is_denied` says whether an access list forbids to write to the queue that the default exchange would lead to.
    """
    routing_key = str(body.get("routing_key", ""))
    if len(routing_key.encode()) > 255:
        raise _bad("routing key longer than 255 bytes")
    payload = decode_payload(body)
    if len(payload) > size_max:
        raise _bad(f"message size {len(payload)} is larger than configured max size {size_max}")
    flags, octets = encode_properties(body.get("properties") or {})
    content = wire.encode_content(1, octets, flags, payload, FRAME_MAX_BYTES)
    try:
        wire.parse_properties(wire.header_payload(content))  # A table may have more entries than anybody reads.
        content, more_keys, known_keys = special.check(user, None, flags, content)
        if not exchange and any(map(is_denied, (routing_key, *more_keys))):
            raise Refused(ACCESS_REFUSED, f"write access to a queue in vhost '{vhost.name}' refused")
        message = (make_origin(exchange.encode(), routing_key.encode(), known_keys), content)
        publication = Incoming(exchange, routing_key, message, vhost.scheduler.wall_ms)
        source = _open(vhost, exchange)
        sinks = find(vhost, source, publication, more_keys)
    except PeerError as error:
        raise _bad(error.text) from None
    taken, _ = deliver(source, sinks, message, publication)
    return taken


def _open(vhost: VHost, name: str) -> Exchange | None:
    """The exchange, None for the default one. Raises Refused 403, 404."""
    if not name:
        return None
    exchange = vhost.exchange(name)
    if exchange.internal:
        raise Refused(ACCESS_REFUSED, f"cannot publish to internal exchange '{name}' in vhost '{vhost.name}'")
    return exchange


def decode_payload(body: Mapping[str, Any]) -> bytes:
    """The payload of a publish request. Raises Refused 406."""
    payload = body.get("payload")
    if not isinstance(payload, str):
        raise _bad("payload is missing or not a string")
    if body.get("payload_encoding", "string") != "base64":
        return payload.encode()
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("payload is not base64") from None


def get(queue: Queue, count: int, ackmode: str, encoding: str, truncate: int | None) -> list[dict[str, Any]]:
    """Take up to `count` messages and settle them as `ackmode` says. Raises Refused 406 for an unknown mode."""
    if ackmode not in ("ack_requeue_true", "ack_requeue_false", "reject_requeue_true", "reject_requeue_false"):
        raise _bad(f"unknown ackmode '{ackmode}'")
    holder = GetHolder(queue)
    leases: list[Lease] = []
    shown = []
    try:
        for _ in range(min(count, GET_MAX)):
            got = queue.get()
            if got is None:
                break
            message, offset = got
            leases.append((holder, offset, message))
            shown.append(message_view(message, encoding, truncate) | {"message_count": queue.ready_count})
    except BaseException:
        queue.release(leases, counted=False)
        raise
    if ackmode.endswith("true"):
        queue.release(leases, counted=False)
    elif ackmode.startswith("reject"):
        queue.reject(leases)
    else:
        queue.settle([offset for _, offset, _ in leases])
    return shown


def message_view(message: Message, encoding: str, truncate: int | None) -> dict[str, Any]:
    """One message as the management API shows it; without its headers where they are malformed inside."""
    origin, content = message
    exchange, routing_key = origin_names(origin)
    payload = wire.body(content)
    shown = payload if truncate is None else payload[:truncate]
    text: str | None = None
    if encoding == "auto":
        try:
            text = shown.decode()
        except UnicodeDecodeError:
            text = None
    header = wire.header_payload(content)
    try:
        properties = wire.parse_properties(header)
    except PeerError:
        properties = wire.parse_properties(header, _BUT_HEADERS)
    return {
        "exchange": exchange,
        "routing_key": routing_key,
        "redelivered": origin[0] != 0,
        "payload_bytes": len(payload),
        "payload": text if text is not None else base64.b64encode(shown).decode(),
        "payload_encoding": "string" if text is not None else "base64",
        "properties": {name.replace("-", "_"): value for name, value in properties.items()},
    }

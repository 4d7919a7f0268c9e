"""Hot path. basic.publish as one straight line: method, header and body are taken from the buffer as they are.

Budget: 0.6 µs per message of the same shape as the last, 1.6 µs otherwise; held by `jackalope bench amqp` (rows
autoack, uniquekeys, celery). `publish_run` takes as many whole, regular publishes as stand in the buffer and returns
where it stopped; it refuses whatever is irregular (several body frames, special properties, errors of any kind) and
leaves it to the general path of `channel`, which knows the precise answer. Both share `open_port` and `find_queues`.

The octets of a whole method frame are the key of the connection's route cache: they say channel, exchange, routing key
and flags, and the cache belongs to one connection, so to one user and vhost. It is dropped when the vhost's `epoch` or
the permissions' moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.exchange.exchange import Exchange
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.routing import is_cacheable, route
from broker.errors import Refused
from protocol.amqp import content as wire
from protocol.amqp.errors import ACCESS_REFUSED
from protocol.amqp.frames import FRAME_END

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection

PUBLISH = b"\x00\x3c\x00\x28"
METHOD_FRAME_MIN = 17
"""Octets of a publish method frame with empty names."""
MANDATORY, IMMEDIATE = 1, 2
RUN_MAX = 256
CARE = wire.HEADERS | wire.REPLY_TO | wire.EXPIRATION | wire.USER_ID
"""Properties that may ask for more than being passed on."""
REPLY_TO_NAME = "amq.rabbitmq.reply-to"
_REPLY_TO = REPLY_TO_NAME.encode()


Run = tuple[tuple[Queue, ...], Exchange | None, list[Message]]
"""Regular messages, in order, that an exchange sends to the same queues."""


class Port:
    """An exchange as one connection may publish to it: found, allowed, and how far its answers may be remembered."""

    __slots__ = ("cacheable", "checks_topic", "exchange", "name")

    def __init__(self, name: str, exchange: Exchange | None, *, cacheable: bool, checks_topic: bool) -> None:
        self.name = name
        self.exchange = exchange  # None is the default exchange.
        self.cacheable = cacheable
        self.checks_topic = checks_topic


class Route:
    """Where the publishes with one method frame go. `queues` is None when every message has to be routed anew.

    `following` is the route of the publish that came next the last time: who goes round many queues has the same round
    again, and need not be looked up in the cache.
    """

    __slots__ = ("exchange", "following", "mandatory", "method", "origin", "queues", "run_max")

    def __init__(
        self, method: bytes, exchange: Exchange | None, queues: tuple[Queue, ...] | None, origin: bytes, mandatory: int
    ) -> None:
        self.method = method
        self.following: Route | None = None
        self.exchange = exchange
        self.queues = queues
        self.origin = origin
        self.mandatory = mandatory
        # A run may not cost more than a slice: with a thousand queues it is one message long.
        self.run_max = RUN_MAX if not queues or len(queues) < 4 else max(1, RUN_MAX * 4 // len(queues))


def needs_care(data: bytes, start: int, end: int, flags: int) -> bool:
    """Whether a header frame asks for the general path: CC or BCC headers, user-id, expiration, direct reply-to."""
    if flags & (wire.EXPIRATION | wire.USER_ID):
        return True
    if flags & wire.REPLY_TO and data.find(_REPLY_TO, start, end) >= 0:
        return True
    # One search for both, then closer: searching is a third of all that a message with many headers costs.
    if flags & wire.HEADERS and data.find(b"CC", start, end) >= 0:
        return data.find(b"\x02CC", start, end) >= 0 or data.find(b"\x03BCC", start, end) >= 0
    return False


def open_port(connection: Connection, exchange_name: str) -> Port:
    """Find the exchange and check that the user may publish to it. Raises Refused 403/404 as RabbitMQ does."""
    vhost = connection.vhost
    connection.require("write", "exchange", exchange_name or "amq.default")
    if not exchange_name:
        return Port("", None, cacheable=True, checks_topic=False)
    exchange = vhost.exchange(exchange_name)
    if exchange.internal:
        raise Refused(ACCESS_REFUSED, f"cannot publish to internal exchange '{exchange_name}' in vhost '{vhost.name}'")
    checks_topic = exchange.type == "topic" and connection.hub.access.has_topic_permissions(connection.user, vhost.name)
    return Port(exchange_name, exchange, cacheable=is_cacheable(vhost.exchanges, exchange), checks_topic=checks_topic)


def find_queues(connection: Connection, port: Port, routing_key: str) -> tuple[Queue, ...] | None:
    """The queues for a routing key; None when it takes the message to know. Raises Refused 403 (topic permissions)."""
    vhost = connection.vhost
    if port.exchange is None:
        sink = vhost.queues.get(routing_key) or connection.reply_sink(routing_key)
        return (sink,) if sink is not None else ()
    if port.checks_topic:
        connection.require_topic("write", port.name, routing_key)
    if not port.cacheable:
        return None
    probe = connection.probe
    probe.exchange = port.name
    probe.routing_key = routing_key
    return route(vhost.exchanges, port.exchange, probe)


def _learn(connection: Connection, frame: bytes) -> Route | None:
    """The route of a publish method frame that is not in the cache; None when the general path has to see it."""
    size = len(frame) - 8
    exchange_end = 14 + frame[13]
    if exchange_end >= size + 6 or frame[-1] != FRAME_END:
        return None
    key_end = exchange_end + 1 + frame[exchange_end]
    if key_end != size + 6 or frame[key_end] & IMMEDIATE:
        return None
    raw_name = frame[14:exchange_end]
    cache_max = connection.settings.route_cache_entries_max
    try:
        port = connection.ports.get(raw_name)
        if port is None:
            port = open_port(connection, str(raw_name, "utf-8"))
            if len(connection.ports) >= cache_max:
                connection.ports.clear()
            connection.ports[raw_name] = port
        queues = find_queues(connection, port, str(frame[exchange_end + 1 : key_end], "utf-8"))
    except (Refused, UnicodeDecodeError):
        return None
    if queues is not None and any(queue.rejects for queue in queues):
        queues = None  # Each publish may be refused, so the general path asks.
    routes = connection.routes
    if len(routes) >= cache_max:
        connection.forget_routes()
    # Exchange and routing key stand in the frame as they will in the delivery.
    origin = connection.hub.shared_origin(b"\x00%b\xce" % frame[13:key_end], frame[1:3], connection.frame_max)
    found = routes[frame] = Route(frame, port.exchange, queues, origin, frame[key_end] & MANDATORY)
    return found


def publish_run(  # noqa: C901 - one straight line, kept in one piece because a call a message costs a tenth of it
    channel: Channel, data: bytes, position: int, end: int
) -> int:
    """Take regular publishes of this channel from `position` on; returns the position of the first thing left."""
    connection = channel.connection
    routes = connection.routes
    startswith = data.startswith
    number = channel.number
    head = channel.head
    size_max = connection.regular_size_max
    method = shape = b"\xff"  # Never the start of a frame.
    shape_total = 0
    messages: list[Message] = []
    append = messages.append
    runs: list[Run] = []
    queues: tuple[Queue, ...] = ()
    exchange: Exchange | None = None
    origin = b""
    left = RUN_MAX
    last = channel.last_route
    while left:
        if startswith(method, position):
            header = position + len(method)
        else:
            found = last.following if last is not None else None
            if found is not None and startswith(found.method, position):
                method = found.method
                header = position + len(method)
            else:
                if not startswith(head, position) or data[position + 7 : position + 11] != PUBLISH:
                    break
                header = position + 8 + int.from_bytes(data[position + 3 : position + 7], "big")
                method = data[position:header]
                found = routes.get(method)
                if found is None:
                    if header > end or len(method) < METHOD_FRAME_MIN:
                        break
                    found = _learn(connection, method)
                if found is None or found.queues is None or (not found.queues and found.mandatory):
                    break
                if last is not None:
                    last.following = found
            last = found
            if found.queues is not queues or found.exchange is not exchange:
                if messages:
                    runs.append((queues, exchange, messages))
                    messages = []
                    append = messages.append
                queues = found.queues or ()
                exchange = found.exchange
                if left > found.run_max:
                    left = found.run_max
            origin = found.origin
        if startswith(shape, header):
            after = header + shape_total
            if after > end:
                connection.need = after - position
                break
            if data[after - 1] != FRAME_END:
                break
        else:
            after, flags, shape_length = wire.scan(data, header, end, number, size_max)
            if after <= 0:
                if after == wire.NEED_DATA:
                    connection.need = header + shape_length - position
                break
            if flags & CARE and needs_care(data, header + 21, header + shape_length, flags):
                break
            shape = data[header : header + shape_length]
            shape_total = after - header
        append((origin, data[header:after]))
        position = after
        left -= 1
    channel.last_route = last
    if runs:
        if messages:
            runs.append((queues, exchange, messages))
        enqueue_runs(channel, runs)
    elif messages:
        _enqueue(channel, queues, exchange, messages)
    return position


def _enqueue(channel: Channel, queues: tuple[Queue, ...], exchange: Exchange | None, messages: list[Message]) -> None:
    count = len(messages)
    for queue in queues:
        queue.enqueue(messages)
    if exchange is not None:
        exchange.published_count += count
    channel.published(count, count * (len(queues) + 1))


def enqueue_runs(channel: Channel, runs: list[Run]) -> None:
    """Several runs of messages, gathered by queue: a publisher that goes round many queues gives each its share once.

    Order is kept per queue, so what goes to several queues at once goes out behind all that was before it.
    """
    gathered: dict[Queue, list[Message]] = {}
    count = 0
    for queues, exchange, messages in runs:
        if len(queues) != 1:
            for queue, some in gathered.items():
                queue.enqueue(some)
            gathered.clear()
            _enqueue(channel, queues, exchange, messages)
            continue
        queue = queues[0]
        have = gathered.get(queue)
        if have is None:
            gathered[queue] = messages
        else:
            have += messages
        if exchange is not None:
            exchange.published_count += len(messages)
        count += len(messages)
    if count:
        channel.published(count, 2 * count + len(gathered))
    for queue, some in gathered.items():
        if len(some) == 1:
            queue.enqueue_alone(some[0])
        else:
            queue.enqueue(some)

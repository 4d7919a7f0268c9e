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
from broker.core.exchange.routing import is_cacheable, route
from broker.core.message import Message
from broker.core.sink import Sink
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
MISSES_PER_ENTRY = 16
CARE = wire.HEADERS | wire.REPLY_TO | wire.EXPIRATION | wire.USER_ID
"""Properties that may ask for more than being passed on."""
REPLY_TO_NAME = "amq.rabbitmq.reply-to"
_REPLY_TO = REPLY_TO_NAME.encode()


Run = tuple[tuple[Sink, ...], Exchange | None, list[Message]]
"""Regular messages, in order, that an exchange sends to the same queues."""
Gathered = dict[tuple[Sink, ...], list[Message]]
"""Messages of one exchange by the one queue they go to (a publisher that goes round many gives each its share at once),
or those of one route to several: what goes to several queues goes out behind all that was before it, so that each queue
has its messages in order."""


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

    `regular` says that its publishes may be taken here: the general path routes anew, and returns what is mandatory.
    `following` is the regular route of the publish that came next last time: who goes round many queues has the same
    round again, and need not be looked up in the cache.
    """

    __slots__ = ("exchange", "following", "method", "origin", "queues", "regular", "run_max", "single")

    def __init__(
        self, method: bytes, exchange: Exchange | None, queues: tuple[Sink, ...] | None, origin: bytes, mandatory: int
    ) -> None:
        self.method = method
        self.following: Route | None = None
        self.exchange = exchange
        self.queues = queues
        self.single = queues is not None and len(queues) == 1
        self.origin = origin
        self.regular = queues is not None and (bool(queues) or not mandatory)
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


def find_queues(connection: Connection, port: Port, routing_key: str) -> tuple[Sink, ...] | None:
    """The queues for a routing key; None when it takes the message to know. Raises Refused 403 (topic permissions)."""
    vhost = connection.vhost
    if port.exchange is None:
        if connection.hub.access.lists:
            connection.require_direct(routing_key)
        sink = vhost.target(routing_key) or connection.reply_sink(routing_key)
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
    """The route of a publish method frame that is not in the cache; None when the general path has to see it.

    Once the cache has overflowed, one miss in MISSES_PER_ENTRY makes an entry: keys that come again are soon in it, and
    keys that never do no longer push everything through memory.
    """
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
    for queue in queues or ():
        if queue.rejects:
            queues = None  # Each publish may be refused, so the general path asks.
            break
    # Exchange and routing key stand in the frame as they will in the delivery.
    origin = b"\x00%b\xce" % frame[13:key_end]
    routes = connection.routes
    if len(routes) >= cache_max:
        connection.forget_routes()
        connection.route_misses_per_entry = MISSES_PER_ENTRY
    connection.route_misses += 1
    if connection.route_misses % connection.route_misses_per_entry:
        return Route(frame, port.exchange, queues, origin, frame[key_end] & MANDATORY)
    origin = connection.face.shared_origin(origin, frame[1:3], connection.frame_max)
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
    gathered: Gathered = {}
    messages: list[Message] = []
    append = messages.append
    queues: tuple[Sink, ...] | None = None
    exchange: Exchange | None = None
    single = False
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
                elif last is not None and found.regular:
                    last.following = found  # Only ever to what stands in the cache, where it is found to be forgotten.
                if found is None or not found.regular:
                    break
            last = found
            if found.queues is not queues or found.exchange is not exchange:
                if gathered and not (single and found.single and found.exchange is exchange):
                    _enqueue(channel, exchange, gathered)
                    gathered = {}
                queues = found.queues or ()
                exchange = found.exchange
                single = found.single
                known = gathered.get(queues)
                messages = gathered[queues] = [] if known is None else known
                append = messages.append
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
    if gathered:
        _enqueue(channel, exchange, gathered)
    return position


def _enqueue(channel: Channel, exchange: Exchange | None, gathered: Gathered) -> None:
    """Into their queues: each has its share at once."""
    count = units = 0
    for queues, messages in gathered.items():
        share = len(messages)
        count += share
        units += share * (1 + len(queues)) + 1
        if share == 1 and len(queues) == 1:
            queues[0].enqueue_alone(messages[0])
        elif share:
            for queue in queues:
                queue.enqueue(messages)
    if exchange is not None:
        exchange.published_count += count
    if count:
        channel.published(count, units)


def enqueue_runs(channel: Channel, runs: list[Run]) -> None:
    """Several runs of messages, gathered as `publish_run` does it."""
    gathered: Gathered = {}
    exchange: Exchange | None = None
    single = False
    for queues, of, messages in runs:
        is_single = len(queues) == 1
        if gathered and not (single and is_single and of is exchange):
            _enqueue(channel, exchange, gathered)
            gathered = {}
        single, exchange = is_single, of
        if queues in gathered:
            gathered[queues] += messages
        else:
            gathered[queues] = messages
    _enqueue(channel, exchange, gathered)

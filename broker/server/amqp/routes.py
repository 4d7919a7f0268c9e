"""Hot path. Where the publishes of one connection go: ports, routes, and the cache that remembers them.

Budget: 2.5 µs for a publish whose method frame is not in the cache, to a topic exchange with one binding. A publish
whose frame is in the cache costs no call here: `publish.publish_run` looks into `entries` itself, since a call per
message would cost a tenth of its speed. Held by `jackalope bench amqp` (rows uniquekeys, celery).

The key is the octets of a whole method frame, which name channel, exchange, routing key and flags; a cache belongs to
one connection, so to one user and vhost. It is emptied when the `epoch` of the vhost or of the permissions moves.
The general path calls `open_port` and `find_queues` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from broker.core.exchange.exchange import Exchange
from broker.core.exchange.routing import is_cacheable, route
from broker.core.message import Incoming
from broker.core.sink import Sink
from broker.core.vhosts.publishing import find
from broker.errors import Refused
from protocol.amqp.errors import ACCESS_REFUSED
from protocol.amqp.frames import FRAME_END

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection

MANDATORY, IMMEDIATE = 1, 2
RUN_MAX = 256
MISSES_PER_ENTRY = 16


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

    `regular` says that `publish_run` may take its publishes; the general path routes the others anew, and returns
    mandatory messages. `following` is the regular route of the publish that came next last time: a publisher that goes
    round many queues goes the same round again, so the next route need not be looked up in the cache.
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


def _require_direct(connection: Connection, routing_key: str) -> None:
    """Raises Refused 403 where an access list denies to write to what has this name.

    The default exchange leads there without a binding, which would have needed permission.
    """
    if (
        connection.hub.access.listed(
            connection.user, connection.vhost.name, "write", routing_key, "topic", connection.peer[0]
        )
        is False
    ):
        raise Refused(
            ACCESS_REFUSED,
            f"write access to queue '{routing_key}' in vhost '{connection.vhost.name}' refused for user"
            f" '{connection.user.name}'",
        )


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
            _require_direct(connection, routing_key)
        sink: Any = vhost.target(routing_key) or connection.face.reply_sinks.get(routing_key)
        return (sink,) if sink is not None else ()
    if port.checks_topic:
        connection.require_topic("write", port.name, routing_key)
    if not port.cacheable:
        return None
    probe = connection.routes.probe
    probe.exchange = port.name
    probe.routing_key = routing_key
    return route(vhost.exchanges, port.exchange, probe)


def route_message(connection: Connection, port: Port, incoming: Incoming, more_keys: Sequence[str]) -> tuple[Any, ...]:
    """Route one message that cannot use the cache, by its own routing key and those of CC and BCC."""
    if port.exchange is None:
        for key in more_keys:
            _require_direct(connection, key)
    return find(connection.vhost, port.exchange, incoming, more_keys)


class RouteCache:
    """What one connection has found out about where its publishes go; empty after `forget`.

    It holds `route_cache_entries_max` routes at most, and as many ports; one that is full is emptied, since keeping an
    order of use would cost every message more than learning anew costs the few.
    """

    __slots__ = ("_access_epoch", "_misses", "_misses_per_entry", "_vhost_epoch", "entries", "ports", "probe")

    def __init__(self) -> None:
        self.entries: dict[bytes, Route] = {}
        """By the octets of their method frame."""
        self.ports: dict[bytes, Port] = {}
        """By the octets of their exchange's name."""
        self.probe = Incoming("", "", (b"", b""), 0)
        """What cacheable routers are asked with."""
        self._misses = 0
        self._misses_per_entry = 1
        self._vhost_epoch = self._access_epoch = 0

    def check(self, vhost_epoch: int, access_epoch: int) -> None:
        """Forget everything when bindings or permissions have changed since it was found."""
        if vhost_epoch != self._vhost_epoch or access_epoch != self._access_epoch:
            self._vhost_epoch, self._access_epoch = vhost_epoch, access_epoch
            self.forget()
            self.ports.clear()

    def forget(self) -> None:
        """No route leads anywhere any more, nor to another."""
        for found in self.entries.values():
            found.following = None
        self.entries.clear()

    def learn(self, connection: Connection, frame: bytes) -> Route | None:
        """The route of a publish method frame that is not in the cache; None when the general path has to see it.

        Once the cache has overflowed, one miss in MISSES_PER_ENTRY makes an entry: keys that come again are soon in it,
        and keys that never do no longer push everything through memory.
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
            port = self.ports.get(raw_name)
            if port is None:
                port = open_port(connection, str(raw_name, "utf-8"))
                if len(self.ports) >= cache_max:
                    self.ports.clear()
                self.ports[raw_name] = port
            queues = find_queues(connection, port, str(frame[exchange_end + 1 : key_end], "utf-8"))
        except (Refused, UnicodeDecodeError):
            return None
        for queue in queues or ():
            if queue.rejects:
                queues = None  # Each publish may be refused, so the general path asks.
                break
        # Exchange and routing key stand in the frame as they will in the delivery.
        origin = b"\x00%b\xce" % frame[13:key_end]
        entries = self.entries
        if len(entries) >= cache_max:
            self.forget()
            self._misses_per_entry = MISSES_PER_ENTRY
        self._misses += 1
        if self._misses % self._misses_per_entry:
            return Route(frame, port.exchange, queues, origin, frame[key_end] & MANDATORY)
        origin = connection.face.shared_origin(origin, frame[1:3], connection.frame_max)
        found = entries[frame] = Route(frame, port.exchange, queues, origin, frame[key_end] & MANDATORY)
        return found

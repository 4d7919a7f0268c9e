"""The paths of RabbitMQ's management API that are served: a table of routes, and what each answers.

Handlers are synchronous and pure towards the network: request in, (status, JSON value) out; `Listing` is an answer
that `server` builds in slices. Knows nothing of h11. Paths are split before they are decoded, so that the vhost `/`
arrives as `%2F` (RabbitMQ's rule).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from broker.core.access import User, Verb
from broker.core.queue import Queue
from broker.core.vhost import VHost
from broker.errors import Refused
from broker.server.amqp.delivery import Consumer
from broker.server.http import messages, views
from broker.server.hub import Hub
from protocol.amqp.errors import ACCESS_REFUSED, NOT_FOUND

MONITORING = frozenset({"administrator", "monitoring"})
MANAGEMENT = MONITORING | {"management", "policymaker"}
_STATUS = {ACCESS_REFUSED: (401, "not_authorised"), NOT_FOUND: (404, "Object Not Found")}


@dataclass(frozen=True, slots=True)
class Request:
    """One authenticated request. `parts` are the decoded path segments after /api."""

    method: str
    parts: tuple[str, ...]
    query: dict[str, str]
    body: dict[str, Any]
    user: User
    hub: Hub
    statistics: Callable[[], dict[str, Any]]
    message_size_max: int


class Listing:
    """Rows to be shown one by one, so that a long list never holds the loop."""

    def __init__(self, rows: Iterable[Any], view: Callable[[Any], dict[str, Any]]) -> None:
        self.rows = rows
        self.view = view


class HttpError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, error: str, reason: str) -> None:
        super().__init__(status, error, reason)
        self.status = status
        self.body = {"error": error, "reason": reason}


Handler = Callable[..., Any]
_ROUTES: dict[tuple[str, int], list[tuple[str, tuple[str, ...], Handler]]] = {}


def route_to(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Register `method /api/pattern`; `*` segments become arguments."""
    segments = tuple(pattern.split("/"))

    def register(handler: Handler) -> Handler:
        _ROUTES.setdefault((segments[0], len(segments)), []).append((method, segments, handler))
        return handler

    return register


def split_target(target: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """(decoded path segments, query) of a request target. Raises HttpError 404 for what is not below /api/."""
    path, _, query = target.partition("?")
    segments = path.strip("/").split("/")
    if segments[0] != "api" or len(segments) < 2:
        raise HttpError(404, "Object Not Found", "Not Found")
    return tuple(unquote(segment) for segment in segments[1:]), {k: v[-1] for k, v in parse_qs(query).items()}


def answer(request: Request) -> Any:
    """What to send: a JSON value, a Listing, or None for 204. Raises HttpError."""
    allowed = set()
    for method, segments, handler in _ROUTES.get((request.parts[0], len(request.parts)), ()):
        if all(wanted in ("*", given) for wanted, given in zip(segments, request.parts, strict=True)):
            allowed.add(method)
            if method == request.method:
                arguments = [given for wanted, given in zip(segments, request.parts, strict=True) if wanted == "*"]
                if not request.user.tags & MANAGEMENT:
                    raise HttpError(401, "not_authorised", "Not management user")
                try:
                    return handler(request, *arguments)
                except Refused as refused:
                    status, error = _STATUS.get(refused.reply_code, (400, "bad_request"))
                    raise HttpError(status, error, refused.text) from None
    if allowed:
        raise HttpError(405, "method_not_allowed", f"use {', '.join(sorted(allowed))}")
    raise HttpError(404, "Object Not Found", "Not Found")


# What a user may see.


def visible_vhosts(request: Request) -> Iterator[VHost]:
    sees_all = bool(request.user.tags & MONITORING)
    mine = request.hub.access.vhosts_of(request.user)
    return (vhost for name, vhost in request.hub.broker.vhosts.items() if sees_all or name in mine)


def find_vhost(request: Request, name: str) -> VHost:
    for vhost in visible_vhosts(request):
        if vhost.name == name:
            return vhost
    raise HttpError(404, "Object Not Found", "Not Found")


def require(request: Request, vhost: VHost, verb: Verb, kind: str, name: str) -> None:
    if not request.hub.access.can(request.user, vhost.name, verb, name or "amq.default"):
        text = f"{verb} access to {kind} '{name}' in vhost '{vhost.name}' refused for user '{request.user.name}'"
        raise Refused(ACCESS_REFUSED, text)


# Overview and health.


@route_to("GET", "overview")
def _overview(request: Request) -> dict[str, Any]:
    hub = request.hub
    statistics = request.statistics()
    vhosts = list(hub.broker.vhosts.values())
    queues = [queue for vhost in vhosts for queue in vhost.queues.values()]
    ready = sum(queue.cursor.ready_count for queue in queues)
    leased = sum(queue.cursor.leased_count for queue in queues)
    return {
        "product_name": "Jackalope",
        "product_version": statistics["version"],
        "management_version": statistics["version"],
        "node": views.NODE,
        "cluster_name": "jackalope",
        "object_totals": {
            "connections": statistics["connections"],
            "channels": statistics["channels"],
            "exchanges": sum(len(vhost.exchanges) + 1 for vhost in vhosts),
            "queues": len(queues),
            "consumers": sum(len(queue.consumers) for queue in queues),
        },
        "queue_totals": {"messages": ready + leased, "messages_ready": ready, "messages_unacknowledged": leased},
        "loop_lag_ms_max": statistics["loop_lag_ms_max"],
        "mem_used": statistics["resident_bytes"],
        "alarm": hub.broker.alarm,
        "storage": "memory" if hub.durability is None else "disk",
    }


@route_to("GET", "whoami")
def _whoami(request: Request) -> dict[str, Any]:
    return {"name": request.user.name, "tags": sorted(request.user.tags)}


@route_to("GET", "health/checks/alarms")
def _health_alarms(request: Request) -> dict[str, Any]:
    alarm = request.hub.broker.alarm
    if alarm is not None:
        raise HttpError(503, "failed", alarm)
    return {"status": "ok"}


@route_to("GET", "health/checks/local-alarms")
def _health_local_alarms(request: Request) -> Any:
    return _health_alarms(request)


@route_to("GET", "health/checks/virtual-hosts")
def _health_vhosts(_request: Request) -> dict[str, Any]:
    return {"status": "ok"}


# Lists.


@route_to("GET", "vhosts")
def _list_vhosts(request: Request) -> Listing:
    return Listing(visible_vhosts(request), lambda vhost: {"name": vhost.name, "queues": len(vhost.queues)})


def _all(request: Request, of: Callable[[VHost], Iterable[Any]], vhost: str | None) -> Iterator[tuple[Any, VHost]]:
    chosen = [find_vhost(request, vhost)] if vhost is not None else list(visible_vhosts(request))
    return ((each, home) for home in chosen for each in list(of(home)))


@route_to("GET", "queues")
@route_to("GET", "queues/*")
def _list_queues(request: Request, vhost: str | None = None) -> Listing:
    return Listing(_all(request, lambda home: home.queues.values(), vhost), lambda pair: views.queue_view(*pair))


@route_to("GET", "queues/*/*")
def _show_queue(request: Request, vhost: str, name: str) -> dict[str, Any]:
    home = find_vhost(request, vhost)
    queue = home.queue(name)
    return views.queue_view(queue, home) | {
        "consumer_details": [views.consumer_view(each) for each in queue.consumers if isinstance(each, Consumer)]
    }


@route_to("GET", "exchanges")
@route_to("GET", "exchanges/*")
def _list_exchanges(request: Request, vhost: str | None = None) -> Listing:
    return Listing(
        _all(request, lambda home: [None, *home.exchanges.values()], vhost), lambda pair: views.exchange_view(*pair)
    )


@route_to("GET", "exchanges/*/*")
def _show_exchange(request: Request, vhost: str, name: str) -> dict[str, Any]:
    home = find_vhost(request, vhost)
    return views.exchange_view(home.exchange(name), home)


def _bindings(home: VHost) -> Iterator[Any]:
    yield from list(home.queues.values())
    for exchange in list(home.exchanges.values()):
        yield from list(exchange.bindings.values())


@route_to("GET", "bindings")
@route_to("GET", "bindings/*")
def _list_bindings(request: Request, vhost: str | None = None) -> Listing:
    def view(pair: tuple[Any, VHost]) -> dict[str, Any]:
        each, home = pair
        if isinstance(each, Queue):
            return views.default_binding_view(each, home)
        return views.binding_view(each, home)

    return Listing(_all(request, _bindings, vhost), view)


def _connections(request: Request) -> list[Any]:
    mine = {vhost.name for vhost in visible_vhosts(request)}
    everything = bool(request.user.tags & MONITORING)
    return [
        connection
        for connection in request.hub.connections
        if everything or (connection.vhost is not None and connection.vhost.name in mine)
    ]


@route_to("GET", "connections")
def _list_connections(request: Request) -> Listing:
    return Listing(_connections(request), views.connection_view)


@route_to("GET", "channels")
def _list_channels(request: Request) -> Listing:
    rows = (channel for one in _connections(request) for channel in list(one.channels.values()))
    return Listing(rows, views.channel_view)


@route_to("GET", "consumers")
@route_to("GET", "consumers/*")
def _list_consumers(request: Request, vhost: str | None = None) -> Listing:
    rows = (
        consumer
        for queue, _ in _all(request, lambda home: home.queues.values(), vhost)
        for consumer in list(queue.consumers)
    )
    return Listing(rows, views.consumer_view)


# Messages.


@route_to("DELETE", "queues/*/*/contents")
def _purge(request: Request, vhost: str, name: str) -> None:
    home = find_vhost(request, vhost)
    require(request, home, "read", "queue", name)
    home.queue(name).purge()


@route_to("POST", "exchanges/*/*/publish")
def _publish(request: Request, vhost: str, name: str) -> dict[str, Any]:
    home = find_vhost(request, vhost)
    name = "" if name == "amq.default" else name
    require(request, home, "write", "exchange", name)
    routing_key = str(request.body.get("routing_key", ""))
    if name and not request.hub.access.can_topic(request.user, vhost, "write", name, routing_key):
        raise Refused(ACCESS_REFUSED, f"write access to topic '{routing_key}' in exchange '{name}' refused")
    if request.hub.broker.alarm is not None:
        raise HttpError(503, "blocked", request.hub.broker.alarm)
    routed = messages.publish(home, name, request.body, request.user, request.message_size_max)
    return {"routed": routed}


@route_to("POST", "queues/*/*/get")
def _get(request: Request, vhost: str, name: str) -> list[dict[str, Any]]:
    home = find_vhost(request, vhost)
    require(request, home, "read", "queue", name)
    queue = home.queue(name)
    if queue.owner is not None:
        queue.check_access(request)
    body = request.body
    try:
        count = int(body.get("count", 1))
        truncate = int(body["truncate"]) if "truncate" in body else None
    except (TypeError, ValueError):
        raise HttpError(400, "bad_request", "count and truncate are integers") from None
    ackmode = str(body.get("ackmode", "ack_requeue_true"))
    return messages.get(queue, max(count, 0), ackmode, str(body.get("encoding", "auto")), truncate)

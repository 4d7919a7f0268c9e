"""The paths of RabbitMQ's management API that are served: a table of routes, and what each answers.

Handlers are synchronous and pure towards the network: request in, (status, JSON value) out; `Listing` is an answer
that `server` builds in slices, and a handler that is a generator pauses where it yields (`LongAnswer`). Knows nothing
of h11. Paths are split before they are decoded, so that the vhost `/` arrives as `%2F` (RabbitMQ's rule).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from broker.core.access import User, Verb
from broker.core.access_lists import Kind, Operation
from broker.core.exchange.base import Binding
from broker.core.queues.queue import Queue
from broker.core.topics.errors import TopicRefused
from broker.core.vhosts.proposing import Target
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused
from broker.log.errors import StorageError
from broker.server.http import messages, views
from broker.server.hub import Hub
from protocol.amqp.errors import ACCESS_REFUSED, NOT_FOUND
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import CorruptBatch

MONITORING = frozenset({"administrator", "monitoring"})
MANAGEMENT = MONITORING | {"management", "policymaker"}
_STATUS = {ACCESS_REFUSED: (401, "not_authorised"), NOT_FOUND: (404, "Object Not Found")}
_TOPIC_STATUS = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: (404, "Object Not Found"),
    ErrorCode.TOPIC_ALREADY_EXISTS: (409, "conflict"),
}


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
    host: str = ""
    """The peer's address."""


class Listing:
    """Rows to be shown one by one, so that a long list never holds the loop; None is a step that found no row.

    An answer, or one of the values of an object that is one.
    """

    def __init__(self, rows: Iterable[Any], view: Callable[[Any], dict[str, Any]] | None = None) -> None:
        self.rows = rows
        self.view = view or _as_it_is


def _as_it_is(row: Any) -> dict[str, Any]:
    return row  # type: ignore[no-any-return]  # It is one.


class Created:
    """The answer 201, without a body: what a PUT named was not there before. `location` is where a POST has put it."""

    def __init__(self, location: str = "") -> None:
        self.location = location


CREATED = Created()
Work = Generator[None, None, Any]
"""What a handler returns that takes longer: it pauses where it yields, and returns the answer."""


class LongAnswer:
    """An answer under way."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.answer: Any = None

    def advance(self) -> bool:
        """Go on to the next pause; whether the answer is there. Raises HttpError."""
        with _refusals_told():
            try:
                next(self._work)
            except StopIteration as done:
                self.answer = done.value
                return True
        return False


class HttpError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, error: str, reason: str, **more: Any) -> None:
        super().__init__(status, error, reason)
        self.status = status
        self.body = {"error": error, "reason": reason, **more}


Handler = Callable[..., Any]
_ROUTES: dict[tuple[str, int], list[tuple[str, tuple[str, ...], Handler]]] = {}


def route_to(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Register `method /api/pattern`; `*` segments become arguments."""
    segments = tuple(pattern.split("/"))

    def register(handler: Handler) -> Handler:
        _ROUTES.setdefault((segments[0], len(segments)), []).append((method, segments, handler))
        return handler

    return register


def not_there(what: str) -> HttpError:
    """404 for a thing, with its name; what is no path of the API is `Not Found`."""
    return HttpError(404, "Object Not Found", f"no {what}")


def split_target(target: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """(decoded path segments, query) of a request target. Raises HttpError 404 for what is not below /api/."""
    path, _, query = target.partition("?")
    segments = path.strip("/").split("/")  # One at the end changes nothing: probes and people write it.
    if segments[0] != "api" or len(segments) < 2:
        raise HttpError(404, "Object Not Found", "Not Found")
    return tuple(unquote(segment) for segment in segments[1:]), {k: v[-1] for k, v in parse_qs(query).items()}


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What the core says no to, in terms of HTTP."""
    try:
        yield
    except Refused as refused:
        status, error = _STATUS.get(refused.reply_code, (400, "bad_request"))
        raise HttpError(status, error, refused.text) from None
    except TopicRefused as refused:
        status, error = _TOPIC_STATUS.get(refused.code, (400, "bad_request"))
        raise HttpError(status, error, refused.text) from None
    except UnicodeEncodeError:
        # JSON can write half of a surrogate pair; AMQP cannot.
        raise HttpError(400, "bad_request", "the body has text that is not Unicode") from None
    except (StorageError, CorruptBatch, OSError) as error:
        raise HttpError(500, "storage", str(error)) from None


def answer(request: Request) -> Any:
    """What to send: a JSON value, a Listing, CREATED for 201, None for 204; or a LongAnswer. Raises HttpError."""
    allowed = set()
    for method, segments, handler in _ROUTES.get((request.parts[0], len(request.parts)), ()):
        if all(wanted in ("*", given) for wanted, given in zip(segments, request.parts, strict=True)):
            allowed.add(method)
            if method == request.method:
                arguments = [given for wanted, given in zip(segments, request.parts, strict=True) if wanted == "*"]
                if not request.user.tags & MANAGEMENT:
                    raise HttpError(401, "not_authorised", "Not management user")
                with _refusals_told():
                    found = handler(request, *arguments)
                    return LongAnswer(found) if isinstance(found, Generator) else found
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
    raise not_there(f"vhost '{name}'")  # The same for one that the user does not see.


def find_queue(request: Request, vhost: str, name: str) -> tuple[VHost, Queue]:
    """A queue that whoever asks may read: what basic.get, consume and purge ask for. Raises HttpError 404, Refused.

    One that is exclusive to a connection is locked (405) to all requests.
    """
    home = find_vhost(request, vhost)
    require(request, home, "read", "queue", name)
    return home, home.queue(name, request)


LISTED_AS: dict[str, Kind] = {"queue": "topic", "topic": "topic", "group": "group"}
"""What access lists call it; exchanges are nothing to them."""


def require(request: Request, vhost: VHost, verb: Verb | Operation, kind: str, name: str) -> None:
    listed_as = LISTED_AS.get(kind)
    if not request.hub.access.can(request.user, vhost.name, verb, name or "amq.default", listed_as, request.host):
        text = f"{verb} access to {kind} '{name}' in vhost '{vhost.name}' refused for user '{request.user.name}'"
        raise Refused(ACCESS_REFUSED, text)


# Overview and health.


@route_to("GET", "overview")
def _overview(request: Request) -> dict[str, Any]:
    hub = request.hub
    statistics = request.statistics()
    vhosts = list(hub.broker.vhosts.values())
    queues = [queue for vhost in vhosts for queue in vhost.queues.values()]
    ready = sum(queue.ready_count for queue in queues)
    leased = sum(queue.store.leased_count for queue in queues)
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
            "queues": sum(map(_count, vhosts)),
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


# Lists.


@route_to("GET", "vhosts")
def _list_vhosts(request: Request) -> Listing:
    return Listing(visible_vhosts(request), lambda vhost: {"name": vhost.name, "queues": _count(vhost)})


def _all(request: Request, of: Callable[[VHost], Iterable[Any]], vhost: str | None) -> Iterator[tuple[Any, VHost]]:
    chosen = [find_vhost(request, vhost)] if vhost is not None else list(visible_vhosts(request))
    return ((each, home) for home in chosen for each in list(of(home)))


@route_to("GET", "queues")
@route_to("GET", "queues/*")
def _list_queues(request: Request, vhost: str | None = None) -> Listing:
    return Listing(_all(request, _targets, vhost), lambda pair: views.target_view(*pair))


def _count(home: VHost) -> int:
    """How many there are in the list of queues, where streams are queues as in RabbitMQ."""
    return len(home.queues) + len(home.streams)


def _targets(home: VHost) -> list[Target]:
    """Queues and streams: everything that messages end up in."""
    return [*home.queues.values(), *home.streams.all()]


@route_to("GET", "queues/*/*")
def _show_queue(request: Request, vhost: str, name: str) -> dict[str, Any]:
    home = find_vhost(request, vhost)
    queue = home.destination(name, None)
    return views.target_view(queue, home) | {
        "consumer_details": [views.consumer_view(each) for each in _consumers_of(queue)]
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
    yield from _targets(home)
    for exchange in list(home.exchanges.values()):
        yield from list(exchange.bindings.values())


@route_to("GET", "bindings")
@route_to("GET", "bindings/*")
def _list_bindings(request: Request, vhost: str | None = None) -> Listing:
    def view(pair: tuple[Any, VHost]) -> dict[str, Any]:
        each, home = pair
        if not isinstance(each, Binding):
            return views.default_binding_view(each, home)
        return views.binding_view(each, home)

    return Listing(_all(request, _bindings, vhost), view)


def _connections(request: Request) -> list[Any]:
    mine = {vhost.name for vhost in visible_vhosts(request)}
    everything = bool(request.user.tags & MONITORING)
    return [
        connection
        for connection in request.hub.amqp.connections
        if everything or (connection.vhost is not None and connection.vhost.name in mine)
    ]


@route_to("GET", "connections")
def _list_connections(request: Request) -> Listing:
    return Listing(_connections(request), views.connection_view)


@route_to("GET", "channels")
def _list_channels(request: Request) -> Listing:
    rows = (channel for one in _connections(request) for channel in list(one.channels.values()))
    return Listing(rows, views.channel_view)


def _consumers_of(queue: Target) -> list[Any]:
    return list(queue.consumers)


@route_to("GET", "consumers")
@route_to("GET", "consumers/*")
def _list_consumers(request: Request, vhost: str | None = None) -> Listing:
    rows = (consumer for queue, _ in _all(request, _targets, vhost) for consumer in _consumers_of(queue))
    return Listing(rows, views.consumer_view)


# Messages.


@route_to("DELETE", "queues/*/*/contents")
def _purge(request: Request, vhost: str, name: str) -> None:
    find_queue(request, vhost, name)[1].purge()


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

    def is_denied(key: str) -> bool:
        return request.hub.access.listed(request.user, vhost, "write", key, "topic", request.host) is False

    routed = messages.publish(home, name, request.body, request.user, request.message_size_max, is_denied)
    return {"routed": routed}


@route_to("POST", "queues/*/*/get")
def _get(request: Request, vhost: str, name: str) -> list[dict[str, Any]]:
    _, queue = find_queue(request, vhost, name)
    queue.check_get(request.hub.now_ms)
    body = request.body
    try:
        count = int(body.get("count", 1))
        truncate = int(body["truncate"]) if "truncate" in body else None
    except (TypeError, ValueError, OverflowError):
        raise HttpError(400, "bad_request", "count and truncate are integers") from None
    ackmode = str(body.get("ackmode", "ack_requeue_true"))
    return messages.get(queue, max(count, 0), ackmode, str(body.get("encoding", "auto")), truncate)

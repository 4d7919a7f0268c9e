"""Declaring, binding and deleting over HTTP, as RabbitMQ's management API has it (rabbit_mgmt_wm_queue, _bindings ...).

A queue, exchange or binding made here is the one that AMQP would have made: the same checks, permissions and refusals
as queue.declare and the like (`amqp/methods_topology.py`), the same words. What is not said is false, as there.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from broker.core.exchange.base import Binding, Destination, freeze
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused
from broker.server.http.api import (
    CREATED,
    Created,
    Listing,
    Request,
    Work,
    find_vhost,
    not_there,
    require,
    route_to,
)
from broker.server.http.fields import bad
from broker.server.http.views import binding_view, default_binding_view, properties_key
from protocol.amqp.errors import ACCESS_REFUSED, PeerError
from protocol.amqp.fields import decode_table, encode_table

NAME_BYTES_MAX = 255
ARGUMENTS_BYTES_MAX = 128 * 1024
"""No client of AMQP could send more: a method is one frame."""
AT_ONCE = 500
"""Bindings that are looked at between pauses."""
DEFAULT_NAME = "amq.default"


def _name(given: str) -> str:
    """A name as AMQP would have it: up to 255 octets, without CR and LF. Raises HttpError 400."""
    name = given.replace("\r", "").replace("\n", "")
    if not name or len(name.encode()) > NAME_BYTES_MAX:
        raise bad(f"a name has 1 to {NAME_BYTES_MAX} octets")
    return name


def _key(given: Any) -> str:
    if not isinstance(given, str) or len(given.encode()) > NAME_BYTES_MAX:
        raise bad(f"routing_key is a string of up to {NAME_BYTES_MAX} octets")
    return given


def _arguments(given: Any) -> dict[str, Any]:
    """The arguments as a field table would have brought them, within its limits. Raises HttpError 400."""
    if not isinstance(given, dict):
        raise bad("arguments are an object")
    try:
        octets = encode_table(given)
        if len(octets) > ARGUMENTS_BYTES_MAX:
            raise bad(f"arguments are longer than {ARGUMENTS_BYTES_MAX} octets")
        return decode_table(octets)[0]
    except PeerError as error:
        raise bad(f"arguments: {error.text}") from None
    except (ValueError, TypeError, OverflowError, struct.error):
        raise bad("arguments have a value or a name that no field table can hold") from None


def _flag(body: Mapping[str, Any], name: str) -> bool:
    """True or false, which rabbitmqadmin writes as text. Raises HttpError 400."""
    found = body.get(name, False)
    if found not in (True, False, "true", "false") or (isinstance(found, int) and not isinstance(found, bool)):
        raise bad(f"{name} is true or false")
    return found in (True, "true")


def _asked(request: Request, name: str) -> bool:
    """Whether the query says so: ?if-unused=true."""
    return request.query.get(name, "") == "true"


# Queues and exchanges.


@route_to("PUT", "queues/*/*")
def _declare_queue(request: Request, vhost: str, name: str) -> Created | None:
    """{durable, auto_delete, arguments}: 201, or 204 when it is there and equivalent; 400 when it is not."""
    home, name, body = find_vhost(request, vhost), _name(name), request.body
    if _flag(body, "exclusive"):
        raise bad("an exclusive queue needs a connection that it belongs to")
    arguments = _arguments(body.get("arguments", {}))
    require(request, home, "configure", "queue", name)
    dead_letter = arguments.get("x-dead-letter-exchange")
    is_there = home.target(name) is not None
    if isinstance(dead_letter, str) and not is_there:
        require(request, home, "read", "queue", name)
        require(request, home, "write", "exchange", dead_letter or DEFAULT_NAME)
    home.declare_queue(
        name,
        durable=_flag(body, "durable"),
        exclusive=False,
        auto_delete=_flag(body, "auto_delete"),
        arguments=arguments,
        connection=request,
        now_ms=request.hub.now_ms,
    )
    return None if is_there else CREATED


@route_to("DELETE", "queues/*/*")
def _delete_queue(request: Request, vhost: str, name: str) -> Work:
    """?if-unused=true&if-empty=true."""
    home = find_vhost(request, vhost)
    require(request, home, "delete", "queue", name)
    if home.target(name) is None:
        raise not_there(f"queue '{name}' in vhost '{vhost}'")
    unused, empty = _asked(request, "if-unused"), _asked(request, "if-empty")
    home.delete_queue(name, request, if_unused=unused, if_empty=empty)
    while home.unbinding.is_leaving("queue", name):
        yield


@route_to("PUT", "exchanges/*/*")
def _declare_exchange(request: Request, vhost: str, name: str) -> Created | None:
    """{type, durable, auto_delete, internal, arguments}: as for queues; the type is direct where none is said."""
    home, name, body = find_vhost(request, vhost), _name(name), request.body
    kind = body.get("type", "direct")
    if not isinstance(kind, str):
        raise bad("type is a string")
    name = "" if name == DEFAULT_NAME else name
    arguments = _arguments(body.get("arguments", {}))
    require(request, home, "configure", "exchange", name)
    is_there = name in home.exchanges
    alternate = arguments.get("alternate-exchange")
    if isinstance(alternate, str) and not is_there:
        require(request, home, "read", "exchange", name)
        require(request, home, "write", "exchange", alternate)
    durable, auto_delete, internal = (_flag(body, one) for one in ("durable", "auto_delete", "internal"))
    home.declare_exchange(name, kind, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
    return None if is_there else CREATED


@route_to("DELETE", "exchanges/*/*")
def _delete_exchange(request: Request, vhost: str, name: str) -> Work:
    """?if-unused=true."""
    home = find_vhost(request, vhost)
    name = "" if name == DEFAULT_NAME else name
    require(request, home, "configure", "exchange", name)
    if name and name not in home.exchanges:
        raise not_there(f"exchange '{name}' in vhost '{vhost}'")
    home.delete_exchange(name, if_unused=_asked(request, "if-unused"))
    while home.unbinding.is_leaving("exchange", name):
        yield


# Bindings.


def _ends(
    request: Request, vhost: str, source: str, kind: str, name: str, *, changes: bool
) -> tuple[VHost, Destination]:
    """Where a binding leads, both ends being there. Raises HttpError, Refused 404.

    A queue that is exclusive to a connection is locked to who `changes` its bindings, not to who looks at them
    (RabbitMQ: rabbit_mgmt_wm_bindings.erl).
    """
    home = find_vhost(request, vhost)
    home.exchange(source)
    if kind != "queue":
        return home, home.exchange(name)
    return home, home.destination(name, request if changes else None)


def _between(home: VHost, source: str, end: Destination) -> Iterator[Binding | None]:
    """The bindings from one to the other; None for each that leads elsewhere."""
    for binding in list(home.exchange(source).bindings.values()):
        yield binding if binding.destination is end else None


def _require_ends(request: Request, home: VHost, source: str, kind: str, name: str) -> None:
    require(request, home, "write", kind, name)
    require(request, home, "read", "exchange", source)


def _register(letter: str, kind: str) -> None:
    """The paths of bindings to queues (q), and of those to exchanges (e)."""
    path = f"bindings/*/e/*/{letter}/*"

    @route_to("GET", path)
    def _list(request: Request, vhost: str, source: str, name: str) -> Listing:
        home = find_vhost(request, vhost)
        if kind == "queue" and source in ("", DEFAULT_NAME):
            return Listing([home.destination(name, None)], lambda queue: default_binding_view(queue, home))
        home, end = _ends(request, vhost, source, kind, name, changes=False)
        return Listing(_between(home, source, end), lambda binding: binding_view(binding, home))

    @route_to("POST", path)
    def _bind(request: Request, vhost: str, source: str, name: str) -> Created:
        """{routing_key, arguments}: 201, also where it is there already (RabbitMQ)."""
        body = request.body
        key, arguments = _key(body.get("routing_key", "")), _arguments(body.get("arguments", {}))
        home = find_vhost(request, vhost)
        _require_ends(request, home, source, kind, name)
        home, end = _ends(request, vhost, source, kind, name, changes=True)
        topic_like = home.exchange(source).type == "topic"
        if topic_like and not request.hub.access.can_topic(request.user, vhost, "read", source, key):
            raise Refused(ACCESS_REFUSED, f"read access to topic '{key}' in exchange '{source}' refused")
        home.bind(source, end, key, arguments)
        where = properties_key(Binding(source, end, key, arguments, freeze(arguments)))
        return Created(f"{quote(name, safe='')}/{quote(where, safe='')}")

    @route_to("GET", f"{path}/*")
    def _show(request: Request, vhost: str, source: str, name: str, which: str) -> Generator[None, None, Any]:
        home, end = _ends(request, vhost, source, kind, name, changes=False)
        return binding_view((yield from _find(home, source, end, which)), home)

    @route_to("DELETE", f"{path}/*")
    def _unbind(request: Request, vhost: str, source: str, name: str, which: str) -> Generator[None, None, None]:
        home = find_vhost(request, vhost)
        _require_ends(request, home, source, kind, name)
        home, end = _ends(request, vhost, source, kind, name, changes=True)
        binding = yield from _find(home, source, end, which)
        home.unbind(source, end, binding.routing_key, binding.arguments)


def _find(home: VHost, source: str, end: Destination, which: str) -> Generator[None, None, Binding]:
    """The binding of this `properties_key`. Raises HttpError 404."""
    for count, binding in enumerate(_between(home, source, end), 1):
        if binding is not None and properties_key(binding) == which:
            return binding
        if count % AT_ONCE == 0:
            yield
    raise not_there(f"binding '{which}' of exchange '{source}' to '{end.name}'")


_register("q", "queue")
_register("e", "exchange")


@route_to("GET", "queues/*/*/bindings")
def _bindings_of_queue(request: Request, vhost: str, name: str) -> Listing:
    home = find_vhost(request, vhost)
    return _leading_to(home, home.destination(name, None), default=True)


@route_to("GET", "exchanges/*/*/bindings/destination")
def _bindings_to_exchange(request: Request, vhost: str, name: str) -> Listing:
    home = find_vhost(request, vhost)
    return _leading_to(home, home.exchange(name), default=False)


@route_to("GET", "exchanges/*/*/bindings/source")
def _bindings_from_exchange(request: Request, vhost: str, name: str) -> Listing:
    home = find_vhost(request, vhost)
    return Listing(list(home.exchange(name).bindings.values()), lambda binding: binding_view(binding, home))


def _leading_to(home: VHost, end: Any, *, default: bool) -> Listing:
    """Every binding that leads to a queue or exchange; of a queue also that to the default exchange."""

    def rows() -> Iterator[Any]:
        if default:
            yield end
        for source in list(home.exchanges):
            if source in home.exchanges:  # It may have gone meanwhile.
                yield from _between(home, source, end)

    return Listing(
        rows(), lambda row: binding_view(row, home) if isinstance(row, Binding) else default_binding_view(row, home)
    )

"""From an exchange and a routing key to queues: exchange-to-exchange bindings, alternates, loops, one copy per queue.

Runs when a connection's route cache misses, and per message where an answer may not be cached. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import filterfalse
from operator import attrgetter

from broker.core.exchange.base import Destination
from broker.core.exchange.exchange import Exchange
from broker.core.message import Incoming
from broker.core.sink import Sink

_IS_DELETED = attrgetter("deleted")


def is_cacheable(exchanges: Mapping[str, Exchange], source: Exchange) -> bool:
    """Whether routes from `source` depend on the routing key and the bindings alone, wherever they may lead.

    Only then may `route` be asked with a publication that has no message yet: other routers look into it, or remember.
    """
    if source.plain:
        return source.router.cacheable
    return all(exchange.router.cacheable for exchange in _reach(exchanges, source))


def remembers(exchanges: Mapping[str, Exchange], source: Exchange) -> bool:
    """Whether a publication to `source` may come to a router that remembers it."""
    if source.plain:
        return source.router.remembers
    return any(exchange.router.remembers for exchange in _reach(exchanges, source))


def _reach(exchanges: Mapping[str, Exchange], source: Exchange) -> Iterator[Exchange]:
    """`source`, and every exchange that its publications may come to."""
    seen = {source}
    pending = [source]
    while pending:
        exchange = pending.pop()
        yield exchange
        onward = {binding.destination for binding in exchange.bindings.values()}
        if exchange.alternate is not None and exchange.alternate in exchanges:
            onward.add(exchanges[exchange.alternate])
        for destination in onward:
            if isinstance(destination, Exchange) and destination not in seen:
                seen.add(destination)
                pending.append(destination)


def route(
    exchanges: Mapping[str, Exchange], source: Exchange, publication: Incoming, more_keys: Sequence[str] = ()
) -> tuple[Sink, ...]:
    """The sinks that a publication to `source` reaches, each once, in binding order.

    `more_keys` (CC, BCC) are tried besides its own by the routers that know keys. An exchange that leads nowhere hands
    over to its alternate; each exchange is visited once, which cuts loops.
    Raises PeerError 502 for a malformed headers table and Refused 406 where a router declines; then no router remembers
    it. If no sink takes it, `publication.forget` is the caller's business.
    """
    if source.plain and not more_keys:
        # Queues only, and the router names each once; the same object, so that equal answers stay comparable by `is`.
        found = source.router.route(publication)
        if any(map(_IS_DELETED, found)):
            return tuple(filterfalse(_IS_DELETED, found))  # type: ignore[arg-type]
        return found  # type: ignore[return-value]
    try:
        return _spread(exchanges, source, publication, more_keys)
    except BaseException:
        publication.forget()
        raise


def _spread(
    exchanges: Mapping[str, Exchange], source: Exchange, publication: Incoming, more_keys: Sequence[str]
) -> tuple[Sink, ...]:
    queues: dict[Sink, None] = {}
    seen = {source}
    pending = [source]
    while pending:
        exchange = pending.pop()
        destinations: list[Destination] = list(exchange.router.route(publication))
        if more_keys and exchange.router.keyed:
            destinations += _by_more_keys(exchange, publication, more_keys)
        destinations = list(filterfalse(_IS_DELETED, destinations))
        if not destinations and exchange.alternate is not None:
            alternate = exchanges.get(exchange.alternate)
            destinations = [alternate] if alternate is not None else []
        for destination in destinations:
            if not isinstance(destination, Exchange):
                queues[destination] = None  # type: ignore[index]  # What is no exchange is a sink.
            elif destination not in seen:
                seen.add(destination)
                pending.append(destination)
    return tuple(queues)


def _by_more_keys(exchange: Exchange, publication: Incoming, more_keys: Sequence[str]) -> list[Destination]:
    found: list[Destination] = []
    own = publication.routing_key
    for key in more_keys:
        publication.routing_key = key
        found += exchange.router.route(publication)
    publication.routing_key = own
    return found

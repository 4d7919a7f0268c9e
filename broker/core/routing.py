"""From an exchange and a routing key to queues: exchange-to-exchange bindings, alternates, loops, one copy per queue.

Runs when a connection's route cache misses, and per message where a router's answer may not be cached. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.exchange.base import Destination, Publication
from broker.core.exchange.exchange import Exchange
from broker.core.queue import Queue

Route = tuple[tuple[Queue, ...], bool]
"""(queues, whether the answer may be cached until bindings change)."""


def route(exchanges: Mapping[str, Exchange], source: Exchange, publication: Publication) -> Route:
    """The queues that a publication to `source` reaches, each once, in binding order.

    An exchange that leads nowhere hands over to its alternate; each exchange is visited once, which cuts loops.
    """
    if source.plain:
        # Queues only, and the router names each once; the same object, so that equal answers stay comparable by `is`.
        return source.router.route(publication), source.router.cacheable  # type: ignore[return-value]
    cacheable = True
    queues: dict[Queue, None] = {}
    seen = {source}
    pending = [source]
    while pending:
        exchange = pending.pop()
        cacheable = cacheable and exchange.router.cacheable
        destinations: list[Destination] = list(exchange.router.route(publication))
        if not destinations and exchange.alternate is not None:
            alternate = exchanges.get(exchange.alternate)
            destinations = [alternate] if alternate is not None else []
        for destination in destinations:
            if isinstance(destination, Queue):
                queues[destination] = None
            elif isinstance(destination, Exchange) and destination not in seen:
                seen.add(destination)
                pending.append(destination)
    return tuple(queues), cacheable

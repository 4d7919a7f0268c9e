"""Publishing, the general path: where a publication goes, and what became of it.

Everybody who publishes one message asks here: channels, transactions, the management API, dead letters, delays,
replays. Runs of regular messages go to `Sink.enqueue` directly, with the sinks that `find` has named (the hot path of
`server.amqp.publish`; tests/server/amqp/test_paths_agree.py holds that both agree).

A publication is *taken* when at least one sink has it, and *refused* when a sink that it was routed to would not have
it; it may be both. What routers remember of it (`Incoming.remembered`) holds only if it was taken, and, where the
publisher hears of refusals and will send it again, only if nobody refused it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.exchange.exchange import Exchange
from broker.core.exchange.routing import route
from broker.core.message import Incoming, Message
from broker.core.sink import Sink
from broker.errors import Refused
from protocol.amqp.errors import PeerError

if TYPE_CHECKING:
    from broker.core.vhosts.vhost import VHost

Outcome = tuple[bool, bool]
"""(whether a sink has taken it, whether a sink has refused it)."""


def find(
    home: VHost, exchange: Exchange | None, publication: Incoming, more_keys: Sequence[str] = ()
) -> tuple[Sink, ...]:
    """The sinks that a publication reaches, each once. The exchange None is the default one: a key names a sink.

    `more_keys` (CC, BCC) are tried besides its own. Raises PeerError 502 for a malformed headers table and Refused 406
    where a router declines.
    """
    if exchange is None:
        found = map(home.target, (publication.routing_key, *more_keys))
        return tuple(dict.fromkeys(sink for sink in found if sink is not None))
    return route(home.exchanges, exchange, publication, more_keys)


def find_for_nobody(home: VHost, publication: Incoming, more_keys: Sequence[str] = ()) -> tuple[Sink, ...]:
    """Like `find`, for a publication that nobody waits for: what cannot be routed goes nowhere.

    Its exchange may be deleted, its headers may break what the exchange routes by, or a topic exchange finds its key
    too costly.
    """
    exchange = home.exchanges.get(publication.exchange) if publication.exchange else None
    if publication.exchange and exchange is None:
        return ()
    try:
        return find(home, exchange, publication, more_keys)
    except (PeerError, Refused):
        return ()


def deliver(
    exchange: Exchange | None,
    sinks: Sequence[Sink],
    message: Message,
    publication: Incoming | None,
    *,
    hears: bool = False,
) -> Outcome:
    """Hand one message of any kind to its sinks.

    `publication` is what it was routed by, None where a cache knew; `hears` says that the publisher is told of a
    refusal.
    """
    if exchange is not None:
        exchange.published_count += 1
    taken = refused = False
    for sink in sinks:
        if sink.enqueue_one(message):
            taken = True
        else:
            refused = True
    if publication is not None and (not taken or (refused and hears)):
        publication.forget()
    return taken, refused

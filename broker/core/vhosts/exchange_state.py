"""What some exchanges keep beside their bindings: messages that are not due yet, values that were seen.

A router knows nothing of stores; what stands behind it is made here, when the exchange is declared or comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.exchange.base import Router
from broker.core.exchange.deduplication import DeduplicationRouter
from broker.core.exchange.delayed import DelayedRouter
from broker.core.exchange.exchange import Exchange, ExchangeState
from broker.core.vhosts.deduplication_log import DeduplicationFrames, DeduplicationLog
from broker.core.vhosts.delay_queue import DelayQueue

if TYPE_CHECKING:
    from broker.core.vhosts.vhost import VHost
    from broker.log.log import Log


def wants_log(router: Router) -> bool:
    """Whether a durable exchange of this router has something that a restart must find."""
    return isinstance(router, DelayedRouter) or (isinstance(router, DeduplicationRouter) and router.persistent)


def attach(home: VHost, exchange: Exchange, log: Log | None) -> ExchangeState | None:
    """Give an exchange what it needs beside its bindings; None for most, which need nothing."""
    router = exchange.router
    if isinstance(router, DelayedRouter):
        router.holder = holder = DelayQueue(home, exchange, log)
        return holder
    if isinstance(router, DeduplicationRouter) and home.store is not None:
        if log is not None:
            return DeduplicationLog(router, home.store, log)
        router.log = DeduplicationFrames(home.store)
    return None

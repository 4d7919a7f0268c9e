"""The exchange types that exist: type name -> router class. What is not here is refused at exchange.declare."""

from __future__ import annotations

from broker.core.exchange.base import Router
from broker.core.exchange.consistent_hash import ConsistentHashRouter
from broker.core.exchange.deduplication import DeduplicationRouter
from broker.core.exchange.delayed import DelayedRouter
from broker.core.exchange.direct import DirectRouter
from broker.core.exchange.fanout import FanoutRouter
from broker.core.exchange.headers import HeadersRouter
from broker.core.exchange.random_exchange import RandomRouter
from broker.core.exchange.recent_history import RecentHistoryRouter
from broker.core.exchange.topic import TopicRouter

ROUTERS: dict[str, type[Router]] = {
    router.type_name: router
    for router in (
        DirectRouter,
        FanoutRouter,
        TopicRouter,
        HeadersRouter,
        ConsistentHashRouter,
        RandomRouter,
        RecentHistoryRouter,
        DeduplicationRouter,
        DelayedRouter,
    )
}
DelayedRouter.inner_types = {name: router for name, router in ROUTERS.items() if router is not DelayedRouter}

"""`direct`: a publication goes to the destinations bound with its routing key (spec 3.1.3.1).

Hot path. Budget 0.3 µs a route; `tests/core/exchange/test_topic_cost.py` holds it.

Invariant: every tuple in `_routes` is in `_interned`, so that equal answers are one object whatever their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication


class DirectRouter:
    """Bindings by routing key. Tuples are built at the first publication after a change, not per bind."""

    __slots__ = ("_bindings", "_interned", "_routes")

    type_name: ClassVar[str] = "direct"
    cacheable: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._bindings: dict[str, dict[Any, Destination]] = {}
        self._routes: dict[str, tuple[Destination, ...]] = {}
        self._interned: dict[tuple[Destination, ...], tuple[Destination, ...]] = {}

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Any routing key will do."""

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        self._bindings.setdefault(binding.routing_key, {})[binding.key] = binding.destination
        self._routes.pop(binding.routing_key, None)
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before."""
        same_key = self._bindings[binding.routing_key]
        del same_key[binding.key]
        if not same_key:
            del self._bindings[binding.routing_key]
        self._routes.pop(binding.routing_key, None)
        if len(self._interned) > 2 * len(self._routes) + 64:
            self._interned = {route: route for route in self._routes.values()}

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """The destinations bound with exactly this routing key."""
        found = self._routes.get(publication.routing_key)
        return found if found is not None else self._build(publication.routing_key)

    def _build(self, routing_key: str) -> tuple[Destination, ...]:
        same_key = self._bindings.get(routing_key)
        if same_key is None:
            return ()  # Not remembered: publishers choose the keys, and there is no end of them.
        fresh = tuple(dict.fromkeys(same_key.values()))
        route = self._routes[routing_key] = self._interned.setdefault(fresh, fresh)
        return route

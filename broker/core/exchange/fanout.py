"""`fanout`: a publication goes to every bound destination, whatever its routing key (spec 3.1.3.2).

Hot path. Budget 0.3 µs a route; `tests/core/exchange/test_topic_cost.py` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication


class FanoutRouter:
    """All bindings. The tuple is built at the first publication after a change, not per bind."""

    __slots__ = ("_bindings", "_changed", "_route")

    type_name: ClassVar[str] = "fanout"
    cacheable: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._bindings: dict[Any, Destination] = {}
        self._route: tuple[Destination, ...] = ()
        self._changed = False

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Any binding will do."""

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        self._bindings[binding.key] = binding.destination
        self._changed = True
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before."""
        del self._bindings[binding.key]
        self._changed = True

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """Every destination, each once."""
        if self._changed:
            self._changed = False
            fresh = tuple(dict.fromkeys(self._bindings.values()))
            if fresh != self._route:  # Else the old object stays: equal answers are the same object.
                self._route = fresh
        return self._route

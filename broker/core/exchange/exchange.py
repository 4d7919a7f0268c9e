"""One declared exchange: its definition, its router, and its bindings by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from broker.core.exchange.base import Binding, Message, Router


class ExchangeState(Protocol):
    """What some exchanges keep beside their bindings (see `core.vhosts.exchange_state`); it lives and dies with
    them."""

    @property
    def delayed_count(self) -> int | None:
        """Messages that wait here until they are due; None where messages never do."""
        ...

    def recover(self, *, clean: bool) -> None:
        """After a restart, and `clean` if the last stop was in order. Raises Corrupt and OSError."""

    def close(self) -> None:
        """The exchange is deleted: nothing of this is kept."""


class Exchange:
    """An exchange of a vhost. `plain` says that routing is nothing but its router's answer (no e2e, no alternate)."""

    __slots__ = (
        "alternate", "arguments", "auto_delete", "bindings", "deleted", "durable", "exchange_bindings_count",
        "internal", "name", "published_count", "router", "state", "type",
    )  # fmt: skip
    kind: ClassVar = "exchange"

    def __init__(
        self,
        name: str,
        router: Router,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.router = router
        self.type = router.type_name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments or {})
        self.alternate: str | None = None
        self.follow({})
        self.bindings: dict[Any, Binding] = {}
        self.deleted = False
        self.exchange_bindings_count = 0
        self.published_count = 0
        self.state: ExchangeState | None = None

    def follow(self, definition: Mapping[str, Any]) -> None:
        """Apply a policy's definition; the exchange's own argument comes first."""
        alternate = self.arguments.get("alternate-exchange", definition.get("alternate-exchange"))
        self.alternate = alternate if isinstance(alternate, str) else None

    @property
    def kept(self) -> bool:
        """Whether a restart finds it again."""
        return self.durable

    @property
    def plain(self) -> bool:
        """Destinations are queues only and there is nowhere else to go."""
        return not self.exchange_bindings_count and self.alternate is None

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding that is not there yet; returns what its destination is to receive at once."""
        self.bindings[binding.key] = binding
        self.exchange_bindings_count += isinstance(binding.destination, Exchange)
        return self.router.add(binding)

    def remove(self, binding: Binding) -> None:
        """Remove a binding that is there."""
        del self.bindings[binding.key]
        self.exchange_bindings_count -= isinstance(binding.destination, Exchange)
        self.router.remove(binding)

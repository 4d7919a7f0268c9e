"""What an exchange type is: a `Router`.

A router owns the bindings of one exchange and answers "which destinations does this publication go to?". It knows
nothing of queues, vhosts, permissions, alternate exchanges or caches: `core.exchange.routing` walks
exchange-to-exchange bindings, removes duplicates and applies alternates; the connection caches results of cacheable
routers. Routers are pure: time comes with the publication, randomness is handed in at construction. Adding, removing
and routing may not take time in proportion to the number of bindings, but for the size of the answer and for what is
prepared once at the first publication after a change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

Message = tuple[bytes, bytes]
"""(origin, content): see `core.message`. Routers pass messages on and never look inside."""


class Destination(Protocol):
    """A queue or an exchange; opaque to routers, compared by identity."""

    kind: ClassVar[str]
    """What bindings call it: "queue", streams included, or "exchange"."""

    @property
    def name(self) -> str: ...

    @property
    def kept(self) -> bool:
        """Whether a restart finds it again."""
        ...

    @property
    def deleted(self) -> bool:
        """It is gone, while bindings to it may be left (`core.vhosts.unbinding`). Types that choose one leave it
        out."""
        ...


class Publication(Protocol):
    """One message on its way through the exchanges. Content is parsed only when asked for."""

    routing_key: str
    wall_ms: int

    @property
    def message(self) -> Message:
        """What a queue will store."""
        ...

    @property
    def headers(self) -> Mapping[str, Any]:
        """The `headers` property, {} if absent: str, bytes, int, float, bool, None, Decimal, list and dict values.

        Raises PeerError (502) when it is malformed inside.
        """
        ...

    def property(self, name: str) -> Any | None:
        """Another basic property by its AMQP name (`message-id`, `timestamp`, ...); None if absent."""
        ...

    def remembered(self, forget: Callable[[], None]) -> None:
        """Told by a router that keeps something of this publication: how to undo that if no queue takes it after all.

        Called in the same turn, if ever, but not always before other publications are routed.
        """


def freeze(value: Any) -> Any:
    """A hashable stand-in for a field value: equal arguments make equal bindings. Types count (1 is not true)."""
    if value == {}:
        return ()  # Most bindings have none.
    if type(value) is dict or isinstance(value, Mapping):  # The first is the usual case, and cheap to tell.
        # Most values are text.
        frozen = [(key, ("str", item) if type(item) is str else freeze(item)) for key, item in value.items()]
        return tuple(sorted(frozen))
    if isinstance(value, list):
        return tuple(map(freeze, value))
    return (type(value).__name__, value)


class Binding:
    """A rule that leads from one exchange to one destination.

    Two with equal `key` are the same binding, and binding twice is binding once (spec 1.7.2.3).
    """

    __slots__ = ("arguments", "destination", "key", "routing_key", "source")

    def __init__(
        self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any], arguments_key: Any
    ) -> None:
        self.source = source
        self.destination = destination
        self.routing_key = routing_key
        self.arguments = arguments
        self.key = (id(destination), routing_key, arguments_key)  # As `key_of` says, without the call.


def key_of(destination: Destination, routing_key: str, arguments_key: Any) -> tuple[int, str, Any]:
    """What tells a binding from the others of its exchange; `arguments_key` is what `freeze` makes of its arguments."""
    return id(destination), routing_key, arguments_key


class Router(Protocol):
    """The behaviour of one exchange type. One small module a type; `registry.ROUTERS` maps type names to classes."""

    type_name: ClassVar[str]

    @property
    def cacheable(self) -> bool:
        """The answer depends on the routing key and the bindings alone, so that it may be cached until bindings change.

        Fixed for the life of the router; may follow from the exchange's arguments.
        """
        ...

    @property
    def remembers(self) -> bool:
        """Routing one publication changes what later ones, or bindings, get: it is routed when it surely goes out.

        Fixed for the life of the router; such a one is not cacheable.
        """
        ...

    @property
    def keyed(self) -> bool:
        """It looks up every key of a message (CC, BCC); others see a message once, however many keys it has.

        Fixed for the life of the router.
        """
        ...

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        """`arguments` are those of exchange.declare. Raises Refused(406) for a bad one."""

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Raises Refused(406) for a binding that this type cannot take. Called before `add`."""

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding (never one already there); returns messages that the new destination is to receive at once."""
        ...

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before (equal by `key`)."""

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """The destinations, in binding order, each once.

        Of direct, fanout and topic equal answers are also the same object while bindings stay as they are (topic: as
        long as its bounded caches hold them), so that callers may compare by `is` before they compare by value.
        Raises PeerError(502) for malformed headers that it needs, Refused(406) for what would take too long to route.
        """
        ...


class Choose(Protocol):
    """Randomness, handed in: `choose(n)` is an int in range(n)."""

    def __call__(self, n: int, /) -> int: ...

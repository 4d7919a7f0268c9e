"""What a vhost can be asked without anything changing: look-ups, and proposals with every rule of declaring, binding
and deleting (spec 1.7; RabbitMQ).

Knows nothing of users: permissions are the face's business and are checked before. What is refused is raised, as
Refused; see `core.metadata` for what becomes of a proposal. One thing does change: whoever names an exclusive queue
whose owner has gone finds that it has gone as well, and drops it by that (`core.vhosts.owners`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from broker.core import arguments as checks
from broker.core import catalog
from broker.core.exchange.base import Binding, Choose, Destination, freeze, key_of
from broker.core.exchange.exchange import Exchange
from broker.core.exchange.registry import ROUTERS
from broker.core.metadata import NOTHING, Change, Found, Guard, Proposal, Reply, new_tuple
from broker.core.queues.queue import Queue, locked
from broker.core.streams.declaration import is_stream
from broker.core.streams.stream import Stream
from broker.core.vhosts import exchange_state
from broker.core.vhosts.unbinding import deleted_together
from broker.errors import AccessRefused, NotAllowed, NotFound, PreconditionFailed, Refused

if TYPE_CHECKING:
    from broker.core.metadata import MetadataStore
    from broker.core.streams.streams import Streams
    from broker.core.vhosts.owners import Owners
    from broker.core.vhosts.unbinding import Unbinding
    from broker.core.vhosts.vhost import VHostLimits
    from broker.log.store import Store

Target = Queue | Stream
"""What clients declare as a queue, and where messages end up."""
DEFINITIONS: dict[type, bytes] = {Exchange: catalog.EXCHANGE, Queue: catalog.QUEUE, Stream: catalog.TOPIC}
"""What the catalog has of what bindings lead to."""
DEFAULT_EXCHANGE = ""
PREDECLARED = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers",
               "amq.match": "headers"}  # fmt: skip


class Proposing:
    """The asking half of a `VHost`."""

    __slots__ = ()

    name: str
    store: Store | None
    limits: VHostLimits
    metadata: MetadataStore
    exchanges: dict[str, Exchange]
    queues: dict[str, Queue]
    streams: Streams
    binding_count: int
    unbinding: Unbinding
    _choose: Choose
    _inbound: dict[Destination, dict[Binding, None]]
    _owners: Owners

    # Look-up.

    def exchange(self, name: str) -> Exchange:
        """The exchange, or Refused 404. The default exchange is none of these: ask for it by name before."""
        found = self.exchanges.get(name)
        if found is None:
            raise self._no_exchange(name)
        return found

    def target(self, name: str) -> Target | None:
        """The queue or stream of this name."""
        return self._owners.present(self.queues.get(name)) or self.streams.get(name)

    def destination(self, name: str, connection: object) -> Target:
        """The queue or stream, or Refused 404, or 405 when it is exclusive to another connection."""
        return self.streams.get(name) or self.queue(name, connection)

    def queue(self, name: str, connection: object = None) -> Queue:
        """The queue, or Refused 404; with a connection also 405 when it is exclusive to another. No stream is one."""
        found = self._owners.present(self.queues.get(name))
        if found is None:
            if self.streams.get(name) is not None:
                raise NotAllowed(f"not supported by stream queues: queue '{name}' in vhost '{self.name}'")
            raise NotFound(f"no queue '{name}' in vhost '{self.name}'")
        if connection is not None:
            found.check_access(connection)
        return found

    def bindings_of(self, end: Destination) -> Iterable[Binding]:
        """The bindings that lead away from it, and those that lead to it."""
        inbound = self._inbound.get(end, ())
        return chain(end.bindings.values(), inbound) if isinstance(end, Exchange) else inbound

    def source_of(self, name: str) -> Exchange | None:
        """The exchange of this name, or what of this name is leaving (`unbinding`)."""
        return self.exchanges.get(name) or self.unbinding.leaving("exchange", name)  # type: ignore[return-value]

    def end_of(self, kind: str, name: str) -> Destination | None:
        """The queue or stream of this name, or the exchange, or what of this name is leaving."""
        if kind == "exchange":
            return self.source_of(name)
        return self.queues.get(name) or self.streams.get(name) or self.unbinding.leaving(kind, name)

    # Exchanges.

    def propose_declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ) -> Proposal[None]:
        """Create the exchange, or check that the one there is equivalent."""
        _not_default(name)
        if kind not in ROUTERS:
            raise PreconditionFailed(f"unknown exchange type '{kind}'")
        found = self.exchanges.get(name)
        if found is not None:
            for prop, received, current in (
                ("type", kind, found.type),
                ("durable", durable, found.durable),
                ("auto_delete", auto_delete, found.auto_delete),
                ("internal", internal, found.internal),
            ):
                checks.check_property("exchange", name, self.name, prop, received, current)
            checks.check_equivalent("exchange", name, self.name, arguments, found.arguments)
            return NOTHING
        if name.startswith("amq."):
            raise AccessRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        self.unbinding.check("exchange", name)
        if len(self.exchanges) >= self.limits.exchanges_max:
            raise self._full("exchange", name, self.limits.exchanges_max)
        alternate = arguments.get("alternate-exchange")
        if alternate is not None and not isinstance(alternate, str):
            text = f"{{unacceptable_type,{checks.type_name(alternate)}}}"
            raise PreconditionFailed(
                f"invalid arg 'alternate-exchange' for exchange '{name}' in vhost '{self.name}': {text}",
            )
        log = None
        # It checks the arguments. Applying makes one more, since that may be on another broker.
        router = ROUTERS[kind](arguments, self._choose)
        if self.store is not None and durable and exchange_state.wants_log(router):
            log = self.store.new_uuid()
        known = catalog.exchange_known(kind, auto_delete=auto_delete, internal=internal, log=log)
        change = new_tuple(
            Change, (catalog.EXCHANGE, (self.name, name), known, arguments, False, durable, durable, None)
        )
        return new_tuple(Proposal, ((change,), (self.guard("absent", catalog.EXCHANGE, name),), None))

    def propose_delete_exchange(self, name: str, *, if_unused: bool = False) -> Proposal[None]:
        """Delete the exchange; one that is not there is no error (RabbitMQ 3.x and later)."""
        _not_default(name)
        if name in PREDECLARED:
            raise AccessRefused(f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return NOTHING
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
        return self.deletion(exchange, None)

    # Queues.

    def propose_declare_queue(
        self,
        name: str,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
        connection: object,
        server_named: bool = False,
    ) -> Proposal[None]:
        """Create the queue or stream, or check that the one there is equivalent."""
        if is_stream(arguments) or self.streams.get(name) is not None:
            return self.streams.propose_declare(
                name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete
            )
        found = self._owners.present(self.queues.get(name))
        if found is not None:
            found.check_access(connection)
            if exclusive != (found.owner is not None):
                raise locked(name, self.name)
            checks.check_property("queue", name, self.name, "durable", durable, found.durable)
            checks.check_property("queue", name, self.name, "auto_delete", auto_delete, found.auto_delete)
            checks.check_equivalent("queue", name, self.name, arguments, found.arguments)
            return NOTHING
        if name.startswith("amq.") and not server_named:
            raise AccessRefused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        self.unbinding.check("queue", name)
        if len(self.queues) >= self.limits.queues_max:
            raise self._full("queue", name, self.limits.queues_max)
        checks.check_queue(name, self.name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
        checks.check_log(name, self.name, arguments, kept=self.store is not None)
        log = None
        # An exclusive queue ends with its connection, so no restart finds it, durable or not.
        if durable and not exclusive and self.store is not None:
            log = self.store.new_uuid()
        change = Change(
            catalog.QUEUE,
            (self.name, name),
            catalog.queue_known(auto_delete=auto_delete, log=log),
            arguments,
            kept=log is not None,
            durable=durable,
            owner=connection if exclusive else None,
        )
        guards = (
            self.guard("absent", catalog.QUEUE, name),
            self.guard("absent", catalog.TOPIC, name),
        )
        return new_tuple(Proposal, ((change,), guards, None))

    def propose_delete_queue(
        self, name: str, connection: object, *, if_unused: bool = False, if_empty: bool = False
    ) -> Proposal[int]:
        """Delete the queue or stream; the reply is how many ready messages go with it, 0 when there is none."""
        stream = self.streams.get(name)
        if stream is not None:
            return self.streams.propose_delete(stream, if_unused=if_unused, if_empty=if_empty)
        queue = self._owners.present(self.queues.get(name))
        if queue is None:
            return Proposal((), (), 0)
        queue.check_access(connection)
        if if_unused and queue.consumers:
            raise PreconditionFailed(f"queue '{name}' in vhost '{self.name}' in use")
        if if_empty and queue.ready_count:
            raise PreconditionFailed(f"queue '{name}' in vhost '{self.name}' not empty")
        return self.deletion(queue, queue.ready_count)

    def propose_drop_queue(self, queue: Queue) -> Proposal[None]:
        """Delete without asking: auto-delete, expiry, the end of an exclusive owner. One that is gone is no error."""
        return self.deletion(queue, None) if self.queues.get(queue.name) is queue else NOTHING

    # Bindings.

    def propose_bind(
        self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]
    ) -> Proposal[None]:
        """Add a binding; one that is there already is no error."""
        exchange = self.exchanges.get(source)
        if exchange is None:
            _not_default(source)
            raise self._no_exchange(source)
        if key_of(destination, routing_key, freeze(arguments) if arguments else ()) in exchange.bindings:
            return NOTHING
        if self.binding_count >= self.limits.bindings_max:
            raise PreconditionFailed(f"binding limit in vhost '{self.name}' is reached")
        exchange.router.check_binding(routing_key, arguments)
        change = self.binding_change(exchange, destination, routing_key, arguments)
        guards = []
        if exchange.durable:
            guards.append(self.guard("present", catalog.EXCHANGE, source))
        if destination.kept:
            guards.append(self.guard("present", DEFINITIONS[type(destination)], destination.name))
        return new_tuple(Proposal, ((change,), guards, None))

    def propose_unbind(
        self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]
    ) -> Proposal[None]:
        """Remove a binding, and an auto-delete exchange with its last; one that is not there is no error."""
        exchange = self.exchanges.get(source)
        if exchange is None:
            _not_default(source)
            return NOTHING
        binding = exchange.bindings.get(key_of(destination, routing_key, freeze(arguments) if arguments else ()))
        if binding is None:
            return NOTHING
        if exchange.auto_delete:
            changes, guards = deleted_together(self, None, (binding,))
            return new_tuple(Proposal, (changes, guards, None))
        change = self.binding_change(exchange, destination, routing_key, arguments, gone=True)
        return new_tuple(Proposal, ((change,), (), None))

    def binding_change(
        self,
        source: Exchange,
        destination: Destination,
        routing_key: str,
        arguments: Mapping[str, Any],
        *,
        gone: bool = False,
    ) -> Change:
        """The change that makes a binding, or deletes it. It is as durable as both of its ends (RabbitMQ)."""
        names = (self.name, source.name, destination.kind, destination.name, routing_key)
        kept = source.durable and destination.kept
        return new_tuple(Change, (catalog.BINDING, names, {}, arguments, gone, kept, True, None))

    # What all of them need.

    def ending(self, end: Destination) -> tuple[Change, Sequence[Guard]]:
        """The change that deletes it. It is still there then, and is no exchange that has got bindings which are not
        part of the proposal."""
        definition, names, kept = DEFINITIONS[type(end)], (self.name, end.name), end.kept
        change = new_tuple(Change, (definition, names, {}, {}, True, kept, True, None))
        if not kept:
            return change, ()
        revision = self.metadata.revision
        there = new_tuple(Guard, (definition, names, "present", revision))
        if definition == catalog.EXCHANGE:
            return change, (there, new_tuple(Guard, (catalog.BINDING, names, "nothing new", revision)))
        return change, (there,)

    def deletion(self, end: Destination, reply: Reply) -> Proposal[Reply]:
        """Delete it, and with it what follows (`unbinding`)."""
        if not self.has_bindings(end):
            change, guards = self.ending(end)
            return new_tuple(Proposal, ((change,), guards, reply))
        changes, held = deleted_together(self, end, self.bindings_of(end))
        return new_tuple(Proposal, (changes, held, reply))

    def has_bindings(self, end: Destination) -> bool:
        """Whether any lead away from it or to it."""
        return end in self._inbound or (isinstance(end, Exchange) and bool(end.bindings))

    def guard(self, found: Found, kind: bytes, name: str) -> Guard:
        """What has been found of this name, and is to be so when the proposal is committed."""
        return new_tuple(Guard, (kind, (self.name, name), found, self.metadata.revision))

    def _no_exchange(self, name: str) -> Refused:
        return NotFound(f"no exchange '{name}' in vhost '{self.name}'")

    def _full(self, kind: str, name: str, limit: int) -> Refused:
        return PreconditionFailed(
            f"cannot declare {kind} '{name}': {kind} limit in vhost '{self.name}' ({limit}) is reached",
        )


def _not_default(exchange: str) -> None:
    if exchange == DEFAULT_EXCHANGE:
        raise AccessRefused("operation not permitted on the default exchange")

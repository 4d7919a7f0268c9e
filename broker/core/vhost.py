"""A vhost: its exchanges and queues, and every rule of declaring, binding and deleting them (spec 1.7; RabbitMQ).

Owns the registry and the `epoch` that tells route caches when they are stale. Knows nothing of users: permissions are
the face's business and are checked before these calls. Each method either does the whole thing or raises Refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core import arguments as checks
from broker.core import catalog, exchange_state
from broker.core.dead_letter import DeadLetters
from broker.core.exchange.base import Binding, Choose, Destination, freeze
from broker.core.exchange.exchange import Exchange
from broker.core.exchange.registry import ROUTERS
from broker.core.message import Message
from broker.core.owners import Owners
from broker.core.policies import Policies
from broker.core.queue import Queue, locked
from broker.core.replays import Replays
from broker.core.retaining import Retaining
from broker.core.scheduler import Scheduler
from broker.core.streams.declaration import is_stream
from broker.core.streams.stream import Stream
from broker.core.streams.streams import Streams
from broker.core.topics.registry import Topics
from broker.core.unbinding import Unbinding
from broker.errors import Refused
from broker.log.errors import StorageError
from broker.log.log import Log
from broker.log.store import Store
from protocol.amqp.errors import ACCESS_REFUSED, NOT_ALLOWED, NOT_FOUND, PRECONDITION_FAILED

Target = Queue | Stream
"""What clients declare as a queue, and where messages end up."""
DEFAULT_EXCHANGE = ""
PREDECLARED = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers",
               "amq.match": "headers"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VHostLimits:
    """How many of each a vhost may hold; generous, but a client in a loop must not eat the broker."""

    queues_max: int = 100_000
    exchanges_max: int = 20_000
    bindings_max: int = 1_000_000
    partitions_max: int = 20_000
    retention_check_ms: int = 30_000


class VHost:
    """Exchanges, queues and bindings under one name."""

    __slots__ = (
        "_choose", "_inbound", "_owners", "binding_count", "dead_letters", "epoch", "exchanges",
        "limits", "name", "policies", "queues", "replays", "retaining", "scheduler", "store", "streams", "topics",
        "unbinding",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        choose: Choose,
        limits: VHostLimits | None = None,
        store: Store | None = None,
    ) -> None:
        self.name = name
        self.scheduler = scheduler
        self.store = store  # None keeps everything in memory.
        self.limits = limits = limits or VHostLimits()
        self.epoch = 0
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.binding_count = 0
        self._choose = choose
        self._inbound: dict[Destination, dict[Binding, None]] = {}
        self.unbinding = Unbinding(self)
        self._owners = Owners(scheduler, self.drop_queue)
        self.dead_letters = DeadLetters(self)
        self.policies = Policies(self)
        self.topics = Topics(name, store, limits.partitions_max, limits.retention_check_ms) if store else None
        self.streams = Streams(self)
        self.retaining = Retaining(self)
        self.replays = Replays(self)
        for exchange, kind in PREDECLARED.items():
            self.exchanges[exchange] = Exchange(exchange, ROUTERS[kind]({}, choose), durable=True)

    # Look-up.

    def exchange(self, name: str) -> Exchange:
        """The exchange, or Refused 404. The default exchange is none of these: ask for it by name before."""
        found = self.exchanges.get(name)
        if found is None:
            raise Refused(NOT_FOUND, f"no exchange '{name}' in vhost '{self.name}'")
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
                raise Refused(NOT_ALLOWED, f"not supported by stream queues: queue '{name}' in vhost '{self.name}'")
            raise Refused(NOT_FOUND, f"no queue '{name}' in vhost '{self.name}'")
        if connection is not None:
            found.check_access(connection)
        return found

    # Exchanges.

    def declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ) -> Exchange:
        """Create the exchange, or check that the one there is equivalent."""
        _not_default(name)
        if kind not in ROUTERS:
            raise Refused(PRECONDITION_FAILED, f"unknown exchange type '{kind}'")
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
            return found
        if name.startswith("amq."):
            raise Refused(ACCESS_REFUSED, f"exchange name '{name}' contains reserved prefix 'amq.*'")
        self.unbinding.check("exchange", name)
        if len(self.exchanges) >= self.limits.exchanges_max:
            raise self._full("exchange", name, self.limits.exchanges_max)
        alternate = arguments.get("alternate-exchange")
        if alternate is not None and not isinstance(alternate, str):
            text = f"{{unacceptable_type,{checks.type_name(alternate)}}}"
            raise Refused(
                PRECONDITION_FAILED,
                f"invalid arg 'alternate-exchange' for exchange '{name}' in vhost '{self.name}': {text}",
            )
        exchange = Exchange(
            name,
            ROUTERS[kind](arguments, self._choose),
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )
        self.exchanges[name] = exchange
        self.policies.apply_to_exchange(exchange)
        self.epoch += 1
        log = self.store.create_log(durable=True) if self.store and exchange_state.wants_log(exchange) else None
        exchange.state = exchange_state.attach(self, exchange, log)
        if durable:
            self.keep(catalog.exchange_key(self.name, exchange), catalog.exchange_value(exchange, log))
        return exchange

    def restore_exchange(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log | None, *, clean: bool
    ) -> None:
        """An exchange of the catalog comes back, with the log of what it keeps."""
        router, auto_delete = ROUTERS[known["type"]](arguments, self._choose), known["auto_delete"]
        exchange = Exchange(
            name, router, durable=True, auto_delete=auto_delete, internal=known["internal"], arguments=arguments
        )
        self.exchanges[name] = exchange
        self.policies.apply_to_exchange(exchange)
        exchange.state = exchange_state.attach(self, exchange, log)
        if exchange.state is not None:
            try:
                exchange.state.recover(clean=clean)
            except (StorageError, OSError) as error:  # What it routes must not wait for what it remembers.
                self.scheduler.report(f"exchange '{name}' in vhost '{self.name}' does not know all it kept", error)
        self.epoch += 1

    def keep(self, key: bytes, value: bytes) -> None:
        """Put something into the catalog, if there is one."""
        if self.store is not None:
            self.store.put(key, value)
            self.store.promised_count += 1

    def unkeep(self, key: bytes) -> None:
        """Take it out again."""
        if self.store is not None:
            self.store.delete(key)
            self.store.promised_count += 1

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete the exchange; one that is not there is no error (RabbitMQ 3.x and later)."""
        _not_default(name)
        if name in PREDECLARED:
            raise Refused(ACCESS_REFUSED, f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise Refused(PRECONDITION_FAILED, f"exchange '{name}' in vhost '{self.name}' in use")
        self._drop_exchange(exchange)

    def _drop_exchange(self, exchange: Exchange) -> None:
        """Drop it, and the auto-delete exchanges that lose their last binding by it, and so on."""
        self._end(exchange)
        self.unbinding.leave(exchange)

    def _end(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        exchange.deleted = True
        self.epoch += 1
        if exchange.durable:
            self.unkeep(catalog.exchange_key(self.name, exchange))
        if exchange.state is not None:
            exchange.state.close()

    def end_unused(self, exchange: Exchange) -> bool:
        """An auto-delete exchange that has lost its last binding is gone; its other bindings are not."""
        if not exchange.auto_delete or exchange.bindings:
            return False
        self._end(exchange)
        return True

    # Queues.

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
        connection: object,
        now_ms: int,
        server_named: bool = False,
    ) -> Target:
        """Create the queue or stream, or check that the one there is equivalent."""
        if is_stream(arguments) or self.streams.get(name) is not None:
            return self.streams.declare(name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
        found = self._owners.present(self.queues.get(name))
        if found is not None:
            found.check_access(connection)
            found.last_used_ms = now_ms
            if exclusive != (found.owner is not None):
                raise locked(name, self.name)
            checks.check_property("queue", name, self.name, "durable", durable, found.durable)
            checks.check_property("queue", name, self.name, "auto_delete", auto_delete, found.auto_delete)
            checks.check_equivalent("queue", name, self.name, arguments, found.arguments)
            return found
        if name.startswith("amq.") and not server_named:
            raise Refused(ACCESS_REFUSED, f"queue name '{name}' contains reserved prefix 'amq.*'")
        self.unbinding.check("queue", name)
        if len(self.queues) >= self.limits.queues_max:
            raise self._full("queue", name, self.limits.queues_max)
        checks.check_queue(name, self.name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete)
        checks.check_log(name, self.name, arguments, kept=self.store is not None)
        # An exclusive queue ends with its connection, so no restart finds it, durable or not.
        keeps = durable and not exclusive and self.store is not None
        queue = Queue(
            name,
            self.name,
            self.scheduler,
            durable=durable,
            auto_delete=auto_delete,
            owner=connection if exclusive else None,
            arguments=arguments,
            now_ms=now_ms,
            store=self.store,
            log=self.store.create_log(durable=True) if keeps and self.store is not None else None,
        )
        self._owners.add(queue)
        self._add_queue(queue)
        self._keep_queue(queue)
        return queue

    def _keep_queue(self, queue: Queue) -> None:
        if queue.kept:
            self.keep(catalog.queue_key(queue), catalog.queue_value(queue))

    def _add_queue(self, queue: Queue) -> None:
        queue.on_unused = self.drop_queue
        queue.on_expirations = self._keep_queue
        queue.bury = self.dead_letters.add
        queue.bury_surely = self.dead_letters.add_surely
        self.queues[queue.name] = queue
        self.policies.apply_to_queue(queue)
        self.epoch += 1

    def restore_queue(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log, *, now_ms: int, clean: bool
    ) -> None:
        """A queue of the catalog comes back with what is in its log; `clean` says how the last run ended."""
        queue = Queue(
            name,
            self.name,
            self.scheduler,
            durable=True,
            auto_delete=known["auto_delete"],
            arguments=arguments,
            now_ms=now_ms,
            store=self.store,
            log=log,
        )
        queue.recover(clean=clean, has_expirations=known.get("expirations", False))
        self._add_queue(queue)

    def delete_queue(self, name: str, connection: object, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete the queue, 0 when there is none; returns how many ready messages went with it."""
        stream = self.streams.get(name)
        if stream is not None:
            return self.streams.delete(stream, if_unused=if_unused, if_empty=if_empty)
        queue = self._owners.present(self.queues.get(name))
        if queue is None:
            return 0
        queue.check_access(connection)
        if if_unused and queue.consumers:
            raise Refused(PRECONDITION_FAILED, f"queue '{name}' in vhost '{self.name}' in use")
        if if_empty and queue.cursor.ready_count:
            raise Refused(PRECONDITION_FAILED, f"queue '{name}' in vhost '{self.name}' not empty")
        count = queue.cursor.ready_count
        self.drop_queue(queue)
        return count

    def forget_destination(self, destination: Target) -> None:
        """It is gone: the bindings that lead to it go, and exchanges that lived by them."""
        self.epoch += 1
        self.unbinding.leave(destination)

    def drop_queue(self, queue: Queue) -> None:
        """Delete without asking: auto-delete, expiry, the end of an exclusive owner."""
        if self.queues.pop(queue.name, None) is None:
            return
        self.retaining.forget(queue)
        self.replays.forget(queue)
        self._owners.forget(queue)
        if queue.kept:
            self.unkeep(catalog.queue_key(queue))
        queue.close()
        self.forget_destination(queue)

    def drop_owned(self, connection: object) -> None:
        """A connection has ended: its exclusive queues go."""
        self._owners.leave(connection)

    # Bindings.

    def bind(self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Add a binding; one that is there already is no error."""
        _not_default(source)
        exchange = self.exchange(source)
        binding = Binding(source, destination, routing_key, dict(arguments), freeze(arguments))
        if binding.key in exchange.bindings:
            return
        if self.binding_count >= self.limits.bindings_max:
            raise Refused(PRECONDITION_FAILED, f"binding limit in vhost '{self.name}' is reached")
        exchange.router.check_binding(routing_key, binding.arguments)
        history = self._add_binding(exchange, binding)
        if self._is_kept(exchange, destination):
            self.keep(catalog.binding_key(self.name, binding), catalog.binding_value(binding))
        for message in history:
            if isinstance(destination, Queue | Stream):
                destination.enqueue_one(message)

    def _add_binding(self, exchange: Exchange, binding: Binding) -> Sequence[Message]:
        history = exchange.add(binding)
        self._inbound.setdefault(binding.destination, {})[binding] = None
        self.binding_count += 1
        self.epoch += 1
        return history

    @staticmethod
    def _is_kept(exchange: Exchange, destination: Destination) -> bool:
        """A binding is as durable as both of its ends (RabbitMQ)."""
        if isinstance(destination, Queue | Stream):
            return exchange.durable and destination.kept
        return exchange.durable and isinstance(destination, Exchange) and destination.durable

    def restore_binding(
        self, source: str, kind: str, destination: str, routing_key: str, arguments: Mapping[str, Any]
    ) -> None:
        """A binding of the catalog comes back."""
        end: Destination | None = self.target(destination) if kind == "queue" else self.exchanges[destination]
        if end is None:
            raise KeyError(destination)
        self._add_binding(self.exchanges[source], Binding(source, end, routing_key, dict(arguments), freeze(arguments)))

    def unbind(self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Remove a binding; one that is not there is no error."""
        _not_default(source)
        exchange = self.exchanges.get(source)
        if exchange is None:
            return
        key = Binding(source, destination, routing_key, {}, freeze(arguments)).key
        binding = exchange.bindings.get(key)
        if binding is not None:
            self.forget_binding(exchange, binding)
            self.epoch += 1
            if self.end_unused(exchange):
                self.unbinding.leave(exchange)

    def forget_binding(self, exchange: Exchange, binding: Binding) -> None:
        """It is gone. Routes change by it unless it led to or from what is deleted."""
        exchange.remove(binding)
        if self._is_kept(exchange, binding.destination):
            self.unkeep(catalog.binding_key(self.name, binding))
        inbound = self._inbound.get(binding.destination)
        if inbound is not None:
            inbound.pop(binding, None)
        self.binding_count -= 1

    def take_inbound(self, destination: Destination) -> list[Binding]:
        """The bindings that lead to what is deleted; nobody else has to see to them any more."""
        return list(self._inbound.pop(destination, ()))

    def _full(self, kind: str, name: str, limit: int) -> Refused:
        return Refused(
            PRECONDITION_FAILED,
            f"cannot declare {kind} '{name}': {kind} limit in vhost '{self.name}' ({limit}) is reached",
        )


def _not_default(exchange: str) -> None:
    if exchange == DEFAULT_EXCHANGE:
        raise Refused(ACCESS_REFUSED, "operation not permitted on the default exchange")

"""A vhost: its exchanges, queues and bindings, as the changes make them that its metadata store has committed.

Owns the registry and the `epoch` that tells route caches when they are stale. What may be declared, bound and deleted
is `core.vhosts.proposing`; here it is applied. The methods named as the verbs (`declare_queue`, `bind`) propose,
commit and return at once, or raise what is refused: with the metadata of a single broker, which is what there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core import catalog
from broker.core.exchange.base import Binding, Choose, Destination, freeze, key_of
from broker.core.exchange.exchange import Exchange
from broker.core.exchange.registry import ROUTERS
from broker.core.message import Message
from broker.core.metadata import Change, MetadataStore, at_once
from broker.core.queues.queue import Queue
from broker.core.scheduler import Scheduler
from broker.core.streams.stream import Stream
from broker.core.streams.streams import Streams
from broker.core.topics.registry import Topics
from broker.core.vhosts import exchange_state
from broker.core.vhosts.dead_letters import DeadLetters
from broker.core.vhosts.owners import Owners
from broker.core.vhosts.policies import Policies
from broker.core.vhosts.proposing import PREDECLARED, Proposing, Target
from broker.core.vhosts.replays import Replays
from broker.core.vhosts.retaining import Retaining
from broker.core.vhosts.unbinding import Unbinding
from broker.log.errors import StorageError
from broker.log.log import Log
from broker.log.store import Store


@dataclass(frozen=True, slots=True)
class VHostLimits:
    """How many of each a vhost may hold; the defaults are those of `broker.config`, which explains them."""

    queues_max: int = 100_000
    exchanges_max: int = 20_000
    bindings_max: int = 1_000_000
    partitions_max: int = 20_000
    retention_check_ms: int = 30_000


class VHost(Proposing):
    """Exchanges, queues and bindings under one name."""

    __slots__ = (
        "_choose", "_inbound", "_owners", "binding_count", "dead_letters", "epoch", "exchanges", "limits", "metadata",
        "name", "policies", "queues", "replays", "retaining", "scheduler", "store", "streams", "topics", "unbinding",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        choose: Choose,
        metadata: MetadataStore,
        limits: VHostLimits | None = None,
        store: Store | None = None,
    ) -> None:
        self.name = name
        self.scheduler = scheduler
        self.metadata = metadata
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
        self.topics = Topics(name, store, metadata, limits.partitions_max, limits.retention_check_ms) if store else None
        self.streams = Streams(self)
        self.retaining = Retaining(self)
        self.replays = Replays(self)
        for exchange, kind in PREDECLARED.items():
            self.exchanges[exchange] = Exchange(exchange, ROUTERS[kind]({}, choose), durable=True)

    # Changes, proposed and committed at once.

    def declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ) -> Exchange:
        """See `propose_declare_exchange`."""
        at_once(
            self.metadata, self.propose_declare_exchange, name, kind, durable=durable, auto_delete=auto_delete,
            internal=internal, arguments=arguments,
        )  # fmt: skip
        return self.exchanges[name]

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """See `propose_delete_exchange`."""
        at_once(self.metadata, self.propose_delete_exchange, name, if_unused=if_unused)

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
        """See `propose_declare_queue`; it has been used at `now_ms`."""
        at_once(
            self.metadata, self.propose_declare_queue, name, durable=durable, exclusive=exclusive,
            auto_delete=auto_delete, arguments=arguments, connection=connection, server_named=server_named,
        )  # fmt: skip
        target = self.queues.get(name) or self.streams.get(name)
        assert target is not None
        if isinstance(target, Queue):
            target.last_used_ms = now_ms
        return target

    def delete_queue(self, name: str, connection: object, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """See `propose_delete_queue`."""
        return at_once(
            self.metadata, self.propose_delete_queue, name, connection, if_unused=if_unused, if_empty=if_empty
        )

    def drop_queue(self, queue: Queue) -> None:
        """See `propose_drop_queue`."""
        at_once(self.metadata, self.propose_drop_queue, queue)

    def drop_owned(self, connection: object) -> None:
        """A connection has ended: its exclusive queues go."""
        self._owners.leave(connection)

    def bind(self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """See `propose_bind`."""
        at_once(self.metadata, self.propose_bind, source, destination, routing_key, arguments)

    def unbind(self, source: str, destination: Destination, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """See `propose_unbind`."""
        at_once(self.metadata, self.propose_unbind, source, destination, routing_key, arguments)

    # Changes, applied.

    def apply(self, change: Change) -> None:
        """Make, change or end what a committed change names. Checks nothing, and writes no definition."""
        kind = change.kind
        if kind == catalog.BINDING:
            self._apply_binding(change)
        elif kind == catalog.QUEUE:
            self._apply_queue(change)
        elif kind == catalog.EXCHANGE:
            self._apply_exchange(change)
        elif kind in (catalog.POLICY, catalog.OPERATOR_POLICY):
            self.policies.apply(change)
        else:
            assert self.topics is not None
            if self.topics.apply(change):
                self.scheduler.add_job(self.topics.follow_defaults())

    def _apply_exchange(self, change: Change) -> None:
        name = change.names[1]
        if change.gone:
            exchange = self.exchanges.pop(name)
            exchange.deleted = True
            self.epoch += 1
            if exchange.state is not None:
                exchange.state.close()
            self.unbinding.leave(exchange)
            return
        log = self._make_log(change)
        self._make_exchange(name, change.known, change.arguments, log, durable=change.durable)

    def _make_exchange(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log | None, *, durable: bool
    ) -> Exchange:
        exchange = Exchange(
            name,
            ROUTERS[known["type"]](arguments, self._choose),
            durable=durable,
            auto_delete=known["auto_delete"],
            internal=known["internal"],
            arguments=arguments,
        )
        self.exchanges[name] = exchange
        self.policies.apply_to_exchange(exchange)
        self.epoch += 1
        exchange.state = exchange_state.attach(self, exchange, log)
        return exchange

    def _make_log(self, change: Change) -> Log | None:
        """The log that a new definition names, if it names one."""
        uuid = change.known.get("log")
        return self.store.create_log(durable=True, uuid=uuid) if self.store is not None and uuid is not None else None

    def _apply_queue(self, change: Change) -> None:
        name = change.names[1]
        if change.gone:
            queue = self.queues.pop(name)
            self.retaining.forget(queue)
            self.replays.forget(queue)
            self._owners.forget(queue)
            queue.close()
            self.forget_destination(queue)
            return
        log = self._make_log(change)
        queue = self._make_queue(
            name, change.known, change.arguments, log, durable=change.durable, owner=change.owner,
            now_ms=self.scheduler.now_ms,
        )  # fmt: skip
        self._owners.add(queue)
        self._add_queue(queue)

    def _make_queue(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log | None, *, durable: bool,
        owner: object = None, now_ms: int,
    ) -> Queue:  # fmt: skip
        return Queue(
            name,
            self.name,
            self.scheduler,
            durable=durable,
            auto_delete=known["auto_delete"],
            owner=owner,
            arguments=arguments,
            now_ms=now_ms,
            store=self.store,
            log=log,
        )

    def _add_queue(self, queue: Queue) -> None:
        queue.on_unused = self.drop_queue
        queue.on_expirations = self._keep_expirations
        queue.dead_letter = self.dead_letters.add
        queue.dead_letter_at_least_once = self.dead_letters.add_at_least_once
        self.queues[queue.name] = queue
        self.policies.apply_to_queue(queue, is_new=True)
        self.epoch += 1

    def forget_destination(self, destination: Target) -> None:
        """It is gone, and what is left of the bindings that lead to it goes."""
        self.epoch += 1
        self.unbinding.leave(destination)

    def _apply_binding(self, change: Change) -> None:
        _, source_name, kind, name, routing_key = change.names
        # Straight to what they mostly are; else to whatever they may be.
        source = self.exchanges.get(source_name) or self.source_of(source_name)
        destination = (self.queues.get(name) if kind == "queue" else None) or self.end_of(kind, name)
        assert source is not None
        assert destination is not None
        arguments = change.arguments
        frozen = freeze(arguments) if arguments else ()
        if change.gone:
            self._remove_binding(source, source.bindings[key_of(destination, routing_key, frozen)])
            return
        binding = Binding(source_name, destination, routing_key, dict(arguments), frozen)
        for message in self._add_binding(source, binding):
            if isinstance(destination, Queue | Stream):
                destination.enqueue_one(message)

    def _add_binding(self, exchange: Exchange, binding: Binding) -> Sequence[Message]:
        history = exchange.add(binding)
        self._inbound.setdefault(binding.destination, {})[binding] = None
        self.binding_count += 1
        self.epoch += 1
        return history

    def _remove_binding(self, exchange: Exchange, binding: Binding) -> None:
        destination = binding.destination
        exchange.remove(binding)
        inbound = self._inbound[destination]
        del inbound[binding]
        if not inbound:
            del self._inbound[destination]
        self.binding_count -= 1
        if not (exchange.deleted or destination.deleted):  # Else routes have changed already.
            self.epoch += 1

    # The catalog: what it gives back at a start, and what is kept in it beside definitions.

    def restore_exchange(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log | None, *, clean: bool
    ) -> None:
        """An exchange of the catalog comes back, with the log of what it keeps."""
        exchange = self._make_exchange(name, known, arguments, log, durable=True)
        if exchange.state is not None:
            try:
                exchange.state.recover(clean=clean)
            except (StorageError, OSError) as error:  # What it routes must not wait for what it remembers.
                self.scheduler.report(f"exchange '{name}' in vhost '{self.name}' does not know all it kept", error)

    def restore_queue(
        self, name: str, known: Mapping[str, Any], arguments: Mapping[str, Any], log: Log, *, now_ms: int, clean: bool
    ) -> None:
        """A queue of the catalog comes back with what is in its log; `clean` says how the last run ended."""
        queue = self._make_queue(name, known, arguments, log, durable=True, now_ms=now_ms)
        queue.recover(clean=clean, has_expirations=known.get("expirations", False))
        self._add_queue(queue)

    def restore_binding(
        self, source: str, kind: str, destination: str, routing_key: str, arguments: Mapping[str, Any]
    ) -> None:
        """A binding of the catalog comes back."""
        end: Destination | None = self.target(destination) if kind == "queue" else self.exchanges[destination]
        if end is None:
            raise KeyError(destination)
        self._add_binding(self.exchanges[source], Binding(source, end, routing_key, dict(arguments), freeze(arguments)))

    def keep(self, key: bytes, value: bytes) -> None:
        """Put something into the catalog that is no definition, if there is one."""
        if self.store is not None:
            self.store.put(key, value)
            self.store.promised_count += 1

    def unkeep(self, key: bytes) -> None:
        """Take it out again."""
        if self.store is not None:
            self.store.delete(key)
            self.store.promised_count += 1

    def _keep_expirations(self, queue: Queue) -> None:
        """The queue has got a message with an expiration of its own. That comes with the message, so it is written in
        its frame, whoever decides about definitions. One that is deleted may still get some, by a transaction that has
        routed them before: its name may be another queue's by now."""
        log = queue.store.log
        if log is not None and log.durable and not queue.deleted:
            known = catalog.queue_known(auto_delete=queue.auto_delete, log=log.uuid, expirations=queue.has_expirations)
            self.keep(catalog.key(catalog.QUEUE, self.name, queue.name), catalog.value(known, queue.arguments))

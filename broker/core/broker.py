"""The broker: vhosts, the scheduler, the alarm, and the clock's ticks. Everything synchronous, nothing of sockets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from broker.core import catalog, damage
from broker.core.catalog import (
    ASIDE,
    BINDING,
    BROKER_CONFIG,
    EXCHANGE,
    OPERATOR_POLICY,
    POLICY,
    QUEUE,
    TOPIC,
    Entry,
    Unreadable,
    place_of,
    read_catalog,
)
from broker.core.exchange.base import Choose
from broker.core.metadata import Change, LocalMetadata, MetadataStore
from broker.core.scheduler import Scheduler
from broker.core.upgrading import upgrade
from broker.core.vhosts.vhost import VHost, VHostLimits
from broker.log.errors import Corrupt
from broker.log.store import Store


class Broker:
    """What every face gets. `alarm` is the reason why publishers wait ("low on memory"), None when they need not."""

    __slots__ = (
        "_choose", "_limits", "alarm", "alarms", "aside", "conflicts", "metadata", "scheduler", "store", "vhosts",
    )  # fmt: skip

    def __init__(self, choose: Choose, limits: VHostLimits | None = None, store: Store | None = None) -> None:
        self.store = store
        self.metadata: MetadataStore = LocalMetadata(store)
        self.metadata.subscribe(self._apply)
        self.scheduler = Scheduler()
        self.vhosts: dict[str, VHost] = {}
        self.alarm: str | None = None
        self.alarms: frozenset[str] = frozenset()
        self.conflicts: list[str] = []
        """What of the configuration could not be declared beside what was there: complete sentences."""
        self.aside: dict[bytes, str] = {}
        """Entries of the catalog that this start could not use: their keys, and why."""
        self._choose = choose
        self._limits = limits

    def add_vhost(self, name: str) -> VHost:
        """Create a vhost with its predeclared exchanges; returns the one there if there is one."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VHost(
                name, self.scheduler, self._choose, self.metadata, self._limits, self.store
            )
        return vhost

    def _apply(self, _revision: int, changes: Sequence[Change]) -> None:
        vhosts = self.vhosts
        for change in changes:
            vhosts[change.names[0]].apply(change)

    def restore(self, now_ms: int) -> None:
        """Bring back what the store's catalog knows; logs that belong to no queue any more go. Once, at the start.

        An entry that cannot be used is named and left aside, and no log goes then: it may be the entry's. Each start
        tries it again, unless something else has its name by then.
        """
        store = self.store
        if store is None:
            return
        upgrade(store)
        try:
            damage.recall(store)
        except OSError as error:
            self.scheduler.report("damage that is known cannot be looked at", error)
        self._try_again(store)
        owned: set[bytes] = set()
        losers: dict[tuple[str, str], None] = {}
        for entry in read_catalog(store.catalog):
            if isinstance(entry, Unreadable):
                self.leave_aside(entry.key, entry.why)
                continue
            if entry.kind == BINDING and self._is_left_over(entry, store):
                store.delete(entry.key)
                losers[entry.names[0], entry.names[1]] = None
                continue
            try:
                owned.update(self._restore(entry, store, now_ms))
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one must not keep the others away
                self.leave_aside(entry.key, f"{type(error).__name__}: {error}")
        self._end_unused(losers)
        orphans = [log for log in store.logs.values() if log.uuid not in owned]
        for log in orphans if not self.aside else ():
            store.drop_log(log)
        for vhost in self.vhosts.values():
            for queue in list(vhost.queues.values()):
                queue.resume()

    def _is_left_over(self, entry: Entry, store: Store) -> bool:
        """Whether one end of a binding was deleted and the last run has not come to the binding
        (`core.vhosts.unbinding`).

        What cannot be read, or waits beside the catalog, was not.
        """
        home, source, kind, destination, *_ = entry.names
        for kinds, name in (
            ((EXCHANGE,), source),
            ((EXCHANGE,) if kind == "exchange" else (QUEUE, TOPIC), destination),
        ):
            keys = [catalog.key(one, home, name) for one in kinds]
            is_declared = any(one in store.catalog or ASIDE + one in store.catalog for one in keys)
            if not is_declared and name not in self.add_vhost(home).exchanges:  # Some are there without an entry.
                return True
        return False

    def _end_unused(self, losers: Iterable[tuple[str, str]]) -> None:
        """Of the exchanges that have lost left-over bindings (vhost, name), those go that are auto-delete and have none
        now: they would have gone with their last one (rabbit_exchange.erl, `maybe_auto_delete`). A binding that waits
        beside the catalog is one."""
        for home, name in losers:
            vhost = self.vhosts[home]
            exchange = vhost.exchanges.get(name)
            if exchange is not None and exchange.auto_delete and not exchange.bindings:
                bindings = catalog.key(BINDING, home, name)
                if not any(key.startswith(bindings) for key in self.aside):
                    vhost.delete_exchange(name)

    def _try_again(self, store: Store) -> None:
        """What earlier starts have left aside: what it is about may be there now, or this version may know it."""
        for key in [key for key in store.catalog if key[:1] == ASIDE]:
            if key[1:] not in store.catalog:
                store.put(key[1:], store.catalog[key])
                store.delete(key)
            else:
                self.aside[key[1:]] = "something else has its name"

    def leave_aside(self, key: bytes, why: str) -> None:
        """An entry of the catalog cannot be used: name it, and keep it where nobody writes over it."""
        store = self.store
        assert store is not None
        store.put(ASIDE + key, store.catalog[key])
        store.delete(key)
        self.aside[key] = why

    @property
    def left_aside(self) -> list[str]:
        """What could not be used, and why: a sentence each."""
        return [f"{place_of(key)}: {why}" for key, why in self.aside.items()]

    def drop_aside(self, key: bytes) -> None:
        """Nobody will mend this entry: forget it. Logs that nothing names are dropped by a start that uses all."""
        assert self.store is not None
        del self.aside[key]
        self.store.delete(ASIDE + key)
        self.store.promised_count += 1

    def _restore(self, entry: Entry, store: Store, now_ms: int) -> Collection[bytes]:
        """One entry comes back; returns the uuids of its logs."""
        vhost = self.add_vhost(entry.names[0])
        clean = store.recovered.clean
        if entry.kind in (POLICY, OPERATOR_POLICY):
            vhost.policies.restore(entry.names[1], entry.known, entry.arguments, operator=entry.kind != POLICY)
        elif entry.kind == BROKER_CONFIG:
            assert vhost.topics is not None
            vhost.topics.broker_config.restore(entry.names[1], entry.arguments)
        elif entry.kind == TOPIC:
            assert vhost.topics is not None
            return vhost.topics.restore(entry.names[1], entry.known, entry.arguments)
        elif entry.kind == EXCHANGE:
            log = store.by_uuid[entry.known["log"]] if "log" in entry.known else None
            vhost.restore_exchange(entry.names[1], entry.known, entry.arguments, log, clean=clean)
            return () if log is None else (log.uuid,)
        elif entry.kind == QUEUE:
            log = store.by_uuid[entry.known["log"]]
            vhost.restore_queue(entry.names[1], entry.known, entry.arguments, log, now_ms=now_ms, clean=clean)
            return (log.uuid,)
        else:
            _, source, kind, destination, routing_key, _ = entry.names
            vhost.restore_binding(source, kind, destination, routing_key, entry.arguments)
        return ()

    def damage(self) -> list[str]:
        """What storage cannot give back of queues and partitions: a sentence each."""
        return [one for vhost in self.vhosts.values() for one in damage.sentences(vhost) if one is not None]

    def _note_damage(self, store: Store) -> None:
        found = damage.note(store)
        for place, log in damage.damaged(self.vhosts.values()):
            if log in found:
                self.scheduler.report(f"{place} is damaged", Corrupt(str(log.gaps[-1])))
        for vhost in self.vhosts.values():
            for queue in vhost.queues.values():
                if queue.store.log in found:
                    queue.store.count_lost()
        for log in found:
            damage.let_go(log)

    def close_in_order(self) -> None:
        """Note for the next start what may have been delivered."""
        if self.store is None:
            return
        for vhost in self.vhosts.values():
            for queue in vhost.queues.values():
                queue.store.note_seen()
            if vhost.topics is not None:
                vhost.topics.close_in_order()
        self.store.close_in_order()

    def synced(self) -> None:
        """Another frame is durable: who reads queues as topics may see what came into them."""
        for vhost in self.vhosts.values():
            topics = vhost.topics
            if topics is not None and topics.queues.watched:
                topics.queues.synced()

    def tick(self, now_ms: int) -> None:
        """Time has passed. `now_ms` is monotonic, the same clock as in every other call."""
        self.scheduler.now_ms = now_ms
        for vhost in self.vhosts.values():
            if vhost.topics is not None:
                vhost.topics.tick(self.scheduler, now_ms)
            vhost.retaining.tick(now_ms)
        if self.store is not None and self.store.filling.gapped:
            self._note_damage(self.store)
        self.scheduler.tick()

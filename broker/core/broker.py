"""The broker: vhosts, the scheduler, the alarm, and the clock's ticks. Everything synchronous, nothing of sockets."""

from __future__ import annotations

from broker.core.catalog import EXCHANGE, OPERATOR_POLICY, POLICY, QUEUE, TOPIC, read_catalog
from broker.core.exchange.base import Choose
from broker.core.scheduler import Scheduler
from broker.core.vhost import VHost, VHostLimits
from broker.log.store import Store


class Broker:
    """What every face gets. `alarm` is the reason why publishers wait ("low on memory"), None when they need not."""

    __slots__ = ("_choose", "_limits", "alarm", "alarms", "scheduler", "store", "vhosts")

    def __init__(self, choose: Choose, limits: VHostLimits | None = None, store: Store | None = None) -> None:
        self.store = store
        self.scheduler = Scheduler()
        self.vhosts: dict[str, VHost] = {}
        self.alarm: str | None = None
        self.alarms: frozenset[str] = frozenset()
        self._choose = choose
        self._limits = limits

    def add_vhost(self, name: str) -> VHost:
        """Create a vhost with its predeclared exchanges; returns the one there if there is one."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VHost(name, self.scheduler, self._choose, self._limits, self.store)
        return vhost

    def restore(self, now_ms: int) -> None:
        """Bring back what the store's catalog knows; logs that belong to no queue any more go. Once, at the start."""
        store = self.store
        if store is None:
            return
        owned: set[int] = set()
        for entry in read_catalog(store.catalog):
            vhost = self.add_vhost(entry.names[0])
            if entry.kind in (POLICY, OPERATOR_POLICY):
                vhost.policies.restore(entry.names[1], entry.known, entry.arguments, operator=entry.kind != POLICY)
            elif entry.kind == TOPIC and vhost.topics is not None:
                owned.update(vhost.topics.restore(entry.names[1], entry.known, entry.arguments))
            elif entry.kind == EXCHANGE:
                log = store.logs[entry.known["log"]] if "log" in entry.known else None
                owned.update({log.number} if log is not None else ())
                vhost.restore_exchange(entry.names[1], entry.known, entry.arguments, log, clean=store.recovered.clean)
            elif entry.kind == QUEUE:
                log = store.logs[entry.known["log"]]
                owned.add(log.number)
                clean = store.recovered.clean
                vhost.restore_queue(entry.names[1], entry.known, entry.arguments, log, now_ms=now_ms, clean=clean)
            else:
                _, source, kind, destination, routing_key, _ = entry.names
                vhost.restore_binding(source, kind, destination, routing_key, entry.arguments)
        for log in [log for log in store.logs.values() if log.number not in owned]:
            store.drop_log(log)
        for vhost in self.vhosts.values():
            for queue in list(vhost.queues.values()):
                queue.resume()

    def close_in_order(self) -> None:
        """Note for the next start what may have been delivered."""
        if self.store is None:
            return
        for vhost in self.vhosts.values():
            for queue in vhost.queues.values():
                if queue.backlog is not None:
                    queue.backlog.note_seen(queue.cursor)
            if vhost.topics is not None:
                vhost.topics.close_in_order()
        self.store.close_in_order()

    def synced(self, frame: int) -> None:
        """Everything up to `frame` is durable: who reads topics may see it."""
        for vhost in self.vhosts.values():
            topics = vhost.topics
            if topics is not None and (topics.unsynced or topics.queues.watched):
                topics.synced(frame)

    def tick(self, now_ms: int) -> None:
        """Time has passed. `now_ms` is monotonic, the same clock as in every other call."""
        self.scheduler.now_ms = now_ms
        for vhost in self.vhosts.values():
            if vhost.topics is not None:
                vhost.topics.tick(self.scheduler, now_ms)
            vhost.retaining.tick(now_ms)
        self.scheduler.tick()

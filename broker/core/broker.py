"""The broker: vhosts, the scheduler, the alarm, and the clock's ticks. Everything synchronous, nothing of sockets."""

from __future__ import annotations

from broker.core.exchange.base import Choose
from broker.core.scheduler import Scheduler
from broker.core.vhost import VHost, VHostLimits


class Broker:
    """What every face gets. `alarm` is the reason why publishers wait ("low on memory"), None when they need not."""

    __slots__ = ("_choose", "_limits", "alarm", "scheduler", "vhosts")

    def __init__(self, choose: Choose, limits: VHostLimits | None = None) -> None:
        self.scheduler = Scheduler()
        self.vhosts: dict[str, VHost] = {}
        self.alarm: str | None = None
        self._choose = choose
        self._limits = limits

    def add_vhost(self, name: str) -> VHost:
        """Create a vhost with its predeclared exchanges; returns the one there if there is one."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VHost(name, self.scheduler, self._choose, self._limits)
        return vhost

    def tick(self, now_ms: int) -> None:
        """Time has passed: expire queues. `now_ms` is monotonic, the same clock as in every other call."""
        for vhost in self.vhosts.values():
            if vhost.expiring:
                vhost.drop_expired(now_ms)

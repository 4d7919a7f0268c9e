"""Connections that are not open yet, or of which nothing is wanted, and which of them goes when there are too many.

Owns: who is waiting, by host, in order of arrival, whichever protocol it speaks. Must not know: sockets, limits'
reasons (`broker.config.limits`).

Past a limit the *oldest* goes, not the newest: who means it is through in milliseconds, while a flood of silent sockets
evicts itself. Refusing the newest would shut out everybody behind the flood's address. Who has sent a protocol header
(of Kafka's: a request) is on another list than who has not, in the order in which they were last heard, and the longer
list pays: neither a flood of silent sockets nor one of those that begin and stop turns out who goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Guest(Protocol):
    """One that may have to go."""

    peer: tuple[str, int]
    transport: Any


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """How many sockets may be open, in all (of each protocol) and from one host, and the same before their login."""

    connections_max: int
    per_host_max: int
    unauthenticated_max: int
    unauthenticated_per_host_max: int


class Hosts:
    """How many connections each host has, of every protocol."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, host: str) -> int:
        """Of this one."""
        return self._counts.get(host, 0)

    def add(self, host: str) -> None:
        """One more."""
        self._counts[host] = self.count(host) + 1

    def remove(self, host: str) -> None:
        """One less; there has to be one."""
        self._counts[host] -= 1
        if not self._counts[host]:
            del self._counts[host]


class HalfOpen:
    """The connections between accept and connection.open-ok, or the first request of a user."""

    __slots__ = ("_by_host", "count")

    def __init__(self) -> None:
        self._by_host: dict[str, _Waiting] = {}
        self.count = 0

    def add(self, connection: Guest) -> None:
        """It was accepted."""
        self._by_host.setdefault(connection.peer[0], _Waiting()).silent[connection] = None
        self.count += 1

    def heard(self, connection: Guest) -> None:
        """It has sent a protocol header, or a request; again is later."""
        waiting = self._by_host.get(connection.peer[0])
        if waiting is None:
            return
        for among in (waiting.silent, waiting.heard):
            if connection in among:
                del among[connection]
                waiting.heard[connection] = None
                return

    def discard(self, connection: Guest) -> None:
        """It is open, or gone; again is nothing."""
        host = connection.peer[0]
        waiting = self._by_host.get(host)
        if waiting is None or not (connection in waiting.silent or connection in waiting.heard):
            return
        waiting.silent.pop(connection, None)
        waiting.heard.pop(connection, None)
        self.count -= 1
        if not len(waiting):
            del self._by_host[host]

    def make_room(self, host: str, limits: AcceptLimits) -> None:
        """Close who has to go before another one from `host` is taken."""
        surplus = self.surplus(host, limits.unauthenticated_per_host_max, limits.unauthenticated_max)
        if surplus is not None:
            surplus.transport.close()

    def surplus(self, host: str, per_host_max: int, total_max: int) -> Guest | None:
        """Who has to go before another one from `host` is taken; None while there is room."""
        waiting = self._by_host.get(host)
        if waiting is None or len(waiting) < per_host_max:
            if self.count < total_max:
                return None
            waiting = max(self._by_host.values(), key=len)
        return next(iter(waiting.silent if len(waiting.silent) >= len(waiting.heard) else waiting.heard))


class _Waiting:
    """Those of one host: the silent in order of arrival, the others in the order in which they were last heard."""

    __slots__ = ("heard", "silent")

    def __init__(self) -> None:
        self.silent: dict[Guest, None] = {}
        self.heard: dict[Guest, None] = {}

    def __len__(self) -> int:
        return len(self.silent) + len(self.heard)

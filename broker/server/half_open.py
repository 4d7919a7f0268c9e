"""Connections that are not open yet, and which of them goes when there are too many.

Owns: who is waiting, by host, in order of arrival. Must not know: sockets, limits' reasons (`broker.config.limits`).

Past a limit the *oldest* goes, not the newest: who means it is through in milliseconds, while a flood of silent sockets
evicts itself. Refusing the newest would shut out everybody behind the flood's address. Who has sent a protocol header
goes after all who have not: on a busy machine a flood turns the whole room over while one client answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection


class HalfOpen:
    """The connections between accept and connection.open-ok."""

    __slots__ = ("_by_host", "count")

    def __init__(self) -> None:
        self._by_host: dict[str, _Waiting] = {}
        self.count = 0

    def add(self, connection: Connection) -> None:
        """It was accepted."""
        self._by_host.setdefault(connection.peer[0], _Waiting()).silent[connection] = None
        self.count += 1

    def heard(self, connection: Connection) -> None:
        """It has sent a protocol header."""
        waiting = self._by_host.get(connection.peer[0])
        if waiting is not None and connection in waiting.silent:
            del waiting.silent[connection]
            waiting.heard[connection] = None

    def discard(self, connection: Connection) -> None:
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

    def surplus(self, host: str, per_host_max: int, total_max: int) -> Connection | None:
        """Who has to go before another one from `host` is taken; None while there is room."""
        waiting = self._by_host.get(host)
        if waiting is None or len(waiting) < per_host_max:
            if self.count < total_max:
                return None
            waiting = max(self._by_host.values(), key=len)
        return next(iter(waiting.silent or waiting.heard))


class _Waiting:
    """Those of one host, each part in order of arrival."""

    __slots__ = ("heard", "silent")

    def __init__(self) -> None:
        self.silent: dict[Connection, None] = {}
        self.heard: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self.silent) + len(self.heard)

"""What is owed to peers: the octets of answers that are made, or being read for them, and that have not been sent.

Owns how much a connection and the process may owe, and which fetches wait for that. Pieces of files count as nothing:
they stay on the disk until they are sent. The rules:
- a connection reads for one parked fetch at a time, and for none that is not its first answer while it owes too much;
- its first answer may be read unless too much is unsent, so that a connection never waits for itself;
- while the process owes too much no fetch is read for anybody, and who owes something is asked no more;
- whoever has taken nothing for a while goes when others wait for that, the one that has for longest first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from broker.log.disk import FileRange

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.fetch import ParkedFetch
    from broker.server.machine import Octets

STALLED_MS = 2_000
"""Who takes less than PROGRESS_BYTES in that time is in the way of those who wait. Alone it may take `send_timeout`."""
PROGRESS_BYTES = 16 << 10
WOKEN_MAX = 16
"""Connections that go on when there is room again; each that has read lets the next ones go on."""


def memory_size(parts: Octets) -> int:
    """The octets that are in memory."""
    size = 0
    for one in parts:
        if type(one) is not FileRange:
            size += len(one)
    return size


class Owed:
    """What the process owes to all its peers."""

    __slots__ = ("bytes_max", "debtors", "octets", "per_connection_max", "waiting")

    def __init__(self, bytes_max: int, per_connection_max: int) -> None:
        self.bytes_max = bytes_max
        self.per_connection_max = per_connection_max
        self.octets = 0
        self.debtors: dict[Debt, None] = {}
        """Who is owed something."""
        self.waiting: OrderedDict[Debt, None] = OrderedDict()
        """Whose fetches wait because the process owes too much."""

    @property
    def is_full(self) -> bool:
        """Whether no more may be read."""
        return self.octets > self.bytes_max

    def go_on(self) -> None:
        """Those who wait for room have it, in order."""
        for _ in range(min(len(self.waiting), WOKEN_MAX)):
            if self.is_full:
                return
            self.waiting.popitem(last=False)[0].go_on()

    def in_the_way(self, now_ms: int) -> Debt | None:
        """Who has to go, because others wait and it takes nothing."""
        self.go_on()
        if not self.waiting or not self.debtors:
            return None
        slowest = min(self.debtors, key=lambda debt: debt.progress_ms)
        return slowest if now_ms - slowest.progress_ms >= STALLED_MS else None


class Debt:
    """What is owed to one connection, and which of its fetches wait."""

    __slots__ = ("_owed", "_taken", "_waiting", "connection", "is_reading", "octets", "progress_ms", "unsent")

    def __init__(self, owed: Owed, connection: KafkaConnection) -> None:
        self.connection = connection
        self.octets = 0
        self.unsent = 0
        """How many of them have their turn: the peer need only take them."""
        self.progress_ms = 0
        """When it last took something that counts, or began to owe."""
        self.is_reading = False
        """Whether something is being read for a parked fetch."""
        self._owed = owed
        self._taken = 0
        self._waiting: dict[ParkedFetch, None] = {}

    @property
    def is_too_much(self) -> bool:
        """Whether no further request may be worked on."""
        return self.octets > self._owed.per_connection_max or (self.octets > 0 and self._owed.is_full)

    def add(self, octets: int) -> None:
        """So many are read, or part of an answer."""
        if not octets or self.connection.finished:
            return
        if not self.octets:
            self._owed.debtors[self] = None
            self.progress_ms = self.connection.hub.now_ms
        self.octets += octets
        self._owed.octets += octets

    def drop(self, octets: int) -> None:
        """So many are sent, or not wanted after all."""
        if not octets or not self.octets:
            return
        octets = min(octets, self.octets)
        self.octets -= octets
        self._owed.octets -= octets
        if not self.octets:
            del self._owed.debtors[self]
        if self._waiting:
            self.go_on()
        if self._owed.waiting:
            self._owed.go_on()

    def wrote(self, octets: int, in_memory: int) -> None:
        """The peer has taken so many, and so many of these were in memory."""
        self.unsent -= in_memory
        self.drop(in_memory)
        self._taken += octets
        if self._taken >= PROGRESS_BYTES:
            self._taken = 0
            self.progress_ms = self.connection.hub.now_ms

    def may_read(self, fetch: ParkedFetch) -> bool:
        """Whether the fetch may read now, which `has_read` ends. Else it is woken when it may."""
        if self._must_wait(fetch):
            self._waiting[fetch] = None
            return False
        self.is_reading = True
        return True

    def _must_wait(self, fetch: ParkedFetch) -> bool:
        owed, slots = self._owed, self.connection.slots
        if self.is_reading:
            return True
        if self.octets > owed.per_connection_max and slots:
            is_first = slots[0] is fetch.slot
            if not is_first or self.unsent > owed.per_connection_max:
                return True
        if owed.is_full:
            owed.waiting[self] = None
            return True
        return False

    def has_read(self) -> None:
        """What `may_read` began is over."""
        self.is_reading = False
        self.go_on()

    def go_on(self) -> None:
        """The next fetch that waits may look again, if it may read now: the one whose answer is the first, or any."""
        if self._waiting and not self.is_reading and self.connection.slots:
            first = self.connection.slots[0]
            fetch = next((one for one in self._waiting if one.slot is first), None) or next(iter(self._waiting))
            if not self._must_wait(fetch):
                del self._waiting[fetch]
                fetch.wake_up()

    def forget(self, fetch: ParkedFetch) -> None:
        """The fetch is answered, or not wanted any more."""
        self._waiting.pop(fetch, None)

    def close(self) -> None:
        """The peer is gone: nothing is owed to it."""
        self._waiting.clear()
        self._owed.waiting.pop(self, None)
        self.drop(self.octets)

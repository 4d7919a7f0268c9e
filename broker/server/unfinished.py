"""Room for what has begun to come and is not whole: requests, contents, bodies, of whichever protocol.

Owns how much of it the process holds, who waits for room, and who is in the way. Must not know: sockets, protocols.
Only what is larger than LARGE_BYTES counts. The rules:
- past the limit, or while memory is short, nobody reads on but who began first: so one is always finished;
- the others go on in the order in which they began;
- when others wait, who has sent next to nothing for STALLED_MS goes, the one that has for longest first: who only
  announces, or stops before the end, does not hold the room. Alone it may take its time.
Kafka's `queued.max.request.bytes` stops all reading instead, and waits for whoever is slow.
"""

from __future__ import annotations

from collections.abc import Callable

LARGE_BYTES = 64 << 10
STALLED_MS = 2_000
PROGRESS_BYTES = 16 << 10
"""Less than that in STALLED_MS is next to nothing."""


class Unfinished:
    """All of the process."""

    __slots__ = ("begun", "bytes_max", "is_short", "now_ms", "octets")

    def __init__(self, bytes_max: int, now_ms: Callable[[], int]) -> None:
        self.bytes_max = bytes_max
        self.now_ms = now_ms
        self.octets = 0
        self.is_short = False
        """Whether there is no memory for more, however little of it is held here."""
        self.begun: dict[Begun, None] = {}
        """Who holds something, or waits to, in the order in which they began."""

    @property
    def waiting_count(self) -> int:
        """How many wait for room."""
        return sum(one.waits for one in self.begun)

    def may_hold(self, one: Begun, more: int) -> bool:
        """Whether so many octets more may be held for it."""
        if not self.is_short and self.octets + more <= self.bytes_max:
            return True
        return next(iter(self.begun)) is one

    def go_on(self) -> None:
        """Who waits and has room now reads on; as many as have it, in order."""
        for one in [one for one in self.begun if one.waits]:
            if not self.may_hold(one, one.wanted):
                return
            one.waits = False
            one.progress_ms = self.now_ms()
            one.on_room()

    def set_short(self, is_short: bool) -> None:
        """There is no memory, or there is again."""
        if is_short != self.is_short:
            self.is_short = is_short
            if not is_short:
                self.go_on()

    def in_the_way(self) -> Begun | None:
        """Who has to go because others wait; `Begun.turn_out` does it."""
        stalled = [one for one in self.begun if not one.waits and not one.is_held_up()]
        if not stalled or len(stalled) == len(self.begun) or not self.waiting_count:
            return None
        slowest = min(stalled, key=lambda one: one.progress_ms)
        return slowest if self.now_ms() - slowest.progress_ms >= STALLED_MS else None


class Begun:
    """What one connection has begun to send.

    `on_room` is called when it may read on, `turn_out` when it has to go. `is_held_up` tells that it is the broker that
    does not read it, for another reason.
    """

    __slots__ = ("_came", "_room", "is_held_up", "octets", "on_room", "progress_ms", "turn_out", "waits", "wanted")

    def __init__(
        self,
        room: Unfinished,
        on_room: Callable[[], None],
        turn_out: Callable[[], None],
        is_held_up: Callable[[], bool],
    ) -> None:
        self._room = room
        self.on_room = on_room
        self.turn_out = turn_out
        self.is_held_up = is_held_up
        self.octets = 0
        self.waits = False
        self.wanted = 0  # Octets more, while it waits.
        self.progress_ms = 0
        self._came = 0

    def may_hold(self, octets: int) -> bool:
        """It is to hold so many; False when it has to wait before it may, and then `waits` is true."""
        self._begin()
        more = octets - self.octets
        if self._room.may_hold(self, more):
            self._count(more)
            return True
        self.waits = True
        self.wanted = more
        return False

    def holds(self, octets: int) -> None:
        """It holds so many, which are here already; `waits` tells whether it may read on."""
        self._begin()
        self._count(octets - self.octets)
        if not self._room.may_hold(self, 0):
            self.waits = True
            self.wanted = 0

    def _begin(self) -> None:
        room = self._room
        if self not in room.begun:
            room.begun[self] = None
            self._came = 0
            self.progress_ms = room.now_ms()

    def has_come(self, octets: int) -> None:
        """The peer has sent so many."""
        self._came += octets
        if self._came >= PROGRESS_BYTES:
            self._came = 0
            self.progress_ms = self._room.now_ms()

    def let_go(self) -> None:
        """It is whole and dealt with, or will never be; again is nothing."""
        if self in self._room.begun:
            del self._room.begun[self]
            self._count(-self.octets)
            self.waits = False
            self._room.go_on()

    def _count(self, more: int) -> None:
        self.octets += more
        self._room.octets += more

"""The clock of a process: read when an event is handled (a read of a socket, a slice, a tick), not per message.

Two times come of one reading. `Hub.now_ms` never jumps and is for timeouts; `Scheduler.wall_ms` is the wall clock, for
the age of messages, and differs from the other by an offset that is looked at with each tick. Both are whole
milliseconds, rounded down: `Scheduler.clock_error_ms`.

While the process stands still (SIGSTOP, a machine that is paused or starved) nobody can be heard, so that time does not
count for timeouts: sessions, heartbeats and the like go on where they were. Ages of messages do count it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.server.hub import Hub

STANDSTILL_MS = 1000
"""Time in which the clock was not read, which happens twenty times a second, counts as this much at most."""
JITTER_MS = 1
"""By so much the offset of the wall clock may seem to move, since the two are not read at the same time."""


class Clock:
    """Moves the times of a hub; `read` is to be its `read_clock`."""

    __slots__ = ("_ahead_ms", "_hub", "_monotonic_ns", "_read_ms", "_time_ns")

    def __init__(
        self,
        hub: Hub,
        monotonic_ns: Callable[[], int],
        time_ns: Callable[[], int],
    ) -> None:
        self._hub = hub
        self._monotonic_ns = monotonic_ns
        self._time_ns = time_ns
        self._read_ms = hub.now_ms = hub.scheduler.now_ms = monotonic_ns() // 1_000_000
        self._ahead_ms = time_ns() // 1_000_000 - self._read_ms
        hub.scheduler.wall_ms = self._read_ms + self._ahead_ms
        hub.scheduler.clock_error_ms = 1

    def read(self) -> None:
        """What time it is now. 0.2 µs."""
        read_ms = self._monotonic_ns() // 1_000_000
        passed_ms = read_ms - self._read_ms
        if passed_ms:
            self._read_ms = read_ms
            hub = self._hub
            scheduler = hub.scheduler
            scheduler.now_ms = hub.now_ms = hub.now_ms + (min(STANDSTILL_MS, passed_ms))
            scheduler.wall_ms = read_ms + self._ahead_ms

    def set(self) -> None:
        """The same, and the wall clock may have been set."""
        ahead_ms = (self._time_ns() - self._monotonic_ns()) // 1_000_000
        if abs(ahead_ms - self._ahead_ms) > JITTER_MS:
            self._ahead_ms = ahead_ms
            self._hub.scheduler.wall_ms = self._read_ms + ahead_ms
        self.read()

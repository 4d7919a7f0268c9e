"""Time: wakes whatever is due, watches peers and memory, and measures how late it is itself.

One task for all connections: no timer per connection, no await per timeout. It sleeps until something is due, and a
tick at most; whoever asks for an earlier time meanwhile moves its deadline. What storage raises here ends the broker in
order, like a failed write; anything else is an error of our own and leaves `run`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import trio

from broker.log.errors import StorageError
from broker.server.hub import Hub

log = logging.getLogger("jackalope.server")

TICK_MS = 50
SWEEP_TICKS = 5
"""Connections are looked at every 250 ms: a heartbeat of 1 s needs 0.5 s precision."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _statm() -> int:
    """Opened once: when handles have run out, the watch must not be what ends the broker."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def resident_bytes() -> int:
    """Memory of this process (Linux)."""
    return int(os.pread(_statm(), 200, 0).split()[1]) * _PAGE_BYTES


class Ticker:
    """`lag_ms_max` is the worst delay of the loop since the last time it was read through `take_lag`."""

    __slots__ = (
        "_disk_free_bytes_min",
        "_hub",
        "_memory_watermark_bytes",
        "_set_clock",
        "_sleep",
        "_ticked_ms",
        "_ticks",
        "lag_ms_max",
        "resident_bytes",
    )

    def __init__(
        self,
        hub: Hub,
        memory_watermark_bytes: int,
        disk_free_bytes_min: int,
        set_clock: Callable[[], None],
    ) -> None:
        """`set_clock` reads the clock (`Hub.read_clock`), and looks whether the wall clock was set."""
        self._hub = hub
        self._disk_free_bytes_min = disk_free_bytes_min
        self._memory_watermark_bytes = memory_watermark_bytes
        self._set_clock = set_clock
        self._sleep: trio.CancelScope | None = None
        self._ticked_ms = hub.now_ms
        self._ticks = 0
        self.lag_ms_max = 0.0
        self.resident_bytes = resident_bytes()

    def take_lag(self) -> float:
        """The worst loop delay in milliseconds since the last call."""
        lag, self.lag_ms_max = self.lag_ms_max, 0.0
        return lag

    def statistics(self) -> dict[str, Any]:
        """Loop delay (and reset its maximum), resident memory."""
        return {"loop_lag_ms_max": self.take_lag(), "resident_bytes": self.resident_bytes}

    async def run(self) -> None:
        """Tick for ever, or until storage fails."""
        hub = self._hub
        scheduler = hub.broker.scheduler
        hub.hasten = self._hasten
        scheduler.timed.on_earlier = self._hasten_by_wall
        scheduler.timers.on_earlier = self._hasten
        self._watch_memory()
        self._watch_disk()
        self._ticked_ms = hub.now_ms
        while True:
            await self._sleep_until_due(self._ticked_ms + TICK_MS)
            if not self._turn():
                return
            while scheduler.busy:
                if not self._move_on(scheduler.run_slice):
                    return
                hub.end_turn()
                await trio.lowlevel.checkpoint()
                hub.read_clock()

    def _turn(self) -> bool:
        """The turn of what is due; False when storage has failed in it. The order, and why it is this one:

        1. The clock is read: whatever follows in this turn has the same time.
        2. Whoever is due is told (`Scheduler.tick`), then who keeps time for connections of its own; each TICK_MS
           topics and queues that keep messages before them, and the flusher behind them. What they mark, move and
           answer so belongs to this turn, and to its frame.
        3. Each SWEEP_TICKS peers are looked at, then memory and the disk: whoever was served just now is not silent.
        4. The turn ends like any other (`Hub.end_turn`). What was begun in it and is long goes on in slices, between
           which the poller has its turns.
        """
        hub = self._hub
        self._set_clock()
        elapsed_ms = hub.now_ms - self._ticked_ms
        is_tick = elapsed_ms >= TICK_MS
        if not self._move_on(functools.partial(self._tick, elapsed_ms) if is_tick else self._wake):
            return False
        if is_tick:
            self._ticked_ms = hub.now_ms
            self._ticks += 1
            if self._ticks % SWEEP_TICKS == 0:
                hub.sweep()
                self._watch_memory()
                self._watch_disk()
        hub.end_turn()
        return True

    async def _sleep_until_due(self, tick_ms: int) -> None:
        """Until the next tick, or what is due before that."""
        hub = self._hub
        hub.read_clock()
        scheduler = hub.broker.scheduler
        pause_ms = tick_ms - hub.now_ms
        for due_ms in (scheduler.timers.next_ms, *(next_due() for next_due in hub.next_dues)):
            if due_ms is not None:
                pause_ms = min(pause_ms, due_ms - hub.now_ms)
        due_ms = scheduler.timed.next_ms
        if due_ms is not None:
            pause_ms = min(pause_ms, due_ms - scheduler.wall_ms)
        # At least a millisecond: that what is due again and again leaves the others their turns.
        self._sleep = trio.CancelScope(deadline=trio.current_time() + max(pause_ms, 1) / 1000)
        with self._sleep:
            await trio.sleep_forever()
        self.lag_ms_max = max(self.lag_ms_max, (trio.current_time() - self._sleep.deadline) * 1000)
        self._sleep = None

    def _hasten(self, due_ms: int) -> None:
        """Wake up at this time of `Hub.now_ms`, if that is before what was planned."""
        if self._sleep is not None and due_ms - self._hub.now_ms < TICK_MS:
            due = trio.current_time() + max(due_ms - self._hub.now_ms, 1) / 1000
            self._sleep.deadline = min(self._sleep.deadline, due)

    def _hasten_by_wall(self, due_ms: int) -> None:
        """The same for a time of the wall clock."""
        self._hasten(due_ms - self._hub.scheduler.wall_ms + self._hub.now_ms)

    def _wake(self) -> None:
        """Something is due before the next tick."""
        self._hub.scheduler.tick()
        for call in self._hub.on_tick:
            call(self._hub.now_ms)

    def _tick(self, elapsed_ms: int) -> None:
        self._hub.broker.tick(self._hub.now_ms)
        for call in self._hub.on_tick:
            call(self._hub.now_ms)
        if self._hub.durability is not None:
            self._hub.durability.flusher.tick(elapsed_ms)

    def _move_on(self, step: Callable[[], object]) -> bool:
        """Take a step of what may read or write the disk; False when that has failed, and the broker ends."""
        try:
            step()
        except (StorageError, OSError) as error:
            if self._hub.durability is None:
                raise
            self._hub.durability.fail(error)
            return False
        return True

    def _watch_disk(self) -> None:
        durability = self._hub.durability
        if durability is not None and not durability.flusher.full:
            try:
                free = durability.store.disk.free_bytes()
            except OSError as error:
                durability.fail(error)
                return
            if free < self._disk_free_bytes_min:
                self._hub.set_alarm("disk", active=True)
            elif free > self._disk_free_bytes_min * 1.05:
                self._hub.set_alarm("disk", active=False)

    def _watch_memory(self) -> None:
        self.resident_bytes = resident_bytes()
        if self.resident_bytes > self._memory_watermark_bytes:
            self._hub.set_alarm("memory", active=True)
        elif self.resident_bytes < self._memory_watermark_bytes * 0.95:
            self._hub.set_alarm("memory", active=False)

"""Time: wakes whatever is due, watches peers and memory, and measures how late it is itself.

One task for all connections: no timer per connection, no await per timeout. It sleeps until something is due, and a
tick at most; whoever asks for an earlier time meanwhile moves its deadline. What storage raises here ends the broker in
order, like a failed write; anything else is an error of our own and leaves `run`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import trio

from broker.core.scheduler import SLICE_UNITS
from broker.log.errors import StorageError
from broker.server.amqp.ack_timeout import close_overdue
from broker.server.amqp.state import State
from broker.server.hub import Hub
from protocol.amqp.frames import HEARTBEAT_FRAME

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection

log = logging.getLogger("jackalope.server")

TICK_MS = 50
SWEEP_TICKS = 5
"""Connections are looked at every 250 ms: a heartbeat of 1 s needs 0.5 s precision."""
MISSED_INTERVALS = 3
"""A peer silent for so many heartbeat intervals is gone. RabbitMQ 4.0.5 was seen to wait 3.0 s for heartbeat 1."""
WATCH_UNITS, CHANNELS_A_UNIT = 2, 10
"""What it costs to look at a connection, and at its channels that have nothing unacknowledged."""
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
        "_handshake_timeout_ms",
        "_hub",
        "_is_sweeping",
        "_memory_watermark_bytes",
        "_send_timeout_ms",
        "_set_clock",
        "_sleep",
        "lag_ms_max",
        "resident_bytes",
    )

    def __init__(
        self,
        hub: Hub,
        handshake_timeout_ms: int,
        memory_watermark_bytes: int,
        send_timeout_ms: int = 30_000,
        disk_free_bytes_min: int = 0,
        set_clock: Callable[[], None] | None = None,
    ) -> None:
        """`set_clock` reads the clock (`Hub.read_clock`), and looks whether the wall clock was set."""
        self._hub = hub
        self._disk_free_bytes_min = disk_free_bytes_min
        self._handshake_timeout_ms = handshake_timeout_ms
        self._memory_watermark_bytes = memory_watermark_bytes
        self._send_timeout_ms = send_timeout_ms
        self._set_clock = set_clock or hub.read_clock
        self._is_sweeping = False
        self._sleep: trio.CancelScope | None = None
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
        ticks, ticked_ms = 0, hub.now_ms
        while True:
            await self._sleep_until_due(ticked_ms + TICK_MS)
            self._set_clock()
            elapsed_ms = hub.now_ms - ticked_ms
            is_tick = elapsed_ms >= TICK_MS
            if not self._move_on(functools.partial(self._tick, elapsed_ms) if is_tick else self._wake):
                return
            if is_tick:
                ticked_ms = hub.now_ms
                ticks += 1
                if ticks % SWEEP_TICKS == 0:
                    if not self._is_sweeping:
                        self._is_sweeping = True
                        scheduler.add_job(self._sweep())
                    self._watch_memory()
                    self._watch_disk()
                    self._watch_unfinished()
            hub.end_turn()
            while scheduler.busy:
                if not self._move_on(scheduler.run_slice):
                    return
                hub.end_turn()
                await trio.lowlevel.checkpoint()
                hub.read_clock()

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

    def _sweep(self) -> Iterator[int]:
        """Watch all connections; yields units of work."""
        spent = 0
        for connection in list(self._hub.connections):
            if connection in self._hub.connections:  # Not gone meanwhile.
                self._watch(connection, self._hub.now_ms)
            spent += WATCH_UNITS + len(connection.channels) // CHANNELS_A_UNIT
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
        self._is_sweeping = False

    def _watch(self, connection: Connection, now_ms: int) -> None:
        """Handshake and close timeouts, and heartbeats: any octet counts (RabbitMQ 3.1/8)."""
        if connection.received_octets != connection.seen_received:
            connection.seen_received = connection.received_octets
            connection.last_received_ms = now_ms
        if connection.sent_octets != connection.seen_sent:
            connection.seen_sent = connection.sent_octets
            connection.last_sent_ms = now_ms
        elif connection.transport.pending_bytes and self._stalled(connection, now_ms):
            return
        if connection.drop_at_ms is not None:
            if now_ms >= connection.drop_at_ms:
                connection.transport.close()
            return
        if connection.state is not State.RUNNING:
            if now_ms - connection.started_ms >= self._handshake_timeout_ms:
                self._hub.log_lines.info(log, "handshake timeout: peer=%s:%s", *connection.peer[:2])
                connection.transport.close()
            return
        for channel in list(connection.channels.values()):
            if channel.unacked:
                close_overdue(channel, now_ms)
        self._beat(connection, now_ms)

    def _beat(self, connection: Connection, now_ms: int) -> None:
        """Heartbeats, both ways."""
        if connection.heartbeat_s:
            interval_ms = connection.heartbeat_s * 1000
            if now_ms - connection.last_received_ms >= MISSED_INTERVALS * interval_ms and not connection.paused:
                self._hub.log_lines.info(log, "missed heartbeats: peer=%s:%s", *connection.peer[:2])
                connection.transport.close()
            elif now_ms - connection.last_sent_ms >= interval_ms // 2 - TICK_MS:
                connection.last_sent_ms = now_ms
                connection.send(HEARTBEAT_FRAME)

    def _stalled(self, connection: Connection, now_ms: int) -> bool:
        """Close a peer that has taken nothing for too long; whether it was."""
        if now_ms - connection.transport.progress_ms < self._send_timeout_ms:
            return False
        self._hub.log_lines.info(log, "peer takes nothing: peer=%s:%s", *connection.peer[:2])
        connection.transport.close()
        return True

    def _watch_unfinished(self) -> None:
        """Who sends nothing goes, if others wait for the room that it takes."""
        one = self._hub.unfinished.in_the_way()
        if one is not None:
            one.turn_out()

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

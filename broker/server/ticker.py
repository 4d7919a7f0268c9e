"""Time: moves the hub's clock, expires what is due, watches peers and memory, and measures how late it is itself.

One task for all connections: no timer per connection, no await per timeout. What storage raises here ends the broker in
order, like a failed write; anything else is an error of our own and leaves `run`.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import trio

from broker.log.errors import StorageError
from broker.server.amqp.ack_timeout import close_overdue
from broker.server.amqp.connection import Connection
from broker.server.amqp.state import State
from broker.server.hub import Hub
from protocol.amqp.frames import HEARTBEAT_FRAME

log = logging.getLogger("jackalope.server")

TICK_MS = 50
SWEEP_TICKS = 5
"""Connections are looked at every 250 ms: a heartbeat of 1 s needs 0.5 s precision."""
MISSED_INTERVALS = 3
"""A peer silent for so many heartbeat intervals is gone. RabbitMQ 4.0.5 was seen to wait 3.0 s for heartbeat 1."""
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
        "_memory_watermark_bytes",
        "_send_timeout_ms",
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
    ) -> None:
        self._hub = hub
        self._disk_free_bytes_min = disk_free_bytes_min
        self._handshake_timeout_ms = handshake_timeout_ms
        self._memory_watermark_bytes = memory_watermark_bytes
        self._send_timeout_ms = send_timeout_ms
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
        self._watch_memory()
        self._watch_disk()
        ticks = 0
        due = trio.current_time()
        while True:
            due = max(due + TICK_MS / 1000, trio.current_time())
            await trio.sleep_until(due)
            self.lag_ms_max = max(self.lag_ms_max, (trio.current_time() - due) * 1000)
            elapsed_ms = time.monotonic_ns() // 1_000_000 - hub.now_ms
            hub.now_ms += elapsed_ms
            hub.scheduler.wall_ms = hub.wall_ms()
            if not self._move_on(functools.partial(self._tick, elapsed_ms)):
                return
            ticks += 1
            if ticks % SWEEP_TICKS == 0:
                for connection in list(hub.connections):
                    self._watch(connection, hub.now_ms)
                self._watch_memory()
                self._watch_disk()
            scheduler = hub.broker.scheduler
            hub.end_turn()
            while scheduler.busy:
                if not self._move_on(scheduler.run_slice):
                    return
                hub.end_turn()
                await trio.lowlevel.checkpoint()

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
                log.info("handshake timeout: peer=%s:%s", *connection.peer[:2])
                connection.transport.close()
            return
        for channel in list(connection.channels.values()):
            if channel.unacked:
                close_overdue(channel, now_ms)
        self._beat(connection, now_ms)

    @staticmethod
    def _beat(connection: Connection, now_ms: int) -> None:
        """Heartbeats, both ways."""
        if connection.heartbeat_s:
            interval_ms = connection.heartbeat_s * 1000
            if now_ms - connection.last_received_ms >= MISSED_INTERVALS * interval_ms and not connection.paused:
                log.info("missed heartbeats: peer=%s:%s", *connection.peer[:2])
                connection.transport.close()
            elif now_ms - connection.last_sent_ms >= interval_ms // 2 - TICK_MS:
                connection.last_sent_ms = now_ms
                connection.send(HEARTBEAT_FRAME)

    def _stalled(self, connection: Connection, now_ms: int) -> bool:
        """Close a peer that has taken nothing for too long; whether it was."""
        if now_ms - connection.transport.progress_ms < self._send_timeout_ms:
            return False
        log.info("peer takes nothing: peer=%s:%s", *connection.peer[:2])
        connection.transport.close()
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

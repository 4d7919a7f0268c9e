"""Hot path. THE loop of reads and writes: whose turn it is.

Budget: part of the 12 µs that `server.pump` has for a small request; held by the same rows of `jackalope bench amqp`.

One trio task, the `Poller`, drives every connection: a task per connection costs a wake-up of the scheduler for each
read, and that was more than all the rest of a small message (figures in tools/bench/README.md). The poller keeps an
epoll of its own, waits for it through trio, then takes turns without awaiting:
- who has little to say comes first; who filled its last read is *bulk* and shares BULK_MS a cycle with its like, so
  that a flood costs a polite peer about a millisecond;
- after a cycle it lingers up to LINGER_MS in its own epoll, since the answer to what was just sent is often near;
- after AWAY_MS at the latest trio's other tasks run.
"""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from broker.server.pump import Pump, PumpLimits

if TYPE_CHECKING:
    from broker.server.hub import Hub

log = logging.getLogger("jackalope.server")

BULK_MS = 1.0
LINGER_MS = 1
AWAY_MS = 4.0
EVENTS_MAX = 256
GATHER_MS = 0.5
"""How long a frame waits for others while there is something to read."""
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


class Poller:
    """The task that gives every connection its turns."""

    __slots__ = ("_bulk", "_epoll", "_hub", "_nursery", "_pumps", "_wake", "_watched", "limits")

    def __init__(self, hub: Hub, nursery: trio.Nursery, limits: PumpLimits | None = None) -> None:
        self._hub = hub
        self.limits = limits or PumpLimits()
        self._nursery = nursery
        self._epoll = select.epoll()
        self._pumps: dict[int, Pump] = {}
        self._bulk: deque[Pump] = deque()
        # Lets other tasks of the loop end the wait: epoll then finds it readable.
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._watched: dict[int, Callable[[], None]] = {}
        self.watch(self._wake[0].fileno(), self._drop_wakes)

    def add(self, pump: Pump) -> None:
        """A new connection."""
        self._pumps[pump.fd] = pump
        self._epoll.register(pump.fd, _IN)

    def remove(self, pump: Pump) -> None:
        """A connection is about to be closed."""
        if self._pumps.pop(pump.fd, None) is not None:
            self._epoll.unregister(pump.fd)

    def watch(self, fd: int, collect: Callable[[], None]) -> None:
        """Call `collect` within a turn whenever `fd` is readable."""
        self._watched[fd] = collect
        self._epoll.register(fd, _IN)

    def modify(self, pump: Pump, interest: int) -> None:
        """What epoll is to report of a connection."""
        self._epoll.modify(pump.fd, interest)

    def add_bulk(self, pump: Pump) -> None:
        """The connection has more to do than a small read's worth."""
        if not pump.bulk:
            pump.bulk = True
            self._bulk.append(pump)

    def wake(self) -> None:
        """There is bulk work and the poller may be waiting."""
        try:
            self._wake[1].send(b"\0")
        except BlockingIOError:
            return  # It has been woken often enough.

    def log_in(self, pump: Pump) -> None:
        """Check a password off the loop; the connection is not read in the meantime."""
        self._nursery.start_soon(self._log_in, pump)

    async def _log_in(self, pump: Pump) -> None:
        await pump.machine.log_in()
        if not pump.closed:
            pump.flush()
            pump.resume()

    async def run(self) -> None:
        """Turns for ever; on cancellation every connection is closed."""
        wait_readable, checkpoint = trio.lowlevel.wait_readable, trio.lowlevel.checkpoint
        fd = self._epoll.fileno()
        try:
            while True:
                if self._bulk or self._hub.broker.scheduler.busy:
                    await checkpoint()
                else:
                    await wait_readable(fd)
                self._away(perf_counter() + AWAY_MS / 1000)
        finally:
            for pump in list(self._pumps.values()):
                pump.close()
            self._epoll.close()
            for end in self._wake:
                end.close()

    def _away(self, until: float) -> None:
        """Cycles without trio, until nothing comes or the time is up. The order of a cycle, and why it is this one:

        1. Everybody who is ready has a turn, and together they have one end of a turn (`Hub.end_turn`): what is short
           never waits for what is long.
        2. What waits for a later slice goes on; when nothing does, the bulk has its turns: for BULK_MS, whichever it
           is. Slices come first, since a flood's next read would only add to the queues that wait to hand out.
        3. The frame that was gathered goes to the disk once nobody else is ready, or GATHER_MS after somebody first
           wanted it. It comes last, so that it holds what the whole cycle has done.

        What is due by a clock is not woken here: the `Ticker` has turns of its own, in trio's.
        """
        poll = self._epoll.poll
        hub = self._hub
        scheduler = hub.broker.scheduler
        durability = hub.durability
        linger = LINGER_MS / 1000
        timeout = gather_until = 0.0
        while True:
            events = poll(timeout, EVENTS_MAX)
            if events:
                self._interactive(events)
                hub.end_turn(gather=True)
            now = perf_counter()
            if scheduler.busy:
                now = self._slices(now + BULK_MS / 1000)
            elif self._bulk:
                now = self._bulk_turns(now + BULK_MS / 1000, len(events) + len(self._bulk) <= 2)
            elif not events and timeout:
                return
            timeout = 0.0 if self._bulk or scheduler.busy else linger
            if durability is not None and durability.flusher.wanted:
                # Whoever is ready as well goes into the same frame, but nobody waits long for that.
                gather_until = gather_until or now + GATHER_MS / 1000
                if not events or now >= gather_until or now >= until:
                    durability.turn_ended()
                    gather_until = 0.0
                else:
                    timeout = 0.0
            if now >= until:
                return

    def _interactive(self, events: list[tuple[int, int]]) -> None:
        """Everybody who is ready, except for those whose turn comes with the bulk."""
        pumps, read_clock = self._pumps, self._hub.read_clock
        for fd, mask in events:
            read_clock()
            pump = pumps.get(fd)
            if pump is None:
                collect = self._watched.get(fd)
                if collect is not None:
                    collect()
                continue
            try:
                if mask & _OUT:
                    pump.drain()
                if mask & _GONE and not pump.closed and not pump.listening:
                    pump.close()  # Reported whether asked for or not; nobody will read to find out.
                if mask & ~_OUT and not pump.bulk and not pump.closed:
                    pump.step(False)
            except Exception:  # noqa: BLE001 - see _bug
                self._bug(pump)

    def _slices(self, end: float) -> float:
        """What waits for a later slice, each slice with an end of a turn; returns what time it is then."""
        hub = self._hub
        scheduler = hub.broker.scheduler
        now = 0.0
        while scheduler.busy and now < end:
            hub.read_clock()
            scheduler.run_slice()
            hub.end_turn(gather=True)
            now = perf_counter()
        return now

    def _bulk_turns(self, end: float, alone: bool) -> float:
        """Turns of the bulk, each with its end, until something waits for a slice; returns what time it is then."""
        bulk = self._bulk
        hub = self._hub
        now = 0.0
        while bulk:
            pump = bulk.popleft()
            pump.bulk = False
            if not pump.closed:
                hub.read_clock()
                try:
                    pump.step(alone)
                except Exception:  # noqa: BLE001 - see _bug
                    self._bug(pump)
                hub.end_turn(gather=True)
            now = perf_counter()
            if now >= end or hub.broker.scheduler.busy:
                break
        return now

    def _drop_wakes(self) -> None:
        self._wake[0].recv(4096)

    def _bug(self, pump: Pump) -> None:
        """A bug that one peer met must not end the others."""
        self._hub.log_lines.bug(log, "connection ended by a bug: peer=%s:%s", *pump.machine.peer)
        pump.close()

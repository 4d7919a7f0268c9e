"""Hot path. THE read/write loop: octets between sockets and sans-IO connections.

Budget: 12 µs of ours per read that finds a small request; held by `jackalope bench amqp` (rows rtt1, rtt100,
unbatched50, rtt_flood16).

One trio task, the `Poller`, drives every connection: a task per connection costs a wake-up of the scheduler for each
read, and that was more than all the rest of a small message (figures in tools/bench/README.md). The poller keeps an
epoll of its own, waits for it through trio, then takes turns without awaiting:
- who has little to say comes first; who filled its last read is *bulk* and shares BULK_MS a cycle with its like, so
  that a flood costs a polite peer about a millisecond;
- after a cycle it lingers up to LINGER_MS in its own epoll, since the answer to what was just sent is often near;
- after AWAY_MS at the latest trio's other tasks run.

Back-pressure: while the socket does not take everything the connection is `congested`, so that its consumers take
nothing from queues; when replies pile up nevertheless, it is not read either.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from broker.server.tls import Tls

if TYPE_CHECKING:
    from broker.server.hub import Hub
    from broker.server.machine import Home, Machine

log = logging.getLogger("jackalope.server")

JOIN_BYTES_MAX = 4 * 1024 * 1024
"""Up to this size what is to be sent is joined in one go."""
BULK_MS = 1.0
LINGER_MS = 1
AWAY_MS = 4.0
EVENTS_MAX = 256
GATHER_MS = 0.5
"""How long a frame waits for others while there is something to read."""
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


@dataclass(frozen=True, slots=True)
class PumpLimits:
    """Reads and writes of one connection; `broker.config.limits` has the reasons."""

    read_chunk_bytes: int = 16_384
    read_chunk_bytes_max: int = 131_072
    out_buffer_bytes_max: int = 262_144
    replies_bytes_max: int = 1024 * 1024  # Replies to a peer that does not read, before we stop reading it.


class Pump:
    """The socket of one connection: reads for it in `step`, writes for it in `flush` and `drain`."""

    __slots__ = (
        "_home", "_interest", "_limits", "_pending", "_poller", "_size", "bulk", "closed", "fd", "machine",
        "progress_ms", "sock", "tls",
    )  # fmt: skip

    def __init__(self, home: Home, poller: Poller, sock: socket.socket, machine: Machine, tls: Tls | None) -> None:
        self._home = home
        self._poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.machine = machine
        self.tls = tls
        self.bulk = False
        self.closed = False
        self._limits = poller.limits
        self._size = self._limits.read_chunk_bytes
        self._pending = memoryview(b"")
        self._interest = _IN
        self.progress_ms = home.now_ms  # When the socket last took something.
        machine.transport = self

    # Reading.

    def step(self, alone: bool) -> None:
        """One turn of this connection: go on with what it has, or read once."""
        machine = self.machine
        more: bool
        if machine.more:
            machine.proceed()
            more = machine.more
        elif machine.paused or not self._interest & _IN:
            more = False
        else:
            size = self._size
            try:
                data = self.sock.recv(size)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("connection lost: %s", error)
                self.close()
                return
            if not data:
                self.close()
                return
            more = len(data) == size
            limits = self._limits
            self._size = min(size * 2, limits.read_chunk_bytes_max) if more and alone else limits.read_chunk_bytes
            self._receive(data)
            more = more or machine.more
        self._go_on(more)

    def _go_on(self, more: bool) -> None:
        """A turn is over; `more`: the next one has something to do."""
        machine = self.machine
        if machine.finished:
            self._finish()
        elif machine.login is not None:
            self._poller.log_in(self)
        elif machine.paused or (self._pending and self._unread_replies()):
            self._watch()
        elif more:
            self._poller.add_bulk(self)

    def _unread_replies(self) -> bool:
        """Whether so much waits for a peer that does not read that nothing more should come from it."""
        return sum(map(len, self.machine.out)) > self._limits.replies_bytes_max

    def _receive(self, data: bytes) -> None:
        tls = self.tls
        if tls is None:
            self.machine.receive(data)
            return
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            log.info("TLS failed: peer=%s:%s %s", *self.machine.peer, error)
            self._send(tls.data_to_send())
            self.close()
            return
        self._send(tls.data_to_send())
        if tls.established and not self.machine.tls:
            self.machine.tls = True
            self.machine.external_name = tls.peer_name()
        if plain:
            self.machine.receive(plain)
        if tls.ended and not self.machine.more and not self.closed:
            self.flush()
            self._send(tls.end())
            self.close()

    def resume(self) -> None:
        """What paused the machine is over: go on with what it has, then read again."""
        self._watch()
        if not self.closed and self.machine.more:
            self._poller.add_bulk(self)
            self._poller.wake()

    # Writing.

    def flush(self) -> None:
        """Send what is on `out` without waiting; at the end of a turn, and within one when `out` grows large."""
        machine = self.machine
        if self.tls is not None and not self.tls.established and machine.out:
            self.close()  # In mid-handshake there is no way to say anything.
            return
        if self._pending:
            machine.congested = machine.out_size + len(self._pending) > self._limits.out_buffer_bytes_max
        while machine.out and not self._pending and not self.closed:
            data = self._take_out()
            self._send(self.tls.send(data) if self.tls is not None else data)
        if machine.finished:
            self._finish()
        elif machine.has_said_all and self.tls is None and not self._pending and not self.closed:
            self._shut_writing()
        elif not self._interest & _IN and not self._pending and not machine.paused:
            self.resume()  # It took nothing because too much was unsent.

    def _shut_writing(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            log.debug("connection lost: %s", error)

    def _take_out(self) -> bytes:
        machine = self.machine
        out = machine.out
        if machine.out_size <= JOIN_BYTES_MAX:
            data = b"".join(out)
            out.clear()
        else:
            size = count = 0
            for count, piece in enumerate(out, 1):  # noqa: B007 - the count is what is wanted
                size += len(piece)
                if size > JOIN_BYTES_MAX // 4:
                    break
            data = b"".join(out[:count])
            del out[:count]
        if not out:
            machine.out_size = 0
        return data

    def _send(self, data: bytes) -> None:
        if self._pending:
            self._pending = memoryview(bytes(self._pending) + data)
            return
        if not data or self.closed:
            return
        self.machine.sent_octets += len(data)
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            log.debug("connection lost while writing: %s", error)
            self.machine.out.clear()
            self._poller.add_bulk(self)  # Its next read finds the same error and ends it, outside of this turn.
            return
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self.progress_ms = self._home.now_ms
            self.machine.congested = len(self._pending) > self._limits.out_buffer_bytes_max
            self._watch()

    def drain(self) -> None:
        """The socket takes octets again."""
        try:
            sent = self.sock.send(self._pending)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("connection lost while writing: %s", error)
            self.close()
            return
        self._pending = self._pending[sent:]
        self.progress_ms = self._home.now_ms
        if not self._pending:
            self.flush()
            if not self._pending and not self.closed:
                self._watch()
                self.machine.drained()
                if self.machine.more:
                    self._poller.add_bulk(self)

    @property
    def listening(self) -> bool:
        """Whether it is read when something comes."""
        return bool(self._interest & _IN)

    @property
    def pending_bytes(self) -> int:
        """Octets that the socket has not taken."""
        return len(self._pending)

    # The end.

    def _finish(self) -> None:
        """The machine is done: write what is left, then close."""
        if not self._pending and not self.machine.out:
            self.close()

    def close(self) -> None:
        """Close the socket and let the machine go of everything; more than once is once."""
        if self.closed:
            return
        self.closed = True
        self.tls = None  # 40 kB, which would wait for a collection of cycles: during a flood that is long.
        self._poller.remove(self)
        self.sock.close()
        self.machine.abort()
        self._home.remove(self.machine)

    def _watch(self) -> None:
        """Ask epoll for what is wanted now."""
        if self.closed:
            return
        machine = self.machine
        deaf = machine.paused or (self._pending and self._unread_replies())
        interest = (0 if deaf else _IN) | (_OUT if self.pending_bytes else 0)
        if interest != self._interest:
            self._interest = interest
            self._poller.modify(self, interest)


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
        pump._watch()
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
        """Cycles without trio, until nothing comes or the time is up."""
        poll, hub = self._epoll.poll, self._hub
        scheduler, durability = hub.broker.scheduler, hub.durability
        linger = LINGER_MS / 1000
        timeout = gather_until = 0.0
        while True:
            events = poll(timeout, EVENTS_MAX)
            if events:
                self._interactive(events)
                hub.end_turn(gather=True)
            now = perf_counter()
            end = now + BULK_MS / 1000
            if scheduler.busy:
                while scheduler.busy and now < end:
                    hub.read_clock()
                    scheduler.run_slice()
                    hub.end_turn(gather=True)
                    now = perf_counter()
            elif self._bulk:
                now = self._bulk_turns(end, len(events) + len(self._bulk) <= 2)
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

    def _bulk_turns(self, end: float, alone: bool) -> float:
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

    @staticmethod
    def _bug(pump: Pump) -> None:
        """A bug that one peer met must not end the others."""
        log.exception("connection ended by a bug: peer=%s:%s", *pump.machine.peer)
        pump.close()

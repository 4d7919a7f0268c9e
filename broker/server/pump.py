"""Hot path. The socket of one connection: octets between it and a sans-IO machine.

Budget: 12 µs of ours per read that finds a small request, with its turn of the poller; held by `jackalope bench amqp`
(rows rtt1, rtt100, unbatched50, rtt_flood16). `server.poller` says whose turn it is.

Back-pressure: while the socket does not take everything the connection is `congested`, so that its consumers take
nothing from queues; when replies pile up nevertheless, it is not read either.

The end: a socket that is closed while octets of its peer are still coming answers them with a reset, which destroys
what the peer has not read yet (RFC 1122, 4.2.2.13). So when a machine has said its last, the socket is shut for writing
and read until the peer closes it as well (RabbitMQ reads on too: rabbit_reader.erl, state closed); whoever watches the
connection closes it when that takes too long.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from broker.server.tls import Tls

if TYPE_CHECKING:
    from broker.server.machine import Home, Machine
    from broker.server.poller import Poller

log = logging.getLogger("jackalope.server")

T = TypeVar("T")

JOIN_BYTES_MAX = 4 * 1024 * 1024
"""Up to this size what is to be sent is joined in one go."""
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


@dataclass(frozen=True, slots=True)
class PumpLimits:
    """Reads and writes of one connection; the defaults are those of `broker.config.limits`, which has the reasons."""

    read_chunk_bytes: int = 16_384
    read_chunk_bytes_max: int = 131_072
    out_buffer_bytes_max: int = 262_144
    replies_bytes_max: int = 1024 * 1024  # Replies to a peer that does not read, before we stop reading it.


class Pump:
    """The socket of one connection: reads for it in `step`, writes for it in `flush` and `drain`."""

    __slots__ = (
        "_home", "_interest", "_limits", "_pending", "_poller", "_size", "bulk", "closed", "fd", "lingering",
        "machine", "progress_ms", "sock", "tls",
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
        self.lingering = False  # All is said: what still comes is dropped.
        self._limits = poller.limits
        self._size = self._limits.read_chunk_bytes
        self._pending = memoryview(b"")
        self._interest = _IN
        self.progress_ms = home.now_ms  # When the socket last took something.
        machine.transport = machine.outbox.writer = self

    # Reading.

    def step(self, alone: bool) -> None:
        """One turn of this connection: go on with what it has, or read once."""
        machine = self.machine
        more: bool
        if machine.more:
            machine.proceed()
            more = machine.more
        elif (machine.paused and not self.lingering) or not self._interest & _IN:
            more = False
        else:
            size = self._size
            data = self._read(self.sock.recv, size)
            if not data:
                return
            more = len(data) == size
            limits = self._limits
            self._size = min(size * 2, limits.read_chunk_bytes_max) if more and alone else limits.read_chunk_bytes
            self._receive(data)
            more = more or machine.more
        self._go_on(more)

    def _read(self, receive: Callable[[Any], T], into: Any) -> T | None:
        """What the socket has; None where that is nothing, or the end, with which the connection is closed."""
        try:
            found = receive(into)
        except BlockingIOError:
            return None
        except OSError as error:
            log.debug("connection lost: %s", error)
            self.close()
            return None
        if not found:
            self.close()
            return None
        return found

    def _go_on(self, more: bool) -> None:
        """A turn is over; `more`: the next one has something to do."""
        machine = self.machine
        if machine.finished:
            self._finish()
        elif machine.login is not None:
            self._watch()
            self._poller.log_in(self)
        elif machine.paused or (self._pending and self._unread_replies()):
            self._watch()
        elif more:
            self._poller.add_bulk(self)

    def _unread_replies(self) -> bool:
        """Whether so much waits for a peer that does not read that nothing more should come from it."""
        return sum(map(len, self.machine.outbox.parts)) > self._limits.replies_bytes_max

    def _receive(self, data: bytes) -> None:
        if self.lingering:
            return
        tls = self.tls
        if tls is None:
            self.machine.receive(data)
            return
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            self._home.log_lines.info(log, "TLS failed: peer=%s:%s %s", *self.machine.peer, error)
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
        """Send what is in the outbox without waiting; at the end of a turn, and within one when that grows large."""
        machine = self.machine
        outbox = machine.outbox
        if self.lingering:
            outbox.parts.clear()
            return
        if self.tls is not None and not self.tls.established and outbox.parts:
            self.close()  # In mid-handshake there is no way to say anything.
            return
        if self._pending:
            outbox.congested = outbox.size + len(self._pending) > self._limits.out_buffer_bytes_max
        while outbox.parts and not self._pending and not self.closed:
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
        outbox = self.machine.outbox
        out = outbox.parts
        if outbox.size <= JOIN_BYTES_MAX:
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
            outbox.size = 0
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
            self.machine.outbox.parts.clear()
            self._poller.add_bulk(self)  # Its next read finds the same error and ends it, outside of this turn.
            return
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self.progress_ms = self._home.now_ms
            self.machine.outbox.congested = len(self._pending) > self._limits.out_buffer_bytes_max
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
            if self.lingering:
                self._shut_writing()
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
        """The machine is done: when what is left is written, tell the peer so, and wait for it to close."""
        if self._pending or self.machine.outbox.parts or self.lingering or self.closed:
            return
        self.lingering = True
        self.progress_ms = self._home.now_ms
        if self.tls is not None:
            self._send(self.tls.end())
            self.tls = None  # What comes is not looked at.
        if not self._pending:
            self._shut_writing()
        self._watch()

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
        deaf = not self.lingering and (machine.paused or (self._pending and self._unread_replies()))
        interest = (0 if deaf else _IN) | (_OUT if self.pending_bytes else 0)
        if interest != self._interest:
            self._interest = interest
            self._poller.modify(self, interest)

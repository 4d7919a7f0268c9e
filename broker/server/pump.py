"""Hot path. THE read/write loop: octets between one socket and one sans-IO connection.

Budget: 12 µs of ours per read that finds octets waiting; held by `jackalope bench amqp` (rows rtt1, unbatched50).
Sockets are plain and non-blocking, waited for through `trio.lowlevel`: receive first and wait only when empty; at the
end of a turn send without waiting, and leave to a writer task only what the socket did not take.

Fairness: one read of READ_BYTES a turn, growing only while nobody else had a turn in between. Back-pressure: while the
socket does not take everything the connection is `congested`, so that its consumers take nothing from queues; when
replies pile up nevertheless, it is not read either.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any, Protocol

import trio

from broker.server.hub import Hub

log = logging.getLogger("jackalope.server")

READ_BYTES = 16_384
READ_BYTES_MAX = 131_072
JOIN_BYTES_MAX = 4 * 1024 * 1024
"""Up to this size what is to be sent is joined in one go."""
OUT_BYTES_MAX = 1024 * 1024
"""Replies that may wait for a peer that does not read, before we stop reading it."""


class Machine(Protocol):
    """A sans-IO connection, see `broker.server.amqp.connection` for the duties."""

    out: list[bytes]
    out_size: int
    congested: bool
    finished: bool
    sent_octets: int
    transport: Any

    @property
    def more(self) -> bool: ...
    @property
    def paused(self) -> bool: ...
    def receive(self, data: bytes) -> None: ...
    def proceed(self) -> None: ...
    def drained(self) -> None: ...
    def abort(self) -> None: ...


class Tls:
    """The TLS layer of one connection over memory buffers, so that sending stays non-blocking and ordered."""

    __slots__ = ("_incoming", "_outgoing", "object")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def feed(self, data: bytes) -> None:
        """Octets from the socket."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def shake_hands(self) -> bool:
        """Go on with the handshake; True once it is complete. Raises ssl.SSLError."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self) -> bytes:
        """Plain octets that are complete. b"" may mean that there are none yet. Raises ssl.SSLError."""
        parts = []
        try:
            while part := self.object.read(READ_BYTES_MAX):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return b"".join(parts)
        return b"".join(parts)

    def encrypt(self, data: bytes) -> bytes:
        """Cipher octets of plain ones; also whatever the handshake wants to say."""
        if data:
            self.object.write(data)
        return self._outgoing.read()


class Pump:
    """Drives one connection; `run` ends when the connection has."""

    __slots__ = ("_hub", "_idle", "_machine", "_nursery", "_pending", "_resumed", "_sock", "_tls", "_writing")

    def __init__(self, hub: Hub, nursery: trio.Nursery, sock: socket.socket, machine: Machine, tls: Tls | None) -> None:
        self._hub = hub
        self._nursery = nursery
        self._sock = sock
        self._machine = machine
        self._tls = tls
        self._pending = memoryview(b"")
        self._writing = False
        self._idle: trio.Event | None = None
        self._resumed: trio.Event | None = None
        machine.transport = self

    # Reading.

    async def run(self) -> None:
        """Read and write until one side ends."""
        try:
            await self._read()
            if self._writing:
                with trio.move_on_after(5):
                    await self._wait_idle()
        except (OSError, trio.ClosedResourceError) as error:
            log.debug("connection lost: %s", error)
        except ssl.SSLError as error:
            log.info("TLS failed: %s", error)
        finally:
            self._machine.abort()
            self.close()
            self._hub.end_turn()

    async def _read(self) -> None:
        sock, machine, hub, tls = self._sock, self._machine, self._hub, self._tls
        scheduler = hub.broker.scheduler
        wait_readable, checkpoint = trio.lowlevel.wait_readable, trio.lowlevel.checkpoint
        size = READ_BYTES
        while True:
            try:
                data = sock.recv(size)
            except BlockingIOError:
                await wait_readable(sock)
                continue
            if not data:
                return
            got = len(data)
            if tls is not None:
                tls.feed(data)
                data = tls.decrypt()
                self._send_now(b"")
            if data:
                machine.receive(data)
            hub.end_turn()
            turns = hub.turns
            while machine.more or scheduler.busy:
                await checkpoint()
                if machine.more:
                    machine.proceed()
                scheduler.run_slice()
                hub.end_turn()
                turns += 1
            if machine.finished:
                return
            if machine.paused:
                await self._wait_resumed()
            if self._writing and sum(map(len, machine.out)) > OUT_BYTES_MAX:
                await self._wait_idle()
            if got < size:
                await wait_readable(sock)
            else:
                await checkpoint()
                size = min(size * 2, READ_BYTES_MAX) if hub.turns == turns else READ_BYTES

    async def _wait_resumed(self) -> None:
        """The machine takes nothing now: a login is checked elsewhere, or an alarm holds it."""
        machine = self._machine
        await self._hub.log_in(machine)
        if machine.paused:
            self._resumed = trio.Event()
            await self._resumed.wait()
        while machine.more:
            machine.proceed()
            self._hub.end_turn()
            await trio.lowlevel.checkpoint()
        self._hub.end_turn()

    def resume(self) -> None:
        """The alarm is over."""
        if self._resumed is not None:
            self._resumed.set()

    async def shake_hands(self) -> None:
        """The TLS handshake, before anything else. Raises ssl.SSLError, OSError."""
        assert self._tls is not None
        while True:
            complete = self._tls.shake_hands()
            self._send_now(self._tls.encrypt(b""), encrypted=True)
            if complete:
                return
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise ConnectionResetError("peer left during the TLS handshake")
            self._tls.feed(data)

    # Writing.

    def flush(self) -> None:
        """Send what is on `out` without waiting; called at the end of a turn, and within one when `out` grows large."""
        machine = self._machine
        if self._writing or not machine.out:
            return
        self._send_now(self._take_out())
        while machine.out and not self._writing:
            self._send_now(self._take_out())

    def _take_out(self) -> bytes:
        machine = self._machine
        out = machine.out
        if machine.out_size <= JOIN_BYTES_MAX:
            data = b"".join(out)
            out.clear()
            machine.out_size = 0
        else:
            size = count = 0
            for piece in out:
                size += len(piece)
                count += 1
                if size > JOIN_BYTES_MAX // 4:
                    break
            data = b"".join(out[:count])
            del out[:count]
            if not out:
                machine.out_size = 0
        return data

    def _send_now(self, data: bytes, encrypted: bool = False) -> None:
        if self._tls is not None and not encrypted:
            data = self._tls.encrypt(data)
        if not data:
            return
        if self._writing:
            self._pending = memoryview(bytes(self._pending) + data)
            return
        self._machine.sent_octets += len(data)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            # The reader finds the same error and ends the connection.
            log.debug("send failed: %s", error)
            self._machine.out.clear()
            return
        if sent < len(data):
            self._pending = memoryview(data)[sent:]
            self._writing = True
            self._machine.congested = True
            self._nursery.start_soon(self._drain)

    async def _drain(self) -> None:
        """Write the rest; runs only while the socket is full."""
        machine = self._machine
        try:
            while True:
                await trio.lowlevel.wait_writable(self._sock)
                try:
                    sent = self._sock.send(self._pending)
                except BlockingIOError:
                    continue
                self._pending = self._pending[sent:]
                if not self._pending:
                    if not machine.out:
                        break
                    data = self._take_out()
                    if self._tls is not None:
                        data = self._tls.encrypt(data)
                    machine.sent_octets += len(data)
                    self._pending = memoryview(data)
        except (OSError, trio.ClosedResourceError) as error:
            log.debug("connection lost while writing: %s", error)
            self._pending = memoryview(b"")
            machine.out.clear()
            self.close()
        finally:
            self._writing = False
            if self._idle is not None:
                self._idle.set()
                self._idle = None
        machine.drained()
        self._hub.end_turn()

    async def _wait_idle(self) -> None:
        if self._idle is None:
            self._idle = trio.Event()
        await self._idle.wait()

    def close(self) -> None:
        """Close the socket; whoever waits on it wakes up."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

"""Hot path. The pump of machines that move much: large requests are received where they stay, files sent from where
they lie.

Budget: 150 µs per MB received, 150 µs per MB sent from the page cache, beside what every pump costs; held by
`jackalope bench kafka` (rows produce..., fetch...). What is on its way out is a queue of pieces: octets go out many in
one call, without being joined, a `FileRange` by sendfile. Over TLS all of it has to be octets, as for any other pump.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from broker.log.disk import FileRange
from broker.server.poller import Poller
from broker.server.pump import Pump
from broker.server.tls import Tls

if TYPE_CHECKING:
    from broker.server.machine import BulkMachine, Home

log = logging.getLogger("jackalope.server")

PIECES_MAX = 64
"""Of one call; the kernel takes 1,024."""
TLS_BYTES_MAX = 1 << 20
"""Enciphered in one go, from one answer or many."""
SENT_BYTES_MAX = 4 << 20
"""Of one connection in one go: what is left goes when epoll says that there is room, which others do not wait for."""


class BulkPump(Pump):
    """See the module."""

    __slots__ = ("_pieces", "_unsent")

    machine: BulkMachine

    def __init__(self, home: Home, poller: Poller, sock: socket.socket, machine: BulkMachine, tls: Tls | None) -> None:
        super().__init__(home, poller, sock, machine, tls)
        self._pieces: deque[memoryview | FileRange] = deque()
        self._unsent = 0

    # Reading.

    def step(self, alone: bool) -> None:
        """One turn; the octets of a large request go where it says."""
        target = self.machine.buffer.target
        if target is None or self.lingering or self.tls is not None or self.machine.paused or not self.listening:
            super().step(alone)
            return
        count = self._read(self.sock.recv_into, target)
        if not count:
            return
        more = count == len(target)
        self.machine.received(count)
        self._go_on(more or self.machine.more)

    # Writing.

    @property
    def pending_bytes(self) -> int:
        """Octets that the socket has not taken."""
        return self._unsent or super().pending_bytes

    def flush(self) -> None:
        """Send what is in the outbox without waiting."""
        machine = self.machine
        if self.lingering:
            machine.outbox.parts.clear()
            return
        if self.tls is not None:
            super().flush()
            return
        if not self._pieces:
            self._write()
        if machine.finished:
            self._finish()
        elif not self.listening and not self._pieces and not machine.paused:
            self.resume()  # It took nothing because too much was unsent.

    def _take_out(self) -> bytes:
        """The next octets for TLS: of files no more is read than what is sent in one go."""
        machine = self.machine
        out = machine.outbox.parts
        some: list[bytes | memoryview] = []
        size = in_memory = count = 0
        try:
            for one in out:
                room = TLS_BYTES_MAX - size
                if room <= 0:
                    break
                if not isinstance(one, FileRange):
                    in_memory += len(one)
                    some.append(one)
                elif len(one) <= room:
                    some.append(one.read())
                else:
                    some.append(one.first(room).read())
                    out[count] = one.behind(room)
                    size += room
                    break
                size += len(one)
                count += 1
        except OSError as error:
            self._log_unreadable(error)
            self.close()
            return b""
        del out[:count]
        machine.outbox.size -= size
        machine.wrote(size, in_memory)
        return b"".join(some)

    def drain(self) -> None:
        """The socket takes octets again."""
        if self.tls is not None or self.lingering:
            super().drain()
            return
        self._write()
        if not self._pieces and not self.closed:
            if self.machine.finished:
                self._finish()
                return
            self._watch()
            self.machine.drained()
            if self.machine.more:
                self._poller.add_bulk(self)

    def _write(self) -> None:
        """Send until the socket takes no more, or it was enough for now."""
        machine, pieces = self.machine, self._pieces
        outbox = machine.outbox
        room = SENT_BYTES_MAX
        try:
            while not self.closed:
                if not pieces:
                    if not outbox.parts:
                        break
                    pieces.extend(
                        one if isinstance(one, FileRange) else memoryview(one) for one in outbox.parts if len(one)
                    )
                    self._unsent = outbox.size
                    outbox.parts.clear()
                    outbox.size = 0
                if room <= 0:
                    break  # Behind the taking: epoll is asked for room because of `pieces`, not of the outbox.
                first = pieces[0]
                sent = first.send_to(self.fd) if isinstance(first, FileRange) else self._send_octets()
                self._took(sent)
                room -= sent
        except BlockingIOError:
            room = 0  # Until epoll says that it takes more.
        except OSError as error:
            if isinstance(pieces[0], FileRange) and error.errno == errno.EIO:
                self._log_unreadable(error)
                self._shut()  # The socket is well, and would go on behind half an answer.
            log.debug("connection lost while writing: %s", error)
            outbox.parts.clear()
            pieces.clear()
            self._unsent = 0
            self._poller.add_bulk(self)  # Its next read finds the same error and ends it, outside of this turn.
            return
        outbox.congested = self._unsent > self._limits.out_buffer_bytes_max
        if pieces:
            self._watch()

    def _log_unreadable(self, error: OSError) -> None:
        text = "connection ended, what it was to be sent cannot be read: %s"
        self._home.log_lines.error(log, text, error)

    def _shut(self) -> None:
        """Nothing goes either way any more: the next read finds the end."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("connection lost: %s", error)

    def _send_octets(self) -> int:
        """What comes before the next file, in one call; held back for it, so that they share a packet."""
        some: list[memoryview] = []
        flags = 0
        for one in islice(self._pieces, PIECES_MAX):
            if isinstance(one, FileRange):
                flags = socket.MSG_MORE
                break
            some.append(one)
        return self.sock.sendmsg(some, (), flags)

    def _took(self, count: int) -> None:
        """The socket took so many octets of the pieces in front."""
        self.machine.sent_octets += count
        self._unsent -= count
        self.progress_ms = self._home.now_ms
        pieces = self._pieces
        in_memory, left = 0, count
        while left:
            first = pieces[0]
            size = len(first)
            is_file = isinstance(first, FileRange)
            if size > left:
                pieces[0] = first.behind(left) if isinstance(first, FileRange) else first[left:]
                size = left
            else:
                pieces.popleft()
            if not is_file:
                in_memory += size
            left -= size
        self.machine.wrote(count, in_memory)

    def _finish(self) -> None:
        """The machine is done: write what is left, then end."""
        if not self._pieces:
            super()._finish()

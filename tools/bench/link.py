"""A blocking AMQP connection with just what a load process needs before its load begins.

Owns: connect, handshake, and synchronous calls (declare, bind, consume, ...). After that the process works on `socket`
itself. Must not know: scenarios and counters.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.bench import frames

RECEIVE_TIMEOUT_S = 0.2
CALL_TIMEOUT_S = 20.0
HANDSHAKE_BATCH = 50
CLIENT_PROPERTIES = {
    "product": "jackalope-bench",
    "capabilities": {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True,
                     "consumer_cancel_notify": True, "authentication_failure_close": True},
}  # fmt: skip


class PeerClosed(ConnectionError):
    """The broker closed the connection or the channel; the message has its reply code and text."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and as whom a load process connects. `ca_file` set means TLS; `congestion` "" means the default."""

    host: str
    port: int
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    ca_file: str = ""
    congestion: str = ""


class Link:
    """One connection with channel 1 open. Raises OSError and PeerClosed from every call."""

    def __init__(self, target: Target) -> None:
        """Connect and send the protocol header; `handshake` and `finish` do the rest (`open_link` does all)."""
        self.target = target
        raw = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.congestion:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, target.congestion.encode())
            raw.settimeout(CALL_TIMEOUT_S)
            raw.connect((target.host, target.port))
            self.socket: socket.socket = raw
            if target.ca_file:
                context = ssl.create_default_context(cafile=target.ca_file)
                self.socket = context.wrap_socket(raw, server_hostname=target.host)
            self.socket.sendall(frames.PROTOCOL_HEADER)
        except BaseException:
            raw.close()
            raise
        self.frame_bytes_max = 131072
        self._received = b""

    def handshake(self) -> None:
        """Answer connection.start."""
        self._expect(10, 10)
        response = f"\0{self.target.user}\0{self.target.password}"
        arguments = frames.table(CLIENT_PROPERTIES) + frames.shortstr("PLAIN") + frames.longstr(response)
        self.socket.sendall(frames.method(0, 10, 11, arguments + frames.shortstr("en_US")))

    def tune(self) -> None:
        """Accept connection.tune without heartbeats and open the vhost."""
        channel_max, self.frame_bytes_max, _ = struct.unpack(">HIH", self._expect(10, 30))
        self.frame_bytes_max = self.frame_bytes_max or 131072
        tune_ok = frames.method(0, 10, 31, struct.pack(">HIH", channel_max, self.frame_bytes_max, 0))
        self.socket.sendall(tune_ok + frames.method(0, 10, 40, frames.shortstr(self.target.vhost) + b"\0\0"))

    def finish(self) -> None:
        """Wait for open-ok and open channel 1."""
        self._expect(10, 41)
        self.call(20, 10, b"\0", 20, 11)

    def call(self, class_id: int, method_id: int, arguments: bytes, answer_class: int, answer_method: int,
             channel: int = 1) -> bytes:  # fmt: skip
        """Send a method and return the arguments of the answer."""
        self.socket.sendall(frames.method(channel, class_id, method_id, arguments))
        return self._expect(answer_class, answer_method)

    def declare_queue(
        self, name: str, *, exclusive: bool = False, durable: bool = False, arguments: dict[str, Any] | None = None
    ) -> str:
        """A queue, transient unless `durable`; returns its name."""
        bits = bytes((durable * 2 + exclusive * 4,))
        packed = b"\0\0" + frames.shortstr(name) + bits + frames.table(arguments or {})
        answer = self.call(50, 10, packed, 50, 11)
        return answer[1 : 1 + answer[0]].decode()

    def declare_exchange(self, name: str, kind: str) -> None:
        """A transient exchange."""
        self.call(40, 10, b"\0\0" + frames.shortstr(name) + frames.shortstr(kind) + b"\0" + frames.table({}), 40, 11)

    def bind_queue(self, queue: str, exchange: str, routing_key: str) -> None:
        """A binding without arguments."""
        names = frames.shortstr(queue) + frames.shortstr(exchange) + frames.shortstr(routing_key)
        self.call(50, 20, b"\0\0" + names + b"\0" + frames.table({}), 50, 21)

    def delete_queue(self, name: str) -> None:
        """Whether or not it is empty or used."""
        self.call(50, 40, b"\0\0" + frames.shortstr(name) + b"\0", 50, 41)

    def delete_exchange(self, name: str) -> None:
        """Whether or not it is used."""
        self.call(40, 20, b"\0\0" + frames.shortstr(name) + b"\0", 40, 21)

    def qos(self, prefetch: int) -> None:
        """Prefetch count of the consumers to come."""
        self.call(60, 10, struct.pack(">IHB", 0, prefetch, 0), 60, 11)

    def confirm_select(self) -> None:
        """Put channel 1 into confirm mode."""
        self.call(85, 10, b"\0", 85, 11)

    def consume(self, queue: str, consumer_tag: str, *, auto_ack: bool) -> bytes:
        """Subscribe, and return what was received behind consume-ok (the beginning of the first deliveries)."""
        names = frames.shortstr(queue) + frames.shortstr(consumer_tag)
        self.call(60, 20, b"\0\0" + names + (b"\x02" if auto_ack else b"\x00") + frames.table({}), 60, 21)
        received, self._received = self._received, b""
        return received

    def hand_over(self) -> socket.socket:
        """The socket for the load loop: blocking, with a kernel receive timeout of 0.2 s (`receive_into`)."""
        if self.target.ca_file:
            self.socket.settimeout(RECEIVE_TIMEOUT_S)
            return self.socket
        self.socket.settimeout(None)
        seconds, rest_s = divmod(RECEIVE_TIMEOUT_S, 1)
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest_s * 1_000_000))
        )
        return self.socket

    def close(self) -> None:
        """Drop the connection without closing it in the protocol: the load has left frames in flight."""
        self.socket.close()

    def close_politely(self) -> None:
        """connection.close, waiting for the answer as long as the peer sends something else."""
        try:
            arguments = struct.pack(">H", 200) + frames.shortstr("") + struct.pack(">HH", 0, 0)
            self.call(10, 50, arguments, 10, 51, channel=0)
        finally:
            self.socket.close()

    def _expect(self, class_id: int, method_id: int) -> bytes:
        """The arguments of the next method frame, which must be this one (connection.blocked and such are skipped)."""
        while True:
            kind, channel, payload = self._read_frame()
            got = struct.unpack_from(">HH", payload) if kind == frames.FRAME_METHOD else (0, 0)
            if got == (class_id, method_id):
                return payload[4:]
            if got in ((10, 50), (20, 40)):
                code, size = struct.unpack_from(">HB", payload, 4)
                text = payload[7 : 7 + size].decode(errors="replace")
                raise PeerClosed(f"the broker closed {'channel' if channel else 'connection'}: {code} {text}")
            if channel != 0:
                raise frames.StreamError(f"expected method {class_id}.{method_id}, got {got} on channel {channel}")

    def _read_frame(self) -> tuple[int, int, bytes]:
        head = self._read(7)
        kind, channel, size = struct.unpack(">BHI", head)
        if size > self.frame_bytes_max:
            raise frames.StreamError(f"a frame of {size} bytes: {head!r}")
        payload = self._read(size + 1)
        if payload[-1] != frames.FRAME_END:
            raise frames.StreamError(f"no frame end after {head!r}")
        return kind, channel, payload[:-1]

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            data = self.socket.recv(65536)
            if not data:
                raise PeerClosed("the broker dropped the connection")
            self._received += data
        taken, self._received = self._received[:size], self._received[size:]
        return taken


def receive_into(connection: socket.socket, buffer: memoryview) -> int:
    """recv_into that returns 0 after 0.2 s without data. Raises PeerClosed at the end of the stream."""
    try:
        size = connection.recv_into(buffer)
    except (BlockingIOError, TimeoutError):
        return 0
    if size == 0:
        raise PeerClosed("the broker dropped the connection")
    return size


def open_link(target: Target) -> Link:
    """A connection with channel 1 open."""
    link = Link(target)
    try:
        link.handshake()
        link.tune()
        link.finish()
    except BaseException:
        link.close()
        raise
    return link


@contextlib.contextmanager
def open_links(target: Target, count: int) -> Iterator[list[Link]]:
    """`count` connections, opened in step (50 at a time) so that the broker works on them together."""
    links: list[Link] = []
    try:
        while len(links) < count:
            batch: list[Link] = []
            for _ in range(min(HANDSHAKE_BATCH, count - len(links))):
                batch.append(Link(target))
                links.append(batch[-1])
            for step in (Link.handshake, Link.tune, Link.finish):
                for link in batch:
                    step(link)
        yield links
    finally:
        for link in links:
            link.close()

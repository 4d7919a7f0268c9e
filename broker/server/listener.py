"""Accepting AMQP connections: limits first, TLS where asked for, then a pump for each.

A bug met by one connection is logged and ends that connection, never the broker.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections import Counter
from dataclasses import dataclass

import trio

from broker.errors import ConfigError
from broker.server.amqp.connection import Connection
from broker.server.amqp.settings import AmqpSettings
from broker.server.amqp.state import State
from broker.server.hub import Hub
from broker.server.pump import Pump, Tls

log = logging.getLogger("jackalope.server")

BACKLOG = 1024
_OUT_OF_HANDLES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """How many sockets may be open, in all and before their login, in all and from one host."""

    connections_max: int = 20_000
    unauthenticated_max: int = 2_000
    unauthenticated_per_host_max: int = 1_000


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError with a sentence that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {shown_address(host, port)}: {error.strerror}") from None
    return sock


def shown_address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def external_name(tls: ssl.SSLObject) -> str | None:
    """The common name of a verified client certificate, for SASL EXTERNAL."""
    certificate = tls.getpeercert()
    if not certificate:
        return None
    for relative in certificate.get("subject", ()):
        for entry in relative:
            if entry[0] == "commonName":
                return str(entry[1])
    return None


class Listener:
    """Accepts on one socket until cancelled."""

    __slots__ = ("_context", "_hub", "_limits", "_nursery", "_settings", "_sock", "_waiting", "refused_count")

    def __init__(
        self,
        hub: Hub,
        nursery: trio.Nursery,
        sock: socket.socket,
        settings: AmqpSettings,
        limits: AcceptLimits,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hub = hub
        self._nursery = nursery
        self._sock = sock
        self._settings = settings
        self._limits = limits
        self._context = context
        self._waiting: Counter[str] = Counter()
        self.refused_count = 0

    async def run(self) -> None:
        """Accept for ever; out of handles it waits for some to come back."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                while True:
                    sock, peer = self._sock.accept()
                    self._admit(sock, peer)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _OUT_OF_HANDLES:
                    log.warning("accept failed: %s", error)
                    continue
                log.error("out of handles: %s", error)
                await trio.sleep(0.1)

    def _admit(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        limits = self._limits
        waiting = (
            sum(connection.state is not State.RUNNING for connection in self._hub.connections)
            if (len(self._hub.connections) >= limits.unauthenticated_max)
            else 0
        )
        if (
            len(self._hub.connections) >= limits.connections_max
            or waiting >= limits.unauthenticated_max
            or self._waiting[peer[0]] >= limits.unauthenticated_per_host_max
        ):
            self.refused_count += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._nursery.start_soon(self._serve, sock, peer)

    async def _serve(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        hub = self._hub
        tls = Tls(self._context) if self._context is not None else None
        connection = Connection(hub, self._settings, (peer[0], peer[1]))
        pump = Pump(hub, self._nursery, sock, connection, tls)
        hub.connections.add(connection)
        try:
            if tls is not None:
                with trio.fail_after(10):
                    await pump.shake_hands()
                connection.external_name = external_name(tls.object)
                connection.tls = True
            await pump.run()
        except (OSError, trio.TooSlowError) as error:
            log.info("connection failed: peer=%s:%s %s", *peer[:2], error)
        except Exception:  # noqa: BLE001 - a bug that one peer met must not end the others
            log.exception("connection ended by a bug: peer=%s:%s", *peer[:2])
        finally:
            connection.abort()
            pump.close()
            hub.connections.discard(connection)
            hub.blocked.discard(connection)

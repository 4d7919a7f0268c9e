"""Accepting connections: limits first, then a pump for each, with TLS where asked for."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from broker.errors import ConfigError
from broker.server.log_lines import LogLines
from broker.server.tls import Tls

log = logging.getLogger("jackalope.server")

BACKLOG = 1024
SAME_PORT_TRIES = 20
_BOTH = {"::": ("::", "0.0.0.0"), "localhost": ("127.0.0.1", "::1")}
_EVERY_IPV6 = ("::", "::1")
"""What there is wherever there is IPv6."""
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
_OUT_OF_HANDLES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def bound_hosts(host: str) -> Sequence[str]:
    """What sockets for a host of the configuration are bound to: addresses, of a name's as many as it has."""
    return [
        str(found[4][0])
        for name in _BOTH.get(host, (host,))
        for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    ]


def open_listeners(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Listening sockets for (host, port) each. Raises ConfigError with a sentence that names the address.

    `::` and `localhost` are both families, with sockets of their own: so nobody's address is one of the other family
    in disguise. Port 0 is the same port everywhere. Where IPv6 cannot be had, it is left out if anything else is there.
    """
    wanted = list(dict.fromkeys((host, port) for name, port in addresses for host in _BOTH.get(name, (name,))))
    for tries_left in range(SAME_PORT_TRIES, -1, -1):
        sockets: list[socket.socket] = []
        try:
            _open_all(wanted, sockets)
        except _PortTaken as taken:
            for sock in sockets:
                sock.close()
            if not tries_left:
                raise ConfigError(str(taken)) from None
        except ConfigError:
            for sock in sockets:
                sock.close()
            raise
        else:
            return sockets
    raise AssertionError


def _open_all(wanted: Sequence[tuple[str, int]], sockets: list[socket.socket]) -> None:
    """Fill `sockets`. Raises ConfigError; _PortTaken when another free port may do."""
    chosen, left_out = 0, None
    for host, port in wanted:
        try:
            sock = _open(host, port or chosen)
        except OSError as error:
            text = f"cannot listen on {shown_address(host, port or chosen)}: {error.strerror}"
            if host in _EVERY_IPV6 and error.errno in _NO_IPV6:
                left_out = left_out or text
                continue
            raise (_PortTaken if chosen and not port and error.errno == errno.EADDRINUSE else ConfigError)(
                text
            ) from None
        sockets.append(sock)
        chosen = chosen or (0 if port else sock.getsockname()[1])
    if left_out is not None:
        if not sockets:
            raise ConfigError(left_out)
        log.info("no IPv6: %s", left_out)


class _PortTaken(ConfigError):
    """The port that was free in one family is not in the other."""


def _open(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def shown_address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class TlsListening:
    """A listener's TLS, and which name of a client certificate is the user under EXTERNAL."""

    context: ssl.SSLContext
    login_from: str


ACCEPTS_MAX = 16
"""In one go: what was accepted is to be read before a flood behind it turns it out as half open."""

Admit = Callable[[socket.socket, tuple[str, int], Tls | None], bool]
"""Makes a connection of an accepted socket; False when it is not wanted and to be closed."""


class Listener:
    """Accepts on one socket until cancelled."""

    __slots__ = ("_admit", "_log_lines", "_sock", "_tls", "refused_count")

    def __init__(self, sock: socket.socket, admit: Admit, log_lines: LogLines, tls: TlsListening | None = None) -> None:
        self._sock = sock
        self._admit = admit
        self._log_lines = log_lines
        self._tls = tls
        self.refused_count = 0

    async def run(self) -> None:
        """Accept for ever; out of handles it waits for some to come back."""
        while True:
            await trio.lowlevel.wait_readable(self._sock.fileno())
            try:
                for _ in range(ACCEPTS_MAX):
                    sock, peer = self._sock.accept()
                    self._welcome(sock, (peer[0], peer[1]))
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _OUT_OF_HANDLES:
                    self._log_lines.warning(log, "accept failed: %s", error)
                    continue
                self._log_lines.error(log, "out of handles: %s", error)
                await trio.sleep(0.1)

    def _welcome(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = Tls(self._tls.context, self._tls.login_from) if self._tls is not None else None
        if not self._admit(sock, peer, tls):
            self.refused_count += 1
            sock.close()

"""TLS of one connection over memory buffers, so that sending stays non-blocking and in order.

Same shape as the connection machines: octets in, octets out, no IO.
"""

from __future__ import annotations

import ssl
from typing import Any

READ_BYTES = 131_072


class Tls:
    """One server-side TLS session."""

    __slots__ = ("_incoming", "_login_from", "_object", "_outgoing", "ended", "established")

    def __init__(self, context: ssl.SSLContext, login_from: str = "common_name") -> None:
        self._login_from = login_from
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.ended = False
        """The peer has said that nothing more comes. Some wait for the answer before they close (asyncio: 30 s)."""

    def receive(self, data: bytes) -> bytes:
        """Cipher octets in, complete plain octets out. Call `data_to_send` afterwards. Raises ssl.SSLError."""
        self._incoming.write(data)
        parts = []
        try:
            if not self.established:
                self._object.do_handshake()
                self.established = True
            while part := self._object.read(READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            self.ended = False
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(parts)

    def end(self) -> bytes:
        """What to send to a peer that has ended, or that is to hear that we have."""
        try:
            self._object.unwrap()
        except ssl.SSLWantReadError:
            pass  # Until the peer has ended as well, which is not waited for.
        except ssl.SSLError:
            return b""  # It has sent more after all, or nothing yet.
        return self._outgoing.read()

    def send(self, data: bytes) -> bytes:
        """Plain octets in, everything that is to be sent out."""
        self._object.write(data)
        return self._outgoing.read()

    def data_to_send(self) -> bytes:
        """What the session itself has to say: handshake, alerts, new keys."""
        return self._outgoing.read()

    def peer_name(self) -> str | None:
        """The name in a verified client certificate that SASL EXTERNAL takes for the user; None without one.

        `login_from` says which: the subject's common name, or the first DNS name among the alternative names.
        """
        certificate: dict[str, Any] = dict(self._object.getpeercert() or {})
        if self._login_from == "subject_alternative_name":
            names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        else:
            names = [
                value for relative in certificate.get("subject", ()) for kind, value in relative if kind == "commonName"
            ]
        return str(names[0]) if names else None

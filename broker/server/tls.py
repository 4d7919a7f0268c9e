"""TLS of one connection over memory buffers, so that sending stays non-blocking and in order.

Same shape as the connection machines: octets in, octets out, no IO.
"""

from __future__ import annotations

import ssl

READ_BYTES = 131_072


class Tls:
    """One server-side TLS session."""

    __slots__ = ("_incoming", "_object", "_outgoing", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False

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
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return b"".join(parts)
        return b"".join(parts)

    def send(self, data: bytes) -> bytes:
        """Plain octets in, everything that is to be sent out."""
        self._object.write(data)
        return self._outgoing.read()

    def data_to_send(self) -> bytes:
        """What the session itself has to say: handshake, alerts, new keys."""
        return self._outgoing.read()

    def peer_name(self) -> str | None:
        """The common name of a verified client certificate, for SASL EXTERNAL."""
        certificate = self._object.getpeercert()
        for relative in (certificate or {}).get("subject", ()):
            for entry in relative:
                if entry[0] == "commonName":
                    return str(entry[1])
        return None

"""Errors of the broker itself; the type says who is to blame.

`protocol.amqp.errors.PeerError` is the peer's fault on the wire. `Refused` is a policy's or precondition's "no" to a
well-formed request: the faces turn it into their protocol's error. `ConfigError` is the operator's.
"""

from __future__ import annotations


class Refused(Exception):
    """A request that the broker understands and declines.

    `reply_code` is an AMQP reply code (403 access refused, 404 not found, 405 resource locked, 406 precondition
    failed; 5xx where RabbitMQ closes the connection); `text` completes AMQP's reply-text.
    """

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(reply_code, text)
        self.reply_code = reply_code
        self.text = text


class ConfigError(Exception):
    """The configuration cannot be used; the message is complete: file, line, what, and the nearest valid name."""

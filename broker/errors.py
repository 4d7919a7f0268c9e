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


class AccessRefused(Refused):
    """403: a name that is the broker's own."""

    def __init__(self, text: str) -> None:
        super().__init__(403, text)


class NotFound(Refused):
    """404: there is nothing of this name."""

    def __init__(self, text: str) -> None:
        super().__init__(404, text)


class Locked(Refused):
    """405: somebody else has it, or its name is not free yet."""

    def __init__(self, text: str) -> None:
        super().__init__(405, text)


class PreconditionFailed(Refused):
    """406: it is not as the request says, or cannot be."""

    def __init__(self, text: str) -> None:
        super().__init__(406, text)


class NotAllowed(Refused):
    """530: nothing of this kind can do that."""

    def __init__(self, text: str) -> None:
        super().__init__(530, text)


class ConfigError(Exception):
    """The configuration cannot be used; the message is complete: file, line, what, and the nearest valid name."""

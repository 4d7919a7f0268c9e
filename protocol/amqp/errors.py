"""Who broke what, in AMQP's own reply codes (spec section 1.2 "Constants").

`PeerError` is the one exception the codecs raise: the peer sent something that the protocol does not allow. The
reply code alone says whether a channel or the whole connection has to be closed, see `is_hard`.
"""

from __future__ import annotations

REPLY_SUCCESS = 200
CONTENT_TOO_LARGE = 311
NO_ROUTE = 312
NO_CONSUMERS = 313
CONNECTION_FORCED = 320
ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
FRAME_ERROR = 501
SYNTAX_ERROR = 502
COMMAND_INVALID = 503
CHANNEL_ERROR = 504
UNEXPECTED_FRAME = 505
RESOURCE_ERROR = 506
NOT_ALLOWED = 530
NOT_IMPLEMENTED = 540
INTERNAL_ERROR = 541

REPLY_NAMES: dict[int, str] = {
    value: name for name, value in list(globals().items()) if isinstance(value, int) and not name.startswith("_")
}

_SOFT = frozenset({CONTENT_TOO_LARGE, NO_ROUTE, NO_CONSUMERS, ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED,
                   PRECONDITION_FAILED})  # fmt: skip


def is_hard(reply_code: int) -> bool:
    """True when the code closes the connection, False when it closes only the channel (spec 1.2)."""
    return reply_code not in _SOFT


class PeerError(Exception):
    """The peer broke the protocol.

    `reply_code` is one of the constants above, `text` is what follows the code's name in reply-text, `class_id` and
    `method_id` name the culprit (0, 0 when no method is to blame). `hard` overrides what the code implies: 403 closes
    the connection while the peer logs in, and a channel afterwards.
    """

    def __init__(
        self, reply_code: int, text: str = "", class_id: int = 0, method_id: int = 0, hard: bool | None = None
    ) -> None:
        super().__init__(reply_code, text)
        self.reply_code = reply_code
        self.text = text
        self.class_id = class_id
        self.method_id = method_id
        self.hard = is_hard(reply_code) if hard is None else hard

    @property
    def reply_text(self) -> str:
        """`NAME - text`, or the bare name, as RabbitMQ writes it."""
        name = REPLY_NAMES[self.reply_code]
        return f"{name} - {self.text}" if self.text else name

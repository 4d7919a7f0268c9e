"""What the log's face answers when it declines: a Kafka error code and a sentence."""

from __future__ import annotations

from protocol.kafka.errors import ErrorCode


class TopicRefused(Exception):
    """A well-formed request about topics that is declined; `code` goes on the wire, `text` where there is room."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class RecordsRefused(TopicRefused):
    """A batch of which some records are not taken: it is for who has them to find out which (KIP-467)."""

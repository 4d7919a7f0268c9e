"""Messages that are looked at where they lie, without being taken: what is seen of a queue, or of a topic."""

from __future__ import annotations

from typing import NamedTuple

from broker.core.message import Message

READY, UNACKNOWLEDGED = "ready", "unacknowledged"
RETRYING, DYING = "retrying", "dying"
"""A retrying message waits for its next try, a dying one until all dead letter queues have taken it."""


class Seen(NamedTuple):
    """One message as it was found."""

    offset: int
    state: str
    message: Message

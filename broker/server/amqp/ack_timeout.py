"""Consumers that do not acknowledge in time (RabbitMQ's consumer_timeout; here off unless asked for).

A consumer asks with the argument `x-consumer-timeout` (milliseconds), a queue with an argument or policy of that name;
the lower counts. Past it the channel is closed with 406, so that its deliveries go to others. Nothing is kept per
delivery: now and then a channel notes which tag comes next, and a tag below an old enough note has waited long enough.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from broker.core.arguments import type_name
from broker.core.queues.dispatch import Lender
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.delivery import Consumer

ARGUMENT = "x-consumer-timeout"
NOTES_MAX = 100
"""Per channel: a timeout is as precise as a hundredth of itself, or a sweep of the ticker."""


def timeout_of(queue: Lender, arguments: dict[str, Any]) -> int:
    """The timeout of a consumer with these arguments in ms, 0 for none. Raises Refused 406."""
    own = arguments.get(ARGUMENT)
    if own is not None and (isinstance(own, bool) or not isinstance(own, int) or own < 0):
        wrong = f'"expected non-negative integer, got {type_name(own)}"'
        place = f"for queue '{queue.name}' in vhost '{queue.vhost}'"
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{ARGUMENT}' {place}: {wrong}")
    asked = [value for value in (own, queue.rules.consumer_timeout_ms) if value]
    return min(asked, default=0)


class AckWatch:
    """The notes of one channel: (when, which tag came next), oldest first."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: deque[tuple[int, int]] = deque()

    def overdue(self, channel: Channel, now_ms: int) -> Consumer | None:
        """A consumer of the channel that has kept a delivery for too long."""
        timed = [consumer for consumer in channel.consumers.values() if consumer.timeout_ms]
        if not timed:
            self._notes.clear()
            return None
        longest_ms = max(consumer.timeout_ms for consumer in timed)
        notes = self._notes
        if not notes or now_ms - notes[-1][0] >= longest_ms // NOTES_MAX:
            notes.append((now_ms, channel.next_tag))
        while len(notes) > 1 and notes[1][0] <= now_ms - longest_ms:
            notes.popleft()
        for consumer in timed:
            bound = max((tag for at, tag in notes if at <= now_ms - consumer.timeout_ms), default=0)
            for tag, lease in channel.unacked.items():
                if tag >= bound:
                    break
                if lease[0] is consumer:
                    return consumer
        return None


def close_overdue(channel: Channel, now_ms: int) -> None:
    """Close the channel if one of its consumers is overdue."""
    consumer = channel.ack_watch.overdue(channel, now_ms)
    if consumer is not None:
        text = (
            f"PRECONDITION_FAILED - delivery acknowledgement on channel {channel.number} timed out. "
            f"Timeout value used: {consumer.timeout_ms} ms. This timeout value can be configured per queue and consumer"
        )
        channel.fail(text, PRECONDITION_FAILED, 0, 0)

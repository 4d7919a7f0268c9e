"""Direct reply-to (RabbitMQ): a consumer on `amq.rabbitmq.reply-to` gets replies without any queue in between.

Each such consumer has an unguessable address; a publish to the default exchange with that address as its routing key
goes to the consumer at once, or nowhere when it is gone. `ReplySink` stands where a queue would stand in a route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.core.message import Message
from broker.server.amqp.delivery import Consumer
from broker.server.properties import REPLY_TO_NAME

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel


class ReplySink:
    """The pseudo queue of one reply consumer. Replies that find the connection congested are dropped, as on RabbitMQ
    when the requester is gone: nobody promised to keep them."""

    __slots__ = ("consumer", "dropped_count", "name")

    def __init__(self, channel: Channel, tag: str, token: str, arguments: Mapping[str, Any]) -> None:
        self.name = f"{REPLY_TO_NAME}.{token}"
        self.dropped_count = 0
        self.consumer = Consumer(
            channel,
            self,  # type: ignore[arg-type]  # It never leases, so only `name` and `wake` are asked for.
            tag,
            no_ack=True,
            exclusive=False,
            priority=0,
            prefetch=0,
            arguments=arguments,
        )

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Deliver at once; a full channel-wide prefetch does not hold it (RabbitMQ: no limiter is asked)."""
        if not self.consumer.channel.connection.outbox.congested:
            self.consumer.deliver(messages, ())
        else:
            self.dropped_count += len(messages)

    def enqueue_alone(self, message: Message) -> None:
        """Deliver at once."""
        self.enqueue((message,))

    rejects = False

    def accepts(self, message: Message) -> bool:
        """Whatever comes; what cannot be delivered at once is dropped."""
        del message
        return True

    def enqueue_one(self, message: Message) -> bool:
        """Deliver at once."""
        self.enqueue((message,))
        return True

    def wake(self) -> None:
        """Nothing waits here."""


def add(channel: Channel, tag: str, arguments: dict[str, Any]) -> None:
    """basic.consume on the pseudo queue."""
    connection = channel.connection
    sink = ReplySink(channel, tag, connection.hub.new_token(), arguments)
    connection.face.reply_sinks[sink.name] = sink
    channel.reply_consumer = sink.consumer


def address_of(channel: Channel) -> str | None:
    """The address of the channel's reply consumer, None if it has none."""
    consumer = channel.reply_consumer
    return consumer.queue.name if consumer is not None else None


def forget(channel: Channel) -> None:
    """The channel's reply consumer goes, and routes that lead to it."""
    if channel.reply_consumer is not None:
        channel.connection.face.reply_sinks.pop(channel.reply_consumer.queue.name, None)
        channel.reply_consumer = None
        channel.connection.vhost.epoch += 1

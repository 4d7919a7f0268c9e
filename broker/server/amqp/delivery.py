"""Hot path. Consumers of one channel: how many messages they would take, and basic.deliver frames.

Budget: 0.3 µs per message delivered in a run from one route, 0.7 µs singly; held by `jackalope bench amqp` (rows
autoack, multiack, ack1). A delivery is four pieces in the connection's outbox: a prefix (frame head, class, method,
consumer tag) cached by length, the delivery tag, the message's origin as it is stored, and the content as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from operator import is_
from typing import TYPE_CHECKING, Any

from broker.core.message import Message
from broker.core.queues.lease_cursor import BATCH_MAX
from protocol.amqp import content as wire
from protocol.amqp.frames import FRAME_HEAD, METHOD, method_frame

if TYPE_CHECKING:
    from broker.core.queues.dispatch import Lender
    from broker.core.queues.queue import Queue
    from broker.server.amqp.channel import Channel

_TAG = struct.Struct(">Q")
_DELIVER = b"\x00\x3c\x00\x3c"
RUN_MIN = 4
"""From this many messages of one route on, building whole columns costs less than a loop."""
_TAG_COLUMNS: dict[int, tuple[struct.Struct, struct.Struct]] = {}
"""Length of a run -> (packer of that many tags, cutter into that many octet strings); at most BATCH_MAX entries."""


def _tag_column(first: int, count: int) -> tuple[bytes, ...]:
    structs = _TAG_COLUMNS.get(count)
    if structs is None:
        structs = _TAG_COLUMNS[count] = (struct.Struct(f">{count}Q"), struct.Struct("8s" * count))
    packer, cutter = structs
    return cutter.unpack(packer.pack(*range(first, first + count)))


def fitted(content: bytes, channel: int, frame_max: int) -> bytes:
    """The content in frames of this channel, none above `frame_max`; the same object where it fits as it is."""
    if int.from_bytes(content[1:3], "big") == channel:
        if len(content) <= frame_max:
            return content
        body_frame = 8 + int.from_bytes(content[3:7], "big")
        if int.from_bytes(content[body_frame + 3 : body_frame + 7], "big") <= frame_max - 8:
            return content
    return wire.on_channel(content, channel, frame_max)


class Consumer:
    """One basic.consume (the `core.queues.queue.Consumer` port). `prefetch` 0 means the configured cap."""

    __slots__ = (
        "_connection", "_head", "_last_length", "_last_prefix", "_number", "_outbox", "_prefixes", "arguments",
        "channel", "exclusive", "has_sibling", "in_flight", "no_ack", "prefetch", "priority", "queue", "tag",
        "timeout_ms",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        queue: Lender,
        tag: str,
        *,
        no_ack: bool,
        exclusive: bool,
        priority: int,
        prefetch: int,
        arguments: Mapping[str, Any],
        timeout_ms: int = 0,
    ) -> None:
        self.timeout_ms = timeout_ms  # For acknowledging a delivery; 0 is for ever.
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch = prefetch
        self.arguments = dict(arguments)
        self.in_flight = 0
        self.has_sibling = False  # Another consumer of this channel takes from the same queue.
        self._connection = channel.connection
        self._outbox = channel.connection.outbox
        raw = tag.encode()
        self._head = _DELIVER + bytes([len(raw)]) + raw
        self._prefixes: dict[int, bytes] = {}
        self._last_length, self._last_prefix = -1, b""
        self._number = channel.number.to_bytes(2, "big")

    @property
    def shares_capacity(self) -> bool:
        """Under basic.qos global all consumers of the channel draw on one prefetch.

        Siblings are served singly as well: what one queue sends down one channel keeps its order (spec 4.7).
        """
        return self.has_sibling or self.channel.prefetch > 0

    def capacity(self) -> int:
        """Messages it would take now: prefetch of the consumer and of the channel, and room in the connection."""
        if self._outbox.congested:
            return 0
        channel = self.channel
        if self.no_ack:
            # It waits for a full channel as well, but takes no room (RabbitMQ: rabbit_limiter.erl, can_send).
            return 0 if channel.prefetch and channel.in_flight >= channel.prefetch else BATCH_MAX
        room = self.prefetch - self.in_flight
        if channel.prefetch and channel.prefetch - channel.in_flight < room:
            return channel.prefetch - channel.in_flight
        return room

    def deliver(self, messages: Sequence[Message], offsets: Sequence[int]) -> None:
        """Write basic.deliver and content for each; remember the leases unless nothing will be acknowledged."""
        channel = self.channel
        connection = self._connection
        outbox = self._outbox
        count = len(messages)
        first = channel.next_tag
        channel.next_tag = first + count
        origin, content = messages[0]
        number = channel.number
        out = outbox.parts
        if channel.prefetch:
            channel.served(self)
        if not self.no_ack:
            self.in_flight += count
            channel.in_flight += count
            if count == 1:
                channel.unacked[first] = (self, offsets[0], messages[0])
            else:
                channel.unacked.update(
                    zip(range(first, first + count), zip(repeat(self), offsets, messages, strict=False), strict=False)
                )
        if count >= RUN_MIN:
            origins, contents = zip(*messages, strict=False)
            longest = max(map(len, contents))
            # One origin object means one number of the publisher's channel and one frame_max (`AmqpHub.shared_origin`),
            # so the first content speaks for all.
            if all(map(is_, origins, repeat(origin))) and fitted(content, number, longest) is content:
                if longest > connection.frame_max:
                    contents = tuple(fitted(content, number, connection.frame_max) for content in contents)
                pieces = zip(
                    repeat(self._prefix(len(origin))), _tag_column(first, count), repeat(origin), contents, strict=False
                )
                out.extend(chain.from_iterable(pieces))
                outbox.delivered(count * longest)
                return
        frame_max = connection.frame_max
        pack = _TAG.pack
        size = 0
        for tag, (origin, content) in enumerate(messages, first):
            out += (self._prefix(len(origin)), pack(tag), origin, fitted(content, number, frame_max))
            size += len(content)
        outbox.delivered(size)

    def deliver_one(self, message: Message, offset: int) -> bool:
        """`deliver` of one if there is capacity, which leaves it to the end of the turn to write it."""
        channel = self.channel
        outbox = self._outbox
        tag = channel.next_tag
        if outbox.congested or channel.prefetch:
            return False  # Room that is shared goes round among queues, see `Channel.wake_consumers`.
        if not self.no_ack:
            if self.in_flight >= self.prefetch:
                return False
            self.in_flight += 1
            channel.in_flight += 1
            channel.unacked[tag] = (self, offset, message)
        channel.next_tag = tag + 1
        origin, content = message
        size = len(content)
        if size > self._connection.frame_max or not content.startswith(self._number, 1):
            content = fitted(content, channel.number, self._connection.frame_max)
        if len(origin) != self._last_length:
            self._last_length, self._last_prefix = len(origin), self._prefix(len(origin))
        outbox.parts += (self._last_prefix, _TAG.pack(tag), origin, content)
        outbox.size += size
        if not outbox.touched:
            outbox.touch()
        return True

    def _prefix(self, origin_length: int) -> bytes:
        prefix = self._prefixes.get(origin_length)
        if prefix is None:
            # The origin brings the frame end with it.
            size = len(self._head) + 8 + origin_length - 1
            prefix = FRAME_HEAD.pack(METHOD, self.channel.number, size) + self._head
            self._prefixes[origin_length] = prefix
        return prefix

    def settled(self, count: int) -> None:
        """`count` of its deliveries are over: there is capacity again."""
        self.in_flight -= count
        self.channel.in_flight -= count
        if self.channel.prefetch:
            self.channel.wake_consumers()
        else:
            self.queue.wake()

    def end_one(self, offset: int) -> None:
        """One delivery is over for good."""
        queue = self.queue
        queue.settle_one(offset)
        channel = self.channel
        self.in_flight -= 1
        channel.in_flight -= 1
        if channel.prefetch:
            channel.wake_consumers()
        else:
            queue.wake()

    def cancelled(self) -> None:
        """The queue is gone: tell the client if it wants to know (RabbitMQ: consumer_cancel_notify)."""
        self.channel.forget_consumer(self.tag)
        connection = self._connection
        if connection.peer_can("consumer_cancel_notify"):
            connection.outbox.send(method_frame(self.channel.number, "basic.cancel", self.tag, True))


class GetHolder:
    """Who holds what basic.get took, per channel and queue; basic.get knows no prefetch."""

    __slots__ = ("channel", "in_flight", "queue", "tag")

    def __init__(self, channel: Channel, queue: Queue) -> None:
        self.channel = channel
        self.queue = queue
        self.in_flight = 0
        self.tag = ""

    def end_one(self, offset: int) -> None:
        """One message is over for good."""
        self.queue.settle_one(offset)
        self.settled(1)

    def settled(self, count: int) -> None:
        """`count` of its messages are over; nobody waits for that but the queue's returns."""
        self.in_flight -= count
        if not self.in_flight:
            self.channel.forget_get_holder(self.queue)

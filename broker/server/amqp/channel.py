"""One channel: its life, what it assembles, what it has leased, and the general path of publishing.

Methods come in through `on_method` (one table, `HANDLERS`, filled by the `methods_*` modules), content through
`on_header` and `on_body`. Everything regular bypasses this through `publish.publish_run` and `settle.ack_run`.

    OPEN --(server error)--> CLOSING --(close-ok)--> gone      OPEN --(peer's close)--> gone
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.core.exchange.exchange import Exchange
from broker.core.message import Incoming, Message, make_origin, origin_names
from broker.core.queues.dispatch import Lease, Lender
from broker.core.sink import Sink
from broker.core.vhosts.publishing import deliver
from broker.errors import Refused
from broker.server import properties
from broker.server.amqp import blocking, reply_to, room, settle
from broker.server.amqp.ack_timeout import AckWatch
from broker.server.amqp.delivery import Consumer, GetHolder, fitted
from broker.server.amqp.pledges import Confirms
from broker.server.amqp.publish import CARE
from broker.server.amqp.routes import find_queues, open_port, route_message
from broker.server.amqp.transaction import Publish, Transaction, is_late
from protocol.amqp import content as wire
from protocol.amqp.errors import (
    COMMAND_INVALID,
    NO_ROUTE,
    NOT_IMPLEMENTED,
    PRECONDITION_FAILED,
    RESOURCE_ERROR,
    UNEXPECTED_FRAME,
    PeerError,
)
from protocol.amqp.frames import FRAME_HEAD, METHOD, content_frames, method_frame
from protocol.amqp.methods import DECODERS, NAMES, method_number

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection
    from broker.server.amqp.routes import Route

Answer = tuple[Any, ...]
"""A method's name and its arguments."""
Handler = Callable[..., Answer | None]
HANDLERS: dict[int, Handler] = {}
"""Method number -> handler(channel, *arguments). Each `methods_*` module adds its classes with `handles`.

A handler returns its answer, which is sent when what the handler did is committed; None if there is none, or if the
handler has seen to it by itself."""

CLOSE = method_number("channel.close")
CLOSE_OK = method_number("channel.close-ok")
ASSEMBLING_MESSAGES_MAX = 4
"""How many messages of the largest size may be unfinished on one connection: else 2047 channels are 32 GiB."""


def handles(name: str) -> Callable[[Handler], Handler]:
    """Register the handler of a method."""

    def register(handler: Handler) -> Handler:
        HANDLERS[method_number(name)] = handler
        return handler

    return register


class Asked(NamedTuple):
    """What basic.publish asked for."""

    exchange: str
    routing_key: str
    mandatory: bool


class Assembly:
    """A publish whose content has not come whole; `size_left` octets of the body are missing.

    The body is kept without its frames: cut into single octets they would take many times its size.
    """

    __slots__ = ("asked", "body", "discarding", "flags", "header", "size", "size_left")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.header = b""
        self.body = bytearray()
        self.size = -1  # No header yet.
        self.size_left = 0
        self.flags = 0
        self.discarding = False  # Too large: counted, not kept.


class Channel:
    """State of one open channel of one connection."""

    __slots__ = (
        "ack_head", "ack_watch", "answered_seq", "assembly", "closing", "confirmed_seq", "confirming", "connection",
        "consumers", "get_holders", "head", "in_flight", "last_queue", "last_route", "lowest_tag",
        "next_consumer_prefetch", "next_tag", "number", "prefetch", "publish_seq", "reply_consumer", "settling_to",
        "siblings", "transaction", "unacked", "waiting",
    )  # fmt: skip

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.head = FRAME_HEAD.pack(METHOD, number, 0)[:3]
        self.ack_head = self.head + settle.ACK_TAIL
        self.closing = False
        self.assembly: Assembly | None = None
        self.last_route: Route | None = None  # Of the last regular publish.
        self.last_queue = ""  # What an empty queue name means (spec 1.7.2).
        self.consumers: dict[str, Consumer] = {}
        self.siblings: dict[Lender, dict[str, Consumer]] = {}  # The consumers of each queue, by tag.
        self.reply_consumer: Consumer | None = None
        self.prefetch = 0  # Of the whole channel (basic.qos global), 0 is none.
        self.next_consumer_prefetch = 0
        self.in_flight = 0  # Unacknowledged deliveries to consumers; basic.get does not count.
        self.next_tag = 1
        self.lowest_tag = 1
        self.ack_watch = AckWatch()
        self.settling_to = 0  # The tag that a settlement of everything, which goes in slices, has to reach.
        self.unacked: dict[int, Lease] = {}
        self.get_holders: dict[int, GetHolder] = {}
        self.confirming = False
        self.publish_seq = 0
        self.answered_seq = 0  # Up to here confirms were sent, or wait for the disk.
        self.confirmed_seq = 0  # Up to here they were sent.
        self.waiting: Confirms | None = None  # The last of those that are neither kept nor broken.
        self.transaction: Transaction | None = None

    @property
    def regular(self) -> bool:
        """Whether the hot paths may take what comes next."""
        return self.assembly is None and self.transaction is None and not self.closing

    def reply(self, name: str, *values: Any) -> None:
        """Send a method on this channel."""
        self.connection.outbox.send(method_frame(self.number, name, *values))

    # Frames of the general path.

    def on_method(self, payload: bytes) -> None:
        """One method frame; raises PeerError or Refused."""
        number = int.from_bytes(payload[:4], "big")
        if self.closing:
            if number == CLOSE_OK:
                self.connection.forget_channel(self)
            elif number == CLOSE:
                self.reply("channel.close-ok")
            return
        if self.assembly is not None:
            text = "expected content header for class 60, got non content header frame instead"
            if self.assembly.size >= 0:
                text = "expected content body, got non content body frame instead"
            raise PeerError(UNEXPECTED_FRAME, text, 60, 40)
        handler = HANDLERS.get(number)
        if handler is None:
            raise _unimplemented(number)
        arguments = DECODERS[number](payload)
        connection = self.connection
        connection.culprit = (number >> 16, number & 0xFFFF)
        store = connection.store
        promised = 0 if store is None else store.promised_count
        answer = handler(self, *arguments)
        if answer is None:
            return
        reply = method_frame(self.number, *answer)
        if store is None or store.promised_count == promised:
            connection.outbox.send(reply)
        else:
            connection.park([reply])

    def on_header(self, payload: bytes) -> None:
        """A content header frame."""
        if self.closing:
            return
        assembly = self.assembly
        if assembly is None:
            raise PeerError(UNEXPECTED_FRAME, "expected method frame, got non method frame instead")
        if assembly.size >= 0:
            raise PeerError(UNEXPECTED_FRAME, "expected content body, got non content body frame instead", 60, 40)
        assembly.size, assembly.flags = wire.parse_header(payload)
        assembly.size_left = assembly.size
        assembly.discarding = assembly.size > self.connection.settings.message_size_max_bytes
        assembly.header = payload
        if assembly.size == 0:
            self._assembled(assembly)

    def on_body(self, payload: bytes) -> None:
        """A content body frame; what is longer than announced is cut off."""
        if self.closing:
            return
        assembly = self.assembly
        if assembly is None:
            raise PeerError(UNEXPECTED_FRAME, "expected method frame, got non method frame instead")
        if assembly.size < 0:
            text = "expected content header for class 60, got non content header frame instead"
            raise PeerError(UNEXPECTED_FRAME, text, 60, 40)
        if len(payload) > assembly.size_left:
            payload = payload[: assembly.size_left]
        if payload and not assembly.discarding:
            connection = self.connection
            connection.assembling_bytes += len(payload)
            if connection.assembling_bytes > ASSEMBLING_MESSAGES_MAX * connection.settings.message_size_max_bytes:
                raise PeerError(RESOURCE_ERROR, "too many octets of unfinished messages on this connection", 60, 40)
            assembly.body += payload
            room.hold(connection, len(payload))
        assembly.size_left -= len(payload)
        if not assembly.size_left:
            self._assembled(assembly)

    def _drop_assembly(self) -> None:
        """The message is whole, or will never be."""
        assembly = self.assembly
        if assembly is not None:
            self.assembly = None
            if not assembly.discarding and assembly.size > 0:
                self.connection.assembling_bytes -= assembly.size - assembly.size_left
                room.hold(self.connection, 0)

    # Publishing, the general path.

    def begin_publish(self, exchange: str, routing_key: str, mandatory: bool, immediate: bool) -> None:
        """basic.publish has come; checks wait until the content is whole, as in RabbitMQ."""
        if immediate:
            raise PeerError(NOT_IMPLEMENTED, "immediate=true")
        self.assembly = Assembly(Asked(exchange, routing_key, mandatory))

    def _assembled(self, assembly: Assembly) -> None:
        self._drop_assembly()
        connection = self.connection
        connection.culprit = (60, 40)
        if assembly.discarding:
            maximum = connection.settings.message_size_max_bytes
            text = f"message size {assembly.size} is larger than configured max size {maximum}"
            raise PeerError(PRECONDITION_FAILED, text)
        content = content_frames(self.number, assembly.header, bytes(assembly.body), connection.frame_max)
        if connection.broker.alarm is None or not blocking.hold(self, assembly.asked, assembly.flags, content):
            self.publish(assembly.asked, assembly.flags, content)

    def publish(self, asked: Asked, flags: int, content: bytes) -> None:
        """Check, route and enqueue one message whose content is whole. Raises PeerError, Refused."""
        connection = self.connection
        port = open_port(connection, asked.exchange)
        queues: tuple[Any, ...] | None = find_queues(connection, port, asked.routing_key)
        keys: tuple[str, ...] = ()
        known_keys: bytes | None = None
        if flags & CARE:
            content, keys, known_keys = properties.check(connection.user, reply_to.address_of(self), flags, content)
        message = (make_origin(asked.exchange.encode(), asked.routing_key.encode(), known_keys), content)
        transaction = self.transaction
        incoming = None
        if queues is None or keys:
            incoming = Incoming(asked.exchange, asked.routing_key, message, connection.hub.scheduler.wall_ms)
            if transaction is not None and is_late(connection, port):
                incoming.check()
            else:
                queues = route_message(connection, port, incoming, keys)
        if transaction is not None:
            publish = Publish(port.exchange, queues, message, asked.mandatory, incoming, keys)
            transaction.add_publish(publish, connection.settings)
        else:
            self.deliver_published(port.exchange, queues or (), message, asked.mandatory, incoming)

    def deliver_published(
        self,
        exchange: Exchange | None,
        sinks: Sequence[Sink],
        message: Message,
        mandatory: bool,
        incoming: Incoming | None,
    ) -> bool:
        """Hand a message to its sinks; one that is mandatory and has none is returned first, then confirmed.

        (RabbitMQ: rabbit_channel.erl, process_routing_mandatory.) `incoming` is what it was routed by, None where a
        cache did. Returns whether no sink refused it.
        """
        if not sinks and mandatory:
            self.send_return(message)
        hears = self.confirming or self.transaction is not None
        _, refused = deliver(exchange, sinks, message, incoming, hears=hears)
        if self.confirming and refused:
            self.send_nack()
        else:
            self.published(1, len(sinks) + 5)
        return not refused

    def send_return(self, message: Message) -> None:
        """basic.return with the content as it came."""
        origin, content = message
        self.reply("basic.return", NO_ROUTE, "NO_ROUTE", *origin_names(origin))
        self.connection.outbox.send(fitted(content, self.number, self.connection.frame_max))

    def published(self, count: int, units: int) -> None:
        """`count` publishes are done; confirms go out at the end of the read, many in one."""
        connection = self.connection
        connection.units -= units
        connection.published_count += count
        if self.confirming:
            if self.publish_seq == self.answered_seq:
                connection.unconfirmed.append(self)
            self.publish_seq += count

    def send_confirms(self) -> None:
        """One basic.ack for everything published since the last, now or when it is durable."""
        if self.publish_seq == self.answered_seq or self.closing:
            return
        self.answered_seq = self.publish_seq
        store = self.connection.store
        waiting = self.waiting
        if store is None or (waiting is None and store.promised_count == self.connection.promised_seen):
            self.confirm(self.publish_seq)
        elif waiting is not None and waiting.frame == store.frame:
            waiting.seq = self.publish_seq
        else:
            self.waiting = Confirms(self, self.publish_seq)
            store.pledge(self.waiting)

    def confirm(self, seq: int) -> None:
        """basic.ack for everything up to `seq`."""
        if not self.closing:
            multiple = seq - self.confirmed_seq > 1
            self.confirmed_seq = seq
            self.connection.outbox.send(_CONFIRM.pack(METHOD, self.number, 13, 60, 80, seq, multiple, 0xCE))

    def refuse(self, seq: int) -> None:
        """basic.nack for everything up to `seq`: it is not durable and will not be."""
        if not self.closing:
            self.confirmed_seq = seq
            self.reply("basic.nack", seq, True, False)

    def send_nack(self) -> None:
        """Refuse one publish on a confirm channel."""
        self.send_confirms()
        self.publish_seq += 1
        self.answered_seq = self.publish_seq
        if self.waiting is None:
            self.confirmed_seq = self.publish_seq
        self.reply("basic.nack", self.publish_seq, False, False)

    # Leases.

    def forget_get_holder(self, queue: Any) -> None:
        """Nothing is held by basic.get from this queue any more."""
        self.get_holders.pop(id(queue), None)

    def get_holder(self, queue: Any) -> GetHolder:
        """Who holds what basic.get takes from this queue."""
        holder = self.get_holders.get(id(queue))
        if holder is None or holder.queue is not queue:
            holder = self.get_holders[id(queue)] = GetHolder(self, queue)
        return holder

    def add_consumer(self, consumer: Consumer) -> None:
        """A consumer of a queue; those of one queue know that they are not alone."""
        self.consumers[consumer.tag] = consumer
        siblings = self.siblings.setdefault(consumer.queue, {})
        if siblings:
            consumer.has_sibling = True
        if len(siblings) == 1:
            next(iter(siblings.values())).has_sibling = True
        siblings[consumer.tag] = consumer

    def forget_consumer(self, tag: str) -> Consumer | None:
        """The consumer of this tag is no longer one of the channel's; None if there is none."""
        consumer = self.consumers.pop(tag, None)
        siblings = self.siblings.get(consumer.queue) if consumer is not None else None
        if consumer is not None and siblings is not None:
            siblings.pop(tag, None)
            if not siblings:
                del self.siblings[consumer.queue]
        return consumer

    def served(self, consumer: Consumer) -> None:
        """It took from the room that all consumers of the channel share: the others come first next time."""
        if self.consumers.get(consumer.tag) is consumer:
            self.consumers[consumer.tag] = self.consumers.pop(consumer.tag)

    def wake_consumers(self) -> None:
        """There may be capacity again for any of its consumers; queues are asked in this order."""
        for consumer in self.consumers.values():
            consumer.queue.wake()

    # The end.

    def fail(self, reply_text: str, reply_code: int, class_id: int, method_id: int) -> None:
        """A server error: let go of everything and wait for close-ok, ignoring what was on its way (spec 1.5.2.5)."""
        self.send_confirms()
        self.release_all()
        self.closing = True
        self.reply("channel.close", reply_code, reply_text, class_id, method_id)

    def release_all(self) -> None:
        """Consumers detach, leases return to their places; in slices when there are many."""
        connection = self.connection
        self._drop_assembly()
        if self.transaction is not None:
            self.transaction.abandon(self)
        leases = settle.take_all(self, 0)
        for consumer in list(self.consumers.values()):
            consumer.queue.remove_consumer(consumer, connection.now_ms())
        self.consumers.clear()
        self.siblings.clear()
        reply_to.forget(self)
        settle.return_in_slices(connection.broker.scheduler, leases)


def _unimplemented(number: int) -> PeerError:
    class_id, method_id = number >> 16, number & 0xFFFF
    if number in NAMES:
        return PeerError(COMMAND_INVALID, "unimplemented method", class_id, method_id)
    if any(known >> 16 == class_id for known in NAMES):
        return PeerError(NOT_IMPLEMENTED, f"unknown method {method_id} of class {class_id}", class_id, method_id)
    return PeerError(COMMAND_INVALID, f"unknown class {class_id}", class_id, method_id)


_CONFIRM = struct.Struct(">BHIHHQ?B")


@handles("basic.publish")
def _on_publish(
    channel: Channel, _ticket: int, exchange: str, routing_key: str, mandatory: bool, immediate: bool
) -> None:
    channel.begin_publish(exchange, routing_key, mandatory, immediate)


def refuse_not_found_queue() -> Refused:
    """404 for an empty queue name where none was declared on the channel before."""
    return Refused(404, "no previously declared queue")

"""basic.*, confirm.* and tx.* as the client says them (spec 1.8, 1.9; RabbitMQ's confirms and nack).

The regular forms of basic.publish and basic.ack never get here, see `publish` and `settle`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.arguments import not_of_type, type_name
from broker.core.message import origin_names
from broker.core.streams.start import GROUP
from broker.core.streams.stream import Stream
from broker.errors import Refused
from broker.server.amqp import reply_to, settle
from broker.server.amqp.ack_timeout import timeout_of
from broker.server.amqp.channel import handles
from broker.server.amqp.delivery import Consumer, fitted
from broker.server.amqp.methods_topology import queue_name, refuse_stream
from broker.server.amqp.stream_consumers import consume_stream
from broker.server.amqp.transaction import ENDED, REJECTED, RETURNED, Transaction
from broker.server.properties import REPLY_TO_NAME
from protocol.amqp.errors import NOT_ALLOWED, NOT_IMPLEMENTED, PRECONDITION_FAILED, RESOURCE_ERROR, PeerError

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.server.amqp.channel import Answer, Channel

Table = dict[str, Any]


@handles("basic.qos")
def _qos(channel: Channel, prefetch_size: int, prefetch_count: int, is_global: bool) -> Answer:
    if prefetch_size:
        raise PeerError(NOT_IMPLEMENTED, f"prefetch_size!=0 ({prefetch_size})")
    if is_global:
        channel.prefetch = prefetch_count
        channel.wake_consumers()
    else:
        channel.next_consumer_prefetch = prefetch_count
    return ("basic.qos-ok",)


@handles("basic.consume")
def _consume(
    channel: Channel, _ticket: int, name: str, tag: str, _no_local: bool, no_ack: bool, exclusive: bool,
    nowait: bool, arguments: Table,
) -> None:  # fmt: skip
    connection = channel.connection
    if tag in channel.consumers:
        raise PeerError(NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
    tag = tag or connection.new_name("amq.ctag-")
    if name == REPLY_TO_NAME:
        _consume_replies(channel, tag, no_ack, nowait, arguments)
        return
    name = queue_name(channel, name)
    connection.require("read", "queue", name)
    target = connection.vhost.destination(name, connection)
    settings = connection.settings
    if len(channel.consumers) >= settings.consumers_per_channel_max:
        raise PeerError(RESOURCE_ERROR, f"too many consumers on channel {channel.number}")
    if isinstance(target, Stream):
        consume_stream(channel, target, tag, arguments, no_ack=no_ack, exclusive=exclusive, nowait=nowait)
    else:
        _consume_queue(channel, target, tag, arguments, no_ack=no_ack, exclusive=exclusive, nowait=nowait)


def _consume_queue(
    channel: Channel, queue: Queue, tag: str, arguments: Table, *, no_ack: bool, exclusive: bool, nowait: bool
) -> None:
    settings = channel.connection.settings
    if GROUP in arguments:
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{GROUP}' for {queue.place}: only streams are read in groups")
    queue_type = queue.arguments.get("x-queue-type", "classic")
    if queue_type == "quorum" and channel.prefetch:
        raise PeerError(NOT_IMPLEMENTED, f"{queue.place} does not support global qos")
    priority = arguments.get("x-priority", 0)
    place = f"for {queue.place}"
    if isinstance(priority, bool) or not isinstance(priority, int):
        wrong = f'"expected integer, got {type_name(priority)}"'
        raise Refused(PRECONDITION_FAILED, f"invalid arg 'x-priority' {place}: {wrong}")
    if "x-stream-offset" in arguments:
        raise not_of_type("x-stream-offset", place, queue_type)
    consumer = Consumer(
        channel,
        queue,
        tag,
        no_ack=no_ack,
        exclusive=exclusive,
        priority=priority,
        prefetch=min(channel.next_consumer_prefetch or settings.prefetch_max, settings.prefetch_max),
        arguments=arguments,
        timeout_ms=timeout_of(queue, arguments),
    )
    queue.add_consumer(consumer)
    channel.add_consumer(consumer)
    if not nowait:
        channel.reply("basic.consume-ok", tag)


def _consume_replies(channel: Channel, tag: str, no_ack: bool, nowait: bool, arguments: Table) -> None:
    """Direct reply-to: a consumer without a queue, one per channel, without acknowledgements."""
    if not no_ack:
        raise Refused(PRECONDITION_FAILED, "reply consumer cannot acknowledge")
    if channel.reply_consumer is not None:
        raise Refused(PRECONDITION_FAILED, "reply consumer already set")
    reply_to.add(channel, tag, arguments)
    if not nowait:
        channel.reply("basic.consume-ok", tag)


@handles("basic.cancel")
def _cancel(channel: Channel, tag: str, nowait: bool) -> Answer | None:
    """An unknown tag is no error; what is unacknowledged stays so."""
    consumer = channel.forget_consumer(tag)
    if consumer is not None:
        consumer.queue.remove_consumer(consumer, channel.connection.now_ms())
    elif channel.reply_consumer is not None and channel.reply_consumer.tag == tag:
        reply_to.forget(channel)
    return None if nowait else ("basic.cancel-ok", tag)


@handles("basic.get")
def _get(channel: Channel, _ticket: int, name: str, no_ack: bool) -> None:
    """One message now; prefetch does not count here. Channel-unique delivery tags are shared with consumers."""
    name = queue_name(channel, name)
    connection = channel.connection
    connection.require("read", "queue", name)
    refuse_stream(connection.vhost, name, "basic.get")
    queue = connection.vhost.queue(name, connection)
    queue.check_get(connection.now_ms())
    got = queue.get()
    if got is None:
        channel.reply("basic.get-empty", "")
        return
    message, offset = got
    origin, content = message
    tag = channel.next_tag
    channel.next_tag += 1
    if no_ack:
        queue.settle((offset,))
    else:
        holder = channel.get_holder(queue)
        holder.in_flight += 1
        channel.unacked[tag] = (holder, offset, message)
    exchange, routing_key = origin_names(origin)
    channel.reply("basic.get-ok", tag, origin[0] != 0, exchange, routing_key, queue.ready_count)
    connection.outbox.send(fitted(content, channel.number, connection.frame_max))


def _settle(channel: Channel, tag: int, multiple: bool, *, ack: bool, requeue: bool) -> None:
    if channel.transaction is not None:
        # Kept with their tags, since a rollback gives them back.
        if multiple and tag and tag not in channel.unacked:
            raise settle.unknown_tag(tag)
        if multiple:
            last = tag or channel.next_tag - 1
            tags = [each for each in channel.unacked if each <= last]
        else:
            tags = [tag]
        try:
            tagged = [(each, channel.unacked.pop(each)) for each in tags]
        except KeyError:
            raise settle.unknown_tag(tag) from None
        channel.transaction.add_settlement(tagged, ENDED if ack else RETURNED if requeue else REJECTED)
        return
    if requeue and multiple:
        settle.return_in_slices(channel.connection.broker.scheduler, settle.take_all(channel, tag))
        return
    leases = settle.take_all(channel, tag) if multiple else [settle.take_one(channel, tag)]
    if ack:
        settle.end_leases(leases)
    elif requeue:
        settle.return_leases(leases)
    else:
        settle.reject_in_slices(channel.connection.broker.scheduler, leases)


@handles("basic.ack")
def _ack(channel: Channel, tag: int, multiple: bool) -> None:
    _settle(channel, tag, multiple, ack=True, requeue=False)


@handles("basic.reject")
def _reject(channel: Channel, tag: int, requeue: bool) -> None:
    _settle(channel, tag, False, ack=False, requeue=requeue)


@handles("basic.nack")
def _nack(channel: Channel, tag: int, multiple: bool, requeue: bool) -> None:
    _settle(channel, tag, multiple, ack=False, requeue=requeue)


def _recover(channel: Channel, requeue: bool) -> None:
    if not requeue:
        raise PeerError(NOT_IMPLEMENTED, "requeue=false")
    settle.return_in_slices(channel.connection.broker.scheduler, settle.take_all(channel, 0))


@handles("basic.recover")
def _recover_sync(channel: Channel, requeue: bool) -> Answer:
    _recover(channel, requeue)
    return ("basic.recover-ok",)


@handles("basic.recover-async")
def _recover_async(channel: Channel, requeue: bool) -> None:
    _recover(channel, requeue)


@handles("confirm.select")
def _confirm_select(channel: Channel, nowait: bool) -> Answer | None:
    if channel.transaction is not None:
        raise Refused(PRECONDITION_FAILED, "cannot switch from tx to confirm mode")
    channel.confirming = True
    return None if nowait else ("confirm.select-ok",)


@handles("tx.select")
def _tx_select(channel: Channel) -> Answer:
    if channel.confirming:
        raise Refused(PRECONDITION_FAILED, "cannot switch from confirm to tx mode")
    if channel.transaction is None:
        channel.transaction = Transaction()
    return ("tx.select-ok",)


def _transaction(channel: Channel) -> Transaction:
    if channel.transaction is None:
        raise Refused(PRECONDITION_FAILED, "channel is not transactional")
    return channel.transaction


@handles("tx.commit")
def _tx_commit(channel: Channel) -> Answer:
    _transaction(channel).commit(channel)
    return ("tx.commit-ok",)


@handles("tx.rollback")
def _tx_rollback(channel: Channel) -> Answer:
    _transaction(channel).rollback(channel)
    return ("tx.rollback-ok",)

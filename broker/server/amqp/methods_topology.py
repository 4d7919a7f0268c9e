"""exchange.* and queue.* as the client says them: permissions, defaults, then the vhost does it (spec 1.6, 1.7).

Permission rules are RabbitMQ's: configure to declare and delete; write on the destination and read on the source to
bind; read to purge; a dead letter exchange needs read on the queue and write on the exchange, an alternate exchange
the like. They come before every other check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.exchange.base import Destination
from broker.errors import Refused
from broker.server.amqp.channel import handles, refuse_not_found_queue
from broker.server.properties import REPLY_TO_NAME
from protocol.amqp.errors import ACCESS_REFUSED, NOT_IMPLEMENTED, PeerError
from protocol.amqp.frames import method_frame

if TYPE_CHECKING:
    from broker.core.vhosts.vhost import VHost
    from broker.server.amqp.channel import Answer, Channel

Table = dict[str, Any]


def refuse_stream(vhost: VHost, name: str, method: str) -> None:
    """Raises PeerError 540 where a method is used on a stream that takes messages away (RabbitMQ's text)."""
    if vhost.streams.get(name) is not None:
        raise PeerError(
            NOT_IMPLEMENTED, f"{method} not supported by stream queues queue '{name}' in vhost '{vhost.name}'"
        )


def clean_name(name: str) -> str:
    """CR and LF are dropped from names, as RabbitMQ does."""
    return name.replace("\r", "").replace("\n", "") if "\n" in name or "\r" in name else name


def queue_name(channel: Channel, name: str) -> str:
    """An empty name means the queue declared last on this channel (spec 1.7.2)."""
    if name:
        return name
    if not channel.last_queue:
        raise refuse_not_found_queue()
    return channel.last_queue


def _not_default(exchange: str) -> None:
    if not exchange:
        raise Refused(ACCESS_REFUSED, "operation not permitted on the default exchange")


@handles("exchange.declare")
def _exchange_declare(
    channel: Channel, _ticket: int, name: str, kind: str, passive: bool, durable: bool, auto_delete: bool,
    internal: bool, nowait: bool, arguments: Table,
) -> Answer | None:  # fmt: skip
    connection = channel.connection
    name = clean_name(name)
    _not_default(name)
    if passive:
        connection.vhost.exchange(name)
    else:
        connection.require("configure", "exchange", name)
        alternate = arguments.get("alternate-exchange")
        if isinstance(alternate, str) and name not in connection.vhost.exchanges:
            connection.require("read", "exchange", name)
            connection.require("write", "exchange", alternate)
        connection.vhost.declare_exchange(
            name, kind, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
        )
    return None if nowait else ("exchange.declare-ok",)


@handles("exchange.delete")
def _exchange_delete(channel: Channel, _ticket: int, name: str, if_unused: bool, nowait: bool) -> Answer | None:
    _not_default(name)
    channel.connection.require("configure", "exchange", name)
    channel.connection.vhost.delete_exchange(name, if_unused=if_unused)
    return _answer_when_gone(channel, "exchange", name, None if nowait else ("exchange.delete-ok",))


def _answer_when_gone(channel: Channel, kind: str, name: str, answer: Answer | None) -> Answer | None:
    """Who deletes what has many bindings waits until all of them are gone, so that the name is free by then."""
    connection = channel.connection
    if connection.vhost.unbinding.wait(kind, name, connection.waited):
        connection.wait([] if answer is None else [method_frame(channel.number, *answer)])
        return None
    return answer


def _bind(channel: Channel, source: str, kind: str, name: str, key: str, arguments: Table, *, add: bool) -> None:
    connection = channel.connection
    vhost = connection.vhost
    _not_default(source)
    if kind == "exchange":
        _not_default(name)
    connection.require("write", kind, name)
    connection.require("read", "exchange", source)
    destination: Destination | None
    if not add:
        destination = vhost.target(name) if kind == "queue" else vhost.exchanges.get(name)
        if destination is not None and source in vhost.exchanges:
            if kind == "queue":
                vhost.destination(name, connection)
            vhost.unbind(source, destination, key, arguments)
        return
    destination = vhost.destination(name, connection) if kind == "queue" else vhost.exchange(name)
    if vhost.exchange(source).type == "topic":
        connection.require_topic("read", source, key)
    vhost.bind(source, destination, key, arguments)


@handles("exchange.bind")
def _exchange_bind(
    channel: Channel, _ticket: int, destination: str, source: str, key: str, nowait: bool, arguments: Table
) -> Answer | None:
    _bind(channel, source, "exchange", destination, key, arguments, add=True)
    return None if nowait else ("exchange.bind-ok",)


@handles("exchange.unbind")
def _exchange_unbind(
    channel: Channel, _ticket: int, destination: str, source: str, key: str, nowait: bool, arguments: Table
) -> Answer | None:
    _bind(channel, source, "exchange", destination, key, arguments, add=False)
    return None if nowait else ("exchange.unbind-ok",)


@handles("queue.declare")
def _queue_declare(
    channel: Channel, _ticket: int, name: str, passive: bool, durable: bool, exclusive: bool, auto_delete: bool,
    nowait: bool, arguments: Table,
) -> Answer | None:  # fmt: skip
    connection = channel.connection
    vhost = connection.vhost
    name = clean_name(name)
    if passive:
        if name.startswith(REPLY_TO_NAME):
            return _declare_reply_to(channel, name, nowait)
        queue = vhost.destination(queue_name(channel, name), connection)
        queue.last_used_ms = connection.now_ms()
    else:
        server_named = not name
        name = name or connection.new_name("amq.gen-")
        connection.require("configure", "queue", name)
        dead_letter = arguments.get("x-dead-letter-exchange")
        if isinstance(dead_letter, str) and name not in vhost.queues:
            connection.require("read", "queue", name)
            connection.require("write", "exchange", dead_letter or "amq.default")
        queue = vhost.declare_queue(
            name,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
            connection=connection,
            now_ms=connection.now_ms(),
            server_named=server_named,
        )
    channel.last_queue = queue.name
    return None if nowait else ("queue.declare-ok", queue.name, queue.ready_count, len(queue.consumers))


def _declare_reply_to(channel: Channel, name: str, nowait: bool) -> Answer | None:
    """A passive declare of the pseudo queue succeeds; of a reply address, while its consumer is there (RabbitMQ)."""
    if name != REPLY_TO_NAME and name not in channel.connection.face.reply_sinks:
        raise Refused(404, f"no queue '{name}' in vhost '{channel.connection.vhost.name}'")
    return None if nowait else ("queue.declare-ok", name, 0, 1)


@handles("queue.bind")
def _queue_bind(
    channel: Channel, _ticket: int, queue: str, exchange: str, key: str, nowait: bool, arguments: Table
) -> Answer | None:
    if not queue and not key:
        key = queue_name(channel, "")  # Both empty: the key is the queue's name too (spec 1.7.2.3).
    _bind(channel, exchange, "queue", queue_name(channel, queue), key, arguments, add=True)
    return None if nowait else ("queue.bind-ok",)


@handles("queue.unbind")
def _queue_unbind(
    channel: Channel, _ticket: int, queue: str, exchange: str, key: str, arguments: Table
) -> Answer | None:
    if not queue and not key:
        key = queue_name(channel, "")
    _bind(channel, exchange, "queue", queue_name(channel, queue), key, arguments, add=False)
    return ("queue.unbind-ok",)


@handles("queue.purge")
def _queue_purge(channel: Channel, _ticket: int, name: str, nowait: bool) -> Answer | None:
    name = queue_name(channel, name)
    connection = channel.connection
    connection.require("read", "queue", name)
    refuse_stream(connection.vhost, name, "queue.purge")
    count = connection.vhost.queue(name, connection).purge()
    return None if nowait else ("queue.purge-ok", count)


@handles("queue.delete")
def _queue_delete(
    channel: Channel, _ticket: int, name: str, if_unused: bool, if_empty: bool, nowait: bool
) -> Answer | None:
    name = queue_name(channel, name)
    connection = channel.connection
    connection.require("configure", "queue", name, "delete")
    count = connection.vhost.delete_queue(name, connection, if_unused=if_unused, if_empty=if_empty)
    return _answer_when_gone(channel, "queue", name, None if nowait else ("queue.delete-ok", count))

"""Objects of the broker as RabbitMQ's management API shows them: plain dicts, made on demand, nothing cached."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

from broker.core.exchange.base import Binding, freeze
from broker.core.exchange.exchange import Exchange
from broker.core.queues.effective_policy import effective_definition
from broker.core.queues.queue import Queue
from broker.core.streams.group_reading import GroupReading
from broker.core.streams.stream import Stream
from broker.core.vhosts.proposing import Target
from broker.core.vhosts.vhost import VHost
from broker.server.shown import ShownChannel, ShownConnection, ShownConsumer

NODE = "jackalope"


def connection_name(connection: ShownConnection) -> str:
    """`HOST:PORT`, unique while the connection lives."""
    return f"{connection.peer[0]}:{connection.peer[1]}"


def channel_name(channel: ShownChannel) -> str:
    """`HOST:PORT (NUMBER)`, as RabbitMQ writes it."""
    return f"{connection_name(channel.connection)} ({channel.number})"


def queue_view(queue: Queue, vhost: VHost) -> dict[str, Any]:
    """One queue; message counts are exact and of this moment (but for what is retained: see `Log.kept`)."""
    policy, operator = vhost.policies.of_queue(queue), vhost.policies.of_queue(queue, operator=True)
    effective = effective_definition(policy.definition if policy else {}, operator.definition if operator else {})
    store, log = queue.store, queue.store.log
    ready, leased = store.ready_count, store.leased_count
    lost = log.lost_count if log is not None else 0
    kept, kept_bytes = log.kept if log is not None else (0, 0)
    return {
        "name": queue.name,
        "vhost": queue.vhost,
        "type": queue.arguments.get("x-queue-type", "classic"),
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": queue.owner is not None,
        "arguments": queue.arguments,
        "policy": policy.name if policy else None,
        "operator_policy": operator.name if operator else None,
        "effective_policy_definition": effective,
        "state": "unreadable" if store.broken else "damaged" if lost else "running",
        "node": NODE,
        "consumers": len(queue.consumers),
        "messages": ready + leased,
        "messages_ready": ready,
        "messages_unacknowledged": leased,
        "messages_damaged": lost,
        "messages_retained": kept,
        "message_bytes_retained": kept_bytes,
        "message_stats": {"publish": store.enqueued_count, "settled": store.settled_count},
    }


def stream_view(stream: Stream) -> dict[str, Any]:
    """One stream: a topic, whoever made it. Messages are those that a consumer from the first offset on would get."""
    return {
        "name": stream.name,
        "vhost": stream.vhost,
        "type": "stream",
        "durable": True,
        "auto_delete": False,
        "exclusive": False,
        "arguments": stream.arguments,
        "state": "damaged" if stream.damaged_count else "running",
        "node": NODE,
        "consumers": len(stream.consumers),
        "messages": stream.ready_count,
        "messages_ready": stream.ready_count,
        "messages_damaged": stream.damaged_count,
        "messages_unacknowledged": sum(one.in_flight for one in stream.consumers),
        "message_stats": {"publish": stream.enqueued_count},
        "partitions": [
            {"partition": one.index, "first_offset": one.start_offset, "next_offset": one.high_watermark,
             "bytes": one.size_bytes} for one in stream.topic.partitions
        ],
    }  # fmt: skip


def target_view(target: Target, vhost: VHost) -> dict[str, Any]:
    """A queue or a stream."""
    return stream_view(target) if isinstance(target, Stream) else queue_view(target, vhost)


def exchange_view(exchange: Exchange | None, vhost: VHost) -> dict[str, Any]:
    """One exchange; None is the default exchange. `messages_delayed` is what waits in one that delays."""
    if exchange is None:
        return {"name": "", "vhost": vhost.name, "type": "direct", "durable": True, "auto_delete": False,
                "internal": False, "arguments": {}, "message_stats": {}}  # fmt: skip
    delayed = exchange.state.delayed_count if exchange.state is not None else None
    return {
        "name": exchange.name,
        "vhost": vhost.name,
        "type": exchange.type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": exchange.arguments,
        "message_stats": {"publish_in": exchange.published_count},
        **({"messages_delayed": delayed} if delayed is not None else {}),
    }


def properties_key(binding: Binding) -> str:
    """What names a binding among those of its two ends: the routing key, and a digest of the arguments if it has any.

    RabbitMQ's is made likewise (rabbit_mgmt_format:pack_binding_props); clients take it as it comes.
    """
    key = quote(binding.routing_key, safe="").replace("~", "%7E")
    if not binding.arguments:
        return key or "~"
    digest = hashlib.sha256(repr(freeze(binding.arguments)).encode("utf-8", "surrogateescape")).digest()
    return f"{key}~{base64.urlsafe_b64encode(digest[:16]).decode().rstrip('=')}"


def binding_view(binding: Binding, vhost: VHost) -> dict[str, Any]:
    """One binding."""
    return {
        "source": binding.source,
        "vhost": vhost.name,
        "destination": binding.destination.name,
        "destination_type": "exchange" if isinstance(binding.destination, Exchange) else "queue",
        "routing_key": binding.routing_key,
        "arguments": dict(binding.arguments),
        "properties_key": properties_key(binding),
    }


def default_binding_view(queue: Target, vhost: VHost) -> dict[str, Any]:
    """The binding of every queue and stream to the default exchange, which nobody made."""
    return {"source": "", "vhost": vhost.name, "destination": queue.name, "destination_type": "queue",
            "routing_key": queue.name, "arguments": {}, "properties_key": queue.name}  # fmt: skip


def connection_view(connection: ShownConnection) -> dict[str, Any]:
    """One connection."""
    return {
        "name": connection_name(connection),
        "node": NODE,
        "user": connection.user.name if connection.user is not None else None,
        "vhost": connection.vhost.name if connection.vhost is not None else None,
        "state": "blocked" if connection.held is not None else connection.state.value,
        "protocol": "AMQP 0-9-1",
        "ssl": connection.tls,
        "auth_mechanism": connection.mechanism,
        "peer_host": connection.peer[0],
        "peer_port": connection.peer[1],
        "channels": len(connection.channels),
        "channel_max": connection.channel_max,
        "frame_max": connection.frame_max,
        "timeout": connection.heartbeat_s,
        "client_properties": connection.client_properties,
        "recv_oct": connection.received_octets,
        "send_oct": connection.sent_octets,
        "connected_at": connection.hub.env.wall_ms - (connection.hub.now_ms - connection.started_ms),
    }


def channel_view(channel: ShownChannel) -> dict[str, Any]:
    """One channel."""
    connection = channel.connection
    return {
        "name": channel_name(channel),
        "node": NODE,
        "number": channel.number,
        "user": connection.user.name,
        "vhost": connection.vhost.name,
        "state": "closing" if channel.closing else "running",
        "confirm": channel.confirming,
        "transactional": channel.transaction is not None,
        "consumer_count": len(channel.consumers),
        "prefetch_count": channel.next_consumer_prefetch,
        "global_prefetch_count": channel.prefetch,
        "messages_unacknowledged": len(channel.unacked),
        "messages_unconfirmed": channel.publish_seq - channel.confirmed_seq,
        "connection_details": {"name": connection_name(connection), "peer_host": connection.peer[0],
                               "peer_port": connection.peer[1]},
    }  # fmt: skip


def group_view(reading: GroupReading) -> dict[str, Any]:
    """The group that a consumer is a member of, and what it has been given."""
    membership = reading.membership
    return {
        "id": membership.group_id if membership is not None else "",
        "member_id": membership.member_id if membership is not None else "",
        "partitions": reading.partitions,
    }


def consumer_view(consumer: ShownConsumer) -> dict[str, Any]:
    """One consumer."""
    queue = consumer.queue
    active = queue.is_active(consumer)
    return {
        "consumer_tag": consumer.tag,
        "ack_required": not consumer.no_ack,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch,
        "priority": consumer.priority,
        "arguments": consumer.arguments,
        "active": active,
        "activity_status": "up" if active else "waiting",
        "messages_unacknowledged": consumer.in_flight,
        "queue": {"name": queue.name, "vhost": queue.vhost},
        **({"group": group_view(queue)} if isinstance(queue, GroupReading) else {}),
        "channel_details": {"name": channel_name(consumer.channel), "number": consumer.channel.number,
                            "connection_name": connection_name(consumer.channel.connection)},
    }  # fmt: skip

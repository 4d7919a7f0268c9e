"""basic.consume on a stream: where to begin and what to leave out, as RabbitMQ's clients say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.streams.reading import Reading
from broker.core.streams.start import GROUP, NEXT, Start, Wanted, wanted_of
from broker.errors import Refused
from broker.log.errors import StorageError
from broker.server.amqp.ack_timeout import timeout_of
from broker.server.amqp.delivery import Consumer
from protocol.amqp.errors import INTERNAL_ERROR, NOT_IMPLEMENTED, PRECONDITION_FAILED, PeerError
from protocol.kafka.records import CorruptBatch

if TYPE_CHECKING:
    from broker.core.streams.group_reading import GroupReading
    from broker.core.streams.stream import Stream
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection


def consume_stream(
    channel: Channel,
    stream: Stream,
    tag: str,
    arguments: dict[str, Any],
    *,
    no_ack: bool,
    exclusive: bool,
    nowait: bool,
) -> None:
    """A consumer with a place of its own in the stream, or with a share of it as a member of a group (`x-group`).

    Raises Refused 406 without a prefetch count of its own (that of the channel does not count), for a bad offset or
    filter; 403 when exclusive use forbids it; PeerError 540 for automatic acknowledgement.
    """
    connection = channel.connection
    place = f"queue '{stream.name}' in vhost '{stream.vhost}'"
    if not channel.next_consumer_prefetch:
        raise Refused(PRECONDITION_FAILED, f"consumer prefetch count is not set for stream {place}")
    if channel.prefetch:
        raise PeerError(NOT_IMPLEMENTED, f"{place} does not support global qos")
    if no_ack:
        raise PeerError(NOT_IMPLEMENTED, f"automatic acknowledgement not supported by stream {place}")
    wanted = wanted_of(arguments, f"for {place}")
    in_group: GroupReading | None = None
    if GROUP in arguments:
        # Imported late: most brokers start without groups over AMQP.
        from broker.server.amqp.group_consumers import join_group, read_in_group

        in_group = read_in_group(connection, stream, arguments, wanted)
    reading = in_group or _read_alone(connection, stream, arguments, wanted)
    consumer = Consumer(
        channel,
        reading,
        tag,
        no_ack=False,
        exclusive=exclusive,
        priority=0,
        prefetch=min(channel.next_consumer_prefetch, connection.settings.prefetch_max),
        arguments=arguments,
        timeout_ms=timeout_of(reading, arguments),
    )
    reading.begin(consumer)
    if in_group is not None:
        join_group(connection, in_group, arguments[GROUP], tag)
    channel.consumers[tag] = consumer
    if not nowait:
        channel.reply("basic.consume-ok", tag)


def _read_alone(connection: Connection, stream: Stream, arguments: dict[str, Any], wanted: Wanted | None) -> Reading:
    place = f"queue '{stream.name}' in vhost '{stream.vhost}'"
    start = Start(arguments.get("x-stream-offset", NEXT), f"for {place}")
    scheduler = connection.hub.scheduler
    try:
        starts = [start.offset(partition, scheduler.wall_ms) for partition in stream.topic.partitions]
    except (StorageError, CorruptBatch, OSError) as error:
        scheduler.report(f"stream {place} cannot be read", error)
        raise PeerError(INTERNAL_ERROR) from None
    return Reading(stream, scheduler, connection.vhost.streams.decoded, starts, wanted)

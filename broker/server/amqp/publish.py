"""Hot path. basic.publish as one straight line: method, header and body are taken from the buffer as they are.

Budget: 0.6 µs per message of the same shape as the last, 1.6 µs otherwise; held by `jackalope bench amqp` (rows
autoack, uniquekeys, celery). `publish_run` takes as many whole, regular publishes as stand in the buffer and returns
where it stopped; it refuses whatever is irregular (several body frames, special properties, errors of any kind) and
leaves it to the general path of `channel`, which knows the precise answer. `routes` knows where messages go, and
remembers it by the octets of whole method frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.exchange.exchange import Exchange
from broker.core.message import Message
from broker.core.sink import Sink
from broker.server.amqp.routes import RUN_MAX
from broker.server.properties import REPLY_TO_NAME
from protocol.amqp import content as wire
from protocol.amqp.frames import FRAME_END

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel

PUBLISH = b"\x00\x3c\x00\x28"
METHOD_FRAME_MIN = 17
"""Octets of a publish method frame with empty names."""
CARE = wire.HEADERS | wire.REPLY_TO | wire.EXPIRATION | wire.USER_ID
"""Properties that may ask for more than being passed on."""
_REPLY_TO = REPLY_TO_NAME.encode()


Run = tuple[tuple[Sink, ...], Exchange | None, list[Message]]
"""Regular messages, in order, that an exchange sends to the same queues."""
Gathered = dict[tuple[Sink, ...], list[Message]]
"""Messages of one exchange by the one queue they go to (a publisher that goes round many gives each its share at once),
or those of one route to several: what goes to several queues goes out behind all that was before it, so that each queue
has its messages in order."""


def needs_care(data: bytes, start: int, end: int, flags: int) -> bool:
    """Whether a header frame asks for the general path: CC or BCC headers, user-id, expiration, direct reply-to."""
    if flags & (wire.EXPIRATION | wire.USER_ID):
        return True
    if flags & wire.REPLY_TO and data.find(_REPLY_TO, start, end) >= 0:
        return True
    # One search for both, then closer: searching is a third of all that a message with many headers costs.
    if flags & wire.HEADERS and data.find(b"CC", start, end) >= 0:
        return data.find(b"\x02CC", start, end) >= 0 or data.find(b"\x03BCC", start, end) >= 0
    return False


def publish_run(  # noqa: C901 - one straight line, kept in one piece because a call a message costs a tenth of it
    channel: Channel, data: bytes, position: int, end: int
) -> int:
    """Take regular publishes of this channel from `position` on; returns the position of the first thing left."""
    connection = channel.connection
    entries = connection.routes.entries
    startswith = data.startswith
    number = channel.number
    head = channel.head
    size_max = connection.regular_size_max
    method = shape = b"\xff"  # Never the start of a frame.
    shape_total = 0
    gathered: Gathered = {}
    messages: list[Message] = []
    append = messages.append
    queues: tuple[Sink, ...] | None = None
    exchange: Exchange | None = None
    single = False
    origin = b""
    left = RUN_MAX
    last = channel.last_route
    while left:
        if startswith(method, position):
            header = position + len(method)
        else:
            found = last.following if last is not None else None
            if found is not None and startswith(found.method, position):
                method = found.method
                header = position + len(method)
            else:
                if not startswith(head, position) or data[position + 7 : position + 11] != PUBLISH:
                    break
                header = position + 8 + int.from_bytes(data[position + 3 : position + 7], "big")
                method = data[position:header]
                found = entries.get(method)
                if found is None:
                    if header > end or len(method) < METHOD_FRAME_MIN:
                        break
                    found = connection.routes.learn(connection, method)
                elif last is not None and found.regular:
                    last.following = found  # Only ever to what stands in the cache, where it is found to be forgotten.
                if found is None or not found.regular:
                    break
            last = found
            if found.queues is not queues or found.exchange is not exchange:
                if gathered and not (single and found.single and found.exchange is exchange):
                    _enqueue(channel, exchange, gathered)
                    gathered = {}
                queues = found.queues or ()
                exchange = found.exchange
                single = found.single
                known = gathered.get(queues)
                messages = gathered[queues] = [] if known is None else known
                append = messages.append
                if left > found.run_max:
                    left = found.run_max
            origin = found.origin
        if startswith(shape, header):
            after = header + shape_total
            if after > end:
                connection.buffer.need = after - position
                break
            if data[after - 1] != FRAME_END:
                break
        else:
            after, flags, shape_length = wire.scan(data, header, end, number, size_max)
            if after <= 0:
                if after == wire.NEED_DATA:
                    connection.buffer.need = header + shape_length - position
                break
            if flags & CARE and needs_care(data, header + 21, header + shape_length, flags):
                break
            shape = data[header : header + shape_length]
            shape_total = after - header
        append((origin, data[header:after]))
        position = after
        left -= 1
    channel.last_route = last
    if gathered:
        _enqueue(channel, exchange, gathered)
    return position


def _enqueue(channel: Channel, exchange: Exchange | None, gathered: Gathered) -> None:
    """Into their queues: each has its share at once."""
    count = units = 0
    for queues, messages in gathered.items():
        share = len(messages)
        count += share
        units += share * (1 + len(queues)) + 1
        if share == 1 and len(queues) == 1:
            queues[0].enqueue_alone(messages[0])
        elif share:
            for queue in queues:
                queue.enqueue(messages)
    if exchange is not None:
        exchange.published_count += count
    if count:
        channel.published(count, units)


def enqueue_runs(channel: Channel, runs: list[Run]) -> None:
    """Several runs of messages, gathered as `publish_run` does it."""
    gathered: Gathered = {}
    exchange: Exchange | None = None
    single = False
    for queues, of, messages in runs:
        is_single = len(queues) == 1
        if gathered and not (single and is_single and of is exchange):
            _enqueue(channel, exchange, gathered)
            gathered = {}
        single, exchange = is_single, of
        if queues in gathered:
            gathered[queues] += messages
        else:
            gathered[queues] = messages
    _enqueue(channel, exchange, gathered)

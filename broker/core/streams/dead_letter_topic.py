"""Dead letters of a topic's records: what a consumer of a group rejects, into the topic for dead letters.

The letter is the record as it was (key, value, headers and properties), with the headers that tell of deaths in queues
(`core.queues.x_death`): `x-death` names the topic as the queue, and counts deliveries. Beside them stands where it
comes from: `x-death-group`, `x-death-partition`, `x-death-offset`. Appended in the turn in which the record is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.message import Message, make_origin, origin_names
from broker.core.queues.x_death import make_dead_letter
from broker.core.streams.records import DERIVED, PARTITION_KEY, TIMESTAMP_MS
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long, encode_table, with_entries, without_entry

if TYPE_CHECKING:
    from broker.core.streams.streams import Streams

GROUP, PARTITION, OFFSET = "x-death-group", "x-death-partition", "x-death-offset"
DELIVERY_COUNT = "x-delivery-count"
_HEADERS = frozenset({"headers"})
_EMPTY = encode_table({})


class DeadLetterTopic:
    """From one topic, as one group reads it, to another topic."""

    __slots__ = ("_group_id", "_source", "_streams", "name")

    def __init__(self, streams: Streams, source: str, group_id: str, name: str) -> None:
        self._streams = streams
        self._source = source
        self._group_id = group_id
        self.name = name

    def append(self, message: Message, partition: int, offset: int, reason: str, attempts: int) -> bool:
        """Append the letter; False when there is no such topic any more, or it does not take it."""
        target = self._streams.get(self.name)
        if target is None:
            return False
        place = self._group_id, partition, offset
        try:
            letter = dead_letter(message, self._source, place, reason, attempts, self._streams.wall_ms)
        except PeerError:  # Its headers are so many that none can be added.
            content = wire.with_properties(message[1], {"headers": _EMPTY})
            letter = dead_letter((message[0], content), self._source, place, reason, attempts, self._streams.wall_ms)
        return target.enqueue_one(letter)


def dead_letter(
    message: Message, source: str, place: tuple[str, int, int], reason: str, attempts: int, wall_ms: int
) -> Message:
    """The message as it is appended, under its own exchange and routing key, so that its key stays what it was.

    `place` is (group, partition, offset). Raises PeerError 502 where its headers have no room for more.
    """
    group_id, partition, offset = place
    exchange, routing_key = origin_names(message[0])
    headers = wire.parse_properties(wire.header_payload(message[1]), _HEADERS)["headers"]
    table = wire.property_octets(message[1], "headers")
    for name in (*DERIVED - {TIMESTAMP_MS}, DELIVERY_COUNT):
        table = without_entry(table, name)
    if TIMESTAMP_MS in headers and not exchange and PARTITION_KEY not in headers and routing_key:
        # A Kafka client made it: its routing key is its key, which over the default exchange it would not be.
        table = with_entries(table, {PARTITION_KEY: routing_key})
    content = wire.with_properties(message[1], {"headers": table})
    letter = make_dead_letter((message[0], content), source, reason, exchange, routing_key, wall_ms)
    newest = {**letter.deaths[0], "count": Long(attempts)}
    entries: dict[str, Any] = {
        "x-death": [newest, *letter.deaths[1:]],
        GROUP: group_id,
        PARTITION: partition,
        OFFSET: Long(offset),
    }
    octets = with_entries(wire.property_octets(letter.message[1], "headers"), entries)
    origin = make_origin(exchange.encode(), routing_key.encode())
    return origin, wire.with_properties(letter.message[1], {"headers": octets}, 0)

"""What basic.consume says of a stream: where to begin (`x-stream-offset`) and what to leave out (`x-stream-filter`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core.arguments import type_name
from broker.core.intervals import interval_ms
from broker.core.message import Message
from broker.core.topics.partition import Partition
from broker.errors import Refused
from protocol.amqp import content as wire
from protocol.amqp.errors import PRECONDITION_FAILED, PeerError
from protocol.amqp.fields import Timestamp

GROUP = "x-group"
FIRST, LAST, NEXT = "first", "last", "next"
FILTER_VALUE = "x-stream-filter-value"
FILTERS_MAX = 100
_HEADERS = frozenset({"headers"})


class Start:
    """Where a consumer begins. Raises Refused 406 for what is no offset."""

    __slots__ = ("_value",)

    def __init__(self, value: Any, place: str) -> None:
        text = isinstance(value, str)
        is_good = (text and (value in (FIRST, LAST, NEXT) or interval_ms(value) is not None)) or (
            isinstance(value, int) and not isinstance(value, bool) and value >= 0
        )
        if not is_good:
            shown = f"'{value}'" if text else f"a value of type '{type_name(value)}'"
            raise Refused(
                PRECONDITION_FAILED,
                f"invalid arg 'x-stream-offset' {place}: {shown} is none of first, last, next, an offset, a timestamp"
                " and an interval like 5m",
            )
        self._value = value

    def offset(self, partition: Partition, now_ms: int) -> int:
        """In a partition. Raises Corrupt and OSError."""
        value = self._value
        if value == NEXT:
            return partition.high_watermark
        if value == FIRST:
            return partition.start_offset
        if value == LAST:
            return partition.last_batch_offset()
        if isinstance(value, str):
            return _at(partition, now_ms - (interval_ms(value) or 0))
        if isinstance(value, Timestamp):
            return _at(partition, value * 1000)
        return max(int(value), partition.start_offset)


def _at(partition: Partition, timestamp_ms: int) -> int:
    found = partition.offset_for(max(timestamp_ms, 0)).offset
    return found if found >= 0 else partition.high_watermark


class Wanted:
    """A filter on `x-stream-filter-value`: one of some values, perhaps also messages without any."""

    __slots__ = ("_unfiltered", "_values")

    def __init__(self, values: frozenset[str], *, unfiltered: bool) -> None:
        self._values = values
        self._unfiltered = unfiltered

    def __call__(self, message: Message) -> bool:
        """Whether the consumer gets it."""
        try:
            headers: Mapping[str, Any] = wire.parse_properties(wire.header_payload(message[1]), _HEADERS)["headers"]
        except (PeerError, KeyError):
            return self._unfiltered
        value = headers.get(FILTER_VALUE)
        return self._unfiltered if value is None else value in self._values


def wanted_of(arguments: Mapping[str, Any], place: str) -> Wanted | None:
    """None: everything. Raises Refused 406 for what is no filter."""
    value = arguments.get("x-stream-filter")
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values) or len(values) > FILTERS_MAX:
        raise Refused(
            PRECONDITION_FAILED, f"invalid arg 'x-stream-filter' {place}: not a text, or a list of up to {FILTERS_MAX}"
        )
    return Wanted(frozenset(values), unfiltered=arguments.get("x-stream-match-unfiltered") is True)

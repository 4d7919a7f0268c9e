"""Hot path. AMQP messages as records of a topic, and records as AMQP messages: both ways without a loss.

Budget: 1.5 µs per message rendered in a run of the same shape, 6 µs otherwise; held by `jackalope bench kafka` (row
amqp-to-topic). Pure. The table of what becomes of what is in this folder's README; in short: the partition key or else
the routing key is the record's key, the body its value, AMQP's headers are the record's headers in words that Kafka's
clients can read, and the properties stand beside them as they came (`amqp.properties`), so that nothing is lost.
A record that Kafka's clients have made says its headers, key and time in AMQP's terms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from broker.core.message import Message, make_origin
from broker.core.queues.x_death import OWN_CHANNEL
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long, Timestamp, encode_table, with_entries
from protocol.amqp.frames import BODY, FRAME_HEAD, HEADER, content_frames
from protocol.kafka.records import VARINTS, Record, varint

EXCHANGE, ROUTING_KEY, PROPERTIES = b"amqp.exchange", b"amqp.routing-key", b"amqp.properties"
OWN_DEATHS = b"amqp.deaths"
"""That the broker itself wrote what the headers tell of deaths (`core.queues.x_death`)."""
RESERVED = b"amqp."
PARTITION_KEY, NULL_VALUE, RAW_HEADERS = "x-partition-key", "x-null-value", "x-record-headers"
LEFT_OUT = "x-left-out"
OFFSET, PARTITION, TIMESTAMP_MS = "x-stream-offset", "x-stream-partition", "timestamp_in_ms"
DERIVED = frozenset({OFFSET, PARTITION, TIMESTAMP_MS})
"""What the broker says of where a record stands: not spelled as headers of the next one."""
TAKEN = frozenset(name.encode() for name in (*DERIVED, PARTITION_KEY, NULL_VALUE, RAW_HEADERS, LEFT_OUT))
"""Headers that mean something to this table: a record's own of such a name would be taken for it, or be overwritten."""
NAME_BYTES_MAX = 255
HEADERS_MAX = 1000
"""More record headers than that come as octets in one header: nobody's table should be that long."""
RAW_HEADERS_MAX, HEADERS_BYTES_MAX = 1900, 100_000
"""A table may have 4,096 elements, and a message's headers have to fit into one frame. What is more is left out."""
FRAME_MAX_BYTES = 131_072
BODY_BYTES_MAX = FRAME_MAX_BYTES - 8
_CONTENT_HEAD = b"\x00\x3c\x00\x00"

RecordHeaders = tuple[tuple[bytes, bytes | None], ...]


def _varint(number: int) -> bytes:
    return VARINTS[number] if 0 <= number < 8192 else varint(number)


class Renderer:
    """Renders messages as records; remembers the shape of the last one, since the next is likely to have it too."""

    __slots__ = ("_after", "_before", "_content_size", "_end", "_origin", "_rest", "_shape", "_start", "key")

    def __init__(self) -> None:
        self._shape = b"\xff"  # Never the start of a content.
        self._origin = self._before = self._after = b""
        self._content_size = self._start = self._end = self._rest = 0
        self.key: bytes | None = None
        """Of the message that was looked at last."""

    def look(self, message: Message) -> bytes | None:
        """The key that its record will have."""
        origin, content = message
        if origin is not self._origin or len(content) != self._content_size or not content.startswith(self._shape):
            self._learn(origin, content)
        return self.key

    def render(self, message: Message, delta: int) -> bytes:
        """The record, `delta` offsets behind its batch's first."""
        origin, content = message
        if origin is not self._origin or len(content) != self._content_size or not content.startswith(self._shape):
            self._learn(origin, content)
        body = content[self._start : self._end] if self._start >= 0 else wire.body(content)
        number = _varint(delta)
        return b"%b\x00\x00%b%b%b%b" % (
            _varint(self._rest + len(number)), number, self._before, body, self._after
        )  # fmt: skip

    def _learn(self, origin: bytes, content: bytes) -> None:
        header_end = 7 + int.from_bytes(content[3:7], "big")
        self._shape = content[: header_end + 1]
        self._origin = origin
        self._content_size = len(content)
        size = wire.body_size(content)
        split = 2 + origin[1]
        exchange, routing_key = origin[2:split], origin[split + 1 : -1]
        table = _table_of(content)
        asked = table.get(PARTITION_KEY)
        if isinstance(asked, str | bytes):
            key: bytes | None = asked if isinstance(asked, bytes) else asked.encode()
        else:
            key = routing_key if exchange and routing_key else None
        self.key = key
        headers: list[tuple[bytes, bytes | None]] = []
        if routing_key != (key or b""):
            headers.append((ROUTING_KEY, routing_key))
        properties = content[19:header_end]
        if properties != b"\x00\x00":
            headers.append((PROPERTIES, properties))
        if exchange or not headers:
            headers.append((EXCHANGE, exchange))  # One of the three says that it was an AMQP message.
        if int.from_bytes(content[1:3], "big") == OWN_CHANNEL:
            headers.append((OWN_DEATHS, b""))
        headers += _spelled(table)
        parts = [_varint(len(headers))]
        for name, value in headers:
            parts += (_octets(name), _octets(value))
        is_null = not size and table.get(NULL_VALUE) is True
        self._before = _octets(key) + (b"\x01" if is_null else _varint(size))
        self._after = b"".join(parts)
        self._start = header_end + 8
        self._end = self._start + size
        if not size:
            self._start = self._end = 0
        elif len(content) != self._end + 1:
            self._start = -1  # Several body frames; each content of this shape has to be joined.
        self._rest = 2 + len(self._before) + size + len(self._after)


def _octets(value: bytes | None) -> bytes:
    return b"\x01" if value is None else _varint(len(value)) + value


def _table_of(content: bytes) -> Mapping[str, Any]:
    """The headers of a message, {} where they are malformed inside, which nobody has looked at before."""
    if not content[19] & wire.HEADERS >> 8:
        return {}
    try:
        found: Mapping[str, Any] = wire.parse_properties(wire.header_payload(content), _HEADERS).get("headers") or {}
    except PeerError:
        return {}
    return found


_HEADERS = frozenset({"headers"})


def _spelled(table: Mapping[str, Any]) -> list[tuple[bytes, bytes | None]]:
    """AMQP's headers as a Kafka client reads them."""
    raw = table.get(RAW_HEADERS)
    if isinstance(raw, list) and len(raw) % 2 == 0:
        pairs = ((_raw(name) or b"", _raw(value)) for name, value in zip(raw[::2], raw[1::2], strict=True))
        return [pair for pair in pairs if not pair[0].startswith(RESERVED)]
    found: list[tuple[bytes, bytes | None]] = []
    for name, value in table.items():
        octets = name.encode("utf-8", "surrogateescape")
        if name in DERIVED or name in (PARTITION_KEY, NULL_VALUE) or octets.startswith(RESERVED):
            continue
        if isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
            found += [(octets, _spell(one)) for one in value]
        else:
            found.append((octets, _spell(value)))
    return found


def _raw(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def _spell(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float | Decimal):
        return str(int(value) if isinstance(value, Timestamp | Long) else value).encode()
    return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


class _Shape(NamedTuple):
    """What the records with equal headers and equally usable keys have in common: octets around the offset."""

    before: bytes
    after: bytes
    exchange: bytes
    routing_key: bytes | None
    """None: the record's key says it."""
    channel: int
    """1, or that of contents whose death headers are the broker's own."""


class Restorer:
    """Makes messages of records; `partition` is named in their headers unless it is None.

    Every message says its offset in the header `x-stream-offset` (RabbitMQ's streams).
    """

    __slots__ = ("_headers", "_like", "_like_shape", "_partition", "_shape")

    def __init__(self, partition: int | None) -> None:
        self._partition = partition
        self._headers: RecordHeaders | None = None
        self._shape: _Shape | None = None
        self._like: tuple[RecordHeaders, int, bytes | None, bool] | None = None
        self._like_shape: _Shape | None = None

    def message(self, record: Record) -> Message:
        """The message: its content has its shape's channel number and body frames of FRAME_MAX_BYTES."""
        shape = self._shape_of(record)
        key = record.key or b""
        origin = make_origin(shape.exchange, key if shape.routing_key is None else shape.routing_key)
        body = record.value or b""
        payload = b"%b%b%b%b%b" % (
            _CONTENT_HEAD, len(body).to_bytes(8, "big"), shape.before, record.offset.to_bytes(8, "big"), shape.after
        )  # fmt: skip
        if 0 < len(body) <= BODY_BYTES_MAX:
            channel = shape.channel
            head = FRAME_HEAD.pack(HEADER, channel, len(payload))
            return origin, b"%b%b\xce%b%b\xce" % (head, payload, FRAME_HEAD.pack(BODY, channel, len(body)), body)
        return origin, content_frames(shape.channel, payload, body, FRAME_MAX_BYTES)

    def _shape_of(self, record: Record) -> _Shape:
        shape = self._shape
        if shape is not None and record.headers == self._headers:
            key = record.key
            if shape.routing_key is not None or not key or (len(key) < 256 and key.isascii()) or _is_short(key):
                return shape
        # What a Kafka client has made has a time of its own; many of a batch have the same.
        like = (record.headers, record.timestamp_ms, record.key, record.value is None)
        if like == self._like:
            return self._like_shape  # type: ignore[return-value]  # They are set together.
        shape = self._of_amqp(record)
        if shape is None:
            self._like, self._like_shape = like, self._of_kafka(record)
            return self._like_shape
        self._headers, self._shape = record.headers, shape
        return shape

    def _of_amqp(self, record: Record) -> _Shape | None:
        """Of a record that an AMQP message was made into; None where its headers do not say so, or nonsense."""
        exchange, routing_key, properties = b"", None, b"\x00\x00"
        is_ours = False
        channel = 1
        for name, value in record.headers[:4]:
            if name == EXCHANGE:
                exchange, is_ours = value or b"", True
            elif name == ROUTING_KEY:
                routing_key, is_ours = value or b"", True
            elif name == PROPERTIES:
                properties, is_ours = value or b"", True
            elif name == OWN_DEATHS:
                channel = OWN_CHANNEL
        if not is_ours or not _is_short(exchange) or not _is_short(record.key if routing_key is None else routing_key):
            return None
        flags = int.from_bytes(properties[:2], "big")
        size = len(properties)
        if not 2 <= size <= HEADERS_BYTES_MAX or not wire.properties_fit(properties, flags, 2, size):
            return None
        try:
            before, after = self._around(flags, properties[2:])
        except (PeerError, ValueError):
            return None
        return _Shape(before, after, exchange, routing_key, channel)

    def _of_kafka(self, record: Record) -> _Shape:
        """Of a record that a Kafka client has made."""
        table: dict[str, Any] = {}
        left_out = []
        if not _fit_a_frame(record.headers):
            left_out.append("headers")
        elif _fit_a_table(record.headers):
            for name, value in record.headers:
                _put(table, name.decode(), _text(value))
        else:
            table[RAW_HEADERS] = [one for pair in record.headers for one in pair]
        routing_key = record.key or b""
        if len(routing_key) > HEADERS_BYTES_MAX // 10:
            left_out.append("key")
            routing_key = b""
        elif not _is_short(routing_key) or record.key == b"":
            table[PARTITION_KEY] = record.key
            routing_key = b""
        if left_out:
            table[LEFT_OUT] = left_out
        if record.value is None:
            table[NULL_VALUE] = True
        stamp = max(record.timestamp_ms, 0)
        table[TIMESTAMP_MS] = Long(stamp)
        flags = wire.HEADERS | wire.DELIVERY_MODE | wire.TIMESTAMP
        octets = encode_table(table) + b"\x02" + (stamp // 1000).to_bytes(8, "big")
        return _Shape(*self._around(flags, octets), b"", routing_key, 1)

    def _around(self, flags: int, octets: bytes) -> tuple[bytes, bytes]:
        """Flags and properties, with our headers among them, as they stand around the offset."""
        ours: dict[str, Any] = {}
        if self._partition is not None:
            ours[PARTITION] = self._partition
        ours[OFFSET] = Long(0)
        start = 0
        for flag in (wire.CONTENT_TYPE, wire.CONTENT_ENCODING):
            if flags & flag:
                start += 1 + octets[start]
        end = start
        table = b"\x00\x00\x00\x00"
        if flags & wire.HEADERS:
            end = start + 4 + int.from_bytes(octets[start : start + 4], "big")
            table = octets[start:end]
        table = with_entries(table, ours)
        flags |= wire.HEADERS
        return flags.to_bytes(2, "big") + octets[:start] + table[:-8], octets[end:]


def _fit_a_frame(headers: RecordHeaders) -> bool:
    size = sum(len(name) + len(value or b"") + 10 for name, value in headers)
    return size <= HEADERS_BYTES_MAX and len(headers) <= RAW_HEADERS_MAX


def _fit_a_table(headers: RecordHeaders) -> bool:
    if len(headers) > HEADERS_MAX:
        return False
    return all(len(name) <= NAME_BYTES_MAX and name not in TAKEN and _is_text(name) for name, _ in headers)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    """A name that comes again makes a list of its values."""
    if name not in table:
        table[name] = value
    elif isinstance(table[name], list):
        table[name].append(value)
    else:
        table[name] = [table[name], value]


def _text(value: bytes | None) -> str | bytes | None:
    return value.decode() if value is not None and _is_text(value) else value


def _is_text(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_short(name: bytes | None) -> bool:
    """Whether it can be an exchange's name or a routing key."""
    return name is None or (len(name) <= NAME_BYTES_MAX and _is_text(name))

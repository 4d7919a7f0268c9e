"""Hot path. Messages as records of a RecordBatch, and back.

Budget: 0.6 µs per message rendered in a run of the same shape, 1.5 µs otherwise; 1.5 µs per message read back; held by
`jackalope bench log`. Pure.

| of the record | is |
|---|---|
| key | the routing key |
| value | the body |
| header `p` | the property flags (two octets) and the properties as they came |
| header `q` | the same, of a message whose death headers are the broker's own (`core.queues.x_death`) |
| header `x` | the exchange |
| header `k` | only if the CC header does not tell them: further routing keys, as origins know them (`core.message`) |

So Kafka's tools read any queue's log. What comes back has the channel number 1 and body frames of `FRAME_MAX_BYTES`;
deliveries re-frame where a consumer needs it otherwise. Whether a message was delivered before is not in its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker.core.message import KeyedOrigin, Message, make_origin, unpack_keys
from protocol.amqp import content as wire
from protocol.amqp.frames import BODY, FRAME_HEAD, HEADER, content_frames, frame
from protocol.kafka.records import HEADER_SIZE, VARINTS, BatchHeader, CorruptBatch, read_varint, varint

FRAME_MAX_BYTES = 131_072
CONTENT_HEAD = b"\x00\x3c\x00\x00"
"""Class basic, weight 0: how every content header begins."""
NAME_BYTES_MAX = 255
BODY_BYTES_MAX = FRAME_MAX_BYTES - 8
"""What one body frame holds."""
PERSISTENT = 2


def _varint(number: int) -> bytes:
    return VARINTS[number] if number < 8192 else varint(number)


class Persistence:
    """Whether messages are persistent; remembers the properties of the last one, of whatever queue."""

    __slots__ = ("_is_persistent", "_shape")

    def __init__(self) -> None:
        self._shape = b"\xff"  # Never the start of a content.
        self._is_persistent = False

    def of(self, content: bytes) -> bool:
        """Whether this one is."""
        if not content.startswith(self._shape):
            self._shape = content[: 7 + int.from_bytes(content[3:7], "big")]
            self._is_persistent = is_persistent(content)
        return self._is_persistent


class Renderer:
    """Renders messages as records; remembers the shape of the last one, since the next is likely to have it too."""

    __slots__ = (
        "_after", "_before", "_body_end", "_body_start", "_content_size", "_front", "_origin", "_persistent", "_rest",
        "_shape",
    )  # fmt: skip

    def __init__(self) -> None:
        self._shape = b"\xff"  # Never the start of a content.
        self._origin = self._before = self._after = self._front = b""
        self._content_size = self._body_start = self._body_end = self._rest = 0
        self._persistent = False

    def render(self, messages: Sequence[Message], joined: int = 0) -> Iterator[tuple[bool, bytes, int, int]]:
        """(persistent, records, their number, their first offset delta) of each stretch of messages that are or are not
        persistent. If the first stretch is, its deltas begin at `joined`; all others begin at 0."""
        parts: list[bytes] = []
        append = parts.append
        shape, seen_origin, content_size = self._shape, self._origin, self._content_size
        before, after = self._before, self._after
        body_start, body_end, rest = self._body_start, self._body_end, self._rest
        persistent = self._persistent
        base = delta = joined if persistent else 0
        for origin, content in messages:
            if origin is not seen_origin or len(content) != content_size or not content.startswith(shape):
                shape = self._learn(origin, content)
                seen_origin, content_size = origin, self._content_size
                before, after = self._before, self._after
                body_start, body_end, rest = self._body_start, self._body_end, self._rest
                if self._persistent != persistent:
                    if parts:
                        yield persistent, b"".join(parts), delta - base, base
                        parts.clear()
                        joined = 0
                    persistent = self._persistent
                    base = delta = joined if persistent else 0
            body = content[body_start:body_end] if body_start >= 0 else wire.body(content)
            number = _varint(delta)
            append(b"%b\x00\x00%b%b%b%b" % (_varint(rest + len(number)), number, before, body, after))
            delta += 1
        yield persistent, b"".join(parts), delta - base, base

    def render_one(self, message: Message) -> bytes:
        """The record of one message, with the offset delta 0."""
        origin, content = message
        if origin is not self._origin or len(content) != self._content_size or not content.startswith(self._shape):
            self._learn(origin, content)
        start = self._body_start
        body = content[start : self._body_end] if start >= 0 else wire.body(content)
        front = self._front
        if not front:
            front = self._front = b"%b\x00\x00\x00%b" % (_varint(self._rest + 1), self._before)
        return front + body + self._after

    def _learn(self, origin: bytes, content: bytes) -> bytes:
        """Take a message apart; returns the octets that all contents of its shape begin with."""
        header_end = 7 + int.from_bytes(content[3:7], "big")
        payload = content[7:header_end]
        self._shape = content[: header_end + 1]
        self._origin = origin
        self._content_size = len(content)
        self._persistent = is_persistent(content)
        size = int.from_bytes(payload[4:12], "big")
        split = 2 + origin[1]
        key = origin[split + 1 : -1]
        self._before = b"%b%b%b" % (_varint(len(key)), key, _varint(size))
        own = not (content[1] or content[2])
        keys = origin.keys if isinstance(origin, KeyedOrigin) else None
        self._after = _headers(b"q" if own else b"p", payload[12:], origin[2:split], keys)
        self._body_start = header_end + 8
        self._body_end = self._body_start + size
        self._front = b""
        self._rest = 2 + len(self._before) + size + len(self._after)
        if size and len(content) != self._body_end + 1:
            self._body_start = -1  # Several body frames; each content of this shape has to be joined.
        return self._shape


def _headers(name: bytes, properties: bytes, exchange: bytes, keys: bytes | None) -> bytes:
    """The record's headers."""
    sizes = _varint(len(properties)), _varint(len(exchange))
    two = b"\x02%b%b%b\x02x%b%b" % (name, sizes[0], properties, sizes[1], exchange)
    if keys is None:
        return b"\x04" + two
    return b"\x06%b\x02k%b%b" % (two, _varint(len(keys)), keys)


def read(data: bytes, position: int, header: BatchHeader) -> list[Message]:
    """The messages of a batch that `Renderer` made; their offsets follow its base offset without gaps.

    Raises CorruptBatch for any other batch.
    """
    messages: list[Message] = []
    append = messages.append
    at = position + HEADER_SIZE
    end = position + header.size
    startswith = data.startswith
    before = after = origin = head = b""
    size = channel = 0
    rest = -1  # Octets of a record behind its offset delta, while a shape is known.
    for delta in range(header.records):
        number = _varint(delta)
        front = b"%b\x00\x00%b%b" % (_varint(rest + 2 + len(number)), number, before) if rest >= 0 else b"\xff"
        start = at + len(front)
        if not startswith(front, at) or not startswith(after, start + size):
            key_start, record_end = _begin_record(data, at, number, end)
            key, start, size = _octets(data, key_start, record_end)
            before = data[key_start:start]
            after = data[start + size : record_end]
            rest = record_end - key_start
            channel, properties, exchange, keys = _read_headers(after)
            origin = make_origin(exchange, key, keys)
            head = b"%b%b%b" % (CONTENT_HEAD, size.to_bytes(8, "big"), properties)
            if 0 < size <= BODY_BYTES_MAX:
                head = frame(HEADER, channel, head) + FRAME_HEAD.pack(BODY, channel, size)
        body = data[start : start + size]
        if 0 < size <= BODY_BYTES_MAX:
            append((origin, b"%b%b\xce" % (head, body)))
        else:
            append((origin, content_frames(channel, head, body, FRAME_MAX_BYTES)))
        at = start + size + len(after)
    if at != end or header.records != header.last_offset_delta + 1:
        raise CorruptBatch(f"the batch at offset {header.base_offset} is no batch of a queue")
    return messages


def _begin_record(data: bytes, position: int, number: bytes, end: int) -> tuple[int, int]:
    """(where the key begins, where the record ends); `number` is the offset delta it is to have."""
    length, start = read_varint(data, position)
    if length < 0 or start + length > end or not data.startswith(b"\x00\x00" + number, start):
        raise CorruptBatch(f"the record at {position} is not that of a message")
    return start + 2 + len(number), start + length


def _octets(data: bytes, position: int, end: int) -> tuple[bytes, int, int]:
    """(the key at `position`, where the value begins, its size), all of it before `end`."""
    key_size, position = read_varint(data, position)
    value_size, start = read_varint(data, position + max(key_size, 0))
    if not 0 <= key_size <= NAME_BYTES_MAX or value_size < 0 or start + value_size > end:
        raise CorruptBatch(f"a record at {position} reaches behind its end, or has no key")
    return data[position : position + key_size], start, value_size


def _read_headers(octets: bytes) -> tuple[int, bytes, bytes, bytes | None]:
    """(channel, properties, exchange, further keys) of what `_headers` made."""
    name = octets[2:3]
    size, start = read_varint(octets, 3)
    properties = octets[start : start + max(size, 0)]
    exchange_size, exchange_start = read_varint(octets, start + max(size, 0) + 2)
    exchange = octets[exchange_start : exchange_start + max(exchange_size, 0)]
    keys = _read_keys(octets, exchange_start + len(exchange)) if octets.startswith(b"\x06") else None
    if len(properties) < 2 or len(exchange) > NAME_BYTES_MAX or _headers(name, properties, exchange, keys) != octets:
        raise CorruptBatch("a record's headers are not those of an AMQP message")
    return 0 if name == b"q" else 1, properties, exchange, keys


def _read_keys(octets: bytes, position: int) -> bytes:
    """The further keys, whose header begins at `position` and ends with `octets`."""
    _, start = read_varint(octets, position + 2)
    try:
        unpack_keys(octets[start:])
    except ValueError:
        raise CorruptBatch("a record's further routing keys are none") from None
    return octets[start:]


def is_persistent_batch(header: BatchHeader, data: bytes, position: int) -> bool:
    """Whether a batch that `Renderer` made has persistent messages: all of its messages are, or none is.

    Raises CorruptBatch for any other batch.
    """
    key_start, end = _begin_record(data, position + HEADER_SIZE, b"\x00", position + header.size)
    _, start, size = _octets(data, key_start, end)
    properties = _read_headers(data[start + size : end])[1]
    return is_persistent(frame(HEADER, 1, b"%b%b%b" % (CONTENT_HEAD, size.to_bytes(8, "big"), properties)))


def is_persistent(content: bytes) -> bool:
    """Whether a content asks to outlive the process: delivery-mode 2."""
    flags = int.from_bytes(content[19:21], "big")
    if not flags & wire.DELIVERY_MODE:
        return False
    if not flags & (wire.CONTENT_TYPE | wire.CONTENT_ENCODING | wire.HEADERS):
        return content[21] == PERSISTENT
    return wire.parse_properties(wire.header_payload(content), _DELIVERY_MODE).get("delivery-mode") == PERSISTENT


_DELIVERY_MODE = frozenset({"delivery-mode"})

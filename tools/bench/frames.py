"""Frames rendered ahead of time, and byte streams counted without parsing each frame.

Owns: AMQP 0-9-1 rendering for load generators, independent of the broker's own codec, and the arithmetic that counts
deliveries and confirms in bulk. Pure: no socket, clock or process.

What makes it cheap: all messages of a run have one length, so a chunk of them is patched with strided slice
assignments (unique keys and ids cost about 1 ns a message), deliveries are counted by dividing, and acknowledgements
are slices of a sheet rendered once.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FRAME_METHOD, FRAME_HEADER, FRAME_BODY = 1, 2, 3
FRAME_END = 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
CLASS_BASIC = 60
BASIC_PUBLISH, BASIC_DELIVER, BASIC_ACK, BASIC_NACK = 40, 60, 80, 120
DELIVER_ID = struct.pack(">HH", CLASS_BASIC, BASIC_DELIVER)
ACK_BYTES = 21
ACK_SHEET_TAGS = 1 << 16

_FRAME_HEAD = struct.Struct(">BHI")
_ACK = struct.Struct(">BHIHHQBB")
_ACK_TAG_AT, _ACK_FLAGS_AT = 11, 19
_LOW_BYTES = bytes(range(256)) * 514  # Longer than any batch of confirms, whatever tag it starts with.


class StreamError(ValueError):
    """The peer's bytes are not the stream that the load expects: another frame, another length, a close."""


def shortstr(text: str | bytes) -> bytes:
    """One length byte and up to 255 bytes. Raises ValueError beyond that."""
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > 255:
        raise ValueError(f"a short string holds 255 bytes, not {len(raw)}")
    return bytes((len(raw),)) + raw


def longstr(text: str | bytes) -> bytes:
    """Four length bytes and the bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def field_value(value: Any) -> bytes:
    """One field-table value with its type letter: None, bool, int, str, list, dict. Raises TypeError on others."""
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return b"I" + struct.pack(">i", value) if -(2**31) <= value < 2**31 else b"l" + struct.pack(">q", value)
        case str() | bytes():
            return b"S" + longstr(value)
        case list() | tuple():
            return b"A" + longstr(b"".join(map(field_value, value)))
        case dict():
            return b"F" + table(value)
    raise TypeError(f"no field-table type for {type(value).__name__}")


def table(values: Mapping[str, Any]) -> bytes:
    """A field table with its length."""
    return longstr(b"".join(shortstr(name) + field_value(value) for name, value in values.items()))


# Property name -> flag bit, in the order of the wire (0-9-1 section 4.2.6.1).
_PROPERTIES = ("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
               "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id")  # fmt: skip


def properties(**values: Any) -> bytes:
    """The property flags and list of a content header. Raises TypeError for a name that is not a basic property."""
    if unknown := values.keys() - set(_PROPERTIES):
        raise TypeError(f"not a basic property: {', '.join(sorted(unknown))}")
    flags, parts = 0, []
    for index, name in enumerate(_PROPERTIES):
        if name not in values:
            continue
        flags |= 1 << (15 - index)
        value = values[name]
        if name == "headers":
            parts.append(table(value))
        elif name in ("delivery_mode", "priority"):
            parts.append(bytes((value,)))
        elif name == "timestamp":
            parts.append(struct.pack(">Q", value))
        else:
            parts.append(shortstr(value))
    return struct.pack(">H", flags) + b"".join(parts)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """A whole frame."""
    return _FRAME_HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    """A method frame."""
    return frame(FRAME_METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def publish(exchange: str, routing_key: str, body: bytes, property_bytes: bytes = b"\x00\x00", *,
            channel: int = 1, frame_bytes_max: int = 131072) -> bytes:  # fmt: skip
    """basic.publish with its content: method, header and as many body frames as `frame_bytes_max` demands."""
    head = method(channel, CLASS_BASIC, BASIC_PUBLISH, b"\x00\x00" + shortstr(exchange) + shortstr(routing_key) + b"\0")
    header = frame(FRAME_HEADER, channel, struct.pack(">HHQ", CLASS_BASIC, 0, len(body)) + property_bytes)
    step = frame_bytes_max - 8
    bodies = (frame(FRAME_BODY, channel, body[at : at + step]) for at in range(0, len(body), step))
    return head + header + b"".join(bodies)


def ack(delivery_tag: int, *, multiple: bool = False, channel: int = 1) -> bytes:
    """basic.ack, from a consumer or (as a confirm) from a broker: always 21 bytes."""
    return _ACK.pack(FRAME_METHOD, channel, 13, CLASS_BASIC, BASIC_ACK, delivery_tag, int(multiple), FRAME_END)


class Chunk:
    """Equal-length messages in one buffer, which `restamp` makes different from every earlier rendering.

    `mark` is a run of placeholder bytes in each message; every occurrence is overwritten with the generation, a
    hexadecimal number of the same width. Raises ValueError when the messages differ in length or in where marks are.
    """

    __slots__ = ("_places", "_stamp", "count", "data", "stride", "view")

    def __init__(self, messages: Sequence[bytes], mark: bytes = b"") -> None:
        if not messages or len({len(message) for message in messages}) != 1:
            raise ValueError("a chunk needs messages of one length")
        self.count = len(messages)
        self.stride = len(messages[0])
        self.data = bytearray().join(messages)
        self.view = memoryview(self.data)
        self._stamp = mark
        self._places = _occurrences(messages[0], mark) if mark else []
        if mark and any(_occurrences(message, mark) != self._places for message in messages):
            raise ValueError("the mark stands at different places")

    def restamp(self, generation: int) -> None:
        """Write `generation` over the marks of all messages; only the digits that changed are touched."""
        if not self._places:
            return
        stamp = b"%0*x" % (len(self._stamp), generation)
        if len(stamp) != len(self._stamp):
            raise ValueError(f"generation {generation} does not fit in {len(self._stamp)} digits")
        for digit, (old, new) in enumerate(zip(self._stamp, stamp, strict=True)):
            if old != new:
                column = bytes((new,)) * self.count
                for place in self._places:
                    self.data[place + digit :: self.stride] = column
        self._stamp = stamp


def _occurrences(text: bytes, mark: bytes) -> list[int]:
    places, at = [], text.find(mark)
    while at >= 0:
        places.append(at)
        at = text.find(mark, at + len(mark))
    return places


class AckSheet:
    """One ack for each delivery tag, rendered once for 65,536 tags and re-used with other high bytes after that."""

    __slots__ = ("_block", "_data", "_view")

    def __init__(self, channel: int = 1) -> None:
        self._data = bytearray(b"".join(ack(tag, channel=channel) for tag in range(ACK_SHEET_TAGS)))
        self._view = memoryview(self._data)
        self._block = 0

    def slices(self, first_tag: int, last_tag: int) -> Iterator[memoryview]:
        """Bytes that ack each tag of first..last. Each slice is to be sent before the next one is asked for."""
        while first_tag <= last_tag:
            block, low = divmod(first_tag, ACK_SHEET_TAGS)
            if block != self._block:
                self._turn_to(block)
            until = min(last_tag, (block + 1) * ACK_SHEET_TAGS - 1)
            yield self._view[low * ACK_BYTES : (low + until - first_tag + 1) * ACK_BYTES]
            first_tag = until + 1

    def _turn_to(self, block: int) -> None:
        for index, byte in enumerate(block.to_bytes(6, "big")):
            self._data[_ACK_TAG_AT + index :: ACK_BYTES] = bytes((byte,)) * ACK_SHEET_TAGS
        self._block = block


class DeliveryCounter:
    """Counts the deliveries of one consumer in a byte stream by their length, learnt from the first one.

    Each `feed` also looks whether a basic.deliver begins where the arithmetic says that one must, so a stream that
    deviates (another length, a close, a cancel) raises StreamError instead of being counted.
    """

    __slots__ = ("_head", "bytes_total", "message_bytes")

    def __init__(self) -> None:
        self.message_bytes = 0
        self.bytes_total = 0
        self._head = b""

    @property
    def count(self) -> int:
        """Whole deliveries so far; also the delivery tag of the latest one."""
        return self.bytes_total // self.message_bytes if self.message_bytes else 0

    def feed(self, data: memoryview) -> int:
        """Take in the next bytes and return how many deliveries they completed. Raises StreamError."""
        before = self.count
        if not self.message_bytes:
            self._head += bytes(data[:262144])
            self.message_bytes = delivery_bytes(self._head)
            if self.message_bytes:
                self._head = b""
        else:
            at = -self.bytes_total % self.message_bytes
            if at + 11 <= len(data) and (data[at] != FRAME_METHOD or data[at + 7 : at + 11] != DELIVER_ID):
                raise StreamError(f"not a delivery of {self.message_bytes} bytes: {bytes(data[at : at + 80])!r}")
        self.bytes_total += len(data)
        return self.count - before


def delivery_bytes(data: bytes) -> int:
    """The length of the delivery (method, header and body frames) that `data` begins with; 0 while it is incomplete.

    Raises StreamError when it begins with anything else.
    """
    at, body_left = 0, -1
    while at + 7 <= len(data):
        kind, size = data[at], int.from_bytes(data[at + 3 : at + 7], "big")
        if at + size + 8 > len(data):
            return 0
        payload = data[at + 7 : at + 7 + size]
        expected = FRAME_METHOD if at == 0 else FRAME_HEADER if body_left < 0 else FRAME_BODY
        if kind != expected or data[at + 7 + size] != FRAME_END or (at == 0 and payload[:4] != DELIVER_ID):
            raise StreamError(f"expected a delivery, got a frame of type {kind}: {payload[:80]!r}")
        at += size + 8
        if kind == FRAME_HEADER:
            body_left = int.from_bytes(payload[4:12], "big")
        elif kind == FRAME_BODY:
            body_left -= size
        if body_left == 0:
            return at
    return 0


class ConfirmCounter:
    """Which publishes a broker has confirmed, from a stream of basic.ack frames in whatever grouping it likes.

    `prefix` is the highest tag with nothing unconfirmed at or below it. Any other frame, a nack above all, raises
    StreamError.
    """

    __slots__ = ("_rest", "_singles", "prefix")

    def __init__(self) -> None:
        self.prefix = 0
        self._singles: set[int] = set()
        self._rest = b""

    @property
    def count(self) -> int:
        """Confirmed publishes."""
        return self.prefix + len(self._singles)

    def feed(self, data: bytes, published: int) -> None:
        """Take in the next bytes. Raises StreamError, also for a tag above `published`: that would open the window."""
        data = self._rest + data if self._rest else data
        frames, rest = divmod(len(data), ACK_BYTES)
        self._rest = data[len(data) - rest :] if rest else b""
        data = data[: frames * ACK_BYTES]
        if not data:
            return
        first = _ACK.unpack_from(data, 0)
        tags_low = data[_ACK_TAG_AT + 7 :: ACK_BYTES]
        start = (self.prefix + 1) & 255
        if (first[3:6] == (CLASS_BASIC, BASIC_ACK, self.prefix + 1) and not self._singles
                and not any(data[_ACK_FLAGS_AT::ACK_BYTES]) and tags_low == _LOW_BYTES[start : start + frames]
                and data[10::ACK_BYTES] == b"\x50" * frames):  # fmt: skip
            if self.prefix + frames > published:
                raise StreamError(f"confirm of {self.prefix + frames}, published {published}")
            self.prefix += frames  # One ack each, in order: nothing to unpack.
            return
        for kind, _, size, class_id, method_id, tag, flags, end in _ACK.iter_unpack(data):
            if (kind, size, class_id, method_id, end) != (FRAME_METHOD, 13, CLASS_BASIC, BASIC_ACK, FRAME_END):
                raise StreamError(f"not a confirm: {data[:80]!r}")
            if tag > published:
                raise StreamError(f"confirm of {tag}, published {published}")
            self._settle(tag, bool(flags & 1))

    def _settle(self, tag: int, multiple: bool) -> None:
        if multiple:
            if tag > self.prefix:
                self.prefix = tag
                self._singles = {single for single in self._singles if single > tag}
        elif tag == self.prefix + 1:
            self.prefix = tag
        else:
            self._singles.add(tag)
        while self._singles and self.prefix + 1 in self._singles:
            self.prefix += 1
            self._singles.remove(self.prefix)


def body_of(length_bytes: int, seed: int = 0) -> bytes:
    """A printable body of that length."""
    letters = b"abcdefghijklmnopqrstuvwxyz0123456789"
    return bytes(itertools.islice(itertools.cycle(letters[seed % 36 :] + letters[: seed % 36]), length_bytes))


def celery_properties(task_id: str) -> bytes:
    """The property block that Celery's task protocol 2 sends (about 800 bytes), with `task_id` where ids are unique."""
    return properties(
        content_type="application/json", content_encoding="utf-8", delivery_mode=2, priority=0, correlation_id=task_id,
        reply_to="3f9a2c51-0d6f-3c0b-9e57-6d1a7c2f4b18",
        headers={
            "lang": "py", "task": "shop.tasks.images.resize_to_thumbnail", "id": task_id, "shadow": None, "eta": None,
            "expires": None, "group": None, "group_index": None, "retries": 0, "timelimit": [None, None],
            "root_id": task_id, "parent_id": None,
            "argsrepr": "('/srv/media/originals/2026/11/photo-000123.jpg', (320, 240), 'customer-0004711')",
            "kwargsrepr": "{'quality': 85, 'progressive': True, 'destination': '/srv/media/thumbnails/2026/11', "
            "'watermark': None, 'notify': ['orders@shop.example'], 'trace': '00-4bf92f3577b34da6a3ce929d0e0e4736-01'}",
            "origin": "gen48213@orders-frontend-7d9c6b5f4-x2x9q", "ignore_result": False, "replaced_task_nesting": 0,
            "stamped_headers": None, "stamps": {},
        },
    )  # fmt: skip

"""Hot path. Content: a header frame and its body frames, kept as the octets that came (spec 4.2.6).

Budget: `scan` at most 1 µs for a message with a handful of properties; held by `jackalope bench amqp` (rows autoack
and celery). Owns the layout of the content header; properties stay raw, and are parsed only by who asks.

A *content* is the header frame and the body frames as one `bytes`, with the channel number of the publisher in it.
Property lists are walked once (so that a truncated one never reaches a consumer), but not parsed; the inside of the
headers table is looked at only by who needs a header, like RabbitMQ's clients would find it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from protocol.amqp.errors import INTERNAL_ERROR, UNEXPECTED_FRAME, PeerError
from protocol.amqp.fields import Timestamp, decode_table
from protocol.amqp.frames import BODY, FRAME_END, FRAME_HEAD, HEADER, content_frames, frame

BASIC_CLASS: Final = 60
# Property flags (spec 4.2.6.1): bit 15 is the first property.
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
PRIORITY, CORRELATION_ID, REPLY_TO, EXPIRATION = 1 << 11, 1 << 10, 1 << 9, 1 << 8
MESSAGE_ID, TIMESTAMP, TYPE, USER_ID, APP_ID, CLUSTER_ID = 1 << 7, 1 << 6, 1 << 5, 1 << 4, 1 << 3, 1 << 2
_RESERVED_FLAGS = 0b11  # No 14 + n-th property exists; bit 0 would announce another flag word.

PROPERTIES: Final[tuple[tuple[int, str, str], ...]] = (
    (CONTENT_TYPE, "content-type", "z"),
    (CONTENT_ENCODING, "content-encoding", "z"),
    (HEADERS, "headers", "F"),
    (DELIVERY_MODE, "delivery-mode", "o"),
    (PRIORITY, "priority", "o"),
    (CORRELATION_ID, "correlation-id", "z"),
    (REPLY_TO, "reply-to", "z"),
    (EXPIRATION, "expiration", "z"),
    (MESSAGE_ID, "message-id", "z"),
    (TIMESTAMP, "timestamp", "T"),
    (TYPE, "type", "z"),
    (USER_ID, "user-id", "z"),
    (APP_ID, "app-id", "z"),
    (CLUSTER_ID, "cluster-id", "z"),
)
"""(flag, name, wire type) in wire order."""

HEADER_FRAME: Final = struct.Struct(">BHIHHQH")
"""type, channel, size, class id, weight, body size, property flags: the fixed start of a content header frame."""
_HEADER_PAYLOAD = struct.Struct(">HHQH")
HEADER_PAYLOAD_MIN: Final = _HEADER_PAYLOAD.size
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

_WALKS: dict[int, str] = {}
"""Flag word -> the wire types of its properties; at most 2**14 entries."""


def _walk_of(flags: int) -> str:
    walk = _WALKS[flags] = "".join(letter for flag, _, letter in PROPERTIES if flags & flag)
    return walk


def properties_fit(data: bytes, flags: int, position: int, end: int) -> bool:
    """Whether the properties announced by `flags` fill [position, end) exactly. Looks at lengths only."""
    if flags & _RESERVED_FLAGS:
        return False
    walk = _WALKS.get(flags)
    if walk is None:
        walk = _walk_of(flags)
    for letter in walk:
        if position >= end:
            return False
        if letter == "z":
            position += 1 + data[position]
        elif letter == "o":
            position += 1
        elif letter == "T":
            position += 8
        elif position + 4 <= end:
            position += 4 + int.from_bytes(data[position : position + 4], "big")
        else:
            return False
    return position == end


NEED_DATA: Final = 0
IRREGULAR: Final = -1


def scan(data: bytes, position: int, end: int, channel: int, size_max: int) -> tuple[int, int, int]:
    """Recognise one regular content at `position`: a header frame and at most one body frame, both well-formed.

    Returns (position after it, property flags, length of header frame plus body frame head). While octets are missing:
    (NEED_DATA, 0, how many the content takes from `position` as far as is known). When the general path has to look
    (another channel, several body frames, a body above `size_max`, anything malformed): (IRREGULAR, 0, 0). It refuses,
    it never guesses and never raises.
    """
    if position + 22 > end:
        # A shorter frame of another kind must not be waited behind, so nothing is known before the first octet.
        if position >= end:
            return NEED_DATA, 0, 1
        return (NEED_DATA, 0, 22) if data[position] == HEADER else (IRREGULAR, 0, 0)
    frame_type, on_channel, size, class_id, weight, body_size, flags = HEADER_FRAME.unpack_from(data, position)
    if frame_type != HEADER or on_channel != channel or class_id != BASIC_CLASS or weight or size < HEADER_PAYLOAD_MIN:
        return IRREGULAR, 0, 0
    header_end = position + 7 + size
    if header_end >= end:
        return (NEED_DATA, 0, size + 8) if size <= size_max else (IRREGULAR, 0, 0)
    if data[header_end] != FRAME_END or body_size > size_max:
        return IRREGULAR, 0, 0
    if (flags or size != HEADER_PAYLOAD_MIN) and not properties_fit(data, flags, position + 21, header_end):
        return IRREGULAR, 0, 0
    if not body_size:
        return header_end + 1, flags, header_end + 1 - position
    body = header_end + 8
    if body > end:
        return NEED_DATA, 0, body + body_size + 1 - position
    frame_type, on_channel, size = FRAME_HEAD.unpack_from(data, header_end + 1)
    if frame_type != BODY or on_channel != channel or size != body_size:
        return IRREGULAR, 0, 0
    body_end = body + size
    if body_end >= end:
        return NEED_DATA, 0, body_end + 1 - position
    if data[body_end] != FRAME_END:
        return IRREGULAR, 0, 0
    return body_end + 1, flags, body - position


def parse_header(payload: bytes) -> tuple[int, int]:
    """(body size, property flags) of a content header payload of class basic.

    Raises PeerError 505 for another class or a weight, 541 for a property list that does not fit (RabbitMQ 3.1/18-19).
    """
    culprit = (BASIC_CLASS, 40)
    if len(payload) < HEADER_PAYLOAD_MIN:
        raise PeerError(INTERNAL_ERROR)
    class_id, weight, body_size, flags = _HEADER_PAYLOAD.unpack_from(payload)
    if class_id != BASIC_CLASS:
        text = f"expected content header for class {BASIC_CLASS}, got one for class {class_id} instead"
        raise PeerError(UNEXPECTED_FRAME, text, *culprit)
    if weight:
        text = f"expected content header for class {BASIC_CLASS}, got non content header frame instead"
        raise PeerError(UNEXPECTED_FRAME, text, *culprit)
    if not properties_fit(payload, flags, HEADER_PAYLOAD_MIN, len(payload)):
        raise PeerError(INTERNAL_ERROR)
    return body_size, flags


def header_payload(content: bytes) -> bytes:
    """The payload of the header frame of a content."""
    return content[7 : 7 + _U32.unpack_from(content, 3)[0]]


def body_size(content: bytes) -> int:
    """Octets of the body, as the header declares them."""
    return int(_U64.unpack_from(content, 11)[0])


def body(content: bytes) -> bytes:
    """The body, joined from its frames."""
    position = 8 + int(_U32.unpack_from(content, 3)[0])
    parts = []
    while position < len(content):
        size = int(_U32.unpack_from(content, position + 3)[0])
        parts.append(content[position + 7 : position + 7 + size])
        position += size + 8
    return b"".join(parts)


def on_channel(content: bytes, channel: int, frame_max: int) -> bytes:
    """The content re-framed for another channel or a smaller `frame_max`; property octets and body are unchanged."""
    return content_frames(channel, header_payload(content), body(content), frame_max)


def _read(letter: str, data: bytes, position: int) -> tuple[Any, int]:
    if letter == "z":
        end = position + 1 + data[position]
        return data[position + 1 : end].decode("utf-8", "surrogateescape"), end
    if letter == "o":
        return data[position], position + 1
    if letter == "T":
        return Timestamp(_U64.unpack_from(data, position)[0]), position + 8
    return decode_table(data, position)


def parse_properties(content_header: bytes, names: frozenset[str] | None = None) -> dict[str, Any]:
    """Properties present in a content header payload that was checked before, by AMQP name, in wire order.

    `names` limits what is decoded. Raises PeerError 502 when the headers table is malformed inside.
    """
    flags = _HEADER_PAYLOAD.unpack_from(content_header)[3]
    position = HEADER_PAYLOAD_MIN
    values: dict[str, Any] = {}
    for flag, name, letter in PROPERTIES:
        if flags & flag:
            if letter == "F" and names is not None and name not in names:
                position += 4 + _U32.unpack_from(content_header, position)[0]
                continue
            value, position = _read(letter, content_header, position)
            if names is None or name in names:
                values[name] = value
    return values


def _locate(content_header: bytes, name: str) -> tuple[int, int]:
    """Where in a content header payload the octets of one property stand. Raises KeyError when it is absent."""
    flags = _HEADER_PAYLOAD.unpack_from(content_header)[3]
    position = HEADER_PAYLOAD_MIN
    for flag, known, letter in PROPERTIES:
        if flags & flag:
            _, end = _read(letter, content_header, position)
            if known == name:
                return position, end
            position = end
    raise KeyError(name)


def property_octets(content: bytes, name: str) -> bytes:
    """One property, which the content has, as it stands on the wire (length prefix included)."""
    header = header_payload(content)
    start, end = _locate(header, name)
    return header[start:end]


def with_properties(content: bytes, changes: Mapping[str, bytes | None], channel: int | None = None) -> bytes:
    """The content with these properties given other octets (length prefix included), or removed (None).

    All others and the body frames keep theirs; `channel` gives it another channel number.
    """
    header = header_payload(content)
    _, _, size, flags = _HEADER_PAYLOAD.unpack_from(header)
    position = HEADER_PAYLOAD_MIN
    parts = []
    for flag, name, letter in PROPERTIES:
        octets: bytes | None = None
        if flags & flag:
            _, end = _read(letter, header, position)
            octets = header[position:end]
            position = end
        octets = changes.get(name, octets)
        if octets is None:
            flags &= ~flag
        else:
            flags |= flag
            parts.append(octets)
    payload = _HEADER_PAYLOAD.pack(BASIC_CLASS, 0, size, flags) + b"".join(parts)
    number = int.from_bytes(content[1:3], "big") if channel is None else channel
    rest = content[len(header) + 8 :]
    if channel is not None and rest:
        rest = frame(BODY, channel, body(content))
    return frame(HEADER, number, payload) + rest


def encode_content(channel: int, properties: bytes, flags: int, data: bytes, frame_max: int) -> bytes:
    """A content from scratch: `properties` are the octets after the flag word."""
    return content_frames(channel, _HEADER_PAYLOAD.pack(BASIC_CLASS, 0, len(data), flags) + properties, data, frame_max)

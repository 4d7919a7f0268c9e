"""Frames (spec 4.2.3): cutting them out of a byte stream, and building them.

The general path: one frame at a time, every check made, the precise error raised. The hot paths (`content.scan`, and
the publish and ack loops of the server) recognise what is regular in the same bytes and leave the rest to this module.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.amqp.errors import FRAME_ERROR, UNEXPECTED_FRAME, PeerError
from protocol.amqp.methods import encode_method, erlang_binary

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
OVERHEAD: Final = 8
"""Octets of a frame that are not payload: type, channel, size, end."""
FRAME_MAX_MIN: Final = 4096

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
OLD_PROTOCOL_HEADERS: Final = frozenset({b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x08\x00", b"AMQP\x01\x01\x09\x01"})
"""Accepted as 0-9-1, as RabbitMQ does for old clients."""

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME_HEAD: Final = struct.Struct(">BHI")
_TYPES = frozenset({METHOD, HEADER, BODY, HEARTBEAT})


def next_frame(data: bytes, position: int, frame_max: int) -> tuple[int, int, bytes, int] | int:
    """(type, channel, payload, position after it); while octets are missing, how many the frame takes from `position`.

    Raises PeerError 501 for a payload above `frame_max` (with the 8 octets of grace that RabbitMQ gives), a wrong
    end octet or an unknown type, 505 for a heartbeat on a channel.
    """
    available = len(data) - position
    if available < 7:
        return 7
    frame_type, channel, size = FRAME_HEAD.unpack_from(data, position)
    if size > frame_max:
        text = f"type {frame_type}, all octets = <<>>: {{frame_too_large,{size},{frame_max - OVERHEAD}}}"
        raise PeerError(FRAME_ERROR, text)
    if available < size + OVERHEAD:
        return int(size + OVERHEAD)
    end = position + 7 + size
    payload = data[position + 7 : end]
    if data[end] != FRAME_END:
        octets = erlang_binary(payload)
        raise PeerError(
            FRAME_ERROR, f"type {frame_type}, all octets = {octets}: {{invalid_frame_end_marker,{data[end]}}}"
        )
    if frame_type not in _TYPES or (frame_type == HEARTBEAT and payload):
        raise PeerError(FRAME_ERROR, f"type {frame_type}, all octets = {erlang_binary(payload)}: unknown_frame")
    if frame_type == HEARTBEAT and channel:
        raise PeerError(UNEXPECTED_FRAME, f"type {frame_type}, all octets = <<>>")
    return frame_type, channel, payload, end + 1


def frame(frame_type: int, channel: int, payload: bytes) -> bytes:
    """One whole frame."""
    return b"%b%b\xce" % (FRAME_HEAD.pack(frame_type, channel, len(payload)), payload)


def method_frame(channel: int, name: str, *values: object) -> bytes:
    """The frame of the method called `name`."""
    return frame(METHOD, channel, encode_method(name, *values))


def content_frames(channel: int, header_payload: bytes, body: bytes, frame_max: int) -> bytes:
    """Header frame and as many body frames as `frame_max` asks for (none for an empty body)."""
    size_max = frame_max - OVERHEAD
    parts = [frame(HEADER, channel, header_payload)]
    parts += [frame(BODY, channel, body[start : start + size_max]) for start in range(0, len(body), size_max)]
    return b"".join(parts)

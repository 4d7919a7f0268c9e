"""The methods of AMQP 0-9-1 with RabbitMQ's extensions, as a table, and the codec that is compiled from it.

Each row is `name: (class id, method id, argument types)`. The types, in wire order: `o` octet, `s` short, `l` long,
`q` longlong, `z` shortstr (str), `Z` longstr (bytes), `F` table (dict), `b` bit (packed into shared octets, bool).
A method's number is the 32-bit class id << 16 | method id; codecs are found by it.
Sources: spec XML `amqp0-9-1.stripped.extended.xml`; connection.blocked/unblocked/update-secret, exchange.bind/unbind,
basic.nack and the confirm class are RabbitMQ's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from protocol.amqp.errors import FRAME_ERROR, PeerError
from protocol.amqp.fields import decode_table, encode_table

METHODS: dict[str, tuple[int, int, str]] = {
    "connection.start": (10, 10, "ooFZZ"),
    "connection.start-ok": (10, 11, "FzZz"),
    "connection.secure": (10, 20, "Z"),
    "connection.secure-ok": (10, 21, "Z"),
    "connection.tune": (10, 30, "sls"),
    "connection.tune-ok": (10, 31, "sls"),
    "connection.open": (10, 40, "zzb"),
    "connection.open-ok": (10, 41, "z"),
    "connection.close": (10, 50, "szss"),
    "connection.close-ok": (10, 51, ""),
    "connection.blocked": (10, 60, "z"),
    "connection.unblocked": (10, 61, ""),
    "connection.update-secret": (10, 70, "Zz"),
    "connection.update-secret-ok": (10, 71, ""),
    "channel.open": (20, 10, "z"),
    "channel.open-ok": (20, 11, "Z"),
    "channel.flow": (20, 20, "b"),
    "channel.flow-ok": (20, 21, "b"),
    "channel.close": (20, 40, "szss"),
    "channel.close-ok": (20, 41, ""),
    "access.request": (30, 10, "zbbbbb"),
    "access.request-ok": (30, 11, "s"),
    "exchange.declare": (40, 10, "szzbbbbbF"),
    "exchange.declare-ok": (40, 11, ""),
    "exchange.delete": (40, 20, "szbb"),
    "exchange.delete-ok": (40, 21, ""),
    "exchange.bind": (40, 30, "szzzbF"),
    "exchange.bind-ok": (40, 31, ""),
    "exchange.unbind": (40, 40, "szzzbF"),
    "exchange.unbind-ok": (40, 51, ""),
    "queue.declare": (50, 10, "szbbbbbF"),
    "queue.declare-ok": (50, 11, "zll"),
    "queue.bind": (50, 20, "szzzbF"),
    "queue.bind-ok": (50, 21, ""),
    "queue.purge": (50, 30, "szb"),
    "queue.purge-ok": (50, 31, "l"),
    "queue.delete": (50, 40, "szbbb"),
    "queue.delete-ok": (50, 41, "l"),
    "queue.unbind": (50, 50, "szzzF"),
    "queue.unbind-ok": (50, 51, ""),
    "basic.qos": (60, 10, "lsb"),
    "basic.qos-ok": (60, 11, ""),
    "basic.consume": (60, 20, "szzbbbbF"),
    "basic.consume-ok": (60, 21, "z"),
    "basic.cancel": (60, 30, "zb"),
    "basic.cancel-ok": (60, 31, "z"),
    "basic.publish": (60, 40, "szzbb"),
    "basic.return": (60, 50, "szzz"),
    "basic.deliver": (60, 60, "zqbzz"),
    "basic.get": (60, 70, "szb"),
    "basic.get-ok": (60, 71, "qbzzl"),
    "basic.get-empty": (60, 72, "z"),
    "basic.ack": (60, 80, "qb"),
    "basic.reject": (60, 90, "qb"),
    "basic.recover-async": (60, 100, "b"),
    "basic.recover": (60, 110, "b"),
    "basic.recover-ok": (60, 111, ""),
    "basic.nack": (60, 120, "qbb"),
    "confirm.select": (85, 10, "b"),
    "confirm.select-ok": (85, 11, ""),
    "tx.select": (90, 10, ""),
    "tx.select-ok": (90, 11, ""),
    "tx.commit": (90, 20, ""),
    "tx.commit-ok": (90, 21, ""),
    "tx.rollback": (90, 30, ""),
    "tx.rollback-ok": (90, 31, ""),
}

Decoder = Callable[[bytes], tuple[Any, ...]]
Encoder = Callable[..., bytes]

_INTEGERS = {"o": struct.Struct(">B"), "s": struct.Struct(">H"), "l": struct.Struct(">I"), "q": struct.Struct(">Q")}
_U32 = struct.Struct(">I")


def method_number(name: str) -> int:
    """class id << 16 | method id."""
    class_id, method_id, _ = METHODS[name]
    return class_id << 16 | method_id


def erlang_binary(data: bytes, shown_bytes_max: int = 32) -> str:
    """How RabbitMQ prints octets in its error texts: `<<"abc">>`, `<<0,20>>`; cut, since the peer chose the length."""
    data = data[:shown_bytes_max]
    if data and all(32 <= octet < 127 for octet in data):
        return f'<<"{data.decode()}">>'
    return f"<<{','.join(map(str, data))}>>"


def _shortstr(payload: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + payload[position]
    if end > len(payload):
        raise IndexError
    try:
        return str(payload[position + 1 : end], "utf-8"), end
    except UnicodeDecodeError:
        raise PeerError(FRAME_ERROR, "Malformed UTF-8 in shortstr") from None


def _longstr(payload: bytes, position: int) -> tuple[bytes, int]:
    start = position + 4
    end = start + int(_U32.unpack_from(payload, position)[0])
    if end > len(payload):
        raise IndexError
    return payload[start:end], end


def _integer(layout: struct.Struct) -> Callable[[bytes, int], tuple[int, int]]:
    def read(payload: bytes, position: int) -> tuple[int, int]:
        return layout.unpack_from(payload, position)[0], position + layout.size

    return read


_READERS: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    **{letter: _integer(layout) for letter, layout in _INTEGERS.items()},
    "z": _shortstr,
    "Z": _longstr,
    "F": decode_table,
}


def _compile_decoder(class_id: int, method_id: int, types: str) -> Decoder:
    """A function from the whole method payload (class id first) to the tuple of argument values."""

    def decode(payload: bytes) -> tuple[Any, ...]:
        values: list[Any] = []
        position = 4
        bit = 0
        try:
            for letter in types:
                if letter == "b":
                    if bit == 0:
                        bits = payload[position]
                        position += 1
                    values.append(bool(bits >> bit & 1))
                    bit = bit + 1 & 7
                else:
                    bit = 0
                    value, position = _READERS[letter](payload, position)
                    values.append(value)
            if position != len(payload):
                raise IndexError  # As long as its arguments, not longer (RabbitMQ matches the end as well).
        except (IndexError, struct.error):
            text = f"cannot decode {erlang_binary(payload[4:])}"
            raise PeerError(FRAME_ERROR, text, class_id, method_id) from None
        return tuple(values)

    return decode


def _write(letter: str, value: Any) -> bytes:
    if letter == "z":
        raw: bytes = value.encode()
        return bytes([len(raw)]) + raw
    if letter == "Z":
        return _U32.pack(len(value)) + bytes(value)
    if letter == "F":
        return encode_table(value)
    return _INTEGERS[letter].pack(value)


def _compile_encoder(class_id: int, method_id: int, types: str) -> Encoder:
    head = struct.pack(">HH", class_id, method_id)

    def encode(*values: Any) -> bytes:
        assert len(values) == len(types), (class_id, method_id)
        parts = [head]
        bits = width = 0
        for letter, value in zip(types, values, strict=True):
            if letter == "b":
                bits |= bool(value) << width
                width += 1
                continue
            if width:
                parts.append(bytes([bits]))
                bits = width = 0
            parts.append(_write(letter, value))
        if width:
            parts.append(bytes([bits]))
        return b"".join(parts)

    return encode


NAMES: dict[int, str] = {method_number(name): name for name in METHODS}
DECODERS: dict[int, Decoder] = {method_number(name): _compile_decoder(*row) for name, row in METHODS.items()}
ENCODERS: dict[str, Encoder] = {name: _compile_encoder(*row) for name, row in METHODS.items()}


def encode_method(name: str, *values: Any) -> bytes:
    """The payload of a method frame. Raises ValueError/struct.error when a value does not fit its wire type."""
    return ENCODERS[name](*values)

"""Field tables and arrays (spec 4.2.5.5, with RabbitMQ's type letters).

Owns the mapping between wire letters and Python values, and the limits on what a peer may make us build. Knows
nothing of methods or frames.

| letters | Python | | letters | Python |
|---|---|---|---|---|
| t | bool | | S | str (bytes when not UTF-8) |
| b B s u I i l L | int | | x | bytes |
| f d | float | | T | Timestamp (int, seconds) |
| D | decimal.Decimal | | F, A | dict, list |
| V | None | | | |

Invariants: never allocates by a declared length; depth and element count are bounded before descending.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from protocol.amqp.errors import SYNTAX_ERROR, PeerError

DEPTH_MAX = 32
"""Precedent: CVE-2026-69220, where 580 nested tables in one pre-login frame overflowed a stack."""
ELEMENTS_MAX = 4096
"""Per outermost table. Zero-width elements (`V`) make a 128 KiB frame hold 100,000 of them otherwise."""


class Timestamp(int):
    """Seconds since the epoch (letter `T`); an int that remembers its letter when encoded again."""

    __slots__ = ()


class Long(int):
    """A number that is encoded as 64 bits (letter `l`) however small it is: clients in typed languages cast."""

    __slots__ = ()


_FIXED: dict[int, struct.Struct] = {
    ord(letter): struct.Struct(layout)
    for letter, layout in {
        "b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">Q", "f": ">f", "d": ">d",
    }.items()
}  # fmt: skip
_U8 = struct.Struct(">B")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
EMPTY_TABLE = _U32.pack(0)
_BOOL, _LONGSTR, _BYTES, _TABLE, _ARRAY, _VOID, _TIMESTAMP, _DECIMAL = b"tSxFAVTD"


def _malformed(text: str) -> PeerError:
    return PeerError(SYNTAX_ERROR, text)


class _Reader:
    """Counts elements while one outermost table is read."""

    __slots__ = ("data", "elements_left")

    def __init__(self, data: bytes, elements_max: int) -> None:
        self.data = data
        self.elements_left = elements_max

    def span(self, position: int, end: int) -> tuple[int, int]:
        """The (start, end) of what a 32-bit length at `position` announces, within `end`."""
        if position + 4 > end:
            raise _malformed("field table ends inside a length")
        start = position + 4
        stop = start + int(_U32.unpack_from(self.data, position)[0])
        if stop > end:
            raise _malformed("field longer than what holds it")
        return start, stop

    def count(self, depth: int) -> None:
        self.elements_left -= 1
        if self.elements_left < 0:
            raise _malformed("field table has too many elements")
        if depth > DEPTH_MAX:
            raise _malformed("field table nested too deeply")

    def table(self, position: int, end: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        data = self.data
        while position < end:
            name_end = position + 1 + data[position]
            if name_end >= end:
                raise _malformed("field table ends inside a name")
            try:
                name = str(data[position + 1 : name_end], "utf-8")
            except UnicodeDecodeError:
                raise _malformed("field name is not UTF-8") from None
            result[name], position = self.value(name_end, end, depth)
        return result

    def array(self, position: int, end: int, depth: int) -> list[Any]:
        result: list[Any] = []
        while position < end:
            item, position = self.value(position, end, depth)
            result.append(item)
        return result

    def value(self, position: int, end: int, depth: int) -> tuple[Any, int]:
        self.count(depth)
        data = self.data
        letter = data[position]
        position += 1
        fixed = _FIXED.get(letter)
        if fixed is not None:
            if position + fixed.size > end:
                raise _malformed("field table ends inside a value")
            return fixed.unpack_from(data, position)[0], position + fixed.size
        if letter in (_LONGSTR, _BYTES, _TABLE, _ARRAY):
            start, stop = self.span(position, end)
            if letter == _TABLE:
                return self.table(start, stop, depth + 1), stop
            if letter == _ARRAY:
                return self.array(start, stop, depth + 1), stop
            raw = data[start:stop]
            return (_text_or_bytes(raw) if letter == _LONGSTR else raw), stop
        return self.rare(letter, position, end)

    def rare(self, letter: int, position: int, end: int) -> tuple[Any, int]:
        if letter == _VOID:
            return None, position
        width = {_BOOL: 1, _TIMESTAMP: 8, _DECIMAL: 5}.get(letter)
        if width is None:
            raise _malformed(f"unknown field type {letter}")
        if position + width > end:
            raise _malformed("field table ends inside a value")
        data = self.data
        if letter == _BOOL:
            return data[position] != 0, position + 1
        if letter == _TIMESTAMP:
            return Timestamp(_U64.unpack_from(data, position)[0]), position + 8
        return Decimal(_I32.unpack_from(data, position + 1)[0]).scaleb(-data[position]), position + 5


def _text_or_bytes(raw: bytes) -> str | bytes:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


def decode_table(data: bytes, position: int = 0, elements_max: int = ELEMENTS_MAX) -> tuple[dict[str, Any], int]:
    """Decode the table whose 32-bit length stands at `position`; returns (values, position after it).

    Of names that repeat the last wins. Raises PeerError (502) for anything malformed or past a limit.
    """
    reader = _Reader(data, elements_max)
    start, stop = reader.span(position, len(data))
    return reader.table(start, stop, 1), stop


def without_entry(table: bytes, name: str) -> bytes:
    """The same table, length included, without the entries of that name; every other octet stays as it was."""
    reader = _Reader(table, ELEMENTS_MAX)
    position, stop = reader.span(0, len(table))
    wanted = name.encode()
    kept = []
    while position < stop:
        name_end = position + 1 + table[position]
        _, after = reader.value(name_end, stop, 1)
        if table[position + 1 : name_end] != wanted:
            kept.append(table[position:after])
        position = after
    body = b"".join(kept)
    return _U32.pack(len(body)) + body


def with_entries(table: bytes, values: Mapping[str, Any]) -> bytes:
    """The same table, length included, with these entries at its end instead of any of their names that it had.

    Raises PeerError 502 when the table is malformed inside.
    """
    for name in values:
        table = without_entry(table, name)
    added = encode_table(values)
    return _U32.pack(len(table) + len(added) - 8) + table[4:] + added[4:]


def _pack_value(value: Any, depth: int) -> bytes:
    if isinstance(value, str):  # First: most are.
        raw = value.encode()
        return b"S" + _U32.pack(len(raw)) + raw
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, Timestamp):
        return b"T" + _U64.pack(value)
    if isinstance(value, int):
        return _pack_int(value)
    if isinstance(value, bytes):
        return b"x" + _U32.pack(len(value)) + value
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, Decimal):
        return _pack_decimal(value)
    if isinstance(value, Mapping):
        return b"F" + encode_table(value, depth + 1)
    if isinstance(value, Sequence):
        return _pack_array(value, depth + 1)
    raise TypeError(f"no field type for {type(value).__name__}")


def _pack_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31 and not isinstance(value, Long):
        return b"I" + _I32.pack(value)
    # What came as `L` has to fit again: definitions are stored anew.
    return b"l" + struct.pack(">q", value) if value < 2**63 else b"L" + _U64.pack(value)


def _pack_array(values: Sequence[Any], depth: int) -> bytes:
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    body = b"".join([_pack_value(value, depth) for value in values])
    return b"A" + _U32.pack(len(body)) + body


def _pack_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1) * 10 ** max(exponent, 0)
    return b"D" + bytes([max(-exponent, 0)]) + _I32.pack(unscaled)


def encode_table(values: Mapping[str, Any], depth: int = 1) -> bytes:
    """The table with its length. Raises TypeError, ValueError or struct.error for what no table can carry."""
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    if not values:
        return EMPTY_TABLE
    parts = []
    for name, value in values.items():
        raw = name.encode()
        parts.append(_U8.pack(len(raw)) + raw + _pack_value(value, depth))
    body = b"".join(parts)
    return _U32.pack(len(body)) + body

"""Hot path. Messages to octets and back: what `readers` and `writers` make, called so that one error can come out.

Budget: 0.5 µs beside what the function that is called takes; held by `jackalope bench kafka-codec`.
Octets that are not what a class and a version say raise MalformedRequest, with the field and the octet, and nothing
else. A value that cannot be written is a mistake of ours: ValueError, with the field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from protocol.kafka.readers import ELEMENTS_MAX, ERRORS, reader
from protocol.kafka.schema import MalformedRequest
from protocol.kafka.source import where
from protocol.kafka.writers import steps_of, writer


def read(cls: Any, version: int, data: bytes | memoryview, position: int, *, is_flexible: bool) -> tuple[Any, int]:
    """(a struct, the position behind it). Raises MalformedRequest."""
    try:
        return reader(cls, version, is_flexible=is_flexible)(data, position, len(data), [ELEMENTS_MAX])
    except ERRORS as error:
        raise malformed(error) from None


def malformed(error: Exception) -> MalformedRequest:
    """What to raise for one of ERRORS: with what was being read, and where."""
    return MalformedRequest(f"{where(error.__traceback__)}{error}")


def write(value: Any, version: int, out: list[Any], large: list[int], *, is_flexible: bool) -> None:
    """Append the pieces of a struct to `out`, and to `large` the indices of those that are better not copied.

    Raises ValueError.
    """
    try:
        writer(type(value), version, is_flexible=is_flexible)(value, out, large)
    except (struct.error, AttributeError, TypeError) as error:
        raise ValueError(f"{where(error.__traceback__)}{error}") from error


def write_steps(value: Any, version: int, out: list[Any], large: list[int], *, is_flexible: bool) -> Iterator[None]:
    """Do what `write` does, with pauses. Raises ValueError."""
    try:
        yield from steps_of(type(value), version, is_flexible=is_flexible)(value, out, large)
    except (struct.error, AttributeError, TypeError) as error:
        raise ValueError(f"{where(error.__traceback__)}{error}") from error


def encode(value: Any, version: int, *, is_flexible: bool) -> bytes:
    """The octets of a struct. Raises ValueError."""
    out: list[Any] = []
    write(value, version, out, [], is_flexible=is_flexible)
    return b"".join(out)

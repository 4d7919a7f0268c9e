"""What requests say in queries and bodies, checked: numbers, octets as text, and places in a partition."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import time
from collections.abc import Generator, Mapping
from typing import Any

from broker.core.intervals import OFFSET_MAX, Place, moment_ms, place_of
from broker.core.topics.partition import EARLIEST, LATEST, Partition
from broker.server.http.api import HttpError

NUMBER_MAX = OFFSET_MAX
PAUSE_S = 0.002
STRING, BASE64 = "string", "base64"
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_SHIFT = re.compile(r"[+-][0-9]{1,18}")


def bad(reason: str) -> HttpError:
    """400, and why."""
    return HttpError(400, "bad_request", reason)


def number(given: Any, name: str, default: int, least: int = 0, most: int = NUMBER_MAX) -> int:
    """An integer, written as one or as text; `default` where it is not given. Raises HttpError 400."""
    try:
        found = int(given) if given is not None and not isinstance(given, (bool, float)) else default
    except (TypeError, ValueError):
        found = least - 1
    if isinstance(given, (bool, float)) or not least <= found <= most:
        upper = "on" if most == NUMBER_MAX else f"to {most}"
        raise bad(f"{name} is an integer from {least} {upper}")
    return found


def flag(given: Mapping[str, Any], name: str) -> bool:
    """True or false; false where it is not given. Raises HttpError 400."""
    found = given.get(name, False)
    if not isinstance(found, bool):
        raise bad(f"{name} is true or false")
    return found


def only(given: Mapping[str, Any], what: str, *names: str) -> None:
    """Raises HttpError 400 for a name that means nothing: it is a mistake of whoever wrote it."""
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise bad(f"unknown field '{unknown[0]}' of {what}; there are {', '.join(names)}")


class Pauses:
    """Says when an answer has been worked on long enough, and others have to have a turn."""

    def __init__(self) -> None:
        self._due = time.perf_counter() + PAUSE_S

    def is_due(self) -> bool:
        """Whether it is time; the next step begins then."""
        if time.perf_counter() < self._due:
            return False
        self._due = time.perf_counter() + PAUSE_S
        return True


# Octets.


def shown(octets: bytes | None, bytes_max: int | None = None) -> tuple[str | None, str]:
    """(text, its encoding): as it is where it is UTF-8, else base64; None stays None. Cut to `bytes_max` octets."""
    if octets is None:
        return None, STRING
    is_cut = bytes_max is not None and len(octets) > bytes_max
    part = octets[:bytes_max] if is_cut else octets
    try:
        # A cut may go through a character, which is left out then.
        return codecs.getincrementaldecoder("utf-8")().decode(part, final=not is_cut), STRING
    except UnicodeDecodeError:
        return base64.b64encode(part).decode(), BASE64


def octets_of(text: Any, encoding: Any, name: str) -> bytes | None:
    """What `shown` was given. Raises HttpError 400."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise bad(f"{name} is a string or null")
    if encoding == STRING:
        return text.encode()
    if encoding != BASE64:
        raise bad(f"the encoding of {name} is '{STRING}' or '{BASE64}'")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{name} is not base64") from None


# Places.


def find_offset(place: Place, partition: Partition) -> Generator[None, None, int]:
    """The offset of a place in a partition, in steps; not of a shift. Raises Corrupt and OSError.

    A time that is behind all records is the end.
    """
    if place.kind == "earliest":
        return partition.offset_for(EARLIEST).offset
    if place.kind == "latest":
        return partition.offset_for(LATEST).offset
    if place.kind == "offset":
        return place.value
    found = yield from first_at(partition, place.value)
    return found[1] if found[1] >= 0 else partition.high_watermark


def first_at(partition: Partition, timestamp_ms: int) -> Generator[None, None, tuple[int, int]]:
    """(time, offset) of the first record at or behind a time, (-1, -1) for none. Raises Corrupt and OSError."""
    steps = partition.find_offset(timestamp_ms)
    while True:
        yield
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[int, int] = end.value
            return found


def moment(given: str, name: str, now_ms: int) -> int:
    """The time that a text means, in milliseconds since 1970. Raises HttpError 400."""
    if _MILLISECONDS.fullmatch(given):
        return int(given)
    time_ms = moment_ms(given, now_ms)
    if time_ms is None:
        raise bad(f"{name} is a time (ISO 8601), an age like 5m, or milliseconds since 1970")
    return time_ms


def place(given: Any, name: str, now_ms: int, *, may_shift: bool = False) -> Place:
    """The place in a partition that a text or number means. Raises HttpError 400."""
    if given in ("earliest", "latest"):
        return Place(given)
    if may_shift and isinstance(given, str) and _SHIFT.fullmatch(given):
        return Place("shift", int(given))
    try:
        return place_of(given, now_ms)
    except ValueError:
        more = ", +N, -N" if may_shift else ""
        raise bad(f"{name} is 'earliest', 'latest', an offset{more}, a time (ISO 8601) or an age like 5m") from None

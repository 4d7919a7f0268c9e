"""Intervals as RabbitMQ writes them ("7D", "5m"), and places in a log: an offset, a time, or an interval ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

UNIT_S = {"Y": 365 * 86_400, "M": 30 * 86_400, "D": 86_400, "h": 3600, "m": 60, "s": 1}
"""RabbitMQ's units of ages and intervals."""
OFFSET_MAX = (1 << 63) - 1
_INTERVAL = re.compile(r"([0-9]{1,10})([YMDhms])")
_OFFSET = re.compile(r"[0-9]{1,19}")


def interval_ms(text: str) -> int | None:
    """ "7D", "5m" and the like; None for anything else."""
    match = _INTERVAL.fullmatch(text)
    return int(match[1]) * UNIT_S[match[2]] * 1000 if match else None


def moment_ms(text: str, now_ms: int) -> int | None:
    """Of a time in ISO 8601 (UTC unless it says otherwise), or an age such as "5m" at `now_ms`; None for no time."""
    age_ms = interval_ms(text)
    if age_ms is not None:
        return max(now_ms - age_ms, 0)
    if text.isdecimal():
        return None  # ISO 8601 would take some numbers for dates.
    try:
        found = datetime.fromisoformat(text)
        return max(int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp() * 1000), 0)
    except (ValueError, OverflowError):
        return None


class Place(NamedTuple):
    """Where something begins or ends in a log."""

    kind: Literal["offset", "time", "earliest", "latest", "shift"]
    value: int = 0
    """The offset; of a time milliseconds since 1970; of a shift how many records on, below zero for back."""


def place_of(given: Any, now_ms: int) -> Place:
    """Of an offset (a number), an interval before `now_ms` or a time in ISO 8601 (UTC unless it says otherwise).

    Raises ValueError for anything else.
    """
    text = str(given)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"{text[:40]} is no offset")
    if _OFFSET.fullmatch(text) and int(text) <= OFFSET_MAX:
        return Place("offset", int(text))
    time_ms = moment_ms(text, now_ms)
    if time_ms is None:
        raise ValueError(f"'{text[:40]}' is no offset, no time like 2026-11-28T12:00 and no interval like 30m")
    return Place("time", time_ms)

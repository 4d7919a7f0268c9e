"""JSON both ways: what a request may hold, and answers, whose listings are encoded in slices."""

from __future__ import annotations

import json
import math
from typing import Any

import trio

from broker.server.http.api import Listing, split_target

SLICE_S = 0.002
"""How long a listing is worked on between checkpoints."""


def with_columns(result: Any, target: str) -> Any:
    """The rows of a list with the columns that were asked for (?columns=)."""
    columns = split_target(target)[1].get("columns", "")
    if not isinstance(result, Listing) or not columns:
        return result
    view = result.view
    names = columns.split(",")
    return Listing(result.rows, lambda row: pick(view(row), names))


def pick(row: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """Only these columns; `a.b` reaches into a nested object (RabbitMQ's ?columns=)."""
    chosen: dict[str, Any] = {}
    for column in columns:
        value: Any = row
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        chosen[column] = value
    return chosen


def number(text: str) -> float:
    """1e999 is JSON, and larger than any number here."""
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found


def no_number(name: str) -> float:
    """NaN and the infinities are no JSON, and no count of anything."""
    raise ValueError(name)


def to_json(value: Any) -> str:
    """JSON of anything a field table may hold: bytes as text, decimals and timestamps as numbers."""

    def odd(one: Any) -> Any:
        return one.decode("utf-8", "replace") if isinstance(one, bytes) else float(one)

    return json.dumps(value, default=odd)


async def encode(value: Any) -> str:
    """JSON of an answer; its listings in slices."""
    if isinstance(value, Listing):
        return await _encode_listing(value)
    if isinstance(value, dict) and any(isinstance(one, Listing) for one in value.values()):
        return "{" + ",".join([f"{to_json(name)}:{await encode(one)}" for name, one in value.items()]) + "}"
    return to_json(value)


async def _encode_listing(listing: Listing) -> str:
    parts: list[str] = []
    due = trio.current_time() + SLICE_S
    for row in listing.rows:
        if row is not None:
            parts.append(to_json(listing.view(row)))
        if trio.current_time() >= due:
            await trio.lowlevel.checkpoint()
            due = trio.current_time() + SLICE_S
    return "[" + ",".join(parts) + "]"

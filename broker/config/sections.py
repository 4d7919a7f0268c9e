"""Readers of mappings: sections with known keys, and names with entries.

Mistakes of single keys are collected in the `Reading`, so that one run reports every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from broker.config.kinds import Kind, Reading, Wrong, did_you_mean, shown
from broker.config.source import Item

T = TypeVar("T")

NAME_BYTES_MAX = 255
"""AMQP's short string (spec 4.2.5.3)."""


def read_struct(cls: type[T], item: Item, path: str, reading: Reading, **given: Any) -> T:
    """An instance of the dataclass; mistakes of single keys are collected and the key's default is used on."""
    if item.value is not None and not isinstance(item.value, dict):
        raise Wrong(item, path, f"expected a mapping, got {shown(item)}")
    values: dict[str, Any] = given
    entries: dict[str, Item] = item.value or {}
    known = {f.name: f for f in fields(cls) if "kind" in f.metadata}  # type: ignore[arg-type]
    prefix = f"{path}." if path else ""
    for name, entry in entries.items():
        if name not in known:
            reading.note(Wrong(entry, prefix + name, f"unknown key{did_you_mean(name, known)}"))
            continue
        kind: Kind[Any] = known[name].metadata["kind"]
        if entry.value is None and not kind.nullable:
            continue
        try:
            values[name] = kind.read(entry, prefix + name, reading)
        except Wrong as wrong:
            reading.note(wrong)
            values.setdefault(name, None)
            if known[name].default is not MISSING or known[name].default_factory is not MISSING:
                del values[name]
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            reading.note(Wrong(item, prefix + name, "must be given"))
            values[name] = None
    return cls(**values)


def struct(cls: type[T]) -> Kind[T]:
    """A section: a mapping with the dataclass's fields as keys."""
    return Kind(lambda item, path, reading: read_struct(cls, item, path, reading), {}, children=cls)


def listing(cls: type[T]) -> Kind[tuple[T, ...]]:
    """A list of such mappings."""

    def read(item: Item, path: str, reading: Reading) -> tuple[T, ...]:
        if not isinstance(item.value, list):
            raise Wrong(item, path, f"expected a list, got {shown(item)}")
        return tuple(read_struct(cls, entry, f"{path}[{n}]", reading) for n, entry in enumerate(item.value))

    return Kind(read, {"type": "array"}, lambda _: "[]", children=cls)


def entries(kind: Kind[T]) -> Kind[Mapping[str, T]]:
    """A mapping from a name (1 to 255 bytes) to the kind."""

    def read(item: Item, path: str, reading: Reading) -> Mapping[str, T]:
        return dict(_named(item, path, reading, lambda entry, _, at: kind.read(entry, at, reading)))

    return Kind(read, {"type": "object", "additionalProperties": kind.schema}, lambda _: "{}", children=kind.children)


def named(cls: type[T]) -> Kind[Mapping[str, T]]:
    """A mapping from a name to the dataclass, whose field `name` takes it."""

    def read(item: Item, path: str, reading: Reading) -> Mapping[str, T]:
        def one(entry: Item, name: str, at: str) -> T:
            return read_struct(cls, entry, at, reading, name=name)

        return dict(_named(item, path, reading, one))

    return Kind(read, {"type": "object"}, lambda _: "{}", children=cls)


def _named(item: Item, path: str, reading: Reading, read: Callable[[Item, str, str], T]) -> Iterable[tuple[str, T]]:
    if not isinstance(item.value, dict):
        raise Wrong(item, path, f"expected a mapping of names, got {shown(item)}")
    for name, entry in item.value.items():
        at = f"{path}.{name}"
        if not 1 <= len(name.encode()) <= NAME_BYTES_MAX:
            reading.note(Wrong(entry, at, f"a name has 1 to {NAME_BYTES_MAX} bytes"))
            continue
        try:
            yield name, read(entry, name, at)
        except Wrong as wrong:
            reading.note(wrong)

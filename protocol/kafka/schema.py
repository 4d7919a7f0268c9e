"""The language in which Kafka's messages are written down: one class a struct, for all versions of it.

    @message
    class FetchPartition:
        partition: int = int32()
        current_leader_epoch: int = int32(since=9, default=-1)

A field maker says how the field is on the wire and in which versions; `codec` compiles (class, version) into a reader
and a writer. Classes become `msgspec` structs: made positionally by readers, with keywords by whoever answers. A field
that a version does not have keeps its default. Messages are trees, so the cycle collector is not told of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")

ALWAYS = 1 << 15
"""Later than any version."""
NO_UUID = bytes(16)


class MalformedRequest(ValueError):
    """Octets that are not what their API and version say."""


class Spec(NamedTuple):
    """One field on the wire. `since` and `until` are inclusive; `nullable_since` is the first version with a null."""

    kind: str
    default: Any
    since: int = 0
    until: int = ALWAYS
    nullable_since: int | None = None
    tag: int | None = None
    of: Any = None
    """What an array is of: a class, or the Spec of a primitive."""

    def is_in(self, version: int) -> bool:
        """Whether the version has the field."""
        return self.since <= version <= self.until

    def is_nullable(self, version: int) -> bool:
        """Whether the field may be null in this version."""
        return self.nullable_since is not None and version >= self.nullable_since


FIXED = {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint16": "H", "uint32": "I", "float64": "d",
         "boolean": "?", "uuid": "16s"}  # fmt: skip
"""Kinds of a fixed size, as `struct` has them."""


def _maker(kind: str, standard: Any) -> Callable[..., Any]:
    def make(*, since: int = 0, until: int = ALWAYS, default: Any = standard, tag: int | None = None) -> Any:
        return Spec(kind, default, since, until, None, tag)

    make.__doc__ = f"A field of kind {kind}; with `tag` it is a tagged one."
    return make


int8 = _maker("int8", 0)
int16 = _maker("int16", 0)
int32 = _maker("int32", 0)
int64 = _maker("int64", 0)
uint16 = _maker("uint16", 0)
uint32 = _maker("uint32", 0)
float64 = _maker("float64", 0.0)
boolean = _maker("boolean", False)
uuid = _maker("uuid", NO_UUID)


def _nullable_maker(kind: str, standard: Any) -> Callable[..., Any]:
    def make(
        *,
        since: int = 0,
        until: int = ALWAYS,
        default: Any = standard,
        nullable: bool = False,
        nullable_since: int | None = None,
        tag: int | None = None,
    ) -> Any:
        return Spec(kind, default, since, until, 0 if nullable else nullable_since, tag)

    make.__doc__ = f"A field of kind {kind}, that may be null if it says so."
    return make


string = _nullable_maker("string", "")
octets = _nullable_maker("octets", b"")
records = _nullable_maker("records", None)
"""Record batches: a view of the request when read, octets or a list of buffers when written."""


def array(
    of: Any,
    *,
    since: int = 0,
    until: int = ALWAYS,
    nullable: bool = False,
    nullable_since: int | None = None,
    default: Any = (),
    tag: int | None = None,
) -> Any:
    """A list of structs, or of primitives: `array(int32())`."""
    return Spec("array", default, since, until, 0 if nullable else nullable_since, tag, of)


def struct(of: Any, *, since: int = 0, until: int = ALWAYS, nullable: bool = False, tag: int | None = None) -> Any:
    """A struct in place; None where it is null, or a tagged field that is left out."""
    return Spec("struct", None, since, until, 0 if nullable else None, tag, of)


@dataclass_transform()
def message(cls: type[T]) -> type[T]:
    """Make a struct of a class whose attributes are fields."""
    specs: dict[str, Spec] = {name: vars(cls)[name] for name in cls.__annotations__}
    fields: list[tuple[str, Any, Any]] = []
    for name, spec in specs.items():
        if spec.kind == "array" and spec.default is not None:
            fields.append((name, Any, msgspec.field(default_factory=list)))
        else:
            fields.append((name, Any, msgspec.field(default=spec.default)))
    made = msgspec.defstruct(
        cls.__name__, fields, module=cls.__module__, gc=False, namespace={"__doc__": cls.__doc__, "SPECS": specs}
    )
    return made  # type: ignore[return-value]  # the same fields, as a faster class

"""What a configuration value may be: readers that turn an item of text into a typed value or say what is wrong.

A `Kind` reads, shows its default as YAML, and knows its JSON schema. Readers raise `Wrong`. Knows nothing of which keys
exist; `broker.config.sections` reads mappings of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, dataclass_transform

from broker.config.interpolate import is_utf8
from broker.config.secret import REDACTED, Secret
from broker.config.source import Item, plain

T = TypeVar("T")

SECRET_FILE_BYTES_MAX = 64 * 1024
"""A password file that is longer is a mistake (or /dev/zero)."""


class Wrong(Exception):
    """One mistake: where, at which key, and what."""

    def __init__(self, item: Item, path: str, text: str) -> None:
        super().__init__(f"{item.where}: {path}: {text}" if path else f"{item.where}: {text}")
        self.path = path


@dataclass(slots=True)
class Reading:
    """What one run of reading carries along."""

    environ: Mapping[str, str]
    read_file: Callable[[str, int], str]
    """(path, most bytes) -> its text; raises OSError or ValueError."""
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """The dotted paths at which there is a mistake: what is there is not what was written."""

    def note(self, wrong: Wrong) -> None:
        """One mistake more."""
        self.errors.append(str(wrong))
        self.wrong.append(wrong.path)


class Kind(Generic[T]):
    """A reader `(item, dotted path, reading) -> T`, its JSON schema, and how a default is written."""

    __slots__ = ("children", "nullable", "read", "schema", "show")

    def __init__(
        self,
        read: Callable[[Item, str, Reading], T],
        schema: dict[str, Any],
        show: Callable[[Any], str] = str,
        *,
        children: type | None = None,
        nullable: bool = False,
    ) -> None:
        self.read = read
        self.schema = schema
        self.show = show
        self.children = children
        """The dataclass behind a section or behind each entry of a mapping."""
        self.nullable = nullable
        """Whether null is a value of its own; elsewhere null means "the default"."""


def option(default: Any, kind: Kind[Any], why: str) -> Any:
    """A dataclass field. `default` is a value, a callable that makes one, or MISSING where the key must be given."""
    metadata = {"kind": kind, "why": why}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


class Section:
    """What the classes of the schema have in common: a field is set once, and what has equal fields is equal."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    """What `section` makes."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or name not in self.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return all(mine[one.name] == theirs[one.name] for one in fields(self) if one.compare)

    __hash__ = None  # type: ignore[assignment]  # Most have mappings.

    def __repr__(self) -> str:
        shown = [f"{one.name}={self.__dict__[one.name]!r}" for one in fields(self) if one.repr]
        return f"{self.__class__.__name__}({', '.join(shown)})"


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def section(cls: type[T]) -> type[T]:
    """Make a dataclass of a `Section`. It is as good as frozen; but dataclasses would write and compile six methods for
    each, and slots make each class twice: 20 ms of every start.
    """
    return dataclass(repr=False, eq=False)(cls)


# Scalars.


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no name is near."""
    import difflib  # Only for a mistake.

    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _string(item: Item, path: str, expected: str = "a string") -> str:
    """The text of a scalar, as it was written when it was written without quotes (`version: 4.0`)."""
    if item.value is not None and not isinstance(item.value, dict | list):
        if isinstance(item.value, str):
            return item.value
        if item.text is not None:
            return item.text
    raise Wrong(item, path, f"expected {expected}")


def shown(item: Item) -> str:
    if isinstance(item.value, dict | list):
        return "a mapping" if isinstance(item.value, dict) else "a list"
    return f"'{item.value if item.text is None else item.text}'"


def text() -> Kind[str]:
    """Any non-empty string."""

    def read(item: Item, path: str, _: Reading) -> str:
        value = _string(item, path)
        if not value:
            raise Wrong(item, path, "must not be empty")
        return value

    return Kind(read, {"type": "string", "minLength": 1})


def any_text() -> Kind[str]:
    """Any string, the empty one too (a routing key)."""
    return Kind(lambda item, path, _: _string(item, path), {"type": "string"}, lambda value: f"'{value}'")


def boolean() -> Kind[bool]:
    """`true` or `false` and nothing else: `no` is a country."""

    def read(item: Item, path: str, _: Reading) -> bool:
        if not isinstance(item.value, bool):
            raise Wrong(item, path, f"expected true or false, got {shown(item)}")
        return item.value

    return Kind(read, {"type": "boolean"}, lambda value: str(value).lower())


def choice(*allowed: str) -> Kind[str]:
    """One of the words."""

    def read(item: Item, path: str, _: Reading) -> str:
        value = _string(item, path, f"one of {', '.join(allowed)}")
        if value not in allowed:
            near = did_you_mean(value, allowed)
            raise Wrong(item, path, f"expected one of {', '.join(allowed)}, got '{value}'{near}")
        return value

    return Kind(read, {"enum": list(allowed)})


def _within(item: Item, path: str, value: float, least: float, most: float | None, show: Callable[[Any], str]) -> None:
    if value < least or (most is not None and value > most):
        span = f"at least {show(least)}" if most is None else f"from {show(least)} to {show(most)}"
        raise Wrong(item, path, f"must be {span}, got {shown(item)}")


def integer(least: int, most: int | None = None) -> Kind[int]:
    """A whole number within bounds."""

    def read(item: Item, path: str, _: Reading) -> int:
        value = item.value
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(item, path, f"expected a whole number, got {shown(item)}")
        _within(item, path, value, least, most, str)
        return value

    bounds = {"minimum": least} | ({} if most is None else {"maximum": most})
    return Kind(read, {"type": "integer", **bounds})


_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _amount(item: Item, units: Mapping[str, float]) -> float | None:
    if isinstance(item.value, bool) or not isinstance(item.value, int | float | str):
        return None
    match = _AMOUNT.fullmatch(str(item.value))
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def show_bytes(value: Any) -> str:
    """The shortest exact way to write a size: 65536 -> 64KiB."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _BYTES[unit] == 0:
            return f"{value // _BYTES[unit]}{unit}"
    return str(value)


def show_seconds(value: Any) -> str:
    """0.25 -> 250ms, 60 -> 60s."""
    return f"{value:g}s" if value == int(value) else f"{value * 1000:g}ms"


def size(least: int, most: int | None = None) -> Kind[int]:
    """Bytes: 64KiB, 16MiB, 1GB, or a bare number of bytes."""

    def read(item: Item, path: str, _: Reading) -> int:
        value = _amount(item, _BYTES)
        if value is None or value != int(value):
            raise Wrong(item, path, f"expected a size such as 64KiB or 16MiB, got {shown(item)}")
        _within(item, path, value, least, most, show_bytes)
        return int(value)

    return Kind(read, {"type": ["integer", "string"], "pattern": _pattern(_BYTES)}, show_bytes)


def seconds(least: float = 0, most: float | None = None, *, whole: bool = False) -> Kind[float]:
    """A duration: 500ms, 30s, 5m, 1h, or a bare number of seconds. `whole`: whole seconds only (an int)."""

    def read(item: Item, path: str, _: Reading) -> float:
        value = _amount(item, _SECONDS)
        if value is None:
            raise Wrong(item, path, f"expected a duration such as 500ms, 30s or 5m, got {shown(item)}")
        if whole and value != int(value):
            raise Wrong(item, path, f"expected whole seconds, got {shown(item)}")
        _within(item, path, value, least, most, show_seconds)
        return int(value) if whole else value

    return Kind(read, {"type": ["number", "string"], "pattern": _pattern(_SECONDS)}, show_seconds)


def _pattern(units: Iterable[str]) -> str:
    return f"^[0-9]+(\\.[0-9]+)? ?({'|'.join(units)})$"


def share_or_size() -> Kind[float]:
    """A share of memory as a float (0.4), or bytes as an int (2GiB)."""

    def read(item: Item, path: str, _: Reading) -> float:
        value = _amount(item, _BYTES)
        if value is None or value == 0 or (value != int(value) and value > 1):
            raise Wrong(item, path, f"expected a share such as 0.4 or a size such as 2GiB, got {shown(item)}")
        if 0 < value <= 1:
            return value
        if value < 2**20:
            raise Wrong(item, path, f"expected a share up to 1, or a size of at least 1MiB, got {shown(item)}")
        return int(value)

    return Kind(read, {"type": ["number", "string"]}, lambda value: show_bytes(value) if value > 1 else f"{value:g}")


class Address(NamedTuple):
    """Where to listen; port 0 picks a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")


def address() -> Kind[Address | None]:
    """HOST:PORT, [IPV6]:PORT, or off (None)."""

    def read(item: Item, path: str, _: Reading) -> Address | None:
        value = _string(item, path, "HOST:PORT or off")
        return None if value == "off" else _address(item, path, value, "HOST:PORT, [IPV6]:PORT or off")

    return Kind(read, {"type": "string"}, lambda value: "off" if value is None else str(value))


def _address(item: Item, path: str, value: str, expected: str) -> Address:
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise Wrong(item, path, f"expected {expected}, got '{value}'")
    return Address(match["six"] or match["host"], int(match["port"]))


ADDRESSES_MAX = 16
"""Of one listener; each is a socket and a task."""


def addresses() -> Kind[tuple[Address, ...] | None]:
    """An address, a list of them, or off (None)."""
    expected = "HOST:PORT, [IPV6]:PORT, a list of them or off"

    def read(item: Item, path: str, _: Reading) -> tuple[Address, ...] | None:
        if not isinstance(item.value, list):
            value = _string(item, path, expected)
            return None if value == "off" else (_address(item, path, value, expected),)
        if not 1 <= len(item.value) <= ADDRESSES_MAX:
            raise Wrong(item, path, f"expected 1 to {ADDRESSES_MAX} addresses, got {len(item.value)}")
        places = [(one, f"{path}[{number}]") for number, one in enumerate(item.value)]
        found = [_address(one, at, _string(one, at, "HOST:PORT"), "HOST:PORT or [IPV6]:PORT") for one, at in places]
        return tuple(dict.fromkeys(found))

    def show(value: tuple[Address, ...] | None) -> str:
        if value is None:
            return "off"
        quoted = [f'"{one}"' if ":" in one.host else str(one) for one in value]
        return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"

    text = {"type": "string"}
    some = {"type": "array", "items": text, "minItems": 1, "maxItems": ADDRESSES_MAX}
    return Kind(read, {"anyOf": [text, some]}, show)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The kind, or null."""

    def read(item: Item, path: str, reading: Reading) -> T | None:
        return None if item.value is None else kind.read(item, path, reading)

    schema = {"anyOf": [kind.schema, {"type": "null"}]}
    return Kind(read, schema, lambda value: "null" if value is None else kind.show(value), nullable=True)


def secret() -> Kind[Secret]:
    """Text, `{file: PATH}` (one trailing newline is dropped) or `{env: NAME}`. No error shows the text."""

    def read(item: Item, path: str, reading: Reading) -> Secret:
        value = item.value
        if not isinstance(value, dict):
            value = _string(item, path, "a string, {file: PATH} or {env: NAME}")
        elif len(value) == 1 and "env" in value:
            name = _string(value["env"], f"{path}.env")
            value = reading.environ.get(name, "")
            if not value or not is_utf8(value):
                raise Wrong(item, path, f"the environment variable {name} is not set, or not UTF-8")
        elif len(value) == 1 and "file" in value:
            name = _string(value["file"], f"{path}.file")
            try:
                value = reading.read_file(name, SECRET_FILE_BYTES_MAX).removesuffix("\n").removesuffix("\r")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8, or too long"
                raise Wrong(item, path, f"cannot read {name}: {reason}") from None
        else:
            raise Wrong(item, path, "expected a string, {file: PATH} or {env: NAME}")
        if not value:
            raise Wrong(item, path, "must not be empty")
        return Secret(value)

    source = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
              "properties": {"file": {"type": "string"}, "env": {"type": "string"}}}  # fmt: skip
    return Kind(read, {"anyOf": [{"type": ["string", "number"]}, source]}, lambda _: REDACTED)


def words() -> Kind[tuple[str, ...]]:
    """A list of strings, or one string with commas, as RabbitMQ writes tags."""

    def read(item: Item, path: str, _: Reading) -> tuple[str, ...]:
        if isinstance(item.value, list):
            return tuple(_string(entry, path) for entry in item.value)
        return tuple(word.strip() for word in _string(item, path, "a list of strings").split(",") if word.strip())

    return Kind(read, {"type": ["array", "string"], "items": {"type": "string"}}, lambda value: f"[{', '.join(value)}]")


def free() -> Kind[Mapping[str, Any]]:
    """A mapping of anything: what AMQP calls `arguments`."""

    def read(item: Item, path: str, _: Reading) -> Mapping[str, Any]:
        if not isinstance(item.value, dict):
            raise Wrong(item, path, f"expected a mapping, got {shown(item)}")
        value: dict[str, Any] = plain(item)
        return value

    return Kind(read, {"type": "object"}, lambda _: "{}")

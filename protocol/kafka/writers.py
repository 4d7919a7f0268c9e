"""Hot path. Writers of messages: made from the tables of `schema`, one for each (class, version), when first used.

Budget: 0.5 µs per struct; held by `jackalope bench kafka-codec`.
A writer is one function of straight-line Python with nested structs in line. Neighbouring fields of fixed size are one
`struct` call, and so is the length behind them while it is one octet. Buffers of record batches that are too large to
be joined to their neighbours are noted as such, so that nobody has to look at every piece again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from protocol.kafka.schema import FIXED, Spec
from protocol.kafka.source import Fields, Source, fields_of

Writer = Callable[[Any, list[Any], list[int]], None]
"""(value, what to append the pieces to, where the indices of large pieces go)."""
Steps = Callable[[Any, list[Any], list[int]], Iterator[None]]
"""The same, with a pause after each `PAUSE_ELEMENTS` elements of arrays, however deep they are."""
PAUSE_ELEMENTS = 500
"""Some 0.5 ms."""
JOINED_BYTES_MAX = 4096
"""Larger buffers of records are sent as they are."""
SHORT_ARRAY = 8
"""Arrays of fixed things that are shorter have a format of their own."""


def uvarint(value: int) -> bytes:
    """The octets of an unsigned varint."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_NAMES = {"uvarint": uvarint, "pack_any": struct.pack, "JOINED_BYTES_MAX": JOINED_BYTES_MAX}
_WRITERS: dict[tuple[Any, int, bool], Writer] = {}
_STEPS: dict[tuple[Any, int, bool], Steps] = {}
_SHORT_ARRAYS: dict[str, list[Callable[..., bytes]]] = {}


def writer(cls: Any, version: int, *, is_flexible: bool) -> Writer:
    """What writes one of these."""
    key = (cls, version, is_flexible)
    found = _WRITERS.get(key)
    if found is None:
        found = _WRITERS[key] = _Writing(version, is_flexible).function(cls)
    return found


def steps_of(cls: Any, version: int, *, is_flexible: bool) -> Steps:
    """What writes one of these that may be very long, in steps."""
    key = (cls, version, is_flexible)
    found = _STEPS.get(key)
    if found is None:
        found = _STEPS[key] = _Writing(version, is_flexible, pauses=True).function(cls)
    return found


def _short_arrays(codes: str) -> list[Callable[..., bytes]]:
    """What packs a count and so many elements, by the length of the array."""
    if codes not in _SHORT_ARRAYS:
        count, code = codes[0], codes[1]
        _SHORT_ARRAYS[codes] = [struct.Struct(f">{count}{length}{code}").pack for length in range(SHORT_ARRAY)]
    return _SHORT_ARRAYS[codes]


class _Writing:
    """One function in the making. What is fixed waits in a run for what comes behind it."""

    def __init__(self, version: int, is_flexible: bool, *, pauses: bool = False) -> None:
        self._version = version
        self._pauses = pauses
        self._is_flexible = is_flexible
        self._source = Source(_NAMES)
        self._codes = ""
        self._values: list[str] = []

    def function(self, cls: Any) -> Any:
        """The writer of a class, or its `Steps`."""
        self._open()
        if self._pauses:
            self._source.add(f"left = {PAUSE_ELEMENTS}")
            self._source.add("if not left: yield")  # A generator, also where there is no array.
        self._struct(cls, "value", 0, 1)
        return self._closed(cls.__name__)

    def tag_function(self, name: str, spec: Spec) -> Writer:
        """The writer of the value of a tagged field."""
        self._open()
        self._source.field = name
        self._one("value", spec, 0, 1)
        return self._closed(name)

    def _open(self) -> None:
        self._source.add("def write(value, out, large):", 0)
        self._source.add("add = out.append")

    def _closed(self, label: str) -> Writer:
        self._flush(1)
        found: Writer = self._source.compiled("write", f"writer of {label} {self._version}")
        return found

    def _flush(self, depth: int, more: str = "", *values: str) -> None:
        """Pack the run, and what else is said."""
        self._packed(depth, more, *values)
        self._codes, self._values = "", []

    def _packed(self, depth: int, more: str = "", *values: str) -> None:
        """Like `_flush`, where another branch has to pack the same run."""
        codes = self._codes + more
        if codes:
            self._source.add(f"add({self._source.packer(codes)}({', '.join([*self._values, *values])}))", depth)

    def _length(self, depth: int, code: str, expression: str) -> None:
        """The run and the length behind it; the run stays for other branches."""
        if not self._is_flexible:
            self._packed(depth, code, expression)
            return
        self._source.add(f"n = {expression} + 1", depth)
        self._source.add("if n < 128:", depth)
        self._packed(depth + 1, "B", "n")
        self._source.add("else:", depth)
        self._packed(depth + 1)
        self._source.add("add(uvarint(n))", depth + 1)

    def _struct(self, cls: Any, value: str, level: int, depth: int) -> None:
        plain, tagged = fields_of(cls, self._version, is_flexible=self._is_flexible)
        for name, spec in plain:
            self._source.field = f"{cls.__name__}.{name}"
            self._one(f"{value}.{name}", spec, level, depth)
        if self._is_flexible:
            self._source.field = f"{cls.__name__}'s tagged fields"
            self._tags(value, tagged, depth)

    def _one(self, value: str, spec: Spec, level: int, depth: int) -> None:
        add = self._source.add
        if spec.kind in FIXED:
            self._codes += FIXED[spec.kind]
            self._values.append(value)
            return
        if spec.kind == "struct":
            self._nested(value, spec, level, depth)
            return
        add(f"x = {value}", depth)
        if spec.is_nullable(self._version):
            code = "h" if spec.kind == "string" else "i"
            add("if x is None:", depth)
            self._packed(depth + 1, *(("B", "0") if self._is_flexible else (code, "-1")))
            add("else:", depth)
            depth += 1
        if spec.kind == "array":
            self._array(spec.of, level, depth)
        else:
            self._octets(spec.kind, depth)
        self._codes, self._values = "", []

    def _nested(self, value: str, spec: Spec, level: int, depth: int) -> None:
        inner = f"v{level + 1}"
        self._source.add(f"{inner} = {value}", depth)
        if not spec.is_nullable(self._version):
            self._struct(spec.of, inner, level + 1, depth)
            return
        self._source.add(f"if {inner} is None:", depth)
        self._packed(depth + 1, "b", "-1")
        self._source.add("else:", depth)
        self._codes += "b"
        self._values.append("1")
        self._struct(spec.of, inner, level + 1, depth + 1)
        self._flush(depth + 1)

    def _octets(self, kind: str, depth: int) -> None:
        add = self._source.add
        if kind == "records":
            add("if type(x) is not list: x = [x]", depth)
            self._length(depth, "i", "(sum(map(len, x)) if x else 0)")
            add("for item in x:", depth)
            add("if len(item) > JOINED_BYTES_MAX: large.append(len(out))", depth + 1)
            add("add(item)", depth + 1)
            return
        if kind == "string":
            add("x = x.encode()", depth)
        self._length(depth, "h" if kind == "string" else "i", "len(x)")
        add("add(x)", depth)

    def _array(self, of: Any, level: int, depth: int) -> None:
        add = self._source.add
        if isinstance(of, Spec) and of.kind in FIXED and of.kind != "uuid":
            self._fixed_array(FIXED[of.kind], depth)
            return
        self._length(depth, "i", "len(x)")
        self._codes, self._values = "", []
        if isinstance(of, Spec) and of.kind == "uuid":
            add("out += x", depth)
        elif isinstance(of, Spec):
            add("for x in x:", depth)
            self._pause(depth + 1)
            self._one("x", of, level, depth + 1)
        else:
            inner = f"v{level + 1}"
            add(f"for {inner} in x:", depth)
            self._pause(depth + 1)
            self._struct(of, inner, level + 1, depth + 1)
            self._flush(depth + 1)

    def _pause(self, depth: int) -> None:
        if self._pauses:
            self._source.add("left -= 1", depth)
            self._source.add("if not left:", depth)
            self._source.add(f"left = {PAUSE_ELEMENTS}", depth + 1)
            self._source.add("yield", depth + 1)

    def _fixed_array(self, code: str, depth: int) -> None:
        add = self._source.add
        self._packed(depth)
        self._codes, self._values = "", []
        count, length = ("B", "n + 1") if self._is_flexible else ("i", "n")
        short = self._source.name(_short_arrays(count + code), "short_arrays")
        add("n = len(x)", depth)
        add(f"if n < {SHORT_ARRAY}: add({short}[n]({length}, *x))", depth)
        add("else:", depth)
        self._length(depth + 1, "i", "len(x)")
        add(f"add(pack_any(f'>{{len(x)}}{code}', *x))", depth + 1)

    def _tags(self, value: str, tagged: Fields, depth: int) -> None:
        """What has its default is left out; nearly always that is all of them."""
        add = self._source.add
        if not tagged:
            self._codes += "B"
            self._values.append("0")
            return
        conditions = [self._is_default(f"{value}.{name}", spec) for name, spec in tagged]
        add(f"if {' and '.join(conditions)}:", depth)
        self._packed(depth + 1, "B", "0")
        add("else:", depth)
        self._packed(depth + 1)
        add("tags = []", depth + 1)
        for (name, spec), condition in zip(tagged, conditions, strict=True):
            write = self._source.name(_Writing(self._version, True).tag_function(name, spec), "write")
            add(f"if not ({condition}):", depth + 1)
            add("own = []", depth + 2)
            add(f"{write}({value}.{name}, own, [])", depth + 2)
            add("own = b''.join(own)", depth + 2)
            add(f"tags += ({uvarint(spec.tag or 0)!r}, uvarint(len(own)), own)", depth + 2)
        add("add(uvarint(len(tags) // 3))", depth + 1)
        add("out += tags", depth + 1)
        self._codes, self._values = "", []

    def _is_default(self, value: str, spec: Spec) -> str:
        if spec.default is None:
            return f"{value} is None"
        return f"{value} == {[] if spec.kind == 'array' else spec.default!r}"

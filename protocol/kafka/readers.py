"""Hot path. Readers of messages: made from the tables of `schema`, one for each (class, version), when first used.

Budget: 0.2 µs per struct of fixed fields, 0.6 µs per other struct; held by `jackalope bench kafka-codec`.
A reader is one function of straight-line Python with nested structs in line; neighbouring fields of fixed size are one
`struct` call, an array of structs that have no others is one in all. It trusts nothing: every length is held against
what is there before anything is made of it, every element of an array is counted, and a tagged field has to fill the
octets it says it takes. What is wrong raises one of ERRORS; `codec` makes MalformedRequest of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import Any

from protocol.kafka.schema import FIXED, MalformedRequest, Spec
from protocol.kafka.source import PAUSE_ELEMENTS, Fields, Source, fields_of, fixed_codes, least_size

Reader = Callable[[Any, int, int, list[int]], tuple[Any, int]]
"""(octets, position, end, [elements that arrays may have yet]) -> (value, position behind it)."""
PausingReader = Callable[[Any, int, int, list[int]], Generator[None, None, tuple[Any, int]]]
"""The same, with a pause after each `PAUSE_ELEMENTS` elements of arrays that are read one by one, however deep."""
ERRORS = (MalformedRequest, struct.error, IndexError, UnicodeDecodeError)
ELEMENTS_MAX = 40_000
"""Of all arrays of a message. An object is a hundred octets, of which a frame has to spend but three, and a message is
read in one step, 0.2 to 1.2 µs an element. It is enough for 20,000 topics of one partition each."""
VARINT_OCTETS_MAX = 5


def read_uvarint(data: Any, position: int, end: int) -> tuple[int, int]:
    """An unsigned varint of at most five octets."""
    value = shift = 0
    for index in range(position, min(position + VARINT_OCTETS_MAX, end)):
        octet = data[index]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, index + 1
        shift += 7
    raise MalformedRequest(f"a varint at {position} does not end")


def skip_tags(data: Any, position: int, end: int) -> int:
    """The position behind a section of tagged fields, none of which is known."""
    if position < end and data[position] == 0:
        return position + 1
    count, position = read_uvarint(data, position, end)
    for _ in range(count):
        _, position = read_uvarint(data, position, end)
        size, position = read_uvarint(data, position, end)
        position += size
        if position > end:
            raise MalformedRequest(f"a tagged field of {size} octets")
    return position


def _short(position: int, wanted: int, end: int) -> MalformedRequest:
    return MalformedRequest(f"{wanted} octets do not fit into the {end - position} that are left")


def _too_many() -> MalformedRequest:
    return MalformedRequest(f"more than {ELEMENTS_MAX} elements in all")


def _null() -> MalformedRequest:
    return MalformedRequest("may not be null")


def _negative(length: int) -> MalformedRequest:
    return MalformedRequest(f"a length of {length}")


def _overrun(tag: int) -> MalformedRequest:
    return MalformedRequest(f"tagged field {tag} is not of the size it says")


_NAMES = {
    "read_uvarint": read_uvarint, "unpack_from": struct.unpack_from, "short": _short, "too_many": _too_many,
    "null": _null, "negative": _negative, "overrun": _overrun,
}  # fmt: skip
_READERS: dict[tuple[Any, int, bool], Reader] = {}
_PAUSING: dict[tuple[Any, int, bool], PausingReader] = {}


def reader(cls: Any, version: int, *, is_flexible: bool) -> Reader:
    """What reads one of these, or raises one of ERRORS."""
    key = (cls, version, is_flexible)
    found = _READERS.get(key)
    if found is None:
        found = _READERS[key] = _Reading(version, is_flexible).function(cls)
    return found


def pausing_reader(cls: Any, version: int, *, is_flexible: bool) -> PausingReader:
    """What reads one of these in steps, or raises one of ERRORS."""
    key = (cls, version, is_flexible)
    found = _PAUSING.get(key)
    if found is None:
        found = _PAUSING[key] = _Reading(version, is_flexible, pauses=True).function(cls)
    return found


class _Reading:
    """One function in the making. Variables are named for their field and the level of their struct."""

    def __init__(self, version: int, is_flexible: bool, *, pauses: bool = False) -> None:
        self._version = version
        self._pauses = pauses
        self._is_flexible = is_flexible
        self._source = Source(_NAMES)
        self._end = "end"

    def function(self, cls: Any) -> Any:
        """The reader of a class, or a pausing one."""
        self._source.add("def read(data, position, end, left):", 0)
        if self._pauses:
            self._source.add(f"until_pause = {PAUSE_ELEMENTS}")
            self._source.add("if not until_pause: yield")  # A generator, also where there is no array.
        self._source.add(f"return {self._struct(cls, 0, 1)}, position")
        return self._source.compiled("read", f"reader of {cls.__name__} {self._version}")

    def _struct(self, cls: Any, level: int, depth: int) -> str:
        """Lines that read the fields; the expression that makes the struct of them."""
        source = self._source
        plain, tagged = fields_of(cls, self._version, is_flexible=self._is_flexible)
        run: list[tuple[str, str]] = []
        for name, spec in plain:
            if spec.kind in FIXED:
                run.append((name, FIXED[spec.kind]))
                continue
            self._run(cls, run, level, depth)
            source.field = f"{cls.__name__}.{name}"
            self._one(f"{name}_{level}", spec, level, depth)
        self._run(cls, run, level, depth)
        if self._is_flexible:
            source.field = f"{cls.__name__}'s tagged fields"
            self._tags(cls, tagged, level, depth)
        present = {name for name, _ in (*plain, *tagged)}
        return self._made(cls, {name: f"{name}_{level}" for name in present})

    def _made(self, cls: Any, variables: dict[str, str]) -> str:
        values = [variables.get(name) or _default(spec) for name, spec in cls.SPECS.items()]
        return f"{self._source.name(cls, 'cls')}({', '.join(values)})"

    def _run(self, cls: Any, run: list[tuple[str, str]], level: int, depth: int) -> None:
        if run:
            codes = "".join(code for _, code in run)
            self._source.field = f"{cls.__name__}.{run[0][0]}"
            self._fixed(", ".join(f"{name}_{level}" for name, _ in run), codes, depth)
            run.clear()

    def _fixed(self, targets: str, codes: str, depth: int) -> None:
        self._source.add(f"{targets}, = {self._source.unpacker(codes)}(data, position)", depth)
        self._source.add(f"position += {struct.calcsize('>' + codes)}", depth)

    def _one(self, target: str, spec: Spec, level: int, depth: int) -> None:
        add = self._source.add
        if spec.kind in FIXED:
            self._fixed(target, FIXED[spec.kind], depth)
        elif spec.kind == "struct":
            if spec.is_nullable(self._version):
                add("position += 1", depth)
                add(f"if data[position - 1] > 0x7F: {target} = None", depth)
                add("else:", depth)
                depth += 1
            add(f"{target} = {self._struct(spec.of, level + 1, depth)}", depth)
        else:
            self._length("h" if spec.kind == "string" else "i", depth)
            add("if n < 0:", depth)
            if not self._is_flexible:
                add("if n < -1: raise negative(n)", depth + 1)
            add(f"{target} = None" if spec.is_nullable(self._version) else "raise null()", depth + 1)
            add("else:", depth)
            if spec.kind == "array":
                self._array(target, spec.of, level, depth + 1)
            else:
                self._octets(target, spec.kind, depth + 1)

    def _length(self, code: str, depth: int) -> None:
        """Into `n`; below 0 is null."""
        if self._is_flexible:
            self._source.add("n = data[position] - 1", depth)
            self._source.add("if n < 0x7F: position += 1", depth)
            self._source.add("else:", depth)
            self._source.add(f"n, position = read_uvarint(data, position, {self._end})", depth + 1)
            self._source.add("n -= 1", depth + 1)
        else:
            self._fixed("n", code, depth)

    def _octets(self, target: str, kind: str, depth: int) -> None:
        add = self._source.add
        add("stop = position + n", depth)
        add(f"if stop > {self._end}: raise short(position, n, {self._end})", depth)
        value = {
            "string": "str(data[position:stop], 'utf-8')",
            "octets": "bytes(data[position:stop])",
            "records": "data[position:stop]",
        }[kind]
        add(f"{target} = {value}", depth)
        add("position = stop", depth)

    def _array(self, target: str, of: Any, level: int, depth: int) -> None:
        add = self._source.add
        least = least_size(of, self._version, is_flexible=self._is_flexible)
        add(f"if n * {least} > {self._end} - position: raise short(position, n * {least}, {self._end})", depth)
        add("left[0] -= n", depth)
        add("if left[0] < 0: raise too_many()", depth)
        if isinstance(of, Spec):
            self._primitives(target, of, least, level, depth)
            return
        codes = fixed_codes(of, self._version, is_flexible=self._is_flexible)
        if codes is not None:
            self._rows(target, of, codes, depth)
            if not self._is_flexible:
                return
            add("else:", depth)
            depth += 1
        self._loop(target, level, depth)
        add(f"add_{level}({self._struct(of, level + 1, depth + 1)})", depth + 1)

    def _loop(self, target: str, level: int, depth: int) -> None:
        self._source.add(f"{target} = []", depth)
        self._source.add(f"add_{level} = {target}.append", depth)
        self._source.add("for _ in range(n):", depth)
        if self._pauses:
            self._source.add("until_pause -= 1", depth + 1)
            self._source.add("if not until_pause:", depth + 1)
            self._source.add(f"until_pause = {PAUSE_ELEMENTS}", depth + 2)
            self._source.add("yield", depth + 2)

    def _primitives(self, target: str, of: Spec, least: int, level: int, depth: int) -> None:
        if of.kind in FIXED and of.kind != "uuid":
            self._source.add(f"{target} = list(unpack_from(f'>{{n}}{FIXED[of.kind]}', data, position))", depth)
            self._source.add(f"position += n * {least}", depth)
            return
        self._loop(target, level, depth)
        self._one(f"item_{level}", of, level, depth + 1)
        self._source.add(f"add_{level}(item_{level})", depth + 1)

    def _rows(self, target: str, of: Any, codes: str, depth: int) -> None:
        """Structs of fixed fields: rows of a table, unless one of them has tagged fields after all."""
        add = self._source.add
        plain, _ = fields_of(of, self._version, is_flexible=self._is_flexible)
        names = [name for name, _ in plain]
        if self._is_flexible:
            codes += "B"
        size = struct.calcsize(">" + codes)
        add(f"stop = position + n * {size}", depth)
        if self._is_flexible:
            add(f"if stop <= {self._end} and data[position + {size - 1}:stop:{size}] == bytes(n):", depth)
            depth += 1
        rows = self._source.name(struct.Struct(">" + codes).iter_unpack, "rows")
        made = self._made(of, {name: name for name in names})
        targets = ", ".join([*names, "_"] if self._is_flexible else names)
        add(f"{target} = [{made} for {targets}, in {rows}(data[position:stop])]", depth)
        add("position = stop", depth)

    def _tags(self, cls: Any, tagged: Fields, level: int, depth: int) -> None:
        """The tag section: what is not known is skipped, what is has to fill its octets, or one could be read often."""
        source = self._source
        for name, spec in tagged:
            source.add(f"{name}_{level} = {_default(spec)}", depth)
        source.add("tags = data[position]", depth)
        source.add("if tags == 0: position += 1", depth)
        source.add("else:", depth)
        source.add(f"tags, position = read_uvarint(data, position, {self._end})", depth + 1)
        source.add("for _ in range(tags):", depth + 1)
        inner = depth + 2
        source.add(f"tag, position = read_uvarint(data, position, {self._end})", inner)
        source.add(f"size, position = read_uvarint(data, position, {self._end})", inner)
        source.add(f"after_{level} = position + size", inner)
        source.add(f"if after_{level} > {self._end}: raise short(position, size, {self._end})", inner)
        outer, self._end = self._end, f"after_{level}"
        for number, (name, spec) in enumerate(tagged):
            source.field = f"{cls.__name__}.{name}"
            source.add(f"{'elif' if number else 'if'} tag == {spec.tag}:", inner)
            self._one(f"{name}_{level}", spec, level, inner + 1)
            source.add(f"if position != after_{level}: raise overrun(tag)", inner + 1)
        self._end = outer
        source.add(f"position = after_{level}", inner)


def _default(spec: Spec) -> str:
    return "[]" if spec.kind == "array" and spec.default is not None else repr(spec.default)

"""Hot path. From the tables of `schema` to functions: a reader and a writer for each (class, version), when first used.

Budget: 0.6 µs per struct read, 0.8 µs per struct written; held by `jackalope bench kafka-codec`.
The functions are straight-line Python made from source text: neighbouring fields of fixed size are one `struct` call.
Readers trust nothing: every length is held against what is there before anything is made of it, and whatever does not
fit is MalformedRequest. Versions from `flexible` on are compact, with tagged fields (KIP-482).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from protocol.kafka.schema import FIXED, MalformedRequest, Spec

Reader = Callable[[Any, int, int], tuple[Any, int]]
"""(octets, position, end) -> (value, position behind it)."""
Writer = Callable[[Any, list[Any]], None]

VARINT_OCTETS_MAX = 5
_ONE = [bytes((number,)) for number in range(128)]


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


def uvarint(value: int) -> bytes:
    """The octets of an unsigned varint."""
    if value < 0x80:
        return _ONE[value]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _short(position: int, wanted: int, end: int) -> MalformedRequest:
    return MalformedRequest(f"{wanted} at {position} do not fit into the {end - position} octets that are left")


def _null(name: str, position: int) -> MalformedRequest:
    return MalformedRequest(f"{name} before {position} may not be null")


class _Source:
    """Lines of a function, and the names it uses: made from the tables of this package, from nothing else."""

    def __init__(self, head: str) -> None:
        self.lines = [head]
        self.names: dict[str, Any] = {
            "MalformedRequest": MalformedRequest, "read_uvarint": read_uvarint, "uvarint": uvarint, "short": _short,
            "null": _null, "unpack_from": struct.unpack_from, "ONE": _ONE,
        }  # fmt: skip

    def add(self, line: str, depth: int = 1) -> None:
        self.lines.append("    " * depth + line)

    def name(self, value: Any, prefix: str) -> str:
        for known, other in self.names.items():
            if other is value:
                return known
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def compiled(self, name: str) -> Any:
        exec("\n".join(self.lines), self.names)
        return self.names[name]


def fields_of(cls: Any, version: int, *, is_flexible: bool) -> tuple[list[tuple[str, Spec]], list[tuple[str, Spec]]]:
    """(fields in place, tagged fields) of a version, in order."""
    present = [(name, spec) for name, spec in cls.SPECS.items() if spec.is_in(version)]
    plain = [(name, spec) for name, spec in present if spec.tag is None or not is_flexible]
    return [one for one in plain if one[1].tag is None], [
        one for one in present if one[1].tag is not None and is_flexible
    ]


def least_size(of: Any, version: int, *, is_flexible: bool) -> int:
    """The fewest octets that one of these takes; never 0, so that a count is bounded by what is there."""
    if isinstance(of, Spec):
        if of.kind in FIXED:
            return struct.calcsize(">" + FIXED[of.kind])
        if of.kind == "struct":
            return 1 if of.nullable_since is not None else least_size(of.of, version, is_flexible=is_flexible)
        return 1 if is_flexible else (2 if of.kind == "string" else 4)
    plain, _ = fields_of(of, version, is_flexible=is_flexible)
    return max(sum(least_size(spec, version, is_flexible=is_flexible) for _, spec in plain) + is_flexible, 1)


# Reading.

_READERS: dict[tuple[Any, int, bool], Reader] = {}
_WRITERS: dict[tuple[Any, int, bool], Writer] = {}


def reader(cls: Any, version: int, *, is_flexible: bool) -> Reader:
    """What reads one of these. It raises MalformedRequest, struct.error, IndexError or UnicodeDecodeError."""
    key = (cls, version, is_flexible)
    found = _READERS.get(key)
    if found is None:
        found = _READERS[key] = _compile_reader(cls, version, is_flexible)
    return found


def _compile_reader(cls: Any, version: int, is_flexible: bool) -> Reader:
    source = _Source("def read(data, position, end):")
    plain, tagged = fields_of(cls, version, is_flexible=is_flexible)
    for name, spec in tagged:
        source.add(f"{name} = {source.name(spec.default, 'default') if spec.kind != 'array' else '[]'}")
    run: list[tuple[str, str]] = []
    for name, spec in plain:
        if spec.kind in FIXED:
            run.append((name, FIXED[spec.kind]))
        else:
            _read_run(source, run)
            _read_one(source, name, spec, version, is_flexible, 1)
    _read_run(source, run)
    if is_flexible:
        _read_tags(source, tagged, version)
    present = {name for name, _ in (*plain, *tagged)}
    values = [name if name in present else _default(source, spec) for name, spec in cls.SPECS.items()]
    source.add(f"return {source.name(cls, 'cls')}({', '.join(values)}), position")
    return source.compiled("read")  # type: ignore[no-any-return]


def _default(source: _Source, spec: Spec) -> str:
    if spec.kind == "array":
        return "None" if spec.default is None else "[]"
    return repr(spec.default)


def _read_run(source: _Source, run: list[tuple[str, str]]) -> None:
    if run:
        form = struct.Struct(">" + "".join(code for _, code in run))
        unpack = source.name(form.unpack_from, "unpack")
        source.add(f"{', '.join(name for name, _ in run)}, = {unpack}(data, position)")
        source.add(f"position += {form.size}")
        run.clear()


def _read_length(source: _Source, code: str, is_flexible: bool, depth: int) -> None:
    """Into `n`; -1 is null."""
    if is_flexible:
        source.add("n = data[position]", depth)
        source.add("if n < 0x80: position += 1", depth)
        source.add("else: n, position = read_uvarint(data, position, end)", depth)
        source.add("n -= 1", depth)
    else:
        size = struct.calcsize(">" + code)
        source.add(f"n, = {source.name(struct.Struct('>' + code).unpack_from, 'unpack')}(data, position)", depth)
        source.add(f"position += {size}", depth)


def _read_one(source: _Source, name: str, spec: Spec, version: int, is_flexible: bool, depth: int) -> None:
    if spec.kind in FIXED:
        form = struct.Struct(">" + FIXED[spec.kind])
        source.add(f"{name}, = {source.name(form.unpack_from, 'unpack')}(data, position)", depth)
        source.add(f"position += {form.size}", depth)
        return
    if spec.kind == "struct":
        inner = source.name(reader(spec.of, version, is_flexible=is_flexible), "read_")
        if spec.is_nullable(version):
            source.add("position += 1", depth)
            source.add(f"if data[position - 1] > 0x7F: {name} = None", depth)
            source.add(f"else: {name}, position = {inner}(data, position, end)", depth)
        else:
            source.add(f"{name}, position = {inner}(data, position, end)", depth)
        return
    _read_length(source, "h" if spec.kind == "string" else "i", is_flexible, depth)
    source.add("if n < 0:", depth)
    if not is_flexible:
        source.add("if n < -1: raise short(position, n, end)", depth + 1)
    if spec.is_nullable(version):
        source.add(f"{name} = None", depth + 1)
    elif spec.kind == "array" and not is_flexible:
        source.add(f"{name} = []", depth + 1)
    else:
        source.add(f"raise null({name!r}, position)", depth + 1)
    source.add("else:", depth)
    if spec.kind == "array":
        _read_array(source, name, spec.of, version, is_flexible, depth + 1)
        return
    source.add("stop = position + n", depth + 1)
    source.add("if stop > end: raise short(position, n, end)", depth + 1)
    value = {
        "string": "str(data[position:stop], 'utf-8')",
        "octets": "bytes(data[position:stop])",
        "records": "data[position:stop]",
    }[spec.kind]
    source.add(f"{name} = {value}", depth + 1)
    source.add("position = stop", depth + 1)


def _read_array(source: _Source, name: str, of: Any, version: int, is_flexible: bool, depth: int) -> None:
    least = least_size(of, version, is_flexible=is_flexible)
    source.add(f"if n * {least} > end - position: raise short(position, n * {least}, end)", depth)
    if isinstance(of, Spec) and of.kind in FIXED and of.kind != "uuid":
        source.add(f"{name} = list(unpack_from(f'>{{n}}{FIXED[of.kind]}', data, position))", depth)
        source.add(f"position += n * {least}", depth)
        return
    source.add(f"{name} = []", depth)
    source.add(f"for _ in range(n):", depth)  # noqa: F541
    if isinstance(of, Spec):
        _read_one(source, "item", of, version, is_flexible, depth + 1)
    else:
        inner = source.name(reader(of, version, is_flexible=is_flexible), "read_")
        source.add(f"item, position = {inner}(data, position, end)", depth + 1)
    source.add(f"{name}.append(item)", depth + 1)


def _read_tags(source: _Source, tagged: list[tuple[str, Spec]], version: int) -> None:
    """The tag section: what is not known is skipped."""
    source.add("tags = data[position]")
    source.add("if tags < 0x80: position += 1")
    source.add("else: tags, position = read_uvarint(data, position, end)")
    source.add("for _ in range(tags):")
    source.add("tag, position = read_uvarint(data, position, end)", 2)
    source.add("size, position = read_uvarint(data, position, end)", 2)
    source.add("after = position + size", 2)
    source.add("if after > end: raise short(position, size, end)", 2)
    for name, spec in tagged:
        source.add(f"if tag == {spec.tag}:", 2)
        _read_one(source, name, spec, version, True, 3)
    source.add("position = after", 2)


# Writing.


def writer(cls: Any, version: int, *, is_flexible: bool) -> Writer:
    """What writes one of these: it appends octets, and buffers of record batches as they are."""
    key = (cls, version, is_flexible)
    found = _WRITERS.get(key)
    if found is None:
        found = _WRITERS[key] = _compile_writer(cls, version, is_flexible)
    return found


class _Run:
    """Fixed fields that go into one pack."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._codes = ""
        self._values: list[str] = []

    def add(self, code: str, value: str) -> None:
        self._codes += code
        self._values.append(value)

    def flush(self, depth: int = 1) -> None:
        if self._codes:
            pack = self._source.name(struct.Struct(">" + self._codes).pack, "pack")
            self._source.add(f"add({pack}({', '.join(self._values)}))", depth)
            self._codes = ""
            self._values = []


def _compile_writer(cls: Any, version: int, is_flexible: bool) -> Writer:
    source = _Source("def write(v, out):")
    source.add("add = out.append")
    run = _Run(source)
    plain, tagged = fields_of(cls, version, is_flexible=is_flexible)
    for name, spec in plain:
        if spec.kind in FIXED:
            run.add(FIXED[spec.kind], f"v.{name}")
        else:
            _write_one(source, run, f"v.{name}", spec, version, is_flexible)
    if is_flexible:
        _write_tags(source, run, tagged, version)
    run.flush()
    return source.compiled("write")  # type: ignore[no-any-return]


def _write_length(source: _Source, run: _Run, code: str, length: str, is_flexible: bool, depth: int) -> None:
    if is_flexible:
        run.flush(depth)
        source.add(f"n = {length} + 1", depth)
        source.add("add(ONE[n] if n < 128 else uvarint(n))", depth)
    else:
        run.add(code, length)
        run.flush(depth)


_NULLS = {"string": b"\xff\xff", "octets": b"\xff\xff\xff\xff", "records": b"\xff\xff\xff\xff",
          "array": b"\xff\xff\xff\xff"}  # fmt: skip


def _write_one(source: _Source, run: _Run, value: str, spec: Spec, version: int, is_flexible: bool) -> None:
    run.flush()
    if spec.kind == "struct":
        inner = source.name(writer(spec.of, version, is_flexible=is_flexible), "write_")
        if spec.is_nullable(version):
            source.add(f"add(b'\\xff' if {value} is None else b'\\x01')")
            source.add(f"if {value} is not None: {inner}({value}, out)")
        else:
            source.add(f"{inner}({value}, out)")
        return
    source.add(f"x = {value}")
    source.add("if x is None:")
    if spec.is_nullable(version):
        null = bytes(1) if is_flexible else _NULLS[spec.kind]
        source.add(f"add({null!r})", 2)
    else:
        source.add(f"raise ValueError({value + ' may not be null'!r})", 2)
    source.add("else:")
    length = _Run(source)
    if spec.kind == "string":
        source.add("x = x.encode()", 2)
        _write_length(source, length, "h", "len(x)", is_flexible, 2)
        source.add("add(x)", 2)
    elif spec.kind == "octets":
        _write_length(source, length, "i", "len(x)", is_flexible, 2)
        source.add("add(x)", 2)
    elif spec.kind == "records":
        source.add("x = x if type(x) is list else [x]", 2)
        _write_length(source, length, "i", "sum(map(len, x))", is_flexible, 2)
        source.add("out += x", 2)
    else:
        _write_length(source, length, "i", "len(x)", is_flexible, 2)
        _write_items(source, spec.of, version, is_flexible)


def _write_items(source: _Source, of: Any, version: int, is_flexible: bool) -> None:
    if isinstance(of, Spec) and of.kind in FIXED:
        if of.kind == "uuid":
            source.add("out += x", 2)
        else:
            pack = source.name(struct.pack, "pack_many")
            source.add(f"add({pack}(f'>{{len(x)}}{FIXED[of.kind]}', *x))", 2)
        return
    source.add("for item in x:", 2)
    if not isinstance(of, Spec):
        source.add(f"{source.name(writer(of, version, is_flexible=is_flexible), 'write_')}(item, out)", 3)
        return
    source.add("item = item.encode()" if of.kind == "string" else "item = bytes(item)", 3)
    inner = _Run(source)
    _write_length(source, inner, "h" if of.kind == "string" else "i", "len(item)", is_flexible, 3)
    source.add("add(item)", 3)


def _write_tags(source: _Source, run: _Run, tagged: list[tuple[str, Spec]], version: int) -> None:
    if not tagged:
        run.add("B", "0")
        return
    run.flush()
    source.add("tags = []")
    for name, spec in tagged:
        default = "[]" if spec.kind == "array" else source.name(spec.default, "default")
        source.add(f"if v.{name} != {default}:")
        source.add("own = []", 2)
        source.add(f"{source.name(_tag_writer(spec, version), 'tag_')}(v.{name}, own)", 2)
        source.add("own = b''.join(own)", 2)
        source.add(f"tags += ({uvarint(spec.tag or 0)!r}, uvarint(len(own)), own)", 2)
    source.add("add(uvarint(len(tags) // 3))")
    source.add("out += tags")


def _tag_writer(spec: Spec, version: int) -> Writer:
    """What writes the value of a tagged field, as if it were the only field of a struct."""
    source = _Source("def write(value, out):")
    source.add("add = out.append")
    run = _Run(source)
    if spec.kind in FIXED:
        run.add(FIXED[spec.kind], "value")
    else:
        _write_one(source, run, "value", spec, version, True)
    run.flush()
    return source.compiled("write")  # type: ignore[no-any-return]

"""Source text of readers and writers in the making, and what both of them ask the tables.

Owns: names and lines of one function, and which field each line is about, so that an error can say where it happened.
Only tables of this package become source text; nothing that a peer sent ever does.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Any

from protocol.kafka.schema import FIXED, Spec

Fields = list[tuple[str, Spec]]
PAUSE_ELEMENTS = 500
"""Elements of arrays that a pausing reader or writer takes at a time: 0.1 to 0.5 ms."""
_FIELDS = "FIELDS_OF_LINES"


class Source:
    """Lines of a function, and the names it uses. `field` is what the lines added next are about."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._lines: list[str] = []
        self._fields: list[str] = []
        self._names = {**names, _FIELDS: self._fields}
        self.field = ""

    def add(self, line: str, depth: int = 1) -> None:
        """A line, so many blocks deep."""
        self._lines.append("    " * depth + line)
        self._fields.append(self.field)

    def name(self, value: Any, prefix: str) -> str:
        """What a value is called in the function."""
        name = f"{prefix}_{len(self._names)}"
        self._names[name] = value
        return name

    def packer(self, codes: str) -> str:
        """The name of what packs these."""
        return self.name(struct.Struct(">" + codes).pack, "pack")

    def unpacker(self, codes: str) -> str:
        """The name of what unpacks these from a position."""
        return self.name(struct.Struct(">" + codes).unpack_from, "unpack")

    def compiled(self, name: str, label: str) -> Any:
        """The function; `label` is the name of its file in a traceback."""
        exec(compile("\n".join(self._lines), f"<{label}>", "exec"), self._names)
        return self._names[name]


def where(traceback: TracebackType | None) -> str:
    """The field, and for a reader the octet, at which a function made here raised; nothing if none did."""
    found = ""
    while traceback is not None:
        frame = traceback.tb_frame
        fields = frame.f_globals.get(_FIELDS)
        if fields is not None:
            found = fields[traceback.tb_lineno - 1]
            if "position" in frame.f_locals:
                found += f" at octet {frame.f_locals['position']}"
            found += ": "
        traceback = traceback.tb_next
    return found


def fields_of(cls: Any, version: int, *, is_flexible: bool) -> tuple[Fields, Fields]:
    """(fields in place, tagged fields) of a version, in order."""
    present = [(name, spec) for name, spec in cls.SPECS.items() if spec.is_in(version)]
    plain = [one for one in present if one[1].tag is None]
    return plain, [one for one in present if one[1].tag is not None] if is_flexible else []


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


def fixed_codes(of: Any, version: int, *, is_flexible: bool) -> str | None:
    """What `struct` calls the fields in place of a class that has but fixed ones; None where there are others."""
    plain, _ = fields_of(of, version, is_flexible=is_flexible)
    if not plain or any(spec.kind not in FIXED for _, spec in plain):
        return None
    return "".join(FIXED[spec.kind] for _, spec in plain)

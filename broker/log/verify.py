"""All of a data directory read as it lies there, offline or beside a running broker: for `jackalope log verify`.

Checkpoint and journal frame by frame, and of each segment what the last checkpoint promises, batch by batch. Unlike
`dump` it knows where a segment ends, and goes on behind damage. Nothing is locked or changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from broker.log import entries
from broker.log.disk import FileRange
from broker.log.dump import Damage, FoundEntry, dump, files_of, is_segment
from broker.log.extents import Extent
from broker.log.gaps import step_over
from broker.log.journal import base_of
from broker.log.segment import log_folder

TRIES = 5
"""A checkpoint may come to its end meanwhile, and take away the files that the last one has named."""
TORN = "no whole frame, nor any behind it"


class _File:
    """An `extents.Source`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.name = path.name
        self._fd = fd

    def read(self, position: int, size: int) -> bytes:
        return os.pread(self._fd, size, position)

    def range(self, position: int, size: int) -> FileRange | None:
        return None


def verify(root: Path) -> list[Damage]:
    """Every damage in a data directory. Raises OSError."""
    for _ in range(TRIES):
        before = _checkpoint(root)
        try:
            found = list(_all(root))
        except FileNotFoundError:
            if _checkpoint(root) == before:
                raise
            continue
        if not found or _checkpoint(root) == before:
            break
    return found


def torn_end(root: Path, one: Damage) -> bool:
    """Whether it may be the torn end of the journal: of a kill, or of what a running broker is writing."""
    journals = [file for file in files_of(root) if base_of(file.name) is not None]
    return one.what == TORN and one.file == journals[-1]


def _checkpoint(root: Path) -> Path | None:
    return next((file for file in files_of(root) if not is_segment(file) and base_of(file.name) is None), None)


def _all(root: Path) -> Iterator[Damage]:
    folders: dict[int, str] = {}
    states: dict[int, entries.State] = {}
    editions: dict[int, dict[int, int]] = {}
    for file in files_of(root):
        for found in dump(file) if not is_segment(file) else ():
            if isinstance(found, Damage):
                yield found
            elif isinstance(found, FoundEntry):
                if found.kind == "open":
                    folders[found.value[0]] = log_folder(found.value[1])
                elif found.kind == "state":
                    states[found.value[0]] = found.value  # type: ignore[assignment]
                elif found.kind == "editions":
                    editions[found.value[0]] = {base: edition for base, edition, _ in found.value[1]}
    for number, state in states.items():
        for base, end, size in state.segments:
            edition = editions.get(number, {}).get(base, 0)
            name = f"{base:020d}-{edition:05d}.log" if edition else f"{base:020d}.log"
            yield from _segment(root / folders[number] / name, base, end, size)


def _segment(path: Path, base: int, end: int, size: int) -> Iterator[Damage]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Damage(path, 0, f"is not there: offsets {base} to {end - 1}")
        return
    try:
        has = os.fstat(fd).st_size
        if has < size:
            yield Damage(path, has, f"has {has} octets, the checkpoint promises {size}")
        rest = [Extent(base, end, _File(path, fd), 0, min(size, has))]
        while rest:
            parts, gap = step_over(rest.pop())
            if gap is None:
                return
            yield Damage(path, gap.position, f"offsets {gap.first} to {gap.end - 1}, {gap.size} octets: {gap.what}")
            rest = [one for one in parts[-1:] if one.position > gap.position]
    finally:
        os.close(fd)

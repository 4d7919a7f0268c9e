"""All of a data directory read as it lies there, offline or beside a running broker: for `jackalope log verify`.

Checkpoint and journal frame by frame, and of each segment and sealed file what the last checkpoint promises, batch by
batch. Unlike `dump` it knows where a segment ends, and goes on behind damage. Nothing is locked or changed.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from broker.log import entries
from broker.log.checkpoint import is_checkpoint
from broker.log.disk import FileRange
from broker.log.dump import Damage, FoundEntry, dump, files_of, replayed
from broker.log.extents import Extent
from broker.log.gaps import step_over
from broker.log.journal import base_of, file_name
from broker.log.sealed import index_name
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
    journals = [file for file in files_of(root) if base_of(file.name) is not None]  # The last is no sealed one.
    return one.what == TORN and one.file == journals[-1]


def _checkpoint(root: Path) -> Path | None:
    return next((file for file in files_of(root) if is_checkpoint(file.name)), None)


class _Promised:
    """What the last checkpoint says of segments and sealed files."""

    def __init__(self) -> None:
        self.folders: dict[int, str] = {}
        self._states: dict[int, entries.State] = {}
        self._editions: dict[int, dict[int, int]] = {}
        self.sealed: list[entries.SealedState] = []

    def note(self, kind: str, value: tuple) -> None:  # type: ignore[type-arg]  # the row of the kind in `entries`
        """Take an entry."""
        if kind == "sealed":
            self.sealed += value
        elif kind == "open":
            self.folders[value[0]] = log_folder(value[1])
        elif kind == "state":
            self._states[value[0]] = value  # type: ignore[assignment]
        elif kind == "editions":
            self._editions[value[0]] = {base: edition for base, edition, _ in value[1]}

    def segments(self) -> Iterator[tuple[str, entries.SegmentState]]:
        """Each with its name."""
        for number, state in self._states.items():
            for one in state.segments:
                edition = self._editions.get(number, {}).get(one.base, 0)
                name = f"{one.base:020d}-{edition:05d}.log" if edition else f"{one.base:020d}.log"
                yield f"{self.folders[number]}/{name}", one


def _all(root: Path) -> Iterator[Damage]:
    promised = _Promised()
    for found in replayed(root):
        if isinstance(found, Damage):
            yield found
        elif isinstance(found, FoundEntry):
            promised.note(found.kind, found.value)
    for name, (base, end, size) in promised.segments():
        yield from _batches(root / name, size, [entries.Place(base, end, 0, size)])
    for one in promised.sealed:
        yield from _sealed(root, one, promised.folders)


def _sealed(root: Path, one: entries.SealedState, folders: Container[int]) -> Iterator[Damage]:
    file = root / file_name(one.base)
    has = file.stat().st_size if file.exists() else 0
    if has < one.size:
        yield Damage(file, has, f"has {has} octets, the checkpoint promises {one.size}")
    index = root / index_name(one.base, one.edition)
    if not index.exists() or not index.read_bytes().strip(b"\0"):
        yield Damage(index, 0, "is not there or empty, and a checkpoint names it")
        return
    for found in dump(index):
        if isinstance(found, Damage):
            yield found
        elif isinstance(found, FoundEntry) and found.kind == "places" and found.value[0] in folders and found.value[1]:
            yield from _batches(file, 0, found.value[1])


def _batches(path: Path, size: int, places: Sequence[entries.Place]) -> Iterator[Damage]:
    """What is damaged of the batches of a log that lie in these places of a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Damage(path, 0, f"is not there: offsets {places[0].first} to {places[-1].end - 1}")
        return
    try:
        has = os.fstat(fd).st_size
        if has < size:
            yield Damage(path, has, f"has {has} octets, the checkpoint promises {size}")
        for first, end, position, length in places:
            yield from _extent(path, Extent(first, end, _File(path, fd), position, min(length, has - position)))
    finally:
        os.close(fd)


def _extent(path: Path, extent: Extent) -> Iterator[Damage]:
    """What is damaged of one that lies in a file."""
    rest = [extent] if extent.size > 0 else []
    while rest:
        parts, gap = step_over(rest.pop())
        if gap is None:
            return
        yield Damage(path, gap.position, f"offsets {gap.first} to {gap.end - 1}, {gap.size} octets: {gap.what}")
        rest = [one for one in parts[-1:] if one.position > gap.position]

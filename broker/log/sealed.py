"""Sealed files: files of the journal in which batches were left where its one write had put them.

A checkpoint that finds a file of the journal to be mostly large runs of batches does not copy them into segments
(`sealing`): it seals the file. From then on the file is read like a segment, by the logs that have batches in it, and
never replayed. What lies where in it is in its *index*, a file beside it that holds one frame: PLACES of each log, END.
An index is written once; when a log was truncated, or has moved its batches away, the next checkpoint writes another
edition of it. File and edition count from the checkpoint on that names them (SEALED).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from broker.log import entries, frames
from broker.log.disk import Disk, FileRange
from broker.log.errors import Corrupt
from broker.log.journal import FOLDER, file_name
from broker.log.segment import EDITION_MAX, Handles

_INDEX_NAME = re.compile(r"([0-9]{20})-[0-9]{5}\.index")
Places = Mapping[int, Sequence[entries.Place]]
"""By the log's number."""


def index_name(base: int, edition: int) -> str:
    """The index of the sealed file that begins at a logical position."""
    return f"{FOLDER}/{base:020d}-{edition:05d}.index"


def indexed_base(name: str) -> int | None:
    """Where the sealed file begins whose index this is (without the folder); None when no index is named so."""
    found = _INDEX_NAME.fullmatch(name)
    return int(found[1]) if found else None


def write_index(disk: Disk, base: int, edition: int, places: Places) -> None:
    """Make an index that nobody names yet (any thread), and sync it. Raises OSError."""
    name = index_name(base, edition)
    payload = [entries.places(number, of_log) for number, of_log in places.items()]
    payload.append(entries.mark(entries.END))
    file = disk.open(name, create=True)
    try:
        file.write(0, (frames.encode(base, 0, edition, payload), *payload))
        file.sync()
    finally:
        file.close()


def read_index(disk: Disk, base: int, edition: int) -> Places:
    """What an index says. Raises Corrupt, also for one that is not there, and OSError."""
    name = index_name(base, edition)
    if disk.file_size(name) is None:
        raise Corrupt(f"{name} is not there, and a checkpoint names it")
    file = disk.open(name)
    try:
        frame = frames.read_frame(file.read, base, base, file.size())
    finally:
        file.close()
    if frame is None or frame.epoch != edition:
        raise Corrupt(f"{name} is damaged: it was complete once")
    return places_in(frame.payload)


def places_in(payload: bytes) -> Places:
    """What the frame of an index says. Raises Corrupt."""
    return {value[0]: value[1] for kind, value in entries.read_entries(payload) if kind == entries.PLACES}


class SealedFile:
    """One file, an `extents.Source`; positions are those in the file. The loop's alone, like its handle.

    `edition` is that of the index that the last checkpoint has named, 0 while none has; `tried` those that checkpoints
    have written since, the newest last. `is_stale` says that the index has batches that the file's logs do not have
    there any more, other than by settling them.
    """

    __slots__ = ("_handles", "base", "edition", "ends", "is_stale", "live_bytes", "name", "size", "tried")

    def __init__(self, handles: Handles, base: int, size: int, edition: int = 0) -> None:
        self._handles = handles
        self.base = base
        self.name = file_name(base)
        self.size = size
        self.edition = edition
        self.tried: list[int] = []
        self.is_stale = not edition
        self.ends: dict[int, int] = {}
        """The logs that the index names, with the end of what each has here."""
        self.live_bytes = 0
        """Octets of what its logs still have here, as the last checkpoint has counted them."""

    def begin_edition(self) -> int:
        """The number of an index that is to be written: one that no checkpoint can have named, also none of those that
        were given up when they counted already."""
        last = self.tried[-1] if self.tried else self.edition
        self.tried.append(last % EDITION_MAX + 1)
        return self.tried[-1]

    def end_edition(self) -> list[str]:
        """The newest one that was tried counts now; returns the names of the others, which do no more."""
        old, self.edition, self.tried = [self.edition, *self.tried[:-1]], self.tried[-1], []
        return [index_name(self.base, edition) for edition in old if edition]

    @property
    def index_names(self) -> list[str]:
        """All that there may be."""
        return [index_name(self.base, edition) for edition in (self.edition, *self.tried) if edition]

    def index(self, places: Places) -> None:
        """Note what its index says from now on."""
        self.ends = {number: of_log[-1].end for number, of_log in places.items() if of_log}

    def read(self, position: int, size: int) -> bytes:
        """Octets of the file."""
        return self._handles.get(self.name).read(position, size)

    def range(self, position: int, size: int) -> FileRange | None:
        """The same, to be sent from the file."""
        return self._handles.get(self.name).range(position, size)

    def close(self) -> None:
        """Give its handle back."""
        self._handles.close(self.name)

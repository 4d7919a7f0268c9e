"""Sealed files: journal files whose batches stay where the journal wrote them.

Where a journal file is mostly large runs of batches, a checkpoint seals the file instead of copying them into segments
(`sealing`). A sealed file is never replayed; the logs that have batches in it read it like a segment. Its *index*, a
file beside it, tells where those batches lie, in one frame: PLACES of each log, END. An index is written once; when a
log was truncated, or has moved its batches away, the next checkpoint writes another *edition* of the index. A sealed
file and the edition of its index count as soon as a checkpoint that names them counts (SEALED).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from broker.log import entries, frames
from broker.log.disk import Disk
from broker.log.errors import Corrupt
from broker.log.journal import FOLDER, file_name
from broker.log.segment import EDITION_MAX, Handled, Handles

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


class SealedFile(Handled):
    """One sealed file, an `extents.Source` whose positions count from the file's start. Read on the loop only.

    `edition` is the edition of the index that the last checkpoint names, 0 if there is none; `tried` lists the editions
    that checkpoints have begun since, newest last. `is_stale` says that there is no index yet, or that the index names
    batches that logs no longer have in this file although they have not settled them.
    """

    __slots__ = (
        "base", "edition", "is_damaged", "is_stale", "is_unreadable", "live_bytes", "size", "spans", "tried",
    )  # fmt: skip

    def __init__(self, handles: Handles, base: int, size: int, edition: int = 0) -> None:
        super().__init__(handles, file_name(base))
        self.base = base
        self.size = size
        self.edition = edition
        self.tried: list[int] = []
        self.is_stale = not edition
        self.is_damaged = False
        """Whether something that a log needs could not be read: the file stays, and may be put back from a copy."""
        self.is_unreadable = False
        """Whether a checkpoint of this run could not move what is in it."""
        self.spans: dict[int, tuple[int, int]] = {}
        """The logs that the index names, by number, with the first offset and the end of what each has here."""
        self.live_bytes = 0
        """Octets of what its logs still have here, as the last checkpoint has counted them."""

    def begin_edition(self) -> int:
        """Begin a new edition of the index; returns its number, which no checkpoint can have named.

        A checkpoint that was given up may have counted already, so no number in `tried` is used again.
        """
        last = self.tried[-1] if self.tried else self.edition
        self.tried.append(last % EDITION_MAX + 1)
        return self.tried[-1]

    def end_edition(self) -> list[str]:
        """Let the newest edition in `tried` count; returns the file names of the others, which count no more."""
        old, self.edition, self.tried = [self.edition, *self.tried[:-1]], self.tried[-1], []
        return [index_name(self.base, edition) for edition in old if edition]

    @property
    def index_names(self) -> list[str]:
        """All that there may be."""
        return [index_name(self.base, edition) for edition in (self.edition, *self.tried) if edition]

    def index(self, places: Places) -> None:
        """Note what its index says from now on."""
        self.spans = {number: (of_log[0].first, of_log[-1].end) for number, of_log in places.items() if of_log}

"""Segments: where the batches of a log lie that a checkpoint has moved out of the journal.

A segment is a file of batches, verbatim, named after the offset it begins with and, when it takes the place of others
(`rewriting`), after its edition. It is written by the checkpoint's thread only, at its end, and counts from the
checkpoint that names it on; octets behind the size that a checkpoint promises are nobody's and are overwritten. Readers
have handles of their own, from a bounded pool (`Handles`).
"""

from __future__ import annotations

import errno
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from broker.log.disk import Disk, File, FileRange
from broker.log.extents import Extent, is_empty, shrink

SEGMENT_BYTES_MAX = 64 << 20
"""A segment is freed as a whole; larger ones hold more of what is settled, smaller ones are more files."""

EDITION_MAX = 99_999
"""Then they begin anew: nothing of the first ones is left."""
_NAME = re.compile(r"[0-9]{20}(-[0-9]{5})?\.log")


def log_folder(uuid: bytes) -> str:
    """Where the segments of a log are."""
    return f"logs/{uuid.hex()}"


def log_of(folder: str) -> bytes:
    """The uuid of the log whose segments are in a folder."""
    return bytes.fromhex(folder.strip("/").removeprefix("logs/"))


def is_segment(name: str) -> bool:
    """Whether a file of this name in such a folder is one."""
    return _NAME.fullmatch(name) is not None


class Handles:
    """Open files for reading, the least recently used closed first. The loop's alone."""

    __slots__ = ("_disk", "_files", "_max")

    def __init__(self, disk: Disk, handles_max: int) -> None:
        self._disk = disk
        self._max = handles_max
        self._files: OrderedDict[str, File] = OrderedDict()

    def get(self, name: str) -> File:
        """The file, opened if it is not. Raises OSError."""
        file = self._files.get(name)
        if file is None:
            while len(self._files) >= self._max:
                self._files.popitem(last=False)[1].close()
            try:
                file = self._disk.open(name)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                    raise
                self.close_all()  # Others need handles more than we need to keep ours.
                file = self._disk.open(name)
            self._files[name] = file
        else:
            self._files.move_to_end(name)
        return file

    def close(self, name: str) -> None:
        """Close the file if it is open."""
        file = self._files.pop(name, None)
        if file is not None:
            file.close()

    def close_all(self) -> bool:
        """Give all handles back; returns whether there were any."""
        were_open = bool(self._files)
        while self._files:
            self._files.popitem()[1].close()
        return were_open


class Handled:
    """An `extents.Source` that is a file of the name, read by a handle of the pool; on the loop only."""

    __slots__ = ("_handles", "name")

    def __init__(self, handles: Handles, name: str) -> None:
        self._handles = handles
        self.name = name

    def read(self, position: int, size: int) -> bytes:
        """Octets of the file."""
        return self._handles.get(self.name).read(position, size)

    def range(self, position: int, size: int) -> FileRange | None:
        """The same, to be sent from the file."""
        return self._handles.get(self.name).range(position, size)

    def close(self) -> None:
        """Give its handle back."""
        self._handles.close(self.name)


class Segment(Handled):
    """One file of a log; `end` is the offset behind its last batch, `size` what it holds in octets.

    `gaps` counts the offsets of its range that it holds no record of, since it was written anew without them.
    """

    __slots__ = ("_folder", "base", "edition", "end", "gaps", "size")

    def __init__(self, handles: Handles, folder: str, base: int, end: int, size: int) -> None:
        super().__init__(handles, f"{folder}/{base:020d}.log")
        self._folder = folder
        self.base = base
        self.end = end
        self.size = size
        self.edition = 0
        self.gaps = 0

    def as_edition(self, edition: int, gaps: int) -> Segment:
        """It is written anew, and named so; returns itself."""
        self.name = f"{self._folder}/{self.base:020d}-{edition:05d}.log"
        self.edition = edition
        self.gaps = gaps
        return self

    def copy(self) -> Segment:
        """The same file, to be grown while others see it as it is."""
        other = Segment(self._handles, self._folder, self.base, self.end, self.size)
        return other.as_edition(self.edition, self.gaps) if self.edition else other

    @property
    def record_count(self) -> int:
        """Offsets that it has records of, settled or not (about: what was settled when it was made counts)."""
        return max(self.end - self.base - self.gaps, 0)


def clip_segments(
    segments: Sequence[Segment], offset: int, is_done: Callable[[int, int], bool] = is_empty
) -> list[Segment]:
    """The segments up to `offset`, the first of a batch. Raises Corrupt and OSError."""
    kept = [one for one in segments if one.base < offset]
    for one in kept[-1:]:
        if one.end > offset:
            one.size = shrink(Extent(one.base, one.end, one, 0, one.size), offset, is_done).size
            one.end = offset
    return kept

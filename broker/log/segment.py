"""Segments: where the batches of a log lie that a checkpoint has moved out of the journal.

A segment is a file of batches, verbatim, named after the offset it begins with. It is written by the checkpoint's
thread only, at its end, and counts from the checkpoint that names it on; octets behind the size that a checkpoint
promises are nobody's and are overwritten. Readers have handles of their own, from a bounded pool (`Handles`).
"""

from __future__ import annotations

import errno
import re
from collections import OrderedDict
from collections.abc import Sequence

from broker.log.disk import Disk, File
from broker.log.extents import Extent, shrink

SEGMENT_BYTES_MAX = 64 << 20
"""A segment is freed as a whole; larger ones hold more of what is settled, smaller ones are more files."""

_NAME = re.compile(r"[0-9]{20}\.log")


def log_folder(uuid: bytes) -> str:
    """Where the segments of a log are."""
    return f"logs/{uuid.hex()}"


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

    def close_all(self) -> None:
        """Give all handles back."""
        while self._files:
            self._files.popitem()[1].close()


class Segment:
    """One file of a log; `end` is the offset behind its last batch, `size` what it holds in octets."""

    __slots__ = ("_handles", "base", "end", "name", "size")

    def __init__(self, handles: Handles, folder: str, base: int, end: int, size: int) -> None:
        self._handles = handles
        self.name = f"{folder}/{base:020d}.log"
        self.base = base
        self.end = end
        self.size = size

    def read(self, position: int, size: int) -> bytes:
        """Octets of the file."""
        return self._handles.get(self.name).read(position, size)

    def close(self) -> None:
        """Give its handle back."""
        self._handles.close(self.name)


def clip_segments(segments: Sequence[Segment], offset: int) -> list[Segment]:
    """The segments up to `offset`, the first of a batch. Raises Corrupt and OSError."""
    kept = [one for one in segments if one.base < offset]
    for one in kept[-1:]:
        if one.end > offset:
            one.size = shrink(Extent(one.base, one.end, one, 0, one.size), offset).size
            one.end = offset
    return kept

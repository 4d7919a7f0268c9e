"""What a checkpoint moves of a log: out of the journal, the last checkpoint and sealed files, into segments.

`Move` is made on the loop, `find_breaks` looks at it there, `copy` is the work of the checkpoint's thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Set as AbstractSet
from itertools import accumulate

from broker.log import extents
from broker.log.disk import Disk, File
from broker.log.extents import Extent, Source
from broker.log.log import Log
from broker.log.sealed import SealedFile
from broker.log.segment import Segment, log_folder
from broker.log.store import Store


class Move:
    """What one log has to move, and where the thread has put it.

    `left` are the sealed files that the batches are moved out of. `breaks` are the first offsets of the pieces that
    must begin a new segment, because batches that stay elsewhere lie between such a piece and the piece before it, or
    the last segment: after a restart a segment is taken to hold everything between its ends.
    """

    __slots__ = ("breaks", "left", "log", "made", "moved", "pieces", "size", "stays_behind")

    def __init__(self, log: Log, pieces: list[Extent], left: AbstractSet[SealedFile]) -> None:
        self.log = log
        self.pieces = pieces
        self.left = left
        self.size = sum(piece.size for piece in pieces)
        self.breaks: set[int] = set()
        self.stays_behind = False
        """Whether something of the log stays that lies behind its first piece: then none of it can be carried."""
        self.moved: list[Extent] = []
        self.made: list[str] = []
        """New files; what is not in use when the state is captured is removed."""

    def leave_sealed(self) -> None:
        """Move only what has to be moved: batches in sealed files stay there, and lie between any of the others."""
        self.pieces = [one for one in self.pieces if not isinstance(one.source, SealedFile)]
        self.breaks = {one.first for one in self.pieces}
        self.left = frozenset()
        self.moved.clear()


def find_breaks(move: Move, store: Store) -> None:
    """Find `breaks` and `stays_behind` of a move.

    A segment of the log, and what the index of a sealed file names, is in the way also where no extent has any of it:
    it may be settled, damaged, or never have been written.
    """
    log, number = move.log, move.log.number
    spans = [(one.base, one.end) for one in log.segments]
    spans += [one.spans[number] for one in store.sealed.values() if number in one.spans and one not in move.left]
    spans.sort()
    firsts = [first for first, _ in spans]
    ends = list(accumulate((end for _, end in spans), max))  # The furthest of those that begin so early.
    last_end = end = log.segments[-1].end if log.segments else 0
    for piece in move.pieces:
        index = bisect_left(firsts, piece.first)
        if (index and ends[index - 1] > end) or piece.first < last_end:
            move.breaks.add(piece.first)
        end, last_end = piece.end, 0
    move.stays_behind = bool(ends and ends[-1] > move.pieces[0].first) or any(
        isinstance(one.source, SealedFile) for one in move.pieces
    )


def copy(store: Store, move: Move, last: list[Segment], size_max: int) -> list[Segment]:
    """Append a log's pieces to its segments, of about `size_max` octets each, and sync them.

    `last` has the log's last segment, if there is one: a segment that is not full yet is grown. Returns the segments
    that were made or grown. Raises OSError.
    """
    folder = log_folder(move.log.uuid)
    store.disk.make_folder(folder)
    grown: list[Segment] = []
    file: File | None = None
    segment: Segment | None = None
    size_max = min(size_max, move.log.layout.segment_bytes)
    readers = Readers(store.disk)
    if last and last[0].size < size_max and move.pieces[0].first not in move.breaks:
        segment = last[0].copy()
        file = store.disk.open(segment.name)
        grown.append(segment)
    try:
        for piece in move.pieces:
            if segment is None or file is None or segment.size >= size_max or piece.first in move.breaks:
                if file is not None:
                    file.sync()
                    file.close()
                    file = None
                segment = Segment(store.handles, folder, piece.first, piece.first, 0)
                move.made.append(segment.name)
                store.disk.remove(segment.name)  # Remains of a checkpoint that did not come to its end.
                file = store.disk.open(segment.name, create=True)
                grown.append(segment)
            file.write(segment.size, (readers.read(piece),))
            extend(move.moved, piece, segment, segment.size)
            segment.size += piece.size
            segment.end = piece.end
        if file is not None:
            file.sync()
    finally:
        readers.close()
        if file is not None:
            file.close()
    store.disk.sync_folder(folder)
    return grown


class Readers:
    """Reads pieces in a thread: sealed files by handles of its own, since those of the loop are the loop's."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._name = ""
        self._file: File | None = None  # One at a time: pieces come in order, and handles may be few.

    def read(self, piece: Extent) -> bytes:
        """All octets of a piece. Raises OSError when they are not there."""
        source: Source | File = piece.source
        if isinstance(source, SealedFile):
            if self._file is None or source.name != self._name:
                self.close()
                self._file, self._name = self._disk.open(source.name), source.name
            source = self._file
        data = source.read(piece.position, piece.size)
        if len(data) != piece.size:
            raise OSError(f"{piece.size} octets were expected at {piece.position}, {len(data)} are there")
        return data

    def close(self) -> None:
        """Give the handle back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def extend(moved: list[Extent], piece: Extent, source: Source, position: int) -> None:
    """Note where a piece went, as one extent with the one before if that stays small enough to be read at once."""
    if moved:
        before = moved[-1]
        if before.source is source and before.size + piece.size <= extents.EXTENT_BYTES_MAX:
            moved[-1] = Extent(before.first, piece.end, source, before.position, before.size + piece.size)
            return
    moved.append(Extent(piece.first, piece.end, source, position, piece.size))

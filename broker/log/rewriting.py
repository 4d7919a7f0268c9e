"""Segments written anew without what is settled, so that the disk follows what is left of a compacted log.

Where a record here and there outlives its neighbours no segment is ever wholly settled. So a checkpoint looks at the
logs that can make a batch smaller (`Layout.reduce`): segments that lie side by side and hold twice what is left of
them, or are many and small, become one new file, an *edition*. What is in it stands at the offsets it had.

    plan (loop)  ->  run (the checkpoint's thread: read, reduce, write, sync)  ->  switch (loop)

The new file has a name that nobody had, and counts from the checkpoint on that names it; until that is complete the
last one names the old files, which are therefore removed at its end only (`Log.lost_segments`). So whatever is cut off
leaves the old files or the new one. Readers hold octets, not files: the next that they ask for come from the new one.
A file that cannot be made is done without: the old ones are as good, only larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.log import extents
from broker.log.ackset import CHUNK, AckSet
from broker.log.errors import StorageError
from broker.log.extents import Batch, Extent
from broker.log.sealed import SealedFile
from broker.log.segment import EDITION_MAX, Segment, log_folder
from protocol.kafka.records import HEADER_SIZE, CorruptBatch, check_batch, parse_header

if TYPE_CHECKING:
    from broker.log.disk import File
    from broker.log.log import Log
    from broker.log.store import Store

REWRITE_BYTES_MAX = 64 << 20
"""Octets of old files that one checkpoint reads for this, or one set of them if that is more: it bounds how long the
journal waits for it, and what is written twice."""
FILES_MAX = 8
"""So many files side by side become one even if nothing is won but the files."""
WRITE_BYTES = 256 << 10
_FIRST = attrgetter("first")


def plan(store: Store, size_max: int) -> Iterator[Rewriting | None]:
    """What is worth it, as far as one checkpoint goes; None is a pause. A new file holds about `size_max` at most."""
    room = REWRITE_BYTES_MAX
    for log in [one for one in store.logs.values() if one.has_waste]:
        # What is being moved out of sealed files lies between segments: they are not side by side yet.
        is_reducing = log.layout.reduce is not None
        files = {one.source for one in log.extents if isinstance(one.source, SealedFile)} if is_reducing else set()
        log.has_waste = any(not one.is_damaged for one in files)  # What is damaged stays, so nothing is due for it.
        is_worth_a_look = is_reducing and not files
        for old in _sets(log, min(size_max, log.layout.segment_bytes)) if is_worth_a_look else ():
            if room <= 0:
                log.has_waste = True
                return
            if old:
                room -= sum(one.size for one in old)
                yield Rewriting(store, log, old)
            else:
                yield None


def size_left(log: Log, segment: Segment, end: int) -> int:
    """About how many octets of a segment are below `end` and not settled, written anew or not yet."""
    end = min(segment.end, end)
    live = end - segment.base - log.settled.count(segment.base, end)
    return segment.size * live // max(segment.record_count, live, 1)


def _sets(log: Log, size_max: int) -> Iterator[Sequence[Segment]]:
    """Segments side by side that had better be one; an empty one is a pause."""
    some: list[Segment] = []
    old_size = new_size = 0
    for segment in list(log.segments):
        left = size_left(log, segment, segment.end)
        if some and new_size + left > size_max:
            if _is_worth_it(len(some), old_size, new_size):
                yield some
            some, old_size, new_size = [], 0, 0
        some.append(segment)
        if left:  # Else it is removed without this; here it goes along.
            old_size += segment.size
            new_size += left
        yield ()
    if _is_worth_it(len(some), old_size, new_size):
        yield some


def _is_worth_it(count: int, old_size: int, new_size: int) -> bool:
    return new_size > 0 and (2 * new_size <= old_size or count >= FILES_MAX)


class Rewriting:
    """One set of segments and the one that takes their place."""

    def __init__(self, store: Store, log: Log, old: Sequence[Segment]) -> None:
        assert log.layout.reduce is not None
        self.log = log
        self._store = store
        self._old = old
        self._reduce = log.layout.reduce
        first, last = old[0], old[-1]
        self._settled = _part(log.settled, first.base, last.end)
        self._new = Segment(store.handles, log_folder(log.uuid), first.base, last.end, 0)
        edition = max(one.edition for one in old) % EDITION_MAX + 1
        self._new.as_edition(edition, self._settled.count(first.base, last.end))
        self._extents: list[Extent] = []
        self._parts: list[bytes] = []
        self._part_first = self._part_end = self._part_size = 0
        self._is_made = self._is_over = False

    # In the thread.

    def run(self) -> None:
        """Make the new file. Whatever is in the way of it leaves the old ones in use."""
        disk, name = self._store.disk, self._new.name
        try:
            disk.remove(name)  # Remains of one that did not come to its end.
            file = disk.open(name, create=True)
            try:
                for segment in self._old:
                    if not self._settled.covers(segment.base, segment.end):
                        self._take(segment, file)
                self._write(file)
                file.sync()
            finally:
                file.close()
            disk.sync_folder(log_folder(self.log.uuid))
        except (OSError, StorageError, CorruptBatch):
            return  # A read of the log will say it, if it is the log.
        self._is_made = True

    def _take(self, segment: Segment, file: File) -> None:
        source = self._store.disk.open(segment.name)
        try:
            for batch in _batches(source, segment):
                self._keep(batch)
                if self._part_size >= WRITE_BYTES:
                    self._write(file)
        finally:
            source.close()

    def _keep(self, batch: Batch) -> None:
        header, data, position = batch
        first, end = header.base_offset, header.next_offset
        live = end - first - self._settled.count(first, end)
        if not live:
            return
        is_whole = live == header.records
        octets = data[position : position + header.size] if is_whole else self._reduce(batch, self._settled)
        if self._part_size and self._part_size + len(octets) > extents.EXTENT_BYTES_MAX:
            self._note_extent()
        if not self._part_size:
            self._part_first = first
        self._parts.append(octets)
        self._part_end = end
        self._part_size += len(octets)

    def _note_extent(self) -> None:
        """What was gathered can be read at once, and so is one extent."""
        new = self._new
        self._extents.append(Extent(self._part_first, self._part_end, new, new.size, self._part_size))
        new.size += self._part_size
        self._part_size = 0

    def _write(self, file: File) -> None:
        if self._part_size:
            self._note_extent()
        size = sum(map(len, self._parts))
        file.write(self._new.size - size, self._parts)
        self._parts = []

    # On the loop.

    def switch(self) -> None:
        """Read the new file in the place of the old ones, unless the log has been cut or dropped meanwhile."""
        self._is_over = True
        log, new, old = self.log, self._new, self._old
        if self._store.logs.get(log.number) is not log:
            return  # Its folder goes.
        is_whole = log.lowest_cut >= new.end and all(one in log.segments for one in old)
        if not self._is_made or not is_whole:
            log.lost_segments.append(new.name)
            return
        place = log.segments.index(old[0])
        log.segments[place : place + len(old)] = [new]
        covers = log.settled.covers
        kept = [one for one in log.extents if one.source not in old]
        kept += [one for one in self._extents if not covers(one.first, one.end)]
        log.extents = sorted(kept, key=_FIRST)
        for segment in old:
            segment.close()
            log.lost_segments.append(segment.name)

    def give_back(self) -> None:
        """The checkpoint is given up: a later one looks again, and removes what was made and is not in use."""
        self.log.has_waste = True
        if not self._is_over:
            self.log.lost_segments.append(self._new.name)


def _part(settled: AckSet, first: int, end: int) -> AckSet:
    """A copy of what is settled between two offsets, for another thread."""
    found = AckSet(settled.floor)
    numbers = range(first // CHUNK, end // CHUNK + 1)
    found.chunks = {number: bitmap for number, bitmap in settled.chunks.items() if number in numbers}
    return found


def _batches(file: File, segment: Segment) -> Iterator[Batch]:
    """The batches of a file, some read at once. Raises OSError and CorruptBatch."""
    data, start, position = b"", 0, 0
    while position < segment.size:
        at = position - start
        if len(data) - at < HEADER_SIZE or len(data) - at < parse_header(data, at).size:
            data, start, at = file.read(position, min(WRITE_BYTES, segment.size - position)), position, 0
            size = parse_header(data).size
            if size > len(data):
                data = file.read(position, size)
        header = parse_header(data, at)
        check_batch(data, at, header)
        if not segment.base <= header.base_offset < header.next_offset <= segment.end:
            raise CorruptBatch(f"a batch claims offset {header.base_offset} among those of {segment.name}")
        yield Batch(header, data, at)
        position += header.size

"""A checkpoint: one file with the catalog and the state of all logs, so that the journal before it can be removed.

The file is a short journal of its own (`frames`, `entries`): BEGIN, the catalog, OPEN and STATE of each log, the
batches of small logs (carried), END. Batches of larger logs are moved into segments, verbatim, unless all of a batch is
settled and none of it is kept; batches that make up most of a journal file stay in that file (`sealing`).
These are the steps, with what each guards against; blocking work is yielded as a job for a thread:

1. rotate: the journal from position P0 on lies in new files, and everything before P0 is synced first. A frame is put
   at P0 at once, so that a missing journal at P0 always means a lost one. Then segments of which little is left are
   written anew (`rewriting`); the old segments stay until this checkpoint counts.
2. move: live batches from before P0, and from the last checkpoint's file, are copied and synced. Nothing names the
   copies yet.
3. capture: the state as it is now, later than P0. Replaying the journal from P0 over that state changes nothing twice:
   settled sets and keys end up the same, and batches appended from P0 on were not captured.
4. write: the file is written and synced; then everything that was captured has to be synced in the journal as well, or
   a crash could keep a settlement whose other half (a dead letter) is lost.
5. rename: now the checkpoint counts. Only then are the old checkpoint, old journal files and wholly settled segments
   removed. The first checkpoint of a run also removes segments that nobody names, left over from the last run.

A checkpoint that is given up leaves what it was to remove, and what it has made, to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from collections.abc import Set as AbstractSet
from operator import attrgetter

from broker.log import entries, frames
from broker.log.disk import NO_HANDLES, NO_SPACE, Disk, File, FileRange
from broker.log.extents import Extent, clip
from broker.log.log import Log
from broker.log.moving import Move, Readers, copy, extend, find_breaks
from broker.log.recovering import NOTHING_KEPT
from broker.log.rewriting import Rewriting, plan
from broker.log.sealed import SealedFile
from broker.log.sealing import Sealing, note_cut
from broker.log.segment import SEGMENT_BYTES_MAX, Segment, clip_segments, is_segment, log_folder, log_of
from broker.log.store import Store

CARRY_BYTES_MAX = 64 << 10
"""Logs with less than this are kept in the checkpoint's own file: a file and a sync each would cost more."""
CARRY_TOTAL_MAX = 16 << 20
SLICE_ITEMS = 500
"""Extents or catalog entries looked at between two chances for others to run."""
REWRITE_ITEMS = 50
"""Segments looked at for whether they had better be written anew: 0.1 ms each at most."""
FRAME_BYTES = 1 << 20

_FIRST, _BASE = attrgetter("first"), attrgetter("base")
_NAME = re.compile(r"checkpoint-[0-9]{20}")

Job = Callable[[], None]
Step = Job | None
"""A job to run in a thread before the next step; None is only a pause: go on in a later slice."""


def file_name(generation: int) -> str:
    """The checkpoint of a generation."""
    return f"checkpoint-{generation:020d}"


def is_checkpoint(name: str) -> bool:
    """Whether a file of this name is a checkpoint that counts."""
    return _NAME.fullmatch(name) is not None


class CheckpointFile:
    """A complete checkpoint, open for reading the batches that it carries."""

    __slots__ = ("_file", "name")

    def __init__(self, name: str, file: File) -> None:
        self.name = name
        self._file = file

    def read(self, position: int, size: int) -> bytes:
        """Octets of the file."""
        return self._file.read(position, size)

    def range(self, position: int, size: int) -> FileRange | None:
        """The same, to be sent from the file."""
        return self._file.range(position, size)

    def close(self) -> None:
        """Give the handle back."""
        self._file.close()


class Checkpoint:
    """One checkpoint of `store`; run `steps` to its end, or close it: then nothing of it counts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._replay_from = store.journal.rotate()
        store.mark_start()
        self._old = store.checkpoint_source
        self._moves: list[Move] = []
        self._carried: list[Move] = []
        self._rewritings: list[Rewriting] = []
        self._sealing = Sealing(store, self._replay_from)
        self._dead: list[tuple[Log, str]] = []
        self._doomed: list[str] = []
        self._reused: set[str] = set()
        """Doomed folders of logs that have come back: only the files in them that the log does not name are removed."""
        self._named: dict[str, set[str]] = {}

    def steps(self) -> Generator[Step, None, None]:
        """The steps, in order; see the module. A job raises OSError: then nothing of it counts, and this is closed."""
        try:
            yield from self._steps()
        except BaseException:
            self._give_back()
            raise

    def _steps(self) -> Iterator[Step]:
        store = self._store
        while store.journal.written < self._replay_from:
            yield None
        yield store.journal.sync_files
        store.journal.synced = max(store.journal.synced, self._replay_from)
        yield from self._plan()
        yield from self._write_anew()
        # What was dropped, or cut as a whole meanwhile, is not moved: another segment may be the last one now.
        self._moves = [
            move
            for move in self._moves
            if store.logs.get(move.log.number) is move.log and move.pieces[0].first < move.log.lowest_cut
        ]
        for move in self._moves:
            move.log.has_folder = True  # From here on its folder is doomed when it is dropped.
        copies = [(move, list(move.log.segments[-1:])) for move in self._moves]
        results: list[list[Segment]] = []
        yield lambda: results.extend(self._copy(move, last) for move, last in copies)
        for (move, _), segments in zip(copies, results, strict=True):
            self._switch(move, segments)
            yield None
        # The new checkpoint will not name what is doomed by now; it may still name what is dropped from here on.
        self._doomed, store.doomed = store.doomed, []
        self._reused = {name for name in self._doomed if name.endswith("/") and log_of(name) in store.by_uuid}
        for name in self._reused:
            store.by_uuid[log_of(name)].has_folder = True  # A log came back: its old files are there until this counts.
        payloads: list[list[bytes]] = [[]]
        yield from self._capture(payloads)
        captured = store.frame if store.dirty else store.frame - 1
        generation = store.generation + 1
        written = _File(store.disk, generation)
        if self._sealing.has_indexes:
            yield self._sealing.write
        yield lambda: written.write(payloads, self._carried)
        while store.synced_frame < captured:
            yield None
        yield store.journal.sync_files
        yield written.commit
        assert written.source is not None
        for move in self._carried:
            self._replace(move, clip(written.moved.get(move.log.number, []), move.log.lowest_cut))
        old, store.checkpoint_source = self._old, written.source
        store.generation = generation
        store.checkpoint_end = self._replay_from
        self._doomed += self._sealing.done()
        sealed = {one.name for one in store.sealed.values()}
        self._doomed += [name for name in store.journal.forget_before(self._replay_from) if name not in sealed]
        if isinstance(old, CheckpointFile):
            old.close()
            self._doomed.append(old.name)
        gone = [name for name in self._doomed if name not in self._reused] + [name for _, name in self._dead]
        yield lambda: _remove(store.disk, gone)
        if self._named:
            yield lambda: _sweep(store.disk, self._named)
        store.swept = True

    def _give_back(self) -> None:
        """What was to be removed, and what was made for nothing, is left for the next checkpoint."""
        self._store.doomed += self._doomed
        self._sealing.give_back()
        for move in self._moves:
            move.log.lost_segments += move.made
        for one in self._rewritings:
            one.give_back()
        for log, name in self._dead:
            log.lost_segments.append(name)

    def _copy(self, move: Move, last: list[Segment]) -> list[Segment]:
        """Copy what a log has to move (any thread). Batches in sealed files stay if that fails, since they may.

        Raises OSError.
        """
        store = self._store
        try:
            return copy(store, move, last, SEGMENT_BYTES_MAX)
        except OSError as error:
            if not move.left:
                raise
            self._sealing.keep(move.left, is_damaged=error.errno not in (*NO_SPACE, *NO_HANDLES))
            move.leave_sealed()
            return copy(store, move, [], SEGMENT_BYTES_MAX) if move.pieces else []

    # On the loop.

    def _is_old(self, extent: Extent, left: AbstractSet[SealedFile]) -> bool:
        """Whether an extent lies in a file that its log is moved out of: `left`, or what this checkpoint replaces."""
        source = extent.source
        if source is self._store.journal:
            return extent.position < self._replay_from
        return (self._old is not None and source is self._old) or source in left

    def _plan(self) -> Iterator[None]:
        """What each log has to move, and which of them are carried: the smallest, as far as there is room."""
        moves: list[Move] = []
        yield from self._each_log(self._look)
        self._sealing.decide()
        yield from self._sealing.leave()
        yield from self._each_log(lambda log: moves.extend(self._moves_of(log)))
        moves.sort(key=lambda move: move.size)
        room = CARRY_TOTAL_MAX
        for move in moves:
            if move.size < CARRY_BYTES_MAX and move.size <= room and not move.stays_behind:
                room -= move.size
                self._carried.append(move)
            else:
                self._moves.append(move)

    def _each_log(self, work: Callable[[Log], None]) -> Iterator[None]:
        seen = 0
        for log in list(self._store.logs.values()):
            work(log)
            seen += 1 + len(log.extents)
            if seen >= SLICE_ITEMS:
                seen = 0
                yield None

    def _look(self, log: Log) -> None:
        is_done = log.is_done
        log.extents = [one for one in log.extents if not is_done(one.first, one.end)]
        self._sealing.look(log)

    def _moves_of(self, log: Log) -> list[Move]:
        """What a log has to move, if anything."""
        note_cut(self._store, log)
        left = self._sealing.moved_from(log)
        pieces = [one for one in log.extents if self._is_old(one, left)]
        if not pieces:
            return []
        move = Move(log, pieces, left)
        find_breaks(move, self._store)
        return [move]

    def _write_anew(self) -> Iterator[Step]:
        """Write segments anew. This comes before anything is moved, since moves append to the last segment."""
        for index, one in enumerate(plan(self._store, SEGMENT_BYTES_MAX)):
            if one is not None:
                self._rewritings.append(one)
            if index % REWRITE_ITEMS == REWRITE_ITEMS - 1:
                yield None
        for one in self._rewritings:
            yield one.run
            one.switch()

    def _switch(self, move: Move, segments: list[Segment]) -> None:
        """The batches of a log are in segments now: read them there."""
        log = move.log
        if self._store.logs.get(log.number) is not log:
            return
        log.lost_segments += move.made  # Truncated meanwhile, or in use: `_retire_segments` sees.
        for segment in segments:
            segment.close()  # A handle of its name may be of a file that was there before.
        moved = clip(move.moved, log.lowest_cut)
        known = {segment.base: segment for segment in log.segments}
        for segment in clip_segments(segments, log.lowest_cut):
            if segment.base not in known:
                log.segments.append(segment)
                log.segments.sort(key=_BASE)  # What a file was emptied of may lie before others.
                known[segment.base] = segment
            elif segment.end > known[segment.base].end:
                known[segment.base].end, known[segment.base].size = segment.end, segment.size
        self._replace(
            move, [one._replace(source=known[one.source.base]) for one in moved if isinstance(one.source, Segment)]
        )
        if log.layout.reduce is not None and any(log.settled.count(one.first, one.end) for one in moved):
            log.has_waste = True  # Extents are moved whole, with what is settled in them.

    def _replace(self, move: Move, moved: list[Extent]) -> None:
        """Put `moved` in the place of the extents that it was made from; what is done with meanwhile is left out."""
        log = move.log
        kept = [one for one in log.extents if not self._is_old(one, move.left)]
        kept += [one for one in moved if not log.is_done(one.first, one.end)]
        log.extents = sorted(kept, key=_FIRST)

    def _capture(self, payloads: list[list[bytes]]) -> Iterator[None]:
        """The entries of the new file, in frames of about a megabyte."""
        store = self._store
        size = 0
        parts = payloads[0]

        def add(octets: bytes) -> None:
            nonlocal size, parts
            if size + len(octets) > FRAME_BYTES and parts:
                parts = []
                payloads.append(parts)
                size = 0
            parts.append(octets)
            size += len(octets)

        for move in self._carried:
            # As they are now; what is cut from now on is cut by the journal's entry.
            move.pieces = [one for one in move.log.extents if self._is_old(one, move.left)]
            note_cut(self._store, move.log)
        add(entries.begin(store.generation + 1, self._replay_from, store.journal.epoch, store.next_log))
        for index, (key, value) in enumerate(list(store.catalog.items())):
            if store.catalog.get(key) is value:
                add(entries.put(key, value))
            if index % SLICE_ITEMS == SLICE_ITEMS - 1:
                yield None
        for index, log in enumerate(list(store.logs.values())):
            if log.number in store.logs:
                self._retire_segments(log)
                if log.durable:
                    self._capture_log(log, add)
            if index % SLICE_ITEMS == SLICE_ITEMS - 1:
                yield None

        yield from self._sealing.places()
        states = self._sealing.states()
        if states:
            add(entries.sealed(states))

    def _retire_segments(self, log: Log) -> None:
        """Let go of the segments that are done with, and of files that went out of use."""
        dead = [segment for segment in log.segments if log.is_done(segment.base, segment.end)]
        if dead:
            # The last one may still be grown by the next checkpoint; a dead one is not: it is gone for good.
            log.segments = [segment for segment in log.segments if segment not in dead]
            log.extents = [one for one in log.extents if one.source not in dead]
            for segment in dead:
                segment.close()
                self._dead.append((log, segment.name))
        folder = log_folder(log.uuid)
        is_swept = folder + "/" in self._reused or (log.has_folder and not self._store.swept)
        if log.lost_segments or is_swept:
            named = {segment.name for segment in log.segments}
            self._dead += [(log, name) for name in dict.fromkeys(log.lost_segments) if name not in named]
            log.lost_segments.clear()
            if is_swept:
                self._named[folder] = named

    def _capture_log(self, log: Log, add: Callable[[bytes], None]) -> None:
        log.volatile.forget_below(log.settled.floor)
        add(entries.open_log(log.number, log.uuid))
        segments = [entries.SegmentState(one.base, one.end, one.size) for one in log.segments]
        # A restart drops what is volatile, so whoever reads this checkpoint is to take it for settled.
        settled = log.settled.union(log.volatile)
        add(entries.state(log.number, log.next_offset, settled, segments, log.epochs.starts, ()))
        if log.kept_from != NOTHING_KEPT:
            add(entries.keep(log.number, log.kept_from))
        anew = [entries.Edition(one.base, one.edition, one.gaps) for one in log.segments if one.edition]
        if anew:
            add(entries.editions(log.number, anew))
        for offset, count in log.returns.items():
            if offset not in settled:
                add(entries.returned(log.number, offset, count))


# In the thread.


class _File:
    """The new checkpoint's file, under a name that does not count until `commit`."""

    def __init__(self, disk: Disk, generation: int) -> None:
        self._disk = disk
        self._name = file_name(generation)
        self._file: File | None = None
        self.source: CheckpointFile | None = None
        self.moved: dict[int, list[Extent]] = {}

    def write(self, payloads: list[list[bytes]], carried: list[Move]) -> None:
        """Write all of it and sync."""
        name = self._name + ".new"
        self._disk.remove(name)
        file = self._file = self._disk.open(name, create=True)
        self.source = CheckpointFile(self._name, file)
        position = 0
        for parts in payloads:
            position = self._frame(position, parts)
        for move in carried:
            if move.pieces:  # Else all of it was settled meanwhile.
                position = self._carry(position, move)
        self._frame(position, [entries.mark(entries.END)])
        file.sync()

    def _frame(self, position: int, parts: list[bytes]) -> int:
        assert self._file is not None
        payload = b"".join(parts)
        self._file.write(position, (frames.encode(position, 0, 0, (payload,)), payload))
        return position + frames.HEADER_SIZE + len(payload)

    def _carry(self, position: int, move: Move) -> int:
        assert self.source is not None
        number = move.log.number
        readers = Readers(self._disk)
        try:
            data = b"".join(map(readers.read, move.pieces))
        finally:
            readers.close()
        at = position + frames.HEADER_SIZE + entries.APPEND_HEAD.size
        moved = self.moved[number] = []
        for piece in move.pieces:
            extend(moved, piece, self.source, at)
            at += piece.size
        return self._frame(position, [entries.APPEND_HEAD.pack(entries.APPEND, number, len(data)), data])

    def commit(self) -> None:
        """Give it the name that counts."""
        self._disk.rename(self._name + ".new", self._name)
        self._disk.sync_folder("")


def _remove(disk: Disk, names: list[str]) -> None:
    """Remove what no checkpoint needs any more."""
    for name in names:
        if name.endswith("/"):
            disk.remove_folder(name[:-1])
        else:
            disk.remove(name)


def _sweep(disk: Disk, named: dict[str, set[str]]) -> None:
    """Remove the segments that are in these folders and not named."""
    for folder, names in named.items():
        for name in disk.names(folder):
            if is_segment(name) and f"{folder}/{name}" not in names:
                disk.remove(f"{folder}/{name}")

"""Chooses the journal files that a checkpoint seals, so that the large batches in them are written only once.

A checkpoint looks at each journal file that ends before the position from which the journal will be replayed. A log's
batches in that file stay there if they are many octets in large runs (STAY_BYTES_MIN, RUN_BYTES_MIN). If the batches
that stay are most of the file, the checkpoint seals the file (`sealed`) and moves everything else out of it as usual.
As logs settle their batches, sealed files hold ever more waste. When all sealed files together waste more than
WASTE_MAX and WASTE_BYTES_MAX allow, the checkpoint empties those with the smallest live share, by moving what is left.
A log whose segments are written anew (`Layout.reduce`) leaves no batches in journal files.

    look (each log) -> decide -> leave (each log) -> ... -> places -> states -> write (in the thread) -> done
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from broker.log.entries import Place, SealedState
from broker.log.journal import FOLDER
from broker.log.recovering import NEVER_CUT
from broker.log.sealed import Places, SealedFile, write_index

if TYPE_CHECKING:
    from broker.log.extents import Extent
    from broker.log.log import Log
    from broker.log.store import Store

STAY_BYTES_MIN = 256 << 10
"""A log with fewer octets in a file is moved out of it, lest its offsets be scattered over files and segments."""
RUN_BYTES_MIN = 32 << 10
"""Least average size of the runs that stay: each run costs an extent of 100 octets, in memory and in the index."""
WASTE_MAX = 0.3
"""Waste that all sealed files together may hold, as a share of the live octets in them."""
WASTE_BYTES_MAX = 64 << 20
"""Octets of waste that are tolerated on top of WASTE_MAX: as many as the journal's own bound."""
EMPTY_BYTES_MAX = 64 << 20
"""After moving so many octets a checkpoint empties no further file: about as many as one journal brings."""


class Sealing:
    """What one checkpoint seals and what it empties."""

    def __init__(self, store: Store, replay_from: int) -> None:
        self._store = store
        self._replay_from = replay_from
        self._files = [one for one in store.journal.files if one.end <= replay_from]
        self._bases = [one.base for one in self._files]
        self._found: dict[int, dict[Log, tuple[int, int]]] = {
            base: {} for base in self._bases if base not in store.sealed
        }
        """Of each file that may be sealed: what logs have there, as (octets, extents)."""
        self._reducing: set[Log] = set()
        self._reduced: dict[SealedFile, int] = {}
        """Octets of logs in `_reducing`, whose batches are moved out of sealed files."""
        self._staying: dict[SealedFile, list[Log]] = {}
        self._indexes: list[tuple[SealedFile, Places]] = []
        self.emptied: set[SealedFile] = set()
        self._freed: set[SealedFile] = set()
        """The files that logs in `_reducing` leave in this checkpoint."""
        for one in store.sealed.values():
            one.live_bytes = 0
            one.is_damaged = one.is_unreadable

    # On the loop, before anything is moved.

    def look(self, log: Log) -> None:
        """Count what a log has in files that are sealed, or may be."""
        note_cut(self._store, log)
        is_reducing = log.layout.reduce is not None
        if is_reducing:
            self._reducing.add(log)
        if log.gaps:
            self._look_at_gaps(log)
        journal, replay_from, bases = self._store.journal, self._replay_from, self._bases
        for one in log.extents:
            source = one.source
            if type(source) is SealedFile:
                source.live_bytes += one.size
                if is_reducing:
                    self._reduced[source] = self._reduced.get(source, 0) + one.size
            elif source is journal and one.position < replay_from and not is_reducing:
                found = self._found.get(bases[bisect_right(bases, one.position) - 1])
                if found is not None:  # Else the last checkpoint has sealed the file, and was given up.
                    size, count = found.get(log, (0, 0))
                    found[log] = size + one.size, count + 1

    def _look_at_gaps(self, log: Log) -> None:
        """A file with damage that somebody may yet mend stays, also where no extent has any of it."""
        lost = log.lost
        for file in self._store.sealed.values():
            for gap in lost:
                if gap.place == file.name:
                    file.is_damaged = True
                    file.live_bytes += gap.size

    def decide(self) -> None:
        """Choose the files that are sealed, and those that are emptied."""
        store = self._store
        for written in self._files:
            stays = {
                log: size
                for log, (size, count) in self._found.get(written.base, {}).items()
                if size >= max(STAY_BYTES_MIN, count * RUN_BYTES_MIN)
            }
            size, live_bytes = written.end - written.base, sum(stays.values())
            if stays and size <= live_bytes * (1 + WASTE_MAX):
                file = SealedFile(store.handles, written.base, size)
                file.live_bytes = live_bytes
                self._staying[file] = list(stays)
        files = sorted(
            (one for one in [*store.sealed.values(), *self._staying] if one.live_bytes and not one.is_damaged),
            key=lambda one: one.live_bytes / one.size,
        )
        size, live = sum(one.size for one in files), sum(one.live_bytes for one in files)
        room = EMPTY_BYTES_MAX
        for one in files:
            if size <= live * (1 + WASTE_MAX) + WASTE_BYTES_MAX or room <= 0:
                break
            size -= one.size
            live -= one.live_bytes
            room -= one.live_bytes
            self.emptied.add(one)
        for one in self.emptied:
            self._staying.pop(one, None)
            one.is_stale = True  # If this checkpoint is given up, the next one may keep the file, with what is left.
        for one, size in self._reduced.items():
            if room > 0 and one not in self.emptied and not one.is_damaged:
                room -= size
                one.is_stale = True
                self._freed.add(one)

    def leave(self) -> Iterator[None]:
        """Let the logs whose batches stay in a file read them from the sealed file. Yields after each log."""
        journal = self._store.journal
        for file, logs in self._staying.items():
            self._store.sealed[file.base] = file
            first, end = file.base, file.base + file.size
            for log in logs:
                all_extents = log.extents
                index = len(all_extents)
                while index and all_extents[index - 1].source is journal:
                    index -= 1
                    one = all_extents[index]
                    if first <= one.position < end:
                        all_extents[index] = one._replace(source=file, position=one.position - first)
                        _, last = file.spans.get(log.number, (one.first, one.end))
                        file.spans[log.number] = one.first, last  # They come from behind.
                yield None

    def moved_from(self, log: Log) -> AbstractSet[SealedFile]:
        """The sealed files that a log's batches are moved away from."""
        # Segments of a log that reduces are written anew without what is settled; a sealed file is not.
        return frozenset(self.emptied | self._freed if log in self._reducing else self.emptied)

    def keep(self, files: AbstractSet[SealedFile], *, is_damaged: bool) -> None:
        """Leave these files where they are after all, for what could not be moved out of them (any thread)."""
        for one in files:
            one.is_unreadable = one.is_unreadable or is_damaged
            self.emptied.discard(one)

    # On the loop, when everything has been moved.

    def places(self) -> Iterator[None]:
        """Gather what goes into the indexes that are written; a pause after each log."""
        store = self._store
        for file in self._named():
            if not file.is_stale:
                continue
            places: dict[int, list[Place]] = {}
            self._indexes.append((file, places))
            file.is_stale = False  # What is cut from here on is told by the journal, and to the next checkpoint.
            for number in file.spans:
                if number in store.logs:
                    run = _run_of(store.logs[number], file)
                    places[number] = [Place(one.first, one.end, one.position, one.size) for one in run]
                    yield None

    def _named(self) -> list[SealedFile]:
        return [one for one in self._store.sealed.values() if one.live_bytes and one not in self.emptied]

    def states(self) -> list[SealedState]:
        """The sealed files that the new checkpoint names, with the indexes that it is to write."""
        begun = {file: file.begin_edition() for file, _ in self._indexes}
        return [SealedState(one.base, one.size, begun.get(one, one.edition)) for one in self._named()]

    @property
    def has_indexes(self) -> bool:
        """Whether there is anything to `write`."""
        return bool(self._indexes)

    # In the thread.

    def write(self) -> None:
        """Write the indexes, and give back the room that the journal has reserved behind a file. Raises OSError."""
        disk = self._store.disk
        for file, places in self._indexes:
            if not file.edition:
                sealed = disk.open(file.name)
                try:
                    sealed.truncate(file.size)
                    sealed.sync()
                finally:
                    sealed.close()
            write_index(disk, file.base, file.tried[-1], places)
        disk.sync_folder(FOLDER)

    # On the loop, at the end.

    def done(self) -> list[str]:
        """The checkpoint counts now. Returns the names of the files that nobody needs any more."""
        gone: list[str] = []
        for file, places in self._indexes:
            gone += file.end_edition()
            file.index(places)
        named = set(self._named())
        for base, file in list(self._store.sealed.items()):
            if file not in named:
                del self._store.sealed[base]
                file.close()
                gone += [file.name, *file.index_names]
        return gone

    def give_back(self) -> None:
        """The checkpoint is given up: what it has sealed stays so, and the next one writes the indexes."""
        for file, _ in self._indexes:
            file.is_stale = True


def note_cut(store: Store, log: Log) -> None:
    """If a log was truncated since a checkpoint looked, mark the indexes that may name the batches it has lost."""
    if log.lowest_cut != NEVER_CUT:
        for one in store.sealed.values():
            if log.number in one.spans and one.spans[log.number][1] > log.lowest_cut:
                one.is_stale = True
        log.lowest_cut = NEVER_CUT


def _run_of(log: Log, file: SealedFile) -> list[Extent]:
    """What a log has in a file, in order: it lies in one run, and mostly at the end."""
    found: list[Extent] = []
    for one in reversed(log.extents):
        if one.source is file:
            found.append(one)
        elif found:
            break
    found.reverse()
    return found

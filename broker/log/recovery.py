"""Opening a data directory: the last checkpoint, then the journal from where it says, and a verdict on its end.

A torn tail is cut, and the cut is synced before anything is appended: else its remains could become valid again. A bad
frame with a good one behind it that was written when the bad one had been synced is corruption: nothing is cut, the
broker does not start, and the message says which file and where. So is anything bad in a checkpoint, a journal file
that was begun (see `journal`) and is not there or has lost its beginning, and a segment shorter than a checkpoint says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NoReturn

from broker.log import checkpoint, entries, frames, journal
from broker.log.disk import Disk
from broker.log.epochs import EpochCache
from broker.log.errors import Corrupt, StorageError
from broker.log.extents import Extent, Source
from broker.log.journal import Journal, JournalFile
from broker.log.log import Log
from broker.log.recovering import NEVER_CUT
from broker.log.sealed import SealedFile, index_name, indexed_base, read_index
from broker.log.segment import Segment, log_folder
from broker.log.store import Recovered, Store
from protocol.kafka.records import CorruptBatch

RESTORE = "Nothing was changed. Restore the data directory from a copy"
VERSION_FILE = "format"
LOST_AND_FOUND = "lost+found"
"""Every new ext file system has it."""
_FIRST = attrgetter("first")
_LOG_FOLDER = re.compile(r"[0-9a-f]{32}")
VERSIONS = [b"jackalope storage %d\n" % version for version in entries.FORMAT_VERSIONS]
VERSION = VERSIONS[-1]


def open_store(disk: Disk, new_uuid: Callable[[], bytes], *, begin: bool = True) -> Store:
    """Lock the directory, bring back what it holds, and note that a run has begun.

    Without `begin` that note waits in the frame that is being filled, for `begin_run`: a start that fails before it
    leaves the end of the last run as it was, and a directory of an older format to older brokers. Raises StorageError
    (Corrupt among them) and OSError.
    """
    _check_version(disk)  # What is not ours gets no lock file.
    disk.lock()
    _make_version(disk)
    for folder in (journal.FOLDER, "logs"):
        disk.make_folder(folder)
    return _Recovery(disk, new_uuid).run(begin=begin)


def begin_run(store: Store) -> None:
    """Write the first frame of a run. Raises OSError."""
    if _read_version(store.disk) != VERSION:
        _write_version(store.disk)  # Before anything is in it that an older broker could not read.
    store.flush()


def _check_version(disk: Disk) -> None:
    """Raises StorageError unless this is a directory of ours that can be read, or an empty one."""
    names = disk.names("")
    if VERSION_FILE in names:
        found = _read_version(disk)
        if found not in VERSIONS:
            raise StorageError(
                f"the data directory is of another format: {found.decode('ascii', 'replace').strip()!r} instead of "
                f"{VERSION.decode().strip()!r}"
            )
        return
    strangers = set(names) - {"lock", VERSION_FILE + ".new", LOST_AND_FOUND}
    if strangers:
        raise StorageError(
            f"the data directory is not empty, has no file '{VERSION_FILE}', so is not ours: "
            + ", ".join(sorted(strangers)[:3])
        )


def _read_version(disk: Disk) -> bytes:
    file = disk.open(VERSION_FILE)
    found = file.read(0, 100)
    file.close()
    return found


def _make_version(disk: Disk) -> None:
    _check_version(disk)  # Another may have been first.
    if VERSION_FILE not in disk.names(""):
        _write_version(disk)


def _write_version(disk: Disk) -> None:
    disk.remove(VERSION_FILE + ".new")
    file = disk.open(VERSION_FILE + ".new", create=True)
    file.write(0, (VERSION,))
    file.sync()
    file.close()
    disk.rename(VERSION_FILE + ".new", VERSION_FILE)
    disk.sync_folder("")


class _Recovery:
    """One recovery; `run` does all of it."""

    def __init__(self, disk: Disk, new_uuid: Callable[[], bytes]) -> None:
        self._disk = disk
        self._epoch = 0
        self._replay_from = 0
        self._source: checkpoint.CheckpointFile | None = None
        self._place = ""  # What is being read, for messages.
        self._files: list[JournalFile] = []
        self._torn: list[int] = []  # The bases of the files in which something is to be cut.
        self._has_cut = False
        self._leftovers: list[str] = []  # Files that no checkpoint needs any more.
        self._store = Store(disk, Journal(disk, 0, self._files, 0), new_uuid)
        self._found = Recovered()

    def run(self, *, begin: bool) -> Store:
        try:
            return self._run(begin=begin)
        except BaseException:
            self._store.checkpoint_source = self._source
            self._store.close()
            raise

    def _run(self, *, begin: bool) -> Store:
        store, disk = self._store, self._disk
        self._read_checkpoint()
        end = self._read_journal()
        store.journal.end = store.journal.written = store.journal.synced = end
        store.journal.epoch = self._epoch + 1
        store.checkpoint_end = self._replay_from
        store.checkpoint_source = self._source
        store.recovered = self._found
        self._check_segments()
        for log in store.logs.values():
            store.by_uuid[log.uuid] = log  # Only now: in between another may have had its uuid.
            log.leader_epoch = store.journal.epoch
            log.recovered()
        # All has been read and found good; up to here nothing was changed.
        self._cut(end)
        for name in self._leftovers:
            disk.remove(name)
        # After a kill the kernel may hold what no sync has covered. It was found, so from now on it has to stay.
        store.journal.sync_files()
        disk.sync_folder(journal.FOLDER)
        self._remove_strangers()
        store.mark_start()
        if begin:
            begin_run(store)
        elif self._has_cut:
            # What was begun has to have a whole frame again; any version can read this one.
            store.flush()
        return store

    # The checkpoint.

    def _read_checkpoint(self) -> None:
        disk = self._disk
        names = []
        for name in disk.names(""):
            if checkpoint.is_checkpoint(name):
                names.append(name)
            elif checkpoint.is_checkpoint(name.removesuffix(".new")):
                self._leftovers.append(name)
        if not names:
            return
        name = names[-1]
        file = disk.open(name)
        self._source = checkpoint.CheckpointFile(name, file)
        self._place = name
        complete = False
        for frame in frames.scan(file.read, 0, file.size()):
            if complete:
                break
            complete = self._apply(frame, self._source)
        if not complete:
            raise Corrupt(f"{name} is damaged: it was complete once. {RESTORE}")
        self._leftovers += names[:-1]

    # The journal.

    def _bases(self) -> list[int]:
        """Where the files begin that are to be replayed; names that are not ours are left alone."""
        bases = []
        indexes = {index_name(one.base, one.edition) for one in self._store.sealed.values()}
        for name in self._disk.names(journal.FOLDER):
            base = journal.base_of(name)
            if indexed_base(name) is not None:
                if f"{journal.FOLDER}/{name}" not in indexes:
                    self._leftovers.append(f"{journal.FOLDER}/{name}")
            elif base is None:
                self._found.strangers.append(f"{journal.FOLDER}/{name}")
            elif base >= journal.POSITION_END:
                raise Corrupt(
                    f"{journal.FOLDER}/{name} is named after a position that no journal reaches. Nothing was changed. "
                    "If it is not the broker's, move it away"
                )
            elif base < self._replay_from:
                if base not in self._store.sealed:
                    self._leftovers.append(journal.file_name(base))
            else:
                bases.append(base)
        return bases

    def _read_journal(self) -> int:
        """Replay it and judge what its last frame is followed by; returns its end. Changes nothing."""
        position = self._replay_from
        bases = self._bases()
        for index, base in enumerate(bases):
            if base == position:
                position, whole = self._replay(base)
                if whole and position > base:
                    continue
            self._torn = bases[index:]
            break
        begun = self._begun()
        base = self._torn[0] if self._torn else NEVER_CUT
        if base > position and (position <= begun or (bases and position == self._replay_from)):
            hint = "" if self._source else ", nor is a checkpoint after which it could begin later"
            raise Corrupt(
                f"the journal that should begin at position {position} ({journal.file_name(position)}) is not there"
                f"{hint}. {RESTORE}"
            )
        if self._torn:
            self._judge(self._torn, position)
        if position <= begun:
            raise Corrupt(
                f"{journal.file_name(base)} is damaged at position {max(position - base, 0)}: it was synced before "
                f"the broker went on. {RESTORE}"
            )
        return position

    def _begun(self) -> int:
        """Up to here, and the frame that stands there, the journal was synced once; -1 when nobody knows."""
        begun = journal.read_begun(self._disk)
        # A checkpoint counts only after the first frame behind it was synced.
        return max(-1 if begun is None else begun, -1 if self._source is None else self._replay_from)

    def _replay(self, base: int) -> tuple[int, bool]:
        """Replay one file; returns where its last valid frame ends, and whether nothing but reserved room follows."""
        name = self._place = journal.file_name(base)
        file = self._disk.open(name)
        size = file.size()
        one = JournalFile(base, base, file)
        self._files.append(one)
        for frame in frames.scan(file.read, base, size):
            self._apply(frame, self._store.journal)
            self._found.frames += 1
            one.end = frame.end
        return one.end, frames.data_end(file.read, one.end - base, size) == one.end - base

    def _judge(self, bases: list[int], position: int) -> None:
        """The journal ends at `position`: may what follows in these files be cut? Raises Corrupt."""
        for base in bases:
            file = self._disk.open(journal.file_name(base))
            start = max(position - base, 0)
            size = file.size()
            later = frames.read_frame(file.read, base, base, size) if base > position else None
            later = later or frames.find_later(file.read, base, base + start, size)
            self._found.cut_bytes += frames.data_end(file.read, start, size) - start
            file.close()
            if later is not None and later.synced > position:
                raise Corrupt(
                    f"{journal.file_name(bases[0])} is damaged at position {max(position - bases[0], 0)}: it was "
                    f"synced before the frame at {later.position - base} of {journal.file_name(base)} was written. "
                    f"{RESTORE}"
                )

    def _cut(self, position: int) -> None:
        """Cut the torn tail, and sync that."""
        disk = self._disk
        self._has_cut = bool(self._torn)
        for base in reversed(self._torn):
            if base > position:
                disk.remove(journal.file_name(base))
            else:
                file = disk.open(journal.file_name(base))
                file.truncate(position - base)
                file.sync()
                file.close()
        if self._torn:
            disk.sync_folder(journal.FOLDER)
        if self._files and self._files[-1].base == position:
            # Nothing is left of it; the next frame makes it anew.
            self._has_cut = True
            empty = self._files.pop()
            assert empty.file is not None
            empty.file.close()
            disk.remove(journal.file_name(empty.base))

    # Segments.

    def _check_segments(self) -> None:
        """What the checkpoint names has to be there, before anybody asks for it: 4 µs a file. Raises Corrupt."""
        file_size = self._disk.file_size
        for one in self._store.sealed.values():
            size = file_size(one.name)
            if size is None or size < one.size:
                self._raise_missing(one.name, size, one.size)
        for log in self._store.logs.values():
            cut = log.recovered_cut
            for segment in log.segments:
                size = file_size(segment.name)
                if (size is None or size < segment.size) and segment.base < cut:
                    self._raise_missing(segment.name, size, segment.size)

    def _raise_missing(self, name: str, size: int | None, promised: int) -> NoReturn:
        what = "is not there" if size is None else f"has {size} octets"
        assert self._source is not None
        raise Corrupt(f"{name} {what}, {self._source.name} promises {promised} octets. {RESTORE}")

    # Entries.

    def _apply(self, frame: frames.Frame, source: Source) -> bool:
        """Do what the entries of a frame say; returns whether END was among them."""
        self._epoch = max(self._epoch, frame.epoch)
        self._found.clean = False
        ended = False
        try:
            for kind, value in entries.read_entries(frame.payload):
                if kind == entries.CLEAN:
                    self._found.clean = True
                elif kind == entries.END:
                    ended = True
                elif kind != entries.START:
                    self._apply_entry(kind, value, frame, source)
        except (Corrupt, CorruptBatch) as error:
            raise Corrupt(f"{self._place}, position {frame.position}: {error}") from None
        return ended

    def _apply_entry(self, kind: int, value: tuple, frame: frames.Frame, source: Source) -> None:  # type: ignore[type-arg]
        store = self._store
        if kind == entries.BEGIN:
            version, store.generation, self._replay_from, self._epoch, store.next_log = value
            if version not in entries.FORMAT_VERSIONS:
                raise Corrupt(f"format version {version} is not known")
        elif kind == entries.PUT:
            store.catalog[value[0]] = value[1]
        elif kind == entries.DELETE:
            store.catalog.pop(value[0], None)
        elif kind == entries.OPEN:
            self._open(*value)
        elif kind == entries.SEALED:
            self._restore_sealed(value)
        elif kind == entries.SETTLE_EACH:
            for number, offset in value:
                if number in store.logs:
                    store.logs[number].recover_settled(((offset, offset + 1),))
        else:
            log = store.logs.get(value[0])
            if log is not None:  # Else it was dropped, or did not outlive its run.
                self._apply_to_log(log, kind, value, frame, source)

    def _apply_to_log(self, log: Log, kind: int, value: tuple, frame: frames.Frame, source: Source) -> None:  # type: ignore[type-arg]
        if kind in (entries.APPEND, entries.VOLATILE):
            append: entries.Append = value  # type: ignore[assignment]
            position = frame.position + frames.HEADER_SIZE + append.start
            log.recover_append(frame.payload, append.start, append.size, source, position)
            if kind == entries.VOLATILE:
                log.settled.add(log.extents[-1].first, log.extents[-1].end)
        elif kind == entries.SETTLE:
            log.recover_settled(value[1])
        elif kind == entries.RETURN:
            log.recover_return(value[1], value[2])
        elif kind == entries.TRUNCATE:
            log.recover_truncate(value[1])
        elif kind == entries.SEEN:
            log.seen_offset = value[1]
        elif kind == entries.KEEP:
            log.kept_from = value[1]
        elif kind == entries.STATE:
            self._restore(log, value)  # type: ignore[arg-type]
        elif kind == entries.EDITIONS:
            self._restore_editions(log, value[1])
        elif kind == entries.DROP:
            del self._store.logs[log.number]

    def _open(self, number: int, uuid: bytes) -> None:
        store = self._store
        store.next_log = max(store.next_log, number + 1)
        if number not in store.logs:
            store.logs[number] = Log(number, uuid, 0, store.filling, durable=True)

    @staticmethod
    def _restore_editions(log: Log, editions: Sequence[entries.Edition]) -> None:
        known = {segment.base: segment for segment in log.segments}
        for base, edition, gaps in editions:
            if base not in known:
                raise Corrupt(f"an edition of a segment at {base} that the log does not have")
            known[base].as_edition(edition, gaps)

    def _restore(self, log: Log, state: entries.State) -> None:
        folder = log_folder(log.uuid)
        log.next_offset = state.next_offset
        log.settled = state.settled
        log.epochs = EpochCache(state.epochs)
        for first, end in state.volatile:
            log.settled.add(first, end)
        for base, end, size in state.segments:
            segment = Segment(self._store.handles, folder, base, end, size)
            log.segments.append(segment)
            log.extents.append(Extent(base, end, segment, 0, size))
        log.recover_end()

    def _restore_sealed(self, files: Sequence[entries.SealedState]) -> None:
        store = self._store
        touched: dict[Log, None] = {}
        for base, size, edition in files:
            file = store.sealed[base] = SealedFile(store.handles, base, size, edition)
            try:
                places = read_index(self._disk, base, edition)
            except Corrupt as error:
                raise Corrupt(f"{error}. {RESTORE}") from None
            file.index(places)
            for number, of_log in places.items():
                log = store.logs.get(number)
                if log is not None:  # Else it was dropped, or did not outlive its run.
                    touched[log] = None
                    is_done = log.is_done
                    log.extents += [
                        Extent(one.first, one.end, file, one.position, one.size)
                        for one in of_log
                        if not is_done(one.first, one.end)
                    ]
        for log in touched:
            log.extents.sort(key=_FIRST)
            log.recover_end()

    def _remove_strangers(self) -> None:
        """Folders of logs that are no more, or never were."""
        known = {log.uuid.hex(): log for log in self._store.logs.values()}
        for name in self._disk.names("logs"):
            if not _LOG_FOLDER.fullmatch(name):
                self._found.strangers.append(f"logs/{name}")
            elif name in known:
                known[name].has_folder = True
            else:
                self._disk.remove_folder(f"logs/{name}")

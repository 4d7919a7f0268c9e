"""The journal: frames in files, one behind the other, and the position up to which they are on stable storage.

A file is named after the logical position where it begins; positions only grow, through all files and restarts. One
write is under way at a time: `begin` (on the loop) fixes where the next frame stands, `Write.run` (in the flusher's
thread) writes and syncs it, `finish` (on the loop) moves `written` and `synced`. Whatever has a position can be read
back from that moment on, from memory while its write is under way.

A file that is lost as a whole leaves no bad frame that would tell. So when the first frame of one is synced, with all
before it, the file `begun`, beside the folder, names that file: whoever opens the directory knows how far the journal
goes at least. The write does that itself; where writes do not sync (flush: os), `sync_files` does, for checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from broker.log import frames
from broker.log.disk import NO_HANDLES, NO_SPACE, Disk, File, FileRange
from broker.log.errors import Corrupt

FOLDER = "journal"
BEGUN = "begun"
POSITION_END = 1 << 63
"""No journal gets so far."""
_NAME = re.compile(r"([0-9]{20})\.journal")
_BEGUN = re.compile(rb"journal begun at ([0-9]{20})\n")


def file_name(base: int) -> str:
    """The file that begins at a logical position."""
    return f"{FOLDER}/{base:020d}.journal"


def base_of(name: str) -> int | None:
    """Where the file of this name (without the folder) begins; None when no journal file is named so."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def read_begun(disk: Disk) -> int | None:
    """The position of the last file whose first frame is known to be there; None when nothing is known.

    Raises Corrupt and OSError.
    """
    if disk.file_size(BEGUN) is None:
        return None
    file = disk.open(BEGUN)
    found = _BEGUN.fullmatch(file.read(0, 100))
    file.close()
    if found is None:
        raise Corrupt(f"the file '{BEGUN}' is damaged. Nothing was changed. Restore the data directory from a copy")
    return int(found[1])


def _note_begun(disk: Disk, base: int) -> bool:
    """Let the file `begun` name this one; returns whether it does: without space or a handle it is left for later.

    Raises any other OSError.
    """
    new = BEGUN + ".new"
    try:
        disk.remove(new)
        file = disk.open(new, create=True)
        try:
            file.write(0, (b"journal begun at %020d\n" % base,))
            file.sync()
        finally:
            file.close()
        disk.rename(new, BEGUN)
        disk.sync_folder("")
    except OSError as error:
        if error.errno not in (*NO_SPACE, *NO_HANDLES):
            raise
        return False  # What `begun` says is true all the same, only not all of the truth.
    return True


class JournalFile:
    """One file; `file` is None until its first frame is written. Up to `reserved` it has room, in zeros.

    `begun` tells whether the file `begun` names it.
    """

    __slots__ = ("base", "begun", "end", "file", "reserved")

    def __init__(self, base: int, end: int, file: File | None) -> None:
        self.base = base
        self.end = end
        self.file = file
        self.reserved = 0
        self.begun = False


LARGE_BYTES = 8 << 10
"""Of an average part; from here on joining costs more than a longer list for the kernel."""


class Write:
    """One frame on its way to the disk."""

    __slots__ = ("_disk", "_epoch", "_target", "parts", "position", "size", "sync", "synced", "written")

    def __init__(
        self,
        disk: Disk,
        target: JournalFile,
        epoch: int,
        position: int,
        synced: int,
        parts: Sequence[bytes],
        *,
        sync: bool,
    ) -> None:
        self._disk = disk
        self._target = target
        self._epoch = epoch
        self.position = position
        self.synced = synced
        self.parts = parts
        self.size = frames.HEADER_SIZE + sum(map(len, parts))
        self.sync = sync
        self.written = False

    def run(self) -> None:
        """Write and sync (any thread). Raises OSError; may be tried again as long as it is not `written`."""
        self.write()
        self.flush()

    def write(self) -> None:
        """Write the frame (any thread). May be tried again after an error: it overwrites its own remains."""
        # Few and large are written as they are: joining megabytes would keep the interpreter from the loop.
        is_large = self.size > LARGE_BYTES * len(self.parts)
        payload = self.parts if is_large else (b"".join(self.parts),)
        head = frames.encode(self.position, self.synced, self._epoch, payload)
        target = self._target
        if target.file is None:
            file = self._disk.open(file_name(target.base), create=True)
            try:
                self._disk.sync_folder(FOLDER)
            except OSError:
                # The next try makes it anew: nobody may believe in a name that was never synced.
                file.close()
                self._disk.remove(file_name(target.base))
                raise
            target.file = file
        start = self.position - target.base
        if start + self.size > target.reserved:
            target.reserved = target.file.reserve(start + self.size)
        target.file.write(start, (head, *payload))
        self.written = True

    def flush(self) -> None:
        """Sync it, if it is to be (any thread). After an error the journal is offline for good."""
        target = self._target
        if self.sync and target.file is not None:
            target.file.sync()
            if not target.begun:
                target.begun = _note_begun(self._disk, target.base)


class Journal:
    """The files and the ends. `epoch` is that of this run of the broker."""

    __slots__ = ("_disk", "_flying", "_flying_payload", "_rotate", "_writes_sync", "end", "epoch", "files", "synced",
                 "written")  # fmt: skip

    def __init__(self, disk: Disk, epoch: int, files: list[JournalFile], end: int) -> None:
        self._disk = disk
        self.epoch = epoch
        self.files = files
        self.end = self.written = self.synced = end
        self._flying: Write | None = None
        self._flying_payload: bytes | None = None  # In one piece, once somebody has read of it.
        self._writes_sync = True
        self._rotate = True  # Every run begins a file of its own: nothing is appended to what an older run left.

    def rotate(self) -> int:
        """The next frame begins a new file; returns its position."""
        self._rotate = True
        return self.end

    def begin(self, parts: Sequence[bytes], *, sync: bool) -> Write:
        """Fix the place of the next frame; the write before has to be finished."""
        assert self._flying is None
        if self._rotate:
            self._rotate = False
            if not self.files or self.files[-1].base != self.end:
                self.files.append(JournalFile(self.end, self.end, None))
        target = self.files[-1]
        self._writes_sync = sync
        write = Write(self._disk, target, self.epoch, self.end, self.synced, parts, sync=sync)
        self.end += write.size
        target.end = self.end
        self._flying = write
        return write

    def finish(self, write: Write) -> None:
        """The write has succeeded."""
        self._flying = self._flying_payload = None
        self.written = self.end
        if write.sync:
            self.synced = self.end

    def read(self, position: int, size: int) -> bytes:
        """Octets from a logical position on, all in one file. Raises OSError."""
        flying = self._flying
        if flying is not None and position >= flying.position:
            payload = self._flying_payload
            if payload is None:
                payload = self._flying_payload = b"".join(flying.parts)
            start = position - flying.position - frames.HEADER_SIZE
            return payload[start : start + size]
        for journal_file in reversed(self.files):
            if position >= journal_file.base:
                assert journal_file.file is not None
                return journal_file.file.read(position - journal_file.base, size)
        raise AssertionError("the position is older than the journal")

    def range(self, position: int, size: int) -> FileRange | None:
        """The same, to be sent from the file; None while they are on their way there."""
        if self._flying is not None and position >= self._flying.position:
            return None
        for one in reversed(self.files):
            if position >= one.base:
                return one.file.range(position - one.base, size) if one.file is not None else None
        return None

    def sync_files(self) -> None:
        """Sync all files (any thread); with `flush: ack` all but the last are already."""
        written = self.written
        files = [one for one in self.files if one.file is not None and one.base < written]
        for one in files:
            assert one.file is not None
            one.file.sync()
        # Where writes sync they see to it, in their thread.
        if files and not files[-1].begun and not self._writes_sync:
            files[-1].begun = _note_begun(self._disk, files[-1].base)

    def forget_before(self, position: int) -> list[str]:
        """Close the files that end before `position`; returns their names, for somebody to remove."""
        old = [one for one in self.files if one.end <= position and one is not self.files[-1]]
        self.files = [one for one in self.files if one not in old]
        for one in old:
            if one.file is not None:
                one.file.close()
        return [file_name(one.base) for one in old]

    def close(self) -> None:
        """Give all handles back."""
        for one in self.files:
            if one.file is not None:
                one.file.close()
                one.file = None

"""The files of one data directory: everything storage asks of an operating system, in one place.

Tests put a simulated disk here, which forgets what was not synced. Every call may block, so nobody calls the writing
ones from the loop. Errors are the OSError of the call; `sync` is never to be tried again after one (a failed fsync
clears the kernel's dirty state, and the next one lies).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from broker.log.errors import StorageError

Octets = bytes | bytearray | memoryview
IOV_MAX = 1024
RESERVE_BYTES = 4 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_HANDLES = (errno.EMFILE, errno.ENFILE)


_close = os.close


class Descriptor:
    """An open file of the operating system; it is closed when nobody holds it any more."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        _close(self.number)


class FileRange:
    """Octets of a file that are sent from where they lie, without being read (sendfile).

    That may take long: the file stays open, and what readers may see of a file is not written over.
    """

    __slots__ = ("_descriptor", "position", "size")

    def __init__(self, descriptor: Descriptor, position: int, size: int) -> None:
        self._descriptor = descriptor
        self.position = position
        self.size = size

    def __len__(self) -> int:
        return self.size

    def send_to(self, socket: int) -> int:
        """Send some of it; returns how many octets went. Raises OSError: also when the file is shorter than it was."""
        sent = os.sendfile(socket, self._descriptor.number, self.position, self.size)
        if not sent:
            raise OSError(errno.EIO, f"a file ends before its position {self.position + self.size}")
        return sent

    def first(self, count: int) -> FileRange:
        """Its first `count` octets."""
        return FileRange(self._descriptor, self.position, count)

    def behind(self, count: int) -> FileRange:
        """What is left without its first `count` octets."""
        return FileRange(self._descriptor, self.position + count, self.size - count)

    def read(self) -> bytes:
        """All of it, for who cannot be sent a file (TLS). Raises OSError."""
        data = os.pread(self._descriptor.number, self.size, self.position)
        if len(data) < self.size:
            raise OSError(errno.EIO, f"a file ends before its position {self.position + self.size}")
        return data


class File(Protocol):
    """One open file, addressed by position."""

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` octets; fewer only at the end of the file."""
        ...

    def range(self, position: int, size: int) -> FileRange | None:
        """These octets, to be sent from the file; None where that cannot be done."""
        ...

    def write(self, position: int, parts: Sequence[Octets]) -> None:
        """All of `parts`, one behind the other, or an OSError."""

    def size(self) -> int:
        """Octets in the file."""
        ...

    def reserve(self, size: int) -> int:
        """Make room for `size` octets and some more, so that a sync need not write a new size of the file as well
        (50 of 155 µs on ext4); returns for how many there is. What was not written reads as zeros. A disk without that
        room is no error: the write will say so.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut the file."""

    def sync(self) -> None:
        """Return when what was written is on stable storage (fdatasync)."""

    def close(self) -> None:
        """Give the handle back; again is nothing."""


class Disk(Protocol):
    """A tree of folders and files; names are relative, with slashes."""

    def lock(self) -> None:
        """Take the directory for this process. Raises StorageError when another has it."""

    def open(self, name: str, *, create: bool = False) -> File:
        """Open for reading and writing. `create` makes a new file and fails on one that is there."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none when there is no such folder."""
        ...

    def file_size(self, name: str) -> int | None:
        """Octets in a file, without opening it; None when there is none."""
        ...

    def make_folder(self, folder: str) -> None:
        """Make it unless it is there; the entry is synced."""

    def rename(self, old: str, new: str) -> None:
        """Atomically, over whatever `new` was."""

    def remove(self, name: str) -> None:
        """Remove a file; none is no error."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with the files in it; it stays when there are folders in it, which nobody here makes."""

    def sync_folder(self, folder: str) -> None:
        """Return when the folder's entries are on stable storage."""

    @property
    def path(self) -> str:
        """Where it is, for who asks for the log directory."""
        ...

    def total_bytes(self) -> int:
        """What the file system has room for, used or not. Raises OSError."""
        ...

    def free_bytes(self) -> int:
        """What may still be written. Raises OSError, also when the directory is not ours any more."""
        ...


class RealFile:
    """A file of the operating system."""

    __slots__ = ("_descriptor", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._descriptor: Descriptor | None = Descriptor(fd)

    def range(self, position: int, size: int) -> FileRange | None:
        return FileRange(self._descriptor, position, size) if self._descriptor is not None else None

    def read(self, position: int, size: int) -> bytes:
        data = os.pread(self._fd, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        have = len(data)
        while have < size and data:
            data = os.pread(self._fd, size - have, position + have)
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def write(self, position: int, parts: Sequence[Octets]) -> None:
        for first in range(0, len(parts), IOV_MAX):
            some = parts[first : first + IOV_MAX]
            want = sum(map(len, some))
            written = os.pwritev(self._fd, some, position)
            if written < want:
                rest = memoryview(b"".join(some))[written:]
                while rest:
                    count = os.pwrite(self._fd, rest, position + written)
                    written += count
                    rest = rest[count:]
            position += want

    def reserve(self, size: int) -> int:
        size += RESERVE_BYTES
        with contextlib.suppress(OSError):
            os.posix_fallocate(self._fd, 0, size)
        return size

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        self._fd = -1
        self._descriptor = None  # Closes it, unless something of it is still to be sent.


class RealDisk:
    """A data directory of the operating system; it is made, readable by its owner only, when it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock_fd = -1
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the data directory {root} cannot be made: {error.strerror}") from None

    def lock(self) -> None:
        path = self._root / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"the data directory {self._root} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StorageError(
                f"the data directory {self._root} is in use by another broker (process {holder})"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock_fd = fd

    def open(self, name: str, *, create: bool = False) -> RealFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return RealFile(os.open(self._root / name, flags, 0o600))

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / folder))
        except FileNotFoundError:
            return []

    def file_size(self, name: str) -> int | None:
        try:
            return os.stat(f"{self._root}/{name}").st_size
        except FileNotFoundError:
            return None

    def make_folder(self, folder: str) -> None:
        path = self._root / folder
        if not path.is_dir():
            path.mkdir(mode=0o700)
            self.sync_folder(os.path.dirname(folder))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._root / old, self._root / new)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        path = self._root / folder
        for name in self.names(folder):
            if not (path / name).is_dir():
                self.remove(f"{folder}/{name}")
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # Also what NFS keeps of files that somebody has open.
                raise

    def sync_folder(self, folder: str) -> None:
        fd = os.open(self._root / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @property
    def path(self) -> str:
        return str(self._root.absolute())

    def total_bytes(self) -> int:
        room = os.statvfs(self._root)
        return room.f_blocks * room.f_frsize

    def free_bytes(self) -> int:
        if self._lock_fd >= 0 and not os.fstat(self._lock_fd).st_nlink:
            # Files that are open outlive their names: we would go on writing what nobody will ever find.
            lock = f"{self._root}/lock"
            raise FileNotFoundError(errno.ENOENT, "the lock file is gone, and with it the claim to the directory", lock)
        room = os.statvfs(self._root)
        return room.f_bavail * room.f_frsize

    def close(self) -> None:
        """Give the lock back."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

"""A small disk of its own: an ext4 image on a loop device, whose power can be cut and which can be filled.

`cut` is the file system's own shutdown without a flush of its journal: what was not synced is gone, and every write and
sync from then on fails. Needs root and loop devices.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import needed
import pytest

FS_IOC_SHUTDOWN = 0x8004587D
WITHOUT_A_FLUSH = 2
MIB = 2**20


def run(*command):
    """Run a command, and say what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{' '.join(map(str, command))}: {done.stderr}"


class LoopDisk:
    """`data` is a folder on it; mounted while it is used."""

    def __init__(self, base, mib):
        self._image = base / "image"
        self.root = base / "mounted"
        self.data = self.root / "data"
        self._filler = self.root / "filler"
        self.root.mkdir()
        with self._image.open("wb") as file:
            file.truncate(mib * MIB)
        # No reserve for root, who runs the tests; everything laid out now, so that nothing grows behind our back.
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)

    def mount(self):
        """Attach it."""
        run("mount", "-o", "loop", self._image, self.root)
        self.data.mkdir(exist_ok=True)

    def unmount(self):
        """Detach it, whatever state it is in."""
        run("umount", self.root)

    def cut(self):
        """The power is gone."""
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", WITHOUT_A_FLUSH))
        finally:
            os.close(handle)

    def cycle(self):
        """Off and on again; nobody may have a file open."""
        self.unmount()
        self.mount()

    def free(self):
        """Octets that may still be written."""
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize

    def fill(self, leave=0):
        """Take all room but `leave` octets."""
        handle = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            while (much := self.free() - leave) > 0:
                size = os.fstat(handle).st_size
                try:
                    os.posix_fallocate(handle, size, min(much, MIB) if much > MIB else 4096)
                except OSError:
                    break
        finally:
            os.close(handle)

    def empty(self):
        """Give the room back."""
        self._filler.unlink()


@contextlib.contextmanager
def loop_disk(mib=128):
    """A mounted disk; unmounted and removed at the end, whatever happens. Its broker has to have ended before."""
    base = Path(tempfile.mkdtemp(prefix="jackalope-loop-"))
    disk = LoopDisk(base, mib)
    try:
        disk.mount()
        yield disk
    finally:
        if os.path.ismount(disk.root):
            subprocess.run(["umount", disk.root], check=False)
        if os.path.ismount(disk.root):
            subprocess.run(["umount", "--lazy", disk.root], check=True)
        shutil.rmtree(base)


@functools.cache
def missing():
    """Why there are no loop disks here, or None."""
    if os.geteuid():
        return "mounting needs root"
    try:
        with loop_disk(mib=16) as disk:
            (disk.data / "probe").write_bytes(b"unsynced")
            disk.cut()
            disk.cycle()
            assert not (disk.data / "probe").exists()
    except (OSError, AssertionError) as error:
        return f"loop-mounted ext4 cannot be cut off here: {error}"
    return None


def need(reason):
    """Go on when there is no reason not to; in CI a missing tool is a failure, a missing root never is."""
    if reason is not None and os.geteuid():
        pytest.skip(reason)
    needed.need(reason)


def place(disk, tmp_path):
    """A directory for `running_jackalope` whose data lie on the disk, and its log does not."""
    data = tmp_path / "data"
    if not data.is_symlink():
        data.symlink_to(disk.data)
    return tmp_path

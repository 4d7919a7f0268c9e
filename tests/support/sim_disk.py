"""A disk in memory that tells apart what was written from what was synced, and can be cut off at any operation.

`power_cut` keeps of everything unsynced an arbitrary part: single sectors of writes, a prefix of each folder's changes.
`kill` loses nothing that was written. Pessimistic where file systems differ: a new name counts only once its folder is
synced.
"""

import itertools

from broker.log.errors import StorageError

SECTOR = 512


class PowerCut(BaseException):
    """The disk is gone in the middle of an operation."""


class Inode:
    """One file's content: as written, as synced, and the operations between the two."""

    def __init__(self):
        self.data = bytearray()
        self.synced = b""
        self.unsynced = []

    def do(self, operation, *arguments):
        self.unsynced.append((operation, arguments))
        operation(self.data, *arguments)

    def after_power_cut(self, choose):
        data = bytearray(self.synced)
        for operation, arguments in self.unsynced:
            if operation is write_at:
                position, octets = arguments
                # Sector by sector, as a real disk is free to do.
                at = 0
                while at < len(octets):
                    width = SECTOR - (position + at) % SECTOR
                    if choose():
                        write_at(data, position + at, octets[at : at + width])
                    at += width
            elif choose():
                operation(data, *arguments)
        self.data, self.synced, self.unsynced = data, bytes(data), []


def write_at(data, position, octets):
    if len(data) < position:
        data.extend(bytes(position - len(data)))
    data[position : position + len(octets)] = octets


def cut_at(data, size):
    del data[size:]


class SimFile:
    """A handle."""

    def __init__(self, disk, inode):
        self._disk, self._inode = disk, inode

    def read(self, position, size):
        return bytes(self._inode.data[position : position + size])

    def range(self, position, size):
        """There is no file of an operating system."""

    def write(self, position, parts):
        octets = b"".join(parts)
        if self._disk.tick():
            # The cut comes in the middle of it.
            octets = octets[: self._disk.pick(len(octets))]
            self._inode.do(write_at, position, octets)
            raise PowerCut
        self._inode.do(write_at, position, octets)

    def size(self):
        return len(self._inode.data)

    def reserve(self, size):
        size = (size // SECTOR + 2) * SECTOR
        self._inode.do(write_at, size - 1, b"\0")
        return size

    def truncate(self, size):
        self._disk.maybe_die()
        self._inode.do(cut_at, size)

    def sync(self):
        self._disk.maybe_die()
        if self._disk.lies:
            return
        self._inode.synced, self._inode.unsynced = bytes(self._inode.data), []

    def close(self):
        pass


class SimDisk:
    """Files by path. `pick(n)` gives a number below n; `lies` makes every sync a pretence, to see a test fail."""

    def __init__(self, pick, *, lies=False):
        self.pick = lambda bound: pick(bound) if bound > 0 else 0
        self.lies = lies
        self.left = None  # Operations until the power is cut.
        self.locked = False
        self.starts = 0  # How often it was locked: the runs that a broker has had on it.
        self.folders = {""}
        self.files = {}
        self.synced_files = {}
        self.unsynced = {}  # Folder -> changes (path, inode or None) since its last sync.
        self.uuids = itertools.count(1)

    def new_uuid(self):
        """One that nobody on this disk has had."""
        return next(self.uuids).to_bytes(16, "big")

    def tick(self):
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0

    def maybe_die(self):
        if self.tick():
            raise PowerCut

    def _change(self, path, inode):
        if inode is None:
            self.files.pop(path, None)
        else:
            self.files[path] = inode
        self.unsynced.setdefault(path.rpartition("/")[0], []).append((path, inode))

    def lock(self):
        if self.locked:
            raise StorageError("in use")
        self.locked = True
        self.starts += 1

    def open(self, name, *, create=False):
        if create:
            self.maybe_die()
            if name in self.files:
                raise FileExistsError(name)
            self._change(name, Inode())
        if name not in self.files:
            raise FileNotFoundError(name)
        return SimFile(self, self.files[name])

    def names(self, folder):
        prefix = folder + "/" if folder else ""
        rests = [
            path[len(prefix) :] for path in (*self.files, *self.folders) if path.startswith(prefix) and path != folder
        ]
        return sorted({rest for rest in rests if rest and "/" not in rest})

    def file_size(self, name):
        return len(self.files[name].data) if name in self.files else None

    def make_folder(self, folder):
        self.maybe_die()
        self.folders.add(folder)

    def rename(self, old, new):
        self.maybe_die()
        inode = self.files[old]
        # One change of the folder: both names or neither.
        del self.files[old]
        self.files[new] = inode
        self.unsynced.setdefault(new.rpartition("/")[0], []).append((new, inode, old))

    def remove(self, name):
        self.maybe_die()
        if name in self.files:
            self._change(name, None)

    def remove_folder(self, folder):
        for name in self.names(folder):
            self.remove(f"{folder}/{name}")
        self.folders.discard(folder)

    def sync_folder(self, folder):
        self.maybe_die()
        if self.lies:
            return
        for change in self.unsynced.pop(folder, []):
            apply(self.synced_files, change)

    path = "/sim"

    def total_bytes(self):
        """More than anybody writes."""
        return 1 << 40

    def free_bytes(self):
        return 1 << 40

    def kill(self):
        """The process died; the kernel has all it was given."""
        self.locked, self.left = False, None

    def power_cut(self):
        """What was not synced is there in part."""
        self.locked, self.left = False, None
        for changes in self.unsynced.values():
            for change in changes[: self.pick(len(changes) + 1)]:
                apply(self.synced_files, change)
        self.unsynced = {}
        self.files = dict(self.synced_files)
        self.folders |= {name.rpartition("/")[0] for name in self.files}  # Its files came back, so it is there.
        for inode in dict.fromkeys(self.files.values()):
            inode.after_power_cut(lambda: self.pick(2))


def apply(files, change):
    path, inode, *old = change
    if inode is None:
        files.pop(path, None)
    else:
        files[path] = inode
    for name in old:
        files.pop(name, None)

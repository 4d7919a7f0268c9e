"""What storage may say no with. The message of each is complete: which file, where, what, and what to do."""

from __future__ import annotations


class StorageError(Exception):
    """The data directory cannot be used: locked by another process, of another format version, not writable."""


class Corrupt(StorageError):
    """Octets that were synced once are not what was written. Never repaired silently."""


class Offline(StorageError):
    """A write or a sync failed; nothing more is promised until a restart has read back what the disk really holds."""


class OutOfPlace(StorageError):
    """A batch of another broker does not begin where the log ends."""


class Uncommitted(StorageError):
    """Something of a replicated log was to be settled that a truncation may still take away."""

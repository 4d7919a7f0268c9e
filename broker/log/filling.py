"""What the frame that is being filled will hold of logs: they write it down as they change, `Store.cut` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.log.log import Log


class Filling:
    """One for all logs of a store."""

    __slots__ = ("alone", "dirty", "gapped", "settled")

    def __init__(self) -> None:
        self.dirty: list[Log] = []
        """Those that have entries of their own to add; each once."""
        self.alone: list[Log] = []
        """Those to which one record came, perhaps more than once; it may be settled, or no longer alone."""
        self.settled: list[tuple[int, int]] = []
        """(log, offset): offsets that earlier frames have carried, settled one by one."""
        self.gapped: list[bytes] = []
        """The uuids of those in which damage was found; whoever owns the catalog notes it there."""

    def __bool__(self) -> bool:
        return bool(self.dirty or self.alone or self.settled)

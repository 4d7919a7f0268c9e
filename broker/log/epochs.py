"""Which leader epoch began where in a log (KIP-101): who follows it finds by it where the two part. Pure.

An epoch is noted with the first batch of it, so the cache of a log says what its batches say.
"""

from __future__ import annotations

from collections.abc import Iterable

UNKNOWN = -1
"""The epoch of what nothing is known of, as Kafka's protocol has it."""


class EpochCache:
    """Of one log: epochs and offsets, both rising."""

    __slots__ = ("latest", "starts")

    def __init__(self, starts: Iterable[tuple[int, int]] = ()) -> None:
        self.starts = list(starts)
        """(epoch, offset of its first batch)."""
        self.latest = self.starts[-1][0] if self.starts else UNKNOWN
        """The epoch of the last batch."""

    def begin(self, epoch: int, offset: int) -> None:
        """Note that a batch of `epoch` is appended at `offset`; nothing unless it is later than all before."""
        if epoch > self.latest:
            self.starts.append((epoch, offset))
            self.latest = epoch

    def truncate(self, offset: int) -> None:
        """Forget the epochs that began at `offset` or behind it."""
        starts = self.starts
        while starts and starts[-1][1] >= offset:
            starts.pop()
        self.latest = starts[-1][0] if starts else UNKNOWN

    def end_of(self, epoch: int, log_end: int) -> tuple[int, int]:
        """Return (the latest epoch up to `epoch`, the offset behind its last batch), (-1, -1) when there is none.

        `log_end` is the offset behind the last batch of the log.
        """
        end = log_end
        for known, first in reversed(self.starts):
            if known <= epoch:
                return known, end
            end = first
        return UNKNOWN, -1

    def at(self, offset: int) -> int:
        """Return the epoch in which `offset` was appended, or will be if that is the end of the log; -1 for none."""
        return next((epoch for epoch, first in reversed(self.starts) if first <= offset), UNKNOWN)

    def since(self, offset: int) -> list[tuple[int, int]]:
        """Return what a log has to note that holds `offset` and what follows it: (epoch, offset of its first batch)."""
        epoch = self.at(offset)
        return [one for one in self.starts if one[0] >= epoch]

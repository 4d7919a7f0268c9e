"""A log while it is put together again: what recovery does with it, entry by entry, and what both of them need.

`log.Log` is a `Recovering` that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from broker.log.ackset import AckSet
from broker.log.epochs import EpochCache
from broker.log.errors import Corrupt
from broker.log.extents import Extent, Source, is_empty, shrink
from broker.log.segment import Segment, clip_segments
from protocol.kafka.records import Octets, parse_header

NEVER_CUT = 1 << 63
NOTHING_KEPT = 1 << 63
"""`kept_from` of a log that lets go of whatever is settled."""


class Pending(NamedTuple):
    """A batch that is in no frame yet."""

    first: int
    end: int
    octets: Octets
    volatile: bool


class Touched:
    """What every message of a queue touches, side by side in memory (the fields of a base stand before those of what
    is made of it): with a thousand queues no cache holds their logs, and each line of it that is read costs."""

    __slots__ = ("_filling", "_open_first", "_open_ms", "alone", "dirty", "durable", "next_offset", "settled")


class Recovering(Touched):
    """The state of a log, as recovery makes it."""

    __slots__ = (
        "_cut_end", "_keep_is_unwritten", "_recovered_cuts", "_unwritten", "epochs", "extents", "kept_from",
        "lost_segments", "lowest_cut", "pending", "returns", "segments", "synced_offset", "unreturned", "volatile",
    )  # fmt: skip

    uuid: bytes
    seen_offset: int
    next_offset: int
    synced_offset: int
    settled: AckSet
    volatile: AckSet
    returns: dict[int, int]
    unreturned: dict[int, int]
    extents: list[Extent]
    segments: list[Segment]
    epochs: EpochCache
    pending: list[Pending]
    lost_segments: list[str]
    lowest_cut: int
    kept_from: int
    _cut_end: int
    _keep_is_unwritten: bool
    _recovered_cuts: list[int]
    _unwritten: list[tuple[int, int]]

    def is_done(self, first: int, end: int) -> bool:
        """Whether batches of these offsets may go, wherever they lie: all is settled, and none of it is to be kept."""
        return end <= self.kept_from and self.settled.covers(first, end)

    def prune(self) -> None:
        """Forget the extents in front that may go."""
        floor, kept_from = self.settled.floor, self.kept_from
        if kept_from < floor:
            floor = kept_from
        extents = self.extents
        if extents and extents[0].end <= floor:
            gone = 1
            while gone < len(extents) and extents[gone].end <= floor:
                gone += 1
            del extents[:gone]

    def _cut_back(self, offset: int) -> None:
        self.next_offset = offset
        self.synced_offset = min(self.synced_offset, offset)
        self._cut_end = min(self._cut_end, offset)
        self.settled.truncate(offset)
        self.pending = [batch for batch in self.pending if batch.end <= offset]
        self.lowest_cut = min(self.lowest_cut, offset)
        self._unwritten = [(first, min(end, offset)) for first, end in self._unwritten if first < offset]
        self.volatile.truncate(offset)
        if self.kept_from != NOTHING_KEPT:
            self.kept_from = min(self.kept_from, offset)
        self.epochs.truncate(offset)
        for counts in (self.returns, self.unreturned):
            for above in [other for other in counts if other >= offset]:
                del counts[above]

    def _is_over(self, first: int, end: int) -> bool:
        """Whether batches of these offsets, if there are any, are not needed."""
        return is_empty(first, end) or self.is_done(first, end)

    def _cut_files(
        self,
        extents: list[Extent],
        offset: int,
        is_done: Callable[[int, int], bool] = is_empty,
    ) -> None:
        self.extents = extents
        self.lost_segments += [one.name for one in self.segments if one.base >= offset]
        self.segments = clip_segments(self.segments, offset, is_done)

    def recover_append(self, data: bytes, start: int, size: int, source: Source, position: int) -> None:
        """An APPEND that recovery has read: batches at `start` of `data`, which lie at `position` of `source`."""
        if not size:
            return  # Checkpoints up to 2026-11-30 wrote such ones, for logs of which everything was settled meanwhile.
        first = -1
        end = self.extents[-1].end if self.extents else 0
        at = start
        while at < start + size:
            header = parse_header(data, at)
            if header.base_offset < end:
                raise Corrupt(f"log {self.uuid.hex()}: offset {header.base_offset} was appended twice")
            # What was given out in between was settled before it had to be written, or lived in memory.
            self.settled.add(end, header.base_offset)
            if first < 0:
                first = header.base_offset
            end = header.next_offset
            if self.epochs.latest < header.leader_epoch:
                self.epochs.begin(header.leader_epoch, header.base_offset)
            at += header.size
        self.extents.append(Extent(first, end, source, position, size))
        self._cut_end = end
        self.next_offset = max(self.next_offset, end)

    def recover_truncate(self, offset: int) -> None:
        """A TRUNCATE that recovery has read.

        What lies in files is cut in `recovered`: the log may be dropped further on, and its files gone already.
        """
        self._cut_back(offset)
        self.extents = [one._replace(end=min(one.end, offset)) for one in self.extents if one.first < offset]
        self._recovered_cuts.append(offset)

    @property
    def recovered_cut(self) -> int:
        """Where the lowest TRUNCATE that recovery has read has cut; segments from there on may be anything."""
        return min(self._recovered_cuts, default=NEVER_CUT)

    def recover_return(self, offset: int, count: int) -> None:
        """A RETURN that recovery has read; the settlement of the offset may have been read before."""
        if offset < self.next_offset:  # Else it was of a message that no restart finds.
            self.returns[offset] = count

    def recover_settled(self, ranges: Sequence[tuple[int, int]]) -> None:
        """A SETTLE that recovery has read."""
        for first, end in ranges:
            self.settled.add(first, end)

    def recover_end(self) -> None:
        """A STATE has been restored: its segments count as written."""
        if self.extents:
            self._cut_end = self.extents[-1].end

    def recovered(self) -> None:
        """All entries have been read: no offset that was settled is given out again. Raises Corrupt and OSError."""
        for offset in self._recovered_cuts:
            self.extents = [shrink(one, offset, self._is_over) if one.end == offset else one for one in self.extents]
        if self._recovered_cuts:
            # Once, at the lowest: a checkpoint that did not come to its end may have written over what lies behind.
            self.extents = [one for one in self.extents if one.size]  # Of the others nothing is needed.
            self._cut_files(self.extents, self.recovered_cut, self._is_over)
            self._recovered_cuts.clear()
        for before, behind in pairwise(self.extents):
            if before.end > behind.first:  # Else batches would be lost without a word, as offsets that are nowhere.
                raise Corrupt(f"log {self.uuid.hex()}: {behind.first} is in two places, up to {before.end}")
        self.next_offset = self.synced_offset = max(self.next_offset, self.settled.end)
        # Whatever was given out and is nowhere was settled before it had to be written, or lived in memory.
        self.settled.add(self.extents[-1].end if self.extents else 0, self.next_offset)
        self.returns = {offset: count for offset, count in self.returns.items() if offset not in self.settled}
        if self.next_offset < self.kept_from != NOTHING_KEPT:
            # What lay below the floor was nowhere, and its offsets are given out again: those are to be kept.
            self.kept_from = self.next_offset
            self._keep_is_unwritten = True
        self.prune()

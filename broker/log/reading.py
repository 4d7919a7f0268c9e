"""What comes out of a log: its batches by offset, wherever they lie, what of it is damaged, and how much there is.

`log.Log` is a `Readable` that is appended to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

from broker.log import extents
from broker.log.disk import FileRange
from broker.log.errors import Corrupt
from broker.log.extents import Batch, Extent
from broker.log.filling import Filling
from broker.log.gaps import Gap, cut_out, step_over
from broker.log.recovering import Recovering
from protocol.kafka.records import BatchHeader, parse_header

_END, _SIZE = attrgetter("end"), attrgetter("size")

RANGE_BYTES_MIN = 32 << 10
"""Less is sooner read than sent from its file: many may read it, and it has to be asked for piece by piece."""


class Readable(Recovering, ABC):
    """A log, as far as it is read."""

    __slots__ = ("gaps",)

    _filling: Filling
    gaps: list[Gap]
    """What of it was found to be damaged; no extent has it any more."""

    @abstractmethod
    def _close_batch(self) -> None:
        """End the batch that may still grow: from now on it is the last that is pending."""

    def read(self, offset: int, *, kept: bool = False) -> Iterator[Batch]:
        """The batches from the one that holds `offset` on, in order, without those that are wholly settled; with `kept`
        also those of them that are kept.

        Lazy: at most one extent is in memory at a time. Raises Corrupt and OSError. What is appended meanwhile is seen.
        """
        covers = self.is_done if kept else self.settled.covers
        while True:
            self.prune()
            index = bisect_right(self.extents, offset, key=_END)
            if index >= len(self.extents):
                break
            extent = self.extents[index]
            try:
                if extent.size > extents.EXTENT_BYTES_MAX:
                    parts = extents.split(extent)
                    self.extents[index : index + 1] = parts
                    extent = parts[0]
                if not covers(max(offset, extent.first), extent.end):
                    for header, data, position in extents.batches(extent):
                        if header.next_offset > offset and not covers(header.base_offset, header.next_offset):
                            yield Batch(header, data, position)
                            offset = header.next_offset
            except Corrupt as error:
                self._step_over(extent, error)
                continue
            offset = extent.end
        # Only who comes so far ends the batch that may still grow.
        self._close_batch()
        for pending in list(self.pending):
            if pending.end > offset and not covers(pending.first, pending.end):
                yield Batch(parse_header(pending.octets), bytes(pending.octets), 0)

    def _step_over(self, extent: Extent, error: Corrupt) -> None:
        """This extent is damaged: what of it can be read takes its place, and the gap is noted.

        Raises what was met if that cannot be found again, and OSError.
        """
        index = next((index for index, one in enumerate(self.extents) if one is extent), -1)
        if index < 0:
            return  # It has been moved, dropped or cut meanwhile: whoever reads looks again.
        parts, gap = step_over(extent)
        if gap is None:
            raise error
        self.extents[index : index + 1] = parts
        if not self.settled.covers(gap.first, gap.end):
            self.gaps.append(gap)
            self._filling.gapped.append(self.uuid)

    def recall_gap(self, gap: Gap) -> bool:
        """A gap that an earlier run has found; False if nobody needs what is in it, or it can be read now.

        Raises OSError.
        """
        if self.settled.covers(gap.first, gap.end):
            return False
        for index, extent in enumerate(self.extents):
            parts = cut_out(extent, gap) if extent.first <= gap.first < extent.end else None
            if parts is not None:
                self.extents[index : index + 1] = parts
                self.gaps.append(gap)
                return True
        return False

    @property
    def lost(self) -> list[Gap]:
        """The gaps that have something in them that is not settled."""
        return [gap for gap in self.gaps if not self.settled.covers(gap.first, gap.end)]

    @property
    def lost_count(self) -> int:
        """How many offsets are in them and not settled."""
        return sum(gap.end - gap.first - self.settled.count(gap.first, gap.end) for gap in self.gaps)

    def stored(self, offset: int, bytes_max: int, end: int) -> list[FileRange]:
        """Whole extents from `offset` on, below `end`, of up to `bytes_max` octets, as they lie in files.

        Nothing of them is read or checked. None where `offset` is not where one begins, or the first is too large, too
        small to be worth it, or still on its way to its file. Raises Corrupt and OSError.
        """
        self.prune()
        found: list[FileRange] = []
        index = bisect_right(self.extents, offset, key=_END)
        while index < len(self.extents):
            extent = self.extents[index]
            if extent.first < offset or not extent.size >= RANGE_BYTES_MIN:
                break
            try:
                if extent.size > max(bytes_max, extents.EXTENT_BYTES_MAX) and not extents.is_one_batch(extent):
                    self.extents[index : index + 1] = extents.split(extent)
                    extent = self.extents[index]
            except Corrupt as error:
                self._step_over(extent, error)
                break
            if extent.size > bytes_max or extent.end > end:
                break
            one = extent.source.range(extent.position, extent.size)
            if one is None:
                break
            found.append(one)
            bytes_max -= extent.size
            offset = extent.end
            index += 1
        return found

    def first_header(self, offset: int) -> BatchHeader | None:
        """Of the batch with `offset`, or of one not long before; None if there is none. Reads a header only.

        Raises Corrupt and OSError.
        """
        self._close_batch()
        while (index := bisect_right(self.extents, offset, key=_END)) < len(self.extents):
            extent = self.extents[index]
            try:
                return extents.first_header(extent)
            except Corrupt as error:
                self._step_over(extent, error)
        return parse_header(self.pending[0].octets) if self.pending else None

    def first_since(self, timestamp_ms: int) -> BatchHeader | None:
        """Of the first batch from a time on, also among what is kept, as far as their times never fall; None if there
        is none. Raises Corrupt and OSError."""
        low, high = 0, len(self.extents)
        while low < high:
            middle = (low + high) // 2
            try:
                header = extents.first_header(self.extents[middle])
            except Corrupt as error:
                self._step_over(self.extents[middle], error)
                low, high = 0, len(self.extents)
                continue
            if header.max_timestamp_ms < timestamp_ms:
                low = middle + 1
            else:
                high = middle
        start = self.extents[low - 1].first if low else 0
        return next((one for one, _, _ in self.read(start, kept=True) if one.max_timestamp_ms >= timestamp_ms), None)

    @property
    def size_bytes(self) -> int:
        """Octets of what is in extents or pending, settled or not."""
        return sum(one.size for one in self.extents) + sum(len(one.octets) for one in self.pending)

    @property
    def kept(self) -> tuple[int, int]:
        """(offsets, about how many octets) of what is settled and kept all the same; offsets that only memory has had
        count where they lie between others."""
        all_extents, settled, kept_from = self.extents, self.settled, self.kept_from
        start = bisect_right(all_extents, kept_from, key=_END)
        if start == len(all_extents):
            return 0, 0
        # There may be tens of thousands; of those that are wholly settled only the sizes are looked at.
        stop = max(bisect_right(all_extents, settled.floor, key=_END), start)
        size = sum(map(_SIZE, islice(all_extents, start, stop)))
        count = all_extents[stop - 1].end - max(all_extents[start].first, kept_from) if stop > start else 0
        settled_end = settled.end
        for one in islice(all_extents, stop, None):
            if one.first >= settled_end:
                break
            some = settled.count(max(one.first, kept_from), one.end)
            count += some
            size += one.size * some // (one.end - one.first)
        return count, size

    @property
    def live_count(self) -> int:
        """Offsets that are in extents or pending and not settled: what a restart would find, and more to come."""
        settled = self.settled
        self._close_batch()
        ranges = [(one.first, one.end) for one in self.extents]
        ranges += [(one.first, one.end) for one in self.pending]
        return sum(end - first - settled.count(first, end) for first, end in ranges)

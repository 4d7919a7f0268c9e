"""Hot path. What of a log goes into a frame: its batches, what was settled of it, and what its followers get of both.

Budget: that of `log`, 3 µs per append of a run; held by `jackalope bench log`. `log.Log` is a `Cutting` that is
appended to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from broker.log import entries, extents
from broker.log.extents import Extent, Source
from broker.log.reading import Readable
from broker.log.recovering import NOTHING_KEPT, Pending
from protocol.kafka.records import Octets, encode_one

_new = tuple.__new__
"""Of a NamedTuple, at half the price."""
VOLATILE_CHUNKS = 64
"""From this number of bitmaps on, those that are settled are looked for and forgotten."""


class ReplicaPort(Protocol):
    """What makes a log a replicated one: other brokers have the same, and one of them leads.

    Such a log settles only what is below its high watermark, and no batch of it is left out of its frame.
    """

    @property
    def high_watermark(self) -> int:
        """The offset below which nothing can be lost any more (Kafka's high watermark)."""
        ...


class Shipped(NamedTuple):
    """What a frame has of a replicated log, as its followers get it: batches of [first, end), verbatim."""

    log: Cutting
    first: int
    end: int
    octets: Sequence[Octets]
    """One piece a batch."""
    settled: list[tuple[int, int]]
    """Ranges of offsets, in order."""
    returns: dict[int, int]
    """Offset -> how often it was delivered and came back."""


class Cutting(Readable):
    """A log, as far as frames are filled with what has happened to it."""

    __slots__ = ("_volatile_chunks_max", "leader_epoch", "number", "render", "replica", "truncated_to")

    number: int
    leader_epoch: int
    """Stamped on every batch that is made or placed here; see `Log.begin_epoch`."""
    render: Callable[[Any], bytes]
    """Makes the record, with the offset delta 0, of what `append_alone` was given."""
    replica: ReplicaPort | None
    """None for a log that this broker alone has."""
    truncated_to: int | None
    _volatile_chunks_max: int
    alone: Any
    _open_first: int
    _open_ms: int

    @property
    def high_watermark(self) -> int:
        """What readers of a topic may see: all that is synced, of a replicated log what enough brokers have synced."""
        replica = self.replica
        return self.synced_offset if replica is None else replica.high_watermark

    def shipped(self) -> Shipped:
        """Return what `cut`, which has to come right after, will put into the frame."""
        self._close_batch()
        pending = self.pending
        first = pending[0].first if pending else self.next_offset
        octets = [batch.octets for batch in pending]
        return Shipped(self, first, self.next_offset, octets, entries.merged(self._unwritten), dict(self.unreturned))

    def cut(self, parts: list[bytes], journal: Source, position: int) -> int:
        """Add what has changed to a frame that is being filled; returns the position behind it.

        `position` is where the next entry will stand in the journal.
        """
        self._close_batch()
        self.dirty = False
        if self.truncated_to is not None:
            parts.append(entries.truncate(self.number, self.truncated_to))
            position += len(parts[-1])
            self.truncated_to = None
        if self._keep_is_unwritten:
            self._keep_is_unwritten = False
            parts.append(entries.keep(self.number, self.kept_from))
            position += len(parts[-1])
        pending, self.pending = self.pending, []
        if len(pending) == 1:
            position = self._cut_run(parts, journal, position, pending, volatile=pending[0].volatile)
            return self._cut_settled(parts, position)
        index = 0
        while index < len(pending):
            stop = index + 1
            volatile = pending[index].volatile
            while stop < len(pending) and pending[stop].volatile == volatile:
                stop += 1
            position = self._cut_run(parts, journal, position, pending[index:stop], volatile=volatile)
            index = stop
        return self._cut_settled(parts, position)

    def cut_alone(self, parts: list[bytes], journal: Source, position: int) -> int:
        """The same of what came alone; most of what a frame costs that has one message for each of many logs."""
        raw, self.alone = self.alone, None
        first, epoch = self._open_first, self.leader_epoch
        octets = encode_one(first, self.render(raw), epoch, self._open_ms)
        size = len(octets)
        parts += (entries.APPEND_HEAD.pack(entries.APPEND, self.number, size), octets)
        position += entries.APPEND_HEAD.size
        self._cut_end = first + 1
        self.extents.append(_new(Extent, (first, first + 1, journal, position, size)))
        if self.epochs.latest < epoch:
            self.epochs.begin(epoch, first)
        return position + size

    def _cut_run(
        self, parts: list[bytes], journal: Source, position: int, run: Sequence[Pending], *, volatile: bool
    ) -> int:
        """One entry of batches; those that are settled already, and not kept, are written nowhere.

        All of a replicated log are written: where one was left out, the epoch that began with it would begin later
        after a restart than it does on other brokers.
        """
        if self.replica is None:
            covers = self.settled.covers
            kept_from = NOTHING_KEPT if volatile else self.kept_from
            run = [batch for batch in run if batch.end > kept_from or not covers(batch.first, batch.end)]
            if not run:
                return position
        parts.append(
            entries.APPEND_HEAD.pack(
                entries.VOLATILE if volatile else entries.APPEND, self.number, sum(len(batch.octets) for batch in run)
            )
        )
        position += entries.APPEND_HEAD.size
        first, end, start = run[0].first, run[0].first, position
        for batch in run:
            parts.append(batch.octets)  # type: ignore[arg-type]  # A bytearray is written as well.
            if position - start >= extents.EXTENT_BYTES_MAX:
                self.extents.append(Extent(first, end, journal, start, position - start))
                first, start = batch.first, position
            end = batch.end
            position += len(batch.octets)
        self.extents.append(Extent(first, end, journal, start, position - start))
        self._cut_end = end
        if volatile:
            for batch in run:
                self._add_volatile(batch.first, batch.end)
        return position

    def _cut_settled(self, parts: list[bytes], position: int) -> int:
        """What was settled and returned, as far as a restart has to know."""
        unwritten, self._unwritten = self._unwritten, []
        if len(unwritten) > 1:
            ranges = entries.merged([one for one in unwritten if one[0] < self._cut_end])
        else:
            ranges = unwritten if unwritten and unwritten[0][0] < self._cut_end else []
        if ranges:
            parts.append(entries.settle(self.number, ranges))
            position += len(parts[-1])
            self.prune()
        if not self.unreturned:
            return position
        for offset, count in self.unreturned.items():
            if offset in self.volatile:
                continue  # A restart drops it, and gives its number to another.
            parts.append(entries.returned(self.number, offset, count))
            position += len(parts[-1])
        self.unreturned.clear()
        return position

    def _add_volatile(self, first: int, end: int) -> None:
        volatile = self.volatile
        volatile.add(first, end)
        if len(volatile.chunks) >= self._volatile_chunks_max:
            volatile.forget_below(self.settled.floor)
            # As many again may come before the next look: it costs each of them the same, however many are alive.
            self._volatile_chunks_max = max(VOLATILE_CHUNKS, 2 * len(volatile.chunks))

"""Hot path. A log: what goes into it and into a frame, and which offsets are settled. `reading` has what comes out.

Budget: 3 µs per append of a run, 0.5 µs per settled range; held by `jackalope bench log`. Knows nothing of what the
records say, nor of threads: `Store` cuts what is pending into a frame and tells the log where it went.

    appended --> pending (memory) --cut--> journal --checkpoint--> segment, or the checkpoint's own file
                     |                        |                         |
                     +------ wholly settled: dropped, wherever it is ---+

A log may be told to keep what is settled, from an offset on (`keep_from`): then only what lies below is dropped.

Where a frame has one message for each of many logs, each pays for all of it by itself. So a record that comes to a log
alone (`append_alone`) is rendered when the frame is cut, unless it is settled by then, and one offset that is settled
goes into the one entry of all such logs. A log is dirty, or has a record alone, never both.

Three ends: `next_offset` (the end, LEO in Kafka), `synced_offset` (what a crash leaves), and the high watermark, which
on a single node is the synced offset. Invariant: extents are in order of offsets, do not overlap, and all of them lie
before what is pending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from broker.log import entries, extents
from broker.log.ackset import AckSet
from broker.log.extents import Batch, Extent, Source, clip
from broker.log.filling import Filling
from broker.log.gaps import Gap
from broker.log.reading import Readable
from broker.log.recovering import NEVER_CUT, NOTHING_KEPT, Pending
from broker.log.segment import SEGMENT_BYTES_MAX, Segment
from protocol.kafka.records import Octets, encode_batch, encode_one

_new = tuple.__new__
"""Of a NamedTuple, at half the price."""

OPEN_RECORDS_MAX = 64
OPEN_BYTES_MAX = 16 << 10
"""A batch is gone on with up to this at least. Larger ones gain a queue nothing, and are settled, whole, later."""
VOLATILE_CHUNKS = 64
"""From this number of bitmaps on, those that are settled are looked for and forgotten."""


class Layout(NamedTuple):
    """How a log's batches and files are made. What is here by default is a queue's."""

    open_records_max: int = OPEN_RECORDS_MAX
    open_bytes_max: int = OPEN_BYTES_MAX
    """A batch is gone on with up to this, if it is more than for all."""
    pack: Callable[[bytes], tuple[int, bytes]] | None = None
    """Compresses the records of a batch that is complete: (bits for its attributes, octets)."""
    segment_bytes: int = SEGMENT_BYTES_MAX
    """A segment that has so much is followed by another."""
    reduce: Callable[[Batch, AckSet], bytes] | None = None
    """Makes a batch without what is settled, in any thread; segments with much of that are written anew then.

    Raises CorruptBatch.
    """


QUEUE = Layout()


class Log(Readable):
    """One log. Made by `Store.create_log` and by recovery only."""

    __slots__ = (
        "_open", "_open_bytes", "_open_count", "_volatile_chunks_max", "epoch",
        "has_folder", "has_waste", "layout",
        "number", "render", "seen_offset", "truncated_to", "uuid",
    )  # fmt: skip

    def __init__(self, number: int, uuid: bytes, epoch: int, filling: Filling, *, durable: bool) -> None:
        self.number = number
        self.uuid = uuid
        self.durable = durable  # Whether a restart finds it again.
        self.epoch = epoch  # Of the leader, stamped on every batch.
        self._filling = filling
        self.layout = QUEUE
        self.has_waste = False
        """Whether a checkpoint is to look for segments that had better be written anew (`layout.reduce`)."""
        self.next_offset = 0
        self.synced_offset = 0
        self.settled = AckSet()
        self.kept_from = NOTHING_KEPT
        """From here on what is settled is kept all the same."""
        self._keep_is_unwritten = False
        self.returns: dict[int, int] = {}
        """Offset -> how often it was delivered and came back; only of those that did."""
        self.seen_offset = 0
        """Everything below may have been delivered before the last start."""
        self.extents: list[Extent] = []
        self.segments: list[Segment] = []
        self.epochs: list[tuple[int, int]] = []
        """(leader epoch, offset of its first batch), ascending (KIP-101)."""
        self.volatile = AckSet()
        """What a restart drops, wherever it is: one bit an offset where such and others take turns."""
        self._volatile_chunks_max = VOLATILE_CHUNKS
        self.gaps: list[Gap] = []
        self.pending: list[Pending] = []
        self._open: list[bytes] = []  # Records of the last batch, which may still grow.
        self._open_first = self._open_count = self._open_bytes = self._open_ms = 0
        self.alone: Any = None
        """What `render` will make the one record of, whose offset is `_open_first`; None when there is none."""
        self.render: Callable[[Any], bytes] = bytes
        """Makes the record, with the offset delta 0, of what `append_alone` was given."""
        self.dirty = False
        self.truncated_to: int | None = None
        self.lowest_cut = NEVER_CUT
        """The lowest truncation since a checkpoint looked: what it copied from there on is not to be used."""
        self.lost_segments: list[str] = []
        """Files that are no segments any more, or never were; a checkpoint removes those that are not in use again."""
        self.has_folder = False
        self.unreturned: dict[int, int] = {}
        self._unwritten: list[tuple[int, int]] = []
        self._recovered_cuts: list[int] = []
        self._cut_end = 0  # Behind the last offset that any frame has carried.

    @property
    def high_watermark(self) -> int:
        """What readers of a topic may see; on a single node all that is synced."""
        return self.synced_offset

    def _mark(self) -> None:
        if not self.dirty:
            self.dirty = True
            self._filling.dirty.append(self)
            if self.alone is not None:
                self._join()

    def _join(self) -> None:
        """The record that came alone is the first of a batch like any other."""
        assert self.alone is not None
        records = self.render(self.alone)
        self.alone = None
        self._open = [records]
        self._open_count, self._open_bytes = 1, len(records)
        self._mark()

    # What goes in.

    def begin_at(self, offset: int) -> None:
        """The first offset of an empty log; all before it count as settled."""
        self.next_offset = offset
        self.settled.add(0, offset)

    def append(self, records: bytes, count: int, timestamp_ms: int, *, volatile: bool = False) -> int:
        """Append `count` rendered records (offset deltas 0, 1, ...) as a batch; returns the offset of the first."""
        self._close_batch()
        first = self.next_offset
        self._add_batch(first, records, count, timestamp_ms, volatile=volatile)
        self.next_offset = first + count
        return first

    def append_batch(self, octets: Octets, count: int) -> None:
        """Append a batch of `count` offsets as it is: it says `next_offset` and `epoch` already, see `place_batch`."""
        self._close_batch()
        self._add(self.next_offset, count, octets, volatile=False)
        self.next_offset += count

    def _add_batch(self, first: int, records: bytes, count: int, timestamp_ms: int, *, volatile: bool) -> None:
        pack, attributes = self.layout.pack, 0
        if pack is not None:
            attributes, records = pack(records)
        octets = encode_batch(
            first,
            count - 1,
            count,
            records,
            leader_epoch=self.epoch,
            base_timestamp_ms=timestamp_ms,
            max_timestamp_ms=timestamp_ms,
            attributes=attributes,
        )
        self._add(first, count, octets, volatile=volatile)

    def _add(self, first: int, count: int, octets: Octets, *, volatile: bool) -> None:
        self.pending.append(Pending(first, first + count, octets, volatile))
        if not self.epochs or self.epochs[-1][0] < self.epoch:
            self.epochs.append((self.epoch, first))
        if not self.dirty:
            self._mark()

    def append_alone(self, raw: Any, timestamp_ms: int) -> int:
        """Append what `render` will make of `raw`: not if the log is dirty, or has one `alone`. Returns its offset."""
        self.alone = raw
        self._open_ms = timestamp_ms
        self._open_first = first = self.next_offset
        self.next_offset = first + 1
        self._filling.alone.append(self)
        return first

    def open_count(self, timestamp_ms: int) -> int:
        """How many records the batch has that `extend` goes on with: the first delta of what it is given; 0: a new one.

        What many publishers send one by one becomes one batch of a frame that way.
        """
        if self.alone is not None:
            self._join()
        if not self._open:
            return 0
        count = self.next_offset - self._open_first
        if self._open_ms != timestamp_ms or count != self._open_count:
            return 0
        if count < OPEN_RECORDS_MAX and self._open_bytes < OPEN_BYTES_MAX:
            return count
        layout = self.layout
        return count if count < layout.open_records_max and self._open_bytes < layout.open_bytes_max else 0

    def extend(self, records: bytes, count: int, timestamp_ms: int, joined: int) -> None:
        """Append `count` records whose deltas begin at `joined`, which `open_count` has said."""
        if not joined:
            self._close_batch()
            self._open_first, self._open_ms = self.next_offset, timestamp_ms
            self._open_count = self._open_bytes = 0
        self._open.append(records)
        self._open_count += count
        self._open_bytes += len(records)
        self.next_offset += count
        if not self.dirty:
            self._mark()

    def _close_batch(self) -> None:
        """Nothing is added any more to what is open."""
        if self.alone is not None:
            self._join()
        if not self._open:
            return
        parts, self._open = self._open, []
        records = parts[0] if len(parts) == 1 else b"".join(parts)
        self._add_batch(self._open_first, records, self._open_count, self._open_ms, volatile=False)

    def skip(self, count: int) -> int:
        """Give out offsets for messages that stay in memory; returns the first."""
        first = self.next_offset
        self.next_offset = end = first + count
        if self.durable:
            self._add_volatile(first, end)
        return first

    def _add_volatile(self, first: int, end: int) -> None:
        volatile = self.volatile
        volatile.add(first, end)
        if len(volatile.chunks) >= self._volatile_chunks_max:
            volatile.forget_below(self.settled.floor)
            # As many again may come before the next look: it costs each of them the same, however many are alive.
            self._volatile_chunks_max = max(VOLATILE_CHUNKS, 2 * len(volatile.chunks))

    def settle(self, first: int, end: int) -> None:
        """[first, end) are done with."""
        self.settled.add(first, end)
        if self.returns:
            self._forget_returns(first, end)
        if self.alone is not None and first <= self._open_first < end:
            if self._open_first < self.kept_from:
                self.alone = None  # It is written nowhere.
            else:
                self._join()
        if first < self._cut_end or self.pending or self._open:
            self._unwritten.append((first, end))
            self._mark()

    def settle_one(self, offset: int) -> None:
        """The same of one offset, for less."""
        settled = self.settled
        if offset != settled.floor or settled.chunks:
            settled.add(offset, offset + 1)
        else:
            settled.floor = offset + 1
        if self.alone is not None and offset == self._open_first:
            if offset < self.kept_from:
                self.alone = None  # It has not come back either, or it would not be alone.
                return
            self._join()
        if self.returns:
            self._forget_returns(offset, offset + 1)
        if self.dirty:
            self._unwritten.append((offset, offset + 1))
        elif offset < self._cut_end:
            self._filling.settled.append((self.number, offset))
            if self.extents and self.extents[0].end <= settled.floor:
                self.prune()

    def _forget_returns(self, first: int, end: int) -> None:
        offsets = range(first, end)
        for offset in offsets if end - first < len(self.returns) else [one for one in self.returns if one in offsets]:
            self.returns.pop(offset, None)
            self.unreturned.pop(offset, None)

    def note_return(self, offset: int, count: int) -> None:
        """The offset was delivered `count` times and is back."""
        self.returns[offset] = self.unreturned[offset] = count
        self._mark()

    def keep_from(self, offset: int) -> None:
        """From `offset` on what is settled is kept, what is below goes; NOTHING_KEPT: all that is settled goes."""
        if offset != self.kept_from:
            self.kept_from = offset
            self._keep_is_unwritten = True
            self._mark()
            self.prune()

    def truncate(self, offset: int) -> None:
        """Drop everything from `offset` on (KIP-101: what a leader of a later epoch does not have).

        `offset` is the first of a batch, as the ends of epochs are.
        """
        if offset >= self.next_offset:
            return
        self._close_batch()
        self._cut_back(offset)
        self._cut_files(clip(self.extents, offset), offset)
        self.truncated_to = offset if self.truncated_to is None else min(offset, self.truncated_to)
        self._mark()

    def dropped(self) -> None:
        """The log is gone: what came alone is written nowhere."""
        self.alone = None

    def epoch_end(self, epoch: int) -> int:
        """The offset behind the last batch of the leader `epoch` or before (OffsetsForLeaderEpoch)."""
        for later, first in self.epochs:
            if later > epoch:
                return first
        return self.next_offset

    # Into a frame.

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
        first, epoch = self._open_first, self.epoch
        octets = encode_one(first, self.render(raw), epoch, self._open_ms)
        size = len(octets)
        parts += (entries.APPEND_HEAD.pack(entries.APPEND, self.number, size), octets)
        position += entries.APPEND_HEAD.size
        self._cut_end = first + 1
        self.extents.append(_new(Extent, (first, first + 1, journal, position, size)))
        if not self.epochs or self.epochs[-1][0] < epoch:
            self.epochs.append((epoch, first))
        return position + size

    def _cut_run(
        self, parts: list[bytes], journal: Source, position: int, run: Sequence[Pending], *, volatile: bool
    ) -> int:
        """One entry of batches; those that are settled already, and not kept, are written nowhere."""
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

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

from collections.abc import Callable
from typing import Any, NamedTuple

from broker.log.ackset import AckSet
from broker.log.cutting import VOLATILE_CHUNKS, Cutting, ReplicaPort
from broker.log.epochs import EpochCache
from broker.log.errors import OutOfPlace, Uncommitted
from broker.log.extents import Batch, Extent, clip
from broker.log.filling import Filling
from broker.log.gaps import Gap
from broker.log.recovering import NEVER_CUT, NOTHING_KEPT, Pending
from broker.log.segment import SEGMENT_BYTES_MAX, Segment
from protocol.kafka.records import CorruptBatch, Octets, encode_batch, parse_header

OPEN_RECORDS_MAX = 64
OPEN_BYTES_MAX = 16 << 10
"""A batch is gone on with up to this at least. Larger ones gain a queue nothing, and are settled, whole, later."""


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


class Log(Cutting):
    """One log. Made by `Store.create_log` and by recovery only."""

    __slots__ = (
        "_open", "_open_bytes", "_open_count", "has_folder", "has_waste", "layout", "seen_offset", "uuid",
    )  # fmt: skip

    def __init__(self, number: int, uuid: bytes, leader_epoch: int, filling: Filling, *, durable: bool) -> None:
        self.number = number
        self.uuid = uuid
        self.durable = durable  # Whether a restart finds it again.
        self.leader_epoch = leader_epoch
        self.replica: ReplicaPort | None = None
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
        self.epochs = EpochCache()
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

    def begin_epoch(self, leader_epoch: int) -> None:
        """What is appended here from now on is of this leader epoch; a batch that may still grow is of the last one.

        A log that nobody replicates is led by each run of the broker, so it has the run's epoch.
        """
        self._close_batch()
        self.leader_epoch = leader_epoch

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
        """Append a batch of `count` offsets that says `next_offset` and `leader_epoch` already, see `place_batch`."""
        self._close_batch()
        self._add(self.next_offset, count, octets, volatile=False)
        self.next_offset += count

    def append_replica(self, octets: Octets) -> None:
        """Append whole batches of the leader's, verbatim: they say their own offsets and leader epochs.

        Raises CorruptBatch for what is no batch, and OutOfPlace unless the first begins at `next_offset` and each of
        the others behind the one before; then nothing is appended. Checksums are looked at by whoever received them.
        The octets are the log's from now on: nobody else may change them any more.
        """
        self._close_batch()
        batches: list[tuple[int, Pending]] = []
        whole, position, end = memoryview(octets), 0, self.next_offset
        while position < len(whole):
            header = parse_header(whole, position)
            if header.base_offset != end:
                raise OutOfPlace(f"log {self.uuid.hex()} ends before {end}, a batch begins at {header.base_offset}")
            if header.size > len(whole) - position:
                raise CorruptBatch(f"a batch of {header.size} octets, {len(whole) - position} are there")
            end = header.next_offset
            one = whole[position : position + header.size]
            batches.append((header.leader_epoch, Pending(header.base_offset, end, one, volatile=False)))
            position += header.size
        for epoch, batch in batches:
            self.pending.append(batch)
            self.epochs.begin(epoch, batch.first)
        self.next_offset = end
        if batches and not self.dirty:
            self._mark()

    def _add_batch(self, first: int, records: bytes, count: int, timestamp_ms: int, *, volatile: bool) -> None:
        pack, attributes = self.layout.pack, 0
        if pack is not None:
            attributes, records = pack(records)
        octets = encode_batch(
            first,
            count - 1,
            count,
            records,
            leader_epoch=self.leader_epoch,
            base_timestamp_ms=timestamp_ms,
            max_timestamp_ms=timestamp_ms,
            attributes=attributes,
        )
        self._add(first, count, octets, volatile=volatile)

    def _add(self, first: int, count: int, octets: Octets, *, volatile: bool) -> None:
        self.pending.append(Pending(first, first + count, octets, volatile))
        if self.epochs.latest < self.leader_epoch:
            self.epochs.begin(self.leader_epoch, first)
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

    def settle(self, first: int, end: int) -> None:
        """[first, end) are done with. Raises Uncommitted for what of a replicated log its leader may still lose."""
        if self.replica is not None and end > self.replica.high_watermark:
            raise Uncommitted(
                f"log {self.uuid.hex()}: {first} to {end - 1} were to be settled, "
                f"the high watermark is {self.replica.high_watermark}"
            )
        self.settled.add(first, end)
        if self.returns:
            self._forget_returns(first, end)
        if self.alone is not None and first <= self._open_first < end:
            if self._open_first < self.kept_from and self.replica is None:
                self.alone = None  # It is written nowhere.
            else:
                self._join()
        if first < self._cut_end or self.pending or self._open:
            self._unwritten.append((first, end))
            self._mark()

    def settle_one(self, offset: int) -> None:
        """The same of one offset, for less."""
        if self.replica is not None:
            self.settle(offset, offset + 1)  # Its followers are told together with all else of its frame.
            return
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

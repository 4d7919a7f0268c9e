"""Hot path. A partition of a topic: producers' batches into its log, and out of it by offset.

Budget: 15 µs per batch appended and 0.1 to 0.6 µs per record in it (`protocol.kafka.walk`), 10 µs per read of 256 KiB;
held by `jackalope bench kafka`. Batches are stored as they came: only base offset and leader epoch are ours to set
(KIP-98), unless the topic wants another compression (`compression.type`) or the header lies about the largest time.

    log start <= ... read by consumers ... < high watermark <= ... not durable yet ... < log end

Knows nothing of requests or sockets: whoever waits for data is in `waiters` and is woken when the high watermark
moves or the partition goes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

from broker.core.topics.config import TopicConfig
from broker.core.topics.errors import TopicRefused
from broker.core.topics.intake import Examined, check_facts, examined, in_topics_compression, layout_of
from broker.core.topics.producers import SAVED_EVERY, UNKNOWN, KnownBatch, Producers, last_sequence
from broker.core.topics.rates import NOTHING_IN
from broker.core.topics.times import Times
from broker.log.disk import FileRange
from broker.log.extents import Batch
from broker.log.log import Log
from protocol.kafka.compression import without
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import (
    COMPRESSION,
    LOG_APPEND_TIME,
    clear_sequence,
    parse_header,
    place_batch,
    set_max_timestamp,
    stamp_batch,
)
from protocol.kafka.walk import finish

EARLIEST, LATEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -2, -1, -3, -4, -5
"""What ListOffsets asks for instead of a time."""


class Waiter(Protocol):
    """Who waits for data of partitions."""

    def wake(self, partition: Partition) -> None:
        """Its high watermark has moved, or it is gone. May take itself out of `waiters`."""


class Appended(NamedTuple):
    """Where a batch went. `timestamp_ms` is -1 unless the log stamps times itself (Produce: log_append_time)."""

    base_offset: int
    timestamp_ms: int


class Read(NamedTuple):
    """Whole batches as they are stored, in pieces that lie one behind the other."""

    pieces: Sequence[memoryview | FileRange]
    size: int


class Found(NamedTuple):
    """An offset by time; (-1, -1) when there is none."""

    timestamp_ms: int
    offset: int


class Partition:
    """See the module. Made by `Topic` only."""

    __slots__ = ("_appended", "_begun_offset", "_save", "bytes_in", "config", "frame", "gone", "index", "log", "mark",
                 "producers", "recover", "settled_count", "start_offset", "times", "topic_name", "troubles",
                 "unsaved_bytes", "waiters")  # fmt: skip

    def __init__(
        self,
        topic_name: str,
        index: int,
        log: Log,
        config: TopicConfig,
        appended: Callable[[Partition, int], None],
        save: Callable[[Partition], None],
    ) -> None:
        self.topic_name = topic_name
        self.index = index
        self.log = log
        self.configure(config)
        self.start_offset = log.settled.floor
        self.producers = Producers()
        self.times = Times(log)
        self.waiters: dict[Waiter, None] = {}
        self.gone = False
        self.troubles: dict[str, str] = {}
        """What cannot be done with it, and why; see `troubles`."""
        self.settled_count = 0
        """Changes when a record goes that readers might have had: what was read before that is not to be read again."""
        self.frame = 0
        """The last frame that holds something of it: its high watermark moves when that is durable."""
        self.unsaved_bytes = 0
        """About what came in since the state of its producers was written."""
        self.recover: Callable[[Partition], None] | None = None
        """Brings back the producers, when the first of them sends again after a restart."""
        self.bytes_in = 0
        """Octets that came in since the start of the broker, as they are stored."""
        self.mark = NOTHING_IN
        """What had come in some seconds ago, see `rates`."""
        self._begun_offset = log.next_offset
        self._appended = appended
        self._save = save

    @property
    def messages_in(self) -> int:
        """Records that came in since the start of the broker."""
        return self.log.next_offset - self._begun_offset

    @property
    def high_watermark(self) -> int:
        """Consumers see what is below."""
        return self.log.high_watermark

    @property
    def size_bytes(self) -> int:
        """Octets of the batches that are kept, wherever they lie."""
        return self.log.size_bytes

    @property
    def leader_epoch(self) -> int:
        """Of what is appended now."""
        return self.log.leader_epoch

    def configure(self, config: TopicConfig) -> None:
        """From now on it has this configuration."""
        self.config = config
        self.log.layout = layout_of(config)
        self.log.has_waste = config.compact and bool(self.log.segments)  # Nobody remembers; a look is cheap.

    # In.

    def append(
        self, data: bytes | memoryview, now_ms: int, seen: Examined | None = None, owner: int = UNKNOWN
    ) -> Appended:
        """Append one producer's batch; it is durable, and seen, once the log is synced past it. Raises TopicRefused.

        `seen` is what `examined` has found out, where that was done in steps because it may take long; `owner` is who
        has brought it, see `producers`.
        The octets of a memoryview that can be written to are taken over: nobody else may change them any more.
        """
        config = self.config
        # What can be written to is a request that has its octets for itself. Else the one copy: they are the log's now.
        octets = data if isinstance(data, memoryview) and not data.readonly else memoryview(bytearray(data))
        header, facts = finish(examined(octets, config)) if seen is None else seen
        check_facts(facts, config, now_ms)
        if config.compression is not None and header.attributes & COMPRESSION != config.compression:
            octets, header = in_topics_compression(octets, header, config)
        if header.producer_id >= 0:
            self.know_producers()
            known = self.producers.check(
                header.producer_id, header.producer_epoch, header.base_sequence, header.records
            )
            if known is not None:
                return Appended(known.base_offset, known.timestamp_ms)
        elif header.base_sequence >= 0:
            clear_sequence(octets)
        stamp = -1
        if config.log_append_time:
            stamp = now_ms
            stamp_batch(octets, now_ms)
        elif header.max_timestamp_ms != facts.largest_ms:
            set_max_timestamp(octets, facts.largest_ms)  # Offsets are looked for by it.
        log = self.log
        base = log.next_offset
        place_batch(octets, base, log.leader_epoch)
        log.append_batch(octets, header.records)
        self.times.note(log.next_offset, stamp if stamp >= 0 else facts.largest_ms, len(octets))
        if header.producer_id >= 0:
            last = last_sequence(header.base_sequence, header.records)
            batch = KnownBatch(header.base_sequence, last, base, stamp)
            self.producers.note(header.producer_id, header.producer_epoch, batch, now_ms, owner)
        self._appended(self, len(octets))
        if self.producers.unsaved_count >= SAVED_EVERY:
            self._save(self)
        return Appended(base, stamp)

    def append_own(self, records: bytes, count: int, now_ms: int) -> int:
        """Append records that the broker itself has rendered (deltas 0, 1, ...); returns the offset of the first."""
        log = self.log
        first = log.append(records, count, now_ms)
        self.times.note(log.next_offset, now_ms, len(records))
        self._appended(self, len(records))
        return first

    def extend_own(self, records: bytes, count: int, now_ms: int, joined: int) -> None:
        """The same for records that may join the batch of those before: their deltas begin at `joined`, which
        `log.open_count` has said."""
        log = self.log
        log.extend(records, count, now_ms, joined)
        self.times.note(log.next_offset, now_ms, len(records))
        self._appended(self, len(records))

    def know_producers(self) -> bool:
        """After a restart what they have sent is looked for when somebody first asks; returns whether it was just now.

        Raises Corrupt and OSError.
        """
        if self.recover is None:
            return False
        try:
            self.recover(self)
        except Exception:
            self.producers = Producers()  # Half of them would take a retry for something new.
            raise
        self.recover = None
        return True

    def keep_producers(self) -> None:
        """Batches are about to go: what their producers have sent is not to be looked for in them after a restart.

        Raises Corrupt and OSError.
        """
        if self.know_producers() or self.unsaved_bytes:
            self._save(self)

    def recover_producers(self, saved: bytes, offset: int) -> None:
        """What was `saved` of the producers counts up to `offset`; what came behind it is looked through.

        Raises Corrupt and OSError.
        """
        self.producers.restore(saved)
        for header, _, _ in self.log.read(offset):
            if header.producer_id >= 0:
                last = last_sequence(header.base_sequence, header.last_offset_delta + 1)
                stamp = header.max_timestamp_ms if header.attributes & LOG_APPEND_TIME else -1
                batch = KnownBatch(header.base_sequence, last, header.base_offset, stamp)
                self.producers.note(header.producer_id, header.producer_epoch, batch, header.max_timestamp_ms)

    # Out.

    def stored(self, offset: int, bytes_max: int) -> Read | None:
        """What `read` would give, as far as it can be sent from files without being looked at (CRCs are the reader's).

        None where it has to be read. Raises Corrupt and OSError.
        """
        if self.config.compact or self.log.settled.chunks:
            return None  # What is settled has to be left out.
        found = self.log.stored(offset, bytes_max, self.log.high_watermark)
        return Read(found, sum(map(len, found))) if found else None

    def read(self, offset: int, bytes_max: int, *, at_least_one: bool) -> Read:
        """Whole batches from the one that holds `offset` on, below the high watermark, of `bytes_max` octets in all.

        With `at_least_one` the first comes even if it is larger (KIP-74). Raises Corrupt and OSError.
        """
        end = self.log.high_watermark
        pieces: list[memoryview] = []
        size = 0
        run: bytes | None = None
        start = stop = 0
        for header, data, position in self.batches(offset) if offset < end else ():
            batch_size = header.size
            if header.base_offset >= end or (size + batch_size > bytes_max and (size or not at_least_one)):
                break
            if data is not run or position != stop:
                if run is not None:
                    pieces.append(memoryview(run)[start:stop])
                run, start = data, position
            stop = position + batch_size
            size += batch_size
            if size >= bytes_max or header.next_offset >= end:
                break
        if run is not None:
            pieces.append(memoryview(run)[start:stop])
        return Read(pieces, size)

    def batches(self, offset: int) -> Iterator[Batch]:
        """The batches from the one that holds `offset` on, also those that are not durable yet.

        They come without what is settled: superseded in a compacted topic, or a dead letter that was replayed. Raises
        Corrupt, CorruptBatch and OSError.
        """
        settled = self.log.settled
        if not self.config.compact and not settled.chunks:  # What is below the floor is below the log's start.
            yield from self.log.read(offset)
            return
        for batch in self.log.read(offset):
            header = batch.header
            live = header.last_offset_delta + 1 - settled.count(header.base_offset, header.next_offset)
            if live == header.records:
                yield batch
            else:
                data = without(batch.data, batch.position, header, settled)
                yield Batch(parse_header(data), data, 0)

    def last_batch_offset(self) -> int:
        """Where the last batch that consumers may see begins; the high watermark when there is none.

        Raises Corrupt and OSError.
        """
        end = self.log.high_watermark
        header = self.log.first_header(end - 1) if end > self.start_offset else None
        if header is None:
            return end
        found = header.base_offset
        for header, _, _ in self.log.read(found):
            if header.base_offset >= end:
                break
            found = header.base_offset
        return max(found, self.start_offset)

    def check_offset(self, offset: int) -> None:
        """Raises TopicRefused 1 unless a consumer may go on from `offset`: from the log's start to its end."""
        if not self.start_offset <= offset <= self.log.next_offset:
            raise TopicRefused(
                ErrorCode.OFFSET_OUT_OF_RANGE, f"{offset} is not in {self.start_offset}..{self.log.next_offset}"
            )

    def check_epoch(self, epoch: int) -> None:
        """What a client believes to be the leader's epoch (KIP-320); -1 is no belief. Raises TopicRefused 74, 75."""
        if 0 <= epoch < self.leader_epoch:
            raise TopicRefused(ErrorCode.FENCED_LEADER_EPOCH, f"the leader has epoch {self.leader_epoch}")
        if epoch > self.leader_epoch:
            raise TopicRefused(ErrorCode.UNKNOWN_LEADER_EPOCH, f"the leader has epoch {self.leader_epoch}")

    def offset_for(self, timestamp_ms: int) -> Found:
        """What `find_offset` finds, at once. Raises Corrupt, CorruptBatch and OSError."""
        return finish(self.find_offset(timestamp_ms))

    def find_offset(self, timestamp_ms: int) -> Generator[int, None, Found]:
        """One of the above, or the first record at or behind a time, in steps that yield units of work.

        Raises Corrupt, CorruptBatch and OSError.
        """
        if timestamp_ms == LATEST:
            return Found(-1, self.high_watermark)
        if timestamp_ms in (EARLIEST, EARLIEST_LOCAL):  # All of it is local (KIP-405).
            return Found(-1, self.start_offset)
        if timestamp_ms == LATEST_TIERED:
            return Found(-1, -1)
        if timestamp_ms == MAX_TIMESTAMP:
            return Found(*(yield from self.times.largest(self.start_offset, self.high_watermark)))
        return Found(*(yield from self.times.first(timestamp_ms, self.start_offset, self.high_watermark)))

    def epoch_at(self, offset: int) -> int:
        """The leader epoch in which `offset` was appended; -1 when that is not known."""
        return self.log.epochs.at(offset)

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(largest epoch up to `epoch`, offset behind it), (-1, -1) when there is none (KIP-101)."""
        return self.log.epochs.end_of(epoch, self.log.next_offset) if epoch <= self.leader_epoch else (-1, -1)

    # What goes.

    def delete_before(self, offset: int) -> int:
        """Drop what is below `offset`, -1 being the high watermark; returns the log's start.

        Raises TopicRefused 1, Corrupt and OSError.
        """
        if offset == -1:
            offset = self.high_watermark
        if not 0 <= offset <= self.high_watermark:
            raise TopicRefused(ErrorCode.OFFSET_OUT_OF_RANGE, f"{offset} is behind {self.high_watermark}")
        if offset > self.start_offset:
            self.keep_producers()
            self.pass_over(self.start_offset, offset)
            self.start_offset = offset
            self.times.drop_before(offset)
        return self.start_offset

    def pass_over(self, first: int, end: int) -> None:
        """Who reads from now on does not find [first, end); the partition begins where it did.

        All that readers of a topic no longer get goes through here: what they were given before is not given again.
        """
        self.settled_count += 1
        self.log.settle(first, end)

    def truncate(self, offset: int) -> None:
        """The log ends before `offset` now, the first of a batch; what was written down of it is for `truncating`.

        Raises Corrupt and OSError.
        """
        self.settled_count += 1  # What was read from there on is not to be given again.
        self.log.truncate(offset)
        self.times.truncate(offset)
        self.producers.truncate(offset)
        self.start_offset = min(self.start_offset, offset)
        self._begun_offset = min(self._begun_offset, offset)

    def wait(self, waiter: Waiter) -> None:
        """Tell it when there is more, until it takes itself out of `waiters`."""
        self.waiters[waiter] = None

    def settle(self, offset: int) -> None:
        """One record is done with: who reads from now on does not find it. `keep_producers` comes first."""
        self.pass_over(offset, offset + 1)
        floor = self.log.settled.floor
        if floor > self.start_offset:
            self.start_offset = floor
            self.times.drop_before(floor)

    def wake(self) -> None:
        """The high watermark has moved, or the partition is gone: tell who waits."""
        for waiter in list(self.waiters):
            waiter.wake(self)

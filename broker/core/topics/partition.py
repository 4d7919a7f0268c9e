"""Hot path. A partition of a topic: producers' batches into its log, and out of it by offset.

Budget: 15 µs per batch appended and 0.3 µs per uncompressed record in it, 10 µs per read of 256 KiB; held by
`jackalope bench kafka`. Batches are stored as they came: only base offset and leader epoch are ours to set (KIP-98).

    log start <= ... read by consumers ... < high watermark <= ... not durable yet ... < log end

Knows nothing of requests or sockets: whoever waits for data is in `waiters` and is woken when the high watermark
moves or the partition goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from broker.core.topics.config import TopicConfig
from broker.core.topics.errors import TopicRefused
from broker.core.topics.producers import KnownBatch, Producers, last_sequence
from broker.core.topics.times import Times
from broker.log.extents import Batch
from broker.log.log import Log
from protocol.kafka.compression import open_batch
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import (
    COMPRESSION,
    CONTROL,
    LOG_APPEND_TIME,
    MAGIC,
    TRANSACTIONAL,
    ZSTD,
    BatchHeader,
    CorruptBatch,
    check_batch,
    clear_sequence,
    count_records,
    keep_records,
    parse_header,
    place_batch,
    stamp_batch,
)

EARLIEST, LATEST, MAX_TIMESTAMP = -2, -1, -3
"""What ListOffsets asks for instead of a time."""
MAGIC_POSITION = 16


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

    pieces: list[memoryview]
    size: int


class Found(NamedTuple):
    """An offset by time; (-1, -1) when there is none."""

    timestamp_ms: int
    offset: int


class Partition:
    """See the module. Made by `Topic` only."""

    __slots__ = ("_appended", "config", "frame", "gone", "index", "log", "producers", "recover", "start_offset",
                 "times", "topic_name", "unsaved_bytes", "waiters")  # fmt: skip

    def __init__(
        self, topic_name: str, index: int, log: Log, config: TopicConfig, appended: Callable[[Partition, int], None]
    ) -> None:
        self.topic_name = topic_name
        self.index = index
        self.log = log
        self.config = config
        self.start_offset = log.settled.floor
        self.producers = Producers()
        self.times = Times(log)
        self.waiters: dict[Waiter, None] = {}
        self.gone = False
        self.frame = 0
        """The last frame that holds something of it: its high watermark moves when that is durable."""
        self.unsaved_bytes = 0
        """About what came in since the state of its producers was written."""
        self.recover: Callable[[Partition], None] | None = None
        """Brings back the producers, when the first of them sends again after a restart."""
        self._appended = appended

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
        return self.log.epoch

    # In.

    def append(self, data: bytes | memoryview, now_ms: int) -> Appended:
        """Append one producer's batch; it is durable, and seen, once the log is synced past it. Raises TopicRefused."""
        config = self.config
        octets = bytearray(data)  # The one copy: from here on it is the log's.
        header = self._checked(octets, config)
        if header.producer_id >= 0:
            if self.recover is not None:
                recover, self.recover = self.recover, None
                recover(self)
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
        else:
            self._check_times(header, config, now_ms)
        log = self.log
        base = log.next_offset
        place_batch(octets, base, log.epoch)
        log.append_batch(octets, header.records)
        self.times.note(log.next_offset, stamp if stamp >= 0 else header.max_timestamp_ms, len(octets))
        if header.producer_id >= 0:
            last = last_sequence(header.base_sequence, header.records)
            batch = KnownBatch(header.base_sequence, last, base, stamp)
            self.producers.note(header.producer_id, header.producer_epoch, batch, now_ms)
        self._appended(self, len(octets))
        return Appended(base, stamp)

    def append_own(self, records: bytes, count: int, now_ms: int) -> int:
        """Append records that the broker itself has rendered (deltas 0, 1, ...); returns the offset of the first."""
        log = self.log
        first = log.append(records, count, now_ms)
        self.times.note(log.next_offset, now_ms, len(records))
        self._appended(self, len(records))
        return first

    def _checked(self, data: bytearray, config: TopicConfig) -> BatchHeader:
        """The header of what may be stored (rules of Kafka's LogValidator; codes as in `ErrorCode`)."""
        if len(data) > config.max_message_bytes:
            raise TopicRefused(
                ErrorCode.MESSAGE_TOO_LARGE, f"{len(data)} octets are more than {config.max_message_bytes}"
            )
        if len(data) > MAGIC_POSITION and data[MAGIC_POSITION] != MAGIC:
            raise TopicRefused(ErrorCode.INVALID_RECORD, f"message format v{data[MAGIC_POSITION]} is not taken")
        try:
            header = parse_header(data)
        except CorruptBatch as error:
            raise TopicRefused(ErrorCode.CORRUPT_MESSAGE, str(error)) from None
        if header.size < len(data):
            raise TopicRefused(ErrorCode.INVALID_RECORD, "more than one batch for a partition")
        if header.attributes & (CONTROL | TRANSACTIONAL):
            raise TopicRefused(ErrorCode.INVALID_RECORD, "a control batch, or one of a transaction that nobody began")
        # Without a producer the sequence says nothing: aiokafka's ordinary producer writes 0 there.
        if header.base_sequence < -1 or header.producer_id < -1 or header.producer_id >= 0 > header.base_sequence:
            raise TopicRefused(ErrorCode.INVALID_RECORD, f"producer {header.producer_id} without a sequence")
        if header.records != header.last_offset_delta + 1 or not header.records:
            raise TopicRefused(
                ErrorCode.INVALID_RECORD, f"{header.records} records for {header.last_offset_delta + 1} offsets"
            )
        if header.attributes & COMPRESSION > ZSTD:
            raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "no such compression")
        try:
            check_batch(data, 0, header, placed=False)
            if not header.attributes & COMPRESSION:
                count_records(data, 0, header)
            is_keyed = not config.compact or all(one.key is not None for one in open_batch(data, 0, header))
        except CorruptBatch as error:
            raise TopicRefused(ErrorCode.CORRUPT_MESSAGE, str(error)) from None
        if not is_keyed:
            raise TopicRefused(ErrorCode.INVALID_RECORD, "Compacted topic cannot accept message without key.")
        return header

    @staticmethod
    def _check_times(header: BatchHeader, config: TopicConfig, now_ms: int) -> None:
        """One time far in the future would keep its segment for ever (KIP-937)."""
        if header.max_timestamp_ms > now_ms + config.timestamp_after_max_ms:
            raise TopicRefused(ErrorCode.INVALID_TIMESTAMP, f"timestamp {header.max_timestamp_ms} is in the future")
        if header.base_timestamp_ms < now_ms - config.timestamp_before_max_ms:
            raise TopicRefused(ErrorCode.INVALID_TIMESTAMP, f"timestamp {header.base_timestamp_ms} is too old")

    def recover_producers(self, saved: bytes, offset: int) -> None:
        """What was `saved` of the producers counts up to `offset`; what came behind it is looked through.

        Raises Corrupt and OSError.
        """
        self.producers.restore(saved)
        for header, _, _ in self.log.read(offset):
            if header.producer_id >= 0:
                last = last_sequence(header.base_sequence, header.records)
                stamp = header.max_timestamp_ms if header.attributes & LOG_APPEND_TIME else -1
                batch = KnownBatch(header.base_sequence, last, header.base_offset, stamp)
                self.producers.note(header.producer_id, header.producer_epoch, batch, header.max_timestamp_ms)

    # Out.

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
            if size >= bytes_max:
                break
        if run is not None:
            pieces.append(memoryview(run)[start:stop])
        return Read(pieces, size)

    def batches(self, offset: int) -> Iterator[Batch]:
        """The batches from the one that holds `offset` on, also those that are not durable yet.

        Those of a compacted topic come without what was superseded. Raises Corrupt, CorruptBatch and OSError.
        """
        if not self.config.compact:
            yield from self.log.read(offset)
            return
        settled = self.log.settled
        for batch in self.log.read(offset):
            header = batch.header
            if settled.count(header.base_offset, header.next_offset):
                records = open_batch(batch.data, batch.position, header)
                data = keep_records(header, [one for one in records if one.offset not in settled])
                yield Batch(parse_header(data), data, 0)
            else:
                yield batch

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
        """EARLIEST, LATEST, MAX_TIMESTAMP, or the first record at or behind a time. Raises Corrupt and OSError."""
        if timestamp_ms == LATEST:
            return Found(-1, self.high_watermark)
        if timestamp_ms == EARLIEST:
            return Found(-1, self.start_offset)
        if timestamp_ms == MAX_TIMESTAMP:
            return Found(*self.times.largest(self.start_offset, self.high_watermark))
        return Found(*self.times.first(timestamp_ms, self.start_offset, self.high_watermark))

    def epoch_at(self, offset: int) -> int:
        """The leader epoch in which `offset` was appended; -1 when that is not known."""
        found = -1
        for epoch, first in self.log.epochs:
            if first > offset:
                break
            found = epoch
        return found

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(largest epoch up to `epoch`, offset behind it), (-1, -1) when there is none (KIP-101)."""
        known = [one for one, _ in self.log.epochs if one <= epoch]
        if not known or epoch > self.leader_epoch:
            return -1, -1
        return known[-1], self.log.epoch_end(known[-1])

    # What goes.

    def delete_before(self, offset: int) -> int:
        """Drop what is below `offset`, -1 being the high watermark; returns the log's start. Raises TopicRefused 1."""
        if offset == -1:
            offset = self.high_watermark
        if not 0 <= offset <= self.high_watermark:
            raise TopicRefused(ErrorCode.OFFSET_OUT_OF_RANGE, f"{offset} is behind {self.high_watermark}")
        if offset > self.start_offset:
            self.log.settle(self.start_offset, offset)
            self.start_offset = offset
            self.times.drop_before(offset)
        return self.start_offset

    def wake(self) -> None:
        """The high watermark has moved, or the partition is gone: tell who waits."""
        for waiter in list(self.waiters):
            waiter.wake(self)

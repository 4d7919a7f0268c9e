"""Compaction: of each key only the last record stays (`cleanup.policy` compact).

A pass looks through what has come since the last one, noting where each key was last, then through all of the log up to
there: records that a later one of their key supersedes are settled, like messages that were acknowledged, and so are
records without a key, and tombstones whose time is over. Offsets never change. Readers get batches without what is
settled (`Partition.batches`); what is settled as a whole is read by nobody, and its file is given back.

What is settled as a whole is not looked through after a restart either, so what its producers have sent last is written
down before (`Partition.keep_producers`). Segments of which little is left are written anew by the next checkpoint
(`broker.log.rewriting`).

The end of the log is never compacted: not its last batch, nothing at or behind the high watermark, nothing younger than
`min.compaction.lag.ms`. A pass is due when the part that none has seen is `min.cleanable.dirty.ratio` of what is left
of the log, when its first record is older than `max.compaction.lag.ms`, or when the time of tombstones is over
(`delete.retention.ms` after the first pass that has seen them: KIP-534).
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from broker.log.entries import merged
from broker.log.extents import Batch
from broker.log.rewriting import size_left
from broker.log.segment import Segment
from protocol.kafka.compression import open_batch

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition
    from broker.log.log import Log
    from protocol.kafka.records import Record

KEYS_MAX = 200_000
"""That one pass keeps in memory, some 30 MB; more keys take more passes."""
KEY_OCTETS = 16
RECORDS_AT_ONCE = 256
PIECE_UNITS = 50
HORIZONS_KEPT = 16
_STATE = struct.Struct(">QQI")
_HORIZON = struct.Struct(">QQ")


class Cleaned(NamedTuple):
    """What passes have done so far."""

    offset: int = 0
    """Everything below was looked at."""
    tombstones: int = 0
    """No tombstone below is left."""
    horizons: tuple[tuple[int, int], ...] = ()
    """(wall clock in ms, offset), both rising: from then on tombstones below were seen by a pass."""

    def octets(self) -> bytes:
        """For the catalog."""
        head = _STATE.pack(self.offset, self.tombstones, len(self.horizons))
        return head + b"".join(_HORIZON.pack(*one) for one in self.horizons)

    @staticmethod
    def read(octets: bytes) -> Cleaned:
        """What `octets` has written; nothing is a log that was never compacted."""
        if not octets:
            return Cleaned()
        offset, tombstones, count = _STATE.unpack_from(octets, 0)
        pairs = (_HORIZON.unpack_from(octets, _STATE.size + index * _HORIZON.size) for index in range(count))
        return Cleaned(offset, tombstones, tuple((first, second) for first, second in pairs))

    def clipped(self, offset: int) -> Cleaned:
        """The same of a log that ends before `offset` now."""
        horizons = tuple((ms, min(one, offset)) for ms, one in self.horizons)
        return Cleaned(min(self.offset, offset), min(self.tombstones, offset), horizons)

    def removable(self, before_ms: int) -> int:
        """Tombstones below this offset were seen by a pass before that time."""
        return max((offset for ms, offset in self.horizons if ms <= before_ms), default=0)


def is_due(partition: Partition, cleaned: Cleaned, now_ms: int) -> bool:
    """Whether a pass is worth it. Raises Corrupt and OSError."""
    config, log = partition.config, partition.log
    if cleaned.removable(now_ms - config.delete_retention_ms) > cleaned.tombstones:
        return True
    dirty = max(cleaned.offset, partition.start_offset)
    batch = next(log.read(dirty), None) if dirty < partition.high_watermark else None
    if batch is None or batch.header.next_offset >= log.next_offset:
        return False
    if now_ms - batch.header.max_timestamp_ms > config.max_compaction_lag_ms:
        return True
    unseen = sum(
        one.size * (one.end - max(one.first, dirty)) // (one.end - one.first) for one in log.extents if one.end > dirty
    )
    return unseen >= (unseen + _size_left(log, dirty)) * config.min_cleanable_ratio


def _size_left(log: Log, end: int) -> int:
    """About how many octets below `end` are not superseded, as if the disk had been given back already."""
    left = sum(size_left(log, segment, end) for segment in log.segments if segment.base < end)
    others = [one for one in log.extents if one.end <= end and not isinstance(one.source, Segment)]
    if others:
        first, last = others[0].first, others[-1].end
        live = last - first - log.settled.count(first, last)
        left += sum(one.size for one in others) * live // (last - first)
    return left


def compact(partition: Partition, cleaned: Cleaned, now_ms: int) -> Generator[int, None, Cleaned]:
    """A pass, in steps that yield units of work; returns what was done. Raises Corrupt, CorruptBatch and OSError."""
    latest: dict[bytes, int] = {}
    end = yield from _look(partition, max(cleaned.offset, partition.start_offset), now_ms, latest)
    if partition.gone:
        return cleaned
    partition.keep_producers()
    removable = max(cleaned.removable(now_ms - partition.config.delete_retention_ms), cleaned.tombstones)
    yield from _settle(partition, end, removable, latest)
    horizons = tuple(one for one in cleaned.horizons if one[1] > removable)[-HORIZONS_KEPT:]
    return Cleaned(end, removable, (*horizons, (now_ms, end)) if end > cleaned.offset else horizons)


def _look(partition: Partition, start: int, now_ms: int, latest: dict[bytes, int]) -> Generator[int, None, int]:
    """Note where each key of what none has seen is last; returns how far it came."""
    end = start
    for batch in _unseen(partition, start, now_ms):
        for count, record in enumerate(open_batch(batch.data, batch.position, batch.header), 1):
            if record.key is not None:
                latest[_short(record.key)] = record.offset
            if count % RECORDS_AT_ONCE == 0:
                yield RECORDS_AT_ONCE
        end = batch.header.next_offset
        yield PIECE_UNITS
        if len(latest) >= KEYS_MAX:
            break
    return end


def _settle(partition: Partition, end: int, removable: int, latest: dict[bytes, int]) -> Iterator[int]:
    """Settle what is superseded below `end`, and tombstones below `removable`."""
    log = partition.log
    for batch in _kept(partition, end):
        gone: list[tuple[int, int]] = []
        for count, record in enumerate(open_batch(batch.data, batch.position, batch.header), 1):
            if _is_superseded(record, latest) or (record.value is None and record.offset < removable):
                gone.append((record.offset, record.offset + 1))
            if count % RECORDS_AT_ONCE == 0:
                yield RECORDS_AT_ONCE
        if not partition.gone:
            for first, last in merged(gone):
                partition.pass_over(first, last)
            log.has_waste = log.has_waste or bool(gone)
            partition.settled_count += len(gone)
        yield PIECE_UNITS


def _unseen(partition: Partition, start: int, now_ms: int) -> Iterator[Batch]:
    """The batches that a pass may look at for the first time: never the last one."""
    before: Batch | None = None
    young_ms = now_ms - partition.config.min_compaction_lag_ms
    for batch in partition.log.read(start):
        if before is not None:
            yield before
        header = batch.header
        if partition.gone or header.next_offset > partition.high_watermark or header.max_timestamp_ms > young_ms:
            return
        before = batch


def _kept(partition: Partition, end: int) -> Iterator[Batch]:
    for batch in partition.log.read(partition.start_offset):
        if partition.gone or batch.header.base_offset >= end:
            return
        yield batch


def _is_superseded(record: Record, latest: dict[bytes, int]) -> bool:
    return record.key is None or latest.get(_short(record.key), -1) > record.offset


def _short(key: bytes) -> bytes:
    return key if len(key) < KEY_OCTETS else blake2b(key, digest_size=KEY_OCTETS).digest()

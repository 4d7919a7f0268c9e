"""What of a topic is too old or too much, and goes: `retention.ms` and `retention.bytes`, from the front.

Kafka frees whole segments; here a batch goes when its largest time is past, as long as nothing in front of it stays
(one time in the future keeps what is behind it, as in Kafka). Files are given back when nothing of them is left.
Nothing at or behind the high watermark goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition

BATCHES_AT_ONCE = 256
PARTITION_UNITS = 20
"""What looking at a partition costs that keeps everything: one header is read."""


def expire(partitions: Iterable[Partition], now_ms: int) -> Iterator[int]:
    """A job: look at each partition; yields units of work. Raises Corrupt and OSError."""
    for partition in partitions:
        config = partition.config
        if not config.delete or partition.gone:
            yield 1
            continue
        if config.retention_bytes >= 0:
            partition.delete_before(_start_by_bytes(partition, config.retention_bytes))
            yield PARTITION_UNITS
        if config.retention_ms >= 0:
            yield from _expire_by_time(partition, now_ms - config.retention_ms)


def _start_by_bytes(partition: Partition, bytes_max: int) -> int:
    """Where the partition has to begin to hold no more than that, to the next extent."""
    log = partition.log
    start, high_watermark = partition.start_offset, partition.high_watermark
    surplus = log.size_bytes - bytes_max
    for extent in log.extents:
        if extent.size > surplus or extent.end > high_watermark:
            break
        surplus -= extent.size
        start = max(start, extent.end)
    return start


def _expire_by_time(partition: Partition, before_ms: int) -> Iterator[int]:
    """Drop what is older, some batches a step."""
    while not partition.gone:
        log = partition.log
        first = log.first_header(partition.start_offset)
        if first is None or first.max_timestamp_ms >= before_ms:
            yield PARTITION_UNITS
            return
        start = partition.start_offset
        count = 0
        for header, _, _ in log.read(start):
            is_kept = header.max_timestamp_ms >= before_ms or header.next_offset > partition.high_watermark
            if is_kept or count == BATCHES_AT_ONCE:
                break
            start = header.next_offset
            count += 1
        partition.delete_before(start)
        yield PARTITION_UNITS + count
        if count < BATCHES_AT_ONCE:
            return

"""What of a topic is too old or too much, and goes: `retention.ms` and `retention.bytes`, from the front.

Kafka frees whole segments; here a batch goes when its largest time is past, as long as nothing in front of it stays
(one time in the future keeps what is behind it, as in Kafka). Files are given back when nothing of them is left.
Nothing at or behind the high watermark goes. Queues that keep what they delivered go by the same
(`core.vhosts.retaining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition
    from broker.log.log import Log

BATCHES_AT_ONCE = 256
LOOK_UNITS = 20
"""What looking at a log costs that keeps everything: one header is read."""


def expire(partitions: Iterable[Partition], now_ms: int) -> Iterator[int]:
    """A job: look at each partition; yields units of work. Raises Corrupt and OSError."""
    for partition in partitions:
        config = partition.config
        if not config.delete or partition.gone:
            yield 1
            continue
        if config.retention_bytes >= 0:
            partition.delete_before(start_by_bytes(partition.log, partition.start_offset, config.retention_bytes))
            yield LOOK_UNITS
        if config.retention_ms >= 0:
            yield from _expire_by_time(partition, now_ms - config.retention_ms)


def _expire_by_time(partition: Partition, before_ms: int) -> Iterator[int]:
    """Drop what is older, some batches a step."""
    count = BATCHES_AT_ONCE
    while not partition.gone and count == BATCHES_AT_ONCE:
        start, count = start_by_time(partition.log, partition.start_offset, before_ms)
        partition.delete_before(start)
        yield LOOK_UNITS + count


def start_by_bytes(log: Log, start: int, bytes_max: int) -> int:
    """Where a log that begins with `start` has to begin to hold no more than that, to the next extent."""
    surplus = log.size_bytes - bytes_max
    for extent in log.extents:
        if extent.size > surplus or extent.end > log.high_watermark:
            break
        surplus -= extent.size
        start = max(start, extent.end)
    return start


def start_by_time(log: Log, start: int, before_ms: int) -> tuple[int, int]:
    """(where a log that begins with `start` has to begin to have nothing in front from before that time, how many
    batches go by it): BATCHES_AT_ONCE at most, then there may be more. Raises Corrupt and OSError."""
    first = log.first_header(start)
    count = 0
    if first is None or first.max_timestamp_ms >= before_ms:
        return start, count
    for header, _, _ in log.read(start, kept=True):
        is_kept = header.max_timestamp_ms >= before_ms or header.next_offset > log.high_watermark
        if is_kept or count == BATCHES_AT_ONCE:
            break
        start = header.next_offset
        count += 1
    return start, count

"""A partition is cut back to what the leader of a later epoch has (KIP-101), and with it what was written down of it.

A saved state that knows of offsets which are gone would take a retry for something that is there, or begin to look for
a time behind it. So it is clipped in the frame that truncates the log: a crash leaves both or neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import catalog
from broker.core.topics import times
from broker.core.topics.compaction import Cleaned
from broker.core.topics.producers import Producers

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition
    from broker.log.store import Store


def truncate(store: Store, vhost: str, partition: Partition, offset: int) -> None:
    """Drop what a partition has from `offset` on, the first of a batch; nothing where it ends before.

    Raises Corrupt and OSError.
    """
    if offset >= partition.log.next_offset:
        return
    partition.truncate(offset)
    for kind, clip in _CLIPS.items():
        key = catalog.partition_key(kind, vhost, partition.topic_name, partition.index)
        saved = store.catalog.get(key)
        if saved is None:
            continue
        kept = clip(saved, offset)
        if not kept:
            store.delete(key)
        elif kept != saved:
            store.put(key, kept)


def _producers(saved: bytes, offset: int) -> bytes:
    """They stand behind the offset up to which they count."""
    if int.from_bytes(saved[:8], "big") <= offset:
        return saved
    producers = Producers()
    producers.restore(saved[8:])
    producers.truncate(offset)
    return offset.to_bytes(8, "big") + producers.snapshot()


def _cleaned(saved: bytes, offset: int) -> bytes:
    return Cleaned.read(saved).clipped(offset).octets()


_CLIPS = {catalog.PRODUCERS: _producers, catalog.TIMES: times.clipped, catalog.CLEANED: _cleaned}

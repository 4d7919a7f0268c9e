"""A topic as `queue peek` and `dlq` look into it: its records by place, and those that are dead letters sent back.

A *place* is a partition and an offset in one number, partition by partition, so that a walk over all of them can stop
anywhere and go on there. A letter that was replayed is settled in the log in the turn that appends its copy, in the
same frame: each is moved once, and whoever reads the topic from then on does not find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from broker.core.browsing import READY, Seen
from broker.core.message import Message
from broker.core.streams.records import DERIVED, TIMESTAMP_MS, Restorer
from protocol.amqp import content as wire
from protocol.amqp.fields import without_entry
from protocol.kafka.compression import open_batch

if TYPE_CHECKING:
    from broker.core.scheduler import Scheduler
    from broker.core.streams.stream import Stream

PLACE_BITS = 48
"""Of a place that are the offset: so many records no partition has seen."""
PLACE_MASK = (1 << PLACE_BITS) - 1


def split_place(place: int) -> tuple[int, int]:
    """(partition, offset)."""
    return place >> PLACE_BITS, place & PLACE_MASK


class Letters:
    """See the module. To `core.vhosts.replay` it is what a queue is."""

    __slots__ = ("_partitions", "name", "scheduler")

    def __init__(self, stream: Stream, scheduler: Scheduler) -> None:
        self.name = stream.name
        self.scheduler = scheduler
        self._partitions = list(stream.topic.partitions)

    @property
    def ends(self) -> list[int]:
        """Of each partition, the offset behind what can be seen."""
        return [partition.high_watermark for partition in self._partitions]

    def browse(self, start: int) -> Iterator[Seen]:
        """Everything from a place on. Lazy. Raises Corrupt, CorruptBatch and OSError."""
        first, offset = split_place(start)
        for partition in self._partitions[first:]:
            offset = max(offset, partition.start_offset)
            restorer = Restorer(None if len(self._partitions) == 1 else partition.index)
            base, end = partition.index << PLACE_BITS, partition.high_watermark
            for batch in partition.batches(offset) if offset < end else ():
                if batch.header.base_offset >= end:
                    break
                for record in open_batch(batch.data, batch.position, batch.header):
                    if record.offset >= offset:
                        yield Seen(base | record.offset, READY, restorer.message(record))
            offset = 0

    def take_each(self, places: Sequence[int]) -> list[int]:
        """Those that are still there, ready to be settled. Raises Corrupt and OSError."""
        found = [place for place in places if self._is_there(*split_place(place))]
        for index in {place >> PLACE_BITS for place in found}:
            self._partitions[index].keep_producers()  # What they have sent may be among what goes.
        return found

    def _is_there(self, index: int, offset: int) -> bool:
        partition = self._partitions[index]
        return not partition.gone and offset not in partition.log.settled

    def settle(self, places: Sequence[int]) -> None:
        """They were moved: nobody finds them any more."""
        for place in places:
            index, offset = split_place(place)
            self._partitions[index].settle(offset)


def without_place(message: Message) -> Message:
    """The message without the headers that say where its record stands, which its copy does not."""
    content = message[1]
    table = wire.property_octets(content, "headers")
    for name in DERIVED - {TIMESTAMP_MS}:
        table = without_entry(table, name)
    return message[0], wire.with_properties(content, {"headers": table})

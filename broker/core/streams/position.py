"""Hot path. A reader's place in a partition, and the messages from there on.

Budget: 0.3 µs per message taken, 8 µs per record that nobody has decoded yet; held by `jackalope bench kafka` (row
topic-to-amqp). A batch is decoded once for all readers that reach it at about the same time (`Decoded`). A reader goes
on where its last batch ended, without a search, unless more than ITERATORS_KEPT readers do so at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import compress, islice

from broker.core.message import Message
from broker.core.streams.records import Restorer
from broker.core.topics.partition import Partition
from broker.log.errors import StorageError
from broker.log.extents import Batch
from protocol.kafka.compression import plain_batch
from protocol.kafka.records import CorruptBatch, read_records

DECODED_KEPT, DECODED_BYTES_MAX = 512, 4 << 20
"""A producer that does not wait makes batches of one record: a thousand readers are spread over many of them."""
COPIED_SHARE = 4
"""Where the octets read together are so many times a batch's size, it is copied out, so that they can be freed."""
GATHER_UNITS = 100
"""Units of work up to which small batches are handed out together: one at a time would cost a write per message."""
ITERATORS_KEPT = 64
"""How many readers keep their iterator, of up to 256 KiB each; the others search for their place again."""
ENTRY_BYTES = 300


class Opened:
    """A batch, decoded as far as somebody wanted it: a large one at once would hold the loop."""

    __slots__ = ("_records", "_restorer", "end", "has_left", "messages", "octets", "offsets")

    def __init__(self, restorer: Restorer, batch: Batch) -> None:
        self._restorer = restorer
        header, data, position = batch
        if len(data) > COPIED_SHARE * header.size:
            data, position = bytes(data[position : position + header.size]), 0
        plain = plain_batch(data, position, header)
        self._records = read_records(*plain)
        self.offsets: list[int] = []
        self.messages: list[Message] = []
        """One for each of `offsets`."""
        self.has_left = True
        """Whether there may be records that are not decoded yet."""
        self.end = header.next_offset
        self.octets = 2 * plain[2].size + ENTRY_BYTES * header.records
        """About what it takes in memory, in the end: a compressed one may be a thousand times what it was stored as."""

    def fill(self, count: int) -> int:
        """Decode until there are `count`, if there are so many; returns how many were new. Raises CorruptBatch."""
        before = len(self.offsets)
        if before >= count:
            return 0
        records = list(islice(self._records, count - before))
        messages = [self._restorer.message(record) for record in records]
        self.offsets += [record.offset for record in records]
        self.messages += messages
        self.has_left = len(records) == count - before
        return len(records)


class Decoded:
    """The batches that were decoded last, and who is in the middle of reading."""

    __slots__ = ("_batches", "_iterators", "_octets")

    def __init__(self) -> None:
        self._batches: OrderedDict[tuple[int, int, int], Opened] = OrderedDict()
        self._octets = 0
        self._iterators: OrderedDict[Position, None] = OrderedDict()

    def at(self, partition: Partition, offset: int) -> Opened | None:
        """The batch that begins with this offset, if somebody has read it and nothing of the partition went since."""
        return self._batches.get((partition.log.number, offset, partition.settled_count))

    def open(self, partition: Partition, restorer: Restorer, batch: Batch) -> Opened:
        """The messages of a batch that was just read. Raises CorruptBatch."""
        key = (partition.log.number, batch.header.base_offset, partition.settled_count)
        found = self._batches.get(key)
        if found is None:
            found = self._batches[key] = Opened(restorer, batch)
            self._octets += found.octets
            while len(self._batches) > DECODED_KEPT or (self._octets > DECODED_BYTES_MAX and len(self._batches) > 1):
                self._octets -= self._batches.popitem(last=False)[1].octets
        return found

    def keep(self, position: Position) -> None:
        """Let a reader keep its iterator; past ITERATORS_KEPT the one that moved least recently loses its own."""
        iterators = self._iterators
        iterators[position] = None
        iterators.move_to_end(position)
        if len(iterators) > ITERATORS_KEPT:
            iterators.popitem(last=False)[0].rest()

    def forget(self, position: Position) -> None:
        """A reader has no iterator any more: it is at the end, or gone."""
        self._iterators.pop(position, None)


class Position:
    """In one partition. `offset` is that of the next message, or before it."""

    __slots__ = ("_batches", "_decoded", "_end", "_failed", "_index", "_opened", "_restorer", "offset", "partition")

    def __init__(self, decoded: Decoded, partition: Partition, offset: int, *, is_only: bool) -> None:
        self.partition = partition
        self.offset = offset
        self._decoded = decoded
        self._restorer = Restorer(None if is_only else partition.index)
        self._batches: Iterator[Batch] | None = None
        self._opened: Opened | None = None
        self._index = 0
        self._end = 0  # Behind the batch that is open.
        self._failed: Exception | None = None  # Met behind what was gathered.

    @property
    def has_more(self) -> bool:
        """Whether there is something that has not been taken."""
        return self.offset < self.partition.high_watermark

    def gather(self, most: int, wanted: Callable[[Message], bool] | None) -> tuple[list[Message], list[int], int]:
        """Like `take`, but from as many batches as `most` messages need, up to GATHER_UNITS of work.

        An error behind messages that could be read is raised by the next call, so that those messages are not lost.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        messages, offsets, units = self.take(most, wanted)
        end = self.partition.high_watermark
        while messages and len(messages) < most and units < GATHER_UNITS and self.offset < end:
            try:
                more, behind, cost = self.take(most - len(messages), wanted)
            except (StorageError, CorruptBatch, OSError) as error:
                self._failed = error
                break
            units += cost
            if not more:
                break
            messages += more
            offsets += behind
        return messages, offsets, units

    def take(self, most: int, wanted: Callable[[Message], bool] | None) -> tuple[list[Message], list[int], int]:
        """Up to `most` messages of one batch, their offsets, and the units of work done.

        There may be none although there are more. Raises Corrupt, CorruptBatch and OSError.
        """
        units = 0
        opened, index = self._opened, self._index
        if opened is not None and opened.has_left:
            units = 5 * opened.fill(index + most)
        if opened is None or index >= len(opened.offsets):
            if not self._open_next():
                return [], [], units + 1
            opened, index = self._opened, 0
            assert opened is not None
            if opened.has_left:
                units += 5 * opened.fill(most)
        offsets, messages = opened.offsets[index : index + most], opened.messages[index : index + most]
        self._index = index + len(offsets)
        units += len(offsets)
        if offsets and offsets[0] < self.offset:
            before = bisect_left(offsets, self.offset)  # The batch began before our place.
            del offsets[:before], messages[:before]
        if not offsets:
            return [], [], units + 1
        self.offset = offsets[-1] + 1
        if wanted is not None:
            chosen = [wanted(message) for message in messages]
            offsets, messages = list(compress(offsets, chosen)), list(compress(messages, chosen))
            units *= 5
        return messages, offsets, units

    def _open_next(self) -> bool:
        """Go on to the next batch; False when there is none yet."""
        partition = self.partition
        self.offset = max(self.offset, partition.start_offset)
        if self._end > self.offset:
            self.offset = self._end  # Behind what is left of the last batch.
        end = partition.high_watermark
        batch = None
        if self.offset < end:
            known = self._decoded.at(partition, self.offset)
            if known is not None:  # Others were here before; the iterator is not, any more.
                if self._batches is not None:
                    self.rest()
                self._opened, self._index, self._end = known, 0, known.end
                return True
            if self._batches is not None:
                batch = next(self._batches, None)
            if batch is None:  # It may have ended before what has come since.
                self._batches = partition.batches(self.offset)
                batch = next(self._batches, None)
        self._opened, self._index = None, 0
        if batch is None or batch.header.base_offset >= end:
            self.rest()
            self.offset = max(self.offset, end)  # If anything was there it is superseded, or was deleted.
            return False
        self._opened = self._decoded.open(partition, self._restorer, batch)
        self._end = batch.header.next_offset
        self._decoded.keep(self)
        return True

    def move(self, offset: int) -> None:
        """Go on there."""
        self.rest()
        self._opened, self._index, self._end = None, 0, 0
        self._failed = None
        self.offset = offset

    def rest(self) -> None:
        """Hold nothing that is not needed: look for the place again when there is more."""
        self._batches = None
        self._decoded.forget(self)

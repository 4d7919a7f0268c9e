"""Which batches of idempotent producers a partition has, so that a retry is recognised and a gap is refused. Pure.

Per producer the last five batches are kept (KIP-98: a client has at most five in flight): one of them again gets the
answer of the first time. What is not known at all is accepted (an expired producer must not lose its idempotence over
an error it cannot mend). Sequences wrap from 2**31 - 1 to 0.

Ids cost nothing, so what is kept is bounded by age and, past PRODUCERS_MAX, by who brings them: of the *owner* (a
connection) that has brought most the one silent longest is forgotten. Who invents ids by the thousand forgets its own.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from typing import NamedTuple

from broker.core.topics.errors import TopicRefused
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import SEQUENCE_MAX

BATCHES_KEPT = 5
PRODUCERS_MAX = 10_000
"""Per partition."""
RECOVERED_MAX = 2 * PRODUCERS_MAX
"""As long as it is not known who has brought them: after a restart, from the log."""
SAVED_EVERY = 1000
"""So many new ones, and what is known is written down: it bounds what is only found in the log."""
FORGOTTEN_AFTER_MS = 86_400_000
"""A producer that is not heard of for so long is forgotten (Kafka: `producer.id.expiration.ms`, a day)."""
UNKNOWN = 0
"""The owner of what was there before a restart: of each such producer it counts as another one."""
_PRODUCER = struct.Struct(">qhqB")
_BATCH = struct.Struct(">iiqq")


class KnownBatch(NamedTuple):
    """A batch that was appended: sequences inclusive, where it went, and the time it got."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp_ms: int


class Known(NamedTuple):
    """What is known of a producer."""

    producer_id: int
    epoch: int
    last_sequence: int
    seen_ms: int


class _Producer:
    """One producer: its epoch, its last batches, when it was last heard of, and who brought it."""

    __slots__ = ("batches", "epoch", "heard_ms", "owner", "seen_ms")

    def __init__(self, epoch: int, seen_ms: int) -> None:
        self.epoch = epoch
        self.seen_ms = seen_ms
        self.heard_ms = 0
        """The same in this run; 0: not yet. After a restart `seen_ms` may be what a client has said."""
        self.owner = UNKNOWN
        self.batches: deque[KnownBatch] = deque(maxlen=BATCHES_KEPT)


def last_sequence(first_sequence: int, count: int) -> int:
    """The sequence of the last of `count` records, with the wrap."""
    return (first_sequence + count - 1) & SEQUENCE_MAX


class Producers:
    """The idempotent producers of one partition."""

    __slots__ = ("_owned", "_producers", "unsaved_count")

    def __init__(self) -> None:
        self.unsaved_count = 0
        """New ones since what is known was written down."""
        self._producers: OrderedDict[int, _Producer] = OrderedDict()
        self._owned: dict[int, OrderedDict[int, None]] = {}
        """Of each owner the ids, the one silent longest first."""

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, producer_id: int, epoch: int, first_sequence: int, count: int) -> KnownBatch | None:
        """The batch if it was appended before, None if it is the next one.

        Raises TopicRefused: 47 for an epoch that was superseded, 45 for a gap or a new epoch that does not begin at 0.
        """
        producer = self._producers.get(producer_id)
        if producer is None:
            return None
        if epoch < producer.epoch:
            raise TopicRefused(
                ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {producer_id} has epoch {producer.epoch}, not {epoch}"
            )
        if epoch > producer.epoch:
            if first_sequence != 0:
                raise TopicRefused(
                    ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"a new epoch begins with {first_sequence}, not 0"
                )
            return None
        last = last_sequence(first_sequence, count)
        for batch in producer.batches:
            if batch.first_sequence == first_sequence and batch.last_sequence == last:
                return batch
        if producer.batches and first_sequence != (producer.batches[-1].last_sequence + 1) & SEQUENCE_MAX:
            raise TopicRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: {first_sequence} does not follow {producer.batches[-1].last_sequence}",
            )
        return None

    def note(self, producer_id: int, epoch: int, batch: KnownBatch, now_ms: int, owner: int = UNKNOWN) -> None:
        """The batch was appended, and `owner` has brought it."""
        producers = self._producers
        producer = producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            if producer is not None:
                self._own(producer_id, producer, UNKNOWN)
            producer = producers[producer_id] = _Producer(epoch, now_ms)
            self.unsaved_count += 1
        producer.seen_ms = now_ms
        producer.batches.append(batch)
        producers.move_to_end(producer_id)
        if owner != UNKNOWN:
            producer.heard_ms = now_ms
            self._own(producer_id, producer, owner)
            if len(producers) > PRODUCERS_MAX:
                greediest = max(self._owned.values(), key=lambda ids: len(ids))
                self._forget(next(iter(greediest)))
        elif len(producers) > RECOVERED_MAX:
            self._forget(next(iter(producers)))

    def _own(self, producer_id: int, producer: _Producer, owner: int) -> None:
        """`owner` was the last to bring it."""
        before = self._owned.get(producer.owner)
        if before is not None and producer.owner != owner:
            del before[producer_id]
            if not before:
                del self._owned[producer.owner]
        producer.owner = owner
        if owner != UNKNOWN:
            owned = self._owned.setdefault(owner, OrderedDict())
            owned[producer_id] = None
            owned.move_to_end(producer_id)

    def _forget(self, producer_id: int) -> None:
        self._own(producer_id, self._producers[producer_id], UNKNOWN)
        del self._producers[producer_id]

    def all(self) -> list[Known]:
        """All of them, the one silent longest first."""
        return [
            Known(producer_id, one.epoch, one.batches[-1].last_sequence if one.batches else -1, one.seen_ms)
            for producer_id, one in self._producers.items()
        ]

    def expire(self, now_ms: int) -> None:
        """Forget those that were not heard of for FORGOTTEN_AFTER_MS; a restart begins their time anew."""
        for producer_id, producer in list(self._producers.items()):
            if not producer.heard_ms:
                producer.heard_ms = now_ms
            elif producer.heard_ms < now_ms - FORGOTTEN_AFTER_MS:
                self._forget(producer_id)

    def truncate(self, offset: int) -> None:
        """The log ends before `offset` now."""
        for producer_id, producer in list(self._producers.items()):
            kept = [batch for batch in producer.batches if batch.base_offset < offset]
            if kept:
                producer.batches = deque(kept, maxlen=BATCHES_KEPT)
            else:
                self._forget(producer_id)

    def snapshot(self) -> bytes:
        """All of it, for the catalog."""
        parts = []
        for producer_id, producer in self._producers.items():
            parts.append(_PRODUCER.pack(producer_id, producer.epoch, producer.seen_ms, len(producer.batches)))
            parts += [_BATCH.pack(*batch) for batch in producer.batches]
        return b"".join(parts)

    def restore(self, octets: bytes) -> None:
        """What `snapshot` has written."""
        position = 0
        while position < len(octets):
            producer_id, epoch, seen_ms, count = _PRODUCER.unpack_from(octets, position)
            position += _PRODUCER.size
            producer = self._producers[producer_id] = _Producer(epoch, seen_ms)
            for _ in range(count):
                producer.batches.append(KnownBatch._make(_BATCH.unpack_from(octets, position)))
                position += _BATCH.size

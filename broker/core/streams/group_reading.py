"""What a consumer of a group takes from: the partitions that the group has given it, each message settled.

Unlike other readings of a stream this one knows what has become of each delivery (`claim`): acknowledged, rejected (a
dead letter, `dead_letter_topic`), or returned, which comes again. Which partitions are its own is said by `assign`;
what may be committed is asked of `progress`. That costs about 1 µs per message on top of what `reading` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from broker.core.message import Message
from broker.core.queues.x_death import DELIVERY_LIMIT, REJECTED
from broker.core.streams.claim import OFFSET_BITS, OFFSET_MASK, Claim
from broker.core.streams.position import Decoded, Position
from broker.core.streams.reading import EMPTY_BATCHES, Reading

if TYPE_CHECKING:
    from broker.core.queues.dispatch import Consumer, Lease
    from broker.core.scheduler import Scheduler
    from broker.core.streams.dead_letter_topic import DeadLetterTopic
    from broker.core.streams.start import Start
    from broker.core.streams.stream import Stream
    from broker.core.topics.partition import Partition

Progress = list[tuple[int, int, str]]
"""(partition, offset, metadata) of each that has moved."""


class Membership(Protocol):
    """Who speaks with the group."""

    group_id: str

    @property
    def member_id(self) -> str:
        """What the group calls it; nothing before it is in."""
        ...

    def moved(self, *, at_once: bool = False) -> None:
        """There is something to commit, perhaps in this turn."""

    def leave(self) -> None:
        """The consumer is gone, and nothing is with it any more."""


class GroupReading(Reading):
    """See the module. `dead_letter_topic` is None where what is rejected is gone."""

    __slots__ = (
        "_by_number",
        "_claims",
        "_dead_letter_topic",
        "_limit",
        "_next_number",
        "_start",
        "is_paused",
        "is_stopping",
        "membership",
    )  # fmt: skip

    deaths_max, death_units = 16, 60
    returns_max = 64

    def __init__(
        self,
        stream: Stream,
        scheduler: Scheduler,
        decoded: Decoded,
        start: Start,
        wanted: Callable[[Message], bool] | None,
        dead_letter_topic: DeadLetterTopic | None,
        delivery_limit: int | None,
    ) -> None:
        super().__init__(stream, scheduler, decoded, (), wanted)
        self._start = start
        self._dead_letter_topic = dead_letter_topic
        self._limit = delivery_limit
        self._claims: list[Claim] = []
        self._by_number: dict[int, Claim] = {}
        self._next_number = 1
        self.is_paused = True  # Until the group has given it something.
        self.is_stopping = False
        self.membership: Membership | None = None

    # Its life.

    def begin(self, consumer: Consumer) -> None:
        """Serve this consumer when the group has given it something. Raises Refused 403, see `Reading.begin`."""
        self.stream.add(self, exclusive=consumer.exclusive)
        self.exclusive = consumer.exclusive
        self.consumer = consumer

    @property
    def partitions(self) -> list[int]:
        """Those that are its own."""
        return sorted(claim.index for claim in self._claims)

    @property
    def is_away(self) -> bool:
        """Whether anything is with the consumer."""
        return any(claim.away for claim in self._claims)

    def grown(self) -> None:
        """The topic has more partitions: the group shares them out."""

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        """It gets nothing more; what is with it may still be acknowledged, and then it leaves the group."""
        self.stream.remove(self)
        self.stream.last_used_ms = now_ms
        self.consumer = None
        self.is_paused = self.is_stopping = True
        self._maybe_leave()

    def close(self) -> None:
        """The stream is deleted, or this reading cannot go on."""
        consumer = self.consumer
        self.stream.remove(self)
        self.consumer = None
        self.is_paused = self.is_stopping = True
        if self.membership is not None:
            self.membership.leave()
        if consumer is not None:
            consumer.cancelled()

    def _maybe_leave(self) -> None:
        if self.is_stopping and self.membership is not None and not self.is_away:
            self.membership.leave()

    # What the group says.

    def pause(self) -> None:
        """A rebalance: nothing is delivered until `assign`."""
        self.is_paused = True

    def assign(self, partitions: Collection[int], committed: Mapping[int, tuple[int, str]]) -> None:
        """These are its own now, committed as said (-1: never). Raises Corrupt, CorruptBatch and OSError.

        What it had of them stays as it is; deliveries of all others mean nothing any more.
        """
        wanted = frozenset(partitions)
        for claim in self._claims:
            if claim.index not in wanted:
                self._void(claim)
        self._claims = [claim for claim in self._claims if claim.index in wanted]
        known = {claim.index: claim for claim in self._claims}
        for index in partitions:
            offset, metadata = committed.get(index, (-1, ""))
            if index in known:
                known[index].skip_to(offset)
            else:
                self._claim(self.stream.topic.partitions[index], offset, metadata)
        self.is_paused = self.is_stopping
        self.hungry = True
        self._maybe_leave()
        self.wake()

    def _claim(self, partition: Partition, offset: int, metadata: str) -> None:
        is_new = offset < 0
        if is_new:
            offset = self._start.offset(partition, self.scheduler.wall_ms)
        elif offset > partition.log.next_offset:
            offset = partition.high_watermark  # Of a log that was another one.
        is_only = len(self.stream.topic.partitions) == 1
        position = Position(self._decoded, partition, max(offset, partition.start_offset), is_only=is_only)
        claim = Claim(self._next_number, position, -1 if is_new else offset, metadata)
        self._by_number[self._next_number] = claim
        self._next_number += 1
        self._claims.append(claim)
        partition.waiters[self] = None

    def _void(self, claim: Claim) -> None:
        del self._by_number[claim.base >> OFFSET_BITS]
        claim.position.partition.waiters.pop(self, None)
        claim.position.rest()

    def let_go(self) -> None:
        """The group knows it no more: nothing is its own."""
        self.is_paused = True
        for claim in self._claims:
            self._void(claim)
        self._claims = []
        self._maybe_leave()

    def progress(self) -> Progress:
        """What is to be committed."""
        found = []
        for claim in self._claims:
            now = claim.progress()
            if now != claim.committed and not claim.position.partition.gone:
                found.append((claim.index, *now))
        return found

    def committed(self, progress: Progress) -> None:
        """This was committed."""
        by_index = {claim.index: claim for claim in self._claims}
        for index, offset, metadata in progress:
            by_index[index].committed = offset, metadata

    # Messages out.

    def wake(self, partition: Partition | None = None) -> None:
        """There may be capacity, or messages, again."""
        self.hungry = self.hungry or partition is None
        if self.dirty or not self.hungry or self.returning_count or self.is_paused:
            return
        if any(claim.has_more for claim in self._claims):
            self.dirty = True
            self.scheduler.dirty.append(self)

    def _hand_out(self, consumer: Consumer, capacity: int) -> int:
        """What comes again first; then from the partitions in turns, a batch at a time."""
        if self.is_paused:
            return 1
        claims = self._claims
        units = 1
        for claim in claims:
            if claim.returned:
                return units + self._deliver_again(consumer, claim, capacity)
        for _ in range(len(claims) + EMPTY_BATCHES if claims else 0):
            self._turn = (self._turn + 1) % len(claims)
            claim = claims[self._turn]
            if not claim.has_more:
                continue
            before = claim.position.offset
            messages, offsets, cost = claim.position.take(min(capacity, claim.room), self._wanted)
            units += cost
            if messages:
                if claim.counts:
                    messages = list(map(claim.told, messages, offsets))
                consumer.deliver(messages, claim.deliver(offsets))
                break
            if claim.position.offset != before and not claim.out:
                self._moved()  # What nobody wants, or is a gap, is as good as settled.
        return units

    def _deliver_again(self, consumer: Consumer, claim: Claim, capacity: int) -> int:
        count = min(capacity, len(claim.returned))
        some = [claim.returned.popleft() for _ in range(count)]
        claim.away += count
        consumer.deliver([message for _, message in some], [claim.base | offset for offset, _ in some])
        return count

    def _moved(self) -> None:
        if self.membership is not None:
            self.membership.moved()

    # How deliveries end.

    def settle(self, offsets: Sequence[int]) -> None:
        """Acknowledged; of partitions that are its own no more it means nothing."""
        find = self._by_number.get
        for lease in offsets:
            claim = find(lease >> OFFSET_BITS)
            if claim is not None:
                claim.settle(lease & OFFSET_MASK)
        self._moved()
        if self.is_stopping:
            self._maybe_leave()

    def settle_one(self, offset: int) -> None:
        """The same of one."""
        claim = self._by_number.get(offset >> OFFSET_BITS)
        if claim is not None:
            claim.settle(offset & OFFSET_MASK)
            self._moved()
        if self.is_stopping:
            self._maybe_leave()

    def reject(self, leases: Sequence[Lease]) -> None:
        """Rejected: dead letters, where there is a topic for them, else as if acknowledged."""
        for _, lease, message in leases:
            claim = self._by_number.get(lease >> OFFSET_BITS)
            if claim is not None:
                offset = lease & OFFSET_MASK
                if offset in claim.out:
                    self._dead_letter(claim, offset, message, REJECTED, claim.counts.get(offset, 0) + 1)
                else:
                    claim.settle(offset)
        self._moved()
        self._maybe_leave()

    def release(self, leases: Sequence[Lease], *, counted: bool = True) -> None:
        """Given back: they come again, behind what is out, until the delivery limit is passed."""
        for _, lease, message in leases:
            claim = self._by_number.get(lease >> OFFSET_BITS)
            if claim is None:
                continue
            offset = lease & OFFSET_MASK
            if offset not in claim.out:
                claim.settle(offset)
                continue
            count = claim.fail(offset) if counted else claim.counts.get(offset, 0)
            if self._limit is not None and count > self._limit:
                self._dead_letter(claim, offset, message, DELIVERY_LIMIT, count)
            else:
                claim.take_back(offset, message)
        self._moved()
        self._maybe_leave()

    def _dead_letter(self, claim: Claim, offset: int, message: Message, reason: str, attempts: int) -> None:
        """It is settled when it is in the topic for dead letters: in the same frame, or not at all."""
        dead_letters = self._dead_letter_topic
        if dead_letters is not None and not dead_letters.append(message, claim.index, offset, reason, attempts):
            claim.take_back(offset, message)
            if not self.is_stopping:
                self.scheduler.report(
                    f"consumer of stream '{self.name}' in vhost '{self.vhost}' is cancelled",
                    RuntimeError(f"topic '{dead_letters.name}' does not take its dead letters"),
                )
                self.close()
            return
        claim.settle(offset)
        if dead_letters is not None and self.membership is not None:
            self.membership.moved(at_once=True)

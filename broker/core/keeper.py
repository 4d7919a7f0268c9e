"""Keeps a queue to its rules: limits on its length, message TTL, delivery limits, dead letters.

A queue has one only if it has been told something, or while messages with an expiration are in it; the others do
without these checks. All of it happens within the turn that sets it off, so what leaves one log and enters another
does so in one frame.

When a message expires: at its due time, wherever it stands. A queue's own TTL runs out in the order of offsets, so a
bound suffices; for an `expiration` of its own, a message's offset waits in a bucket of its due time (eight octets).
What is delivered when its time runs out expires if it comes back.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from broker.core.cursor.lease import BATCH_MAX
from broker.core.deaths import DELIVERY_LIMIT, EXPIRED, MAXLEN
from broker.core.message import Message, has_expiration, redelivered
from protocol.amqp import content as wire
from protocol.amqp.fields import Long, encode_table, with_entries

if TYPE_CHECKING:
    from broker.core.queue import Queue
from broker.core.serving import Lease

BUCKET_MS = 50
"""Expirations are due in steps of this; the clock of the core moves in such steps too."""
EXPIRE_BATCH = 64
"""Each may have to be read from the log."""
TIMES_MAX = 2000
"""How many points in time are remembered of what came in: TTL is as precise as a thousandth of the backlog's age."""
_EXPIRATION = frozenset({"expiration"})
_HEADERS = frozenset({"headers"})


class Keeper:
    """The rules of one queue at work."""

    __slots__ = (
        "_buckets", "_due", "_expiring", "_overdue", "_retries", "_times", "deliveries", "queue", "ready_bytes",
        "ttl_floor",
    )  # fmt: skip

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.ready_bytes = 0
        """Octets of the bodies that are ready; kept only under a limit on them."""
        self.ttl_floor = 0
        """What is below has outlived the queue's TTL."""
        self.deliveries: dict[int, int] = queue.backlog.log.returns if queue.backlog is not None else {}
        self._times: deque[tuple[int, int]] = deque()  # (offset behind, wall clock) of what came in.
        self._due: list[int] = []  # A heap of the buckets.
        self._buckets: dict[int, array[int]] = {}
        self._overdue: set[int] = set()  # Due while leased.
        self._retries: dict[int, Message] = {}  # What waits for its next try.
        self._expiring = False

    # In.

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Messages come in, `accepts` was asked before."""
        queue = self.queue
        first = queue.append(messages)
        self.arrived(first, messages, queue.scheduler.wall_ms)
        rules = queue.rules
        if rules.length_bytes_max is not None:
            self.ready_bytes += sum(wire.body_size(content) for _, content in messages)
        if rules.limited:
            self._trim()

    def arrived(self, first: int, messages: Sequence[Message], wall_ms: int) -> None:
        """Note when these messages are due: they came in at `wall_ms`, now or before a restart."""
        if self._note(first, messages, wall_ms):
            self._serve()
            self.expire()

    def _note(self, first: int, messages: Sequence[Message], wall_ms: int) -> bool:
        """Note when these are due; whether some are at once."""
        now_ms = self.queue.scheduler.wall_ms
        ttl_ms = self.queue.rules.message_ttl_ms
        at_once = False
        if ttl_ms is not None:
            self._note_time(first + len(messages), wall_ms)
            at_once = wall_ms + ttl_ms <= now_ms
        for offset, (_, content) in enumerate(messages, first):
            due_ms = self.due_ms(content, wall_ms)
            if due_ms is not None:
                at_once = at_once or due_ms <= now_ms
                self._note_due(offset, due_ms)
        return at_once

    def due_ms(self, content: bytes, wall_ms: int) -> int | None:
        """When a message that came in at `wall_ms` is due by itself; None for never."""
        if not has_expiration(content):
            return None
        return wall_ms + int(wire.parse_properties(wire.header_payload(content), _EXPIRATION)["expiration"])

    def _note_time(self, end: int, wall_ms: int) -> None:
        times = self._times
        self.queue.scheduler.timed.add(self)
        if times and end < times[-1][0]:
            insort(times, (end, wall_ms))  # Brought back from the log, in front of what has come since.
        elif times and (times[-1][1] == wall_ms or (len(times) >= TIMES_MAX and self._is_close(wall_ms))):
            times[-1] = (end, wall_ms)
        else:
            times.append((end, wall_ms))

    def _is_close(self, wall_ms: int) -> bool:
        """Whether a point in time may be merged with the one before: what waits lives that much longer at most."""
        times = self._times
        return (wall_ms - times[-1][1]) * TIMES_MAX < wall_ms - times[0][1] + BUCKET_MS

    def _note_due(self, offset: int, due_ms: int) -> None:
        number = max(-(-due_ms // BUCKET_MS), 0)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = array("Q")
            heappush(self._due, number)
        bucket.append(offset)
        self.queue.scheduler.timed.add(self)

    def loaded(self, first: int, messages: Sequence[Message], wall_ms: int) -> None:
        """Messages of an earlier run are in memory again: what is due expires before anybody is served."""
        self._note(first, messages, wall_ms)
        while self.expire():
            continue

    def rules_changed(self) -> None:
        """Other rules are in force: for what is in the queue from now on."""
        queue = self.queue
        rules = queue.rules
        if rules.message_ttl_ms is not None and queue.cursor.ready_count and not self._times:
            self._note_time(queue.backlog.log.next_offset if queue.backlog else queue.cursor.tail_offset,
                            queue.scheduler.wall_ms)  # fmt: skip
        if rules.length_bytes_max is not None:
            self.ready_bytes = queue.count_ready_bytes()
        if rules.limited:
            self._trim()

    def accepts(self) -> bool:
        """Whether one more message may come in; what a consumer can take at once makes room first."""
        rules = self.queue.rules
        if not rules.rejects or not self._is_full():
            return True
        self._serve()
        return not self._is_full()

    def _is_full(self) -> bool:
        queue = self.queue
        length_max, bytes_max = queue.rules.length_max, queue.rules.length_bytes_max
        count, size = queue.cursor.ready_count, self.ready_bytes
        if queue.limbo is not None:
            count, size = count + len(queue.limbo), size + queue.limbo.body_bytes
        return (length_max is not None and count >= length_max) or (bytes_max is not None and size >= bytes_max)

    def _serve(self) -> None:
        """Let waiting consumers take what they can."""
        queue = self.queue
        while queue.levels and queue.hungry and queue.cursor.ready_count and not queue.held:
            queue.dispatch()

    def _trim(self) -> None:
        """Drop from the head until the limits are kept (RabbitMQ: drop-head; under the others only what came back)."""
        if not self._is_over():
            return
        self._serve()
        queue = self.queue
        length_max = queue.rules.length_max
        while self._is_over():
            over = queue.cursor.ready_count - length_max if length_max is not None else 0
            messages, offsets = queue.take(min(max(over, 1), BATCH_MAX))
            if not messages:
                return
            queue.drop(messages, offsets, MAXLEN)

    def _is_over(self) -> bool:
        rules = self.queue.rules
        length_max, bytes_max = rules.length_max, rules.length_bytes_max
        return (length_max is not None and self.queue.cursor.ready_count > length_max) or (
            bytes_max is not None and self.ready_bytes > bytes_max and self.queue.cursor.ready_count > 0
        )

    # Out.

    def taken(self, messages: Sequence[Message]) -> None:
        """These are no longer ready."""
        if self.queue.rules.length_bytes_max is not None:
            self.ready_bytes -= sum(wire.body_size(content) for _, content in messages)

    def untaken(self, message: Message) -> None:
        """It is ready again."""
        if self.queue.rules.length_bytes_max is not None:
            self.ready_bytes += wire.body_size(message[1])

    def settled(self, offsets: Sequence[int]) -> None:
        """These are done with."""
        if self.deliveries and self.queue.backlog is None:
            for offset in offsets:
                self.deliveries.pop(offset, None)
        if self._overdue:
            self._overdue.difference_update(offsets)

    def purged(self) -> None:
        """Nothing is ready any more."""
        self.ready_bytes = 0

    # Back.

    def released(self, leases: Sequence[Lease], *, counted: bool) -> list[tuple[int, Message]]:
        """Of leases that come back, those that may: as (offset, message) marked as redelivered. The others die here."""
        rules = self.queue.rules
        kept: list[tuple[int, Message]] = []
        dead: dict[str, list[tuple[int, Message]]] = {}
        for _, offset, message in leases:
            count = 0
            if counted and rules.counts_deliveries:
                count = self.deliveries.get(offset, 0) + 1
            if rules.delivery_limit is not None and count > rules.delivery_limit:
                dead.setdefault(DELIVERY_LIMIT, []).append((offset, message))
            elif offset < self.ttl_floor or offset in self._overdue:
                dead.setdefault(EXPIRED, []).append((offset, message))
            else:
                if count:
                    self._note_delivery(offset, count)
                    message = with_count(message, count)
                if count and rules.retry_min_ms:
                    self._retry_later(offset, redelivered(message), count)
                else:
                    kept.append((offset, redelivered(message)))
        for reason, pairs in dead.items():
            self.queue.drop([message for _, message in pairs], [offset for offset, _ in pairs], reason)
        if rules.length_bytes_max is not None:
            self.ready_bytes += sum(wire.body_size(message[1]) for _, message in kept)
        return kept

    def _note_delivery(self, offset: int, count: int) -> None:
        if self.queue.backlog is not None:
            self.queue.backlog.log.note_return(offset, count)
        self.deliveries[offset] = count

    def _retry_later(self, offset: int, message: Message, count: int) -> None:
        """It comes back after a while that grows; until then it is with nobody. After a restart it is ready."""
        rules = self.queue.rules
        self._retries[offset] = message
        self._note_due(offset, self.queue.scheduler.wall_ms + min(rules.retry_min_ms * count, rules.retry_max_ms))

    def returned(self) -> None:
        """Leases are back in their places."""
        if self.queue.rules.limited:
            self._trim()

    # Time.

    @property
    def timed(self) -> bool:
        """Whether anything in the queue may expire."""
        return bool(self._times or self._due)

    def tick(self) -> None:
        """Time has passed: expire what is due, in slices when that is much."""
        if not self.timed:
            self.queue.scheduler.timed.discard(self)
        elif not self._expiring and self.expire():
            self._expiring = True
            self.queue.scheduler.add_job(self._expire_on())

    def _expire_on(self) -> Iterator[int]:
        while not self.queue.deleted and self.expire():
            yield BATCH_MAX * 2
        self._expiring = False

    def expire(self) -> bool:
        """Expire a batch of what is due; whether there may be more."""
        queue = self.queue
        if queue.held or queue.deleted:
            return False
        now_ms = queue.scheduler.wall_ms
        more = self._expire_singly(now_ms)
        ttl_ms = queue.rules.message_ttl_ms
        if ttl_ms is None:
            self._times.clear()
            return more
        times = self._times
        while times and times[0][1] + ttl_ms <= now_ms:
            self.ttl_floor = times.popleft()[0]
        messages, offsets = queue.take_below(self.ttl_floor, BATCH_MAX)
        if messages:
            queue.drop(messages, offsets, EXPIRED)
        return more or bool(messages)

    def _expire_singly(self, now_ms: int) -> bool:
        due = self._due
        while due and due[0] * BUCKET_MS <= now_ms:
            bucket = self._buckets[due[0]]
            batch = sorted(bucket[:EXPIRE_BATCH])
            del bucket[:EXPIRE_BATCH]
            if not bucket:
                del self._buckets[heappop(due)]
            for offset in batch:
                self._expire_one(offset)
            return True
        return False

    def _expire_one(self, offset: int) -> None:
        queue = self.queue
        retry = self._retries.pop(offset, None)
        if retry is not None:
            queue.cursor.release(((offset, retry),))
            queue.wake()
            return
        message = queue.take_at(offset)
        if message is not None:
            queue.drop((message,), (offset,), EXPIRED)
        elif queue.is_leased(offset):
            self._overdue.add(offset)


def with_count(message: Message, count: int) -> Message:
    """The message with the header `x-delivery-count` (RabbitMQ: on redeliveries of quorum queues)."""
    origin, content = message
    octets = encode_table({})
    if content[19] & (wire.HEADERS >> 8):
        octets = wire.property_octets(content, "headers")
    return origin, wire.with_properties(content, {"headers": with_entries(octets, {"x-delivery-count": Long(count)})})

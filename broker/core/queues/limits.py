"""Keeps a queue to its rules: limits on its length, TTL, delivery limits, delayed retry, dead letters.

A queue has one only if it has been told something, or while messages with an expiration are in it; the others do
without these checks. What is dropped or dies in a step leaves one log and enters another in one frame; when it is
much, the rest follows in later slices. What is due when is `core.queues.expiry`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from broker.core.message import Message, has_expiration, memory_of, redelivered, with_delivery_count
from broker.core.queues.dispatch import Lease
from broker.core.queues.expiry import Expiry
from broker.core.queues.x_death import DELIVERY_LIMIT, EXPIRED, MAXLEN
from broker.core.scheduler import SLICE_UNITS
from broker.log.errors import StorageError
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError

if TYPE_CHECKING:
    from broker.core.queues.host import Host

RETRY_BYTES_MAX = 8 << 20
"""Octets of messages that wait for their next try in memory; those of others are read when they are due."""
READ_AGAIN_MS = 1000
_EXPIRATION = frozenset({"expiration"})


class _Retry(NamedTuple):
    """A message that waits for its next try; None: it is in the log only."""

    message: Message | None
    due_ms: int


def expiration_ms(content: bytes) -> int | None:
    """After how many ms a message is due by its own expiration; None for never."""
    if not has_expiration(content):
        return None
    try:
        return int(wire.parse_properties(wire.header_payload(content), _EXPIRATION)["expiration"])
    except (PeerError, ValueError):
        return None  # Every way in checks it; what was stored before they did must not end the broker.


class Limits:
    """The rules of one queue at work, the `Watcher` of its store."""

    __slots__ = (
        "_counts", "_known_end", "_look_number", "_retries", "_retry_bytes", "_trimming", "_unknown_end", "deliveries",
        "expiry", "queue", "ready_bytes",
    )  # fmt: skip

    def __init__(self, queue: Host) -> None:
        self.queue = queue
        self.expiry = Expiry(queue, self.wait_ms, self._come_back)
        self.ready_bytes = 0
        """Octets of the bodies that are ready; kept only under a limit on them."""
        log = queue.store.log
        self.deliveries: dict[int, int] = log.returns if log is not None else {}
        self._retries: dict[int, _Retry] = {}
        self._retry_bytes = 0  # Of those that are in memory.
        self._trimming = self._counts = False
        self._look_number = 0
        # What lies in [known_end, unknown_end) of the log, and not in memory, has not been looked at yet.
        self._known_end = self._unknown_end = 0

    def wait_ms(self, content: bytes) -> int | None:
        """After how many ms a message is due by itself; None for never."""
        return expiration_ms(content)

    # In.

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Messages come in, `accepts` was asked before."""
        queue = self.queue
        if self.expiry.is_pressing:
            self._die()  # Not what comes now: that goes to who waits, even if it may not wait itself.
        first = queue.store.append(messages)
        rules = queue.rules
        if rules.length_bytes_max is not None:
            self.ready_bytes += sum(wire.body_size(content) for _, content in messages)
        if self.expiry.note(first, messages, queue.scheduler.wall_ms):
            queue.serve()
            self._die()
        if rules.limited:
            self._trim(len(messages))

    def _die(self) -> None:
        """What is due dies now; when that is much, the rest before anybody is served."""
        self.expiry.urgent = True
        if self.expiry.expire():
            self.queue.scheduler.mark(self.queue)

    def rules_changed(self) -> None:
        """Other rules are in force, also for what is in the queue."""
        queue = self.queue
        self.expiry.rules_changed()
        counts = queue.rules.length_bytes_max is not None
        if counts and not self._counts:
            self.ready_bytes = sum(wire.body_size(content) for _, (_, content) in queue.store.ready_messages())
            self.look_through()
        self._counts = counts
        if queue.rules.limited:
            self._trim(0)

    # What a restart has left in the log.

    def resume(self) -> None:
        """The queue is back: go on with what is due. The limits are for what then is left."""
        queue = self.queue
        self._counts = queue.rules.length_bytes_max is not None
        if queue.has_expirations or self._counts:
            self.look_through()
        self.expiry.rules_changed()
        self.expiry.tick()
        if queue.rules.limited:
            queue.scheduler.add_job(self._trim_when_known())

    def _trim_when_known(self) -> Iterator[int]:
        queue = self.queue
        while not queue.deleted and (
            self.expiry.busy or (self._known_end < self._unknown_end and not queue.store.broken)
        ):
            yield SLICE_UNITS
        if not queue.deleted:
            self._trim(0)

    def look_through(self) -> None:
        """Find out in slices what lies in the log: how large it is, and what is due by itself."""
        unloaded = self.queue.store.unloaded_range
        if unloaded is not None:
            self._known_end, self._unknown_end = unloaded
            self.look_on()

    def look_on(self) -> None:
        """Go on with it, after the log could not be read."""
        if self._known_end < self._unknown_end:
            self._look_number += 1
            self.queue.scheduler.add_job(self._look(self._look_number))

    def _look(self, number: int) -> Iterator[int]:
        queue = self.queue
        store = queue.store
        try:
            for first, messages, wall_ms in store.scan(self._known_end):
                end = first + len(messages)
                # What was read in an earlier slice may have gone since, or be in memory.
                for start, stop in store.unloaded(max(first, self._known_end), end):
                    self._learn(start, messages[start - first : stop - first], wall_ms)
                self._known_end = max(self._known_end, end)
                yield len(messages)
                if queue.deleted or number != self._look_number:
                    return
            self._known_end = self._unknown_end
        except StorageError as error:
            where = f"{queue.place} cannot be read from offset {self._known_end} on"
            queue.scheduler.report(f"{where}: nothing there expires", error)
            self._known_end = self._unknown_end
        except OSError as error:
            store.cannot_read(error)

    def _learn(self, first: int, messages: Sequence[Message], wall_ms: int) -> None:
        self._known_end = max(self._known_end, first + len(messages))
        if self.queue.rules.length_bytes_max is not None:
            self.ready_bytes += sum(wire.body_size(content) for _, content in messages)
        if self.expiry.note_singly(first, messages, wall_ms):
            self._die()

    def loaded(self, first: int, messages: Sequence[Message], wall_ms: int) -> None:
        """Messages of an earlier run are in memory again."""
        due = self.expiry.note_age(first + len(messages), wall_ms)
        news = messages[max(self._known_end - first, 0) :]
        if news:
            end = first + len(messages)
            self._learn(end - len(news), news, wall_ms)
        if due:
            self.expiry.urgent = True
            self.queue.scheduler.mark(self.queue)

    def knows(self, offset: int) -> bool:
        """Whether the message is counted in `ready_bytes`; of one that is in the log only."""
        return not self._known_end <= offset < self._unknown_end

    # Limits.

    def accepts(self) -> bool:
        """Whether one more message may come in; what a consumer can take at once makes room first."""
        rules = self.queue.rules
        if not rules.rejects or not self._is_full():
            return True
        self.queue.serve()
        return not self._is_full()

    def _is_full(self) -> bool:
        queue = self.queue
        length_max, bytes_max = queue.rules.length_max, queue.rules.length_bytes_max
        count, size = queue.store.ready_count, self.ready_bytes
        if queue.at_least_once is not None:
            count, size = count + len(queue.at_least_once), size + queue.at_least_once.body_bytes
        return (length_max is not None and count >= length_max) or (bytes_max is not None and size >= bytes_max)

    def _is_over(self) -> bool:
        rules = self.queue.rules
        if rules.rejects:
            return False  # Nothing that was taken goes again, though returns make the queue too long (RabbitMQ).
        length_max, bytes_max = rules.length_max, rules.length_bytes_max
        count = self.queue.store.ready_count
        return count > 0 and (
            (length_max is not None and count > length_max) or (bytes_max is not None and self.ready_bytes > bytes_max)
        )

    def _trim(self, came: int) -> None:
        """Drop from the head until the limits are kept (drop-head).

        As much as came in, and a batch, goes at once; what a new limit or a return makes too much goes in slices.
        """
        queue = self.queue
        if queue.returning_count or not self._is_over():
            return  # What comes first is known when all returns are complete.
        queue.serve()
        at_once = came + queue.deaths_max
        while self._is_over() and at_once > 0:
            dropped = self._drop_some()
            if not dropped:
                return
            at_once -= dropped
        if self._is_over() and not self._trimming:
            self._trimming = True
            queue.scheduler.add_job(self._trim_on())

    def _trim_on(self) -> Iterator[int]:
        queue = self.queue
        while not queue.deleted and not queue.returning_count and self._is_over() and (dropped := self._drop_some()):
            yield dropped * queue.death_units
        self._trimming = False

    def _drop_some(self) -> int:
        queue = self.queue
        length_max = queue.rules.length_max
        over = queue.store.ready_count - length_max if length_max is not None else 0
        messages, offsets = queue.store.take(min(max(over, 1), queue.deaths_max))
        if not messages and queue.store.must_load:
            messages, offsets = queue.store.take(min(max(over, 1), queue.deaths_max))
        queue.drop(messages, offsets, MAXLEN)
        return len(messages)

    # Out.

    def taken(self, messages: Sequence[Message]) -> None:
        """These are no longer ready."""
        if self.queue.rules.length_bytes_max is not None:
            self.ready_bytes -= sum(wire.body_size(content) for _, content in messages)

    def settled(self, offsets: Sequence[int]) -> None:
        """These are done with."""
        if self.deliveries and self.queue.store.log is None:
            for offset in offsets:
                self.deliveries.pop(offset, None)
        self.expiry.settled(offsets)

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
            elif self.expiry.is_over(offset):
                dead.setdefault(EXPIRED, []).append((offset, message))
            else:
                if count:
                    self._note_delivery(offset, count)
                    message = with_delivery_count(message, count)
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
        log = self.queue.store.log
        if log is not None:
            log.note_return(offset, count)
        self.deliveries[offset] = count

    def _retry_later(self, offset: int, message: Message, count: int) -> None:
        """It comes back after a while that grows; until then it is with nobody. After a restart it is ready."""
        rules = self.queue.rules
        self._put_down(offset, message, min(rules.retry_min_ms * count, rules.retry_max_ms))

    def _put_down(self, offset: int, message: Message | None, pause_ms: int) -> None:
        if message is not None:
            if self._retry_bytes >= RETRY_BYTES_MAX and self.queue.store.keeps(message):
                message = None
            else:
                self._retry_bytes += memory_of(message)
        scheduler = self.queue.scheduler
        due_ms = scheduler.after(scheduler.wall_ms, pause_ms)
        self._retries[offset] = _Retry(message, due_ms)
        self.expiry.put_down(offset, due_ms)
        aged_ms = self.expiry.due_by_age(offset)
        if aged_ms is not None and aged_ms <= due_ms:
            self.expiry.put_down(offset, aged_ms)

    def _come_back(self, offsets: list[int], now_ms: int) -> list[int]:
        """Offsets (ascending) are due; returns those that do not wait for their next try."""
        if not self._retries:
            return offsets
        queue = self.queue
        due = [(offset, self._retries.pop(offset)) for offset in offsets if offset in self._retries]
        twice = {
            offset for offset, other in pairwise(offsets) if offset == other
        }  # Expires just when it is to be tried.
        read = dict(queue.store.read_each([offset for offset, retry in due if retry.message is None]))
        back: list[tuple[int, Message]] = []
        for offset, retry in due:
            if retry.message is not None:
                self._retry_bytes -= memory_of(retry.message)
            message = retry.message or read.get(offset)
            if message is None:
                self._put_down(offset, None, READ_AGAIN_MS)  # It cannot be read now.
            elif now_ms < retry.due_ms or offset in twice or self.expiry.is_over(offset):
                # Its own expiration, or the queue's TTL, has run out before.
                queue.drop((message,), (offset,), EXPIRED)
            else:
                back.append((offset, redelivered(message)))
        if back:
            queue.store.release(back)
            if queue.rules.length_bytes_max is not None:
                self.ready_bytes += sum(wire.body_size(content) for _, (_, content) in back)
            self.returned()
            queue.wake()
        tried = {offset for offset, _ in due}
        return [offset for offset in offsets if offset not in tried]

    @property
    def retries(self) -> Iterator[tuple[int, Message | None]]:
        """(offset, message) of what waits for its next try; None for a message that is in the log only."""
        return ((offset, retry.message) for offset, retry in self._retries.items())

    def returned(self) -> None:
        """Leases are back in their places."""
        if self.queue.rules.limited:
            self._trim(0)

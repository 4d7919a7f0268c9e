"""Messages that die of age: by the queue's TTL, by an expiration of their own, or (a delayed exchange) by a delay.

At its due time, wherever it stands (RabbitMQ waits until it is at the head). A queue's own TTL runs out in the order
of offsets, so points in time with an offset each suffice; what is due by itself waits in a timer wheel. What is with a
consumer when its time runs out dies if it comes back.

Whoever hands messages out asks first whether something `is_pressing`, so what is due is given to nobody; when nobody
asks, the scheduler wakes this at `due_ms`. Dying in numbers is work for several slices, as a job.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from broker.core.message import Message
from broker.core.queues.timer_wheel import NEVER_MS, TimerWheel
from broker.core.queues.x_death import EXPIRED
from broker.log.ackset import AckSet

if TYPE_CHECKING:
    from broker.core.queues.host import Host

TIMES_MAX = 2000
"""How many points in time are remembered of what came in: TTL is as precise as a thousandth of the backlog's age."""
GRAIN_MS, GRAINS = 4, 16
"""What came in within so many ms, or within this part of the TTL, shares a point: as if all had come with the last."""
RETRY_MS = 1000

WaitOf = Callable[[bytes], "int | None"]
"""(content) -> after how many ms it is due by itself, None for never."""


class Expiry:
    """The ages of one queue's messages. `come_back` gets offsets that are due, returns those that it does not know."""

    __slots__ = (
        "_come_back", "_done", "_load_at_ms", "_overdue", "_queue", "_running", "_table", "_times", "_wait_of",
        "due_ms", "floor", "urgent",
    )  # fmt: skip

    def __init__(self, queue: Host, wait_of: WaitOf, come_back: Callable[[list[int], int], list[int]]) -> None:
        self._queue = queue
        self._wait_of = wait_of
        self._come_back = come_back
        self._times: list[tuple[int, int]] = []  # (offset behind, wall clock), ascending, of what came in.
        self._table = TimerWheel()
        self._overdue: set[int] = set()  # Due while leased.
        self._done: AckSet | None = None  # What is settled, of a queue without a log.
        self._load_at_ms: int | None = None  # When the first message that is not in memory may be due.
        self._running = False
        self.floor = 0
        """What is below has outlived the queue's TTL."""
        self.due_ms = NEVER_MS
        """When the next one falls due, of those that were not due when they were noted; wall clock."""
        self.urgent = False
        """Something is due that was not noticed in time: it has to die before anybody is served."""

    # What comes in.

    def note(self, first: int, messages: Sequence[Message], wall_ms: int) -> bool:
        """These messages came in at `wall_ms`; whether some of them are due at once."""
        due = self.note_age(first + len(messages), wall_ms)
        return self.note_singly(first, messages, wall_ms) or due

    def note_age(self, end: int, wall_ms: int) -> bool:
        """What is before `end` came in at `wall_ms` or before; whether it has outlived the queue's TTL."""
        ttl_ms = self._queue.rules.message_ttl_ms
        if ttl_ms is None:
            return False
        self._note_time(end, wall_ms)
        scheduler = self._queue.scheduler
        due_ms = scheduler.after(wall_ms, ttl_ms)
        if due_ms <= scheduler.wall_ms:
            return True
        if due_ms < self.due_ms:
            self._arm(due_ms)
        return False

    def note_singly(self, first: int, messages: Sequence[Message], wall_ms: int) -> bool:
        """Note which of these messages are due by themselves; whether some are already."""
        is_due = False
        wait_of, after = self._wait_of, self._queue.scheduler.after
        now_ms = self._queue.scheduler.wall_ms
        for offset, (_, content) in enumerate(messages, first):
            wait_ms = wait_of(content)
            if wait_ms is not None:
                due_ms = after(wall_ms, wait_ms)
                self._write_down(offset, due_ms)
                if due_ms <= now_ms:
                    is_due = True
                elif due_ms < self.due_ms:
                    self._arm(due_ms)
        return is_due

    def _note_time(self, end: int, wall_ms: int) -> None:
        times = self._times
        # What is brought back from the log stands in front of what has come since.
        index = bisect_left(times, (end, 0)) if times and end <= times[-1][0] else len(times)
        if index < len(times) and times[index][0] == end:
            times[index] = (end, min(wall_ms, times[index][1]))
        elif index and self._is_close(times[index - 1][1], wall_ms):
            times[index - 1] = (end, wall_ms)
        else:
            times.insert(index, (end, wall_ms))

    def _is_close(self, before_ms: int, wall_ms: int) -> bool:
        """Whether a point in time may be merged with the one before: what waits lives that much longer at most."""
        times = self._times
        grain_ms = max(min(GRAIN_MS, (self._queue.rules.message_ttl_ms or 0) // GRAINS), 1)
        if len(times) >= TIMES_MAX:
            grain_ms = max((times[-1][1] - times[0][1]) // TIMES_MAX, grain_ms)
        return before_ms // grain_ms == wall_ms // grain_ms

    def put_down(self, offset: int, due_ms: int) -> None:
        """Look at the offset again at `due_ms`."""
        self._write_down(offset, due_ms)
        if due_ms < self.due_ms:
            self._arm(due_ms)

    def _write_down(self, offset: int, due_ms: int) -> None:
        queue = self._queue
        if self._done is None and queue.store.log is None:
            self._done = AckSet(offset)
        self._table.add(offset, due_ms, queue.scheduler.wall_ms)

    def due_by_age(self, offset: int) -> int | None:
        """When an offset will have outlived the queue's TTL, as far as that is known; None for never."""
        ttl_ms = self._queue.rules.message_ttl_ms
        index = bisect_right(self._times, offset, key=itemgetter(0))
        return (
            None
            if ttl_ms is None or index == len(self._times)
            else self._queue.scheduler.after(self._times[index][1], ttl_ms)
        )

    def rules_changed(self) -> None:
        """A TTL is in force, or another, or none: it counts from now on for what came without one."""
        queue = self._queue
        ttl_ms = queue.rules.message_ttl_ms
        store = queue.store
        if ttl_ms is not None and not self._times and store.ready_count:
            self._note_time(store.end_offset, queue.scheduler.wall_ms)
            if store.begins_in_log:
                came_ms = store.first_unloaded_ms()
                if came_ms is not None:
                    self._load_at_ms = queue.scheduler.after(came_ms, ttl_ms)
        self._look_ahead()

    # What goes.

    def settled(self, offsets: Sequence[int]) -> None:
        """These are done with."""
        if self._overdue:
            self._overdue.difference_update(offsets)
        if self._done is not None:
            if isinstance(offsets, range):
                self._done.add(offsets.start, offsets.stop)
            else:
                for offset in offsets:
                    self._done.add(offset, offset + 1)

    def is_over(self, offset: int) -> bool:
        """Whether a lease of this offset that comes back is too old to be ready again."""
        return offset < self.floor or offset in self._overdue

    def _is_leased(self, offset: int) -> bool:
        """Whether the offset is with somebody; of one that is not ready."""
        store = self._queue.store
        log = store.log
        settled = log.settled if log is not None else self._done
        return bool(store.leased_count) and settled is not None and offset not in settled

    # Time.

    @property
    def busy(self) -> bool:
        """Whether something is dying, in slices."""
        return self._running or self.urgent

    @property
    def is_pressing(self) -> bool:
        """Whether something is due, so that `expire` has to be called before anybody is served."""
        return self.urgent or self.due_ms <= self._queue.scheduler.wall_ms

    def tick(self) -> None:
        """It is time to look whether something is due."""
        queue = self._queue
        if queue.deleted or self._running:
            return
        self._pass_by()
        self._look_ahead()
        if self.due_ms <= queue.scheduler.wall_ms:
            self._running = True
            queue.scheduler.add_job(self._run())

    def _pass_by(self) -> None:
        """Drop points in time that only concern what is no longer there, as in a queue that keeps up."""
        queue, times = self._queue, self._times
        first = queue.store.front_offset
        if first is None:
            return
        is_leased = queue.store.leased_count > 0
        over = self._over_count(queue.scheduler.wall_ms) if is_leased else len(times)
        count = 0
        while count < over and times[count][0] <= first:
            count += 1
        if count:
            if is_leased:
                self.floor = max(self.floor, times[count - 1][0])
            del times[:count]

    def _over_count(self, now_ms: int) -> int:
        """How many points in time are as old as the queue's TTL."""
        ttl_ms = self._queue.rules.message_ttl_ms
        if ttl_ms is None:
            return 0
        times, after = self._times, self._queue.scheduler.after
        over = 0
        while over < len(times) and after(times[over][1], ttl_ms) <= now_ms:
            over += 1
        return over

    def _arm(self, due_ms: int) -> None:
        """Something is due then, before all others."""
        self.due_ms = due_ms
        if not self._queue.deleted:
            self._queue.scheduler.timed.ask(self, due_ms)

    def _look_ahead(self) -> None:
        """Find out when the next one falls due."""
        queue = self._queue
        ttl_ms = queue.rules.message_ttl_ms
        due_ms = self._table.next_ms
        if ttl_ms is None:
            self._times.clear()
        elif self._times:
            due_ms = min(due_ms, queue.scheduler.after(self._times[0][1], ttl_ms))
        if self._load_at_ms is not None:
            due_ms = min(due_ms, self._load_at_ms)
        self.due_ms = due_ms
        if due_ms < NEVER_MS and not queue.deleted:
            # What is due and cannot go yet, since returns are in progress, is asked for again.
            queue.scheduler.timed.ask(self, max(due_ms, queue.scheduler.wall_ms + 1))

    def _run(self) -> Iterator[int]:
        queue = self._queue
        while self.expire():
            yield queue.death_units * queue.deaths_max
        self._running = False
        self._look_ahead()

    def expire(self) -> bool:
        """Let a batch of what is due die; whether there may be more."""
        queue = self._queue
        if queue.returning_count or queue.deleted:
            return False
        now_ms = queue.scheduler.wall_ms
        more = self._load_overdue(now_ms) or self._expire_singly(now_ms) or self._expire_by_age(now_ms)
        self.urgent = self.urgent and more
        self._look_ahead()
        return more

    def _load_overdue(self, now_ms: int) -> bool:
        """Bring back what may be due and is in the log only: how old it is, is known when it is here."""
        if self._load_at_ms is None or self._load_at_ms > now_ms:
            return False
        self._load_at_ms = None
        store = self._queue.store
        if store.begins_in_log and not store.broken:
            store.load()
        return True

    def _expire_by_age(self, now_ms: int) -> bool:
        queue, times = self._queue, self._times
        ttl_ms = queue.rules.message_ttl_ms
        if ttl_ms is None:
            return False
        if queue.store.must_load:
            return queue.store.load() > 0  # How old it is, is known when it is here.
        over = self._over_count(now_ms)
        if over:
            self.floor = max(self.floor, times[over - 1][0])
            del times[:over]
        messages, offsets = queue.store.take_below(self.floor, queue.deaths_max)
        if messages:
            queue.drop(messages, offsets, EXPIRED)
        return bool(messages) or queue.store.must_load

    def _expire_singly(self, now_ms: int) -> bool:
        if not self._table.is_due(now_ms):
            return False
        queue = self._queue
        offsets = self._come_back(self._table.take(now_ms, queue.deaths_max), now_ms)
        dying = queue.store.take_each(offsets)
        if len(dying) < len(offsets):
            taken = {offset for offset, _ in dying}
            for offset in offsets:
                if offset in taken:
                    continue
                if queue.store.broken:
                    self.put_down(offset, now_ms + RETRY_MS)
                elif self._is_leased(offset):
                    self._overdue.add(offset)
        if dying:
            queue.drop([message for _, message in dying], [offset for offset, _ in dying], EXPIRED)
        return True

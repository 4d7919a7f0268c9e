"""Hot path. What is to be done after a turn: queues to dispatch, garbage to free, long jobs to continue.

Budget: 0.3 µs per queue visited; held by `jackalope bench amqp` (row fanout10). The core never awaits, so anything
that may be long is cut here into slices; whoever drives the broker (the poller, the ticker, a test) calls `run_slice`
until `busy` is false, and lets others run in between. Knows nothing of sockets or clocks: work is counted in units
(one message enqueued, delivered, settled or freed is about one microsecond).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from broker.core.wakeups import Wakeups

SLICE_UNITS = 1000
"""About a millisecond: what one connection may cost the others before they get their turn."""
FREE_SLICE = 2000
"""Messages freed in one slice."""
WOKEN_AT_ONCE, WAKE_UNITS = 50, 20
"""So many of those whose time has come are told of it in one step, and what that costs each."""


def _raise(_: str, error: Exception) -> None:
    raise error


class Dispatchable(Protocol):
    """A queue, as the scheduler sees it."""

    dirty: bool

    def dispatch(self) -> int:
        """Hand out a batch; returns the units of work done."""
        ...


class Timed(Protocol):
    """Something with due times."""

    def __hash__(self) -> int:
        """Each is one of its kind."""

    def tick(self) -> None:
        """The time that it has asked for has come, or one before that."""


class Scheduler:
    """Everything that waits for a later slice, and what time it is: whoever drives it moves `wall_ms` and `now_ms`."""

    __slots__ = (
        "_jobs", "_trash", "_waking", "clock_error_ms", "dirty", "now_ms", "report", "timed", "timers", "wall_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.wall_ms = 0
        """The wall clock, for what has an age: messages."""
        self.now_ms = 0
        """A clock that never jumps, for what has a timeout."""
        self.clock_error_ms = 0
        """How much less than the clocks' difference may have passed: 1 where they are read, in whole milliseconds."""
        self.report: Callable[[str, Exception], None] = _raise
        """What has gone wrong with one queue and is to be told to an operator: (what it means, why)."""
        self.timed: Wakeups[Timed] = Wakeups()
        """Whoever has something that falls due by the wall clock."""
        self.timers: Wakeups[Timed] = Wakeups()
        """Whoever has something that falls due by the clock that never jumps."""
        self._waking = False
        self.dirty: deque[Dispatchable] = deque()
        self._jobs: deque[Iterator[int]] = deque()
        self._trash: deque[deque[Any]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a slice has anything to do."""
        return bool(self.dirty or self._jobs or self._trash)

    def mark(self, queue: Dispatchable) -> None:
        """The queue has messages and may have takers."""
        if not queue.dirty:
            queue.dirty = True
            self.dirty.append(queue)

    def add_job(self, job: Iterator[int]) -> None:
        """A generator that yields the units each of its steps cost; steps are to stay under a millisecond."""
        self._jobs.append(job)

    def after(self, began_ms: int, wait_ms: int) -> int:
        """When `wait_ms` are surely over that began at `began_ms` of a clock; what need not wait is due at once."""
        return began_ms + wait_ms + self.clock_error_ms if wait_ms else began_ms

    def tick(self) -> None:
        """Time has passed: tell who has waited for it, when there are many in slices."""
        if not self._waking and self._wake_some():
            self._waking = True
            self.add_job(self._wake_on())

    def _wake_on(self) -> Iterator[int]:
        while self._wake_some():
            yield WOKEN_AT_ONCE * WAKE_UNITS
        self._waking = False

    def _wake_some(self) -> bool:
        """Whether there may be more."""
        for _ in range(WOKEN_AT_ONCE):
            one = self.timed.take(self.wall_ms)
            if one is None:
                one = self.timers.take(self.now_ms)
            if one is None:
                return False
            one.tick()
        return True

    def discard(self, messages: Sequence[Any]) -> None:
        """Free a large collection in slices: dropping a million messages at once would hold the loop for 100 ms."""
        if len(messages) > FREE_SLICE:
            self._trash.append(messages if isinstance(messages, deque) else deque(messages))

    def dispatch(self, units: int = SLICE_UNITS) -> int:
        """Let dirty queues hand out messages until `units` are used up; returns what is left of them."""
        dirty = self.dirty
        while dirty and units > 0:
            queue = dirty.popleft()
            queue.dirty = False
            units -= queue.dispatch()
        return units

    def run_slice(self) -> None:
        """One slice of everything that waits, in this order, each with the units that those before it have left:

        1. Marked queues hand out, in the order in which they were marked: consumers wait for nothing else.
        2. Long jobs go on, a step each in rounds, so that a short one does not wait for the end of a long one.
        3. Garbage is freed, which nobody waits for.
        """
        units = self.dispatch()
        while self._jobs and units > 0:
            job = self._jobs[0]
            try:
                units -= next(job)
            except StopIteration:
                self._jobs.popleft()
            else:
                self._jobs.rotate(-1)
        if self._trash and units > 0:
            heap = self._trash[0]
            if len(heap) <= FREE_SLICE:
                self._trash.popleft()
            else:
                for _ in islice(iter(heap.popleft, self), FREE_SLICE):
                    pass

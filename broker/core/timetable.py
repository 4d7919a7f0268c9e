"""When offsets fall due: a bucket for each step of the clock, and wider ones for what is far away. Pure.

Eight octets for an offset that is due within a minute or so, sixteen beyond. What is far away is kept by *window*
(`WINDOW_STEPS` steps of `STEP_MS`), with its step beside it, and goes to its bucket before its window begins: so
messages that expire next week do not need a bucket each.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush

STEP_MS = 50
"""Offsets are due in steps of this; the clock of the core moves in such steps too."""
WINDOW_STEPS = 1024
MOVE_MAX = 1024
"""Offsets that are moved out of a window at once."""


def step_of(due_ms: int) -> int:
    """The first step of the clock at which something due at `due_ms` is due."""
    return max(-(-due_ms // STEP_MS), 0)


class _Buckets:
    """Numbered arrays of unsigned integers, the lowest number first."""

    __slots__ = ("_by_number", "_order")

    def __init__(self) -> None:
        self._by_number: dict[int, array[int]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def get(self, number: int) -> array[int]:
        """The bucket, new if need be."""
        bucket = self._by_number.get(number)
        if bucket is None:
            bucket = self._by_number[number] = array("Q")
            heappush(self._order, number)
        return bucket

    @property
    def lowest(self) -> int:
        """The lowest number; there has to be one."""
        return self._order[0]

    def take(self, count: int) -> array[int]:
        """Up to `count` integers of the lowest bucket, in the order in which they came."""
        bucket = self._by_number[self._order[0]]
        some = bucket[:count]
        del bucket[:count]
        if not bucket:
            del self._by_number[heappop(self._order)]
        return some


class Timetable:
    """Offsets by due time. Times are wall clock, in ms."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        self._near = _Buckets()  # By step: offsets.
        self._far = _Buckets()  # By window: offset, step, offset, step ...

    def __bool__(self) -> bool:
        return bool(self._near or self._far)

    def add(self, offset: int, due_ms: int, now_ms: int) -> None:
        """The offset is due at `due_ms`; one may be added several times."""
        step = step_of(due_ms)
        window = step // WINDOW_STEPS
        if window > _current_window(now_ms) + 1:
            self._far.get(window).extend((offset, step))
        else:
            self._near.get(step).append(offset)

    def is_due(self, now_ms: int) -> bool:
        """Whether `take` has something to do."""
        near, far = self._near, self._far
        return bool((near and near.lowest * STEP_MS <= now_ms) or (far and far.lowest <= _current_window(now_ms) + 1))

    def take(self, now_ms: int, count: int) -> tuple[int, list[int]]:
        """Remove up to `count` offsets that are due: (their step, the offsets in ascending order).

        None of them with `is_due` still true means: ask again.
        """
        far, near = self._far, self._near
        if far and far.lowest <= _current_window(now_ms) + 1:
            some = far.take(2 * MOVE_MAX)
            for offset, step in zip(some[::2], some[1::2], strict=True):
                near.get(step).append(offset)
        elif near and near.lowest * STEP_MS <= now_ms:
            step = near.lowest
            return step, sorted(near.take(count))
        return 0, []


def _current_window(now_ms: int) -> int:
    return now_ms // STEP_MS // WINDOW_STEPS

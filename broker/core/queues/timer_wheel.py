"""When offsets fall due: a bucket for each millisecond, and wider ones for what is farther away. Pure.

Eight octets for an offset that is due within a second or two, sixteen beyond. What is farther away is kept by *window*
(`WIDTHS_MS`: of a second, of a minute), with its due time beside it, and goes to narrower buckets before its window
begins: so messages that expire next week do not need a bucket each.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush

WIDTHS_MS = (1 << 10, 1 << 16)
"""Of the windows. The narrowest that are used: this one and the next of the first width have a bucket a millisecond."""
MOVE_MAX = 1024
"""Offsets that are moved out of a window at once."""
NEVER_MS = 1 << 62


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


class TimerWheel:
    """Offsets by due time, in ms of one clock."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        self._near = _Buckets()  # By due time: offsets.
        self._far = [(width, _Buckets()) for width in WIDTHS_MS]  # By window: offset, due time, offset, due time ...

    def __bool__(self) -> bool:
        return bool(self._near) or any(buckets for _, buckets in self._far)

    def add(self, offset: int, due_ms: int, now_ms: int) -> None:
        """The offset is due at `due_ms`; one may be added several times."""
        due_ms = max(due_ms, 0)
        found = self._near
        for width, buckets in self._far:
            if due_ms // width <= now_ms // width + 1:
                break
            found = buckets
            window = due_ms // width
        if found is self._near:
            found.get(due_ms).append(offset)
        else:
            found.get(window).extend((offset, due_ms))

    @property
    def next_ms(self) -> int:
        """When `take` has something to do next, since something is due then or is to be moved; NEVER_MS for never."""
        next_ms = self._near.lowest if self._near else NEVER_MS
        for width, buckets in self._far:
            if buckets:
                next_ms = min(next_ms, (buckets.lowest - 1) * width)
        return next_ms

    def is_due(self, now_ms: int) -> bool:
        """Whether `take` has something to do."""
        return self.next_ms <= now_ms

    def take(self, now_ms: int, count: int) -> list[int]:
        """Remove up to `count` offsets that are due, those due first; returns them in ascending order.

        None of them with `is_due` still true means: ask again.
        """
        for width, buckets in reversed(self._far):
            if buckets and (buckets.lowest - 1) * width <= now_ms:
                some = buckets.take(2 * MOVE_MAX)
                for offset, due_ms in zip(some[::2], some[1::2], strict=True):
                    self.add(offset, due_ms, now_ms)
                if buckets and (buckets.lowest - 1) * width <= now_ms:
                    return []  # There are more, which may be due before those that were moved.
        near = self._near
        found: list[int] = []
        while near and near.lowest <= now_ms and len(found) < count:
            found.extend(near.take(count - len(found)))
        found.sort()
        return found

"""When each of many things wants to be looked at next: a heap in which old entries stay until they come up. Pure.

Asking for a later time costs nothing: the caller finds out when the earlier one comes. So whatever is put off all the
time, as sessions are by heartbeats, is touched once a time-out and not once a heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

_SLACK = 64
"""Entries beyond twice what is needed, before the heap is made anew."""
K = TypeVar("K", bound=Hashable)


class Wakeups(Generic[K]):
    """By name, or by whatever else has a hash. Each has one time at most: the earliest that was asked for since it last
    came up."""

    __slots__ = ("_due", "_heap", "_number", "on_earlier")

    def __init__(self) -> None:
        self._due: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []  # (when, a number so that names are never compared, which).
        self._number = 0
        self.on_earlier: Callable[[int], None] | None = None
        """Told of a time that is before all others: whoever sleeps until the next one has to get up earlier."""

    def __len__(self) -> int:
        return len(self._heap)

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def next_ms(self) -> int | None:
        """When something comes up; None for never."""
        heap, due = self._heap, self._due
        while heap and due.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def ask(self, name: K, due_ms: int) -> None:
        """It is to come up then, or before if that was asked for."""
        if due_ms >= self._due.get(name, due_ms + 1):
            return
        heap = self._heap
        is_first = not heap or due_ms < heap[0][0]
        self._due[name] = due_ms
        self._number += 1
        heappush(heap, (due_ms, self._number, name))
        self._tidy()
        if is_first and self.on_earlier is not None:
            self.on_earlier(due_ms)

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [(due_ms, number, name) for number, (name, due_ms) in enumerate(self._due.items())]
            self._number = len(self._heap)
            heapify(self._heap)

    def forget(self, name: K) -> None:
        """It does not come up any more."""
        if self._due.pop(name, None) is not None:
            self._tidy()

    def take(self, now_ms: int) -> K | None:
        """One that is due, and has no time any more; None if there is none."""
        due_ms = self.next_ms
        if due_ms is None or due_ms > now_ms:
            return None
        name = heappop(self._heap)[2]
        del self._due[name]
        return name

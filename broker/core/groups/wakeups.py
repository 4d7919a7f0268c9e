"""When each of many things wants to be looked at next: a heap in which old entries stay until they come up. Pure.

Asking for a later time costs nothing: the caller finds out when the earlier one comes. So whatever is put off all the
time, as sessions are by heartbeats, is touched once a time-out and not once a heartbeat.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_SLACK = 64
"""Entries beyond twice what is needed, before the heap is made anew."""


class Wakeups:
    """By name. A name has one time at most: the earliest that was asked for since it last came up."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ms(self) -> int | None:
        """When something comes up; None for never."""
        heap, due = self._heap, self._due
        while heap and due.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def ask(self, name: str, due_ms: int) -> None:
        """It is to come up then, or before if that was asked for."""
        if due_ms >= self._due.get(name, due_ms + 1):
            return
        self._due[name] = due_ms
        heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [(due_ms, name) for name, due_ms in self._due.items()]
            heapify(self._heap)

    def forget(self, name: str) -> None:
        """It does not come up any more."""
        self._due.pop(name, None)

    def take(self, now_ms: int) -> str | None:
        """One that is due, and has no time any more; None if there is none."""
        due_ms = self.next_ms
        if due_ms is None or due_ms > now_ms:
            return None
        name = heappop(self._heap)[1]
        del self._due[name]
        return name

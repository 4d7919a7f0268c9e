"""Pledges: who has to be told that something is committed, and is told when it is.

Confirms, replies to declares and commits, answers to producers and administrators, waiting readers and superseded
group offsets all wait for the same event. Each of them is a `Pledge` over everything that was done before it was given;
`Pledges` keeps them in the order in which they were given and calls `kept` once on each: `kept(True)` in the turn in
which that is committed, `kept(False)` when it never will be.

On a single node a frame that is synced is committed. A pledge is therefore a frame number, and what is committed is a
prefix of what was pledged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import ClassVar


class Pledge(ABC):
    """Something that will be committed, or will fail. Subclasses say who is told, and how."""

    __slots__ = ("frame",)

    is_urgent: ClassVar[bool] = True
    """Whether somebody waits: the frame then goes as soon as the disk is free, even if nothing is in it. What is not
    urgent goes along with the next frame that is written."""

    frame: int
    """The frame that has to be durable."""

    @abstractmethod
    def kept(self, committed: bool) -> None:
        """Called once, when what was pledged is committed or will never be."""


class Pledges:
    """All pledges of a store that are neither kept nor broken, in the order of their frames."""

    __slots__ = ("_given", "urgent_count", "urgent_frame")

    def __init__(self) -> None:
        self._given: deque[Pledge] = deque()
        self.urgent_count = 0
        """How many urgent pledges wait."""
        self.urgent_frame = 0
        """The last frame that somebody waits for; it is cut although it may stay empty."""

    @property
    def last_frame(self) -> int:
        """The frame of the last pledge; 0 if there is none."""
        return self._given[-1].frame if self._given else 0

    def add(self, pledge: Pledge, frame: int) -> None:
        """Keep the pledge when the frame is committed; it must not be one before `last_frame`."""
        pledge.frame = frame
        if pledge.is_urgent:
            self.urgent_frame = frame
            self.urgent_count += 1
        self._given.append(pledge)

    def committed(self, frame: int) -> int:
        """Keep every pledge up to `frame`. Returns how many of them were urgent."""
        given = self._given
        before = self.urgent_count
        while given and given[0].frame <= frame:
            pledge = given.popleft()
            self.urgent_count -= pledge.is_urgent
            pledge.kept(True)
        return before - self.urgent_count

    def failed(self) -> None:
        """Break every pledge: nothing that is not committed by now will ever be."""
        given = self._given
        while given:
            pledge = given.popleft()
            self.urgent_count -= pledge.is_urgent
            pledge.kept(False)

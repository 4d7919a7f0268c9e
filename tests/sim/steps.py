"""How long the steps of a scenario hold the loop, counted in work, so that the answer is the same on any machine.

A step's work is the lines of Python it runs (a line of a loop counts each time round, the body of a comprehension or a
generator as well), plus what it gives back or takes of memory at one blow: the allocator's blocks, since what the
interpreter does in C for a million objects at once (freeing a list, copying a dict) runs no line at all.
"""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

LINES_MAX = 150_000
"""No step of the broker may run more lines, which take 3 to 10 ms on the machines of 2026. The steps tested here run
4,000 to 103,000; without slices the least of them runs 270,000."""
BLOCKS_MAX = 150_000
"""Objects by which memory may grow or shrink in one step: freeing so many takes 5 to 10 ms."""


class StepCounter:
    """Counts the work of steps, and keeps the longest."""

    def __init__(self) -> None:
        self.lines_worst = 0
        self.blocks_worst = 0
        self._lines = 0

    def run(self, step: Callable[..., Any], *arguments: Any) -> None:
        """Take one step."""
        self._lines = 0
        before = sys.gettrace()
        blocks = sys.getallocatedblocks()
        sys.settrace(self._called)
        try:
            step(*arguments)
        finally:
            sys.settrace(before)
        self.blocks_worst = max(self.blocks_worst, abs(sys.getallocatedblocks() - blocks))
        self.lines_worst = max(self.lines_worst, self._lines)

    @property
    def lines(self) -> int:
        """The lines of the last step."""
        return self._lines

    def run_while_busy(self, scheduler: Any) -> None:
        """Take every slice that waits."""
        while scheduler.busy:
            self.run(scheduler.run_slice)

    def _called(self, _frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        self._lines += 1
        return self._traced

    def _traced(self, _frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        self._lines += 1
        return self._traced


def lines_of(step: Callable[..., Any], *arguments: Any) -> int:
    """How many lines of Python something takes, on any machine. What it raises is raised."""
    counter = StepCounter()
    counter.run(step, *arguments)
    return counter.lines


def assert_short_steps(scenario: Callable[[StepCounter], None]) -> None:
    """No step of the scenario does more work than LINES_MAX and BLOCKS_MAX allow."""
    counter = StepCounter()
    gc.collect()
    gc.disable()  # What others have left behind is no work of these steps.
    try:
        scenario(counter)
    finally:
        gc.enable()
    assert counter.lines_worst < LINES_MAX, f"a step runs {counter.lines_worst} lines of Python"
    assert counter.blocks_worst < BLOCKS_MAX, f"a step takes or frees {counter.blocks_worst} blocks of memory"

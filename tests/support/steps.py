"""How long the steps of a scenario hold the loop, counted in work, so that the answer is the same on any machine.

A step's work is the lines of Python it runs (a line of a loop counts each time round, the body of a comprehension or a
generator as well), plus what it gives back or takes of memory at one blow: the allocator's blocks, since what the
interpreter does in C for a million objects at once (freeing a list, copying a dict) runs no line at all.
"""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from waiting import reference_ms

LINES_MAX = 150_000
"""No step of the broker may run more lines, which take 3 to 10 ms on the machines of 2026. The steps tested here run
4,000 to 103,000; without slices the least of them runs 270,000."""
BLOCKS_MAX = 150_000
"""Objects by which memory may grow or shrink in one step: freeing so many takes 5 to 10 ms."""


LOOP_MAX = 300
"""Runs of a reference loop, of 1.3 ms each on a machine of 2026: far less than a loop has to do that is held."""


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


def work_ratio(work: Callable[[], Any]) -> float:
    """What the work costs in CPU time, in runs of a reference loop beside it: the least of three, after each other."""
    found = []
    for _ in range(3):
        began = time.thread_time()
        work()
        found.append((time.thread_time() - began) * 1000 / reference_ms())
    return min(found)


def _loop_ms(pid: int) -> float:
    with open(f"/proc/{pid}/task/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def loop_is_free(pid: int, runs_max: int = LOOP_MAX) -> Iterator[None]:
    """What happens meanwhile costs the loop of a broker process, its main thread, no more CPU time than so many runs of
    the reference loop beside it."""
    before = _loop_ms(pid)
    yield
    runs = (_loop_ms(pid) - before) / reference_ms()
    assert runs < runs_max, f"the loop has worked as long as {runs:.0f} runs of the reference loop"

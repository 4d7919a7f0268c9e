"""How long the steps of a scenario hold the loop: CPU of the thread, judged so that a slow moment of a shared machine
does not pass for a long step."""

from collections.abc import Callable
from time import thread_time
from typing import Any

STEP_MS_MAX = 10.0
"""No step of the broker may take more CPU than this."""
ATTEMPTS = 4
"""A step that is too long is so each time; a neighbour on the same core is not."""


class Stopwatch:
    """Times steps, and keeps the longest."""

    def __init__(self) -> None:
        self.worst_ms = 0.0

    def run(self, step: Callable[..., Any], *arguments: Any) -> None:
        """Take one step."""
        began = thread_time()
        step(*arguments)
        self.worst_ms = max(self.worst_ms, (thread_time() - began) * 1000)

    def run_while_busy(self, scheduler: Any) -> None:
        """Take every slice that waits."""
        while scheduler.busy:
            self.run(scheduler.run_slice)


def assert_short_steps(scenario: Callable[[Stopwatch], None]) -> None:
    """The scenario, which makes its world anew each time, takes no step longer than STEP_MS_MAX."""
    worst = []
    for _ in range(ATTEMPTS):
        stopwatch = Stopwatch()
        scenario(stopwatch)
        worst.append(stopwatch.worst_ms)
        if stopwatch.worst_ms < STEP_MS_MAX:
            return
    raise AssertionError(f"a step took {worst} ms of CPU, each time more than {STEP_MS_MAX}")

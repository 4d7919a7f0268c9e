"""How long tests wait for what is going to happen: until it does. The one bound is there for what hangs.

Tests never wait for "long enough": they name the event and wait for it, on a machine of any speed.
"""

import time
from collections.abc import Callable
from typing import Any

REFERENCE_MS = 1.3
"""What `_reference` takes on a quiet machine of 2026."""


def reference_ms(clock: Callable[[], float] = time.thread_time) -> float:
    """What a loop of Python takes at this moment, for a comparison by far where nothing but a time can tell."""
    return min(_reference(clock) for _ in range(3))


def _reference(clock: Callable[[], float]) -> float:
    began = clock()
    table: dict[int, Any] = {}
    for number in range(20_000):
        table[number & 255] = (number, number + 1)
    return (clock() - began) * 1000


SLOWNESS = max(1.0, reference_ms(time.perf_counter) / REFERENCE_MS)
"""How many times slower than a quiet machine this one was when the tests began."""
HANG_S = 300.0 * SLOWNESS
"""What has not happened after this hangs. It is no measure of speed: nothing is to come near it."""
HANG_MS = int(HANG_S * 1000)
PATIENT = {"heartbeat": 0, "socket_timeout": HANG_S, "stack_timeout": HANG_S}
"""For pika's ConnectionParameters: by themselves they give up a handshake after 10 s, and close who was held up."""


def wait_until(done: Callable[[], Any], what: Any = "", pause_s: float = 0.02) -> Any:
    """Ask `done` until it says something true, and return that. Raises AssertionError, with `what` it was (or what
    calling it tells), after HANG_S."""
    deadline_s = time.monotonic() + HANG_S
    while not (answer := done()):
        assert time.monotonic() < deadline_s, f"not within {HANG_S:.0f} s: {what() if callable(what) else what}"
        time.sleep(pause_s)
    return answer

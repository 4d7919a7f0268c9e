"""The memory that load processes share with the one that measures: phase, counters, latencies.

Owns: one anonymous shared mapping, inherited by fork. Each counter has one writer; aligned stores are seen whole.
"""

import enum
import mmap
import time
from collections.abc import Sequence

LATENCIES_MAX = 1 << 20
_PHASE, _LATENCY_COUNT, _TRIPS, _READY_AT = 0, 1, 2, 3
WORKERS_MAX = 16
_PUBLISHED_AT = _READY_AT + WORKERS_MAX
_DELIVERED_AT = _PUBLISHED_AT + WORKERS_MAX
_LATENCIES_AT = _DELIVERED_AT + WORKERS_MAX


class Phase(enum.IntEnum):
    """What the load processes are to do."""

    CONNECT = 0
    LOAD = 1
    MEASURE = 2
    STOP = 3


class Board:
    """Counters by worker number (0 to 15)."""

    def __init__(self, life_s: float) -> None:
        """`life_s` bounds every load loop: after it `running` is false even when nobody says stop."""
        self._words = memoryview(mmap.mmap(-1, 8 * (_LATENCIES_AT + LATENCIES_MAX))).cast("Q")
        self._end_s = time.monotonic() + life_s

    @property
    def phase(self) -> Phase:
        """What the load processes are to do now."""
        return Phase(self._words[_PHASE])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._words[_PHASE] = phase

    @property
    def running(self) -> bool:
        """Whether a load loop goes on."""
        return self._words[_PHASE] < Phase.STOP and time.monotonic() < self._end_s

    @property
    def measuring(self) -> bool:
        """Whether the window is open: latencies are kept only then."""
        return self._words[_PHASE] == Phase.MEASURE

    def wait_for_load(self, worker: int) -> None:
        """Say that this worker is connected, and wait for the others."""
        self._words[_READY_AT + worker] = 1
        while self._words[_PHASE] == Phase.CONNECT and time.monotonic() < self._end_s:
            time.sleep(0.005)

    def wait_for_stop(self) -> None:
        """For a load whose work happens in callbacks."""
        while self.running:
            time.sleep(0.05)

    def ready(self) -> int:
        """How many workers are connected."""
        return sum(self._words[_READY_AT : _READY_AT + WORKERS_MAX])

    def set_published(self, worker: int, count: int) -> None:
        """What this worker has published so far."""
        self._words[_PUBLISHED_AT + worker] = count

    def set_delivered(self, worker: int, count: int) -> None:
        """What this worker has received so far."""
        self._words[_DELIVERED_AT + worker] = count

    @property
    def published(self) -> int:
        """All that was published."""
        return sum(self._words[_PUBLISHED_AT : _PUBLISHED_AT + WORKERS_MAX])

    @property
    def delivered(self) -> int:
        """All that was received, without the requests and replies of round trips."""
        return sum(self._words[_DELIVERED_AT : _DELIVERED_AT + WORKERS_MAX])

    @property
    def trips(self) -> int:
        """Complete round trips, set by the one worker that makes them."""
        return self._words[_TRIPS]

    @trips.setter
    def trips(self, count: int) -> None:
        self._words[_TRIPS] = count

    def add_latency_ns(self, latency_ns: int) -> None:
        """Keep a latency; one worker only. Past 2**20 of them the oldest are overwritten."""
        count = self._words[_LATENCY_COUNT]
        self._words[_LATENCIES_AT + count % LATENCIES_MAX] = latency_ns
        self._words[_LATENCY_COUNT] = count + 1

    def latencies_ns(self) -> Sequence[int]:
        """What was kept, in no particular order."""
        count = min(self._words[_LATENCY_COUNT], LATENCIES_MAX)
        return self._words[_LATENCIES_AT : _LATENCIES_AT + count].tolist()

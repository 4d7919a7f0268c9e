"""What a broker takes from outside besides octets: time, chance, and the threads of its flusher.

Everything that would differ between two runs of the same events is in an `Env` and handed in. With one that counts
instead of asking the machine, the same events give the same octets in any process; a simulation lives on that.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.server.worker import Worker


@dataclass(frozen=True, slots=True)
class Env:
    """See the module. The defaults are the real ones."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """A clock that never jumps."""
    time_ns: Callable[[], int] = time.time_ns
    """The wall clock."""
    random_bytes: Callable[[int], bytes] = os.urandom
    """Octets that nobody can guess: tokens, nonces, salts, ids."""
    randrange: Callable[[int], int] = field(default_factory=lambda: random.Random().randrange)
    """A number below a bound, where guessing it would not matter."""
    new_worker: Callable[[str, int], Worker] = Worker
    """(name, descriptor) -> who does jobs and writes to the descriptor when one is done."""

    def monotonic_s(self) -> float:
        """The clock that never jumps, in seconds."""
        return self.monotonic_ns() / 1e9

    @property
    def wall_ms(self) -> int:
        """The wall clock in milliseconds."""
        return self.time_ns() // 1_000_000

"""The start-up scenario: exec to ready line with a warm cache, resident memory idle and per idle connection.

Owns: starting our broker several times in a row. The control's figures, where asked for, are of one start.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from tools.bench.control import Broker
from tools.bench.link import Target, open_links
from tools.bench.processes import resident_bytes

IDLE_CONNECTIONS = 500
SETTLE_S = 1.0
START_S_MAX, RESIDENT_MB_MAX, CONNECTION_KB_MAX = 0.5, 60.0, 40.0


def memory_of(broker: Broker, congestion: str = "") -> dict[str, float]:
    """Resident MB when idle and kB per idle connection with one channel. Raises OSError, PeerClosed."""
    target = Target(broker.host, broker.port, broker.user, broker.password, broker.vhost, congestion=congestion)
    return memory_beside(broker, partial(open_links, target))


def memory_beside(broker: Broker, connections: Callable[[int], AbstractContextManager[object]]) -> dict[str, float]:
    """The same two figures, with idle connections of whatever protocol."""
    time.sleep(SETTLE_S)
    idle_bytes = resident_bytes(broker.pids())
    with connections(IDLE_CONNECTIONS):
        time.sleep(SETTLE_S)
        beside_bytes = resident_bytes(broker.pids())
    per_connection = (beside_bytes - idle_bytes) / IDLE_CONNECTIONS
    return {"resident_mb": round(idle_bytes / 1e6, 1), "connection_kb": round(per_connection / 1e3, 1)}


def measure_startup(
    start: Callable[[], AbstractContextManager[Broker]], times: int,
    memory_of: Callable[[Broker], dict[str, float]] = memory_of,
) -> dict[str, Any]:  # fmt: skip
    """Start and stop `times` times after one start that warms the cache; memory is that of the last one."""
    starts: list[float] = []
    memory: dict[str, float] = {}
    for number in range(times + 1):
        with start() as broker:
            assert broker.start_s is not None
            if number:
                starts.append(broker.start_s)
            if number == times:
                memory = memory_of(broker)
    median_s = statistics.median(starts)
    met = {
        "start": median_s < START_S_MAX,
        "resident": memory["resident_mb"] < RESIDENT_MB_MAX,
        "connection": memory["connection_kb"] < CONNECTION_KB_MAX,
    }
    return {
        "type": "startup", "scenario": "startup", "start_s": round(median_s, 3), "start_min_s": round(min(starts), 3),
        "start_max_s": round(max(starts), 3), "starts": times, **memory, "met": met,
    }  # fmt: skip

"""The start-up scenario: exec to ready line with a warm cache, resident memory idle and per idle connection.

Owns: starting our broker several times in a row. The control's figures, where asked for, are of one start. Beside it
what a start costs next to the import of its libraries: a ratio that a slow or busy machine changes little.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from tools.bench.control import Broker, running_jackalope
from tools.bench.link import Target, open_links
from tools.bench.processes import cpu_s, proportional_bytes, resident_bytes

IDLE_CONNECTIONS = 500
SETTLE_S = 1.0
START_S_MAX, RESIDENT_MB_MAX, CONNECTION_KB_MAX = 0.5, 60.0, 40.0
LIBRARIES = "import trio, yaml, msgspec, click"
RATIO_MAX, IDLE_MB_MAX = 1.4, 40.0
EVERY_FACE = ("listeners.kafka=127.0.0.1:0",)
"""For `running_jackalope`: AMQP, HTTP and Kafka's protocol, with a data directory."""


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


def libraries_start() -> tuple[float, float]:
    """Seconds of CPU, and of the clock, that this interpreter takes to import what the broker is made of."""
    started_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", LIBRARIES])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`{LIBRARIES}` ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.monotonic() - started_s


def broker_start() -> tuple[float, float, float, float]:
    """A start with every face: seconds of CPU and of the clock to its ready line; resident and proportional MB idle."""
    with running_jackalope(settings=EVERY_FACE) as broker:
        pid = broker.root_pid
        assert pid is not None
        used_s = cpu_s([pid])
        assert broker.start_s is not None
        time.sleep(SETTLE_S)
        return (
            used_s, broker.start_s,
            resident_bytes([pid]) / 1e6, proportional_bytes(pid) / 1e6,
        )  # fmt: skip


def measure_beside_libraries(pairs: int) -> dict[str, Any]:
    """Alternate the two, after one of each that warms the cache; medians, the ratios being those of the pairs."""
    libraries_start()
    broker_start()
    libraries, ours = [], []
    for number in range(pairs):
        if number % 2:
            libraries.append(libraries_start())
            ours.append(broker_start())
        else:
            ours.append(broker_start())
            libraries.append(libraries_start())
    ratios = [own[0] / other[0] for own, other in zip(ours, libraries, strict=True)]
    wall_ratios = [own[1] / other[1] for own, other in zip(ours, libraries, strict=True)]
    cpu, wall, resident_mb, proportional_mb = (statistics.median(column) for column in zip(*ours, strict=True))
    ratio = statistics.median(ratios)
    return {
        "type": "start", "pairs": pairs, "cpu_s": round(cpu, 3), "start_s": round(wall, 3),
        "libraries_cpu_s": round(statistics.median(one[0] for one in libraries), 3),
        "libraries_start_s": round(statistics.median(one[1] for one in libraries), 3),
        "cpu_ratio": round(ratio, 2), "cpu_ratio_min": round(min(ratios), 2), "cpu_ratio_max": round(max(ratios), 2),
        "start_ratio": round(statistics.median(wall_ratios), 2), "resident_mb": round(resident_mb, 1),
        "proportional_mb": round(proportional_mb, 1),
        "met": {"cpu_ratio": ratio <= RATIO_MAX, "resident": resident_mb <= IDLE_MB_MAX},
    }  # fmt: skip

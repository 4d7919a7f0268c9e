"""The window: load processes started, watched and ended, and what a stretch of time showed of them and the broker.

Owns: what every measured run has in common, whatever protocol it speaks. The broker's CPU is the difference of user
plus system time of all its processes over the window. Must not know: protocols, scenarios beyond their names.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from tools.bench.board import Board, Phase
from tools.bench.control import Broker
from tools.bench.processes import cpu_s

CONNECT_TIMEOUT_S = 60.0
FIRST_MESSAGE_TIMEOUT_S = 20.0
WARM_UP_S = 0.8
SETTLE_S = 0.3
STOP_TIMEOUT_S = 5.0


class RunFailed(RuntimeError):
    """A load process ended early, or nothing was delivered: there is no figure."""


class Unavailable(RuntimeError):
    """The scenario cannot be run against this broker here (no TLS listener, no client library); says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one window showed. `broker_cpu_s` is None for a broker whose processes are not known."""

    broker: str
    scenario: str
    messages: int
    elapsed_s: float
    broker_cpu_s: float | None
    client_cpu_s: float
    p50_us: float | None = None
    p99_us: float | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Messages (or round trips) a second."""
        return self.messages / self.elapsed_s

    @property
    def cpu_us(self) -> float | None:
        """The broker's CPU microseconds per message."""
        return None if self.broker_cpu_s is None else self.broker_cpu_s / self.messages * 1e6

    @property
    def client_cpu_us(self) -> float:
        """CPU microseconds per message of the load processes, to be small beside the broker's."""
        return self.client_cpu_s / self.messages * 1e6


def percentile(values: list[int], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank). Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])


def _wait(board: Board, processes: list[BaseProcess], until: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not until():
        if any(process.exitcode is not None for process in processes):
            raise RunFailed(f"a load process ended before {what}")
        if time.monotonic() > deadline_s:
            raise RunFailed(f"no {what} after {timeout_s:.0f} s (published {board.published})")
        time.sleep(0.01)


def open_board(seconds: float) -> Board:
    """A board whose loads end by themselves some time after a window of `seconds` can have ended."""
    return Board(life_s=CONNECT_TIMEOUT_S + FIRST_MESSAGE_TIMEOUT_S + WARM_UP_S + seconds + 10)


@contextlib.contextmanager
def running_loads(loads: Sequence[Callable[[Board], None]], board: Board) -> Iterator[list[BaseProcess]]:
    """Each load in a process of its own, until the end of the block; one that does not stop by itself is killed."""
    forked = multiprocessing.get_context("fork")  # The board is inherited, and nothing is imported again.
    processes: list[BaseProcess] = [forked.Process(target=load, args=(board,), daemon=True) for load in loads]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        board.phase = Phase.STOP
        for process in processes:
            process.join(timeout=STOP_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join(timeout=STOP_TIMEOUT_S)


def take_window(
    broker: Broker, name: str, board: Board, processes: list[BaseProcess], seconds: float, *,
    count: Callable[[], int], rates: Mapping[str, Callable[[], float]] | None = None, broker_cpu: bool = True,
    warm_up_s: float = WARM_UP_S,
) -> Sample:  # fmt: skip
    """Let the loads go, wait for the first of what `count` counts and for warmth, and measure for `seconds`.

    The growth a second of each of `rates` goes to the sample's `extra`. Raises RunFailed.
    """
    _wait(board, processes, lambda: board.ready() == len(processes), CONNECT_TIMEOUT_S, "all being connected")
    board.phase = Phase.LOAD
    _wait(board, processes, lambda: count() > 0, FIRST_MESSAGE_TIMEOUT_S, "first delivery")
    time.sleep(warm_up_s)
    broker_pids, load_pids = broker.pids(), [process.pid for process in processes if process.pid is not None]
    board.phase = Phase.MEASURE
    delivered, started_s = count(), time.monotonic()
    grown = {key: -read() for key, read in (rates or {}).items()}
    broker_cpu_s, client_cpu_s = cpu_s(broker_pids), cpu_s(load_pids)
    time.sleep(seconds)
    delivered = count() - delivered
    broker_cpu_s, client_cpu_s = cpu_s(broker_pids) - broker_cpu_s, cpu_s(load_pids) - client_cpu_s
    elapsed_s = time.monotonic() - started_s
    for key, read in (rates or {}).items():
        grown[key] += read()
    if any(process.exitcode is not None for process in processes):
        raise RunFailed("a load process ended within the window")
    if delivered <= 0:
        raise RunFailed("nothing was delivered within the window")
    latencies = list(board.latencies_ns())
    return Sample(
        broker=broker.name, scenario=name, messages=delivered, elapsed_s=elapsed_s,
        broker_cpu_s=broker_cpu_s if broker_pids and broker_cpu else None, client_cpu_s=client_cpu_s,
        p50_us=percentile(latencies, 0.50) / 1000 if latencies else None,
        p99_us=percentile(latencies, 0.99) / 1000 if latencies else None,
        extra={key: growth / elapsed_s for key, growth in grown.items()},
    )  # fmt: skip

"""One measured run of one scenario against one broker.

Owns: the scenario's exchanges and queues, its load processes, the window. The broker's CPU is the difference of user
plus system time of all its processes over the window; messages are those fully delivered in it.
"""

import contextlib
import importlib
import multiprocessing
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from tools.bench.board import Board, Phase
from tools.bench.control import Broker
from tools.bench.frames import StreamError
from tools.bench.link import Link, Target, open_link, open_links
from tools.bench.processes import cpu_s
from tools.bench.scenarios import Scenario
from tools.bench.workers import LOADS, Job

CONNECT_TIMEOUT_S = 60.0
FIRST_MESSAGE_TIMEOUT_S = 20.0
WARM_UP_S = 0.8
SETTLE_S = 0.3
_USER_CLIENT_LOADS = ("pika_publish", "pika_consume", "aiopika_publish", "aiopika_consume")


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


def target_of(broker: Broker, scenario: Scenario, ca_file: str, congestion: str) -> Target:
    """Where the loads of `scenario` connect. Raises Unavailable when that takes a TLS listener that is not there."""
    port = broker.port
    if scenario.tls:
        if broker.tls_port is None or not ca_file:
            raise Unavailable(f"{broker.name} has no TLS listener here")
        port = broker.tls_port
    return Target(broker.host, port, broker.user, broker.password, broker.vhost, ca_file if scenario.tls else "",
                  congestion)  # fmt: skip


@contextlib.contextmanager
def _topology(job: Job, *, quorum: bool) -> Iterator[None]:
    """The scenario's exchange and queues, for the time of a run."""
    scenario = job.scenario
    queues = [job.queue(number) for number in range(scenario.queues)]
    admin = open_link(job.target)
    try:
        if job.exchange:
            admin.declare_exchange(job.exchange, scenario.exchange_type)
        for queue in queues:
            arguments = {"x-queue-type": "quorum"} if quorum else None
            admin.declare_queue(queue, durable=scenario.durable, arguments=arguments)
            if job.exchange:
                admin.bind_queue(queue, job.exchange, "#" if scenario.unique_keys else "order.*.eu")
        yield
    except BaseException:
        with contextlib.suppress(OSError, StreamError):  # What went wrong first is what is reported.
            _remove(job, queues)
        raise
    else:
        _remove(job, queues)
    finally:
        admin.close()


def _remove(job: Job, queues: list[str]) -> None:
    """Delete a run's objects, over a fresh connection: the broker may have closed the one that declared them."""
    admin = open_link(job.target)
    for queue in queues:
        admin.delete_queue(queue)
    if job.exchange:
        admin.delete_exchange(job.exchange)
    admin.close_politely()


def _load_function(name: str) -> Callable[[Job, Board], None]:
    if name not in _USER_CLIENT_LOADS:
        return LOADS[name]  # type: ignore[index]
    # Imported only when asked for: the clients are test requirements.
    library = "pika" if name.startswith("pika") else "aio_pika"
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise Unavailable(f"{library} is not installed") from error
    function: Callable[[Job, Board], None] = getattr(importlib.import_module("tools.bench.user_clients"), name)
    return function


def _wait(board: Board, processes: list[BaseProcess], until: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not until():
        if any(process.exitcode is not None for process in processes):
            raise RunFailed(f"a load process ended before {what}")
        if time.monotonic() > deadline_s:
            raise RunFailed(f"no {what} after {timeout_s:.0f} s (published {board.published})")
        time.sleep(0.01)


def _count(board: Board, scenario: Scenario) -> int:
    return board.trips if scenario.pairs else board.delivered


def _window(broker: Broker, scenario: Scenario, board: Board, processes: list[BaseProcess], seconds: float) -> Sample:
    _wait(board, processes, lambda: board.ready() == len(processes), CONNECT_TIMEOUT_S, "all being connected")
    board.phase = Phase.LOAD
    _wait(board, processes, lambda: _count(board, scenario) > 0, FIRST_MESSAGE_TIMEOUT_S, "first delivery")
    time.sleep(WARM_UP_S)
    broker_pids, load_pids = broker.pids(), [process.pid for process in processes if process.pid is not None]
    board.phase = Phase.MEASURE
    delivered, published, started_s = _count(board, scenario), board.published, time.monotonic()
    side, broker_cpu_s, client_cpu_s = board.delivered, cpu_s(broker_pids), cpu_s(load_pids)
    time.sleep(seconds)
    delivered, side = _count(board, scenario) - delivered, board.delivered - side
    broker_cpu_s, client_cpu_s = cpu_s(broker_pids) - broker_cpu_s, cpu_s(load_pids) - client_cpu_s
    elapsed_s, published = time.monotonic() - started_s, board.published - published
    if any(process.exitcode is not None for process in processes):
        raise RunFailed("a load process ended within the window")
    if delivered <= 0:
        raise RunFailed("nothing was delivered within the window")
    latencies = list(board.latencies_ns())
    return Sample(
        broker=broker.name, scenario=scenario.name, messages=delivered, elapsed_s=elapsed_s,
        broker_cpu_s=broker_cpu_s if broker_pids and not scenario.bystander_only else None, client_cpu_s=client_cpu_s,
        p50_us=percentile(latencies, 0.50) / 1000 if latencies else None,
        p99_us=percentile(latencies, 0.99) / 1000 if latencies else None,
        extra={"flood_rate": side / elapsed_s} if scenario.bystander_only else {},
    )  # fmt: skip


def _measure(broker: Broker, scenario: Scenario, target: Target, seconds: float) -> Sample:
    run = secrets.token_hex(4)
    board = Board(life_s=CONNECT_TIMEOUT_S + FIRST_MESSAGE_TIMEOUT_S + WARM_UP_S + seconds + 10)
    forked = multiprocessing.get_context("fork")  # The board is inherited, and nothing is imported again.
    functions = [_load_function(name) for name in scenario.loads]
    quorum = scenario.peer_queue_type == "quorum" and broker.name == "rabbitmq"
    with _topology(Job(target, scenario, run, 0), quorum=quorum):
        processes: list[BaseProcess] = [
            forked.Process(target=function, args=(Job(target, scenario, run, worker), board), daemon=True)
            for worker, function in enumerate(functions)
        ]
        for process in processes:
            process.start()
        try:
            return _window(broker, scenario, board, processes, seconds)
        finally:
            board.phase = Phase.STOP
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join(timeout=5)


@contextlib.contextmanager
def _other_queues(target: Target, count: int) -> Iterator[None]:
    """That many further queues, exclusive to one connection and so gone with it."""
    link: Link | None = open_link(target) if count else None
    try:
        for number in range(count):
            assert link is not None
            link.declare_queue(f"bench.idle.{number}", exclusive=True)
        yield
    finally:
        if link is not None:
            link.close_politely()


def run_once(broker: Broker, scenario: Scenario, *, seconds: float, ca_file: str = "", congestion: str = "") -> Sample:
    """One window of `seconds` (times the scenario's factor). Raises RunFailed, Unavailable, OSError.

    A scenario with idle connections is measured without them first: `extra["cpu_us_without"]`.
    """
    target = target_of(broker, scenario, ca_file, congestion)
    seconds *= scenario.window_factor
    sample = _measure(broker, scenario, target, seconds)
    time.sleep(SETTLE_S)
    if not scenario.idle_connections:
        return sample
    with open_links(target, scenario.idle_connections), _other_queues(target, scenario.other_queues):
        time.sleep(SETTLE_S)
        beside = _measure(broker, scenario, target, seconds)
    if sample.cpu_us is not None and beside.cpu_us is not None:
        beside.extra.update(cpu_us_without=sample.cpu_us, cpu_ratio_idle=beside.cpu_us / sample.cpu_us)
    beside.extra["rate_without"] = sample.rate
    time.sleep(SETTLE_S)
    return beside

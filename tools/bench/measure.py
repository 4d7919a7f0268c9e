"""One measured run of one scenario against one broker.

Owns: the scenario's exchanges and queues, and which loads run in its window. Messages are those fully delivered in it.
"""

import contextlib
import importlib
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial

from tools.bench.board import Board
from tools.bench.control import Broker
from tools.bench.frames import StreamError
from tools.bench.link import Link, Target, open_link, open_links
from tools.bench.scenarios import Scenario
from tools.bench.window import SETTLE_S, Sample, Unavailable, open_board, running_loads, take_window
from tools.bench.workers import LOADS, Job

_USER_CLIENT_LOADS = ("pika_publish", "pika_consume", "aiopika_publish", "aiopika_consume")


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


def _count(board: Board, scenario: Scenario) -> int:
    return board.trips if scenario.pairs else board.delivered


def _measure(broker: Broker, scenario: Scenario, target: Target, seconds: float) -> Sample:
    run, board = secrets.token_hex(4), open_board(seconds)
    functions = [_load_function(name) for name in scenario.loads]
    loads = [partial(function, Job(target, scenario, run, worker)) for worker, function in enumerate(functions)]
    quorum = scenario.peer_queue_type == "quorum" and broker.name == "rabbitmq"
    with _topology(Job(target, scenario, run, 0), quorum=quorum), running_loads(loads, board) as processes:
        return take_window(
            broker, scenario.name, board, processes, seconds, count=lambda: _count(board, scenario),
            rates={"flood_rate": lambda: board.delivered} if scenario.bystander_only else None,
            broker_cpu=not scenario.bystander_only,
        )  # fmt: skip


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

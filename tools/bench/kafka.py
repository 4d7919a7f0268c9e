"""Alternate two Kafka brokers through scenarios: A, B, A, B, ... on one machine, with one congestion control.

Owns: starting or reaching the brokers, Jackalope in both of its flush settings, and start-up. `alternate` has the order
of the runs, `kafka_measure` one of them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from tools.bench.alternate import CONGESTION, Cast, Emit, Note, Outcome, allow_many_sockets, alternate
from tools.bench.control import HOST, Broker, BrokerStartError, running_jackalope
from tools.bench.kafka_control import running_kafka
from tools.bench.kafka_measure import kafka_address, run_once
from tools.bench.kafka_scenarios import KAFKA_SCENARIOS
from tools.bench.kafka_wire import idle_connections
from tools.bench.processes import tcp_congestion
from tools.bench.scenarios import STARTUP
from tools.bench.startup import measure_startup, memory_beside
from tools.bench.window import RunFailed, Unavailable

PEER_STARTS = 3  # A start of the control takes seconds.
# A JVM takes half a minute of load until what it runs is compiled: Kafka's CPU per megabyte falls to a quarter by that.
WARM_UP = (("produce-acks1-p12-lz4", 12.0), ("produce-acks1-p12-none", 20.0), ("fetch10", 8.0))


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What to compare. `broker` and `peer` are "jackalope", "kafka" or kafka://HOST:PORT; `peer` may be "none".

    `pids` are the main process ids of brokers given as addresses, for their CPU and memory.
    """

    scenarios: tuple[str, ...]
    broker: str = "jackalope"
    peer: str = "kafka"
    rounds: int = 5
    seconds: float = 3.0
    starts: int = 10
    broker_pid: int | None = None
    peer_pid: int | None = None
    serve_arguments: tuple[str, ...] = ()
    warm_up: bool = True


def parse_address(url: str, pid: int | None = None) -> Broker:
    """kafka://host:port -> Broker. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "kafka" or not parts.hostname:
        raise ValueError(f"not kafka://HOST:PORT: {url}")
    host, port = parts.hostname, parts.port or 9092
    return Broker(name=f"{host}:{port}", host=host, port=port, root_pid=pid, addresses={"kafka": (host, port)})


@contextlib.contextmanager
def _reached(url: str, pid: int | None) -> Iterator[Broker]:
    """A broker that somebody else started."""
    yield parse_address(url, pid)


@contextlib.contextmanager
def _jackalope(serve_arguments: Sequence[str], flush: str) -> Iterator[Broker]:
    """With `flush` "os", Kafka's own default: acknowledged without a sync."""
    settings = [f"listeners.kafka={HOST}:0", f"storage.flush={flush}"]
    with running_jackalope(*serve_arguments, settings=settings, http=False) as broker:
        broker.name = f"jackalope, flush {flush}"
        yield broker


def starter(
    which: str, pid: int | None, serve_arguments: Sequence[str], flush: str = "os"
) -> Callable[[], AbstractContextManager[Broker]]:
    """How to get at a broker by its option: a context manager that starts it, or merely names it."""
    if which == "jackalope":
        return partial(_jackalope, serve_arguments, flush)
    return running_kafka if which == "kafka" else partial(_reached, which, pid)


@contextlib.contextmanager
def _cast(options: KafkaOptions, names: Sequence[str]) -> Iterator[Cast]:
    with contextlib.ExitStack() as stack:
        words = options.serve_arguments
        ours = stack.enter_context(starter(options.broker, options.broker_pid, words)())
        theirs = beside = None
        if options.peer != "none":
            theirs = stack.enter_context(starter(options.peer, options.peer_pid, words)())
        if options.broker == "jackalope" and any(KAFKA_SCENARIOS[name].flush_beside for name in names):
            beside = stack.enter_context(starter("jackalope", None, words, "ack")())
        yield Cast(ours, theirs, beside)


def compare(options: KafkaOptions, emit: Emit, note: Note) -> Outcome:
    """Run the scenarios and emit a record per run and per scenario; `note` gets progress in words.

    A scenario that fails is recorded and the next one goes on. Raises BrokerStartError when a broker does not start.
    """
    outcome = Outcome()
    with tcp_congestion(CONGESTION) as congestion:
        emit({"type": "setup", "congestion": congestion, "open_files": allow_many_sockets(), "rounds": options.rounds,
              "seconds": options.seconds})  # fmt: skip
        loads = [name for name in options.scenarios if name != STARTUP]
        if STARTUP in options.scenarios:
            _startup(options, outcome, emit, note)
        if not loads:
            return outcome
        with _cast(options, loads) as cast:
            if options.warm_up:
                _warm_up(cast, note)
            for name in loads:
                scenario = KAFKA_SCENARIOS[name]
                run = partial(run_once, scenario=scenario, seconds=options.seconds,
                              congestion=congestion if congestion != "unknown" else "")  # fmt: skip
                theirs = None if scenario.alone else cast.theirs
                chosen = Cast(cast.ours, theirs, cast.beside if scenario.flush_beside else None)
                alternate(scenario, chosen, options.rounds, run, outcome, emit, note, warm_up=options.warm_up)
    return outcome


def _warm_up(cast: Cast, note: Note) -> None:
    """The same load for every broker before anything is measured. What fails here will fail, with its name, later."""
    for broker in cast.brokers():
        for name, seconds in WARM_UP:
            note(f"warm-up: {name}, {broker.name}")
            with contextlib.suppress(RunFailed, Unavailable, OSError):
                run_once(broker, KAFKA_SCENARIOS[name], seconds=seconds)


def _memory_of(broker: Broker) -> dict[str, float]:
    return memory_beside(broker, partial(idle_connections, *kafka_address(broker)))


def _startup(options: KafkaOptions, outcome: Outcome, emit: Emit, note: Note) -> None:
    started_here = ("jackalope", "kafka")
    if options.broker not in started_here:
        outcome.fail(STARTUP, "start-up is measured of a broker that is started here", emit)
        return
    note("startup: exec to ready, and memory")
    try:
        found: list[dict[str, Any]] = []
        for which in dict.fromkeys((options.broker, options.peer)):
            if which in started_here:
                starts = options.starts if which == "jackalope" else min(options.starts, PEER_STARTS)
                found.append(measure_startup(starter(which, None, options.serve_arguments), starts, _memory_of))
    except (BrokerStartError, Unavailable, OSError) as error:
        outcome.fail(STARTUP, f"{type(error).__name__}: {error}", emit)
        return
    outcome.startup, *others = found
    if options.broker != "jackalope":
        outcome.startup["met"] = {}  # What is asked is asked of Jackalope.
    outcome.startup["name"] = options.broker
    if others:
        outcome.startup["peer"] = {"name": options.peer, **others[0]}
    emit(outcome.startup)

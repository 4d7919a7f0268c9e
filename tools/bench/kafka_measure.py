"""One measured run of one Kafka scenario against one broker.

Owns: the run's topic and what is in it before, which loads run in its window, the figures a megabyte, and that what the
client took for acknowledged is in the log. Must not know: how brokers are started.
"""

import contextlib
import importlib
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial

from tools.bench.board import Board
from tools.bench.control import Broker
from tools.bench.kafka_job import KafkaJob
from tools.bench.kafka_scenarios import KafkaScenario
from tools.bench.kafka_wire import Admin
from tools.bench.processes import resident_bytes, written_bytes
from tools.bench.window import SETTLE_S, RunFailed, Sample, Unavailable, open_board, running_loads, take_window

PRELOAD_TIMEOUT_S = 60.0
MEGABYTE = 1e6
MODULES = {
    "fetch": "tools.bench.kafka_fetchers",
    "amqp_publish": "tools.bench.kafka_bridge",
    "amqp_read": "tools.bench.kafka_bridge",
    "amqp_fan": "tools.bench.kafka_amqp_groups",
    "amqp_leave": "tools.bench.kafka_amqp_groups",
}


def kafka_address(broker: Broker) -> tuple[str, int]:
    """Where the broker speaks Kafka's protocol. Raises Unavailable when it does not."""
    if "kafka" not in broker.addresses:
        raise Unavailable(f"{broker.name} has no Kafka listener here")
    return broker.addresses["kafka"]


def _load_function(kind: str) -> Callable[[KafkaJob, Board], None]:
    """The client is a test requirement, so it is imported when asked for."""
    module = MODULES.get(kind, "tools.bench.kafka_clients")
    try:
        function: Callable[[KafkaJob, Board], None] = getattr(importlib.import_module(module), kind)
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    return function


@contextlib.contextmanager
def _topic(job: KafkaJob, admin: Admin) -> Iterator[None]:
    """The run's topic, with what is to be in it, for the time of a run."""
    admin.create_topic(job.topic, job.scenario.partitions)
    try:
        if job.scenario.groups:
            admin.find_coordinator(f"bench.{job.run}")
        if job.scenario.preload_messages:
            _preload(job, admin)
        yield
    finally:
        admin.delete_topic(job.topic)


def _preload(job: KafkaJob, admin: Admin) -> None:
    wanted = job.scenario.preload_messages
    with running_loads([partial(_load_function("preload"), job)], open_board(PRELOAD_TIMEOUT_S)) as (process,):
        process.join(PRELOAD_TIMEOUT_S)
        if process.exitcode != 0 or sum(admin.end_offsets(job.topic, job.scenario.partitions)) != wanted:
            raise RunFailed("the topic could not be filled")


def _count(board: Board, scenario: KafkaScenario) -> int:
    return {"acknowledged": board.published, "delivered": board.delivered, "rebalances": board.trips}[scenario.counted]


def _check_acknowledged(job: KafkaJob, board: Board, admin: Admin) -> None:
    stored = sum(admin.end_offsets(job.topic, job.scenario.partitions))
    if stored < board.published:
        raise RunFailed(f"{board.published} messages were acknowledged, and the log ends at {stored}")


def _add_figures(sample: Sample, scenario: KafkaScenario, broker: Broker) -> None:
    """What the table of a log says in megabytes; shares and memory where several groups read."""
    extra, megabytes = sample.extra, sample.messages * scenario.body_bytes / MEGABYTE
    written_rate = extra.pop("written")
    extra["client_cores"] = sample.client_cpu_s / sample.elapsed_s
    if scenario.counted != "rebalances":
        extra["mb_s"] = megabytes / sample.elapsed_s
        if sample.broker_cpu_s is not None:
            extra["cpu_ms_mb"] = sample.broker_cpu_s * 1000 / megabytes
    if broker.root_pid is None:
        return
    extra["resident_mb"] = resident_bytes(broker.pids()) / MEGABYTE
    if scenario.messages_per_s and scenario.counted == "delivered":
        extra["delivered_share"] = sample.rate / (scenario.messages_per_s * scenario.groups)
        extra["written_kb_s"] = written_rate / 1000


def run_once(broker: Broker, scenario: KafkaScenario, *, seconds: float, congestion: str = "") -> Sample:
    """One window of `seconds` (times the scenario's factor). Raises RunFailed, Unavailable, OSError."""
    host, port = kafka_address(broker)
    seconds *= scenario.window_factor
    run, board, count = secrets.token_hex(4), open_board(seconds), partial(_count, scenario=scenario)
    amqp = broker.addresses.get("amqp")
    jobs = [KafkaJob(host, port, scenario, run, worker, congestion, amqp) for worker in range(len(scenario.loads))]
    loads = [partial(_load_function(kind), job) for kind, job in zip(scenario.loads, jobs, strict=True)]
    pids = broker.pids()
    with contextlib.closing(Admin(host, port)) as admin, _topic(jobs[0], admin):
        with running_loads(loads, board) as processes:
            sample = take_window(
                broker, scenario.name, board, processes, seconds, count=lambda: count(board),
                rates={"written": lambda: written_bytes(pids)}, warm_up_s=scenario.warm_up_s,
            )  # fmt: skip
            _add_figures(sample, scenario, broker)
        _check_acknowledged(jobs[0], board, admin)
    time.sleep(SETTLE_S)
    return sample

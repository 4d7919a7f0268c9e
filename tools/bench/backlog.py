"""`jackalope bench backlog`: a backlog larger than memory should hold, many queues, many partitions, over kill -9.

Owns: the figures and their goals. There is no peer: what is measured is whether a backlog costs disk instead of memory,
and how soon it is there again.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tools.bench import frames
from tools.bench.control import Broker, running_jackalope
from tools.bench.kafka_wire import Admin
from tools.bench.link import Link, Target, open_link, receive_into
from tools.bench.processes import cpu_s, is_alive, resident_bytes

WINDOW = 20_000
CHUNK = 100
ACK_EVERY = 500
PREFETCH = 2000
SETTLE_S = 1.0
TOPIC_PARTITIONS = 100


class Figure(NamedTuple):
    """One row: `limit` is what `value` may not exceed, or with `at_least` fall short of; None: nothing is asked."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is, if there is one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        """A JSON line."""
        return {"type": "figure", "name": self.name, "value": round(self.value, 3), "unit": self.unit,
                "limit": self.limit, "met": self.met}  # fmt: skip


def measure(messages: int, queues: int, partitions: int) -> Iterator[Figure]:
    """All figures. Raises OSError, PeerClosed."""
    with tempfile.TemporaryDirectory(prefix="jackalope-bench-") as directory:
        yield from _backlog(Path(directory), messages)
    with tempfile.TemporaryDirectory(prefix="jackalope-bench-") as directory:
        yield from _queues(Path(directory), queues)
    with tempfile.TemporaryDirectory(prefix="jackalope-bench-") as directory:
        yield from _partitions(Path(directory), partitions)


def _link(broker: Broker) -> Link:
    return open_link(Target(broker.host, broker.port, broker.user, broker.password, broker.vhost))


def _resident_mb(broker: Broker) -> float:
    return resident_bytes(broker.pids()) / 1e6


def _kill(broker: Broker) -> None:
    assert broker.root_pid is not None
    os.kill(broker.root_pid, signal.SIGKILL)
    while is_alive(broker.root_pid):
        time.sleep(0.01)


def _backlog(directory: Path, count: int) -> Iterator[Figure]:
    with running_jackalope(http=False, directory=directory) as broker:
        began = time.perf_counter()
        _fill(broker, count)
        yield Figure("written and confirmed", count / (time.perf_counter() - began), "messages/s", 100_000, True)
        yield Figure("resident, backlog written", _resident_mb(broker), "MB", 150)
        _kill(broker)
    with running_jackalope(http=False, directory=directory) as broker:
        assert broker.start_s is not None
        yield Figure("ready after kill -9", broker.start_s, "s", 2)
        first_s, drained_s = _drain(broker, count)
        yield Figure("first delivery", first_s * 1000, "ms", 500)
        yield Figure("drained from disk", count / drained_s, "messages/s", 100_000, True)
        yield Figure("resident, backlog drained", _resident_mb(broker), "MB", 150)


def _fill(broker: Broker, count: int) -> None:
    """Publish `count` messages of 1 kB, and return when all are confirmed."""
    link = _link(broker)
    link.declare_queue("backlog", durable=True)
    link.confirm_select()
    chunk = frames.publish("", "backlog", b"x" * 1000, frames.properties(delivery_mode=2)) * CHUNK
    confirms = frames.ConfirmCounter()
    connection = link.hand_over()
    buffer = memoryview(bytearray(65536))
    sent = 0
    while confirms.count < count:
        while sent < count and sent - confirms.count < WINDOW:
            connection.sendall(chunk)
            sent += CHUNK
        size = receive_into(connection, buffer)
        confirms.feed(bytes(buffer[:size]), sent)
    link.close()


def _drain(broker: Broker, count: int) -> tuple[float, float]:
    """Consume and acknowledge everything: (seconds to the first delivery, seconds to the last)."""
    link = _link(broker)
    link.qos(PREFETCH)
    began = time.perf_counter()
    received = link.consume("backlog", "c", auto_ack=False)
    connection = link.hand_over()
    deliveries = frames.DeliveryCounter()
    deliveries.feed(memoryview(received))
    first_s, acked = 0.0, 0
    buffer = memoryview(bytearray(1 << 19))
    while deliveries.count < count:
        deliveries.feed(buffer[: receive_into(connection, buffer)])
        first_s = first_s or (time.perf_counter() - began if deliveries.count else 0.0)
        if deliveries.count - acked >= ACK_EVERY:
            acked = deliveries.count
            connection.sendall(frames.ack(acked, multiple=True))
    drained_s = time.perf_counter() - began
    connection.sendall(frames.ack(count, multiple=True))
    time.sleep(SETTLE_S)
    link.close()
    return first_s, drained_s


def _queues(directory: Path, count: int) -> Iterator[Figure]:
    with running_jackalope(http=False, directory=directory) as broker:
        link = _link(broker)
        began = time.perf_counter()
        for number in range(count):
            bits = bytes((2 + 16,))  # durable, no-wait
            arguments = b"\0\0" + frames.shortstr(f"queue.{number:05d}") + bits + frames.table({})
            link.socket.sendall(frames.method(1, 50, 10, arguments))
        link.declare_queue("last", durable=True)
        yield Figure(f"{count} durable queues declared", time.perf_counter() - began, "s")
        link.confirm_select()
        connection = link.hand_over()
        persistent = frames.properties(delivery_mode=2)
        began = time.perf_counter()
        for number in range(count):
            connection.sendall(frames.publish("", f"queue.{number:05d}", b"x" * 100, persistent))
        confirms = frames.ConfirmCounter()
        buffer = memoryview(bytearray(65536))
        while confirms.count < count:
            confirms.feed(bytes(buffer[: receive_into(connection, buffer)]), count)
        yield Figure("a message to each confirmed", time.perf_counter() - began, "s")
        link.close()
        _kill(broker)
    with running_jackalope(http=False, directory=directory) as broker:
        assert broker.start_s is not None
        yield Figure("ready after kill -9", broker.start_s, "s", 5)
        time.sleep(SETTLE_S)
        yield Figure("resident", _resident_mb(broker), "MB", 200)


def _partitions(directory: Path, count: int) -> Iterator[Figure]:
    """Topics of a hundred partitions each: how soon they are there again."""
    settings = ("listeners.kafka=127.0.0.1:0",)
    with running_jackalope(settings=settings, http=False, directory=directory) as broker:
        with contextlib.closing(Admin(*broker.addresses["kafka"])) as admin:
            began = time.perf_counter()
            left = count
            while left > 0:
                admin.create_topic(f"topic.{left:05d}", min(left, TOPIC_PARTITIONS))
                left -= TOPIC_PARTITIONS
            yield Figure(f"{count} partitions created", time.perf_counter() - began, "s")
        _kill(broker)
    with running_jackalope(settings=settings, http=False, directory=directory) as broker:
        assert broker.start_s is not None
        yield Figure("CPU until ready, partitions", cpu_s(broker.pids()), "s")
        yield Figure("ready after kill -9, partitions", broker.start_s, "s", 1.5)
        time.sleep(SETTLE_S)
        yield Figure("resident, partitions", _resident_mb(broker), "MB", 100)

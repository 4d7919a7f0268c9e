"""`jackalope bench bystander`: how long somebody polite waits beside what takes long.

Owns: the inputs, each of which is one request, one peer that goes, or one deletion that means very much work; and the
bystander, a process with a connection of its own that publishes and gets a message every 10 ms. There is no peer: what
is measured is whether long work is cut into slices. A busy machine adds its own waits: the row `nothing` shows them.
"""

import contextlib
import multiprocessing
import socket
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import zstandard
from crc32c import crc32c

from protocol.kafka.apis import APIS
from protocol.kafka.headers import RequestHeader, write_request
from protocol.kafka.readers import ELEMENTS_MAX
from tools.bench import frames
from tools.bench.control import Broker, running_jackalope
from tools.bench.link import Link, PeerClosed, Target, open_link
from tools.bench.processes import cpu_s

GOAL_MS = 50.0
EVERY_S = 0.01
ELEMENTS = ELEMENTS_MAX - 1000
"""Of one request: nearly as many as the broker takes."""
RECORDS = 1_000_000
CHANNELS_EACH = 2_000
QUIET_SHARE, QUIET_S, QUIET_TIMEOUT_S = 0.3, 0.5, 120.0
"""What was begun is over when the broker takes less of a core than this for so long."""
IDLE_S = 2.0
ANSWER_TIMEOUT_S = 120.0
APIS_BY_NAME = {api.name: api for api in APIS.values()}
DECLARE_EXCLUSIVE = bytes((4 + 16,))  # exclusive, no-wait
DIRECT = "bystander.direct"

Release = Callable[[], None]


class Waits(NamedTuple):
    """Of one input: what the bystander has waited, while it was made and while it was worked on."""

    name: str
    rounds: int
    making_ms: float
    worst_ms: float
    took_s: float

    @property
    def met(self) -> bool:
        """Whether the goal is."""
        return max(self.making_ms, self.worst_ms) <= GOAL_MS

    def as_json(self) -> dict[str, Any]:
        """A JSON line."""
        return {"type": "bystander", "name": self.name, "rounds": self.rounds,
                "making_ms": round(self.making_ms, 1), "worst_ms": round(self.worst_ms, 1),
                "took_s": round(self.took_s, 2), "limit": GOAL_MS, "met": self.met}  # fmt: skip


class Bystander:
    """The polite process."""

    def __init__(self, broker: Broker) -> None:
        forked = multiprocessing.get_context("fork")
        self._end, other = forked.Pipe()
        self._process = forked.Process(target=_stand_by, args=(_target(broker), other, self._end), daemon=True)
        self._process.start()
        other.close()
        self.read()

    def read(self) -> tuple[int, float]:
        """(rounds, the worst of them in ms) since the last time. Waits for the round that is under way."""
        self._end.send(None)
        rounds, worst_ms = self._end.recv()
        return rounds, worst_ms

    def close(self) -> None:
        """End it."""
        self._end.close()
        self._process.join()


def _stand_by(target: Target, end: Connection, others: Connection) -> None:
    others.close()  # Inherited; as long as it is open the end of the other process is not seen.
    link = open_link(target)
    queue = link.declare_queue("", exclusive=True)
    ask = frames.publish("", queue, b"") + frames.method(1, 60, 70, b"\0\0" + frames.shortstr(queue) + b"\x01")
    connection = link.socket
    connection.settimeout(ANSWER_TIMEOUT_S)
    connection.sendall(ask)
    size = sum(_frame_size(connection) for _ in range(2))  # get-ok and a header: of the same length each time.
    rounds, worst_ms = 0, 0.0
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            began = time.perf_counter()
            connection.sendall(ask)
            _skip(connection, size)
            worst_ms = max(worst_ms, (time.perf_counter() - began) * 1000)
            rounds += 1
            if end.poll(EVERY_S):
                end.recv()
                end.send((rounds, worst_ms))
                rounds, worst_ms = 0, 0.0
    link.close()


def _frame_size(connection: socket.socket) -> int:
    (size,) = struct.unpack_from(">I", _read(connection, 7), 3)
    _skip(connection, size + 1)
    return 8 + int(size)


def _read(connection: socket.socket, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        piece = connection.recv(octets - len(found))
        if not piece:
            raise PeerClosed("the broker dropped the connection")
        found += piece
    return found


def _skip(connection: socket.socket, octets: int) -> None:
    while octets:
        octets -= len(_read(connection, min(octets, 65536)))


def _target(broker: Broker) -> Target:
    return Target(broker.host, broker.port, broker.user, broker.password, broker.vhost)


def _link(broker: Broker) -> Link:
    link = open_link(_target(broker))
    link.socket.settimeout(ANSWER_TIMEOUT_S)
    return link


# Requests of Kafka's protocol.


def _request(name: str, version: int, **fields: Any) -> bytes:
    api = APIS_BY_NAME[name]
    return write_request(RequestHeader(api.key, version, 1, "bystander"), api.request(**fields))


def _of(name: str, field: str, part: str = "") -> Any:
    found = APIS_BY_NAME[name].request.SPECS[field].of
    return found.SPECS[part].of if part else found


def _wide(name: str, part: str, **values: Any) -> list[Any]:
    """One topic with very many partitions."""
    topic, one = _of(name, "topics"), _of(name, "topics", part)
    index = next(key for key in ("partition_index", "partition") if key in one.SPECS)
    key = "topic" if "topic" in topic.SPECS else "name"
    return [topic(**{key: "wide", part: [one(**{index: number}, **values) for number in range(ELEMENTS)]})]


def _create_topic(broker: Broker, name: str, partitions: int) -> None:
    topic = _of("CreateTopics", "topics")(name=name, num_partitions=partitions, replication_factor=1)
    with _asking(broker, _request("CreateTopics", 4, timeout_ms=10_000, topics=[topic])) as ask:
        ask()


def _describe_groups() -> bytes:
    return _request("DescribeGroups", 5, groups=[f"group-{number}" for number in range(ELEMENTS)])


def _offset_commit() -> bytes:
    wanted = _wide("OffsetCommit", "partitions", committed_offset=0, committed_metadata="")
    return _request("OffsetCommit", 7, group_id="g", generation_id_or_member_epoch=-1, topics=wanted)


def _metadata() -> bytes:
    topic = _of("Metadata", "topics")
    return _request("Metadata", 8, topics=[topic(name=f"nowhere-{number}") for number in range(ELEMENTS)],
                    allow_auto_topic_creation=False)  # fmt: skip


def _fetch() -> bytes:
    wanted = _wide("Fetch", "partitions", fetch_offset=0, partition_max_bytes=1 << 20)
    return _request("Fetch", 11, max_wait_ms=0, max_bytes=1 << 20, topics=wanted)


@contextlib.contextmanager
def _asking(broker: Broker, *requests: bytes) -> Iterator[Release]:
    """One request after the other on one connection, each with its answer."""
    with socket.create_connection(broker.addresses["kafka"], timeout=ANSWER_TIMEOUT_S) as connection:

        def ask() -> None:
            for request in requests:
                connection.sendall(request)
                _skip(connection, int.from_bytes(_read(connection, 4), "big"))

        yield ask


@contextlib.contextmanager
def _million_records(broker: Broker) -> Iterator[Release]:
    """A batch of some kilobytes with a million records is produced, and asked for an offset by time.

    All records say that they are the first: the broker may refuse the batch for that, when it has looked.
    """
    _create_topic(broker, "million", 1)
    packed = zstandard.compress(b"\x0c\0\0\0\x01\x01\0" * RECORDS)
    now_ms = time.time_ns() // 1_000_000
    tail = struct.pack(">hiqqqhii", 4, RECORDS - 1, now_ms, now_ms, -1, -1, -1, RECORDS) + packed
    batch = struct.pack(">qiibI", 0, 9 + len(tail), -1, 2, crc32c(tail)) + tail
    topic, data = _of("Produce", "topic_data"), _of("Produce", "topic_data", "partition_data")
    produced = topic(name="million", partition_data=[data(index=0, records=batch)])
    produce = _request("Produce", 7, acks=-1, timeout_ms=10_000, topic_data=[produced])
    asked = _of("ListOffsets", "topics", "partitions")(partition_index=0, timestamp=-3)
    offsets = _request("ListOffsets", 7, replica_id=-1,
                       topics=[_of("ListOffsets", "topics")(name="million", partitions=[asked])])  # fmt: skip
    with _asking(broker, produce, offsets) as ask:
        yield ask


# Much that goes at once over AMQP.


@contextlib.contextmanager
def _consumers(broker: Broker, count: int) -> Iterator[Release]:
    """Consumers of one queue; messages come, then all of the consumers go."""
    link, publisher = _link(broker), _link(broker)
    publisher.declare_queue("crowded")
    names = b"\0\0" + frames.shortstr("crowded")
    for number in range(count):
        link.socket.sendall(
            frames.method(1, 60, 20, names + frames.shortstr(f"c{number}") + b"\x0a" + frames.table({}))
        )
    link.qos(0)

    def publish() -> None:
        publisher.socket.sendall(frames.publish("", "crowded", b"x") * count)
        publisher.declare_queue("crowded")
        link.close()

    with contextlib.closing(link), contextlib.closing(publisher):
        yield publish


@contextlib.contextmanager
def _exclusive_queues(broker: Broker, count: int) -> Iterator[Release]:
    """A connection that goes with its exclusive queues."""
    link = _link(broker)
    for first in range(0, count, 1000):
        link.socket.sendall(b"".join(
            frames.method(1, 50, 10, b"\0\0" + frames.shortstr(f"x{number}") + DECLARE_EXCLUSIVE + frames.table({}))
            for number in range(first, min(first + 1000, count))
        ))  # fmt: skip
    link.qos(0)
    with contextlib.closing(link):
        yield link.close


@contextlib.contextmanager
def _bindings(broker: Broker, count: int) -> Iterator[Release]:
    """A queue that is deleted with its bindings."""
    link = _link(broker)
    link.declare_exchange(DIRECT, "direct")
    link.declare_queue("bound")
    names = b"\0\0" + frames.shortstr("bound") + frames.shortstr(DIRECT)
    for first in range(0, count, 1000):
        link.socket.sendall(b"".join(
            frames.method(1, 50, 20, names + frames.shortstr(f"key.{number}") + b"\x01" + frames.table({}))
            for number in range(first, min(first + 1000, count))
        ))  # fmt: skip
    link.qos(0)
    with contextlib.closing(link):
        yield lambda: link.delete_queue("bound")


@contextlib.contextmanager
def _channels(broker: Broker, count: int) -> Iterator[Release]:
    """Connections that go with their channels, all at once."""
    with contextlib.ExitStack() as stack:
        links = []
        for first in range(0, count, CHANNELS_EACH):
            link = _link(broker)
            links.append(stack.enter_context(contextlib.closing(link)))
            numbers = range(2, 2 + min(CHANNELS_EACH, count - first))
            link.socket.sendall(b"".join(frames.method(number, 20, 10, b"\0") for number in numbers))
            _skip(link.socket, len(numbers) * len(frames.method(1, 20, 11, b"\0\0\0\0")))

        def go() -> None:
            for link in links:
                link.close()

        yield go


def _inputs(broker: Broker, scale: float) -> dict[str, Callable[[], contextlib.AbstractContextManager[Release]]]:
    def many(count: int) -> int:
        return max(1, int(count * scale))

    return {
        "nothing": lambda: contextlib.nullcontext(lambda: time.sleep(IDLE_S)),
        f"DescribeGroups of {ELEMENTS:,} groups": lambda: _asking(broker, _describe_groups()),
        f"OffsetCommit of {ELEMENTS:,} partitions": lambda: _asking(broker, _offset_commit()),
        f"Metadata of {ELEMENTS:,} topics": lambda: _asking(broker, _metadata()),
        f"Fetch of {ELEMENTS:,} partitions": lambda: _asking(broker, _fetch()),
        "a batch of a million records, and ListOffsets": lambda: _million_records(broker),
        f"{many(10_000):,} consumers of one queue go": lambda: _consumers(broker, many(10_000)),
        f"a connection with {many(99_000):,} exclusive queues goes": lambda: _exclusive_queues(broker, many(99_000)),
        f"a queue with {many(100_000):,} bindings is deleted": lambda: _bindings(broker, many(100_000)),
        f"{many(100_000):,} channels go": lambda: _channels(broker, many(100_000)),
    }


def _wait_until_quiet(broker: Broker) -> None:
    """Until the broker has nothing to do any more. Raises TimeoutError."""
    deadline_s = time.monotonic() + QUIET_TIMEOUT_S
    while True:
        before = cpu_s(broker.pids())
        time.sleep(QUIET_S)
        if cpu_s(broker.pids()) - before < QUIET_SHARE * QUIET_S:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the broker is still at work after {QUIET_TIMEOUT_S:.0f} s")


def measure(scale: float = 1.0) -> Iterator[Waits]:
    """All inputs, one after the other beside one broker; `scale` is of those over AMQP. Raises OSError."""
    settings = ("listeners.kafka=127.0.0.1:0", "limits.queues_max=200000")
    with running_jackalope(settings=settings, http=False) as broker:
        _create_topic(broker, "wide", 10_000)
        bystander = Bystander(broker)
        try:
            for name, opened in _inputs(broker, scale).items():
                _wait_until_quiet(broker)
                bystander.read()
                with opened() as release:
                    _, making_ms = bystander.read()
                    began = time.perf_counter()
                    release()
                    _wait_until_quiet(broker)
                    rounds, worst_ms = bystander.read()
                yield Waits(name, rounds, making_ms, worst_ms, time.perf_counter() - began)
        finally:
            bystander.close()

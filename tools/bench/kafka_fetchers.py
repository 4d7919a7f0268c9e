"""A load process of plain Fetch requests: many groups in one process, at a fraction of librdkafka's cost.

Owns: one connection and one outstanding fetch a group, counting, and an OffsetCommit of each group every five seconds
(over one more connection). For a thousand consumers, where a thousand librdkafka clients would be what is measured, and
for the rows in which the broker and not the client is to be the limit.
"""

import select
import socket
import struct
import time

from tools.bench.board import Board
from tools.bench.kafka_job import KafkaJob, stamps_in
from tools.bench.kafka_wire import (
    NOT_YET,
    FetchAnswers,
    Fetched,
    FetchRequest,
    KafkaError,
    commit_request,
    connect,
)

POLL_S = 0.02
BUFFER_BYTES = 2_500_000  # A fetch of 1 MiB brings at least one whole batch, and that has 1 MB at most.
COMMIT_INTERVAL_S = 5.0
TIMED_GROUPS = 50  # Ages are taken of the messages of so many groups, spread over all of them.


class Fetcher:
    """One group: its connection, its place in the log, and the answer that is coming in."""

    __slots__ = ("_buffer", "_have", "connection", "offset", "timed")

    def __init__(self, job: KafkaJob, *, timed: bool) -> None:
        self.connection = connect(job.host, job.port, job.congestion)
        self.connection.settimeout(None)  # With a timeout Python would wait even where MSG_DONTWAIT says not to.
        self.offset = 0
        self.timed = timed
        self._buffer = memoryview(bytearray(BUFFER_BYTES))  # Untouched pages cost nothing.
        self._have = 0

    def receive(self) -> memoryview | None:
        """One read; the whole answer without its length once it is there."""
        try:
            size = self.connection.recv_into(self._buffer[self._have :], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if size == 0:
            raise KafkaError("the broker dropped the connection")
        self._have += size
        if self._have < 4:
            return None
        (length,) = struct.unpack_from(">i", self._buffer)
        if not 0 <= length <= BUFFER_BYTES - 4:
            raise KafkaError(f"an answer of {length} bytes")
        if self._have < 4 + length:
            return None
        self._have = 0
        return self._buffer[4 : 4 + length]


class Committer:
    """Commits each group's offset in its turn, and looks at the answers."""

    def __init__(self, job: KafkaJob, groups: list[str], fetchers: list[Fetcher]) -> None:
        self._topic, self._groups, self._fetchers = job.topic, groups, fetchers
        self.connection = connect(job.host, job.port, job.congestion)
        self.connection.settimeout(None)
        self._began_s = time.monotonic()
        self._sent = 0
        self._received = b""

    def commit_due(self) -> None:
        """Send what is due by now, and read what was answered. Raises KafkaError."""
        due = int((time.monotonic() - self._began_s) / COMMIT_INTERVAL_S * len(self._groups))
        for number in range(self._sent, due):
            at = number % len(self._groups)
            self.connection.sendall(commit_request(self._groups[at], self._topic, self._fetchers[at].offset))
        self._sent = max(due, self._sent)
        try:
            self._received += self.connection.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        while len(self._received) >= 4:
            end = 4 + struct.unpack_from(">i", self._received)[0]
            if len(self._received) < end:
                return
            (error,) = struct.unpack_from(">h", self._received, end - 2)
            if error and error not in NOT_YET:
                raise KafkaError(f"OffsetCommit was answered with error {error}")
            self._received = self._received[end:]


def _note_ages(fetched: Fetched, board: Board) -> None:
    now_ns = time.perf_counter_ns()
    for stamp_ns in stamps_in(bytes(fetched.records)):
        board.add_latency_ns(now_ns - stamp_ns)


def fetch(job: KafkaJob, board: Board) -> None:
    """Follow the end of the log, or read a filled topic again and again, once for each group."""
    groups, lap = job.groups(), job.scenario.preload_messages
    every = max(1, len(groups) // TIMED_GROUPS)
    fetchers = [Fetcher(job, timed=not lap and at % every == 0) for at in range(len(groups))]
    by_number = {fetcher.connection.fileno(): fetcher for fetcher in fetchers}
    wanted, answers, committer = FetchRequest(job.topic), FetchAnswers(job.topic), Committer(job, groups, fetchers)
    poll = select.epoll()
    for fetcher in fetchers:
        poll.register(fetcher.connection, select.EPOLLIN)
    board.wait_for_load(job.worker)
    for fetcher in fetchers:
        fetcher.connection.sendall(wanted.at(0))
    delivered = 0
    while board.running:
        for number, _ in poll.poll(POLL_S):
            fetcher = by_number[number]
            if (answer := fetcher.receive()) is None:
                continue
            fetched = answers.read(answer, fetcher.offset)
            delivered += fetched.count
            fetcher.offset = 0 if lap and fetched.next_offset >= lap else fetched.next_offset
            if fetcher.timed and board.measuring:
                _note_ages(fetched, board)
            fetcher.connection.sendall(wanted.at(fetcher.offset))
        board.set_delivered(job.worker, delivered)
        committer.commit_due()

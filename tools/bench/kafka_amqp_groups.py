"""Load processes of many AMQP consumers of one topic: a thousand that each read all of it, or ten that share it out.

Owns: an epoll loop over plain links for the thousand, with the ages of what some of them get; members of a consumer
group (`x-group`) with pika, of which one leaves again and again, and the proof that nothing was lost or came twice.
"""

import select
import socket
import time
from collections import Counter
from typing import Any

from tools.bench import frames
from tools.bench.board import Board
from tools.bench.kafka_bridge import PREFETCH, target_of
from tools.bench.kafka_fetchers import POLL_S, TIMED_GROUPS
from tools.bench.kafka_job import KafkaJob, stamps_in
from tools.bench.link import Link, PeerClosed, open_links

ACK_EVERY = 250
BUFFER_BYTES = 256 * 1024


class _Reader:
    """One consumer of the stream on a connection of its own."""

    __slots__ = ("_acknowledged", "_counter", "_rest", "connection", "timed")

    def __init__(self, link: Link, topic: str, *, timed: bool) -> None:
        link.qos(PREFETCH)
        self.timed = timed
        self._counter, self._acknowledged = frames.DeliveryCounter(), 0
        self._rest = link.consume(topic, "reader", auto_ack=False)
        self.connection = link.hand_over()
        if self._rest:
            self._counter.feed(memoryview(self._rest))

    def read(self, buffer: memoryview, board: Board) -> int:
        """One read: how many deliveries it completed. Raises PeerClosed, StreamError."""
        try:
            size = self.connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        if not size:
            raise PeerClosed("the broker dropped the connection")
        count = self._counter.feed(buffer[:size])
        if self._counter.count - self._acknowledged >= ACK_EVERY:
            self._acknowledged = self._counter.count
            self.connection.sendall(frames.ack(self._acknowledged, multiple=True))
        if self.timed:
            self._note_ages(bytes(buffer[:size]), board)
        return count

    def _note_ages(self, data: bytes, board: Board) -> None:
        """Of whole messages: a time that was cut in two cannot be read."""
        data = self._rest + data
        length = self._counter.message_bytes
        whole = len(data) // length * length if length else 0
        self._rest = data[whole:]
        if board.measuring:
            now_ns = time.perf_counter_ns()
            for stamp_ns in stamps_in(data[:whole]):
                board.add_latency_ns(now_ns - stamp_ns)


def amqp_fan(job: KafkaJob, board: Board) -> None:
    """As many consumers as the scenario has groups, each of which gets everything."""
    count, poll = job.scenario.groups, select.epoll()
    every = max(1, count // TIMED_GROUPS)
    with open_links(target_of(job), count) as links:
        readers = [_Reader(link, job.topic, timed=at % every == 0) for at, link in enumerate(links)]
        by_number = {reader.connection.fileno(): reader for reader in readers}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        board.wait_for_load(job.worker)
        delivered = 0
        while board.running:
            for number, _ in poll.poll(POLL_S):
                delivered += by_number[number].read(buffer, board)
            board.set_delivered(job.worker, delivered)


class Watch:
    """What all members of the group were given: which partitions since a moment, and every offset how often."""

    def __init__(self) -> None:
        self.since_ns = 0
        self.heard: set[int] = set()
        self.seen: Counter[tuple[int, int]] = Counter()

    def restart(self) -> int:
        """From now on only what is sent from now on tells that a partition is read; the moment."""
        self.since_ns = time.perf_counter_ns()
        self.heard = set()
        return self.since_ns

    def note(self, partition: int, offset: int, body: bytes) -> None:
        """A delivery."""
        self.seen[partition, offset] += 1
        if stamps_in(body)[0] > self.since_ns:
            self.heard.add(partition)

    def faults(self) -> str:
        """What came twice and what never came, below the last of each partition; empty where all is well."""
        twice = [place for place, count in self.seen.items() if count > 1]
        ends: dict[int, int] = {}
        for partition, offset in self.seen:
            ends[partition] = max(ends.get(partition, -1), offset)
        lost = [
            (partition, offset)
            for partition, end in ends.items()
            for offset in range(end)
            if (partition, offset) not in self.seen
        ]
        return f"twice: {twice[:5]} of {len(twice)}, lost: {lost[:5]} of {len(lost)}" if twice or lost else ""


class _Member:
    """A consumer of the group, which acknowledges each message as it comes."""

    def __init__(self, job: KafkaJob, watch: Watch) -> None:
        import pika

        target = target_of(job)
        login = pika.PlainCredentials(target.user, target.password)
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(target.host, target.port, target.vhost, login, heartbeat=0)
        )
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._watch = watch
        arguments = {"x-group": job.groups()[0], "x-stream-offset": "first"}
        self._tag = self._channel.basic_consume(job.topic, self._on_message, arguments=arguments)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._watch.note(properties.headers["x-stream-partition"], properties.headers["x-stream-offset"], body)
        channel.basic_ack(method.delivery_tag)

    def serve(self) -> None:
        """What has come."""
        self._connection.process_data_events(0)

    def leave(self) -> None:
        """Cancel, and close once everything that was with it is acknowledged."""
        self._channel.basic_cancel(self._tag)
        self._connection.close()


def _settle(members: list[_Member], watch: Watch, partitions: int, board: Board) -> bool:
    """Serve the members until each partition has brought something that was sent since; False when told to stop."""
    while board.running:
        for member in members:
            member.serve()
        if len(watch.heard) == partitions:
            return True
    return False


def amqp_leave(job: KafkaJob, board: Board) -> None:
    """A group of which one member leaves and, once every partition is read again, another joins, again and again."""
    scenario, watch, done = job.scenario, Watch(), 0
    members = [_Member(job, watch) for _ in range(scenario.members)]
    board.wait_for_load(job.worker)
    watch.restart()
    settled = _settle(members, watch, scenario.partitions, board)
    while settled:
        left_ns = watch.restart()
        members.pop(done % len(members)).leave()
        settled = _settle(members, watch, scenario.partitions, board)
        if settled and board.measuring:
            board.add_latency_ns(time.perf_counter_ns() - left_ns)
        done += settled
        board.trips = done
        members.append(_Member(job, watch))
        watch.restart()
        settled = settled and _settle(members, watch, scenario.partitions, board)
        if faults := watch.faults():
            raise RuntimeError(faults)

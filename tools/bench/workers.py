"""Load processes: one function per kind of load, each run in a process of its own.

Owns: the loops. They work on raw sockets with what `frames` rendered before, and report through the `Board` only.
Every loop ends with the board. An error ends the process with a traceback and a status that the measuring side sees.
"""

import itertools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.bench import frames
from tools.bench.board import Board
from tools.bench.link import Link, Target, open_link, open_links, receive_into
from tools.bench.scenarios import Load, Scenario

CHUNK_BYTES = 128 * 1024
CHUNK_MESSAGES_MAX = 1000
RECEIVE_BYTES = 512 * 1024
RECEIVE_LOW_BYTES = 16 * 1024
THROTTLE_S = 0.0005
CONSUMER_CONNECTIONS_MAX = 16
POLL_S = 0.2
SEND_TIMEOUT_S = 10
MARK = b"~!~!~!~!"  # Overwritten with the generation: 8 hexadecimal digits.


@dataclass(frozen=True, slots=True)
class Job:
    """What a load process is given. `run` names this run's objects; `worker` is its number on the board."""

    target: Target
    scenario: Scenario
    run: str
    worker: int

    @property
    def exchange(self) -> str:
        """The exchange that is published to."""
        return f"bench.{self.run}" if self.scenario.exchange_type else ""

    def queue(self, number: int) -> str:
        """The name of a queue; all have one length, since deliveries are counted by it."""
        return f"bench.{self.run}.{number:03d}"

    def routing_key(self, number: int = 0) -> str:
        """The routing key of messages for a queue."""
        return "order.created.eu" if self.scenario.exchange_type else self.queue(number)


def render_message(job: Job, number: int, index: int, frame_bytes_max: int) -> bytes:
    """One publish for queue `number`, the `index`th of its chunk."""
    scenario, mark = job.scenario, MARK.decode()
    key = f"order.{index:04d}.{mark}" if scenario.unique_keys else job.routing_key(number)
    task_id = f"{mark}-7c1e-4b52-a3f0-{index:012d}"
    property_bytes = frames.celery_properties(task_id) if scenario.properties == "celery" else b"\0\0"
    if scenario.durable:
        property_bytes = frames.properties(delivery_mode=2)
    body = frames.body_of(scenario.body_bytes)
    return frames.publish(job.exchange, key, body, property_bytes, frame_bytes_max=frame_bytes_max)


def render_chunk(job: Job, number: int, frame_bytes_max: int, count_max: int = CHUNK_MESSAGES_MAX) -> frames.Chunk:
    """As many messages as one write takes."""
    first = render_message(job, number, 0, frame_bytes_max)
    count = max(1, min(count_max, CHUNK_BYTES // len(first)))
    marked = job.scenario.unique_keys or job.scenario.properties == "celery"
    messages = [render_message(job, number, index, frame_bytes_max) for index in range(count)]
    return frames.Chunk(messages, MARK if marked else b"")


def render_round(job: Job, frame_bytes_max: int, count: int) -> list[frames.Chunk]:
    """Chunks of `count` messages that together go round all queues of the scenario."""
    queues = job.scenario.queues if job.scenario.durable else 1
    size = len(render_message(job, 0, 0, frame_bytes_max))
    count = max(1, min(count, CHUNK_MESSAGES_MAX, CHUNK_BYTES // size))
    starts = range(0, max(queues, count), count)
    return [
        frames.Chunk([render_message(job, at % queues, at, frame_bytes_max) for at in range(start, start + count)])
        for start in starts
    ]


def flood(job: Job, board: Board) -> None:
    """Publish as fast as the broker reads, but never more than the lag ahead of the consumers."""
    link = open_link(job.target)
    connection, chunk, scenario = link.hand_over(), render_chunk(job, 0, link.frame_bytes_max), job.scenario
    board.wait_for_load(job.worker)
    published = 0
    _set_send_timeout(connection)
    for generation in itertools.count():
        while published - board.delivered // scenario.copies > scenario.lag_messages_max and board.running:
            time.sleep(THROTTLE_S)
        if not board.running:
            break
        chunk.restamp(generation)
        connection.sendall(chunk.view)
        published += chunk.count
        board.set_published(job.worker, published)
    link.close()


def _set_send_timeout(connection: socket.socket) -> None:
    """Let a blocking write fail when the broker has not read for 10 s. (TLS sockets have a timeout of their own.)"""
    if connection.gettimeout() is None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
    else:
        connection.settimeout(SEND_TIMEOUT_S)


def confirmed(job: Job, board: Board) -> None:
    """Publish with a window of unconfirmed messages, an eighth of it at a time."""
    link, window = open_link(job.target), job.scenario.window
    link.confirm_select()
    chunks = itertools.cycle(render_round(job, link.frame_bytes_max, window // 8))
    chunk = next(chunks)
    connection = link.hand_over()
    _set_send_timeout(connection)
    buffer, counter, published = memoryview(bytearray(65536)), frames.ConfirmCounter(), 0
    board.wait_for_load(job.worker)
    while board.running:
        while published - counter.count <= window - chunk.count:
            connection.sendall(chunk.view)
            published += chunk.count
            chunk = next(chunks)
        counter.feed(bytes(buffer[: receive_into(connection, buffer)]), published)
        board.set_published(job.worker, published)
        while published - board.delivered > job.scenario.lag_messages_max and board.running:
            time.sleep(THROTTLE_S)
    link.close()


def unbatched(job: Job, board: Board) -> None:
    """One publish a write on each of many connections; the next one follows the confirm of the last."""
    with open_links(job.target, job.scenario.connections) as links:
        message = render_message(job, 0, 0, links[0].frame_bytes_max)
        for link in links:
            link.confirm_select()
        poll, connections = _poll(links)
        board.wait_for_load(job.worker)
        received, published = dict.fromkeys(connections, 0), 0
        sent_ns = time.perf_counter_ns()
        for connection in connections.values():
            connection.sendall(message)
            published += 1
        while board.running:
            for number, _ in poll.poll(POLL_S):
                connection = connections[number]
                data = connection.recv(4096)
                if not data or (len(data) == frames.ACK_BYTES and data[7:11] != b"\x00\x3c\x00\x50"):
                    raise frames.StreamError(f"expected a confirm: {data[:80]!r}")
                received[number] += len(data)
                if received[number] % frames.ACK_BYTES == 0:
                    if job.scenario.confirm_latency and board.measuring:
                        board.add_latency_ns(time.perf_counter_ns() - sent_ns)
                    sent_ns = time.perf_counter_ns()
                    connection.sendall(message)
                    published += 1
            board.set_published(job.worker, published)
            while published - board.delivered > job.scenario.lag_messages_max and board.running:
                time.sleep(THROTTLE_S)


class Place:
    """Where a connection stands in its chunk, when its socket takes less than all."""

    __slots__ = ("_at", "_chunk")

    def __init__(self, chunk: frames.Chunk) -> None:
        self._chunk = chunk
        self._at = 0

    def send_some(self, connection: socket.socket) -> int:
        """One write; returns how many messages it completed."""
        try:
            end = self._at + connection.send(self._chunk.view[self._at :])
        except BlockingIOError:
            return 0
        completed = end // self._chunk.stride - self._at // self._chunk.stride
        self._at = end % len(self._chunk.view)
        return completed


def floods(job: Job, board: Board) -> None:
    """Many connections that each flood a queue of their own, as far as each socket takes bytes."""
    with open_links(job.target, job.scenario.connections) as links:
        chunks = [render_chunk(job, number, link.frame_bytes_max) for number, link in enumerate(links)]
        poll, connections = _poll(links, select.EPOLLOUT)
        places = {link.socket.fileno(): Place(chunk) for link, chunk in zip(links, chunks, strict=True)}
        for connection in connections.values():
            connection.setblocking(False)
        board.wait_for_load(job.worker)
        published = 0
        while board.running:
            if published - board.delivered > job.scenario.lag_messages_max:
                time.sleep(THROTTLE_S)
                continue
            for number, _ in poll.poll(POLL_S):
                published += places[number].send_some(connections[number])
            board.set_published(job.worker, published)


class Consumer:
    """One connection that consumes from `queues`: its socket, its count, and how it acknowledges."""

    __slots__ = ("_acked", "_connection", "_sheet", "_step", "counter", "link")

    def __init__(self, job: Job, queues: list[str], sheet: frames.AckSheet | None) -> None:
        scenario = job.scenario
        self.link = open_link(job.target)
        if scenario.prefetch:
            self.link.qos(scenario.prefetch)
        first = b""
        for number, queue in enumerate(queues):
            first += self.link.consume(queue, f"c{job.worker:02d}.{number:03d}", auto_ack=scenario.acks == "auto")
        self._connection = self.link.hand_over()
        if scenario.acks == "auto" and not scenario.tls:
            # Waking up for every small write of the broker would make the client dearer than a fast broker.
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, RECEIVE_LOW_BYTES)
        self.counter = frames.DeliveryCounter()
        self._acked = 0
        self._sheet = sheet
        # A quarter of the prefetch, so that the broker always has some left to deliver.
        self._step = max(1, scenario.prefetch // 4) if scenario.acks == "multiple" else 1
        if first:
            self.take(memoryview(first))

    def take(self, data: memoryview) -> int:
        """Count these bytes and acknowledge what they completed."""
        new, total = self.counter.feed(data), self.counter.count
        if self._sheet is None:
            return new
        if self._step > 1:
            due = total - (total - self._acked) % self._step
            if due > self._acked:
                self._connection.sendall(frames.ack(due, multiple=True))
                self._acked = due
        elif new:
            for part in self._sheet.slices(self._acked + 1, total):
                self._connection.sendall(part)
            self._acked = total
        return new


def consume(job: Job, board: Board) -> None:
    """One connection and consumer per queue, all in this process; one connection for all when they are many."""
    sheet = None if job.scenario.acks == "auto" else frames.AckSheet()
    queues = [job.queue(number) for number in range(job.scenario.queues)]
    groups = [queues] if len(queues) > CONSUMER_CONNECTIONS_MAX else [[queue] for queue in queues]
    consumers = [Consumer(job, group, sheet) for group in groups]
    buffer = memoryview(bytearray(RECEIVE_BYTES))
    delivered = sum(consumer.counter.count for consumer in consumers)
    board.wait_for_load(job.worker)
    for consumer in _ready(consumers, board):
        size = receive_into(consumer.link.socket, buffer)
        if size and (new := consumer.take(buffer[:size])):
            delivered += new
            board.set_delivered(job.worker, delivered)
    for consumer in consumers:
        consumer.link.close()


def _ready(consumers: list[Consumer], board: Board) -> Iterator[Consumer]:
    """The consumers that have something to read, until the board says stop."""
    if len(consumers) == 1:
        while board.running:
            yield consumers[0]
        return
    poll, _ = _poll([consumer.link for consumer in consumers])
    by_number = {consumer.link.socket.fileno(): consumer for consumer in consumers}
    while board.running:
        for number, _ in poll.poll(POLL_S):
            yield by_number[number]


def _poll(links: list[Link], events: int = select.EPOLLIN) -> tuple[select.epoll, dict[int, socket.socket]]:
    poll, connections = select.epoll(), {}
    for link in links:
        connections[link.socket.fileno()] = link.hand_over()
        poll.register(link.socket, events)
    return poll, connections


class Pair:
    """A requester and a responder, with the two messages they exchange rendered once."""

    __slots__ = ("_replies", "_reply", "_request", "_requests", "requester", "responder", "sent_ns")

    def __init__(self, job: Job, number: int, requester: Link, responder: Link) -> None:
        self.requester, self.responder = requester, responder
        requests, replies = f"rq.{job.run}.{number:03d}", f"rp.{job.run}.{number:03d}"
        responder.declare_queue(requests, exclusive=True)
        requester.declare_queue(replies, exclusive=True)
        body = frames.body_of(job.scenario.body_bytes)
        wanted = frames.properties(correlation_id=f"{number:036d}", reply_to=replies)
        self._request = frames.publish("", requests, body, wanted)
        self._reply = frames.publish("", replies, body, frames.properties(correlation_id=f"{number:036d}"))
        responder.consume(requests, "s", auto_ack=True)
        requester.consume(replies, "c", auto_ack=True)
        self._requests, self._replies = frames.DeliveryCounter(), frames.DeliveryCounter()
        self.sent_ns = 0

    def ask(self) -> None:
        """Send the request."""
        self.sent_ns = time.perf_counter_ns()
        self.requester.socket.sendall(self._request)

    def on_request(self, data: memoryview) -> int:
        """The responder received something: answer a whole request. No round trip is complete by that."""
        if self._requests.feed(data):
            self.responder.socket.sendall(self._reply)
        return 0

    def on_reply(self, data: memoryview) -> int:
        """The requester received something: how long the round trip took in ns, 0 while it is incomplete."""
        return time.perf_counter_ns() - self.sent_ns if self._replies.feed(data) else 0


def round_trips(job: Job, board: Board) -> None:
    """Request and reply between pairs of connections; each pair has one request under way."""
    with open_links(job.target, 2 * job.scenario.pairs) as links:
        pairs = [Pair(job, at, *links[2 * at : 2 * at + 2]) for at in range(job.scenario.pairs)]
        poll, connections = _poll(links)
        handlers: dict[int, tuple[Pair, Callable[[memoryview], int]]] = {}
        for pair in pairs:
            handlers[pair.requester.socket.fileno()] = (pair, pair.on_reply)
            handlers[pair.responder.socket.fileno()] = (pair, pair.on_request)
        buffer, done = memoryview(bytearray(65536)), 0
        board.wait_for_load(job.worker)
        for pair in pairs:
            pair.ask()
        while board.running:
            for number, _ in poll.poll(POLL_S):
                pair, handle = handlers[number]
                if latency_ns := handle(buffer[: receive_into(connections[number], buffer)]):
                    done += 1
                    if board.measuring:
                        board.add_latency_ns(latency_ns)
                    pair.ask()
            board.trips = done


LOADS: dict[Load, Callable[[Job, Board], None]] = {
    "flood": flood,
    "floods": floods,
    "confirmed": confirmed,
    "unbatched": unbatched,
    "consume": consume,
    "round_trips": round_trips,
}

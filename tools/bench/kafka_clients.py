"""Load processes of the Kafka benchmark that use librdkafka (confluent-kafka), as most of Kafka's users do.

Owns: the loops and librdkafka's settings, which are the same for every broker. Counts go to the `Board`. In forked
children only: librdkafka's threads do not survive a fork, so the measuring process never opens a client of it.
"""

import threading
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tools.bench.board import Board
from tools.bench.kafka_job import KafkaJob, render_bodies, stamped, stamps_in

BATCH_MESSAGES = 500  # Of one call of produce_batch.
OUTSTANDING_MESSAGES_MAX = 50_000
CONSUME_MESSAGES = 5_000
POLL_S = 0.1
POLL_S_MIN = 0.001  # Less is rounded down to not waiting at all.
IDLE_S = 0.0005
FLUSH_S = 10.0
JOIN_TIMEOUT_S = 30.0
QUIET = {"log_level": 0}  # A broker that ends before its clients is no news.

BULK = {
    "linger.ms": 5, "batch.size": 1_000_000, "batch.num.messages": 100_000, "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1 << 20, "enable.idempotence": False, "delivery.report.only.error": True,
}  # fmt: skip
PACED = {"linger.ms": 1, "enable.idempotence": False, "delivery.report.only.error": True}
# Without the last two librdkafka pauses for a second whenever 64 MB wait for an application that is slower than it.
READER = {"auto.offset.reset": "earliest", "enable.auto.commit": True, "fetch.queue.backoff.ms": 2,
          "queued.min.messages": 100_000}  # fmt: skip
# Who seeks back to the beginning waits for the fetch that it has outstanding at the end: half a second by default, and
# on a busy machine several of those were seen to fill a window.
LAPPER = {**READER, "fetch.wait.max.ms": 20}
# A member learns of a rebalance by its next heartbeat, so the interval is most of the time that a rebalance takes.
MEMBER = {"heartbeat.interval.ms": 300, "session.timeout.ms": 10_000, "auto.offset.reset": "latest"}


def _producer(job: KafkaJob, settings: dict[str, Any]) -> Producer:
    scenario = job.scenario
    producer = Producer({"bootstrap.servers": job.address, "acks": scenario.acks,
                         "compression.type": scenario.compression, **QUIET, **settings})  # fmt: skip
    producer.list_topics(job.topic, timeout=JOIN_TIMEOUT_S)
    return producer


def _send(producer: Producer, job: KafkaJob, messages: list[dict[str, bytes]], partition: int) -> int:
    """One batch, once there is room for it; returns what was queued."""
    while len(producer) > OUTSTANDING_MESSAGES_MAX:
        producer.poll(POLL_S_MIN)
    producer.poll(0)
    return producer.produce_batch(job.topic, messages, partition=partition)


def produce(job: KafkaJob, board: Board) -> None:
    """As fast as the broker acknowledges, one partition after the other; published is what was acknowledged."""
    producer, partitions = _producer(job, BULK), job.scenario.partitions
    messages = [{"value": body} for body in render_bodies(job.scenario.body_bytes)][:BATCH_MESSAGES]
    board.wait_for_load(job.worker)
    queued = turn = 0
    lag_max = job.scenario.lag_messages_max
    while board.running:
        while lag_max and queued - board.delivered > lag_max and board.running:
            producer.poll(POLL_S_MIN)
        queued += _send(producer, job, messages, turn % partitions)
        turn += 1
        board.set_published(job.worker, _acknowledged(producer, queued))
    producer.flush(FLUSH_S)
    board.set_published(job.worker, _acknowledged(producer, queued))


def group(job: KafkaJob, board: Board) -> None:
    """The consumers of groups, reading on from where they are."""
    opened = [_reader(job, name, READER) for name in job.groups()]
    delivered = sum(count for _, count in opened)
    board.wait_for_load(job.worker)
    while board.running:
        for reader, _ in opened:
            delivered += len(reader.consume(CONSUME_MESSAGES, POLL_S_MIN * 10))
        board.set_delivered(job.worker, delivered)


def _acknowledged(producer: Producer, queued: int) -> int:
    """Of what was queued; the client counts its own events with the messages that are outstanding."""
    return max(0, queued - len(producer))


def preload(job: KafkaJob, _board: Board) -> None:
    """Fill the topic, and end."""
    producer = _producer(job, BULK)
    messages = [{"value": body} for body in render_bodies(job.scenario.body_bytes)][:BATCH_MESSAGES]
    queued = 0
    while queued < job.scenario.preload_messages:
        queued += _send(producer, job, messages, 0)
    producer.flush(FLUSH_S)


def paced(job: KafkaJob, board: Board) -> None:
    """So many messages a second, to one partition after the other, each with the time at which the client got it."""
    producer, body = _producer(job, PACED), render_bodies(job.scenario.body_bytes, 1)[0]
    board.wait_for_load(job.worker)
    interval_ns = 1_000_000_000 // job.scenario.messages_per_s
    due_ns, queued = time.perf_counter_ns(), 0
    while board.running:
        while (now_ns := time.perf_counter_ns()) >= due_ns:
            producer.produce(job.topic, stamped(body, now_ns), partition=queued % job.scenario.partitions)
            queued += 1
            due_ns += interval_ns
        producer.poll(0)
        board.set_published(job.worker, _acknowledged(producer, queued))
        time.sleep(max(0.0, min(POLL_S, (due_ns - time.perf_counter_ns()) / 1e9)))
    producer.flush(FLUSH_S)


def _reader(job: KafkaJob, group: str, settings: dict[str, Any]) -> tuple[Consumer, int]:
    """A consumer that has its assignment, and how many messages it has read with that."""
    consumer = Consumer({"bootstrap.servers": job.address, "group.id": group, **QUIET, **settings})
    consumer.subscribe([job.topic])
    end_s = time.monotonic() + JOIN_TIMEOUT_S
    count = 0
    while not consumer.assignment():
        count += len(consumer.consume(1, POLL_S))
        if time.monotonic() > end_s:
            raise TimeoutError(f"no assignment for {group} after {JOIN_TIMEOUT_S:.0f} s")
    return consumer, count


def consume(job: KafkaJob, board: Board) -> None:
    """A consumer for each group, reading a filled topic again and again from its beginning."""
    opened = [_reader(job, group, LAPPER) for group in job.groups()]
    readers, read = [reader for reader, _ in opened], [count for _, count in opened]
    beginning, lap_messages = TopicPartition(job.topic, 0, 0), job.scenario.preload_messages
    board.wait_for_load(job.worker)
    delivered = 0
    while board.running:
        before = delivered
        for at, reader in enumerate(readers):
            count = len(reader.consume(min(CONSUME_MESSAGES, lap_messages - read[at]), 0))
            read[at] += count
            delivered += count
            if read[at] == lap_messages:
                reader.seek(beginning)
                read[at] = 0
        board.set_delivered(job.worker, delivered)
        if delivered == before:
            time.sleep(IDLE_S)


def follow(job: KafkaJob, board: Board) -> None:
    """One consumer at the end of the log, and how old each message is when it comes out of the client."""
    reader, delivered = _reader(job, job.groups()[0], READER)
    board.wait_for_load(job.worker)
    while board.running:
        message = reader.poll(POLL_S)
        if message is None or message.error() is not None:
            continue
        now_ns, value = time.perf_counter_ns(), message.value()
        delivered += 1
        board.set_delivered(job.worker, delivered)
        if board.measuring and value is not None:
            board.add_latency_ns(now_ns - stamps_in(value)[0])


class Member:
    """A member of the group, and when it was last given how many partitions; None between revocation and assignment."""

    def __init__(self, job: KafkaJob, group: str) -> None:
        self.partitions: int | None = None
        self.assigned_ns = 0
        self.consumer = Consumer({"bootstrap.servers": job.address, "group.id": group, **QUIET, **MEMBER})
        self.consumer.subscribe([job.topic], on_assign=self._on_assign, on_revoke=self._on_revoke)

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.partitions, self.assigned_ns = len(partitions), time.perf_counter_ns()

    def _on_revoke(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self.partitions = None


def _settle(members: list[Member], partitions: int, after_ns: int, board: Board) -> bool:
    """Serve the members until each was assigned something after `after_ns`, all partitions in all; False when told to
    stop before."""
    while board.running:
        for member in members:
            member.consumer.poll(0)
        given = [member.partitions for member in members if member.assigned_ns > after_ns]
        if len(given) == len(members) and sum(count or 0 for count in given) == partitions and None not in given:
            return True
        time.sleep(IDLE_S)
    return False


def leave(job: KafkaJob, board: Board) -> None:
    """A group of which one member leaves and, once the others are settled, another joins, again and again."""
    scenario, group = job.scenario, job.groups()[0]
    members = [Member(job, group) for _ in range(scenario.members)]
    settled, done = _settle(members, scenario.partitions, 0, board), 0
    board.wait_for_load(job.worker)
    while settled:
        leaver, left_ns = members.pop(done % len(members)), time.perf_counter_ns()
        closing = threading.Thread(target=leaver.consumer.close, daemon=True)
        closing.start()  # In a thread of its own: the others are served meanwhile.
        settled = _settle(members, scenario.partitions, left_ns, board)
        if settled and board.measuring:
            board.add_latency_ns(max(member.assigned_ns for member in members) - left_ns)
        done += settled
        board.trips = done
        closing.join(JOIN_TIMEOUT_S)
        joined_ns = time.perf_counter_ns()
        members.append(Member(job, group))
        settled = settled and _settle(members, scenario.partitions, joined_ns, board)

"""Load processes that speak AMQP beside Kafka's clients: what goes into a topic over one and comes out over the other.

Owns: a confirmed publisher into an exchange that leads to the run's topic, and a consumer of the topic as a stream.
They need a broker that speaks both. The frames are those of the AMQP benchmark.
"""

import time

from tools.bench import frames
from tools.bench.board import Board
from tools.bench.kafka_job import KafkaJob
from tools.bench.link import Target, open_link, receive_into
from tools.bench.window import Unavailable
from tools.bench.workers import THROTTLE_S

ROUTING_KEY = "order.created.eu"
WINDOW = 2000
CHUNK_MESSAGES = 250
PREFETCH = 1000
LAG_MESSAGES_MAX = 50_000


def target_of(job: KafkaJob) -> Target:
    """Where the broker speaks AMQP. Raises Unavailable when it does not."""
    if job.amqp is None:
        raise Unavailable("no AMQP listener here")
    return Target(*job.amqp, congestion=job.congestion)


def amqp_publish(job: KafkaJob, board: Board) -> None:
    """Persistent messages through a topic exchange into the run's topic, a window of them unconfirmed."""
    link, exchange = open_link(target_of(job)), f"bench.{job.run}"
    link.declare_exchange(exchange, "topic")
    link.bind_queue(job.topic, exchange, "order.#")
    link.confirm_select()
    body = frames.body_of(job.scenario.body_bytes)
    message = frames.publish(exchange, ROUTING_KEY, body, frames.properties(delivery_mode=2))
    chunk = frames.Chunk([message] * CHUNK_MESSAGES)
    connection, counter, published = link.hand_over(), frames.ConfirmCounter(), 0
    buffer = memoryview(bytearray(65536))
    board.wait_for_load(job.worker)
    while board.running:
        while published - counter.count <= WINDOW - chunk.count:
            connection.sendall(chunk.view)
            published += chunk.count
        counter.feed(bytes(buffer[: receive_into(connection, buffer)]), published)
        board.set_published(job.worker, counter.count)
        while counter.count - board.delivered > LAG_MESSAGES_MAX and board.running:
            time.sleep(THROTTLE_S)
    link.close()
    cleaner = open_link(target_of(job))
    cleaner.delete_exchange(exchange)
    cleaner.close_politely()


def amqp_read(job: KafkaJob, board: Board) -> None:
    """A consumer of the stream from its end on, with acknowledgements of many at once."""
    link = open_link(target_of(job))
    link.qos(PREFETCH)
    first = link.consume(job.topic, "reader", auto_ack=False)
    connection, counter, step = link.hand_over(), frames.DeliveryCounter(), PREFETCH // 4
    buffer = memoryview(bytearray(512 * 1024))
    board.wait_for_load(job.worker)
    acknowledged, data = 0, memoryview(first)
    while board.running:
        if data:
            counter.feed(data)
        due = counter.count - (counter.count - acknowledged) % step
        if due > acknowledged:
            connection.sendall(frames.ack(due, multiple=True))
            acknowledged = due
        board.set_delivered(job.worker, counter.count)
        data = buffer[: receive_into(connection, buffer)]
    link.close()

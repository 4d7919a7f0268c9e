"""Clients that write down what they do: publishers with confirms in flight, a consumer that acks some, and a drain.

All of it survives the end of its connection at any moment, and starts again on the next broker with the same history.
"""

import contextlib
import os
import random
import sys
import threading

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import AMQPError
from waiting import HANG_S, wait_until

from tests.faults.history import (
    ACKED,
    CONFIRMED,
    NACKED,
    SURELY_ACKED,
    UNKNOWN,
    Delivery,
    History,
    Publish,
    make_body,
    read_body,
)

EXCHANGE = "load.topic"
QUEUES = ("load.0", "load.1", "load.2")
ROUTES = {"load.0": ("", "load.0"), "load.1": ("", "load.1"), "load.2": (EXCHANGE, "orders.new.eu")}
FENCE = "load.fence"
PERSISTENT = pika.BasicProperties(delivery_mode=2)
HASTY = (sys.executable, "-m", "tests.faults.hasty_broker", "serve")
EXIT_STORAGE_FAILED = 74
WINDOW = 100
FENCE_S = 0.02
SHORT = os.environ.get("JACKALOPE_FAULTS") == "short"


def exit_code(pid):
    """How a broker that ends by itself ended; it is left for its owner to reap. Negative for a signal."""
    ended = wait_until(
        lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG), f"process {pid} is alive"
    )
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def parameters(broker, **options):
    """Where a broker is, without heartbeats: nothing is to be closed but by the fault."""
    patient = {"heartbeat": 0, "socket_timeout": HANG_S, "stack_timeout": HANG_S}
    return pika.ConnectionParameters(broker.host, broker.port, **patient, **options)


def connected(broker, **options):
    """A connection to a broker that may end at any moment. Raises AMQPConnectionError when it is closed at once.

    Pika closes the sockets of its own loop in the call that tells of the end; where that came with open-ok no call has,
    and they are found unclosed at some later time (`BlockingConnection._flush_output`).
    """
    connection = pika.BlockingConnection(parameters(broker, **options))
    if connection.is_closed:
        connection._cleanup()
        raise pika.exceptions.AMQPConnectionError("closed as soon as it was open")
    return connection


def declare(broker):
    """The topology of the load."""
    connection = connected(broker)
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    for queue in (*QUEUES, FENCE):
        channel.queue_declare(queue, durable=True)
    channel.queue_bind(QUEUES[2], EXCHANGE, "orders.#")
    connection.close()


class Publisher(threading.Thread):
    """Keeps up to `WINDOW` persistent messages unconfirmed until it is stopped or its connection ends."""

    def __init__(self, broker, name, load):
        super().__init__(daemon=True)
        self.name = name
        self.confirmed_count = 0
        self.blocked_count = 0
        self._broker = broker
        self._load = load
        self._random = random.Random(f"{name} {load.seed} {len(load.history.publishes)}")
        self._open = {}
        self._next_tag = 1
        self._stopping = False
        self._channel = None

    def run(self):
        self._connection = SelectConnection(
            parameters(self._broker),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=lambda connection, _: connection.ioloop.stop(),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.ioloop.start()
        self._connection.ioloop.close()

    def stop(self):
        """Wait for what is in flight, then close."""
        self._connection.ioloop.add_callback_threadsafe(self._finish)

    def catch_up(self):
        """Return when whatever has come from the broker by now is counted."""
        caught_up = threading.Event()
        # What is called is called before sockets are looked at: the second one runs after that.
        call_soon = self._connection.ioloop.add_callback_threadsafe
        call_soon(lambda: call_soon(caught_up.set))
        assert caught_up.wait(HANG_S)

    def _on_blocked(self, *_):
        self.blocked_count += 1

    def _finish(self):
        self._stopping = True
        self._close_when_done()

    def _close_when_done(self):
        if self._stopping and not self._open and self._connection.is_open:
            self._connection.close()

    def _on_channel(self, channel):
        self._channel = channel
        channel.add_on_close_callback(lambda *_: None)
        channel.confirm_delivery(self._on_answer, callback=lambda _: self._fill())

    def _fill(self):
        while len(self._open) < WINDOW and not self._stopping and self._channel.is_open:
            publish = self._load.next_publish(self.name, self._random.choice(QUEUES))
            self._open[self._next_tag] = publish
            self._next_tag += 1
            size = self._random.choice((0, 30, 300, 300, 1500, 4000))
            exchange, key = ROUTES[publish.queue]
            self._channel.basic_publish(exchange, key, make_body(publish, b"." * size), PERSISTENT)

    def _on_answer(self, frame):
        method = frame.method
        outcome = CONFIRMED if method.NAME == "Basic.Ack" else NACKED
        is_confirmed = outcome == CONFIRMED
        if self._load.dark and is_confirmed:
            outcome = UNKNOWN
        tags = [tag for tag in self._open if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            publish = self._open.pop(tag)
            publish.outcome = outcome
            self._load.late_count += is_confirmed and publish.id in self._load.powerless
        if outcome == CONFIRMED:
            self.confirmed_count += len(tags)
        self._fill()
        self._close_when_done()


class Consumer(threading.Thread):
    """Consumes from all queues: acks most, returns some, keeps a few; a confirm behind its acks makes them sure."""

    def __init__(self, broker, load):
        super().__init__(daemon=True)
        self.delivered_count = 0
        self._broker = broker
        self._load = load
        self._history = load.history
        self._random = random.Random(f"consumer {load.seed} {len(load.history.deliveries)}")
        self._waiting = []
        self._stopping = threading.Event()

    def stop(self):
        """End at the next chance."""
        self._stopping.set()

    def run(self):
        with contextlib.suppress(AMQPError, OSError):  # The fault.
            connection = connected(self._broker)
            try:
                self._work(connection)
            finally:
                connection.close()

    def _work(self, connection):
        channel, fence = connection.channel(), connection.channel()
        fence.confirm_delivery()
        channel.basic_qos(prefetch_count=500)
        for queue in QUEUES:
            channel.basic_consume(queue, lambda *given, queue=queue: self._on_message(queue, *given))
        while not self._stopping.is_set():
            connection.process_data_events(time_limit=FENCE_S)
            acked = self._settle(channel)
            if not self._load.fences:
                continue
            fence.basic_publish("", FENCE, b"", PERSISTENT)
            if not self._load.dark:
                for delivery in acked:
                    delivery.settled = SURELY_ACKED

    def _on_message(self, queue, _, method, __, body):
        # Settled later: an ack in here reads on, and under load this would be called for ever.
        self._waiting.append((method.delivery_tag, record(self._history, queue, method, body)))
        self.delivered_count += 1

    def _settle(self, channel):
        """Decide on what has come; returns what was acked."""
        waiting, self._waiting = self._waiting, []
        acked = []
        for tag, delivery in waiting:
            lot = self._random.random()
            if lot < 0.85:
                delivery.settled = ACKED
                channel.basic_ack(tag)
                acked.append(delivery)
            elif lot < 0.90:
                channel.basic_reject(tag, requeue=True)
        return acked


def record(history, queue, method, body):
    """Write a delivery down."""
    name, intact = read_body(body)
    delivery = Delivery(name, queue, intact, method.redelivered)
    history.deliveries.append(delivery)
    return delivery


class Load:
    """A history, and who writes it: publishers and a consumer, for as long as each broker lives."""

    def __init__(self, seed, prefix="p", publishers=3):
        self.seed = seed
        self.history = History()
        self.publishers = []
        self.consumer = None
        self.dark = False
        """The power is gone: no confirm that comes from now on counts; nobody would have been there to send it."""
        self.is_cut = False
        self.powerless = set()
        """Published when there was no power any more."""
        self.late_count = 0
        """Confirms of those."""
        self.fences = True
        """Off where publishing has to wait, and consuming has not."""
        self._names = [f"{prefix}{number}" for number in range(publishers)]
        self._sequences = {(name, queue): 0 for name in self._names for queue in QUEUES}

    def next_publish(self, publisher, queue):
        """The next message of a publisher for a queue; one thread a publisher."""
        sequence = self._sequences[publisher, queue]
        self._sequences[publisher, queue] = sequence + 1
        publish = Publish(f"{publisher}-{queue}-{sequence}", publisher, queue, sequence)
        self.history.publishes.append(publish)
        if self.is_cut:
            self.powerless.add(publish.id)
        return publish

    def start(self, broker, *, publish=True, consume=True):
        """Everybody connects, or some."""
        self.dark = self.is_cut = False
        self.publishers = [Publisher(broker, name, self) for name in self._names if publish]
        self.consumer = Consumer(broker, self) if consume else None
        for thread in self._threads():
            thread.start()

    def _threads(self):
        return [*self.publishers, *([self.consumer] if self.consumer else [])]

    @property
    def confirmed_count(self):
        """By the publishers of this start."""
        return sum(publisher.confirmed_count for publisher in self.publishers)

    def wait_confirmed(self, count):
        """Return when so many are confirmed since the start."""
        wait_until(lambda: self.confirmed_count >= count, lambda: f"{self.confirmed_count} of {count} confirmed")

    def wait_surely_acked(self, count):
        """Return when so many acks of the whole history are surely durable."""
        counted = self.history.surely_acked_count
        wait_until(lambda: counted() >= count, lambda: f"{counted()} of {count} acks are surely durable", 0.05)

    def stop(self):
        """Publishers wait for their confirms; then all are gone."""
        for thread in self._threads():
            thread.stop()
        self.join()

    def join(self):
        """All connections have ended."""
        for thread in self._threads():
            thread.join(HANG_S)
            assert not thread.is_alive(), f"{thread.name} does not end"

    def drain(self, broker):
        """Everything that is in the queues, acknowledged; the topology has to be there."""
        connection = connected(broker)
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, passive=True)
        channel.basic_qos(prefetch_count=1000)
        for queue in QUEUES:
            while count := channel.queue_declare(queue, passive=True).method.message_count:
                for method, _, body in channel.consume(queue, inactivity_timeout=HANG_S):
                    assert method is not None, f"{count} messages of {queue} do not come"
                    record(self.history, queue, method, body).settled = ACKED
                    channel.basic_ack(method.delivery_tag)
                    count -= 1
                    if not count:
                        break
                channel.cancel()
        connection.close()

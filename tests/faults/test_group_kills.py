"""SIGKILL of the broker under consumers of a group: acknowledged out of order, rejected, dropped, again and again."""

import os
import random
import signal
import threading
import time

import pika
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from waiting import HANG_S, wait_until

from tests.faults.load import SHORT, connected
from tools.bench.control import free_port, running_jackalope

pytestmark = pytest.mark.faults

ROUNDS = 5 if SHORT else 25
SEED = int(os.environ.get("JACKALOPE_SEED", "1"))
PARTITIONS, WORKERS = 3, 2
GROUP, TOPIC, DEAD = "workers", "jobs", "jobs.dead"
POISON_EVERY = 50


class Site:
    """One broker through its lives, on the same ports and directory."""

    def __init__(self, directory):
        self.directory = directory
        self.port, self.kafka = free_port(), f"127.0.0.1:{free_port()}"
        self.start()

    def start(self):
        settings = (f"listeners.amqp=127.0.0.1:{self.port}", f"listeners.kafka={self.kafka}",
                    "kafka.group_initial_rebalance_delay_s=0")  # fmt: skip
        self.manager = running_jackalope(settings=settings, http=False, directory=self.directory)
        self.broker = self.manager.__enter__()

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.manager.__exit__(None, None, None)

    def connect(self):
        return connected(self.broker)

    def committed(self):
        """By partition; {} when it cannot be asked."""
        admin = AdminClient({"bootstrap.servers": self.kafka, "log_level": 0})
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)])[GROUP].result(HANG_S)
        return {one.partition: one.offset for one in asked.topic_partitions if one.offset >= 0}


class Program(threading.Thread):
    """Something that connects again whenever it has lost its connection, until it is stopped."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site = site
        self.stopping = threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            try:
                connection = self.site.connect()
                try:
                    self.work(connection)
                finally:
                    if connection.is_open:
                        connection.close()
            except (pika.exceptions.AMQPError, OSError):
                time.sleep(0.02)


class Publisher(Program):
    """Publishes numbers; `confirmed` are those that it may rely on."""

    def __init__(self, site):
        self.confirmed = set()
        self.next = 0
        super().__init__(site)

    def work(self, connection):
        channel = connection.channel()
        channel.confirm_delivery()
        while not self.stopping.is_set():
            number, self.next = self.next, self.next + 1
            channel.basic_publish("", TOPIC, b"%d" % number)
            self.confirmed.add(number)


class Worker(Program):
    """Works on what it gets in another order than it comes; now and then it just goes away.

    `floor` is shared: by partition, the highest offset that was seen committed.
    """

    def __init__(self, site, seed, floor):
        self.chance = random.Random(seed)
        self.floor = floor
        self.done, self.below = set(), []
        super().__init__(site)

    def work(self, connection):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=20)
        arguments = {"x-group": GROUP, "x-dead-letter-topic": DEAD, "x-delivery-limit": 100}
        held = []
        known = dict(self.floor)
        lives = self.chance.randrange(200, 2000)
        for method, properties, body in channel.consume(TOPIC, arguments=arguments, inactivity_timeout=0.05):
            if self.stopping.is_set():
                return
            if method is not None:
                place = properties.headers.get("x-stream-partition", 0), properties.headers["x-stream-offset"]
                if place[1] < known.get(place[0], 0):
                    self.below.append((place, known[place[0]]))
                held.append((method.delivery_tag, int(body)))
            if len(held) >= 8 or (method is None and held):
                self.chance.shuffle(held)
                for tag, number in held:
                    self.judge(channel, tag, number)
                held.clear()
            lives -= 1
            if not lives:
                return

    def judge(self, channel, tag, number):
        if number % POISON_EVERY == 7:
            channel.basic_reject(tag, requeue=False)
        elif self.chance.random() < 0.02:
            channel.basic_nack(tag, requeue=True)
        else:
            self.done.add(number)
            channel.basic_ack(tag)


def read_dead(site):
    """The numbers in the topic for dead letters."""
    with site.connect() as connection:
        channel = connection.channel()
        count = channel.queue_declare(DEAD, passive=True).method.message_count
        channel.basic_qos(prefetch_count=500)
        found = []
        for method, _, body in channel.consume(DEAD, arguments={"x-stream-offset": "first"}, inactivity_timeout=5):
            if method is None:
                break
            found.append(int(body))
            channel.basic_ack(method.delivery_tag)
            if len(found) == count:
                break
        return found


def test_groups_lose_nothing_when_the_broker_is_killed(tmp_path):
    """All that was confirmed is worked on or among the dead letters; nothing below a committed offset comes again."""
    chance = random.Random(SEED)
    site = Site(tmp_path)
    programs = []
    try:
        with site.connect() as connection:
            arguments = {"x-queue-type": "stream", "x-partitions": PARTITIONS}
            connection.channel().queue_declare(TOPIC, durable=True, arguments=arguments)
        floor = {}
        publisher = Publisher(site)
        workers = [Worker(site, SEED + number, floor) for number in range(WORKERS)]
        programs = [publisher, *workers]
        for _ in range(ROUNDS):
            some = len(publisher.confirmed) + chance.randrange(21, 500)
            wait_until(lambda some=some: len(publisher.confirmed) >= some, lambda: len(publisher.confirmed))
            floor.update(wait_until(lambda: (found := site.committed()) != floor and found, "no commit moves"))
            site.kill()
            site.start()
        publisher.stopping.set()
        publisher.join(HANG_S)
        assert not publisher.is_alive()
        expected = {number for number in publisher.confirmed if number % POISON_EVERY != 7}
        wait_until(
            lambda: expected <= set().union(*(worker.done.copy() for worker in workers)), "messages are lost", 0.1
        )
        poison = {number for number in publisher.confirmed if number % POISON_EVERY == 7}
        dead = wait_until(lambda: (found := set(read_dead(site))) >= poison and found, "dead letters are lost")
        assert all(number % POISON_EVERY == 7 for number in dead)
    finally:
        for program in programs:
            program.stopping.set()
        for program in programs:
            program.join(HANG_S)
        site.manager.__exit__(None, None, None)
    print(f"seed {SEED}: {ROUNDS} kills, {len(publisher.confirmed)} confirmed")
    assert [worker.below for worker in workers] == [[] for _ in workers]
    assert len(publisher.confirmed) > 20 * ROUNDS

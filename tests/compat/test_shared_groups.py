"""Consumers of AMQP and of Kafka's clients in one consumer group: real clients of both kinds on one topic."""

import asyncio
import itertools
import threading

import aio_pika
import pika
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope

_NUMBERS = itertools.count(1)
PARTITIONS = 4


@pytest.fixture(scope="module")
def both():
    """A Jackalope that serves both protocols."""
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")
    with running_jackalope(settings=settings, http=False) as broker:
        yield broker


@pytest.fixture
def topic(both):
    """A fresh topic."""
    name = f"shared-{next(_NUMBERS)}"
    admin = AdminClient({"bootstrap.servers": server(both)})
    admin.create_topics([NewTopic(name, PARTITIONS)])[name].result(HANG_S)
    return name


def group_of(topic):
    return f"{topic}-group"


def server(broker):
    return "{}:{}".format(*broker.addresses["kafka"])


class Reader(threading.Thread):
    """A member of the topic's group; notes (partition, value) of what it has worked on, until it is stopped."""

    def __init__(self, broker, topic):
        super().__init__(daemon=True)
        self.broker, self.topic, self.group = broker, topic, group_of(topic)
        self.found = []
        self.stopping = threading.Event()
        self.start()

    def stop(self):
        self.stopping.set()
        self.join(HANG_S)
        assert not self.is_alive()


class Pika(Reader):
    """pika: acknowledges each, the later ones of a pair first."""

    def run(self):
        host, port = self.broker.addresses["amqp"]
        connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=20)
        held = []
        for method, properties, body in channel.consume(
            self.topic, arguments={"x-group": self.group}, inactivity_timeout=0.1
        ):
            if method is not None:
                held.append(method.delivery_tag)
                self.found.append((properties.headers["x-stream-partition"], body))
            if len(held) == 2 or method is None:
                while held:
                    channel.basic_ack(held.pop())
            if self.stopping.is_set():
                break
        connection.close()


class AioPika(Reader):
    """aio-pika: through its iterator."""

    def run(self):
        asyncio.run(self.read())

    async def read(self):
        host, port = self.broker.addresses["amqp"]
        connection = await aio_pika.connect(f"amqp://guest:guest@{host}:{port}/")
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=20)
            queue = await channel.get_queue(self.topic)
            tag = await queue.consume(self.on_message, arguments={"x-group": self.group})
            while not self.stopping.is_set():
                await asyncio.sleep(0.05)
            await queue.cancel(tag)

    async def on_message(self, message):
        self.found.append((message.headers["x-stream-partition"], message.body))
        await message.ack()


class Confluent(Reader):
    """librdkafka, with its own assignors; commits what it has worked on."""

    assignor = "range"

    def run(self):
        consumer = Consumer({
            "bootstrap.servers": server(self.broker), "group.id": self.group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "partition.assignment.strategy": self.assignor,
            "session.timeout.ms": 120_000, "heartbeat.interval.ms": 500,
        })  # fmt: skip
        consumer.subscribe([self.topic])
        while not self.stopping.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.found.append((message.partition(), message.value()))
                consumer.commit(message)
        consumer.close()


class InTurns(Confluent):
    """The same with its round robin assignor."""

    assignor = "roundrobin"


class KafkaPython(Reader):
    """kafka-python."""

    def run(self):
        consumer = KafkaConsumer(
            self.topic, bootstrap_servers=server(self.broker), group_id=self.group, auto_offset_reset="earliest",
            enable_auto_commit=False, heartbeat_interval_ms=500, session_timeout_ms=120_000,
        )  # fmt: skip
        while not self.stopping.is_set():
            for records in consumer.poll(100).values():
                self.found += [(record.partition, record.value) for record in records]
                consumer.commit()
        consumer.close()


def produce(broker, topic, numbers):
    producer = Producer({"bootstrap.servers": server(broker)})
    for number in numbers:
        producer.produce(topic, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(HANG_S) == 0


def all_found(readers, numbers):
    found = {body for reader in readers for _, body in reader.found}
    return found >= {b"%d" % number for number in numbers}


def shares(broker, topic, readers, numbers):
    """Produce these, wait for them; returns the partitions that each reader has read of."""
    before = [len(reader.found) for reader in readers]
    produce(broker, topic, numbers)
    wait_until(lambda: all_found(readers, numbers))
    return [{partition for partition, _ in reader.found[seen:]}
            for reader, seen in zip(readers, before, strict=True)]  # fmt: skip


def settled(broker, topic, members):
    """Wait until the group is stable with so many members."""
    admin = AdminClient({"bootstrap.servers": server(broker)})

    def is_so():
        group = admin.describe_consumer_groups([group_of(topic)])[group_of(topic)].result(HANG_S)
        return group.state.name == "STABLE" and len(group.members) == members

    wait_until(is_so, f"stable with {members}")


@pytest.mark.parametrize("kafka", [Confluent, InTurns, KafkaPython])
@pytest.mark.parametrize("amqp", [Pika, AioPika])
@pytest.mark.parametrize("first", ["amqp", "kafka"])
def test_both_kinds_share_partitions(both, topic, amqp, kafka, first):
    """Whoever comes first, and so leads: each reads half of the partitions, and what one leaves the other takes."""
    kinds = [amqp, kafka] if first == "amqp" else [kafka, amqp]
    one = kinds[0](both, topic)
    try:
        assert shares(both, topic, [one], range(40)) == [set(range(PARTITIONS))]
        settled(both, topic, 1)
        two = kinds[1](both, topic)
        settled(both, topic, 2)
        halves = shares(both, topic, [one, two], range(100, 180))
        assert [len(half) for half in halves] == [2, 2]
        assert halves[0] | halves[1] == set(range(PARTITIONS))
        one.stop()
        settled(both, topic, 1)
        assert shares(both, topic, [two], range(200, 240)) == [set(range(PARTITIONS))]
        two.stop()
    finally:
        for reader in (one, *([two] if "two" in locals() else [])):
            reader.stopping.set()
    assert all_found([one, two], [*range(40), *range(100, 180), *range(200, 240)])
    counts = {}
    for _, body in one.found + two.found:
        counts[body] = counts.get(body, 0) + 1
    assert max(counts.values()) == 1, "everything was acknowledged before it changed hands"


def test_members_that_come_and_go_lose_nothing(both, topic):
    """While records come in, members of four kinds join and leave: every record is worked on."""
    readers = [Pika(both, topic)]
    alive = readers[:]
    numbers = []
    for step, kind in enumerate([Confluent, AioPika, KafkaPython, Pika, Confluent]):
        more = range(step * 100, step * 100 + 100)
        numbers += more
        reader = kind(both, topic)
        readers.append(reader)
        alive.append(reader)
        produce(both, topic, more)
        wait_until(lambda half=step * 100 + 50: sum(len(one.found) for one in readers) > half)
        if len(alive) > 3:
            alive.pop(0).stop()
    wait_until(lambda: all_found(readers, numbers))
    for reader in alive:
        reader.stop()


def test_kafkas_tools_see_what_amqp_has_acknowledged(both, topic):
    """The same offsets: the lowest unacknowledged of each partition; the group is described with its member."""
    produce(both, topic, range(40))
    host, port = both.addresses["amqp"]
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    tags = []
    for method, properties, body in channel.consume(topic, arguments={"x-group": group_of(topic)}):
        headers = properties.headers
        if (headers["x-stream-partition"], headers["x-stream-offset"]) != (2, 3):
            channel.basic_ack(method.delivery_tag)
        tags.append(body)
        if len(tags) == 40:
            break
    admin = AdminClient({"bootstrap.servers": server(both)})

    def offsets():
        asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group_of(topic))])[
            group_of(topic)
        ].result(HANG_S)
        return {one.partition: one.offset for one in asked.topic_partitions}

    wait_until(lambda: offsets() == {0: 10, 1: 10, 2: 3, 3: 10})
    (member,) = admin.describe_consumer_groups([group_of(topic)])[group_of(topic)].result(HANG_S).members
    [tag] = channel.consumer_tags
    assert member.client_id == f"amqp:{tag}"
    assert member.member_id.startswith(f"amqp:{tag}-")
    assert sorted(one.partition for one in member.assignment.topic_partitions) == [0, 1, 2, 3]
    connection.close()


def test_rejected_records_reach_kafkas_clients(both, topic):
    """A record of Kafka's, rejected over AMQP, is in the topic for dead letters as it was, with what it died of."""
    producer = Producer({"bootstrap.servers": server(both)})
    producer.produce(topic, b"poison", b"key", headers={"who": "me"}, partition=3)
    assert producer.flush(HANG_S) == 0
    host, port = both.addresses["amqp"]
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10)
    arguments = {"x-group": group_of(topic), "x-dead-letter-topic": f"{topic}.dead"}
    for method, _, _ in channel.consume(topic, arguments=arguments):
        channel.basic_reject(method.delivery_tag, requeue=False)
        break
    consumer = Consumer({"bootstrap.servers": server(both), "group.id": "dead", "auto.offset.reset": "earliest"})
    consumer.subscribe([f"{topic}.dead"])
    message = consumer.poll(HANG_S)
    assert (message.key(), message.value()) == (b"key", b"poison")
    headers = dict(message.headers())
    assert headers["who"] == b"me"
    assert headers["x-first-death-queue"] == topic.encode()
    assert headers["x-first-death-reason"] == b"rejected"
    assert (headers["x-death-group"], headers["x-death-partition"], headers["x-death-offset"]) == (
        group_of(topic).encode(), b"3", b"0")  # fmt: skip
    consumer.close()
    connection.close()

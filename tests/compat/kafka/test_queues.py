"""Kafka's clients read a queue of AMQP: consumer groups, tools, and the two kinds of consumers beside each other."""

import contextlib
import itertools
import subprocess

import pika
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from kafka import KafkaConsumer, TopicPartition
from waiting import HANG_S

_NUMBERS = itertools.count(1)


@pytest.fixture
def server(jackalope_kafka):
    """HOST:PORT; Apache Kafka has no queues of AMQP."""
    return "{}:{}".format(*jackalope_kafka.addresses["kafka"])


@pytest.fixture
def channel(jackalope_kafka):
    """A client of AMQP."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(jackalope_kafka.host, jackalope_kafka.port))
    with contextlib.closing(connection):
        found = connection.channel()
        found.confirm_delivery()
        yield found


@pytest.fixture
def orders(channel):
    """A queue with ten messages, of which five were delivered."""
    name = f"orders-{next(_NUMBERS)}"
    channel.queue_declare(name, durable=True, arguments={"x-kafka-topic": True, "x-retain": "1D"})
    for number in range(10):
        properties = pika.BasicProperties(delivery_mode=2, content_type="text/plain", headers={"n": number})
        channel.basic_publish("", name, b"order %d" % number, properties)
    for _ in range(5):
        channel.basic_ack(channel.basic_get(name)[0].delivery_tag)
    channel.queue_declare(name, passive=True)
    return name


def consumer(server, group):
    return Consumer(
        {"bootstrap.servers": server, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )


def test_a_group_of_librdkafka(server, channel, orders):
    """All ten, with keys and headers; what it commits counts for the next; the queue's own consumer gets its five."""
    with contextlib.closing(consumer(server, orders)) as reader:
        reader.subscribe([orders])
        found = list(iter_messages(reader, 10))
        reader.commit(asynchronous=False)
    assert [(one.offset(), one.key(), one.value()) for one in found] == [
        (number, orders.encode(), b"order %d" % number) for number in range(10)
    ]
    headers = dict(found[3].headers())
    assert headers["x"] == b""
    assert b"text/plain" in headers["p"]
    channel.basic_publish("", orders, b"order 10", pika.BasicProperties(delivery_mode=2))
    with contextlib.closing(consumer(server, orders)) as reader:
        reader.subscribe([orders])
        assert [one.value() for one in iter_messages(reader, 1)] == [b"order 10"]
    left = [channel.basic_get(orders, auto_ack=True)[2] for _ in range(6)]
    assert left == [b"order %d" % number for number in range(5, 11)]


def iter_messages(reader, count):
    for _ in range(count):
        message = reader.poll(HANG_S)
        assert message is not None
        assert message.error() is None
        yield message


def test_kcat(server, orders):
    """Lists it, and reads all of it."""
    listed = subprocess.run(["kcat", "-b", server, "-L", "-t", orders], capture_output=True, text=True, check=True)
    assert f'topic "{orders}" with 1 partitions' in listed.stdout
    read = subprocess.run(
        ["kcat", "-b", server, "-C", "-t", orders, "-e", "-q", "-o", "2", "-f", "%o %k %s\n"],
        capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    assert read.stdout == "".join(f"{number} {orders} order {number}\n" for number in range(2, 10))


def test_kafka_python_sees_what_comes(server, channel, orders):
    """Ends and times, and a message that comes while it waits."""
    reader = KafkaConsumer(bootstrap_servers=server, group_id=None, consumer_timeout_ms=HANG_S * 1000)
    partition = TopicPartition(orders, 0)
    with contextlib.closing(reader):
        reader.assign([partition])
        assert (reader.beginning_offsets([partition]), reader.end_offsets([partition])) == (
            {partition: 0}, {partition: 10}
        )  # fmt: skip
        assert reader.offsets_for_times({partition: 0})[partition].offset == 0
        reader.seek_to_end(partition)
        assert reader.poll(500) == {}
        channel.basic_publish("", orders, b"late", pika.BasicProperties(delivery_mode=2))
        assert next(reader).value == b"late"


def test_nothing_can_be_written(server, orders):
    """A producer and an administrator are refused."""
    failed = []
    producer = Producer({"bootstrap.servers": server})
    producer.produce(orders, b"x", callback=lambda error, _: failed.append(error))
    producer.flush(HANG_S)
    assert [error.name() for error in failed] == ["TOPIC_AUTHORIZATION_FAILED"]
    admin = AdminClient({"bootstrap.servers": server})
    for future in (
        *admin.delete_topics([orders]).values(),
        *admin.create_partitions([NewPartitions(orders, 3)]).values(),
    ):
        with pytest.raises(KafkaException, match="POLICY_VIOLATION"):
            future.result(HANG_S)
    assert orders in admin.list_topics(timeout=HANG_S).topics

"""Streams with real AMQP clients: on RabbitMQ too where it has them; and both protocols on one topic."""

import itertools
import json

import pika
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka.partitioner.default import murmur2
from waiting import HANG_S

from tools.bench.control import running_jackalope

_NUMBERS = itertools.count(1)


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f"stream-{next(_NUMBERS)}"


@pytest.fixture(scope="module")
def both():
    """A Jackalope that serves both protocols."""
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")
    with running_jackalope(settings=settings, http=False) as broker:
        yield broker


@pytest.fixture
def connection(both):
    """A connection of pika's to it."""
    host, port = both.addresses["amqp"]
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    yield connection
    connection.close()


def servers(broker):
    return "{}:{}".format(*broker.addresses["kafka"])


def create(broker, name, partitions):
    """A topic, by Kafka's administration."""
    admin = AdminClient({"bootstrap.servers": servers(broker)})
    admin.create_topics([NewTopic(name, partitions)])[name].result(HANG_S)


def read(channel, name, count, prefetch=100, **arguments):
    """(body, headers, method) of the first `count` deliveries, each acknowledged."""
    channel.basic_qos(prefetch_count=prefetch)
    found = []
    table = {key.replace("_", "-"): value for key, value in arguments.items()}
    for method, properties, body in channel.consume(name, arguments=table, inactivity_timeout=HANG_S):
        if method is None:
            break
        found.append((body, properties.headers or {}, method))
        channel.basic_ack(method.delivery_tag)
        if len(found) == count:
            break
    channel.cancel()
    return found


def test_rabbitmqs_streams(broker, name):
    """The same script on both: declare, publish with confirms, read from anywhere, again and again."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", "x-max-age": "1D"})
    channel.confirm_delivery()
    for number in range(30):
        channel.basic_publish("", name, b"%d" % number, pika.BasicProperties(headers={"n": number}))
    everything = read(connection.channel(), name, 30, x_stream_offset="first")
    assert [int(body) for body, _, _ in everything] == list(range(30))
    assert [headers for _, headers, _ in everything] == [{"n": n, "x-stream-offset": n} for n in range(30)]
    assert not any(method.redelivered for _, _, method in everything)
    assert [int(body) for body, _, _ in read(connection.channel(), name, 5, prefetch=1, x_stream_offset=25)] == [
        25, 26, 27, 28, 29]  # fmt: skip
    channel.queue_delete(name)
    connection.close()


def test_kafka_produces_and_amqp_reads(both, connection, name):
    """confluent-kafka's records, compressed or not, come to pika with key, headers, time and offset."""
    create(both, name, 3)
    for compression in ("none", "gzip", "snappy", "lz4", "zstd"):
        producer = Producer({"bootstrap.servers": servers(both), "compression.type": compression,
                             "partitioner": "murmur2_random"})  # fmt: skip
        for number in range(20):
            producer.produce(name, f"{compression}-{number}", f"key-{number}", headers={"how": compression})
        assert producer.flush(HANG_S) == 0
    found = read(connection.channel(), name, 100, x_stream_offset="first")
    assert {body.decode() for body, _, _ in found} == {
        f"{compression}-{number}" for compression in ("none", "gzip", "snappy", "lz4", "zstd") for number in range(20)
    }
    for body, headers, method in found:
        compression, _, number = body.decode().partition("-")
        assert (method.routing_key, headers["how"]) == (f"key-{number}", compression)
        assert headers["x-stream-partition"] == (murmur2(method.routing_key.encode()) & 0x7FFFFFFF) % 3


def test_amqp_publishes_and_kafka_reads(both, connection, name):
    """What pika publishes to an exchange comes to a Kafka group: the routing key is the key, headers are headers."""
    channel = connection.channel()
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", "x-partitions": 4})
    channel.exchange_declare(f"{name}-x", "topic", durable=True)
    channel.queue_bind(name, f"{name}-x", "order.#")
    channel.confirm_delivery()
    for number in range(40):
        properties = pika.BasicProperties(content_type="application/json", headers={"n": number, "who": "pika"})
        channel.basic_publish(f"{name}-x", f"order.{number % 7}", json.dumps({"n": number}).encode(), properties)
    consumer = Consumer({"bootstrap.servers": servers(both), "group.id": f"{name}-g", "auto.offset.reset": "earliest"})
    consumer.subscribe([name])
    found = []
    while len(found) < 40:
        message = consumer.poll(HANG_S)
        assert message is not None
        assert message.error() is None
        found.append(message)
    consumer.close()
    by_key = {}
    for message in found:
        number = json.loads(message.value())["n"]
        headers = dict(message.headers())
        assert message.key() == f"order.{number % 7}".encode()
        assert (headers["n"], headers["who"]) == (str(number).encode(), b"pika")
        assert message.partition() == (murmur2(message.key()) & 0x7FFFFFFF) % 4
        by_key.setdefault(message.key(), []).append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_a_key_lands_in_one_partition_whoever_publishes(both, connection, name):
    """Kafka's client and AMQP's send the same keys: each partition has only its own."""
    create(both, name, 5)
    channel = connection.channel()
    channel.queue_bind(name, "amq.topic", f"{name}.#")
    keys = [f"{name}.{number}" for number in range(25)]
    producer = Producer({"bootstrap.servers": servers(both), "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(name, "kafka", key)
    assert producer.flush(HANG_S) == 0
    channel.confirm_delivery()
    for key in keys:
        channel.basic_publish("amq.topic", key, b"amqp")
    found = read(connection.channel(), name, 50, x_stream_offset="first")
    homes = {}
    for body, headers, method in found:
        homes.setdefault(method.routing_key, set()).add(headers["x-stream-partition"])
        assert body in (b"kafka", b"amqp")
    assert set(homes) == set(keys)
    assert all(len(partitions) == 1 for partitions in homes.values())

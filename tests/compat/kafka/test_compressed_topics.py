"""A topic with a `compression.type`: what AMQP publishes, and what is recompressed, as real Kafka clients read it."""

import asyncio
import itertools
import json
import shutil
import subprocess

import pika
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer
from needed import need
from waiting import HANG_S

from tools.bench.kafka_control import fetch_kafka, kafka_missing

KINDS = ("uncompressed", "gzip", "snappy", "lz4", "zstd")
COUNT = 500


def events():
    return [
        json.dumps({"event": "order.created", "id": number, "customer": f"c-{number % 7}"}) for number in range(COUNT)
    ]


@pytest.fixture
def servers(jackalope_kafka):
    host, port = jackalope_kafka.addresses["kafka"]
    return f"{host}:{port}"


@pytest.fixture(params=KINDS)
def filled(request, jackalope_kafka, servers, topic):
    """A topic in this compression, half of it published by AMQP, half by librdkafka in another compression."""
    admin = AdminClient({"bootstrap.servers": servers})
    made = admin.create_topics([NewTopic(topic, 1, config={"compression.type": request.param})])
    made[topic].result(HANG_S)
    connection = pika.BlockingConnection(pika.URLParameters(jackalope_kafka.url))
    channel = connection.channel()
    for event in events()[: COUNT // 2]:
        channel.basic_publish("", topic, event.encode(), pika.BasicProperties(delivery_mode=2))
    channel.confirm_delivery()
    channel.queue_declare("", exclusive=True)  # All that was sent before is in the topic.
    connection.close()
    other = "gzip" if request.param != "gzip" else "zstd"
    producer = Producer({"bootstrap.servers": servers, "compression.type": other, "enable.idempotence": True})
    for event in events()[COUNT // 2 :]:
        producer.produce(topic, event.encode())
    assert producer.flush(HANG_S) == 0
    return topic


def test_librdkafka_reads_it(servers, filled):
    """All of it, in order."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": filled, "check.crcs": True})
    reader.assign([TopicPartition(filled, 0, 0)])
    found = []
    while len(found) < COUNT:
        message = reader.poll(HANG_S)
        assert message is not None, f"{len(found)} of {COUNT}"
        assert message.error() is None
        found.append(message.value().decode())
    reader.close()
    assert found == events()


def test_aiokafka_reads_it(servers, filled):
    """All of it, in order."""

    async def read():
        reader = AIOKafkaConsumer(filled, bootstrap_servers=servers, auto_offset_reset="earliest")
        await reader.start()
        try:
            return [(await asyncio.wait_for(reader.getone(), HANG_S)).value.decode() for _ in range(COUNT)]
        finally:
            await reader.stop()

    assert asyncio.run(read()) == events()


def test_kafka_python_reads_it(request, servers, filled):
    """All of it, in order."""
    if "snappy" in request.node.name:
        pytest.skip("kafka-python imports python-snappy, which is not among the requirements")
    reader = KafkaConsumer(
        filled, bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=HANG_S * 1000,
        check_crcs=True,
    )  # fmt: skip
    found = [message.value.decode() for message in itertools.islice(reader, COUNT)]
    reader.close()
    assert found == events()


def test_kcat_reads_it(servers, filled):
    """All of it, in order."""
    need(None if shutil.which("kcat") else "missing (Debian: apt-get install kcat)")
    done = subprocess.run(
        ("kcat", "-b", servers, "-C", "-t", filled, "-e", "-q"),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stdout.splitlines() == events()


@pytest.mark.control
def test_java_reads_it(servers, filled):
    """Kafka's own console consumer."""
    need(kafka_missing())
    done = subprocess.run(
        ("java", "-cp", f"{fetch_kafka()}/*", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server",
         servers, "--topic", filled, "--from-beginning", "--max-messages", str(COUNT)),
        capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == events()

"""Streams as the examples of other clients read them, on both brokers: aio-pika, AMQPStorm, Java, node's amqplib.

pika's are in `test_streams`. Java's and node's clients are fetched into the cache beside Kafka's jars, by mvn and npm.
"""

import asyncio
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import aio_pika
import amqpstorm
import pytest
from compat_brokers import Target

PROGRAMS = Path(__file__).resolve().parent / "stream_clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jackalope" / "clients"
JARS = ("com.rabbitmq:amqp-client:5.25.0", "org.slf4j:slf4j-api:1.7.36")
AMQPLIB = "amqplib@0.10.9"
HANG_S = 300
NUMBERS = itertools.count()
STREAM = {"x-queue-type": "stream"}
EVERYTHING = " ".join(f"m{number}@{number}" for number in range(20))
LATER = " ".join(f"m{number}@{number}" for number in range(15, 20))
ODD = " ".join(f"m{number}@{number}" for number in range(1, 20, 2))


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"client-stream-{next(NUMBERS)}"


def skip_without(*commands: str) -> None:
    """Skip where a command is not there, in CI as well: `tools/dev/debian-tools` installs neither node nor javac."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not on the path")


def fetch(*command: str) -> None:
    """Skip where the client cannot be fetched, in CI as well: a registry that is away says nothing of the broker."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    if done.returncode:
        pytest.skip(f"{command[0]}: {(done.stdout + done.stderr)[-300:]}")


@pytest.fixture(scope="session")
def jars() -> str:
    """The class path of RabbitMQ's Java client."""
    skip_without("java", "javac", "mvn")
    for one in JARS:
        if not (CACHE / "-".join(one.split(":")[1:])).with_suffix(".jar").exists():
            target = f"-DoutputDirectory={CACHE}"
            fetch("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={one}", target)
    return f"{CACHE}/*"


@pytest.fixture(scope="session")
def modules() -> str:
    """Where node finds amqplib."""
    skip_without("node", "npm")
    if not (CACHE / "node_modules" / "amqplib").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fetch("npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), AMQPLIB)
    return str(CACHE / "node_modules")


def lines_of(broker: Target, name: str, *command: str, **environment: str) -> list[str]:
    """What a program prints; RabbitMQ 3.10 has no filters, so it is asked for them here only."""
    words = [*command, broker.url, name, *(["filter"] if broker.name == "jackalope" else [])]
    env = {**os.environ, **environment}
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_java(broker: Target, name: str, jars: str) -> None:
    """RabbitMQ's Java client: declared with its arguments, confirmed, read from the first and from a number."""
    got = lines_of(broker, name, "java", "-cp", jars, str(PROGRAMS / "Streams.java"))
    assert got == [EVERYTHING, LATER, ODD][: 3 if broker.name == "jackalope" else 2]


def test_node(broker: Target, name: str, modules: str) -> None:
    """The same with amqplib."""
    got = lines_of(broker, name, "node", str(PROGRAMS / "streams.js"), NODE_PATH=modules)
    assert got == [EVERYTHING, LATER, ODD][: 3 if broker.name == "jackalope" else 2]


def test_amqpstorm(broker: Target, name: str) -> None:
    """AMQPStorm: basic.qos, basic.consume with arguments, each acknowledged."""
    options = {"port": broker.port, "virtual_host": broker.vhost}
    with amqpstorm.Connection(broker.host, broker.user, broker.password, **options) as connection:
        channel = connection.channel()
        channel.confirm_deliveries()
        channel.queue.declare(name, durable=True, arguments=STREAM)
        for number in range(20):
            channel.basic.publish(f"m{number}", name)
        channel.basic.qos(10)
        channel.basic.consume(queue=name, arguments={"x-stream-offset": "first"})
        got = []
        for message in channel.build_inbound_messages(break_on_empty=False):
            got.append(f"{message.body}@{message.properties['headers']['x-stream-offset']}")
            message.ack()
            if len(got) == 20:
                break
        assert " ".join(got) == EVERYTHING


def test_aio_pika(broker: Target, name: str) -> None:
    """aio-pika: a queue's iterator with arguments."""

    async def read() -> str:
        connection = await aio_pika.connect(broker.url)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(10)
            queue = await channel.declare_queue(name, durable=True, arguments=STREAM)
            for number in range(20):
                message = aio_pika.Message(b"m%d" % number)
                await channel.default_exchange.publish(message, routing_key=name)
            got: list[str] = []
            async with queue.iterator(arguments={"x-stream-offset": "first"}) as messages:
                async for one in messages:
                    got.append(f"{one.body.decode()}@{one.headers['x-stream-offset']}")
                    await one.ack()
                    if len(got) == 20:
                        return " ".join(got)
        raise AssertionError(got)

    assert asyncio.run(asyncio.wait_for(read(), HANG_S)) == EVERYTHING

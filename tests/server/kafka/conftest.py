"""One broker process for the tests of a module, or a broker without a socket for one test."""

import itertools
import sys

import pytest
from kafka_wire import SETTINGS, Wire
from kafka_world import KafkaWorld

from tools.bench.control import running_jackalope

SCRIPT = """import sys
from broker.server.kafka import fetch
from tools.cli.main import main
fetch.MAX_WAIT_MS = 1 << 31
sys.argv[0] = "jackalope"
main()
"""
COMMAND = (sys.executable, "-c", SCRIPT, "serve")
"""A broker that parks a fetch for as long as it asks to: what nobody wakes is never answered, and not in a minute."""


@pytest.fixture(scope="module")
def kafka():
    """A running broker; `kafka.addresses["kafka"]` is where it listens."""
    with running_jackalope(command=COMMAND, settings=SETTINGS, http=False) as broker:
        yield broker


@pytest.fixture
def wire(kafka):
    """A connection to it."""
    with Wire(kafka.addresses["kafka"]) as made:
        yield made


_NUMBERS = itertools.count(1)


@pytest.fixture
def topic(wire):
    """A new topic of one partition."""
    name = f"topic-{next(_NUMBERS)}"
    wire.create(name)
    return name


@pytest.fixture
def world():
    """A broker without a socket, with the topic `there` of two partitions."""
    found = KafkaWorld()
    found.kafka.topics.create("there", 2, {})
    found.settle()
    return found


@pytest.fixture
def client(world):
    """A connection to it."""
    return world.client()

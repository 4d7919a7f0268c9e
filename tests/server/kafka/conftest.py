"""One broker process for the tests of a module."""

import itertools

import pytest
from kafka_wire import Wire

from tools.bench.control import running_jackalope

SETTINGS = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")


@pytest.fixture(scope="module")
def kafka():
    """A running broker; `kafka.addresses["kafka"]` is where it listens."""
    with running_jackalope(settings=SETTINGS, http=False) as broker:
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

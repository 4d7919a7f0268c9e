"""The same client script against Jackalope and against Apache Kafka."""

import itertools

import pytest

from tools.bench.control import running_jackalope

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def jackalope_kafka():
    """A Jackalope that speaks Kafka's protocol."""
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")
    with running_jackalope(settings=settings, http=False) as broker:
        yield broker


@pytest.fixture(params=["jackalope_kafka", pytest.param("kafka", marks=pytest.mark.control)])
def server(request):
    """HOST:PORT of the broker."""
    host, port = request.getfixturevalue(request.param).addresses["kafka"]
    return f"{host}:{port}"


@pytest.fixture
def topic():
    """A name that no other test uses."""
    return f"client-{next(_NUMBERS)}"

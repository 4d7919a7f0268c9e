"""A world and a client in it, for every module here."""

import pytest
from amqp_harness import World


@pytest.fixture
def world():
    """A broker in memory."""
    return World()


@pytest.fixture
def client(world):
    """An open connection with channel 1 open."""
    return world.connect()

"""A world and a client in it, for every module here."""

import random

import pytest
from amqp_harness import World
from sim_disk import SimDisk


@pytest.fixture(params=["memory", "disk"])
def world(request):
    """A broker in memory, and one with a disk: the rules are the same."""
    return World(SimDisk(random.Random(1).randrange) if request.param == "disk" else None)


@pytest.fixture
def client(world):
    """An open connection with channel 1 open."""
    return world.connect()

"""A world and a client in it, for every module here."""

import gc
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


@pytest.fixture
def as_served():
    """What was there before does not take part in garbage collection, and collections are as rare as in a broker that
    serves (`broker.app`)."""
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 50, 50)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()

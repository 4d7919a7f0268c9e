"""Fetches whose time is over, or that somebody's bug has met: others are answered, in short steps."""

import logging

import pytest
from kafka_wire import batch
from kafka_world import KafkaWorld, made

from broker.server.kafka import fetch as fetching
from broker.server.kafka.fetch import DISPATCH_COUNT
from broker.server.kafka.slot import Slot

COUNT = 200
NOW_MS = 1_900_000_000_000


@pytest.fixture
def world():
    found = KafkaWorld()
    for name in ("good", "bad"):
        found.kafka.topics.create(name, 1, {})
    found.kafka.topics.create("wide", 1000, {})
    found.settle()
    return found


def frame(client, name, partitions=1):
    """A fetch that waits half a second."""
    topic = made("Fetch", "topics")
    one = topic.SPECS["partitions"].of
    wanted = [one(partition=index, fetch_offset=0, partition_max_bytes=1000) for index in range(partitions)]
    return client.frame(
        "Fetch", 11, max_wait_ms=500, min_bytes=1, max_bytes=1000, topics=[topic(topic=name, partitions=wanted)]
    )


def pass_time(world, milliseconds=1000):
    """The clock ticks; nothing else is done yet."""
    world.hub.now_ms += milliseconds
    for call in world.hub.on_tick:
        call(world.hub.now_ms)


def test_many_that_are_due_at_once(world, monkeypatch):
    """The tick itself looks at none of them, a slice at a few, whatever waits."""
    clients = [world.client() for _ in range(COUNT)]
    for client in clients:
        client.machine.receive(frame(client, "good"))
    world.settle()
    answered = []
    monkeypatch.setattr(Slot, "answer", lambda slot, _: answered.append(slot))
    pass_time(world)
    assert answered == []
    while world.broker.scheduler.busy:
        before = len(answered)
        world.broker.scheduler.run_slice()
        assert len(answered) - before <= 2 * DISPATCH_COUNT
    assert len(set(answered)) == len(answered) == COUNT


def test_timers_are_called_in_slices(world):
    """And each once, those that were called off not at all."""
    called = []
    timers = [world.kafka.at(world.hub.now_ms + 1, lambda n=n: called.append(n)) for n in range(5000)]
    timers[7].call = None
    pass_time(world)
    assert 0 < len(called) < 1000
    world.settle()
    assert called == [n for n in range(5000) if n != 7]
    pass_time(world)
    assert len(called) == 4999


def test_slices_count_what_was_looked_at(world):
    """Wide ones are a slice each, however many were woken."""
    clients = [world.client() for _ in range(4)]
    for client in clients:
        client.machine.receive(frame(client, "wide", 90))
    world.settle()
    pass_time(world)
    assert world.kafka.fetches.dispatch() >= 900
    world.settle()
    assert all(len(client.answers()) == 1 for client in clients)


@pytest.mark.parametrize("event", ["time", "data"])
def test_a_bug_of_one(world, monkeypatch, caplog, event):
    """It ends its connection, is told, and all others are answered."""
    clients = {name: world.client() for name in ("bad", "good")}
    for name, client in clients.items():
        client.machine.receive(frame(client, name))
    world.settle()
    read = fetching._read

    def fail(fetches, connection, wanted, *rest, **more):
        if wanted.topic == "bad":
            raise KeyError("a bug")
        return read(fetches, connection, wanted, *rest, **more)

    monkeypatch.setattr(fetching, "_read", fail)
    if event == "time":
        pass_time(world)
    else:
        for name in clients:
            world.kafka.topics.get(name).partitions[0].append(batch([b"x"]), NOW_MS)
    with caplog.at_level(logging.ERROR):
        world.settle()
    assert "connection ended by a bug" in caplog.text
    assert clients["bad"].machine.finished
    assert len(clients["good"].answers()) == 1
    assert not clients["bad"].machine.debt.is_reading


@pytest.mark.parametrize("how", ["abort", "end"])
def test_a_peer_that_goes_meanwhile(world, monkeypatch, how):
    """Nothing more is read for it, and nothing is owed to it."""
    client = world.client()
    client.machine.receive(frame(client, "wide", 1000))
    world.settle()
    looked = []
    read = fetching._read
    monkeypatch.setattr(fetching, "_read", lambda *some, **more: looked.append(some) or read(*some, **more))
    pass_time(world)
    world.broker.scheduler.run_slice()
    assert 0 < len(looked) < 1000
    if how == "abort":
        client.machine.abort()
    else:
        client.machine.end("a test says so")
    before = len(looked)
    world.settle()
    assert len(looked) == before
    assert world.kafka.owed.octets == 0

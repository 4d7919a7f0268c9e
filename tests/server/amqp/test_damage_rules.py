"""A damaged segment: what can be read comes in order, what cannot is counted and shown, at each start too.

RabbitMQ's classic queues end a vhost over this (rabbit_classic_queue_store_v2 skips what its checksum refuses since
4.0); Kafka's UnifiedLog takes the directory offline, and a fetch gets CORRUPT_MESSAGE for ever.
"""

import random

import pytest
from amqp_harness import World
from sim_disk import SimDisk

from broker.core import catalog
from broker.log.checkpoint import Checkpoint
from protocol.kafka.records import parse_header

COUNT, SIZE = 400, 3000


def bodies(count=COUNT):
    """Each says which it is."""
    return [b"%06d" % number + b"x" * SIZE for number in range(count)]


def checkpoint(world):
    """One, to its end."""
    world.settle()
    for job in Checkpoint(world.store).steps():
        if job is not None:
            job()
        world.store.flush()


@pytest.fixture
def world():
    """A queue's messages in a segment."""
    world = World(SimDisk(random.Random(1).randrange))
    world.broker.scheduler.report = lambda *_: None
    client = world.connect()
    client.declare("q", durable=True)
    for number, body in enumerate(bodies()):
        client.publish("q", body, delivery_mode=2)
        if number % 10 == 9:
            world.settle()
    checkpoint(world)
    return world


def batches(data):
    """(position, header) of a segment's batches."""
    at = 0
    while at < len(data):
        header = parse_header(data, at)
        yield at, header
        at += header.size


def segment(world):
    """The octets of the only one."""
    (name,) = [name for name in world.disk.files if name.startswith("logs/")]
    return world.disk.files[name].data


def next_run(world):
    """After a kill; what it reports is in `told`."""
    again = world.kill()
    again.told = []
    again.broker.scheduler.report = lambda text, error: again.told.append(f"{text}: {error}")
    return again


def numbers(client, count):
    """Which messages basic.get gives, acknowledged."""
    found = []
    while len(found) <= count and (got := client.get("q", no_ack=True)) is not None:
        found.append(int(got[2][:6]))
    return found


@pytest.mark.parametrize("what", ["a record", "a length", "a base offset", "a magic", "the last", "all", "zeros"])
def test_a_queue(world, what):
    """All but the damaged batches are delivered in order; the counts say how many there are, before and after."""
    data = segment(world)
    found = list(batches(data))
    assert len(found) > 5
    at, header = found[-1] if what == "the last" else found[3]
    lost = range(header.base_offset, header.next_offset)
    if what == "a length":
        data[at + 8] ^= 0x70
    elif what == "a base offset":
        data[at + 2] ^= 1
    elif what == "a magic":
        data[at + 16] = 7
    elif what in ("all", "zeros"):
        last = found[-1][0] if what == "zeros" else len(data)
        data[:] = bytes(last) + data[last:]
        lost = range(found[-1][1].base_offset if what == "zeros" else COUNT)
    else:
        data[at + header.size - 5] ^= 1
    world = next_run(world)
    client = world.connect()
    assert numbers(client, COUNT) == [number for number in range(COUNT) if number not in lost]
    queue = world.queue("q")
    assert (queue.ready_count, queue.store.leased_count) == (0, 0)
    assert queue.store.log.lost_count == len(lost)
    world.advance(1000)
    assert [text.startswith("queue 'q' in vhost '/' is damaged: offsets") for text in world.told] == [True]
    client.publish("q", b"999999", delivery_mode=2)
    assert numbers(client, 5) == [999999]


def test_it_is_known_at_the_next_start(world):
    """Counts are true from the beginning, health says it, until somebody purges what is lost."""
    data = segment(world)
    at, header = list(batches(data))[3]
    data[at + 100] ^= 1
    lost = header.next_offset - header.base_offset
    world = next_run(world)
    client = world.connect()
    got = client.get("q")
    client.get("q")
    client.call(1, "basic.recover", True)
    assert got[2][:6] == b"000000"
    queue = world.queue("q")
    while queue.store.unloaded_count:
        queue.store.load()
    assert queue.ready_count == COUNT - lost
    world.advance(1000)
    world = next_run(world)
    assert world.queue("q").ready_count == COUNT - lost
    (sentence,) = world.broker.damage()
    assert f"queue 'q' in vhost '/' is damaged: {lost} messages cannot be read" in sentence
    assert ".log at " in sentence
    world.queue("q").purge()
    assert world.broker.damage() == []
    world.settle()
    world = next_run(world)
    assert world.broker.damage() == []
    assert not [key for key in world.store.catalog if key[:1] == catalog.DAMAGE]


def test_the_journal_of_this_run():
    """What is damaged before a checkpoint has moved it is told once, and neither counted nor waited for afterwards."""
    world = World(SimDisk(random.Random(1).randrange))
    world.told = []
    world.broker.scheduler.report = lambda text, error: world.told.append(f"{text}: {error}")
    client = world.connect()
    client.declare("q", durable=True)
    for number, body in enumerate(bodies()):
        client.publish("q", body, delivery_mode=2)
        if number % 10 == 9:
            world.settle()
    world = next_run(world)
    (data,) = [
        one.data for name, one in world.disk.files.items() if name.endswith(".journal") and b"000100x" in one.data
    ]
    data[data.index(b"000100x") + 50] ^= 1
    queue = world.queue("q")
    while queue.store.unloaded_count:
        queue.store.load()
    lost = COUNT - queue.ready_count
    assert 0 < lost <= 64
    world.advance(1000)
    assert len(world.told) == 1
    checkpoint(world)
    world = next_run(world)
    assert world.queue("q").ready_count == COUNT - lost
    found = numbers(world.connect(), COUNT)
    assert len(found) == COUNT - lost
    assert found == sorted(found)
    assert 100 not in found


def test_a_file_that_was_put_back(world):
    """Restored from a copy, everything is there again."""
    data = segment(world)
    whole = bytes(data)
    at, _ = list(batches(data))[3]
    data[at + 100] ^= 1
    world = next_run(world)
    queue = world.queue("q")
    while queue.store.unloaded_count:
        queue.store.load()
    world.advance(1000)
    segment(world)[:] = whole
    world = next_run(world)
    assert world.broker.damage() == []
    assert numbers(world.connect(), COUNT) == list(range(COUNT))

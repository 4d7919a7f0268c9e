"""`x-retain`: what a queue keeps of what it delivered, for how long, and what becomes of it. Each world has a disk."""

import random
import tracemalloc

import pytest
from amqp_harness import World, answer, refusal
from sim_disk import SimDisk
from steps import assert_short_steps

from broker.core.queues import backlog
from broker.core.topics.errors import TopicRefused
from broker.core.vhosts.policies import make_policy
from broker.core.vhosts.redelivery import retained
from broker.log.disk import RealDisk
from protocol.amqp import content as wire

HOUR_MS = 3_600_000
PERSISTENT = {"delivery_mode": 2}


@pytest.fixture
def world():
    """A broker with a disk."""
    return World(SimDisk(random.Random(1).randrange))


@pytest.fixture
def client(world):
    """A connection to it."""
    return world.connect()


def kept(world, name="q"):
    """(offset, body) of what the queue keeps of what it delivered."""
    return [
        (seen.offset, wire.body(seen.message[1]))
        for stretch in retained(world.queue(name), 0)
        for seen in stretch.messages
    ]


def deliver(client, count, *, queue="q", first=0):
    """So many messages in, and out again."""
    for number in range(first, first + count):
        client.publish(queue, b"%d" % number, **PERSISTENT)
    while client.get(queue, no_ack=True) is not None:
        pass


def numbered(*numbers):
    return [(number, b"%d" % number) for number in numbers]


def test_what_is_acknowledged_is_kept(world, client):
    """Whichever way it leaves: got, consumed and acknowledged, straight to a consumer that acknowledges nothing."""
    client.declare("q", durable=True, x_retain="1h")
    deliver(client, 2)
    client.consume("q", "t", no_ack=True)
    client.publish("q", b"2", **PERSISTENT)
    client.call(1, "basic.cancel", "t", False)
    client.publish("q", b"3", **PERSISTENT)
    tag = client.get("q")[0]
    assert kept(world) == numbered(0, 1, 2)
    client.send(1, "basic.ack", tag, False)
    assert kept(world) == numbered(0, 1, 2, 3)
    assert world.queue("q").ready_count == 0


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_a_restart_finds_it(world, client, ending):
    """What was kept is kept, what was settled is settled, what waited waits; counts are of what waits."""
    client.declare("q", durable=True, x_retain="1h")
    deliver(client, 5)
    client.consume("q", "t", no_ack=True)
    client.publish("q", b"5", **PERSISTENT)
    client.call(1, "basic.cancel", "t", False)
    for number in (6, 7):
        client.publish("q", b"%d" % number, **PERSISTENT)
    for _ in range(2):  # What is found may be left to the next run as well.
        world = getattr(world, ending)()
        assert kept(world) == numbered(*range(6))
        assert world.queue("q").ready_count == 2
        assert world.queue("q").store.log.kept[0] == 6
    client = world.connect()
    assert [client.get("q", no_ack=True)[2] for _ in range(2)] == [b"6", b"7"]
    assert kept(world) == numbered(*range(8))


def test_what_is_too_old_goes(world, client):
    """By whole batches from the front, looked at now and then; a restart does not bring it back."""
    client.declare("q", durable=True, x_retain="1h")
    deliver(client, 3)
    world.advance(HOUR_MS // 2)
    deliver(client, 3, first=3)
    world.advance(HOUR_MS // 2 + 60_000)
    assert kept(world) == numbered(3, 4, 5)
    assert kept(world.kill(wall_ms=1_000_000 + HOUR_MS)) == numbered(3, 4, 5)


def test_what_is_too_much_goes(world, client):
    """So many octets of the log, to the next extent."""
    client.declare("q", durable=True, x_retain_bytes=2000)
    for number in range(40):
        deliver(client, 1, first=number)
    world.advance(60_000)
    found = kept(world)
    assert 10 < len(found) < 40
    assert found[-1] == (39, b"39")
    assert world.queue("q").store.log.size_bytes <= 2000


def test_a_wall_clock_that_goes_back_stops_nothing(world, client):
    """What is too much is looked for as often as before."""
    client.declare("q", durable=True, x_retain_bytes=2000)
    world.advance(60_000)
    world.broker.scheduler.wall_ms -= 900_000
    for number in range(40):
        deliver(client, 1, first=number)
    world.advance(60_000)
    assert world.queue("q").store.log.size_bytes <= 2000


def test_what_waits_is_not_touched(world, client):
    """Messages that are older than what is kept, and not delivered, stay in the queue; then they are not kept."""
    client.declare("q", durable=True, x_retain="1h")
    for number in range(3):
        client.publish("q", b"%d" % number, **PERSISTENT)
    world.advance(2 * HOUR_MS)
    assert world.queue("q").ready_count == 3
    assert [client.get("q", no_ack=True)[2] for _ in range(3)] == [b"0", b"1", b"2"]
    assert kept(world) == []


def test_policies(world, client):
    """Either key, on queues that are there; the smaller of two; what was kept goes with the last of them."""
    client.declare("q", durable=True)
    client.declare("other", durable=True, x_retain="2h")
    policies = world.broker.vhosts["/"].policies
    deliver(client, 2)
    assert kept(world) == []
    policies.set(make_policy("keep", "q|other", "all", 0, {"retain": "1D", "retain-bytes": 10**6}), operator=False)
    assert world.queue("q").rules.retain_ms == 24 * HOUR_MS
    assert world.queue("other").rules.retain_ms == 2 * HOUR_MS
    deliver(client, 2, first=2)
    assert kept(world) == numbered(2, 3)
    policies.set(make_policy("less", "q", "all", 0, {"retain": "30m", "retain-bytes": 5}, operator=True),
                 operator=True)  # fmt: skip
    assert (world.queue("q").rules.retain_ms, world.queue("q").rules.retain_bytes) == (HOUR_MS // 2, 5)
    policies.delete("less", operator=True)
    world.settle()
    again = world.kill()
    assert kept(again) == numbered(2, 3)
    again.broker.vhosts["/"].policies.delete("keep", operator=False)
    again.settle()
    assert kept(again) == []
    assert again.queue("q").store.log.size_bytes == 0
    assert kept(again.kill()) == []


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({"x_retain": "soon"}, "invalid arg 'x-retain' for queue 'q' in vhost '/': {error,invalid_interval}"),
        ({"x_retain": "0s"}, "invalid arg 'x-retain' for queue 'q' in vhost '/': {error,invalid_interval}"),
        ({"x_retain": 7}, "invalid arg 'x-retain' for queue 'q' in vhost '/': {unacceptable_type,signedint}"),
        ({"x_retain_bytes": -1}, "invalid arg 'x-retain-bytes' for queue 'q' in vhost '/': {value_negative,-1}"),
        ({"x_retain_bytes": 0}, "invalid arg 'x-retain-bytes' for queue 'q' in vhost '/': {value_zero,0}"),
        ({"x_kafka_topic": "yes"},
         "invalid arg 'x-kafka-topic' for queue 'q' in vhost '/': {unacceptable_type,longstr}"),
        ({"x_retain": "1h", "durable": False},
         "invalid property 'non-durable' for queue 'q' in vhost '/': 'x-retain' needs a durable queue"),
        ({"x_kafka_topic": True, "durable": False},
         "invalid property 'non-durable' for queue 'q' in vhost '/': 'x-kafka-topic' needs a durable queue"),
        ({"x_retain_bytes": 9, "exclusive": True}, "invalid property 'exclusive-owner' for queue 'q' in vhost '/': "
         "'x-retain-bytes' needs a queue that a restart finds"),
        ({"x_retain": "1h", "x_max_priority": 5},
         "invalid arg 'x-retain' for queue 'q' in vhost '/': not together with 'x-max-priority'"),
        ({"x_retain": "1h", "x_queue_type": "stream"},
         "invalid arg 'x-retain' for queue 'q' in vhost '/' of queue type rabbit_stream_queue"),
    ],
)  # fmt: skip
def test_what_cannot_be_declared(client, declared, text):
    """406 with what is wrong."""
    assert refusal(client.declare("q", **{"durable": True, **declared})) == (406, text)


def test_a_broker_in_memory_keeps_nothing():
    """406: there is no log."""
    client = World().connect()
    text = "invalid arg 'x-retain' for queue 'q' in vhost '/': it needs a data directory"
    assert refusal(client.declare("q", durable=True, x_retain="1h")) == (406, text)


def test_equivalence(world, client):
    """A redeclaration says the same."""
    assert answer(client.declare("q", durable=True, x_retain="1h")) == "queue.declare-ok"
    assert answer(client.declare("q", durable=True, x_retain="1h")) == "queue.declare-ok"
    code, text = refusal(client.declare("q", durable=True, x_retain="2h"))
    assert (code, text.startswith("inequivalent arg 'x-retain'")) == (406, True)


def test_what_is_not_persistent_is_not_kept(world, client, monkeypatch):
    """Neither in memory nor where it was in the log for want of memory; a restart finds no more of it."""
    client.declare("q", durable=True, x_retain="1h")
    client.publish("q", b"mayfly", delivery_mode=1)
    client.get("q", no_ack=True)
    monkeypatch.setattr(backlog, "HEAD_BYTES_MAX", 0)
    client.publish("q", b"1", **PERSISTENT)
    client.publish("q", b"mayfly", delivery_mode=1)
    client.publish("q", b"3", **PERSISTENT)
    assert [client.get("q", no_ack=True)[2] for _ in range(2)] == [b"1", b"mayfly"]
    client.publish("q", b"mayfly", delivery_mode=1)
    assert kept(world) == [(1, b"1")]
    again = world.kill()
    assert (kept(again), again.queue("q").ready_count) == ([(1, b"1")], 1)


def test_a_purge_keeps(world, client):
    """What was ready is dropped from the queue, and kept like what was delivered."""
    client.declare("q", durable=True, x_retain="1h")
    deliver(client, 2)
    client.publish("q", b"2", **PERSISTENT)
    client.call(1, "queue.purge", 0, "q", False)
    assert world.queue("q").ready_count == 0
    assert kept(world) == numbered(0, 1, 2)


def test_a_deleted_queue_keeps_nothing(world, client):
    """Nor is it looked at any more; a new one of the name begins anew."""
    client.declare("q", durable=True, x_retain="1h")
    deliver(client, 2)
    client.call(1, "queue.delete", 0, "q", False, False, False)
    world.advance(60_000)
    client.declare("q", durable=True, x_retain="1h")
    assert kept(world) == []
    assert len(world.broker.vhosts["/"].retaining.queues) == 1


def offsets(partition, start=0):
    """Of what a reader of the topic gets."""
    return [
        offset
        for batch in partition.batches(start)
        for offset in range(batch.header.base_offset, batch.header.next_offset)
    ]


def test_a_queue_is_opened_and_closed_by_policy(world, client):
    """`kafka-topic`: found by its name and id, and again after a restart by the same id; a queue's own word counts."""
    vhost = world.broker.vhosts["/"]
    client.declare("q", durable=True)
    client.declare("not", durable=True, x_kafka_topic=False)
    client.declare("transient")
    assert vhost.topics.all() == []
    vhost.policies.set(make_policy("open", ".*", "queues", 0, {"kafka-topic": True}), operator=False)
    [topic] = vhost.topics.all()
    assert (topic.name, vhost.topics.by_id(topic.id)) == ("q", topic)
    client.publish("q", b"0", **PERSISTENT)
    again = world.kill().broker.vhosts["/"]
    assert [(one.name, one.id) for one in again.topics.all()] == [("q", topic.id)]
    assert offsets(again.topics.get("q").partitions[0]) == [0]
    again.policies.delete("open", operator=False)
    assert again.topics.all() == []
    assert again.topics.by_id(topic.id) is None


def test_a_queue_that_cannot_be_opened_is_a_queue_all_the_same(world, client):
    """Its name is no topic's, or one has it: that is reported, and nothing else."""
    told = []
    world.broker.scheduler.report = lambda text, error: told.append(f"{text}: {error.text}")
    world.broker.vhosts["/"].topics.create("a_b", 1, {})
    names = ("a.b", "no topic", "__consumer_offsets")
    for name in names:
        client.declare(name, durable=True, x_kafka_topic=True)
        client.publish(name, b"x", **PERSISTENT)
        assert world.queue(name).ready_count == 1
    assert [text.partition(": ")[0] for text in told] == [
        f"queue '{name}' in vhost '/' is not shown to Kafka's clients" for name in names
    ]
    assert [topic.name for topic in world.broker.vhosts["/"].topics.all()] == ["a_b"]


def test_readers_of_a_topic_after_a_restart(world, client, monkeypatch):
    """They get what waits and what is kept, and no longer what was not persistent."""
    monkeypatch.setattr(backlog, "HEAD_BYTES_MAX", 0)
    client.declare("q", durable=True, x_retain="1h", x_kafka_topic=True)
    for number in range(6):
        client.publish("q", b"%d" % number, delivery_mode=1 + (number % 2 == 0))
    for _ in range(3):
        client.get("q", no_ack=True)
    assert offsets(world.broker.vhosts["/"].topics.partition("q", 0)) == [0, 2, 3, 4, 5]
    again = world.kill()
    partition = again.broker.vhosts["/"].topics.partition("q", 0)
    assert (offsets(partition), partition.start_offset, again.queue("q").ready_count) == ([0, 2, 4], 0, 1)


def test_readers_are_told_what_was_kept_too_long(world, client):
    """OFFSET_OUT_OF_RANGE below what is kept: something that they have not read is gone."""
    client.declare("q", durable=True, x_retain="1h", x_kafka_topic=True)
    deliver(client, 3)
    partition = world.broker.vhosts["/"].topics.partition("q", 0)
    partition.check_offset(1)
    world.advance(2 * HOUR_MS)
    assert partition.start_offset == 3
    with pytest.raises(TopicRefused):
        partition.check_offset(1)
    partition.check_offset(3)


def test_much_that_is_kept_costs_disk_and_no_memory(tmp_path):
    """100,000 messages that were delivered: what the broker holds of them is some octets each."""
    world = World(RealDisk(tmp_path / "data"))
    client = world.connect()
    client.declare("q", durable=True, x_retain="1h")
    client.consume("q", "t", no_ack=True)
    client.fill("q", 1000, 100, **PERSISTENT)
    client.frames()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    client.fill("q", 100_000, 100, **PERSISTENT)
    client.frames()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    count, size = world.queue("q").store.log.kept
    assert count == 101_000
    assert size > 10_000_000
    assert grown < 1_000_000


def test_what_goes_goes_in_short_steps():
    """100,000 messages become too old at once."""

    def scenario(counter):
        world = World(SimDisk(random.Random(1).randrange))
        client = world.connect()
        client.declare("q", durable=True, x_retain="1h")
        client.consume("q", "t", no_ack=True)
        client.fill("q", 100_000, 100, **PERSISTENT)
        world.hub.now_ms += 2 * HOUR_MS
        world.broker.scheduler.wall_ms += 2 * HOUR_MS
        counter.run(world.broker.tick, world.hub.now_ms)
        counter.run_while_busy(world.broker.scheduler)
        world.settle()
        assert world.queue("q").store.log.kept == (0, 0)

    assert_short_steps(scenario)

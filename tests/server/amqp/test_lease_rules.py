"""Leases out of a backlog, and their return: whatever stands where, each message is there once, with its flags."""

import random
import struct

import pytest
from amqp_harness import World, deliveries, publish
from hypothesis import given
from hypothesis import strategies as st
from sim_disk import SimDisk

import broker.core.queues.backlog
import broker.core.queues.queue_store
from broker.core.queues.lease_cursor import LeaseCursor
from broker.core.queues.priority_cursor import PriorityCursor
from broker.core.vhosts.replay import browse, replay
from protocol.amqp import content as wire

MALFORMED = struct.pack(">HI", 0x3000, 4) + b"\x05abc" + b"\x02"
"""Persistent, with a headers table that is malformed inside: nobody looks there when it is published."""
AT_LEAST_ONCE = {
    "x_dead_letter_exchange": "later",
    "x_dead_letter_strategy": "at-least-once",
    "x_overflow": "reject-publish",
}


def disk_world():
    """A broker with a disk, and a client."""
    world = World(SimDisk(random.Random(1).randrange))
    return world, world.connect()


def drained(client, queue):
    """(redelivered, body) of everything in the queue."""
    return [(flag, body) for _, _, flag, body in deliveries(client.consume(queue, no_ack=True))]


def test_a_replay_that_is_refused_leaves_everything_as_it_was():
    """Before and after the dead letters are loaded: none is doubled, none is missing."""
    world, client = disk_world()
    client.declare("dead", durable=True)
    dead_letters = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
    client.declare("q", durable=True, x_max_length=1, x_overflow="reject-publish", **dead_letters)
    for body in (b"0", b"1", b"2"):
        client.publish("q", body, delivery_mode=2)
        client.send(1, "basic.reject", client.get("q")[0], False)
    client.publish("q", b"fills", delivery_mode=2)
    world = world.kill()
    client = world.connect()
    dead = world.queue("dead")
    home = world.broker.vhosts["/"]
    seen = list(browse(dead, 0, {}, 10))
    outcomes = [replay(home, dead.name, dead.store, one, lambda *_: True, to_exchange=False) for one in seen]
    assert [outcome.reason for outcome in outcomes] == ["refused"] * 3
    assert [body for _, body in drained(client, "dead")] == [b"0", b"1", b"2"]
    assert (dead.ready_count, dead.store.leased_count) == (0, 0)


def test_what_expires_behind_the_head_and_waits_is_not_loaded():
    """At least once, and nowhere to go: it waits, and is no longer among the ready."""
    world, client = disk_world()
    client.declare("q", durable=True, **AT_LEAST_ONCE)
    client.fill("q", 40, 1_000_000, delivery_mode=2)
    client.publish("q", b"expires", delivery_mode=2, expiration="1000")
    client.publish("q", b"last", delivery_mode=2)
    queue = world.queue("q")
    assert queue.store.unloaded_count > 2
    world.advance(2000)
    assert (len(queue.at_least_once), queue.ready_count) == (1, 41)
    got = drained(client, "q")
    assert (len(got), got[-1]) == (41, (False, b"last"))
    assert (queue.ready_count, queue.store.leased_count) == (0, 1)
    client.declare_exchange("later", "fanout", durable=True)
    client.declare("dead", durable=True)
    client.bind("dead", "later")
    world.advance(3000)
    assert [body for _, body in drained(client, "dead")] == [b"expires"]
    assert queue.store.leased_count == 0


def test_purge_takes_what_waits_from_behind_the_head():
    """And what comes afterwards is served."""
    world, client = disk_world()
    client.declare("q", durable=True, **AT_LEAST_ONCE)
    client.fill("q", 40, 1_000_000, delivery_mode=2)
    client.publish("q", b"expires", delivery_mode=2, expiration="1000")
    world.advance(2000)
    client.call(1, "queue.purge", 0, "q", False)
    client.publish("q", b"new", delivery_mode=2)
    assert drained(client, "q") == [(False, b"new")]
    world = world.kill()
    assert drained(world.connect(), "q") == []


@pytest.mark.parametrize("arguments", [{}, {"x_max_priority": 5}])
def test_a_clean_stop_remembers_what_was_delivered(arguments):
    """What was with a consumer comes back as redelivered; by priority too, where what is behind it may be flagged."""
    world, client = disk_world()
    client.declare("q", durable=True, **arguments)
    for body in (b"0", b"1", b"2"):
        client.publish("q", body, delivery_mode=2)
    assert [client.get("q")[1:] for _ in range(2)] == [(False, b"0"), (False, b"1")]
    world = world.stop()
    assert drained(world.connect(), "q")[:2] == [(True, b"0"), (True, b"1")]


def test_priorities_that_nobody_had_are_not_flagged_by_a_clean_stop():
    """Nothing was delivered, so nothing is redelivered."""
    world, client = disk_world()
    client.declare("q", durable=True, x_max_priority=5)
    client.publish("q", b"0", delivery_mode=2)
    world = world.stop()
    assert drained(world.connect(), "q") == [(False, b"0")]


def test_the_delivery_count_is_told_after_a_restart():
    """On the first delivery already: `x-delivery-count` says how often it came back."""
    world, client = disk_world()
    client.declare("q", durable=True, x_queue_type="quorum")
    client.publish("q", b"m", delivery_mode=2)
    for _ in range(3):
        client.send(1, "basic.nack", client.get("q")[0], False, True)
    world = world.kill()
    frames = world.connect().call(1, "basic.get", 0, "q", False)
    header = next(octets for name, _, octets in frames if name == "header")
    assert wire.parse_properties(header)["headers"] == {"x-delivery-count": 3}


def test_malformed_headers_come_back_like_others():
    """A consumer's end returns all it had, on each of its channels, whatever is inside of them."""
    world, publisher = disk_world()
    publisher.declare("q", durable=True, x_queue_type="quorum")
    publisher.declare("other", durable=True)
    publisher.fill("q", 99, 10, delivery_mode=2)
    publisher.feed(publish(1, "", "q", b"m", octets=MALFORMED))
    publisher.publish("other", b"x", delivery_mode=2)
    consumer = world.connect()
    consumer.call(2, "channel.open", "")
    consumer.consume("q")
    consumer.consume("other", channel=2)
    consumer.drop()
    queue, other = world.queue("q"), world.queue("other")
    assert (queue.ready_count, queue.store.leased_count, queue.returning_count) == (100, 0, 0)
    assert (other.ready_count, other.consumers) == (1, [])


@pytest.mark.parametrize("durable", [True, False])
def test_the_head_is_measured_whatever_the_sizes(durable, monkeypatch):
    """Small and large ones in turns, in one read: what is kept in memory stays near its bound."""
    bound = 2_000_000
    monkeypatch.setattr(broker.core.queues.queue_store, "HEAD_BYTES_MAX", bound)
    monkeypatch.setattr(broker.core.queues.backlog, "HEAD_BYTES_MAX", bound)
    world, client = disk_world()
    client.declare("q", durable=durable)
    for _ in range(60):
        small = publish(1, "", "q", b"s", delivery_mode=2)
        client.feed(small + publish(1, "", "q", b"L" * 120_000, delivery_mode=2) + small)
    queue = world.queue("q")
    held = sum(len(content) for _, content in queue.store.cursor.head)
    assert bound / 2 < held < bound * 1.5
    assert queue.ready_count == 180


def test_large_messages_are_not_loaded_by_the_hundred():
    """A slow consumer of a backlog of large ones: what is brought back ahead is bounded in octets."""
    world, client = disk_world()
    client.declare("q", durable=True)
    client.fill("q", 100, 120_000, delivery_mode=2)
    world = world.kill()
    client = world.connect()
    client.call(1, "basic.qos", 0, 1, False)
    tag = deliveries(client.consume("q"))[0][1]
    for _ in range(20):
        tag = deliveries(client.call(1, "basic.ack", tag, False))[0][1]
    assert sum(len(content) for _, content in world.queue("q").store.cursor.head) < 2_000_000


@given(st.data())
def test_what_is_ready_is_found_from_any_offset(data):
    """By offset, whatever was taken, returned or lost in between, and whatever the priority."""
    priority_max = data.draw(st.sampled_from([0, 3]))
    cursor = PriorityCursor(priority_max) if priority_max else LeaseCursor()
    ready, leased, tail = {}, {}, 0
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(["extend", "extend", "take", "release", "pick"]))
        if step == "extend":
            first = tail + data.draw(st.integers(0, 3))
            some = [message_of(data.draw(st.integers(0, 3))) for _ in range(data.draw(st.integers(1, 5)))]
            cursor.extend(first, some, tail)
            ready.update(enumerate(some, first))
            tail = first + len(some)
        elif step == "release" and leased:
            offset = data.draw(st.sampled_from(sorted(leased)))
            ready[offset] = leased.pop(offset)
            cursor.release([(offset, ready[offset])])
        else:
            if step == "pick":
                taken = cursor.take_each(sorted(data.draw(st.sets(st.integers(0, tail), max_size=4))))
            else:
                taken = list(zip(*reversed(cursor.take(data.draw(st.integers(1, 6)))), strict=True))
            for offset, message in taken:
                assert ready.pop(offset) is message
                if step == "take":
                    leased[offset] = message
    for start in range(tail + 2):
        assert list(cursor.ready_messages(start)) == sorted(one for one in ready.items() if one[0] >= start)


def message_of(priority):
    """A message of this priority."""
    return b"\0\0\0\xce", wire.encode_content(1, bytes([priority]), wire.PRIORITY, b"x", 4096)

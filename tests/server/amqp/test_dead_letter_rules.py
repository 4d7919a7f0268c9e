"""Dead letters and delayed messages that cannot go where they are told: they are dropped, and nothing else suffers."""

import itertools
import random

import pytest
from amqp_harness import World
from sim_disk import SimDisk, SimFile

from broker.core.exchange import topic
from broker.core.message import make_origin
from broker.core.vhosts.policies import make_policy
from broker.log.errors import Corrupt
from protocol.amqp import content as wire
from protocol.amqp.fields import encode_table

TOO_LONG = "x" * 300


@pytest.fixture
def kept():
    """(world, client) with a disk."""
    world = World(SimDisk(random.Random(1).randrange))
    return world, world.connect()


@pytest.fixture
def reports(monkeypatch):
    """What brokers tell their operator."""
    found = []
    monkeypatch.setattr("broker.core.scheduler._raise", lambda text, error: found.append((text, error.args[-1])))
    return found


def dropped(world):
    """Dead letters that no queue took."""
    return world.broker.vhosts["/"].dead_letters.dropped_count


def unchecked(monkeypatch):
    """Declarations as a version took them that did not look at lengths."""
    monkeypatch.setattr("broker.core.arguments.is_name", lambda _: True)
    monkeypatch.setattr("broker.core.vhosts.policies.is_name", lambda _: True)


@pytest.mark.parametrize(
    "arguments",
    [{"x_dead_letter_exchange": TOO_LONG}, {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": TOO_LONG}],
    ids=["exchange", "routing key"],
)
def test_a_stored_queue_whose_dead_letters_cannot_go(kept, reports, monkeypatch, arguments):
    """Names that no frame can hold, declared before they were refused: the letters drop, the operator hears it once."""
    world, client = kept
    with monkeypatch.context() as patch:
        unchecked(patch)
        client.declare("q", durable=True, x_message_ttl=1000, **arguments)
    for _ in range(3):
        client.publish("q", b"x", delivery_mode=2)
    world = world.kill()
    world.advance(2000)
    assert world.queue("q").ready_count == 0
    assert dropped(world) == 3
    assert reports == [
        ("queue 'q' in vhost '/' cannot send its dead letters anywhere",
         "its dead letter exchange or routing key is too long for AMQP")
    ]  # fmt: skip


def test_at_least_once_a_stored_queue_keeps_what_cannot_go(reports, kept, monkeypatch):
    """Such letters wait, as they do while there is no exchange."""
    world, client = kept
    with monkeypatch.context() as patch:
        unchecked(patch)
        client.declare("q", durable=True, x_message_ttl=1000, x_dead_letter_exchange=TOO_LONG,
                       x_dead_letter_strategy="at-least-once", x_overflow="reject-publish")  # fmt: skip
    client.publish("q", b"x", delivery_mode=2)
    world.advance(5000)
    assert len(world.queue("q").at_least_once) == 1
    assert len(reports) == 1


def test_a_stored_policy_that_would_be_refused(kept, reports, monkeypatch):
    """The broker starts without it, says so, and lets it be deleted."""
    world, client = kept
    client.declare("q", durable=True)
    with monkeypatch.context() as patch:
        unchecked(patch)
        policy = make_policy("p", "q", "queues", 0, {"dead-letter-exchange": TOO_LONG, "max-length": 1})
        world.broker.vhosts["/"].policies.set(policy, operator=False)
        client.call(1, "queue.declare", 0, "other", False, True, False, False, False, {})
    world = world.kill()
    assert world.queue("q").rules.length_max is None
    assert [text for text, _ in reports] == ["policy 'p' in vhost '/' is not applied"]
    policies = world.broker.vhosts["/"].policies
    assert policies.delete("p", operator=False)
    assert not policies.delete("p", operator=False)
    world.connect().declare("more", durable=True)
    del reports[:]
    world.kill()
    assert reports == []


def costly(client, exchange):
    """Bindings of a topic exchange that leave its key `COSTLY` at too many places."""
    words = next(count for count in range(1, 20) if 2**count > topic.STATES_MAX)
    for pattern in itertools.product("a*", repeat=words):
        client.bind("dead", exchange, ".".join(pattern) + ".end")
    return ".".join("a" * words)


def test_a_dead_letter_that_a_topic_exchange_declines(world, client, monkeypatch):
    """It is dropped and counted, the next one arrives."""
    monkeypatch.setattr(topic, "STATES_MAX", 100)
    client.declare_exchange("t", "topic", durable=True)
    client.declare("dead", durable=True)
    key = costly(client, "t")
    client.declare("q", durable=True, x_message_ttl=100, x_dead_letter_exchange="t")
    client.bind("q", "amq.fanout")
    client.bind("dead", "t", "fine")
    client.publish(key, b"costly", exchange="amq.fanout", delivery_mode=2)
    client.publish("fine", b"fine", exchange="amq.fanout", delivery_mode=2)
    world.advance(1000)
    assert dropped(world) == 1
    assert client.get("dead", no_ack=True)[2] == b"fine"


def test_a_delayed_message_that_its_exchange_declines(world, client, monkeypatch):
    """Dropped and counted likewise: too costly a key, headers that cannot be read by what the exchange routes to."""
    monkeypatch.setattr(topic, "STATES_MAX", 100)
    client.declare("dead", durable=True)
    client.declare_exchange("t", "x-delayed-message", durable=True, x_delayed_type="topic")
    key = costly(client, "t")
    client.bind("dead", "t", "fine")
    for routing_key in (key, "fine"):
        client.publish(routing_key, b"x", exchange="t", delivery_mode=2, headers={"x-delay": 100})
    world.advance(1000)
    assert dropped(world) == 1
    assert world.queue("dead").ready_count == 1


def test_copies_that_are_no_list_do_not_stop_dead_letters(world, client):
    """As an earlier version took them over HTTP."""
    client.declare("dead", durable=True)
    client.declare("q", durable=True, x_message_ttl=100, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.bind("q", "amq.fanout")
    stored = world.queue("q")
    octets = encode_table({"CC": 5})
    content = wire.encode_content(1, octets, wire.HEADERS, b"x", 131_072)
    stored.enqueue_one((make_origin(b"", b"q"), content))
    world.advance(1000)
    assert world.queue("dead").ready_count == 1


def waiting(client, count):
    """An x-delayed-message exchange `later` in which messages wait for `q`: three seconds, each half a second more."""
    client.declare_exchange("later", "x-delayed-message", durable=True, x_delayed_type="direct")
    client.declare("q", durable=True)
    client.bind("q", "later", "k")
    for number in range(count):
        headers = {"x-delay": 3000 + 500 * number}
        client.publish("k", b"%d" % number, exchange="later", delivery_mode=2, headers=headers)


def failing(monkeypatch, error, after):
    """Reads of the disk fail from the one after `after` on, while the returned list has something in it."""
    read, times = SimFile.read, itertools.count()
    broken = [True]

    def failing_read(self, position, size):
        if broken and next(times) >= after:
            raise error
        return read(self, position, size)

    monkeypatch.setattr(SimFile, "read", failing_read)
    return broken


@pytest.mark.parametrize("after", [0, 2])
def test_delays_that_cannot_be_read_now(kept, reports, monkeypatch, after):
    """Out of handles at the start: the exchange says so each second, and what waits in it is not forgotten."""
    world, client = kept
    monkeypatch.setattr("broker.log.extents.EXTENT_BYTES_MAX", 100)
    waiting(client, 5)
    world = world.kill()
    with monkeypatch.context() as patch:
        broken = failing(patch, OSError(24, "Too many open files"), after)
        world.settle()
        world.advance(100)
        world.advance(1000)
        del broken[:]
    assert [text for text, _ in reports] == ["x-delayed-message exchange 'later' in vhost '/' cannot be read now"] * 2
    for _ in range(12):
        world.advance(500)
    assert world.queue("q").ready_count == 5


def test_delays_that_can_never_be_read(kept, reports, monkeypatch):
    """A damaged log: said once, the broker goes on, new messages come."""
    world, client = kept
    waiting(client, 1)
    world = world.kill()
    with monkeypatch.context() as patch:
        failing(patch, Corrupt("damaged"), 0)
        world.settle()
    assert reports == [
        ("x-delayed-message exchange 'later' in vhost '/' cannot be read from offset 0 on: nothing there expires",
         "damaged")
    ]  # fmt: skip
    client = world.connect()
    client.publish("k", b"new", exchange="later", delivery_mode=2, headers={"x-delay": 100})
    world.advance(1000)
    assert client.get("q", no_ack=True)[2] == b"new"


@pytest.mark.parametrize("octets", [b"\x00\x00\x00\x02\x05a", encode_table({"x-delay": "soon"}), None], ids=str)
def test_delays_that_make_no_sense(kept, octets):
    """What is stored and has no delay that can be read is due at once, after a restart too, and stops nothing."""
    world, client = kept
    waiting(client, 1)
    flags = wire.DELIVERY_MODE if octets is None else wire.HEADERS | wire.DELIVERY_MODE
    content = wire.encode_content(1, (octets or b"") + b"\x02", flags, b"rubbish", 131_072)
    holder = world.broker.vhosts["/"].exchanges["later"].state
    holder.store.append([(make_origin(b"later", b"k"), content)])
    world.settle()
    world = world.kill()
    assert world.broker.vhosts["/"].exchanges["later"].state.store.unloaded_count == 2
    world.settle()
    world.advance(4000)
    assert world.broker.vhosts["/"].exchanges["later"].state.ready_count == 0
    assert world.connect().get("q", no_ack=True)[2] in (b"0", b"rubbish")


def test_a_delayed_exchange_of_the_queues_own_name(world, client):
    """It is not the queue, so a letter that waits in it does not come round."""
    client.declare_exchange("q", "x-delayed-message", durable=True, x_delayed_type="fanout")
    client.declare("end", durable=True)
    client.bind("end", "q")
    client.declare("q", durable=True, x_message_ttl=100, x_dead_letter_exchange="q")
    client.publish("q", b"x", delivery_mode=2, headers={"x-delay": 100})
    world.advance(1000)
    world.advance(1000)
    assert world.queue("end").ready_count == 1

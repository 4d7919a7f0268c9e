"""Routing keys of CC and BCC stay with a message: what sends it on without a key of its own follows them.

RabbitMQ 4: `rabbit_dead_letter.erl` (`mc:routing_keys/1` without a key of the queue's own, that key alone otherwise,
which is then the message's only one), `mc.erl` (no key of BCC in x-death), and the plugin for delayed messages, which
routes by the message and so by all of its keys.
"""

import random

import pytest
from amqp_harness import World, parse
from sim_disk import SimDisk

from broker.core.message import further_keys, make_origin, pack_keys, unpack_keys
from broker.core.queues.backlog import HEAD_BYTES_MAX
from broker.core.queues.x_death import DeadLetterMaker
from protocol.amqp import content as wire
from protocol.amqp.content import parse_properties

KEYS = {"CC": ["c"], "BCC": ["b", 5]}


@pytest.fixture(params=["memory", "disk"])
def world(request):
    return World(SimDisk(random.Random(1).randrange) if request.param == "disk" else None)


@pytest.fixture
def client(world):
    return world.connect()


def dead_letter_queues(client, exchange="dlx", kind="direct", **arguments):
    """A queue for each key, bound with it."""
    client.declare_exchange(exchange, kind, durable=True, **arguments)
    for name in "kcb":
        client.declare(name, durable=True)
        client.bind(name, exchange, name)


def send(client, **headers):
    """To the queue `q` and nobody else, whatever the keys."""
    client.bind("q", "amq.fanout")
    client.publish("q", b"x", exchange="amq.fanout", delivery_mode=2, headers=headers or KEYS)


def depths(world):
    return [world.queue(name).ready_count for name in "kcb"]


def reject(client, queue="q"):
    client.send(1, "basic.reject", client.get(queue)[0], False)


def deaths(client, queue):
    """(routing key of the message, headers) of what stands first in a queue."""
    ok, header, *_ = client.call(1, "basic.get", 0, queue, True)
    return ok[2][3], parse_properties(header[2])["headers"]


def test_dead_letters_follow_all_keys(world, client):
    """Without a key of the queue's own; nobody sees BCC, not in x-death either."""
    dead_letter_queues(client)
    client.declare("q", durable=True, x_dead_letter_exchange="dlx")
    client.bind("q", "amq.fanout")
    client.publish("k", b"x", exchange="amq.fanout", delivery_mode=2, headers=KEYS)
    reject(client)
    assert depths(world) == [1, 1, 1]
    key, found = deaths(client, "b")
    assert key == "k"
    assert "BCC" not in found
    assert found["x-death"][0]["routing-keys"] == ["k", "c"]


def test_what_comes_back_keeps_them(world, client):
    """Returned to its queue, delivered again, and then dead."""
    dead_letter_queues(client)
    client.declare("q", durable=True, x_dead_letter_exchange="dlx")
    send(client)
    client.send(1, "basic.reject", client.get("q")[0], True)
    reject(client)
    assert depths(world) == [0, 1, 1]


def test_a_second_death_follows_them_again(world, client):
    """Through a queue that has no key of its own either."""
    dead_letter_queues(client)
    client.declare_exchange("on", "fanout", durable=True)
    client.declare("q", durable=True, x_dead_letter_exchange="on")
    client.declare("next", durable=True, x_dead_letter_exchange="dlx", x_message_ttl=100)
    client.bind("next", "on")
    send(client)
    reject(client)
    world.advance(1000)
    assert depths(world) == [0, 1, 1]
    assert [one["routing-keys"] for one in deaths(client, "b")[1]["x-death"]] == [["q", "c"], ["q", "c"]]


def test_a_key_of_the_queues_own_ends_them(world, client):
    """It is the message's only one from then on, whatever its CC header says."""
    dead_letter_queues(client)
    client.declare("q", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="next")
    client.declare("next", durable=True, x_dead_letter_exchange="dlx", x_message_ttl=100)
    client.bind("k", "dlx", "next")
    send(client)
    reject(client)
    world.advance(1000)
    assert depths(world) == [1, 0, 0]
    found = deaths(client, "k")[1]
    assert found["CC"] == ["c"]
    assert [one["routing-keys"] for one in found["x-death"]] == [["next"], ["q", "c"]]


def test_in_a_transaction_each_keeps_its_own(world, client):
    """Messages that differ in nothing but BCC are not taken for one kind, nor are their deaths."""
    dead_letter_queues(client)
    client.declare("q", durable=True, x_dead_letter_exchange="dlx", x_message_ttl=100)
    client.call(1, "tx.select")
    for keys in (["b"], ["c"], [], ["b"]):
        send(client, BCC=keys)
    client.call(1, "tx.commit")
    world.advance(1000)
    assert depths(world) == [0, 1, 2]


def test_delayed_messages_follow_all_keys(world, client):
    """At once and when they are due."""
    dead_letter_queues(client, "later", "x-delayed-message", x_delayed_type="direct")
    client.publish("k", b"x", exchange="later", delivery_mode=2, headers=KEYS)
    assert depths(world) == [1, 1, 1]
    client.publish("k", b"x", exchange="later", delivery_mode=2, headers={**KEYS, "x-delay": 1000})
    assert depths(world) == [1, 1, 1]
    world.advance(2000)
    assert depths(world) == [2, 2, 2]


def test_they_survive_a_kill():
    """And the time in the log: a backlog that is in memory no more."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    dead_letter_queues(client)
    client.declare("q", durable=True, x_dead_letter_exchange="dlx")
    send(client)
    client.publish("q", b"y", delivery_mode=2)
    world = world.kill()
    client = world.connect()
    reject(client)
    reject(client)
    assert depths(world) == [0, 1, 1]
    world = world.kill()
    assert depths(world) == [0, 1, 1]
    assert "BCC" not in deaths(world.connect(), "b")[1]


def test_nobody_sees_them(world, client):
    """A delivery and its copies are the octets that they would be without BCC."""
    client.declare("q", durable=True)
    seen = []
    for keys in ({}, {"BCC": ["b"]}):
        send(client, n=1, **keys)
        client.frames()
        client.send(1, "basic.get", 0, "q", True)
        seen.append(client.raw())
    assert parse(seen[1])[1] == parse(seen[0])[1]
    assert len(seen[1]) == len(seen[0])


def test_they_count_as_memory():
    """Thousands of keys behind a small message: the head of a queue holds no more octets than it may."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    client.declare("q", durable=True)
    keys = [f"key {number:025}" for number in range(3000)]
    for _ in range(HEAD_BYTES_MAX // 90_000 + 20):
        send(client, BCC=keys)
    assert world.queue("q").store.unloaded_count > 0


def test_remembered_dead_letters_tell_keys_apart():
    """Who dies next is of the same kind only if its further keys are the same."""
    maker = DeadLetterMaker()
    content = wire.encode_content(1, b"", 0, b"x", 4096)
    for keys in (["b"], ["c", ""], [], None, ["b"]):
        origin = make_origin(b"", b"q", None if keys is None else pack_keys(keys))
        letter = maker.make((origin, content), "q", "rejected", "dlx", None, 0)
        assert letter.keys == ("q", *(keys or ()))
        assert further_keys(letter.message[0], {}) == (keys or [])


def test_other_octets_are_no_keys():
    """A length that reaches behind the end, and text that is none."""
    assert unpack_keys(pack_keys(["", "é", "k" * 300])) == ["", "é", "k" * 300]
    for octets in (b"\0\0\0\2k", b"\0\0", b"\0\0\0\1\xff"):
        with pytest.raises(ValueError, match=r".+"):
            unpack_keys(octets)

"""Queues and exchanges with many bindings are deleted in slices, and nobody sees how.

RabbitMQ (rabbit_amqqueue.erl, rabbit_exchange.erl, rabbit_binding.erl: `remove_for_destination`, `remove_for_source`)
deletes what leads to or from them before it answers.
"""

import random

import pytest
from amqp_harness import World, publish, refusal
from sim_disk import SimDisk
from steps import assert_short_steps

from broker.core import catalog
from protocol.amqp.frames import method_frame

MANY = 20_000
KINDS = ["direct", "fanout", "topic", "headers", "x-consistent-hash", "x-random"]


def key_of(kind, number):
    return str(number % 50 + 1) if kind == "x-consistent-hash" else f"{number % 100}.{number}"


def bound(world, kind, count, durable=False):
    """(vhost, exchange `x`, queue `q` with `count` bindings to it, beside queue `other` with one)."""
    home = world.broker.vhosts["/"]
    home.declare_exchange("x", kind, durable=durable, auto_delete=False, internal=False, arguments={})
    for name in ("q", "other"):
        home.declare_queue(name, durable=durable, exclusive=False, auto_delete=False, arguments={}, connection=None,
                           now_ms=0)  # fmt: skip
    end = home.queues["q"]
    home.bind("x", home.queues["other"], key_of(kind, 1), {})
    for number in range(count):
        home.bind("x", end, key_of(kind, number), {"n": number})
    return home


def delete(what, name, nowait=False):
    return method_frame(1, f"{what}.delete", 0, name, False, *([False] if what == "queue" else []), nowait)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["queue", "exchange"])
def test_in_slices(kind, what):
    """No step is long; the answer comes when the last binding is gone; meanwhile it is gone for everybody."""

    def scenario(counter):
        world = World()
        client, other = world.connect(), world.connect()
        home = bound(world, kind, MANY)
        name = "q" if what == "queue" else "x"
        counter.run(client.machine.receive, delete(what, name) + publish(1, "", "other", b"late"))
        other.machine.receive(publish(1, "x", key_of(kind, 1), b"x", True) if what == "queue" else b"")
        other.machine.receive(publish(1, "", "q", b"x", True))
        assert name not in (home.queues if what == "queue" else home.exchanges)
        assert world.broker.scheduler.busy
        assert not client.machine.outbox.parts
        counter.run_while_busy(world.broker.scheduler)
        client.feed(b"")
        assert [method for method, *_ in client.frames()] == [f"{what}.delete-ok"]
        assert home.binding_count == (1 if what == "queue" else 0)
        returned = [found[0] for found in other.frames() if found[0] == "basic.return"]
        assert len(returned) == (1 if what == "queue" else 0)
        assert world.queue("other").ready_count == (2 if what == "queue" else 1)

    assert_short_steps(scenario)


@pytest.mark.parametrize("way", ["to", "from"])
def test_exchange_to_exchange(way):
    """Bindings between exchanges likewise, on either side; what is auto-delete goes with the last, and so on."""

    def scenario(counter):
        world = World()
        client = world.connect()
        home = world.broker.vhosts["/"]
        for name, auto_delete in (("a", True), ("b", True), ("c", False)):
            home.declare_exchange(name, "topic", durable=False, auto_delete=auto_delete, internal=False, arguments={})
        home.bind("a", home.exchanges["b"], "k", {})
        for number in range(MANY):
            home.bind("b", home.exchanges["c"], f"k{number}", {})
        counter.run(client.machine.receive, delete("exchange", "c" if way == "to" else "b"))
        counter.run_while_busy(world.broker.scheduler)
        assert [method for method, *_ in client.frames()] == ["exchange.delete-ok"]
        assert set("abc") & set(home.exchanges) == (set() if way == "to" else {"c"})
        assert home.binding_count == 0

    assert_short_steps(scenario)


def test_its_name_is_free_when_it_is_gone():
    """Another connection is refused until then, 405; the same one, even without an answer, comes behind it."""
    world = World()
    client, other = world.connect(), world.connect()
    home = bound(world, "topic", 1000)
    declare = method_frame(1, "queue.declare", 0, "q", False, False, False, False, False, {})
    client.machine.receive(delete("queue", "q", nowait=True) + declare)
    other.machine.receive(declare)
    text = "queue 'q' in vhost '/' is being deleted, and still has bindings"
    client.feed(b"")
    assert refusal(other.frames()) == (405, text)
    assert [method for method, *_ in client.frames()] == ["queue.declare-ok"]
    assert home.binding_count == 1
    client.bind("q", "x", "0.0", {"n": 0})
    client.publish("0.0", exchange="x")
    assert world.queue("q").ready_count == 1


def test_who_waits_may_go():
    """The connection that deletes ends before it is done: the rest goes all the same."""
    world = World()
    client = world.connect()
    home = bound(world, "topic", 1000)
    client.machine.receive(delete("queue", "q"))
    client.drop()
    assert home.binding_count == 1


@pytest.mark.parametrize("what", ["queue", "exchange"])
@pytest.mark.parametrize("slices", [0, 1, 3])
def test_killed_in_between(what, slices):
    """What is half deleted on the disk is gone at the next start, and who takes its name has no old bindings."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    bound(world, "topic", 1000, durable=True)
    world.settle()
    client.machine.receive(delete(what, "q" if what == "queue" else "x"))
    for _ in range(slices):
        world.broker.scheduler.run_slice()
    while world.store.dirty or world.store.synced_frame < world.store.frame - 1:  # The disk is faster than the slices.
        world.durability.flusher.collect()
        world.hub.end_turn()
    assert world.broker.scheduler.busy
    world = world.kill()
    home = world.broker.vhosts["/"]
    assert home.binding_count == (1 if what == "queue" else 0)
    assert world.broker.left_aside == []
    assert len([key for key in world.store.catalog if key[:1] == b"b"]) == home.binding_count
    client = world.connect()
    client.declare_exchange("x", "topic", durable=True)
    client.declare("q", durable=True)
    client.publish("0.0", exchange="x")
    assert world.queue("q").ready_count == 0


def killed_while_deleting():
    """A broker that was killed when the first 100 bindings of the queue `q` were gone: `a` had one that was not among
    them, and `b` leads to `a` alone; `c` has a binding to another queue as well, and `d` has had none yet."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    home = bound(world, "topic", 1000, durable=True)
    for name in "abcd":
        home.declare_exchange(name, "fanout", durable=True, auto_delete=True, internal=False, arguments={})
    home.bind("a", home.queues["q"], "", {})
    home.bind("b", home.exchanges["a"], "", {})
    for end in ("q", "other"):
        home.bind("c", home.queues[end], "", {})
    world.settle()
    client.machine.receive(delete("queue", "q"))
    world.store.flush()
    return world


def exchanges_of(world):
    return {name for name in world.broker.vhosts["/"].exchanges if len(name) == 1}


def test_killed_before_an_exchange_has_lost_its_last_binding():
    """An auto-delete exchange whose last binding the next start drops goes with it, and what follows from that."""
    world = killed_while_deleting()
    assert exchanges_of(world) == {"a", "b", "c", "d", "x"}
    world = world.kill()
    assert exchanges_of(world) == {"c", "d", "x"}
    assert world.broker.vhosts["/"].binding_count == 2
    world.settle()
    world = world.kill()
    assert exchanges_of(world) == {"c", "d", "x"}
    assert world.broker.left_aside == []


def test_a_binding_that_cannot_be_read_holds_its_exchange():
    """It waits beside the catalog for a version that can read it: its auto-delete exchange has not lost its last."""
    world = killed_while_deleting()
    odd = catalog.key(catalog.BINDING, "/", "a", "queue", "other", "", catalog.EMPTY_DIGEST)
    world.store.put(odd, b"?")
    world.store.flush()
    world = world.kill()
    assert list(world.broker.aside) == [odd]
    assert exchanges_of(world) == {"a", "b", "c", "d", "x"}


def test_what_goes_with_it_leaves_at_once():
    """The name of an auto-delete exchange that has lost its last binding is not free while others lead to it."""
    world = World()
    client = world.connect()
    home = bound(world, "topic", 1000)
    for name, auto_delete in (("a", False), ("b", True)):
        home.declare_exchange(name, "topic", durable=False, auto_delete=auto_delete, internal=False, arguments={})
    home.bind("b", home.queues["q"], "", {})
    for number in range(1000):
        home.bind("a", home.exchanges["b"], f"{number}", {})
    client.machine.receive(delete("queue", "q"))
    while "b" in home.exchanges:
        world.broker.scheduler.run_slice()
    while home.binding_count > 1:
        assert home.unbinding.is_leaving("exchange", "b")
        world.broker.scheduler.run_slice()
    assert not home.unbinding.is_leaving("exchange", "b")

"""Replaying what a queue has kept, request by request, without a socket in between."""

import random

import pytest
from amqp_harness import World, publish
from sim_disk import SimDisk
from steps import assert_short_steps

from broker.core.access_lists import Acl
from broker.core.vhosts.redelivery import retained
from broker.server.http import (
    browse,
    redeliver,  # noqa: F401 - it fills the table of routes
)
from broker.server.http.api import HttpError, Request, answer
from protocol.amqp import content as wire

PERSISTENT = {"delivery_mode": 2}


def make_world(count, **arguments):
    """A broker whose queue `q` has delivered so many messages, and its client."""
    world = World(SimDisk(random.Random(1).randrange))
    world.access.users["guest"].tags = frozenset({"management"})
    client = world.connect()
    client.declare("q", durable=True, x_retain="1h", **arguments)
    if count:
        client.consume("q", "t", no_ack=True)
        client.fill("q", count, 50, **PERSISTENT)
        client.call(1, "basic.cancel", "t", False)
    return world, client


def ask(world, method="POST", what="redeliver", query=None, **body):
    """The answer of one request."""
    user = world.access.users["guest"]
    request = Request(method, ("queues", "/", "q", what), query or {}, body, user, world.hub, dict, 1 << 20)
    found = answer(request)
    world.settle()
    return found


def run(world, **asked):
    """Request after request; returns (what was copied, how many requests it took)."""
    found = ask(world, **asked)
    copied, requests = found["copied"], 1
    while found["next"] is not None:
        found = ask(world, **{**asked, "from": found["next"], "to": found["to"]})
        copied += found["copied"]
        requests += 1
    return copied, requests


def test_many_requests_copy_each_message_once():
    """However many each of them takes; the range ends where it was to end at the first."""
    world, _ = make_world(3000)
    copied, requests = run(world, count=400)
    assert (copied, world.queue("q").ready_count) == (3000, 3000)
    assert requests >= 8


def test_the_time_ends_a_look(monkeypatch):
    """However little there is of it, each request goes on by a message, and none is copied twice."""
    monkeypatch.setattr(browse, "LOOK_S", -1)
    world, _ = make_world(20)
    copied, requests = run(world)
    assert (copied, world.queue("q").ready_count) == (20, 20)
    assert requests >= 20


@pytest.mark.parametrize(
    "body",
    [
        {"from": -1}, {"from": "soon"}, {"to": 1.5}, {"count": 0}, {"dry_run": "yes"}, {"into": 5},
        {"routing_key": "k"}, {"into": "amq.topic", "routing_key": "k" * 256}, {"headers": 7},
        {"from": None}, {"from": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense(body):
    """400 with a reason."""
    world, _ = make_world(0)
    with pytest.raises(HttpError) as caught:
        ask(world, **body)
    assert caught.value.status == 400


def test_nothing_is_copied_under_an_alarm():
    """The answer says what the broker is low on, and that nothing was done; counting goes on."""
    world, _ = make_world(5)
    world.hub.set_alarm("disk", active=True)
    found = ask(world)
    assert (found["blocked"], found["copied"], found["next"], found["to"]) == ("low on disk", 0, 0, 5)
    assert ask(world, dry_run=True)["copied"] == 5
    world.hub.set_alarm("disk", active=False)
    assert ask(world)["copied"] == 5


def test_what_cannot_be_copied_is_told():
    """A full queue that refuses, headers that are malformed inside: left, with the reason."""
    world, client = make_world(0, x_max_length=2, x_overflow="reject-publish")
    for _ in range(3):
        client.publish("q", b"x", **PERSISTENT)
        client.get("q", no_ack=True)
    malformed = b"\x30\x00" + b"\x00\x00\x00\x02\x05a" + b"\x02"
    client.feed(publish(1, "", "q", b"y", octets=malformed))
    client.get("q", no_ack=True)
    found = ask(world)
    assert (found["copied"], found["left"], found["next"]) == (2, {"refused": 1, "bad headers": 1}, None)


def deny_writing(world, queue):
    """An entry of the access list, which is given back."""
    entry = Acl("topic", queue, "literal", "User:guest", "*", "write", "deny")
    world.access.add_acl("/", entry)
    return entry


def test_a_denial_holds_for_copies_through_the_default_exchange():
    """As for basic.publish there: nothing is copied into what a user may not write to, and others get theirs."""
    world, client = make_world(2)
    client.declare("held", durable=True)
    client.declare("open", durable=True)
    deny_writing(world, "held")
    found = ask(world, into="amq.default", routing_key="held")
    assert (found["copied"], found["left"], world.queue("held").ready_count) == (0, {"not permitted": 2}, 0)
    assert ask(world, into="amq.default", routing_key="open")["copied"] == 2


def test_a_denial_holds_for_dead_letters_that_go_back():
    """Whoever may not write to the queue of the first death does not send them there, whatever their routing key is."""
    world, client = make_world(0)
    client.declare("work", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    client.bind("work", "amq.topic", "key")
    client.publish("key", b"x", exchange="amq.topic", **PERSISTENT)
    client.get("work")
    client.call(1, "basic.reject", 1, False)
    denial = deny_writing(world, "work")
    assert ask(world, what="replay")["left"] == {"not permitted": 1}
    world.access.remove_acl("/", denial)
    assert ask(world, what="replay")["moved"] == 1


def test_what_is_not_persistent_or_waits_is_not_copied():
    """Messages that are with a consumer, or ready, are not what was delivered."""
    world, client = make_world(0)
    for number in range(4):
        client.publish("q", b"%d" % number, delivery_mode=1 if number == 1 else 2)
    client.get("q", no_ack=True)
    client.get("q", no_ack=True)
    client.get("q")
    assert ask(world)["copied"] == 1
    assert [wire.body(one.message[1]) for part in retained(world.queue("q"), 0) for one in part.messages] == [b"0"]


def test_a_queue_that_keeps_nothing():
    """400: there is nothing to replay, and why."""
    world, client = make_world(0)
    client.call(1, "queue.delete", 0, "q", False, False, False)
    client.declare("q", durable=True)
    with pytest.raises(HttpError, match="keeps nothing"):
        ask(world)


def test_a_filter_that_nothing_passes_is_looked_for_in_short_steps():
    """50,000 messages, of which none is meant, and as many that are shown from the middle on."""

    def scenario(counter):
        world, _ = make_world(50_000)
        onward, total = 0, 0
        while onward is not None:
            found = []
            counter.run(lambda: found.append(ask(world, body="nowhere", **{"from": onward, "to": 50_000})))  # noqa: B023
            onward = found[0]["next"]
            total += found[0]["copied"]
        assert total == 0
        query = {"state": "retained", "from": "25000", "count": "100"}
        counter.run(ask, world, "GET", "browse", query)
        assert ask(world, "GET", "browse", query)["items"][0]["offset"] == 25_000

    assert_short_steps(scenario)

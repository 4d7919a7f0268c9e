"""A replay that has an id is known to the broker: asked for again, or gone on with after a crash, it copies nothing
twice (an idempotent request, RFC 9110, 9.2.2; Kafka's producers do it with sequence numbers, KIP-98)."""

import contextlib
import random

import pytest
from http_world import HttpWorld
from sim_disk import PowerCut, SimDisk

from broker.core.vhosts.replay import browse
from broker.core.vhosts.replays import REPLAYS_MAX
from broker.server.http.api import Request, answer
from protocol.amqp import content as wire

TARGET = "queues/%2F/q/redeliver"
COUNT = 30


def make_world(disk=None, count=COUNT):
    """A broker whose queue `q` has delivered so many messages."""
    world = HttpWorld(disk)
    client = world.connect()
    client.declare("q", durable=True, x_retain="1h")
    client.consume("q", "t", no_ack=True)
    for number in range(count):
        client.publish("q", b"%d" % number, delivery_mode=2)
    client.call(1, "basic.cancel", "t", False)
    return world


def bridge(world):
    """An exchange that leads into a queue and a topic."""
    client = world.connect()
    client.declare_exchange("again", "fanout", durable=True)
    client.declare("copies", durable=True)
    client.declare("topic", durable=True, x_queue_type="stream")
    for name in ("copies", "topic"):
        client.bind(name, "again", "")


def step(world, **body):
    """One request, done with when it is durable; a cut of the power comes out of it."""
    user = world.access.users["guest"]
    found = answer(Request("POST", ("queues", "/", "q", "redeliver"), {}, body, user, world.hub, dict, 1 << 20))
    world.settle()
    return found


def finish(world, **first):
    """Request after request, as the command asks; how many it has copied in all."""
    found = step(world, **first)
    for _ in range(COUNT):
        if found["next"] is None:
            break
        found = step(world, id=first["id"], resume=True, count=7)
    return found["total"]


def waiting(world, name):
    """The bodies of what is ready."""
    queue = world.broker.vhosts["/"].queues[name]
    return [wire.body(seen.message[1]) for seen in browse(queue, 0, {}, 1000)]


def in_topic(world):
    """The values of the records."""
    return [row["value"] for row in world.all_records(name="topic")]


def test_a_step_that_is_asked_for_again_goes_on():
    """Its answer was lost: the same request is answered with what is next, and at the end with nothing."""
    world = make_world()
    request = {"id": "a", "from": 0, "count": 20}
    assert [world.good("POST", TARGET, request)["copied"] for _ in range(4)] == [20, 10, 0, 0]
    found = world.good("POST", TARGET, request)
    assert (found["total"], found["next"], found["to"]) == (COUNT, None, COUNT)
    assert waiting(world, "q") == [b"%d" % number for number in range(COUNT)]


@pytest.mark.parametrize("into", [{}, {"into": "again"}], ids=["the queue", "an exchange"])
@pytest.mark.parametrize("end", ["power_cut", "kill"])
def test_wherever_it_ends_each_is_copied_once(end, into):
    """The power is cut, or the process killed, at any operation of the disk: going on by the id completes it."""
    for left in range(1, 24):
        disk = SimDisk(random.Random(left).randrange)
        world = make_world(disk)
        bridge(world)
        request = {"id": "a", "count": 7, **into}
        disk.left = left
        with contextlib.suppress(PowerCut):
            finish(world, **request)
        getattr(disk, end)()
        world = HttpWorld(disk)
        for _ in range(2):
            assert finish(world, **request) == COUNT
        expected = [b"%d" % number for number in range(COUNT)]
        if into:
            assert waiting(world, "copies") == expected
            assert in_topic(world) == [one.decode() for one in expected]
        else:
            assert waiting(world, "q") == expected


def test_without_an_id_the_same_cuts_copy_twice():
    """So the test above can fail."""
    doubled = 0
    for left in range(1, 24):
        disk = SimDisk(random.Random(left).randrange)
        world = make_world(disk)
        disk.left = left
        with contextlib.suppress(PowerCut):
            step(world, count=7)
        disk.kill()
        world = HttpWorld(disk)
        step(world, count=COUNT)
        doubled += len(waiting(world, "q")) > COUNT
    assert doubled


def test_most_is_of_all_its_steps():
    """Not of each request, nor of what comes after a restart."""
    world = make_world()
    request = {"id": "a", "most": 12, "count": 10}
    assert [world.good("POST", TARGET, request)["copied"] for _ in range(3)] == [10, 2, 0]
    world = world.next_run()
    found = world.good("POST", TARGET, request)
    assert (found["copied"], found["total"], found["next"]) == (0, 12, 12)


def test_what_it_asks_for_is_kept():
    """`resume` needs no filter and no exchange; another request with the same id is refused; the list shows it."""
    world = make_world()
    bridge(world)
    request = {"id": "a", "into": "again", "body": "1", "count": 5}
    assert world.good("POST", TARGET, request)["copied"] == 5
    assert world.refused("POST", TARGET, {"id": "a", "body": "2"})[0] == 409
    world = world.next_run()
    assert world.good("POST", TARGET, {"id": "a", "resume": True})["next"] is None
    expected = [b"%d" % number for number in range(COUNT) if b"1" in b"%d" % number]
    assert waiting(world, "copies") == expected
    assert world.good("GET", "queues/%2F/q/replays") == [
        {"id": "a", "copied": len(expected), "left": {}, "from": 0, "next": COUNT, "to": COUNT, "finished": True,
         "asked": {"into": "again", "body": "1"}}
    ]  # fmt: skip


def test_what_cannot_be_copied_is_counted_over_all_steps():
    """By reason; it is not tried again."""
    world = make_world()
    request = {"id": "a", "into": "amq.default", "routing_key": "nowhere", "count": 400}
    assert world.good("POST", TARGET, request)["total_left"] == {"unroutable": COUNT}
    assert world.next_run().good("POST", TARGET, request)["total_left"] == {"unroutable": COUNT}


@pytest.mark.parametrize(
    "body",
    [
        {"id": ""}, {"id": "a b"}, {"id": "x" * 65}, {"id": 5}, {"resume": True}, {"most": 5}, {"id": "a", "most": -1},
        {"id": "a", "dry_run": True}, {"id": "a", "resume": 1}, {"id": "a", "body": "x" * 5000},
        {"id": "a", "from": "soon"},
    ],
    ids=lambda body: str(body)[:40],
)  # fmt: skip
def test_what_makes_no_sense(body):
    """400, and no replay begins."""
    world = make_world(count=0)
    assert world.refused("POST", TARGET, body)[0] == 400
    assert world.good("GET", "queues/%2F/q/replays") == []


def test_who_may_not_go_on():
    """What was asked for is asked for again by whoever goes on: without the right to write nothing is copied."""
    world = make_world()
    world.allow("reader", "", "^$", ".*")
    assert world.good("POST", TARGET, {"id": "a", "count": 5})["copied"] == 5
    assert world.refused("POST", TARGET, {"id": "a", "resume": True}, user="reader")[0] == 401
    assert len(waiting(world, "q")) == 5


def test_only_the_latest_are_known():
    """A finished one is forgotten before one that is not; going on with a forgotten one is refused, not begun anew."""
    world = make_world(count=3)
    world.good("POST", TARGET, {"id": "under-way", "count": 1})
    for number in range(REPLAYS_MAX + 3):
        world.good("POST", TARGET, {"id": f"r{number}"})
    world = world.next_run()
    known = [row["id"] for row in world.good("GET", "queues/%2F/q/replays")]
    assert known == ["under-way", *(f"r{number}" for number in range(4, REPLAYS_MAX + 3))]
    assert world.refused("POST", TARGET, {"id": "r0", "resume": True})[0] == 404


def test_they_go_with_their_queue():
    """A new queue of the same name has none, nor has the catalog."""
    world = make_world()
    keys = set(world.store.catalog)
    world.good("POST", TARGET, {"id": "a", "count": 5})
    assert len(set(world.store.catalog) - keys) == 1
    client = world.connect()
    client.call(1, "queue.delete", 0, "q", False, False, False)
    client.declare("q", durable=True, x_retain="1h")
    assert world.good("GET", "queues/%2F/q/replays") == []
    world = world.next_run()
    assert world.good("GET", "queues/%2F/q/replays") == []
    assert not {key[:1] for key in world.store.catalog} & {b"R"}


def test_nothing_begins_under_an_alarm():
    """The range is that of the time when it begins; one that is under way waits where it is."""
    world = make_world()
    world.hub.set_alarm("disk", active=True)
    assert "blocked" in world.good("POST", TARGET, {"id": "a", "count": 5})
    assert world.good("GET", "queues/%2F/q/replays") == []
    world.hub.set_alarm("disk", active=False)
    assert world.good("POST", TARGET, {"id": "a", "count": 5})["copied"] == 5
    world.hub.set_alarm("disk", active=True)
    found = world.good("POST", TARGET, {"id": "a", "resume": True})
    assert (found["copied"], found["next"], found["total"]) == (0, 5, 5)

"""Dead letters under `at-least-once`: each stays in its queue until every queue it goes to has taken it."""

import contextlib
import random

import pytest
from amqp_harness import World
from sim_disk import PowerCut, SimDisk
from test_queue_rules import bodies, depth, policy

SURELY = {"x_dead_letter_strategy": "at-least-once", "x_overflow": "reject-publish"}


@pytest.fixture(params=["memory", "disk"])
def world(request):
    return World(SimDisk(random.Random(1).randrange) if request.param == "disk" else None)


def declare(client, *, room=2, kind="quorum"):
    """`q`, whose dead letters go through `dlx` to `dead`, which has room for few, and `all`, which has for any."""
    client.declare_exchange("dlx", "fanout", durable=True)
    client.declare("dead", durable=True, x_max_length=room, x_overflow="reject-publish")
    client.declare("all", durable=True)
    client.declare("q", durable=True, x_queue_type=kind, x_dead_letter_exchange="dlx", **SURELY)
    for name in ("dead", "all"):
        client.bind(name, "dlx", "")


def fill(client, count, **properties):
    for number in range(count):
        client.publish("q", b"%d" % number, delivery_mode=2, **properties)


def reject_all(client):
    while (got := client.get("q")) is not None:
        client.send(1, "basic.reject", got[0], False)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_letters_wait_for_room(world, kind):
    """What the target refuses waits, in the order of death, and is doubled nowhere; each queue gets it once."""
    client = world.connect()
    if kind == "quorum":
        declare(client)
    else:
        declare(client, kind="classic")
    fill(client, 7)
    reject_all(client)
    assert depth(world, "q", "dead", "all") == [0, 2, 2]
    assert world.queue("q").store.leased_count == 5
    found = bodies(client, "dead")
    world.advance(2000)
    assert depth(world, "dead", "all") == [2, 4]
    for _ in range(3):
        found += bodies(client, "dead")
        world.advance(2000)
    assert found == bodies(client, "all") == [b"%d" % number for number in range(7)]
    assert world.queue("q").store.leased_count == 0
    assert world.queue("q").store.settled_count == 7
    world.advance(5000)
    assert not world.broker.scheduler.timed


def test_who_dies_later_does_not_overtake(world):
    """A letter that dies when there is room again goes behind those that wait."""
    client = world.connect()
    declare(client, room=1)
    fill(client, 3)
    reject_all(client)
    assert bodies(client, "dead") == [b"0"]
    client.publish("q", b"3", delivery_mode=2)
    reject_all(client)
    assert depth(world, "dead") == [0]
    found = []
    for _ in range(3):
        world.advance(2000)
        found += bodies(client, "dead")
    assert found == [b"1", b"2", b"3"]


def test_letters_wait_for_a_binding(world):
    """Without any queue behind the exchange, or the exchange itself, none is lost."""
    client = world.connect()
    client.declare("q", durable=True, x_queue_type="quorum", x_dead_letter_exchange="later", **SURELY)
    fill(client, 100, expiration="100")
    world.advance(3000)
    assert depth(world, "q") == [0]
    client.declare_exchange("later", "fanout", durable=True)
    world.advance(3000)
    client.declare("found", durable=True)
    client.bind("found", "later", "")
    world.advance(2000)
    assert bodies(client, "found") == [b"%d" % number for number in range(100)]


def test_who_waits_for_one_queue_does_not_hold_up_others(world):
    """Two hundred letters for nowhere in front, and one behind them that has somewhere to go."""
    client = world.connect()
    client.declare_exchange("dlx", "direct", durable=True)
    client.declare("q", durable=True, x_queue_type="quorum", x_dead_letter_exchange="dlx", **SURELY)
    client.declare("found", durable=True)
    client.declare_exchange("in", "fanout", durable=True)
    client.bind("q", "in", "")
    for number in range(201):
        client.publish("open" if number == 200 else "shut", b"%d" % number, exchange="in", delivery_mode=2)
    reject_all(client)
    client.bind("found", "dlx", "open")
    for _ in range(5):
        world.advance(2000)
    assert bodies(client, "found") == [b"200"]
    client.bind("found", "dlx", "shut")
    world.advance(2000)
    assert bodies(client, "found") == [b"%d" % number for number in range(200)]


def test_letters_after_a_purge_are_tried_again(world):
    """The time at which those that were purged were to be tried is before that of those that have come since."""
    client = world.connect()
    client.declare("q", durable=True, x_queue_type="quorum", x_dead_letter_exchange="later", **SURELY)
    fill(client, 1)
    reject_all(client)
    world.advance(500)
    client.call(1, "queue.purge", 0, "q", False)
    client.publish("q", b"found", delivery_mode=2)
    reject_all(client)
    client.declare_exchange("later", "fanout", durable=True)
    client.declare("found", durable=True)
    client.bind("found", "later", "")
    for _ in range(3):
        world.advance(600)
    assert bodies(client, "found") == [b"found"]


def test_waiting_letters_count_towards_the_limit(world):
    """The queue refuses what would make it longer, dead ones included; a purge drops those, too."""
    client = world.connect()
    client.call(1, "confirm.select", False)
    client.declare("q", durable=True, x_queue_type="quorum", x_dead_letter_exchange="none", x_max_length=3, **SURELY)
    fill(client, 3)
    reject_all(client)
    fill(client, 1)
    assert depth(world, "q") == [0]
    assert client.call(1, "queue.purge", 0, "q", False)[0][2] == (3,)
    fill(client, 1)
    assert depth(world, "q") == [1]


def test_a_policy_that_gives_up(world):
    """Under at-most-once what waits goes as it can, or nowhere."""
    client = world.connect()
    client.declare("q", durable=True)
    surely = {"dead-letter-exchange": "none", "dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}
    policy(world, "p", "q", surely)
    fill(client, 3)
    reject_all(client)
    assert world.queue("q").store.leased_count == 3
    policy(world, "p", "q", {"dead-letter-exchange": "none"})
    world.advance(2000)
    assert world.queue("q").store.leased_count == 0


def test_a_deleted_queue_takes_its_letters_along(world):
    """Nothing is left that would be told of time."""
    client = world.connect()
    client.declare("q", durable=True, x_queue_type="quorum", x_dead_letter_exchange="none", **SURELY)
    fill(client, 3)
    reject_all(client)
    client.call(1, "queue.delete", 0, "q", False, False, False)
    world.advance(2000)
    assert not world.broker.scheduler.timed


def test_waiting_letters_are_there_after_a_crash():
    """Wherever the power is cut, each message is in its first queue or in all behind the exchange."""
    for left in range(1, 60):
        disk = SimDisk(random.Random(left).randrange)
        world = World(disk)
        client = world.connect()
        declare(client, room=1)
        fill(client, 3)
        disk.left = left
        with contextlib.suppress(PowerCut):
            reject_all(client)
            bodies(client, "dead")
            world.advance(2000)
        disk.power_cut()
        world = World(disk)
        client = world.connect()
        taken, ready = bodies(client, "all"), bodies(client, "q")
        assert sorted(taken + ready) == [b"0", b"1", b"2"]
        assert set(bodies(client, "dead")) <= set(taken)


def test_room_between_two_steps_lets_nothing_overtake(world):
    """A pass over the waiting is several steps; what makes room meanwhile is for the next pass."""
    client = world.connect()
    declare(client, room=1)
    fill(client, 200)
    reject_all(client)
    scheduler = world.broker.scheduler
    scheduler.wall_ms += 2000
    world.broker.tick(2000)
    next(scheduler._jobs[0])
    found = bodies(client, "dead")
    for _ in range(3):
        world.advance(2000)
        found += bodies(client, "dead")
    assert found == [b"0", b"1", b"2", b"3"]


def test_what_dies_during_a_pass_goes_behind(world):
    """In order too, and all of it arrives."""
    client = world.connect()
    declare(client, room=1)
    fill(client, 100)
    reject_all(client)
    fill(client, 5)
    scheduler = world.broker.scheduler
    scheduler.wall_ms += 2000
    world.broker.tick(2000)
    next(scheduler._jobs[0])
    queue = world.queue("q")
    for _ in range(5):
        message, offset = queue.get()
        queue.drop((message,), (offset,), "rejected")
    client.call(1, "queue.delete", 0, "dead", False, False, False)
    for _ in range(3):
        world.advance(20_000)
    assert bodies(client, "all") == [b"%d" % number for number in (*range(100), *range(5))]


@pytest.mark.parametrize("waits", ["dead letters", "retries"])
def test_many_that_wait_are_in_the_log(waits):
    """What waits for room, or for its next try, takes bounded memory, and comes as it was."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    if waits == "retries":
        retry = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 60_000, "x_delayed_retry_max": 60_000}
        client.declare("q", durable=True, x_queue_type="quorum", **retry)
    else:
        client.declare("q", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="dead", **SURELY)
    for number in range(300):
        client.publish("q", b"%d" % number + bytes(100_000), delivery_mode=2)
    queue = world.queue("q")
    client.call(1, "basic.qos", 0, 50, False)
    client.consume("q")
    for _ in range(6):
        client.send(1, "basic.nack", 0, True, waits == "retries")
        client.raw()
    assert queue.ready_count == 0
    kept = queue.limits.retries if waits == "retries" else ((one[0], one[1]) for one in queue.at_least_once.letters())
    kept = [message for _, message in kept]
    assert len(kept) == 300
    assert sum(len(message[1]) for message in kept if message is not None) < 9 << 20
    client.call(1, "basic.cancel", "c", False)
    client.call(1, "channel.close", 0, "", 0, 0)
    client.call(1, "channel.open", "")
    client.declare("dead", durable=True)
    world.advance(61_000)
    found = bodies(client, "q" if waits == "retries" else "dead")
    assert [int(body.rstrip(bytes(1))) for body in found] == list(range(300))

"""What a queue can be told: TTL, limits, dead letters, delivery limits, priorities. In memory and with a disk."""

import contextlib
import random

import pytest
from amqp_harness import World, publish
from sim_disk import PowerCut, SimDisk

from broker.core.vhosts.policies import make_policy
from broker.errors import Refused
from protocol.amqp import content as wire


def depth(world, *names):
    """Messages ready in each queue."""
    world.settle()
    return [world.queue(name).ready_count for name in names]


def bodies(client, queue):
    """The bodies of everything that basic.get finds."""
    found = []
    while (got := client.get(queue, no_ack=True)) is not None:
        found.append(got[2])
    return found


def headers(client, queue):
    """(routing key, headers) of the next message, taken without acknowledgement."""
    frames = client.call(1, "basic.get", 0, queue, True)
    method = next(values for name, _, values in frames if name == "basic.get-ok")
    header = next(octets for name, _, octets in frames if name == "header")
    return method[3], wire.parse_properties(header).get("headers", {})


def dead_lettering(client, **arguments):
    """A queue `q` whose dead letters go to `dead`."""
    client.declare("dead", durable=True)
    client.declare("q", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="dead", **arguments)


# Time.


def test_message_ttl(world, client):
    """What has waited longer than the queue allows is gone; what came later is not."""
    client.declare("q", durable=True, x_message_ttl=1000)
    client.publish("q", b"old", delivery_mode=2)
    world.advance(600)
    client.publish("q", b"new", delivery_mode=2)
    world.advance(500)
    assert depth(world, "q") == [1]
    assert bodies(client, "q") == [b"new"]
    world.advance(5000)
    world.advance(50)
    assert not world.broker.scheduler.timed


def test_an_expiration_takes_effect_wherever_the_message_stands(world, client):
    """Behind one that lives longer, between two, in front: RabbitMQ waits for the head."""
    client.declare("q", durable=True)
    for body, expiration in ((b"a", "9000"), (b"b", "100"), (b"c", None), (b"d", "100"), (b"e", "9000")):
        client.publish("q", body, delivery_mode=2, **({"expiration": expiration} if expiration else {}))
    world.advance(200)
    assert depth(world, "q") == [3]
    client.consume("q", "c", no_ack=True)
    client.declare("r")
    assert depth(world, "q") == [0]
    assert world.queue("q").store.settled_count == 5


def test_the_lower_of_ttl_and_expiration(world, client):
    """TTL of the queue and of the message: whichever ends first."""
    client.declare("q", x_message_ttl=500)
    client.publish("q", b"queue's", expiration="9000")
    client.publish("q", b"own", expiration="100")
    world.advance(200)
    assert depth(world, "q") == [1]
    world.advance(400)
    assert depth(world, "q") == [0]


@pytest.mark.parametrize("of_the_queue", [True, False])
def test_a_ttl_of_zero_is_for_who_waits(world, client, of_the_queue):
    """It goes to a consumer that can take it at once, or nowhere (RabbitMQ 3.7/91)."""
    arguments, properties = ({"x_message_ttl": 0}, {}) if of_the_queue else ({}, {"expiration": "0"})
    client.declare("q", **arguments)
    client.publish("q", b"1", **properties)
    assert depth(world, "q") == [0]
    client.consume("q", "c", no_ack=True)
    frames = client.publish("q", b"2", **properties).frames()
    assert [octets for name, _, octets in frames if name == "body"] == [b"2"]


def test_what_comes_back_too_late_expires(world, client):
    """A message that was with a consumer when its time ran out dies when it returns, and not before."""
    dead_lettering(client, x_message_ttl=300)
    client.publish("q", b"a", delivery_mode=2)
    client.publish("q", b"b", delivery_mode=2, expiration="100")
    tags = [client.get("q")[0], client.get("q")[0]]
    world.advance(1000)
    assert depth(world, "q", "dead") == [0, 0]
    client.send(1, "basic.ack", tags[0], False)
    client.send(1, "basic.reject", tags[1], True)
    assert depth(world, "q", "dead") == [0, 1]
    assert headers(client, "dead")[1]["x-first-death-reason"] == "expired"


# Length.


def test_drop_head_keeps_the_newest(world, client):
    """The oldest go, however many come in one read; what is unacknowledged does not count (RabbitMQ 3.7/93)."""
    client.declare("q", durable=True, x_max_length=3)
    client.publish("q", b"0", delivery_mode=2)
    assert client.get("q")[2] == b"0"
    client.feed(b"".join(publish(1, "", "q", b"%d" % number, delivery_mode=2) for number in range(1, 10)))
    assert bodies(client, "q") == [b"7", b"8", b"9"]


def test_what_a_consumer_can_take_is_not_dropped(world, client):
    """A queue of length one with a consumer that keeps up loses nothing."""
    client.declare("q", x_max_length=1)
    client.consume("q", "c", no_ack=True)
    frames = client.feed(b"".join(publish(1, "", "q", b"%d" % number) for number in range(500))).frames()
    assert [octets for name, _, octets in frames if name == "body"] == [b"%d" % number for number in range(500)]


def test_a_return_into_a_full_queue_drops_at_once(world, client):
    """It is the oldest, so it is what goes (RabbitMQ 3.7/94)."""
    client.declare("q", x_max_length=2)
    client.publish("q", b"a")
    tag = client.get("q")[0]
    for body in (b"b", b"c"):
        client.publish("q", body)
    client.send(1, "basic.reject", tag, True)
    assert bodies(client, "q") == [b"b", b"c"]


def test_length_in_octets(world, client):
    """The sum of the bodies that are ready; taking and returning move it."""
    client.declare("q", durable=True, x_max_length_bytes=100)
    for number in range(5):
        client.publish("q", b"%d" % number * 40, delivery_mode=2)
    assert depth(world, "q") == [2]
    tag = client.get("q")[0]
    client.publish("q", b"5" * 60, delivery_mode=2)
    assert depth(world, "q") == [2]
    client.send(1, "basic.reject", tag, True)
    assert [body[:1] for body in bodies(client, "q")] == [b"4", b"5"]


def test_reject_publish(world, client):
    """A full queue refuses: basic.nack for the publish, nothing of it anywhere; room makes it accept again."""
    client.declare("q", durable=True, x_max_length=2, x_overflow="reject-publish")
    client.call(1, "confirm.select", False)
    data = b"".join(publish(1, "", "q", b"%d" % number, delivery_mode=2) for number in range(4))
    told = [(name, values[:2]) for name, _, values in client.feed(data).frames()]
    assert sorted(told) == [("basic.ack", (2, True)), ("basic.nack", (3, False)), ("basic.nack", (4, False))]
    assert client.get("q", no_ack=True)[2] == b"0"
    assert [name for name, _, _ in client.publish("q", b"5", delivery_mode=2).frames()] == ["basic.ack"]
    assert bodies(client, "q") == [b"1", b"5"]


def test_reject_publish_without_confirms(world, client):
    """Nobody is told of what a full queue refuses, mandatory or not: it was routed. It is no dead letter either."""
    dead_lettering(client, x_max_length=1, x_overflow="reject-publish")
    for body in (b"in", b"out"):
        client.feed(publish(1, "", "q", body, True))
    assert client.frames() == []
    assert depth(world, "q", "dead") == [1, 0]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_what_comes_back_to_a_full_queue_that_rejects_stays(world, client, overflow):
    """It was taken and confirmed: a return may make the queue longer than its limit, and no limit makes it shorter."""
    client.declare("q", durable=True, x_max_length=2, x_max_length_bytes=20, x_overflow=overflow)
    for body in (b"0", b"1"):
        client.publish("q", body)
    tag = client.get("q")[0]
    client.publish("q", b"2")
    client.send(1, "basic.nack", tag, False, True)
    assert depth(world, "q") == [3]
    policy(world, "short", "q", {"max-length": 1})
    assert depth(world, "q") == [3]
    assert [client.get("q", no_ack=True)[2] for _ in range(3)] == [b"0", b"1", b"2"]


def test_reject_publish_dlx(world, client):
    """What is refused goes to the dead letter exchange, with reason maxlen, and is still refused."""
    dead_lettering(client, x_max_length=1, x_overflow="reject-publish-dlx")
    client.call(1, "confirm.select", False)
    client.publish("q", b"in", delivery_mode=2)
    assert client.frames()[0][0] == "basic.ack"
    assert "basic.nack" in [name for name, _, _ in client.publish("q", b"out", delivery_mode=2).frames()]
    key, found = headers(client, "dead")
    assert (key, found["x-first-death-reason"], found["x-death"][0]["queue"]) == ("dead", "maxlen", "q")


# Death.


def test_x_death_in_full(world, client):
    """Fields, types, first and last death, counting per queue and reason, newest first (RabbitMQ 3.7/87-88)."""
    client.declare_exchange("dlx", "topic", durable=True)
    client.declare("parked", durable=True, x_message_ttl=100, x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    client.declare("q", durable=True, x_dead_letter_exchange="dlx")
    client.bind("parked", "dlx", "#")
    client.bind("q", "amq.direct", "job")
    client.publish("job", b"x", exchange="amq.direct", delivery_mode=2, headers={"mine": 1, "CC": ["other"]})
    for _ in range(2):
        client.send(1, "basic.reject", client.get("q")[0], False)
        world.advance(300)
    key, found = headers(client, "q")
    assert key == "q"
    assert found["mine"] == 1
    fields = ("queue", "reason", "count", "exchange", "routing-keys")
    assert [tuple(one[field] for field in fields) for one in found["x-death"]] == [
        ("parked", "expired", 2, "dlx", ["job", "other"]),
        ("q", "rejected", 2, "amq.direct", ["job", "other"]),
    ]
    first, last = (
        [found[f"x-{which}-death-{name}"] for name in ("exchange", "queue", "reason")] for which in ("first", "last")
    )
    assert (first, last) == (["amq.direct", "q", "rejected"], ["dlx", "parked", "expired"])


def test_a_clients_own_x_death_counts_for_nothing(world, client):
    """A client that publishes what it got once begins anew (RabbitMQ 4.0)."""
    dead_lettering(client)
    history = [{"count": 7, "queue": "q", "reason": "rejected", "exchange": "", "routing-keys": ["q"]}]
    client.publish("q", b"x", headers={"x-death": history, "x-first-death-queue": "elsewhere"})
    client.send(1, "basic.reject", client.get("q")[0], False)
    _, found = headers(client, "dead")
    assert [one["count"] for one in found["x-death"]] == [1]
    assert found["x-first-death-queue"] == "q"


def test_an_expiration_ends_with_the_first_death(world, client):
    """It would kill the letter again; what it was stands in x-death."""
    dead_lettering(client)
    client.publish("q", b"x", expiration="100")
    world.advance(1000)
    world.advance(1000)
    frames = client.call(1, "basic.get", 0, "dead", True)
    values = wire.parse_properties(next(octets for name, _, octets in frames if name == "header"))
    assert "expiration" not in values
    assert values["headers"]["x-death"][0]["original-expiration"] == "100"


def test_a_cycle_without_rejection_ends(world, client):
    """A message that would come round by itself is dropped; one that is rejected on its way goes on (3.7/90)."""
    client.declare("loop", x_message_ttl=100, x_dead_letter_exchange="", x_dead_letter_routing_key="loop")
    client.publish("loop", b"x")
    world.advance(500)
    assert depth(world, "loop") == [0]
    for _ in range(3):
        client.publish("loop", b"y")
        client.send(1, "basic.reject", client.get("loop")[0], False)
        assert depth(world, "loop") == [1]
        client.call(1, "queue.purge", 0, "loop", False)


def test_dead_letters_without_a_place_to_go(world, client):
    """An exchange that is not there, or leads nowhere: dropped, no error (RabbitMQ 3.4/58)."""
    client.declare("q", x_dead_letter_exchange="missing")
    client.publish("q", b"x")
    client.send(1, "basic.reject", client.get("q")[0], False)
    assert depth(world, "q") == [0]
    assert client.frames() == []


def test_full_queues_behind_one_another(world, client):
    """Each drops to the next; nothing recurses, nothing is lost."""
    for number in range(40):
        onward = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": f"q{number + 1}"}
        client.declare(f"q{number}", x_max_length=1, **onward)
    for number in range(40):
        client.publish("q0", b"%d" % number)
    assert [world.queue(f"q{number}").ready_count for number in range(40)] == [1] * 40


# Deliveries.


def test_the_delivery_limit(world, client):
    """Returns are counted and told; past the limit the message dies with reason delivery_limit, on every queue type."""
    dead_lettering(client, x_delivery_limit=2)
    client.publish("q", b"x", delivery_mode=2)
    counts = []
    for _ in range(3):
        frames = client.call(1, "basic.get", 0, "q", False)
        tag = next(values[0] for name, _, values in frames if name == "basic.get-ok")
        header = next(octets for name, _, octets in frames if name == "header")
        counts.append(wire.parse_properties(header).get("headers", {}).get("x-delivery-count"))
        client.send(1, "basic.nack", tag, False, True)
    assert counts == [None, 1, 2]
    assert headers(client, "dead")[1]["x-death"][0]["reason"] == "delivery_limit"


def test_quorum_queues_have_a_limit_of_twenty(world, client):
    """RabbitMQ 4.0's default; -1 is none."""
    client.declare("q", durable=True, x_queue_type="quorum")
    client.declare("endless", durable=True, x_queue_type="quorum", x_delivery_limit=-1)
    for queue, returns in (("q", 21), ("endless", 50)):
        client.publish(queue, b"x", delivery_mode=2)
        for _ in range(returns):
            client.send(1, "basic.nack", client.get(queue)[0], False, True)
    assert depth(world, "q", "endless") == [0, 1]


# Priorities.


def test_priorities(world, client):
    """Highest first, ties in order of arrival, none is 0, too high is the highest (RabbitMQ 3.4/68)."""
    client.declare("q", durable=True, x_max_priority=5)
    for body, priority in ((b"a", None), (b"b", 3), (b"c", 9), (b"d", 5), (b"e", 3), (b"f", 0)):
        client.publish("q", body, delivery_mode=2, **({} if priority is None else {"priority": priority}))
    got = client.get("q")
    assert got[2] == b"c"
    client.publish("q", b"g", delivery_mode=2, priority=5)
    client.send(1, "basic.reject", got[0], True)
    assert bodies(client, "q") == [b"c", b"d", b"g", b"b", b"e", b"a", b"f"]


def test_priorities_with_ttl_and_limits(world, client):
    """They live together: what is due goes whatever its level; drop-head takes what would be next (RabbitMQ)."""
    client.declare("q", x_max_priority=10, x_message_ttl=1000)
    client.publish("q", b"low", priority=1)
    client.publish("q", b"high", priority=9, expiration="100")
    world.advance(500)
    assert depth(world, "q") == [1]
    client.publish("q", b"later", priority=5)
    world.advance(600)
    assert bodies(client, "q") == [b"later"]
    assert client.call(1, "queue.purge", 0, "q", False)[0][2] == (0,)


# Restarts.


@pytest.fixture
def kept():
    """A world with a disk, and a client."""
    world = World(SimDisk(random.Random(1).randrange))
    return world, world.connect()


def test_rules_after_a_restart(kept):
    """Limits, TTL (time goes on), priorities and death headers are what they were."""
    world, client = kept
    client.declare("ttl", durable=True, x_message_ttl=5000)
    client.declare("levels", durable=True, x_max_priority=5)
    client.declare("short", durable=True, x_max_length_bytes=100)
    dead_lettering(client)
    client.publish("ttl", b"x", delivery_mode=2)
    client.publish("ttl", b"own", delivery_mode=2, expiration="100")
    for number in (1, 4, 2):
        client.publish("levels", b"%d" % number, delivery_mode=2, priority=number)
    client.publish("short", b"x" * 90, delivery_mode=2)
    client.publish("q", b"x", delivery_mode=2)
    client.send(1, "basic.reject", client.get("q")[0], False)
    world = world.kill()
    client = world.connect()
    assert bodies(client, "levels") == [b"4", b"2", b"1"]
    client.publish("short", b"y" * 90, delivery_mode=2)
    assert depth(world, "short") == [1]
    world.advance(1000)
    tag, redelivered, body = client.get("ttl")
    assert (redelivered, body) == (True, b"x")
    client.send(1, "basic.reject", tag, True)
    world.advance(5000)
    assert client.get("ttl") is None
    client.send(1, "basic.reject", client.get("dead")[0], True)
    assert headers(client, "dead")[1]["x-death"][0]["count"] == 1


def test_delivery_counts_after_a_restart(kept):
    """A message that failed twice before the crash has one try left."""
    world, client = kept
    dead_lettering(client, x_delivery_limit=2)
    client.publish("q", b"x", delivery_mode=2)
    for _ in range(2):
        client.send(1, "basic.nack", client.get("q")[0], False, True)
    world = world.kill()
    client = world.connect()
    client.send(1, "basic.nack", client.get("q")[0], False, True)
    assert depth(world, "q", "dead") == [0, 1]


def test_a_dead_letter_is_in_one_queue():
    """Wherever the power is cut, it is in the first queue or in the second, never in both, never in none."""
    for left in range(1, 40):
        disk = SimDisk(random.Random(left).randrange)
        world = World(disk)
        client = world.connect()
        dead_lettering(client)
        client.publish("q", b"x", delivery_mode=2)
        tag = client.get("q")[0]
        disk.left = left
        with contextlib.suppress(PowerCut):
            client.send(1, "basic.reject", tag, False)
            client.call(1, "queue.declare", 0, "other", False, True, False, False, False, {})
        disk.power_cut()
        after = World(disk)
        assert sum(depth(after, "q", "dead")) == 1


# Policies.


def policy(world, name, pattern, definition, *, priority=0, apply_to="all", operator=False):
    """Set a policy on the vhost."""
    made = make_policy(name, pattern, apply_to, priority, definition, operator=operator)
    world.broker.vhosts["/"].policies.set(made, operator=operator)


@pytest.mark.parametrize("key", ["overflow", "dead-letter-exchange", "consumer-timeout", "alternate-exchange"])
def test_an_operator_policy_bounds_and_does_nothing_else(key):
    """rabbit_policies.erl, operator_policy_validator: numbers that bound; where messages go is the users' affair."""
    definition = {key: {"overflow": "reject-publish", "consumer-timeout": 1000}.get(key, "x"), "max-length": 1}
    make_policy("p", ".*", "all", 0, definition)
    with pytest.raises(Refused, match=f"not recognised: {key}"):
        make_policy("p", ".*", "all", 0, definition, operator=True)
    bounds = {"max-length": 1, "max-length-bytes": 1, "message-ttl": 1, "expires": 1, "delivery-limit": 1}
    assert make_policy("p", ".*", "all", 0, bounds, operator=True).definition == bounds


def test_policies_change_live_queues(world, client):
    """What matches follows at once, with what is in it; what no longer matches goes back."""
    client.declare("orders.new", durable=True)
    client.declare("other", durable=True)
    for number in range(5):
        client.publish("orders.new", b"%d" % number, delivery_mode=2)
        client.publish("other", b"x", delivery_mode=2)
    policy(world, "short", "^orders", {"max-length": 2})
    assert depth(world, "orders.new", "other") == [2, 5]
    client.publish("orders.new", b"5", delivery_mode=2)
    assert bodies(client, "orders.new") == [b"4", b"5"]
    world.broker.vhosts["/"].policies.delete("short", operator=False)
    for number in range(5):
        client.publish("orders.new", b"%d" % number)
    assert depth(world, "orders.new") == [5]


def test_which_policy_applies(world, client):
    """The highest priority, whole; the lower number of argument, policy and operator policy; else the argument."""
    client.declare("q", durable=True, x_max_length=10, x_dead_letter_exchange="mine")
    policy(world, "low", "q", {"max-length": 1, "message-ttl": 5}, priority=1)
    policy(world, "high", "q", {"max-length": 20, "dead-letter-exchange": "theirs", "delivery-limit": 7}, priority=2)
    rules = world.queue("q").rules
    assert (rules.length_max, rules.message_ttl_ms, rules.dead_letter_exchange) == (10, None, "mine")
    assert rules.delivery_limit == 7
    policy(world, "bound", ".*", {"max-length": 3, "message-ttl": 1000}, operator=True)
    rules = world.queue("q").rules
    assert (rules.length_max, rules.message_ttl_ms) == (3, 1000)


def test_policies_of_queues_yet_to_come_and_of_types(world, client):
    """A queue that is declared later follows; apply-to tells types apart."""
    policy(world, "quorum", ".*", {"delivery-limit": 3}, apply_to="quorum_queues", priority=5)
    policy(world, "classic", ".*", {"max-length": 4}, apply_to="classic_queues")
    client.declare("c", durable=True)
    client.declare("k", durable=True, x_queue_type="quorum")
    assert (world.queue("c").rules.length_max, world.queue("c").rules.delivery_limit) == (4, None)
    assert (world.queue("k").rules.length_max, world.queue("k").rules.delivery_limit) == (None, 3)


def test_reject_publish_by_policy_reaches_open_channels(world, client):
    """A publisher whose routes are remembered is refused as soon as the policy says so."""
    client.declare("q")
    client.call(1, "confirm.select", False)
    client.publish("q", b"1")
    client.frames()
    policy(world, "full", "^q$", {"max-length": 1, "overflow": "reject-publish"})
    assert [name for name, _, _ in client.publish("q", b"2").frames()] == ["basic.nack"]


def test_an_alternate_exchange_by_policy(world, client):
    """Exchanges follow policies as well; their own argument comes first."""
    client.declare("lost")
    client.bind("lost", "amq.fanout")
    client.declare_exchange("x", "direct")
    client.publish("nowhere", exchange="x")
    policy(world, "ae", "^x", {"alternate-exchange": "amq.fanout"}, apply_to="exchanges")
    client.publish("nowhere", exchange="x")
    assert depth(world, "lost") == [1]


@pytest.mark.parametrize(
    "definition",
    [
        {},
        {"max-lenght": 5},
        {"max-length": -1},
        {"overflow": "explode"},
        {"message-ttl": "soon"},
        {"dead-letter-exchange": "x" * 256},
        {"dead-letter-routing-key": "k" * 256},
        {"alternate-exchange": "\u00fc" * 128},
        {"alternate-exchange": 5},
        {"max-length": 2**70},
    ],
    ids=lambda definition: str(definition)[:40],
)
def test_policies_that_cannot_be(definition):
    """406 with what is wrong."""
    with pytest.raises(Refused):
        make_policy("p", ".*", "all", 0, definition)


def test_a_priority_that_cannot_be_stored():
    """406, and nothing of it is in force."""
    with pytest.raises(Refused, match="cannot be stored"):
        make_policy("p", ".*", "all", 2**70, {"max-length": 1})


def test_policies_after_a_restart(kept):
    """They come back before what they apply to."""
    world, client = kept
    client.declare("q", durable=True)
    policy(world, "p", "^q$", {"max-length": 2, "message-ttl": 10_000})
    client.declare("other", durable=True)
    world = world.kill()
    rules = world.queue("q").rules
    assert (rules.length_max, rules.message_ttl_ms) == (2, 10_000)


# Delays.


def test_a_delayed_message_comes_when_it_is_due(world, client):
    """x-delay on an x-delayed-message exchange: routed like its inner type, later; without the header at once."""
    client.declare_exchange("later", "x-delayed-message", durable=True, x_delayed_type="topic")
    client.declare("q", durable=True)
    client.bind("q", "later", "a.*")
    client.publish("a.b", b"late", exchange="later", delivery_mode=2, headers={"x-delay": 1000})
    client.publish("a.b", b"soon", exchange="later", delivery_mode=2, headers={"x-delay": 200})
    client.publish("a.b", b"now", exchange="later", delivery_mode=2)
    client.publish("b.b", b"elsewhere", exchange="later", delivery_mode=2, headers={"x-delay": 100})
    assert bodies(client, "q") == [b"now"]
    world.advance(300)
    assert bodies(client, "q") == [b"soon"]
    world.advance(1000)
    key, found = headers(client, "q")
    assert (key, found) == ("a.b", {"x-delay": -1000})


def test_delays_survive_a_restart(kept):
    """What waits goes on waiting, and comes once."""
    world, client = kept
    client.declare_exchange("later", "x-delayed-message", durable=True, x_delayed_type="direct")
    client.declare("q", durable=True)
    client.bind("q", "later", "k")
    for number in range(3):
        client.publish("k", b"%d" % number, exchange="later", delivery_mode=2, headers={"x-delay": 500 + number * 1000})
    world = world.kill()
    client = world.connect()
    assert bodies(client, "q") == []
    world.advance(600)
    assert bodies(client, "q") == [b"0"]
    world.advance(3000)
    assert bodies(client, "q") == [b"1", b"2"]
    world = world.kill()
    world.advance(5000)
    assert depth(world, "q") == [0]


def test_what_a_delayed_exchange_must_have(client):
    """x-delayed-type, of a type that there is, and not its own."""
    for number, arguments in enumerate(({}, {"x_delayed_type": "x-delayed-message"}, {"x_delayed_type": "no"})):
        client.call(number + 2, "channel.open", "")
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        frames = client.call(
            number + 2, "exchange.declare", 0, "x", "x-delayed-message", False, False, False, False, False, table
        )
        assert frames[0][2][0] == 406


def test_delayed_retry(world, client):
    """What comes back waits, longer each time up to the most; then it stands in its old place (RabbitMQ 4.3)."""
    retry = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 1000, "x_delayed_retry_max": 2000}
    client.declare("q", durable=True, **retry)
    for body in (b"poison", b"other"):
        client.publish("q", body, delivery_mode=2)
    client.send(1, "basic.nack", client.get("q")[0], False, True)
    assert depth(world, "q") == [1]
    for wait in (1000, 2000, 2000):
        world.advance(wait - 100)
        assert depth(world, "q") == [1]
        world.advance(200)
        tag, redelivered, body = client.get("q")
        assert (redelivered, body) == (True, b"poison")
        client.send(1, "basic.nack", tag, False, True)

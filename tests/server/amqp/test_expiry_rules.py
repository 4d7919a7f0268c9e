"""Messages that die of age: at their due time wherever they stand, across restarts, and in small steps."""

import errno
import random
import tracemalloc

import pytest
from amqp_harness import World, deliveries, publish, refusal
from sim_disk import SimDisk
from steps import assert_short_steps

from broker.core.vhosts.policies import make_policy
from broker.errors import Refused
from broker.log.log import Log
from protocol.amqp.frames import method_frame

QUORUM_RETRY = {"x_queue_type": "quorum", "x_delayed_retry_type": "all"}


def disk_world(ago_ms=0):
    """A broker with a disk, and a client; the clock stands `ago_ms` before where that of its next run will."""
    world = World(SimDisk(random.Random(1).randrange))
    world.broker.scheduler.wall_ms -= ago_ms
    return world, world.connect()


def ready(world, name):
    """Messages ready."""
    world.settle()
    return world.queue(name).ready_count


# Restarts.


def test_a_ttl_goes_on_over_a_restart():
    """It counts from when the message came, not from when the broker did."""
    world, client = disk_world(9_000)
    client.declare("q", durable=True, x_message_ttl=10_000)
    client.publish("q", b"old", delivery_mode=2)
    world.advance(8_000)
    client.publish("q", b"young", delivery_mode=2)
    world = world.kill()
    world.advance(1_100)
    assert ready(world, "q") == 1
    assert world.connect().get("q")[2] == b"young"


def test_what_died_long_before_a_restart_is_given_to_nobody():
    """Neither by basic.get nor to a consumer; what is behind it is."""
    for consumes in (True, False):
        world, client = disk_world(14_000)
        client.declare("q", durable=True, x_message_ttl=10_000)
        for _ in range(300):
            client.publish("q", b"dead", delivery_mode=2)
        world.advance(9_000)
        client.publish("q", b"alive", delivery_mode=2)
        world = world.kill()
        client = world.connect()
        if consumes:
            assert [body for *_, body in deliveries(client.consume("q"))] == [b"alive"]
        else:
            assert client.get("q")[2] == b"alive"


def test_a_backlog_that_expires_after_a_restart_does_so_in_short_steps():
    """However large: it is loaded and dropped bit by bit."""

    def scenario(counter):
        world, client = disk_world()
        client.declare("q", durable=True, x_message_ttl=10_000)
        client.fill("q", 10_000, 1000, delivery_mode=2)
        world = world.kill()
        scheduler = world.broker.scheduler
        scheduler.wall_ms += 11_000
        counter.run(world.broker.tick, world.hub.now_ms)
        counter.run_while_busy(scheduler)
        assert ready(world, "q") == 0

    assert_short_steps(scenario)


@pytest.mark.parametrize("loaded", [True, False])
def test_expirations_deep_in_the_log_are_known_after_a_restart(loaded):
    """They take effect at their due time, though nobody has come near them."""
    world, client = disk_world()
    client.declare("q", durable=True)
    client.fill("q", 2000, 1000, delivery_mode=2)
    client.publish("q", b"deep", delivery_mode=2, expiration="5000")
    client.publish("q", b"last", delivery_mode=2)
    world = world.kill()
    if loaded:
        assert world.connect().get("q")[1]
    world.settle()
    queue = world.queue("q")
    before = queue.ready_count
    world.advance(4_000)
    assert ready(world, "q") == before
    world.advance(1_100)
    assert ready(world, "q") == before - 1
    assert queue.store.unloaded_count > 0
    client = world.connect()
    got = [body for *_, body in deliveries(client.consume("q", no_ack=True))]
    assert len(got) == before - 1
    assert b"deep" not in got


def test_a_byte_limit_counts_what_a_restart_left_in_the_log():
    """Looked through in slices; what is taken meanwhile is counted once."""
    world, client = disk_world()
    client.declare("q", durable=True, x_max_length_bytes=3_000_000, x_overflow="reject-publish")
    client.fill("q", 2900, 1000, delivery_mode=2)
    world = world.kill()
    client = world.connect()
    for _ in range(50):
        assert client.get("q", no_ack=True)
    world.settle()
    assert world.queue("q").limits.ready_bytes == 2850 * 1000
    deliveries(client.consume("q", no_ack=True))
    world.settle()
    assert world.queue("q").limits.ready_bytes == 0


# Retries.


def test_an_expiration_ends_the_wait_for_the_next_try():
    """The message dies when its time runs out, and is not tried early."""
    world, client = disk_world()
    client.declare("dead", durable=True)
    retry = {"x_delayed_retry_min": 60_000, "x_delayed_retry_max": 60_000}
    dead_letters = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
    client.declare("q", durable=True, **QUORUM_RETRY, **retry, **dead_letters)
    client.publish("q", b"m", delivery_mode=2, expiration="5000")
    client.send(1, "basic.nack", client.get("q")[0], False, True)
    world.advance(4_900)
    assert (ready(world, "q"), ready(world, "dead")) == (0, 0)
    world.advance(200)
    assert (ready(world, "q"), ready(world, "dead")) == (0, 1)
    world.advance(60_000)
    assert (ready(world, "q"), ready(world, "dead")) == (0, 1)


def test_a_try_counts_towards_the_limits_again():
    """In messages and in octets, as often as it comes back."""
    world, client = disk_world()
    retry = {"x_delayed_retry_min": 100, "x_delayed_retry_max": 100, "x_delivery_limit": -1}
    client.declare("q", durable=True, **QUORUM_RETRY, **retry, x_max_length_bytes=10_000)
    client.publish("q", b"x" * 1000, delivery_mode=2)
    for _ in range(20):
        client.send(1, "basic.nack", client.get("q")[0], False, True)
        world.advance(200)
    client.send(1, "basic.ack", client.get("q")[0], False)
    assert world.queue("q").limits.ready_bytes == 0
    client.declare("short", durable=True, **QUORUM_RETRY, **retry, x_max_length=2)
    for body in (b"0", b"1"):
        client.publish("short", body, delivery_mode=2)
    for _ in range(2):
        client.send(1, "basic.nack", client.get("short")[0], False, True)
    for body in (b"2", b"3"):
        client.publish("short", body, delivery_mode=2)
    world.advance(1100)
    assert ready(world, "short") == 2


# What is remembered.


def test_the_deleted_are_told_of_time_no_more():
    """Queues with a TTL or expirations, and delayed exchanges that are still being looked through."""
    world, client = disk_world()
    client.declare("ttl", durable=True, x_message_ttl=1000)
    client.declare("single")
    client.publish("ttl", b"x", delivery_mode=2)
    client.publish("single", b"x", expiration="1000000")
    client.declare_exchange("later", "x-delayed-message", durable=True, x_delayed_type="fanout")
    client.bind("ttl", "later", "")
    for _ in range(2000):
        client.publish("", b"y" * 500, exchange="later", delivery_mode=2, headers={"x-delay": 3_000_000})
    for name in ("ttl", "single"):
        client.call(1, "queue.delete", 0, name, False, False, False)
    world = world.kill()
    world.broker.scheduler.run_slice()
    world.broker.vhosts["/"].delete_exchange("later")
    world.advance(1000)
    assert not world.broker.scheduler.timed


def test_what_was_acknowledged_is_not_waited_for():
    """A queue in memory forgets expirations of messages that are gone, though another is with a consumer."""
    world = World()
    client = world.connect()
    client.declare("q")
    client.publish("q", b"held")
    client.get("q")
    for _ in range(200):
        client.publish("q", b"x", expiration="1000")
        client.send(1, "basic.ack", client.get("q")[0], False)
    world.advance(2000)
    assert not world.queue("q").limits.expiry._overdue


@pytest.mark.parametrize("arguments", [{"x_max_priority": 3}, {}])
def test_the_expired_leave_memory(arguments):
    """Also behind a message that stays."""
    world = World()
    client = world.connect()
    client.declare("q", **arguments)
    client.publish("q", b"stays")
    tracemalloc.start()
    for _ in range(20):
        client.fill("q", 10, 20_000, expiration="50")
        world.advance(100)
    octets = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert ready(world, "q") == 1
    assert octets < 20 * 10 * 20_000 / 4


def test_a_queue_does_not_fall_asleep_behind_what_expired():
    """Two busy consumers, a message expires between two others; who has room again gets the next one."""
    for world in (World(), disk_world()[0]):
        publisher = world.connect()
        publisher.declare("q", durable=True)
        consumers = [world.connect(), world.connect()]
        for one in consumers:
            one.call(1, "basic.qos", 0, 1, False)
            one.consume("q")
        for _ in consumers:
            publisher.publish("q", b"x", delivery_mode=2)
        tag = deliveries(consumers[0].frames())[0][1]
        publisher.publish("q", b"expires", delivery_mode=2, expiration="1000")
        world.advance(2000)
        consumers[0].send(1, "basic.ack", tag, False)
        publisher.publish("q", b"next", delivery_mode=2)
        assert [body for *_, body in deliveries(consumers[0].frames())] == [b"next"]


# A log that cannot be read.


def test_expirations_wait_for_a_log_that_cannot_be_read(monkeypatch):
    """Out of handles, say: that is told, the broker goes on, and they take effect later."""
    world, client = disk_world()
    told = []
    world.broker.scheduler.report = lambda text, error: told.append(text)
    client.declare("q", durable=True)
    client.fill("q", 40, 1_000_000, delivery_mode=2)
    client.publish("q", b"x", delivery_mode=2, expiration="100")
    before = ready(world, "q")

    def fail(_log, _offset):
        raise OSError(errno.EMFILE, "no handles")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "read", fail)
        world.advance(1000)
    assert told == ["queue 'q' in vhost '/' cannot be read now"]
    assert ready(world, "q") == before
    for _ in range(3):
        world.advance(1100)
    assert ready(world, "q") == before - 1


def test_a_limit_is_kept_while_the_log_cannot_be_read(monkeypatch):
    """A consumer waits, and nothing can be loaded: a publish to the full queue is answered."""
    world, client = disk_world()
    client.declare("q", durable=True, x_max_length=5, x_overflow="reject-publish")
    client.fill("q", 5, 10, delivery_mode=2)
    world = world.kill()
    world.broker.scheduler.report = lambda text, error: None
    client = world.connect()
    client.call(1, "confirm.select", False)

    def fail(_log, _offset):
        raise OSError(errno.EMFILE, "no handles")

    monkeypatch.setattr(Log, "read", fail)
    client.consume("q")
    assert [name for name, *_ in client.publish("q", b"more", delivery_mode=2).frames()] == ["basic.nack"]


# Steps.


@pytest.mark.parametrize("how", ["nack", "limit", "policy", "expiry"])
def test_many_deaths_are_several_short_steps(how):
    """Dead letters by the thousand leave others their turn; all of them arrive."""
    count = 3000

    def scenario(counter):
        world, client = disk_world()
        client.declare("dead", durable=True)
        told = {"x_message_ttl": 5000} if how == "expiry" else {"x_delivery_limit": 0} if how == "limit" else {}
        client.declare("q", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="dead", **told)
        client.fill("q", count, 10, delivery_mode=2)
        if how in ("nack", "limit"):
            client.consume("q")
            counter.run(client.machine.receive, method_frame(1, "basic.nack", 0, True, how == "limit"))
        elif how == "policy":
            policy = make_policy("p", "q", "queues", 0, {"max-length": 0})
            counter.run(lambda: world.broker.vhosts["/"].policies.set(policy, operator=False))
        else:
            world.broker.scheduler.wall_ms += 6000
            counter.run(world.broker.tick, world.hub.now_ms)
        counter.run_while_busy(world.broker.scheduler)
        assert ready(world, "dead") == count

    assert_short_steps(scenario)


# What is due is given to nobody, whether or not anybody has noticed that it is.


@pytest.mark.parametrize("how", ["get", "consume", "wake"])
@pytest.mark.parametrize("kind", ["ttl", "expiration"])
def test_what_is_due_is_not_handed_out_before_the_clock_ticks(how, kind):
    """Asked for when it would be: RabbitMQ drops what has expired from the head before it fetches (rabbit_amqqueue's
    `drop_expired_msgs` in `fetch`), and its TTL guide promises that no expired message is delivered."""
    world = World()
    client = world.connect()
    client.declare("q", **({"x_message_ttl": 1000} if kind == "ttl" else {}))
    client.publish("q", b"first")
    if how == "wake":
        client.call(1, "basic.qos", 0, 1, False)
        client.consume("q")
    own = {"expiration": "1000"} if kind == "expiration" else {}
    client.publish("q", b"due", **own)
    world.broker.scheduler.wall_ms += 1000
    client.publish("q", b"fresh", **own)
    left = [b"fresh"] if kind == "ttl" or how == "wake" else [b"first", b"fresh"]
    if how == "get":
        got = [client.get("q", no_ack=True) for _ in range(3)]
        assert [one[2] for one in got if one] == left
    elif how == "consume":
        assert [body for *_, body in deliveries(client.consume("q", no_ack=True))] == left
    else:
        client.frames()
        client.send(1, "basic.ack", 1, False)
        assert [body for *_, body in deliveries(client.frames())] == left


def test_what_may_not_wait_goes_to_who_waits_and_to_nobody_else():
    """`expiration` and TTL 0 (RabbitMQ's TTL guide: expire upon reaching a queue unless they can be delivered at
    once), also when something older is due in front of them."""
    for ttl in (None, 0):
        world = World()
        client = world.connect()
        own = {"expiration": "0"} if ttl is None else {}
        client.declare("q", **({} if ttl is None else {"x_message_ttl": ttl}))
        client.publish("q", b"nobody", **own)
        assert client.get("q") is None
        client.consume("q", no_ack=True)
        client.publish("q", b"now", **own)
        assert [body for *_, body in deliveries(client.frames())] == [b"now"]
    world = World()
    client = world.connect()
    client.declare("q")
    client.publish("q", b"old", expiration="100")
    world.broker.scheduler.wall_ms += 100
    client.publish("q", b"0", expiration="0")
    assert client.get("q") is None


def test_a_queue_with_a_ttl_that_keeps_up_is_not_woken_for_each_message():
    """Nothing there is left to expire: once a TTL, not once a millisecond."""
    world = World()
    client = world.connect()
    client.declare("q", x_message_ttl=1000)
    client.consume("q", no_ack=True)
    woken = []
    expiry = world.queue("q").limits.expiry
    for _ in range(3000):
        client.machine.receive(publish(1, "", "q", b"x"))
        world.hub.end_turn()
        world.advance(1)
        woken.append(world.broker.scheduler.timed.next_ms)
        assert len(expiry._times) <= 1000 // 4 + 2
    client.frames()
    assert len(set(woken)) <= 2 * 3 + 1


TEN_YEARS_MS = 315_360_000_000
LEVEL_27_MS = 2**27 * 1000
"""The longest queue of the delays that Celery 5.5 and NServiceBus declare, one for each power of two seconds."""


@pytest.mark.parametrize("wait_ms", [2**32, LEVEL_27_MS, TEN_YEARS_MS])
@pytest.mark.parametrize("how", ["ttl", "policy", "expiration", "expires"])
def test_times_up_to_ten_years(how, wait_ms):
    """Taken, for messages over a restart as well, and kept to the millisecond (rabbit_misc.erl's check_expiry, whose
    bound is ?MAX_EXPIRY_TIMER; ours is ten years). One more is `value_too_large`."""
    world, client = disk_world()
    told = {"ttl": "x_message_ttl", "expires": "x_expires"}
    own = {"expiration": str(wait_ms)} if how == "expiration" else {}
    client.declare("q", durable=True, **({told[how]: wait_ms} if how in told else {}))
    if how == "policy":
        policy = make_policy("p", "^q", "queues", 0, {"message-ttl": wait_ms})
        world.broker.vhosts["/"].policies.set(policy, operator=False)
    client.publish("q", b"m", delivery_mode=2, **own)
    if how != "expires":  # Which begins anew with the broker.
        world = world.kill()
        world.settle()
    world.advance(wait_ms - 1)
    assert ready(world, "q") == 1
    world.advance(1)
    if how == "expires":
        assert "q" not in world.broker.vhosts["/"].queues
    else:
        assert ready(world, "q") == 0


def test_times_beyond_ten_years_are_too_large():
    """The same bound wherever a time is told, in RabbitMQ's words."""
    value = TEN_YEARS_MS + 1
    text = f"{{value_too_large,{value}}}"
    for name in ("x_message_ttl", "x_expires", "x_delayed_retry_min"):
        assert text in refusal(World().connect().declare("q", **{name: value}))[1]
    client = World().connect()
    client.declare("q")
    assert text in refusal(client.publish("q", b"m", expiration=str(value)).frames())[1]
    for name in ("message-ttl", "expires", "delayed-retry-max"):
        with pytest.raises(Refused, match=f"value_too_large,{value}"):
            make_policy("p", "^q", "queues", 0, {name: value})


def test_a_backlog_that_may_be_due_is_looked_at_by_who_asks_for_it():
    """After a restart its ages are in the log; basic.get brings it back, and finds what is not due."""
    world, client = disk_world(9_000)
    client.declare("q", durable=True, x_message_ttl=10_000)
    client.publish("q", b"old", delivery_mode=2)
    world.advance(8_000)
    client.publish("q", b"young", delivery_mode=2)
    world = world.kill()
    world.broker.scheduler.wall_ms += 1_500
    client = world.connect()
    assert client.get("q")[2] == b"young"
    assert client.get("q") is None

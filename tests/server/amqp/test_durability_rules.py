"""What survives a stop, and what is said only when it does. Each world has a disk that forgets what was not synced."""

import contextlib
import random

import pytest
from amqp_harness import World, publish
from sim_disk import PowerCut, SimDisk

from protocol.amqp.frames import method_frame


@pytest.fixture
def world():
    """A broker with a disk."""
    return World(SimDisk(random.Random(1).randrange))


def confirming(world):
    """A client with a confirm channel."""
    client = world.connect()
    client.call(1, "confirm.select", False)
    return client


def bodies(client, queue):
    """(redelivered, body) of everything that basic.get finds."""
    found = []
    while (got := client.get(queue, no_ack=True)) is not None:
        found.append(got[1:])
    return found


def test_what_is_durable_comes_back(world, client):
    """Durable queues, exchanges and their bindings, with their arguments; nothing else."""
    client.declare("d", durable=True, x_expires=100_000)
    client.declare("t")
    client.declare("e", durable=True, exclusive=True)
    client.declare_exchange("dx", "topic", durable=True, alternate_exchange="other")
    client.declare_exchange("tx")
    client.bind("d", "dx", "a.#", {"weight": 5, "deep": {"list": [1, "two", None, True]}})
    client.bind("d", "tx", "k")
    client.bind("t", "dx", "k")
    client.call(1, "exchange.bind", 0, "amq.fanout", "dx", "e2e", False, {})
    vhost = world.kill().broker.vhosts["/"]
    assert set(vhost.queues) == {"d"}
    assert vhost.queues["d"].arguments == {"x-expires": 100_000}
    assert set(vhost.exchanges) - {"amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic"} == {"dx"}
    assert vhost.exchanges["dx"].arguments == {"alternate-exchange": "other"}
    found = {
        (one.destination.name, one.routing_key, str(one.arguments)) for one in vhost.exchanges["dx"].bindings.values()
    }
    arguments = {"weight": 5, "deep": {"list": [1, "two", None, True]}}
    assert found == {("d", "a.#", str(arguments)), ("amq.fanout", "e2e", "{}")}


def test_what_is_deleted_stays_deleted(world, client):
    """Queues, exchanges and bindings that went, alone or with what they hung on, do not come back."""
    for name in ("a", "b"):
        client.declare(name, durable=True)
        client.declare_exchange("x" + name, durable=True)
        client.bind(name, "x" + name, "k")
        client.bind(name, "amq.direct", "k")
    client.call(1, "queue.delete", 0, "a", False, False, False)
    client.call(1, "exchange.delete", 0, "xb", False, False)
    client.call(1, "queue.unbind", 0, "b", "amq.direct", "k", {})
    vhost = world.kill().broker.vhosts["/"]
    assert set(vhost.queues) == {"b"}
    assert "xa" in vhost.exchanges
    assert "xb" not in vhost.exchanges
    assert vhost.binding_count == 0


def test_a_transaction_does_not_bring_a_deleted_queue_back(world, client):
    """It has routed a message with an expiration to a queue that is deleted before the commit, and made anew."""
    client.declare("a", durable=True)
    client.call(2, "channel.open", "")
    client.call(2, "tx.select")
    client.publish("a", channel=2, expiration="100000", delivery_mode=2)
    client.call(1, "queue.delete", 0, "a", False, False, False)
    client.declare("a", durable=True)
    client.publish("a", b"new", delivery_mode=2)
    assert [name for name, _, _ in client.call(2, "tx.commit")] == ["tx.commit-ok"]
    world = world.kill()
    assert world.broker.left_aside == []
    assert bodies(world.connect(), "a") == [(True, b"new")]


def test_persistent_messages_come_back(world):
    """Persistent ones in durable queues, in order, marked as redelivered after an unclean stop; the others are gone."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.declare("t")
    for number in range(5):
        client.publish("d", b"%d" % number, delivery_mode=2)
        client.publish("d", b"volatile", delivery_mode=1)
        client.publish("t", b"gone", delivery_mode=2)
    after = world.kill().connect()
    assert bodies(after, "d") == [(True, b"%d" % number) for number in range(5)]
    assert after.call(1, "queue.declare", 0, "t", True, False, False, False, False, {})[0][2][0] == 404


def test_after_an_orderly_stop_only_what_was_delivered_is_redelivered(world, client):
    """The one that was taken and not acknowledged comes marked; the rest as if nothing had happened."""
    client.declare("d", durable=True)
    for number in range(4):
        client.publish("d", b"%d" % number, delivery_mode=2)
    assert client.get("d")[2] == b"0"
    client.send(1, "basic.ack", 1, False)
    assert client.get("d")[2] == b"1"
    client.drop()
    after = world.stop().connect()
    assert bodies(after, "d") == [(True, b"1"), (False, b"2"), (False, b"3")]


def test_acknowledged_messages_stay_away(world, client):
    """Acks that a later sync covers hold, whatever their order; a purge too."""
    client.declare("d", durable=True)
    client.declare("p", durable=True)
    for number in range(10):
        client.publish("d", b"%d" % number, delivery_mode=2)
        client.publish("p", b"x", delivery_mode=2)
    client.consume("d", "c")
    for tag in (2, 9, 4):
        client.send(1, "basic.ack", tag, False)
    assert client.call(1, "queue.purge", 0, "p", False)[0][2] == (10,)
    after = world.kill().connect()
    assert [body for _, body in bodies(after, "d")] == [b"0", b"2", b"4", b"5", b"6", b"7", b"9"]
    assert bodies(after, "p") == []


def test_a_confirm_waits_for_the_sync(world):
    """Nothing is confirmed before the frame is synced, then everything up to the last publish by one ack."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.machine.receive(publish(1, "", "d", b"x", delivery_mode=2) * 3)
    world.hub.end_turn()
    assert client.machine.outbox.parts == []
    world.durability.flusher.collect()
    assert client.frames() == [("basic.ack", 1, (3, True))]


def test_a_transient_publish_is_not_held_by_the_disk(world):
    """Neither to a transient queue nor non-persistent to a durable one; behind a persistent one it keeps its place."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.declare("t")
    client.machine.receive(publish(1, "", "t", b"x", delivery_mode=2))
    client.machine.receive(publish(1, "", "d", b"x", delivery_mode=1))
    assert len(client.machine.outbox.parts) == 2
    client.machine.outbox.parts.clear()
    client.machine.receive(publish(1, "", "d", b"x", delivery_mode=2))
    client.machine.receive(publish(1, "", "t", b"x"))
    assert client.machine.outbox.parts == []
    assert client.frames() == [("basic.ack", 1, (4, True))]


@pytest.mark.parametrize(
    "method",
    [
        ("queue.declare", 0, "n", False, True, False, False, False, {}),
        ("exchange.declare", 0, "nx", "direct", False, True, False, False, False, {}),
        ("queue.bind", 0, "d", "amq.topic", "k", False, {}),
        ("queue.purge", 0, "d", False),
        ("queue.delete", 0, "d", False, False, False),
    ],
    ids=lambda method: method[0],
)
def test_the_answer_to_a_durable_change_waits_for_the_sync(world, client, method):
    """And nothing behind it is looked at before it is out."""
    client.declare("d", durable=True)
    client.publish("d", b"x", delivery_mode=2)
    client.frames()
    client.machine.receive(method_frame(1, *method) + method_frame(1, "basic.qos", 0, 5, False))
    world.hub.end_turn()
    assert client.machine.outbox.parts == []
    assert client.machine.paused
    while client.machine.more or world.busy:
        world.settle()
        client.machine.proceed()
    assert [name for name, _, _ in client.frames()] == [method[0] + "-ok", "basic.qos-ok"]


def test_tx_commit_waits_and_is_one_thing(world, client):
    """commit-ok comes after the sync; a power cut before it leaves all of the transaction or nothing."""
    client.declare("a", durable=True)
    client.declare("b", durable=True)
    client.publish("a", b"old", delivery_mode=2)
    client.call(1, "tx.select")
    assert client.get("a")[2] == b"old"
    client.publish("a", b"1", delivery_mode=2)
    client.publish("b", b"2", delivery_mode=2)
    client.send(1, "basic.ack", 1, False)
    client.machine.receive(method_frame(1, "tx.commit"))
    world.hub.end_turn()
    assert client.machine.outbox.parts == []
    assert [name for name, _, _ in client.frames()] == ["tx.commit-ok"]
    after = world.kill().connect()
    assert (bodies(after, "a"), bodies(after, "b")) == ([(True, b"1")], [(True, b"2")])


def test_a_failed_sync_refuses_what_waits(world):
    """basic.nack for everything in flight, and the broker is to end."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.frames()

    world.durability.flusher._writer.submit = lambda _job: world.durability.flusher._writer.results.append(
        OSError(5, "Input/output error")
    )
    client.machine.receive(publish(1, "", "d", b"x", delivery_mode=2) * 2)
    world.hub.end_turn()
    world.durability.flusher.collect()
    assert world.durability.failed.is_set()
    world.hub.end_turn()
    assert b"".join(client.machine.outbox.parts) == method_frame(1, "basic.nack", 2, True, False)


def test_a_full_disk_blocks_publishers_and_is_tried_again(world):
    """ENOSPC on a write: the alarm, nothing confirmed; when there is space the same write goes through."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.frames()
    world.durability.set_space = world.hub.set_space
    flusher = world.durability.flusher
    submit = flusher._writer.submit
    flusher._writer.submit = lambda _job: flusher._writer.results.append(OSError(28, "No space left on device"))
    client.machine.receive(publish(1, "", "d", b"x", delivery_mode=2))
    world.hub.end_turn()
    flusher.collect()
    assert world.broker.alarm == "low on disk"
    assert client.machine.outbox.parts == []
    flusher._writer.submit = submit
    flusher.tick(1000)
    assert client.frames() == [("basic.ack", 1, (1, False))]
    assert world.broker.alarm is None


def test_a_backlog_is_on_the_disk(world, monkeypatch):
    """Past what a head may hold messages wait in the log, come back in order, and after a restart too."""
    monkeypatch.setattr("broker.core.queues.backlog.HEAD_BYTES_MAX", 10_000)
    client = world.connect()
    client.declare("d", durable=True)
    for number in range(50):
        client.feed(b"".join(publish(1, "", "d", b"%d" % (number * 40 + one), delivery_mode=2) for one in range(40)))
    cursor = world.queue("d").store.cursor
    assert cursor.ready_count == 2000
    assert len(cursor.head) < 200
    first = [client.get("d", no_ack=True)[2] for _ in range(1000)]
    assert first == [b"%d" % number for number in range(1000)]
    after = world.kill().connect()
    assert [body for _, body in bodies(after, "d")] == [b"%d" % number for number in range(1000, 2000)]


def test_transient_queues_have_a_backlog_too(world, monkeypatch):
    """Without a log until the head is full; what waits in it is gone after a restart, like its queue."""
    monkeypatch.setattr("broker.core.queues.queue_store.HEAD_BYTES_MAX", 10_000)
    monkeypatch.setattr("broker.core.queues.backlog.HEAD_BYTES_MAX", 10_000)
    client = world.connect()
    client.declare("t")
    client.declare("d", durable=True)
    for number in range(1000):
        client.publish("t", b"%d" % number)
        client.publish("d", b"%d" % number, delivery_mode=1)
    assert world.queue("t").store.unloaded_count > 800
    assert world.queue("d").store.unloaded_count > 800
    for queue in ("t", "d"):
        assert [client.get(queue, no_ack=True)[2] for _ in range(1000)] == [b"%d" % number for number in range(1000)]
    client.publish("d", b"last", delivery_mode=1)
    after = world.kill()
    assert set(after.broker.vhosts["/"].queues) == {"d"}
    assert after.queue("d").ready_count == 0


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x32", b"\x00\x32\x00"])
def test_a_method_frame_too_short_for_its_ids(client, payload):
    """503 as without a disk."""
    frames = client.feed(b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce").frames()
    assert frames[0][0] == "connection.close"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_deduplication_survives_a_restart(world, end):
    """What a durable exchange has seen it has seen, until its time is over or others need the room."""
    client = confirming(world)
    client.declare("d", durable=True)
    client.declare_exchange("once", "x-message-deduplication", durable=True, x_cache_size=100, x_cache_ttl=60_000)
    client.bind("d", "once", "k")
    for number in range(150):
        client.publish("k", b"%d" % number, exchange="once", delivery_mode=2,
                       headers={"x-deduplication-header": f"order-{number}"})  # fmt: skip
    world = getattr(world, end)()
    client = confirming(world)
    for number in range(50, 151):
        client.publish("k", b"again %d" % number, exchange="once", delivery_mode=2,
                       headers={"x-deduplication-header": f"order-{number}"})  # fmt: skip
    found = [body for _, body in bodies(client, "d")]
    assert found == [b"%d" % number for number in range(150)] + [b"again 150"]
    world = getattr(world, end)()
    world.advance(61_000)
    client = confirming(world)
    client.publish("k", b"late", exchange="once", delivery_mode=2, headers={"x-deduplication-header": "order-150"})
    assert [body for _, body in bodies(client, "d")] == [b"late"]


def test_a_deduplicated_message_is_remembered_with_its_memory():
    """Wherever the power is cut: the message and that it was seen, or neither; published again it is there once."""
    for left in range(1, 30):
        disk = SimDisk(random.Random(left).randrange)
        world = World(disk)
        client = confirming(world)
        client.declare("d", durable=True)
        client.declare_exchange("once", "x-message-deduplication", durable=True, x_cache_size=10)
        client.bind("d", "once", "k")
        sent = {"exchange": "once", "delivery_mode": 2, "headers": {"x-deduplication-header": 7}}
        disk.left = left
        with contextlib.suppress(PowerCut):
            client.publish("k", b"x", **sent)
            client.call(1, "queue.declare", 0, "other", False, True, False, False, False, {})
        disk.power_cut()
        client = confirming(World(disk))
        client.publish("k", b"x", **sent)
        assert [body for _, body in bodies(client, "d")] == [b"x"]


def test_what_is_not_to_be_remembered(world):
    """x-cache-persistence memory, a transient exchange, one that was deleted: nothing is left of what was seen."""
    client = confirming(world)
    client.declare("d", durable=True)
    for name, arguments in (("m", {"x_cache_persistence": "memory"}), ("g", {})):
        client.declare_exchange(name, "x-message-deduplication", durable=True, x_cache_size=10, **arguments)
        client.bind("d", name, "k")
        client.publish("k", b"1", exchange=name, delivery_mode=2, headers={"x-deduplication-header": 1})
    client.call(1, "exchange.delete", 0, "g", False, False)
    client.declare_exchange("g", "x-message-deduplication", durable=True, x_cache_size=10)
    client.bind("d", "g", "k")
    world = world.kill()
    assert len(world.store.logs) == 2
    client = confirming(world)
    for name in ("m", "g"):
        client.publish("k", b"2", exchange=name, delivery_mode=2, headers={"x-deduplication-header": 1})
    assert [body for _, body in bodies(client, "d")] == [b"1", b"1", b"2", b"2"]


def test_a_crash_of_the_broker_is_no_failed_delivery_and_forgets_none(world):
    """A consumer's death counts (RabbitMQ: rabbit_fifo.erl, down), also over restarts; the broker's own does not.

    A crash ends all deliveries at once, so that after some of them every message that is often on its way would be
    dead-lettered, and it is not known which one was to blame.
    """

    def die(world):
        victim = world.connect()
        victim.consume("work")
        return victim

    client = world.connect()
    client.declare("dead", durable=True)
    client.declare(
        "work", durable=True, x_delivery_limit=2, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    client.publish("work", b"poison", delivery_mode=2)
    for _ in range(2):
        die(world).drop()
        world.settle()
        for _ in range(3):
            die(world)
            world = world.kill()
        assert world.queue("work").ready_count == 1
    assert world.queue("dead").ready_count == 0
    die(world).drop()
    assert (world.queue("work").ready_count, world.queue("dead").ready_count) == (0, 1)
    assert [body for _, body in bodies(world.kill().connect(), "dead")] == [b"poison"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_what_a_crash_brings_back_to_a_full_queue_that_rejects_stays(world, overflow):
    """Confirmed and delivered, then the broker is killed: all of it is there (maybe_drop_head never drops here)."""
    client = confirming(world)
    client.declare("full", durable=True, x_max_length=2, x_max_length_bytes=2, x_overflow=overflow)
    for body in (b"A", b"B"):
        client.publish("full", body, delivery_mode=2)
    taker = world.connect()
    taker.get("full")
    taker.get("full")
    for body in (b"C", b"D"):
        client.publish("full", body, delivery_mode=2)
    world.settle()
    world = world.kill()
    world.advance(1000)
    assert [body for _, body in bodies(world.connect(), "full")] == [b"A", b"B", b"C", b"D"]

"""tx: what is remembered of a transaction, what its commit waits for, and what it costs."""

import contextlib
import random
from collections import deque
from types import SimpleNamespace

import pytest
from amqp_harness import InlineWorker, Transport, World, answer, parse, publish, refusal
from sim_disk import PowerCut, SimDisk
from steps import assert_short_steps

from protocol.amqp.frames import method_frame

ONCE = {"x-deduplication-header": "order-1"}


class SlowWorker(InlineWorker):
    """A disk that, while `stands`, does nothing of what it is told."""

    stands = False

    def submit(self, job):
        if not SlowWorker.stands:
            super().submit(job)


@pytest.fixture
def slow(monkeypatch):
    """A world whose disk may be told to stand still: `slow(True)`."""
    monkeypatch.setattr("amqp_harness.InlineWorker", SlowWorker)
    monkeypatch.setattr(SlowWorker, "stands", False)
    return World(SimDisk(random.Random(1).randrange))


def said(client, *methods):
    """The names of what is answered to these methods, as far as the disk goes along."""
    client.machine.receive(b"".join(methods))
    client.world.hub.end_turn()
    octets = b"".join(client.machine.outbox.parts)
    client.machine.outbox.parts.clear()
    return [name for name, _, _ in parse(octets)]


def deduplicating(client, **arguments):
    """A queue `q` behind an exchange `once`."""
    client.declare_exchange("once", "x-message-deduplication", durable=True, x_cache_size=100)
    client.declare("q", durable=True, **arguments)
    client.bind("q", "once", "k")


def send(client, body, headers=ONCE, **arguments):
    """Publish to `once`; returns the frames that come."""
    return client.publish("k", body, exchange="once", delivery_mode=2, headers=headers, **arguments).frames()


def bodies(client, queue="q"):
    """The bodies of everything in a queue."""
    return [got[2] for got in iter(lambda: client.get(queue, no_ack=True), None)]


# What exchanges remember.


def test_what_is_rolled_back_was_not_seen(world, client):
    """The exchange hears of a message at the commit; published again it is no duplicate."""
    deduplicating(client)
    client.call(1, "tx.select")
    send(client, b"rolled back")
    client.call(1, "tx.rollback")
    send(client, b"committed")
    send(client, b"twice in one")
    assert answer(client.call(1, "tx.commit")) == "tx.commit-ok"
    send(client, b"again")
    client.call(1, "tx.commit")
    assert bodies(world.connect()) == [b"committed"]


def test_what_was_never_committed_was_not_seen():
    """The broker is killed in the middle of a transaction."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    deduplicating(client)
    client.call(1, "tx.select")
    send(client, b"lost")
    world.advance(50)
    world = world.kill()
    client = world.connect()
    send(client, b"again")
    assert bodies(client) == [b"again"]


def test_a_history_knows_nothing_of_a_rollback(world, client):
    """x-recent-history gives new bindings what was committed, in its order."""
    client.declare("q")
    client.declare_exchange("recent", "x-recent-history")
    client.call(1, "tx.select")
    client.publish("k", b"rolled back", exchange="recent")
    client.call(1, "tx.rollback")
    client.publish("k", b"1", exchange="recent")
    client.publish("k", b"2", exchange="recent")
    client.call(1, "tx.commit")
    client.bind("q", "recent")
    assert bodies(client) == [b"1", b"2"]


def test_an_exchange_that_is_gone_at_the_commit(world, client):
    """What would have been routed only then reaches nobody; the rest arrives."""
    deduplicating(client)
    client.call(1, "tx.select")
    send(client, b"nowhere")
    client.publish("q", b"here", delivery_mode=2)
    client.call(1, "exchange.delete", 0, "once", False, False)
    assert answer(client.call(1, "tx.commit")) == "tx.commit-ok"
    assert bodies(world.connect()) == [b"here"]


def test_malformed_headers_do_not_wait_for_the_commit(client):
    """502 at once, as without a transaction."""
    deduplicating(client)
    client.call(1, "tx.select")
    octets = b"\x20\x00\x00\x00\x00\x02\x05a"
    assert refusal(client.feed(publish(1, "once", "k", b"x", octets=octets)).frames())[0] == 502


def test_a_commit_that_cannot_be_routed_has_done_nothing(world, client, monkeypatch):
    """A topic exchange behind the one that remembers finds a key too costly: 406, no message, no value, no ack."""
    monkeypatch.setattr("broker.core.exchange.topic.STATES_MAX", 1)
    deduplicating(client)
    client.publish("q", b"old", delivery_mode=2)
    tag, _, _ = client.get("q")
    for pattern in ("a.*", "*.a", "*.*"):
        client.bind("q", "amq.topic", pattern)
    client.call(1, "exchange.bind", 0, "amq.topic", "once", "", False, {})
    client.call(1, "tx.select")
    send(client, b"fine")
    client.publish("a.a", b"costly", exchange="once", delivery_mode=2)
    client.send(1, "basic.ack", tag, False)
    assert refusal(client.call(1, "tx.commit"))[0] == 406
    other = world.connect()
    assert bodies(other) == [b"old"]
    send(other, b"fine")
    assert bodies(other) == [b"fine"]


@pytest.mark.parametrize("bound", [True, False], ids=["full queue", "no queue"])
def test_what_nobody_takes_was_not_seen(world, client, bound):
    """Nacked by a full queue, or returned: the publisher sends it again, and it arrives."""
    deduplicating(client, x_max_length=1, x_overflow="reject-publish")
    client.call(1, "confirm.select", False)
    if bound:
        client.publish("q", b"fills", delivery_mode=2)
        client.frames()
        assert answer(send(client, b"order")) == "basic.nack"
        assert bodies(client) == [b"fills"]
    else:
        client.call(1, "queue.unbind", 0, "q", "once", "k", {})
        assert answer(send(client, b"order", mandatory=True)) == "basic.return"
        client.bind("q", "once", "k")
    assert answer(send(client, b"order")) == "basic.ack"
    assert answer(send(client, b"again")) == "basic.ack"
    assert bodies(client) == [b"order"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_a_commit_of_which_a_queue_refuses_a_part_is_no_commit_ok(world, client, overflow):
    """406 on the channel; the rest has happened, acknowledgements too (rabbit_channel.erl: complete_tx, failed)."""
    client.declare("work", durable=True)
    client.publish("work", b"done", delivery_mode=2)
    client.declare("full", durable=True, x_max_length=2, x_overflow=overflow, x_dead_letter_exchange="")
    client.call(1, "tx.select")
    client.send(1, "basic.ack", client.get("work")[0], False)
    for body in (b"0", b"1", b"2", b"3"):
        client.publish("full", body, delivery_mode=2)
    frames = client.call(1, "tx.commit")
    assert refusal(frames) == (406, "partial tx completion")
    assert frames[0][2][2:] == (90, 20)
    assert "tx.commit-ok" not in [name for name, _, _ in frames]
    other = world.connect()
    assert bodies(other, "full") == [b"0", b"1"]
    assert bodies(other, "work") == []


def test_a_refused_part_of_a_commit_was_not_seen(world, client):
    """Who hears that a part was refused sends it again, and that is no duplicate; one that was taken whole is one."""
    deduplicating(client, x_max_length=1, x_overflow="reject-publish")
    client.call(1, "tx.select")
    send(client, b"taken")
    send(client, b"refused", {"x-deduplication-header": "order-2"})
    assert refusal(client.call(1, "tx.commit")) == (406, "partial tx completion")
    other = world.connect()
    assert bodies(other) == [b"taken"]
    send(other, b"twice")
    send(other, b"again", {"x-deduplication-header": "order-2"})
    assert bodies(other) == [b"again"]


def test_what_nobody_took_was_not_seen_by_the_next_run():
    """What is taken back in the turn that noted it stands nowhere; its neighbours do."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    deduplicating(client, x_max_length=2, x_overflow="reject-publish")
    client.call(1, "confirm.select", False)
    for name in "abc":
        send(client, name.encode(), {"x-deduplication-header": name})
    assert bodies(client) == [b"a", b"b"]
    for _ in range(2):
        world = world.kill()
        client = world.connect()
        for name in "ab":
            send(client, b"again", {"x-deduplication-header": name})
    send(client, b"c", {"x-deduplication-header": "c"})
    assert bodies(client) == [b"c"]


def test_a_nack_is_a_nack_even_if_one_queue_has_it(world, client):
    """Of two queues one is full. Who hears no comes again: twice in one queue is better than never in the other."""
    deduplicating(client, x_max_length=1, x_overflow="reject-publish")
    client.declare("roomy", durable=True)
    client.bind("roomy", "once", "k")
    client.call(1, "confirm.select", False)
    client.publish("q", b"fills", delivery_mode=2)
    client.frames()
    assert answer(send(client, b"order")) == "basic.nack"
    assert bodies(client) == [b"fills"]
    assert answer(send(client, b"order")) == "basic.ack"
    assert bodies(client) == [b"order"]
    assert bodies(client, "roomy") == [b"order", b"order"]


def test_dead_letters_that_nobody_takes_were_not_seen(world, client):
    """At least once through an exchange that drops duplicates: a letter that has to wait is no duplicate of itself."""
    deduplicating(client, x_max_length=1, x_overflow="reject-publish")
    client.declare("work", durable=True, x_message_ttl=100, x_dead_letter_exchange="once",
                   x_dead_letter_strategy="at-least-once", x_overflow="reject-publish")  # fmt: skip
    client.publish("q", b"fills", delivery_mode=2)
    client.publish("work", b"letter", delivery_mode=2, headers=ONCE)
    world.advance(1000)
    world.advance(2000)
    assert bodies(client) == [b"fills"]
    world.advance(2000)
    world.advance(2000)
    assert bodies(client) == [b"letter"]


# What is waited for.


@pytest.mark.parametrize("arguments", [{}, {"x_cache_persistence": "memory"}], ids=["disk", "memory"])
def test_a_duplicate_is_confirmed_with_the_first(slow, arguments):
    """Its publisher hears that the broker has it once the first copy is synced, and at once from then on."""
    first, second = slow.connect(), slow.connect()
    first.declare_exchange("once", "x-message-deduplication", durable=True, x_cache_size=100, **arguments)
    first.declare("q", durable=True)
    first.bind("q", "once", "k")
    for client in (first, second):
        client.call(1, "confirm.select", False)
    message = publish(1, "once", "k", b"x", delivery_mode=2, headers=ONCE)
    SlowWorker.stands = True
    assert said(first, message) == []
    assert said(second, message) == []
    slow.disk.power_cut()
    SlowWorker.stands = False
    slow = World(slow.disk)
    client = slow.connect()
    client.call(1, "confirm.select", False)
    assert answer(client.feed(message).frames()) == "basic.ack"
    SlowWorker.stands = True
    assert said(client, message) == ["basic.ack"]
    assert slow.queue("q").ready_count == 1


def test_a_commit_is_there_whole_or_not_at_all():
    """Wherever the power is cut: its messages, their values and its acks, or none; published again each is once."""
    found = set()
    for left in range(1, 40):
        disk = SimDisk(random.Random(left).randrange)
        client = World(disk).connect()
        deduplicating(client)
        client.declare("work", durable=True)
        client.publish("work", b"job", delivery_mode=2)
        client.call(1, "tx.select")
        tag, _, _ = client.get("work")
        disk.left = left
        committed = []
        with contextlib.suppress(PowerCut):
            for name in "abc":
                send(client, name.encode(), {"x-deduplication-header": name})
            client.send(1, "basic.ack", tag, False)
            committed = client.call(1, "tx.commit")
            client.call(1, "queue.declare", 0, "other", False, True, False, False, False, {})
        disk.power_cut()
        world = World(disk)
        there = [world.queue(name).ready_count for name in ("q", "work")]
        assert there in ([3, 0], [0, 1])
        assert there == [3, 0] or answer(committed) != "tx.commit-ok"
        found.add(tuple(there))
        client = world.connect()
        for name in "abc":
            send(client, name.encode(), {"x-deduplication-header": name})
        assert bodies(client) == [b"a", b"b", b"c"]
    assert found == {(3, 0), (0, 1)}


@pytest.mark.parametrize("outcome", ["basic.ack", "basic.reject"])
def test_a_commit_of_acks_waits_for_the_disk(slow, outcome):
    """commit-ok says that a message will not come again."""
    client = slow.connect()
    client.declare("q", durable=True)
    client.publish("q", b"x", delivery_mode=2)
    client.call(1, "tx.select")
    tag, _, _ = client.get("q")
    SlowWorker.stands = True
    assert said(client, method_frame(1, outcome, tag, False), method_frame(1, "tx.commit")) == []
    SlowWorker.stands = False


def test_a_commit_that_promises_nothing_does_not_wait(slow):
    """Messages of a transient queue, and what goes back to a durable one."""
    client = slow.connect()
    client.declare("d", durable=True)
    client.declare("t")
    for queue in "dt":
        client.publish(queue, b"x", delivery_mode=2)
    client.call(1, "tx.select")
    back, away = client.get("d")[0], client.get("t")[0]
    SlowWorker.stands = True
    methods = method_frame(1, "basic.reject", back, True), method_frame(1, "basic.ack", away, False)
    assert said(client, *methods, method_frame(1, "tx.commit")) == ["tx.commit-ok"]


# The order in a commit, and its cost.


def test_a_commit_keeps_the_order_of_each_queue(world, client):
    """Whatever is published in between, and however many: with expirations, mandatory, to several queues, to none."""
    client.declare("a", durable=True)
    client.declare("b", durable=True)
    client.declare("full", durable=True, x_max_length=1, x_overflow="reject-publish")
    client.bind("a", "amq.fanout")
    client.bind("b", "amq.fanout")
    client.call(1, "tx.select")
    choose = random.Random(5)
    sent = {"a": [], "b": []}
    returned = []
    for number in range(1500):
        body = b"%d" % number
        kind = choose.choice(("a", "a", "a", "b", "fanout", "expiration", "returned", "dropped", "full"))
        if kind == "fanout":
            client.feed(publish(1, "amq.fanout", "", body, delivery_mode=2))
            sent["a"].append(body)
            sent["b"].append(body)
        elif kind == "expiration":
            client.feed(publish(1, "", "a", body, expiration="100000"))
            sent["a"].append(body)
        elif kind in "ab":
            client.feed(publish(1, "", kind, body, delivery_mode=2))
            sent[kind].append(body)
        else:
            client.feed(publish(1, "", kind, body, mandatory=kind == "returned"))
            returned += [body] if kind == "returned" else []
    frames = client.call(1, "tx.commit")
    assert [octets for kind, _, octets in frames if kind == "body"] == returned
    assert refusal(frames) == (406, "partial tx completion")
    assert world.queue("full").ready_count == 1
    client = world.connect()
    assert {name: bodies(client, name) for name in "ab"} == sent


def test_a_commit_of_many_is_quick():
    """Messages of one kind go into their queues in runs."""

    def scenario(counter):
        world = World(SimDisk(random.Random(1).randrange))
        client = world.connect()
        client.declare("q", durable=True)
        client.call(1, "tx.select")
        client.feed(b"".join(publish(1, "", "q", b"x" * 10, delivery_mode=2) for _ in range(4000)))
        counter.run(client.machine.receive, method_frame(1, "tx.commit"))
        world.settle()
        assert world.queue("q").ready_count == 4000

    assert_short_steps(scenario)


def test_a_transaction_has_an_end(world):
    """506 past the limits of messages and octets: its commit is one step."""
    for limits in ({"tx_messages_max": 3}, {"tx_bytes_max": 3 * 1100}):
        client = World(**limits).connect()
        client.declare("q")
        client.call(1, "tx.select")
        for _ in range(3):
            assert client.publish("q", b"x" * 1000).frames() == []
        assert refusal(client.publish("q", b"x" * 1000).frames()) == (506, "transaction too large")


def test_commit_ok_waits_for_the_disk_though_much_is_delivered_at_once():
    """The connection consumes what it commits, more than is held back in a turn: commit-ok is behind the sync all the
    same (tx.commit: what is published is then as safe as after a confirm)."""
    world = World(SimDisk(random.Random(1).randrange))
    client = world.connect()
    client.declare("q", durable=True, x_message_ttl=0)
    client.call(2, "channel.open", "")
    client.consume("q", "c", channel=2)
    client.call(1, "tx.select")
    machine = client.machine
    sent = []

    class Takes(Transport):
        def flush(self):
            sent.extend(machine.outbox.parts)
            machine.outbox.parts.clear()
            machine.outbox.size = 0

    machine.transport = machine.outbox.writer = Takes()
    jobs = []
    world.durability.flusher._writer = SimpleNamespace(submit=jobs.append, results=deque())
    for _ in range(5):
        machine.receive(publish(1, "", "q", b"x" * 100_000, delivery_mode=2))
    machine.receive(method_frame(1, "basic.qos", 0, 10, False) * 30 + method_frame(1, "tx.commit"))
    world.hub.end_turn()
    names = [name for name, *_ in parse(b"".join(sent))]
    assert "tx.commit-ok" not in names
    assert machine.parked is not None
    while machine.parked is not None:
        jobs.pop(0)()
        world.durability.flusher._writer.results.append(None)
        world.durability.flusher.collect()
        world.hub.end_turn()
    names = [name for name, *_ in parse(b"".join(sent))]
    assert names.count("tx.commit-ok") == 1
    assert names.count("basic.deliver") == 5

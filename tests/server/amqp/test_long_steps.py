"""A connection's end, and large acknowledgements, are cut into slices too."""

from types import SimpleNamespace

import pytest
from amqp_harness import World, deliveries, publish
from steps import assert_short_steps

from broker.core.vhosts.policies import make_policy
from broker.server.amqp.hub import AmqpHub
from protocol.amqp.frames import method_frame

COUNT = 50_000


def filled_world():
    """A client with COUNT unacknowledged deliveries, its queue, and the world."""
    world = World()
    client = world.connect()
    client.declare("q")
    chunk = publish(1, "", "q", b"x" * 10) * 1000
    for _ in range(COUNT // 1000):
        client.feed(chunk)
    client.consume("q", "c")
    client.raw()
    assert len(client.machine.channels[1].unacked) == COUNT
    return world, client


def test_the_end_of_a_connection_with_many_unacknowledged():
    """They return in slices, in order, and nothing is handed out before they are all back."""

    def scenario(counter):
        world, client = filled_world()
        other = world.connect()
        other.consume("q", "d", no_ack=True)
        client.machine.abort()
        counter.run_while_busy(world.broker.scheduler)
        got = deliveries(other.frames())
        assert len(got) == COUNT
        assert all(redelivered for _, _, redelivered, _ in got)

    assert_short_steps(scenario)


def test_a_multiple_ack_over_many_deliveries():
    """One basic.ack for everything is applied in slices, and then it is all gone."""

    def scenario(counter):
        world, client = filled_world()
        machine = client.machine
        counter.run(machine.receive, method_frame(1, "basic.ack", COUNT, True))
        slices = 1
        while machine.more:
            counter.run(machine.proceed)
            slices += 1
        assert slices > 5
        assert world.queue("q").store.leased_count == 0
        assert not machine.channels[1].unacked

    assert_short_steps(scenario)


@pytest.mark.parametrize(
    "method",
    [("basic.nack", 0, True, True), ("basic.nack", COUNT, True, True), ("basic.nack", COUNT - 1, True, True),
     ("basic.recover", True)],
)  # fmt: skip
def test_returning_many_deliveries_at_once(method):
    """They go back in slices, and none is handed out again before all are in their places."""

    def scenario(counter):
        world, client = filled_world()
        world.queue("q").remove_consumer(world.queue("q").consumers[0], 0)
        counter.run(client.machine.receive, method_frame(1, *method))
        assert world.queue("q").get() is None
        counter.run_while_busy(world.broker.scheduler)
        returned = COUNT - 1 if COUNT - 1 in method else COUNT
        assert world.queue("q").ready_count == returned
        assert world.queue("q").store.cursor.take(2)[1] == [0, 1]
        assert len(client.machine.channels[1].unacked) == COUNT - returned

    assert_short_steps(scenario)


def test_ack_of_everything_covers_what_was_there_when_it_came():
    """A multiple ack of tag 0 goes in slices; what is delivered in between is not acknowledged by it."""
    world = World()
    client = world.connect()
    client.declare("q")
    client.send(1, "basic.qos", 0, 6000, False)
    client.feed(publish(1, "", "q", b"x") * 20_000)
    client.consume("q", "c")
    client.send(1, "basic.ack", 0, True)
    assert len(client.machine.channels[1].unacked) == 6000
    assert world.queue("q").store.settled_count == 6000
    client.send(1, "basic.ack", 0, True)
    assert world.queue("q").store.settled_count == 12_000


def test_single_acks_of_several_consumers_count_as_work():
    """However their tags alternate, a read full of acks uses up its slice."""
    world = World()
    client = world.connect()
    for name in ("a", "b"):
        client.declare(name)
        client.consume(name, name)
    client.feed((publish(1, "", "a", b"x") + publish(1, "", "b", b"x")) * 2000)
    client.raw()
    client.machine.receive(b"".join(method_frame(1, "basic.ack", tag, False) for tag in range(1, 4001)))
    assert client.machine.units <= 0


def test_a_policy_over_many_queues():
    """They follow it in slices, soon, all of them; those that come meanwhile follow it at once."""
    count = 5000

    def scenario(counter):
        world = World()
        home = world.broker.vhosts["/"]
        for number in range(count):
            declare(home, f"q{number}")
        first = make_policy("p", "^q", "queues", 0, {"max-length": 5})
        counter.run(lambda: home.policies.set(first, operator=False))
        world.broker.scheduler.run_slice()
        second = make_policy("p", "^q", "queues", 0, {"max-length": 7, "expires": 60_000})
        counter.run(lambda: home.policies.set(second, operator=False))
        declare(home, "qq")
        counter.run_while_busy(world.broker.scheduler)
        assert {queue.rules.length_max for queue in home.queues.values()} == {7}
        assert len(world.broker.scheduler.timers) == count + 1

    assert_short_steps(scenario)


def test_many_queues_expire_at_once():
    """Some in each slice, and soon all of those that nobody uses."""

    def scenario(counter):
        world = World()
        home = world.broker.vhosts["/"]
        world.broker.tick(0)
        for number in range(5000):
            declare(home, f"q{number}", {"x-expires": 1000})
        kept = home.queues["q77"]
        for _ in range(20):
            counter.run(world.broker.tick, 500)
        assert len(home.queues) == 5000
        kept.last_used_ms = 2000
        counter.run(world.broker.tick, 2000)
        counter.run_while_busy(world.broker.scheduler)
        assert list(home.queues.values()) == [kept]
        assert world.broker.scheduler.timers.next_ms == 3000
        counter.run(world.broker.tick, 3000)
        assert not home.queues
        assert not world.broker.scheduler.timers

    assert_short_steps(scenario)


def declare(home, name, arguments=None):
    """A transient queue."""
    return home.declare_queue(
        name, durable=False, exclusive=False, auto_delete=False, arguments=arguments or {}, connection=None, now_ms=0
    )


SINGLE = {"x_single_active_consumer": True}


@pytest.mark.parametrize("arguments", [{}, SINGLE, {**SINGLE, "x_queue_type": "quorum"}], ids=["", "single", "quorum"])
def test_a_consumer_costs_the_same_beside_ten_thousand(arguments):
    """Who comes or goes does not rank all that are there, nor does a message ask all of them."""

    def scenario(counter):
        world = World()
        client = world.connect()
        client.declare("q", durable=True, **arguments)
        consume = [method_frame(1, "basic.consume", 0, "q", f"t{each}", False, True, False, True, {})
                   for each in range(9_000)]  # fmt: skip
        client.feed(b"".join(consume[:-100]))
        counter.run(client.feed, b"".join(consume[-100:]))
        counter.run(lambda: [client.feed(publish(1, "", "q", b"x")) for _ in range(100)])
        cancel = [method_frame(1, "basic.cancel", f"t{each}", True) for each in range(100, 9_000, 89)]
        counter.run(client.feed, b"".join(cancel))
        assert len(world.queue("q").consumers) == 9_000 - len(cancel)

    assert_short_steps(scenario)


def test_the_exclusive_queues_of_a_connection_go_in_slices():
    """However many it has; nobody finds those that have not gone yet (RabbitMQ: rabbit_queue_collector.erl)."""
    names = [f"mine-{each}" for each in range(6_000)]

    def scenario(counter):
        world = World()
        client, other = world.connect(), world.connect()
        client.feed(b"".join(method_frame(1, "queue.declare", 0, name, False, False, True, False, True, {})
                             for name in names))  # fmt: skip
        counter.run(client.machine.abort)
        assert world.busy
        other.machine.receive(method_frame(1, "queue.declare", 0, names[-1], False, False, False, False, False, {})
                              + publish(1, "", names[-2], b"x", True)
                              + method_frame(1, "queue.delete", 0, names[-3], False, False, False))  # fmt: skip
        counter.run_while_busy(world.broker.scheduler)
        said = [name for name, _, _ in other.frames() if name not in ("header", "body")]
        assert said == ["queue.declare-ok", "basic.return", "queue.delete-ok"]
        assert set(world.broker.vhosts["/"].queues) == {names[-1]}

    assert_short_steps(scenario)


@pytest.mark.parametrize("end", ["close", "gone", "error"])
def test_the_channels_of_a_connection_go_in_slices(end):
    """Thousands, of one connection and of many that end in one poll: leases come back in order, then close-ok comes."""
    count = 2000

    def scenario(counter):
        world = World()
        clients = [world.connect() for _ in range(3)]
        other = world.connect()
        other.declare("q")
        other.feed(publish(1, "", "q", b"x") * count)
        for client in clients:
            client.feed(b"".join(method_frame(number, "channel.open", "") for number in range(2, count + 1)))
            consume = [method_frame(number, "basic.qos", 0, 1, False)
                       + method_frame(number, "basic.consume", 0, "q", "c", False, False, False, False, {})
                       for number in range(1, count + 1)]  # fmt: skip
            client.feed(b"".join(consume))
            client.frames()
        assert world.queue("q").store.leased_count == count
        other.consume("q")

        def all_end():
            for client in clients:
                if end == "gone":
                    client.machine.abort()
                elif end == "close":
                    client.machine.receive(method_frame(0, "connection.close", 200, "", 0, 0))
                else:
                    client.machine.receive(method_frame(0, "connection.open-ok", ""))

        counter.run(all_end)
        assert not any(b"\x00\x3c\x00\x3c" in piece for piece in other.machine.outbox.parts)
        if end == "close":
            assert not clients[0].machine.outbox.parts
        counter.run_while_busy(world.broker.scheduler)
        said = [name for client in clients for name, *_ in client.frames()]
        assert said == {"gone": [], "close": ["connection.close-ok"] * 3, "error": ["connection.close"] * 3}[end]
        assert len(world.queue("q").consumers) == 1
        tags = [values[1] for name, _, values in other.frames() if name == "basic.deliver"]
        assert tags == list(range(1, count + 1))
        assert [offset for _, offset, _ in other.machine.channels[1].unacked.values()] == list(range(count))

    assert_short_steps(scenario)


def test_declaring_is_the_work_that_it_is():
    """A slice of a connection that declares one queue after the other is no longer than any other slice."""

    def scenario(counter):
        world = World()
        client = world.connect()
        declares = b"".join(method_frame(1, "queue.declare", 0, f"q{each}", False, False, True, False, True, {})
                            for each in range(1000))  # fmt: skip
        counter.run(client.machine.receive, declares)
        slices = 1
        while client.machine.more:
            counter.run(client.machine.proceed)
            slices += 1
        assert slices >= 20
        assert len(world.broker.vhosts["/"].queues) == 1000

    assert_short_steps(scenario)


def test_connections_and_channels_are_watched_in_slices(monkeypatch):
    """Heartbeats and timeouts of thousands of connections, and of the channels of some, hold nobody up."""

    def scenario(counter):
        world = World()
        clients = [world.connect() for _ in range(3000)]
        for client in clients:
            client.machine.transport = SimpleNamespace(pending_bytes=0)
        for client in clients[:10]:
            client.feed(b"".join(method_frame(number, "channel.open", "") for number in range(2, 2001)))
        watched = []
        watch = AmqpHub._watch

        def note(face, connection, now_ms):
            watched.append(connection)
            watch(face, connection, now_ms)

        monkeypatch.setattr(AmqpHub, "_watch", note)
        world.amqp.sweep()
        counter.run(world.broker.scheduler.run_slice)
        assert 0 < len(watched) < 1000
        gone = next(client for client in clients if client.machine not in watched)
        world.amqp.remove(gone.machine)
        clients.remove(gone)
        counter.run_while_busy(world.broker.scheduler)
        assert sorted(map(id, watched)) == sorted(id(client.machine) for client in clients)

    assert_short_steps(scenario)

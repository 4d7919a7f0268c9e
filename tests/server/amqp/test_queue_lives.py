"""The life of a stored queue against a model of it: any order of events, restarts among them, a head that holds little.

The model keeps a list of messages and says what is ready, in order, what is with the consumer, and what has died of
what. Times are multiples of the clock's step, so that both agree on when.
"""

import random

import pytest
from amqp_harness import World
from sim_disk import SimDisk

import broker.core.queues.backlog
import broker.core.queues.queue_store
from broker.core.browsing import READY
from broker.core.queues.x_death import read_deaths
from broker.core.vhosts.replay import browse
from protocol.amqp import content as wire

RULES = {
    "x_message_ttl": [300, 2000],
    "x_max_length": [3, 12],
    "x_delivery_limit": [1, 2],
    "x_max_length_bytes": [1 << 40],  # Never reached: what counts towards it has to be right.
}
RETRY = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 300, "x_delayed_retry_max": 700}
STEPS = 120
WAITING = "waiting"


class Message:
    """One message of the model."""

    def __init__(self, number, came_ms, ttl_ms, persistent, expiration_ms):
        self.number, self.persistent = number, persistent
        ages = [age for age in (ttl_ms, expiration_ms) if age is not None]
        self.due_ms = came_ms + min(ages) if ages else None
        self.state, self.returns, self.delivered = READY, 0, False
        self.back_ms = 0  # When it is ready again, while it waits for its next try.


class Model:
    """What RabbitMQ's users expect of a queue with these rules, and dead letters."""

    def __init__(self, ttl_ms, length_max, limit, *, retries):
        self.ttl_ms, self.length_max, self.limit, self.retries = ttl_ms, length_max, limit, retries
        self.messages, self.dead = [], []

    def ready(self):
        return [one for one in self.messages if one.state == READY]

    def publish(self, number, now_ms, persistent, expiration_ms):
        self.messages.append(Message(number, now_ms, self.ttl_ms, persistent, expiration_ms))
        self.expire(now_ms)
        self.trim()

    def die(self, one, reason):
        self.messages.remove(one)
        self.dead.append((one.number, reason))

    def trim(self):
        while self.length_max is not None and len(self.ready()) > self.length_max:
            self.die(self.ready()[0], "maxlen")

    def expire(self, now_ms):
        for one in [one for one in self.messages if one.state == WAITING and one.back_ms <= now_ms]:
            if one.due_ms is None or one.due_ms > one.back_ms:
                one.state = READY
        for one in [one for one in self.messages if one.state in (READY, WAITING)]:
            if one.due_ms is not None and one.due_ms <= now_ms:
                self.die(one, "expired")

    def get(self):
        if not self.ready():
            return None
        one = self.ready()[0]
        one.state = "held"
        return one

    def give_back(self, one, now_ms):
        one.returns += 1
        one.delivered = True
        if self.limit is not None and one.returns > self.limit:
            self.die(one, "delivery_limit")
        elif one.due_ms is not None and one.due_ms <= now_ms:
            self.die(one, "expired")
        elif self.retries:
            one.state, one.back_ms = WAITING, now_ms + min(300 * one.returns, 700)
        else:
            one.state = READY
            self.trim()

    def stop(self, now_ms):
        """Channels are closed first, so what was with the consumer counts as returned."""
        for one in [one for one in self.messages if one.state == "held"]:
            self.give_back(one, now_ms)

    def start(self, now_ms):
        """What is not persistent is gone; what was with the consumer is ready again."""
        self.messages = [one for one in self.messages if one.persistent]
        for one in self.messages:
            one.state = READY
        self.expire(now_ms)
        self.trim()


def seen(world):
    """The numbers that are ready, in order of offsets."""
    world.settle()
    queue = world.queue("q")
    found = [one for one in browse(queue, 0, {}, 10_000) if one.state == READY]
    assert queue.ready_count == len(found)
    return [int(wire.body(one.message[1])[:5]) for one in found]


class Life:
    """A broker and its model, step by step."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.world = World(SimDisk(random.Random(seed).randrange))
        self.client = self.world.connect()
        rules = {key: self.chance.choice(values) for key, values in RULES.items() if self.chance.random() < 0.5}
        retries = self.chance.random() < 0.3
        if retries:
            rules.pop("x_max_length", None)  # Who is dropped when some come back at once depends on the order.
            rules |= RETRY
        self.client.declare("dead", durable=True)
        dead_letters = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
        self.client.declare("q", durable=True, **dead_letters, **rules)
        limits = (rules.get(name) for name in ("x_message_ttl", "x_max_length", "x_delivery_limit"))
        self.model = Model(*limits, retries=retries)
        self.held, self.number, self.persistent = {}, 0, set()

    @property
    def now_ms(self):
        return self.world.broker.scheduler.wall_ms

    def publish(self):
        persistent = self.chance.random() < 0.8
        expiration = self.chance.choice([None, None, 0, 200, 1500])
        properties = {"delivery_mode": 2 if persistent else 1}
        if expiration is not None:
            properties["expiration"] = str(expiration)
        self.client.publish("q", b"%05d" % self.number + bytes(self.chance.choice([0, 50, 400])), **properties)
        self.model.publish(self.number, self.now_ms, persistent, expiration)
        self.persistent |= {self.number} if persistent else set()
        self.number += 1

    def get(self):
        got, expected = self.client.get("q"), self.model.get()
        assert (got is None) == (expected is None)
        if got is not None:
            assert int(got[2][:5]) == expected.number
            assert got[1] or not expected.delivered
            self.held[got[0]] = expected

    def settle(self):
        if not self.held:
            return
        tag = self.chance.choice(sorted(self.held))
        one = self.held.pop(tag)
        how = self.chance.choice(["ack", "requeue", "requeue", "reject"])
        if how == "ack":
            self.client.send(1, "basic.ack", tag, False)
            self.model.messages.remove(one)
        else:
            self.client.send(1, "basic.nack", tag, False, how == "requeue")
            if how == "requeue":
                self.model.give_back(one, self.now_ms)
            else:
                self.model.die(one, "rejected")

    def wait(self):
        self.world.advance(self.chance.choice([50, 400, 1000]))
        self.model.expire(self.now_ms)

    def purge(self):
        self.client.call(1, "queue.purge", 0, "q", False)
        self.model.messages = [one for one in self.model.messages if one.state != READY]

    def restart(self):
        clean = self.chance.random() < 0.5
        for one in self.model.messages:
            one.delivered = one.delivered or one.state != READY
        if clean:
            self.client.drop()
            self.model.stop(self.now_ms)
        later = self.now_ms + self.chance.choice([0, 500, 5000])
        self.world = (self.world.stop if clean else self.world.kill)(wall_ms=later)
        self.world.advance(0)
        self.world.advance(0)
        self.client = self.world.connect()
        self.held = {}
        self.model.start(later)

    def step(self):
        does = self.chance.choices(
            [self.publish, self.get, self.settle, self.wait, self.purge, self.restart], [45, 15, 20, 12, 1, 4]
        )[0]
        does()
        assert seen(self.world) == [one.number for one in self.model.ready()], does.__name__
        queue = self.world.queue("q")
        waiting = sum(one.state == WAITING for one in self.model.messages)
        assert queue.store.leased_count == len(self.held) + waiting
        if queue.rules.length_bytes_max is not None:
            ready = [one for one in browse(queue, 0, {}, 10_000) if one.state == READY]
            assert queue.limits.ready_bytes == sum(wire.body_size(one.message[1]) for one in ready)

    def dead_letters(self):
        """(number, reason) of everything in the dead letter queue."""
        found = browse(self.world.queue("dead"), 0, {}, 10_000)
        return [(int(wire.body(one.message[1])[:5]), read_deaths(one.message[1])[0]["reason"]) for one in found]


@pytest.fixture(autouse=True)
def _small_heads(monkeypatch):
    """Five messages or so are in memory, so that nearly all of it goes through the log."""
    monkeypatch.setattr(broker.core.queues.queue_store, "HEAD_BYTES_MAX", 2000)
    monkeypatch.setattr(broker.core.queues.backlog, "HEAD_BYTES_MAX", 2000)
    monkeypatch.setattr(broker.core.queues.backlog, "LOAD_BYTES", 600)
    monkeypatch.setattr(broker.core.queues.queue_store, "LOW_BYTES", 1000)
    monkeypatch.setattr(broker.core.queues.queue_store, "GAUGED_COUNT", 1)


@pytest.mark.parametrize("seed", range(60))
def test_a_queue_lives_as_its_model(seed):
    """What is ready, in which order, and what is with the consumer, after each step; and who died of what."""
    life = Life(seed)
    for _ in range(STEPS):
        life.step()
    found = life.dead_letters()
    assert len(found) == len(set(found))
    assert set(found) <= set(life.model.dead)
    assert {one for one in life.model.dead if one[0] in life.persistent} <= set(found)

"""Random lives of a group over AMQP: members come, go and die, acknowledge in any order, reject; the broker is killed.

At every moment nothing below a committed offset is delivered; in the end every message was acknowledged or is a dead
letter, and what is committed is the end of each partition.
"""

import random

import pytest
from amqp_harness import World, deliveries
from sim_disk import SimDisk
from test_group_consumer_rules import DRAIN_MS, START_MS, commit_time, committed, ends, records, without_delay
from test_stream_rules import headers_of

ARGUMENTS = {"x_group": "g", "x_dead_letter_topic": "dead", "x_delivery_limit": 3}


class Life:
    """One broker after the other on a disk, and what is true of its messages."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.wall_ms = START_MS
        self.world = without_delay(World(SimDisk(self.chance.randrange), wall_ms=START_MS))
        self.partitions = self.chance.randrange(1, 5)
        self.publisher = self.world.connect()
        self.publisher.declare("t", durable=True, x_queue_type="stream", x_partitions=self.partitions)
        self.members = []
        self.count = 0
        self.acknowledged = set()
        self.floor = {}

    def publish(self):
        for _ in range(self.chance.randrange(1, 30)):
            self.publisher.publish("t", b"%d" % self.count)
            self.count += 1

    def come(self, prefetch=None):
        if len(self.members) < 4:
            client = self.world.connect()
            client.call(1, "basic.qos", 0, prefetch or self.chance.choice((1, 5, 100)), False)
            frames = client.consume("t", "c", **ARGUMENTS)
            self.members.append((client, {}))
            self.take(client, self.members[-1][1], frames)

    def take(self, client, held, frames):
        headers = headers_of(frames)
        for (_, tag, _, body), table in zip(deliveries(frames), headers, strict=True):
            place = table.get("x-stream-partition", 0), table["x-stream-offset"]
            assert place[1] >= self.floor.get(place[0], 0), "below what was committed"
            held[tag] = body

    def poll(self):
        for client, held in self.members:
            self.take(client, held, client.frames())

    def work(self):
        for client, held in self.members:
            tags = list(held)
            self.chance.shuffle(tags)
            for tag in tags[: self.chance.randrange(len(tags) + 1)]:
                body = held.pop(tag)
                outcome = self.chance.random()
                if outcome < 0.8:
                    client.send(1, "basic.ack", tag, False)
                    self.acknowledged.add(int(body))
                else:
                    client.send(1, "basic.nack", tag, False, outcome < 0.95)

    def leave(self):
        if self.members:
            client, _ = self.members.pop(self.chance.randrange(len(self.members)))
            way = self.chance.randrange(3)
            if way == 0:
                client.drop()
            elif way == 1:
                client.call(1, "channel.close", 200, "", 0, 0)
            else:
                client.call(1, "basic.cancel", "c", False)
                self.world.advance(100)
                client.drop()

    def wait(self):
        self.world.advance(self.chance.choice((100, 300, DRAIN_MS)))

    def look(self):
        """What is committed now, and durable, is never delivered again."""
        self.world.settle()
        self.poll()
        for partition, offset in committed(self.world).items():
            assert offset >= self.floor.get(partition, 0), "moved back"
            self.floor[partition] = offset

    def kill(self):
        self.wall_ms += 100_000
        self.members.clear()
        self.world = without_delay(self.world.kill(wall_ms=self.wall_ms))
        self.publisher = self.world.connect()

    def end(self):
        """Everything that is left is worked on by one member."""
        for client, _ in self.members:
            client.drop()
        self.members.clear()
        self.come(100)
        for _ in range(40):
            self.world.advance(1000)
            self.poll()
            for client, held in self.members:
                for tag, body in held.items():
                    client.send(1, "basic.ack", tag, False)
                    self.acknowledged.add(int(body))
                held.clear()
        commit_time(self.world)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_nothing_is_lost(seed):
    """See the module."""
    life = Life(seed)
    steps = [life.publish] * 4 + [life.come] * 3 + [life.work] * 8 + [life.wait] * 4 + [life.leave] + [life.look] * 2
    for number in range(150):
        life.chance.choice(steps)()
        life.poll()
        if number % 40 == 39:
            life.kill()
    life.end()
    dead = {int(record.value) for record in records(life.world, "dead")}
    assert life.acknowledged | dead == set(range(life.count))
    assert committed(life.world) == ends(life.world)

"""A run of one seed: AMQP's and Kafka's clients of one broker do what the seed says, without a socket, a clock or a
thread. Prints a hash of every octet that each of them was sent, and of what is on the disk.

Run with a seed as its argument; `test_determinism.py` compares processes.
"""

import hashlib
import random
import sys

from kafka_wire import BY_NAME
from kafka_world import KafkaWorld
from sim_disk import SimDisk

from protocol.kafka.records import encode_batch, render_record

STEPS = 400
QUEUES = [f"q{number}" for number in range(6)]
EXCHANGES = {"x.topic": "topic", "x.fanout": "fanout", "x.headers": "headers", "x.direct": "direct"}
TOPICS = ["t0", "t1"]
GROUPS = ["g0", "g1"]


class Run:
    """The broker, its clients, and the hash."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.disk = SimDisk(random.Random(seed + 1).randrange)
        self.world = KafkaWorld(self.disk)
        self.hash = hashlib.sha256()
        self.amqp = [self.world.connect() for _ in range(5)]
        self.kafka = [self.world.client() for _ in range(4)]

    def prepare(self):
        """The topology, and a consumer of each connection."""
        first = self.amqp[0]
        for exchange, kind in EXCHANGES.items():
            first.declare_exchange(exchange, kind, durable=True)
        for number in range(len(QUEUES)):
            self.declare(first, number)
        for client in self.amqp:
            self.consume(client)
        self.ask(
            self.kafka[0],
            "CreateTopics",
            2,
            topics=[
                BY_NAME["CreateTopics"].request.SPECS["topics"].of(name=name, num_partitions=3, replication_factor=1)
                for name in TOPICS
            ],
            timeout_ms=1000,
        )

    def declare(self, client, number):
        """A queue whose dead letters go to the next one, bound to every exchange."""
        queue, following = QUEUES[number], QUEUES[(number + 1) % len(QUEUES)]
        client.declare(
            queue, durable=number % 2 == 0, x_message_ttl=5000, x_max_length=30, x_dead_letter_exchange="",
            x_dead_letter_routing_key=following,
        )  # fmt: skip
        for exchange in EXCHANGES:
            client.bind(queue, exchange, f"{queue}.#", {"k": queue, "x-match": "any"})

    def consume(self, client):
        """Some queue, with a small prefetch and a tag that the broker makes."""
        client.send(1, "basic.qos", 0, 5, False)
        client.consume(self.random.choice(QUEUES))

    def ask(self, client, name, version, **fields):
        """A request; its answer may come later."""
        client.machine.receive(client.frame(name, version, **fields))
        self.world.settle()

    def step(self):
        """Somebody does something."""
        pick = self.random.random()
        if pick < 0.55:
            self.step_amqp(self.random.choice(self.amqp))
        elif pick < 0.9:
            self.step_kafka(self.random.choice(self.kafka))
        else:
            self.world.advance(self.random.randrange(2000))

    def step_amqp(self, client):
        """A publish, a settlement, a declare, a connection that ends."""
        what = self.random.random()
        queue = self.random.choice(QUEUES)
        if what < 0.5:
            properties = {"delivery_mode": self.random.choice((1, 2)), "headers": {"k": queue}}
            if self.random.random() < 0.3:
                properties["expiration"] = str(self.random.randrange(3000))
            exchange = self.random.choice(["", *EXCHANGES])
            client.publish(queue if not exchange else f"{queue}.a", b"x" * 20, exchange=exchange, **properties)
        elif what < 0.75:
            client.send(1, "basic.nack", 0, True, self.random.random() < 0.5)
        elif what < 0.82:
            client.declare(exclusive=True)
        elif what < 0.87:
            client.send(1, "queue.delete", 0, queue, False, False, False)
            self.declare(client, QUEUES.index(queue))
        else:
            client.drop()
            place = self.amqp.index(client)
            self.hash.update(client.raw())
            self.amqp[place] = self.world.connect()
            self.consume(self.amqp[place])

    def step_kafka(self, client):
        """A batch, a fetch that may wait, a member that joins, a commit."""
        what = self.random.random()
        topic, partition = self.random.choice(TOPICS), self.random.randrange(3)
        if what < 0.4:
            self.produce(client, topic, partition)
        elif what < 0.7:
            of = BY_NAME["Fetch"].request.SPECS["topics"].of
            wanted = of.SPECS["partitions"].of(partition=partition, fetch_offset=0, partition_max_bytes=1000)
            self.ask(client, "Fetch", 4, topics=[of(topic=topic, partitions=[wanted])], max_wait_ms=500, min_bytes=200,
                     max_bytes=10_000)  # fmt: skip
        elif what < 0.9:
            of = BY_NAME["JoinGroup"].request.SPECS["protocols"].of
            self.ask(client, "JoinGroup", 3, group_id=self.random.choice(GROUPS), session_timeout_ms=6000,
                     rebalance_timeout_ms=3000, protocol_type="consumer",
                     protocols=[of(name="range", metadata=b"")])  # fmt: skip
        else:
            of = BY_NAME["OffsetCommit"].request.SPECS["topics"].of
            one = of.SPECS["partitions"].of(partition_index=partition, committed_offset=1, committed_metadata="")
            self.ask(client, "OffsetCommit", 2, group_id="plain", topics=[of(name=topic, partitions=[one])])

    def produce(self, client, topic, partition):
        """Two records."""
        records = b"".join(render_record(delta, b"v" * 30, b"k") for delta in range(2))
        octets = encode_batch(0, 1, 2, records, leader_epoch=-1, base_timestamp_ms=1, max_timestamp_ms=1)
        of = BY_NAME["Produce"].request.SPECS["topic_data"].of
        data = of.SPECS["partition_data"].of(index=partition, records=octets)
        self.ask(client, "Produce", 3, topic_data=[of(name=topic, partition_data=[data])], acks=1, timeout_ms=1000)

    def note(self):
        """Everything that was sent since the last time."""
        for client in self.amqp:
            self.hash.update(client.raw())
        for client in self.kafka:
            self.hash.update(client.transport.sent)
            client.transport.sent = b""

    def run(self):
        """All of it; returns the hash."""
        self.prepare()
        for _ in range(STEPS):
            self.step()
            self.note()
        for name in sorted(self.disk.files):
            self.hash.update(name.encode() + self.disk.files[name].data)
        return self.hash.hexdigest()


if __name__ == "__main__":
    print(Run(int(sys.argv[1])).run())

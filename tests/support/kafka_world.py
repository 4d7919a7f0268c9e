"""Kafka's protocol without a socket: requests as octets into connections of a broker whose disk is in memory."""

import itertools
import random

from amqp_harness import World
from kafka_wire import BY_NAME
from sim_disk import SimDisk

from broker.server.kafka.connection import KafkaConnection
from broker.server.kafka.handlers import SERVED, handler_of
from broker.server.kafka.hub import KafkaHub
from broker.server.kafka.owed import memory_size
from broker.server.kafka.settings import KafkaSettings
from broker.server.scram import Scram
from protocol.kafka.headers import RequestHeader, read_response, write_request

for _api_key in SERVED:
    handler_of(_api_key)  # What tests count is not to depend on which of them was the first.


class KafkaWorld(World):
    """A broker, and the face it has for Kafka's clients. Everybody is `guest`, an administrator."""

    def __init__(self, disk=None, **settings):
        super().__init__(disk or SimDisk(random.Random(1).randrange))
        self.access.put_user("guest", ["administrator"])
        topics = self.broker.vhosts["/"].topics
        scram = Scram(self.authenticator, self.store, 4096, lambda _: None, self.hub.env.random_bytes)
        self.kafka = self.hub.kafka = KafkaHub(
            self.hub, topics, self.durability, KafkaSettings(cluster_id="cluster", **settings), scram
        )

    def advance(self, milliseconds):
        """Time passes, and connections are looked at."""
        super().advance(milliseconds)
        self.kafka.sweep()
        self.settle()

    def client(self):
        """A connection."""
        return KafkaClient(self)


class Transport:
    """Takes everything, unless it is told not to."""

    pending_bytes = 0
    progress_ms = 0

    def __init__(self, machine):
        self.machine = machine
        self.takes = True
        self.sent = b""

    def flush(self):
        machine, outbox = self.machine, self.machine.outbox
        outbox.touched = False
        if self.takes and outbox.parts:
            sent = outbox.size
            held = memory_size(outbox.parts)
            self.sent += b"".join(one if isinstance(one, bytes | memoryview) else one.read() for one in outbox.parts)
            outbox.parts.clear()
            outbox.size = 0
            machine.wrote(sent, held)
            machine.drained()

    def resume(self):
        return None

    def close(self):
        self.machine.abort()


class KafkaClient:
    """One connection, seen from the peer."""

    def __init__(self, world):
        self.world = world
        self.machine = KafkaConnection(world.kafka, ("127.0.0.1", next(world.ports)), ("127.0.0.1", 9092))
        self.transport = self.machine.transport = self.machine.outbox.writer = Transport(self.machine)
        world.kafka.add(self.machine)
        self.numbers = itertools.count(1)
        self.asked = {}

    def frame(self, name, version, **fields):
        """A request as octets."""
        api = BY_NAME[name]
        return self.octets(api, version, api.request(**fields))

    def octets(self, api, version, request):
        """The same of a request that is there already."""
        number = next(self.numbers)
        self.asked[number] = (api.key, version)
        return write_request(RequestHeader(api.key, version, number, "test"), request)

    def answers(self):
        """What came since the last time: the responses, in order."""
        self.world.settle()
        found = []
        data, self.transport.sent = self.transport.sent, b""
        while data:
            size = int.from_bytes(data[:4], "big")
            number = int.from_bytes(data[4:8], "big")
            found.append(read_response(*self.asked.pop(number), data[4 : 4 + size])[1])
            data = data[4 + size :]
        return found

    def ask(self, name, version, **fields):
        """Send a request; its response."""
        self.machine.receive(self.frame(name, version, **fields))
        [answer] = self.answers()
        return answer


def made(name, field):
    """The class of the elements of a request's array: `made("Produce", "topic_data")`."""
    found = BY_NAME[name].request
    for part in field.split("."):
        found = found.SPECS[part].of
    return found

"""Coverage-guided fuzzing of a Kafka connection: any octets may come, no exception may leave the connection.

Run by test_fuzzing.py, or by hand: `python tests/faults/fuzz_kafka.py -max_total_time=60`.
"""

import random
import struct
import sys
import time
from pathlib import Path

import atheris

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "support"), str(HERE.parent)]

with atheris.instrument_imports(include=["protocol.kafka", "protocol.sasl", "broker.server.kafka", "broker.core"]):
    from amqp_harness import World
    from sim_disk import SimDisk
    from steps import work_ratio

    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.handlers import SERVED, handler_of
    from broker.server.kafka.hub import KafkaHub
    from broker.server.kafka.settings import KafkaSettings
    from broker.server.scram import Scram
    from protocol.kafka.apis import APIS

    for _api_key in SERVED:
        handler_of(_api_key)  # All of it is instrumented, and no input pays for an import.

INPUT_MS_MAX = 500
"""An input that takes more is looked at again."""
INPUT_RUNS_MAX = 750
"""None costs more, again and again, than so many runs of a reference loop."""
INPUTS_PER_WORLD = 300
KEYS = sorted(APIS)


class Transport:
    """In a socket's place: takes everything."""

    def __init__(self, connection):
        self.connection = connection
        self.pending_bytes = self.progress_ms = 0
        connection.transport = connection.outbox.writer = self

    def flush(self):
        self.connection.outbox.parts.clear()
        self.connection.outbox.size = 0

    def resume(self):
        return None

    def close(self):
        self.connection.finished = True


class Site:
    """A broker on a simulated disk, with one topic; it is left after some inputs, since they make topics and groups."""

    def __init__(self):
        self.world = World(SimDisk(random.Random(1).randrange))
        hub = self.world.hub
        topics = hub.broker.add_vhost("/").topics
        topics.create("t", 1, {})
        topics.create("c", 1, {"cleanup.policy": "compact"})
        scram = Scram(hub.authenticator, self.world.store, 4096, lambda _: None, hub.env.random_bytes)
        self.kafka = hub.kafka = KafkaHub(hub, topics, self.world.durability, KafkaSettings(), scram)
        self.used = 0

    def connect(self, *, locked):
        connection = KafkaConnection(self.kafka, ("127.0.0.1", 1), ("127.0.0.1", 2))
        if locked:
            connection.user = None
        self.kafka.add(connection)
        Transport(connection)
        return connection

    def turn(self):
        """What the poller and the ticker do."""
        hub = self.world.hub
        self.world.settle()
        self.world.advance(100)
        for call in hub.on_tick:
            call(hub.now_ms)
        self.world.settle()


site = Site()


def one_input(data: bytes) -> None:
    """Whatever it is, it is soon over."""
    global site
    if site.used >= INPUTS_PER_WORLD:
        site = Site()
    site.used += 1
    began = time.thread_time()
    converse(site, data)
    if (time.thread_time() - began) * 1000 > INPUT_MS_MAX:
        # What it does may be done only once in a life of the broker, or take what lives before have left.
        for again in (Site, lambda: site):
            if work_ratio(lambda again=again: converse(again(), data)) > INPUT_RUNS_MAX:
                raise RuntimeError("one input takes too long")


def converse(site: Site, data: bytes) -> None:
    """The first octet chooses: octets before a login, octets after it, or one request of an API and version."""
    if len(data) < 3:
        return
    choice = data[0] % 4
    connection = site.connect(locked=choice == 0)
    if choice < 2:
        octets = data[1:]
    else:
        api = APIS[KEYS[data[1] % len(KEYS)]]
        version = api.min_version + data[2] % (api.max_version - api.min_version + 1)
        header = struct.pack(">hhih", api.key, version, 1, -1)
        if version >= api.flexible_from:
            header += b"\0"
        octets = struct.pack(">i", len(header) + len(data) - 3) + header + data[3:]
    connection.receive(octets)
    for _ in range(20):
        if not connection.more:
            break
        connection.proceed()
    site.turn()
    connection.abort()
    site.kafka.remove(connection)
    site.turn()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()

"""What a load process of the Kafka benchmark is given, and the record bodies that all loads agree on.

Owns: names of topics and groups, bodies, and the time stamp inside of a body. Pure.
"""

import json
import random
import struct
from dataclasses import dataclass

from tools.bench.kafka_scenarios import KafkaScenario

DISTINCT_BODIES = 1000
STAMP = b"\xffbench:\xff"  # No JSON has these octets, so the stamp can be found in a batch without reading its records.
STAMP_BYTES = len(STAMP) + 8


@dataclass(frozen=True, slots=True)
class KafkaJob:
    """`run` names this run's topic and groups; `worker` is its number on the board and among its scenario's loads."""

    host: str
    port: int
    scenario: KafkaScenario
    run: str
    worker: int
    congestion: str = ""
    amqp: tuple[str, int] | None = None
    """Where the broker speaks AMQP, if it does."""

    @property
    def address(self) -> str:
        """For librdkafka's bootstrap.servers."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def topic(self) -> str:
        """The topic of this run."""
        return f"bench.{self.run}"

    def groups(self) -> list[str]:
        """The groups that this worker reads for: all of them, shared out where several workers are alike."""
        alike = [at for at, load in enumerate(self.scenario.loads) if load == self.scenario.loads[self.worker]]
        numbers = range(alike.index(self.worker), self.scenario.groups, len(alike))
        return [f"bench.{self.run}.{number:04d}" for number in numbers]


def render_bodies(size: int, count: int = DISTINCT_BODIES) -> list[bytes]:
    """Orders as JSON, cut to `size` octets, no two alike: lz4 makes a third of a batch of them."""
    chance = random.Random(20)
    return [_order(chance, size)[:size] for _ in range(count)]


def _order(chance: random.Random, size: int) -> bytes:
    lines: list[dict[str, object]] = []
    order = {"order": f"{chance.getrandbits(128):032x}", "customer": chance.randrange(10**6), "lines": lines}
    while len(text := json.dumps(order).encode()) < size:
        lines.append({"sku": f"{chance.getrandbits(40):010x}", "quantity": chance.randrange(1, 9),
                      "price": round(chance.uniform(1, 500), 2), "currency": "EUR"})  # fmt: skip
    return text


def stamped(body: bytes, now_ns: int) -> bytes:
    """`body` with the time in its first octets."""
    return STAMP + struct.pack(">q", now_ns) + body[STAMP_BYTES:]


def stamps_in(records: bytes) -> list[int]:
    """The times of all stamped bodies in there, in order."""
    found, at = [], records.find(STAMP)
    while at >= 0:
        found.append(struct.unpack_from(">q", records, at + len(STAMP))[0])
        at = records.find(STAMP, at + STAMP_BYTES)
    return found

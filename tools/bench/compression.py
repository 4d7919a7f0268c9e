"""`jackalope bench compression`: what a topic's `compression.type` saves on JSON events that AMQP publishes into it.

Owns: the events, the rates, and the figures: octets stored per message (the batches as a Kafka consumer gets them),
how much smaller that is than without compression, messages per batch, and the broker's CPU per message. Batches are
what comes between two syncs of the journal, so it depends on the rate. There is no peer and no goal.
"""

import json
import random
import select
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tools.bench import frames
from tools.bench.control import HOST, Broker, running_jackalope
from tools.bench.kafka_wire import Admin, FetchAnswers, FetchRequest, batches, connect
from tools.bench.link import Target, open_link, receive_into
from tools.bench.processes import cpu_s

KINDS = ("producer", "gzip", "snappy", "lz4", "zstd")
"""`producer` leaves what AMQP publishes as it is."""
RATES = (1_000, 10_000, 0)
"""Messages a second, one by one; 0: as many as are confirmed, WINDOW at a time."""
WINDOW = 2_000
CHUNK = 50
TITLES = ("Blue shirt, size M", "Red hat", "Coffee beans, 1 kg", "Wool socks", "Garden chair", "Desk lamp")


class Row(NamedTuple):
    """One run. `octets` are those stored per message, `plain` those of its body."""

    kind: str
    rate: int
    messages: int
    octets: float
    plain: float
    ratio: float
    per_batch: float
    cpu_us: float
    per_second: float

    def as_json(self) -> dict[str, Any]:
        """A JSON line."""
        return {"type": "figure", **{name: round(value, 3) if isinstance(value, float) else value
                                     for name, value in self._asdict().items()}}  # fmt: skip


def orders(count: int, seed: int = 1) -> list[bytes]:
    """Events of a shop: 250 to 700 octets of JSON, no two alike."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        lines = [
            {"sku": f"SKU-{chance.randrange(5000):05d}", "title": chance.choice(TITLES),
             "quantity": chance.randrange(1, 9), "unit_price": round(chance.random() * 100, 2)}
            for _ in range(chance.randrange(1, 5))
        ]  # fmt: skip
        event = {
            "event": "order.created", "id": f"ord-{number:010d}", "customer": f"c-{chance.randrange(100_000):06d}",
            "created_at": f"2026-11-28T19:{chance.randrange(60):02d}:{chance.randrange(60):02d}.{number % 1000:03d}Z",
            "currency": "EUR", "lines": lines,
            "shipping": {"country": chance.choice(("DE", "FR", "IT", "PL")), "zip": f"{chance.randrange(100_000):05d}",
                         "method": "standard"},
        }  # fmt: skip
        found.append(json.dumps(event).encode())
    return found


def measure(seconds: float, rates: Sequence[int] = RATES) -> Iterator[Row]:
    """A row for each rate and compression, each of about `seconds`. Raises OSError, PeerClosed and KafkaError."""
    with running_jackalope(settings=[f"listeners.kafka={HOST}:0"], http=False) as broker:
        for rate in rates:
            events = orders(int(seconds * (rate or 30_000)))
            without = 0.0
            for kind in KINDS:
                row = _run(broker, kind, rate, events)
                without = without or row.octets
                yield row._replace(ratio=without / row.octets)


def _run(broker: Broker, kind: str, rate: int, events: Sequence[bytes]) -> Row:
    topic = f"orders.{kind}.{rate}"
    host, port = broker.addresses["kafka"]
    admin = Admin(host, port)
    admin.create_topic(topic, 1, {"compression.type": kind})
    admin.close()
    cpu_before_s, began = cpu_s(broker.pids()), time.perf_counter()
    _publish(broker, topic, events, rate)
    took_s = time.perf_counter() - began
    cpu_us = (cpu_s(broker.pids()) - cpu_before_s) / len(events) * 1e6
    octets, count = _stored(host, port, topic, len(events))
    return Row(
        kind, rate, len(events), octets / len(events), sum(map(len, events)) / len(events), 1.0, len(events) / count,
        cpu_us, len(events) / took_s,
    )  # fmt: skip


def _publish(broker: Broker, topic: str, events: Sequence[bytes], rate: int) -> None:
    """All of them, each confirmed, at this rate."""
    link = open_link(Target(broker.host, broker.port, broker.user, broker.password, broker.vhost))
    link.confirm_select()
    properties = frames.properties(content_type="application/json", delivery_mode=2)
    messages = [frames.publish("", topic, event, properties) for event in events]
    confirms = frames.ConfirmCounter()
    connection = link.hand_over()
    buffer = memoryview(bytearray(65536))
    began = time.perf_counter()
    sent, total = 0, len(messages)
    while confirms.count < total:
        due = int((time.perf_counter() - began) * rate) + 1 if rate else total
        due = min(due, total, confirms.count + WINDOW, sent + CHUNK)
        if sent < due:
            connection.sendall(b"".join(messages[sent:due]))
            sent = due
        wait_s = max(began + sent / rate - time.perf_counter(), 0) if rate and sent < total else 0
        is_full = sent >= min(total, confirms.count + WINDOW)
        if select.select([connection], [], [], 1 if is_full else wait_s)[0]:
            confirms.feed(bytes(buffer[: receive_into(connection, buffer)]), sent)
    link.close()


def _stored(host: str, port: int, topic: str, total: int) -> tuple[int, int]:
    """(Octets of all batches, number of batches)."""
    request, answers = FetchRequest(topic), FetchAnswers(topic)
    octets = count = following = 0
    with connect(host, port) as connection, connection.makefile("rb") as answered:
        while following < total:
            connection.sendall(request.at(following))
            (size,) = struct.unpack(">i", answered.read(4))
            fetched = answers.read(memoryview(answered.read(size)), following)
            count += sum(1 for _ in batches(fetched.records))
            octets += len(fetched.records)
            following = fetched.next_offset
    return octets, count

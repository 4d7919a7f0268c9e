"""The scenarios: what is sent, how it is consumed, and what the project asks of the ratio. A table, no code.

Load functions are named here by kind; `workers` and `user_clients` hold them.
"""

from dataclasses import dataclass
from typing import Literal

Load = Literal["flood", "floods", "confirmed", "unbatched", "consume", "round_trips",
               "pika_publish", "pika_consume", "aiopika_publish", "aiopika_consume"]  # fmt: skip
Properties = Literal["none", "celery"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of Jackalope over control: throughput at least, the rest at most. None: nothing.

    `rate_min` (messages a second) and `p99_us_max` are asked of Jackalope itself.
    """

    throughput_min: float | None = None
    cpu_max: float | None = None
    p99_max: float | None = None
    p50_max: float | None = None
    rate_min: float | None = None
    p99_us_max: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. `loads` are the processes; `lag_messages_max` bounds published minus delivered (see the README)."""

    name: str
    title: str
    goal: Goal
    loads: tuple[Load, ...] = ("flood", "consume")
    body_bytes: int = 100
    queues: int = 1
    exchange_type: Literal["", "fanout", "topic"] = ""
    copies: int = 1
    unique_keys: bool = False
    properties: Properties = "none"
    prefetch: int = 0
    acks: Literal["auto", "multiple", "each"] = "auto"
    window: int = 0
    connections: int = 1
    pairs: int = 0
    lag_messages_max: int = 50_000
    tls: bool = False
    idle_connections: int = 0
    other_queues: int = 0
    bystander_only: bool = False
    durable: bool = False  # Durable queues, persistent messages; publishes go round the queues.
    peer_queue_type: Literal["", "quorum"] = ""  # What the control declares instead of a classic queue.
    confirm_latency: bool = False  # p50 and p99 are those of a publish to its confirm.
    window_factor: float = 1.0  # The window is so many times longer: for few events and a percentile of them.


_ROW1 = Goal(throughput_min=4.0, cpu_max=1 / 6)
_FAN = Goal(throughput_min=4.0, cpu_max=1 / 4)
_PACED = Goal(throughput_min=1.5, cpu_max=1 / 2)
_VARIANT = Goal(throughput_min=3.0, cpu_max=1 / 4)
_RTT = Goal(throughput_min=1.2, cpu_max=2 / 3, p99_max=1.0)
_USER = Goal(throughput_min=1.0)
_DURABLE = Goal(throughput_min=4.0, cpu_max=1 / 6)
_DURABLE_PACED = Goal(throughput_min=2.0, cpu_max=1 / 2)

_CONTROLS: tuple[tuple[str, str, Literal["", "quorum"]], ...] = (
    ("", "", ""),
    ("_quorum", ", control: quorum", "quorum"),
)

SCENARIOS: dict[str, Scenario] = {
    row.name: row
    for row in (
        Scenario("autoack", "1 to 1, auto-ack", _ROW1),
        Scenario("multiack", "1 to 1, prefetch 1000, multiple acks", _ROW1, prefetch=1000, acks="multiple"),
        Scenario("ack1", "1 to 1, prefetch 1000, one ack each", _ROW1, prefetch=1000, acks="each"),
        Scenario("confirm", "1 to 1, confirms, window 2000", _ROW1, loads=("confirmed", "consume"), window=2000),
        Scenario("fanout10", "fan-out 1 to 10", _FAN, queues=10, exchange_type="fanout", copies=10),
        Scenario("topic10", "topic exchange 1 to 10", _FAN, queues=10, exchange_type="topic", copies=10),
        Scenario("body10k", "1 to 1, auto-ack, 10 kB bodies", Goal(2.0, 1 / 2), body_bytes=10_000,
                 lag_messages_max=5_000),
        Scenario("unbatched50", "one publish a write, 50 connections", _PACED, loads=("unbatched", "consume"),
                 connections=50),
        Scenario("prefetch1", "prefetch 1, one ack each", _PACED, prefetch=1, acks="each", lag_messages_max=5_000),
        Scenario("rtt1", "round trip, one pair", _RTT, loads=("round_trips",), pairs=1),
        Scenario("rtt100", "round trip, 100 pairs", _RTT, loads=("round_trips",), pairs=100),
        Scenario("uniquekeys", "auto-ack, unique routing keys", _VARIANT, exchange_type="topic", unique_keys=True),
        Scenario("celery", "auto-ack, Celery's properties", _VARIANT, properties="celery"),
        Scenario("tls", "auto-ack over TLS", _VARIANT, tls=True),
        Scenario("rtt_flood16", "round trip beside 16 floods", Goal(p99_max=1.0),
                 loads=("round_trips", "floods", "consume"), pairs=1, connections=16, queues=16, bystander_only=True,
                 window_factor=3.0),
        Scenario("autoack_idle", "auto-ack beside 1,000 idle connections, 1,000 queues", Goal(),
                 idle_connections=1000, other_queues=1000),
        *(
            Scenario(name + ending, f"durable, {title}{of}", goal, loads=("confirmed", "consume"), durable=True,
                     acks="multiple", prefetch=1000, peer_queue_type=kind, window=window, queues=queues,
                     body_bytes=body_bytes)
            for ending, of, kind in _CONTROLS
            for name, title, goal, window, queues, body_bytes in (
                ("durable", "window 2000", _DURABLE, 2000, 1, 100),
                ("durable8", "eight queues, window 2000", _DURABLE, 2000, 8, 100),
                ("durable_w100", "window 100", _DURABLE_PACED, 100, 1, 100),
                ("durable10k", "window 2000, 10 kB bodies", Goal(), 2000, 1, 10_000),
            )
        ),
        Scenario("durable50x1", "durable, 50 publishers, window 1", _DURABLE_PACED, loads=("unbatched", "consume"),
                 connections=50, durable=True, acks="multiple", prefetch=1000),
        Scenario("durable_w1", "durable, one publisher, window 1", Goal(), loads=("unbatched", "consume"), durable=True,
                 acks="multiple", prefetch=100, confirm_latency=True),
        Scenario("durable1000", "1,000 durable queues, window 2000", Goal(3.0, 1 / 4), loads=("confirmed", "consume"),
                 durable=True, acks="multiple", prefetch=100, window=2000, queues=1000),
        Scenario("pika", "auto-ack, driven by pika", _USER, loads=("pika_publish", "pika_consume")),
        Scenario("aiopika", "auto-ack, driven by aio-pika", _USER, loads=("aiopika_publish", "aiopika_consume")),
    )
}  # fmt: skip

STARTUP = "startup"  # Not a load: see `startup`.
IDLE_CPU_RATIO_MAX = 1.10  # autoack_idle: median CPU per message with, over without.

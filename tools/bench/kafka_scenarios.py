"""The scenarios of `jackalope bench kafka`: what is sent, who reads it, and what is asked of it. A table, no code.

Loads are named here by kind; `kafka_clients` (librdkafka), `kafka_fetchers` (plain Fetch requests)
`kafka_bridge` and `kafka_amqp_groups` (AMQP) hold them.
"""

from dataclasses import dataclass
from typing import Literal

from tools.bench.scenarios import Goal
from tools.bench.window import WARM_UP_S

KafkaLoad = Literal["produce", "paced", "consume", "follow", "fetch", "leave", "group", "amqp_publish", "amqp_read",
                    "amqp_fan", "amqp_leave"]  # fmt: skip


FAN_WARM_UP_S = 3.0  # So that what came together while a thousand groups connected is delivered.
NO_GOAL = Goal()
FAN_OUT = Goal(p99_us_max=1e6)
THROUGHPUT = Goal(throughput_min=1.5)


@dataclass(frozen=True, slots=True)
class KafkaScenario:
    """One row. A topic is made for each run.

    `preload_messages` are in it before the loads start, and the consumers read it again and again from its beginning;
    `flush_beside` has our broker measured with an fdatasync per acknowledgement too.
    """

    name: str
    title: str
    goal: Goal = NO_GOAL
    loads: tuple[KafkaLoad, ...] = ("produce",)
    counted: Literal["acknowledged", "delivered", "rebalances"] = "delivered"
    body_bytes: int = 1024
    partitions: int = 1
    acks: Literal["1", "all"] = "1"
    compression: Literal["none", "lz4"] = "none"
    groups: int = 0
    members: int = 0
    messages_per_s: int = 0
    preload_messages: int = 0
    flush_beside: bool = False
    alone: bool = False  # Kafka has no such thing to compare with.
    lag_messages_max: int = 0  # What is produced waits for those who read it; 0: never.
    window_factor: float = 1.0
    warm_up_s: float = WARM_UP_S


_PRELOAD = 200_000

KAFKA_SCENARIOS: dict[str, KafkaScenario] = {
    row.name: row
    for row in (
        *(
            KafkaScenario(f"produce-acks{acks}-p{partitions}-{compression}",
                          f"produce 1 KiB, acks={acks}, {partitions} partition{'s' * (partitions > 1)}, {compression}",
                          THROUGHPUT, counted="acknowledged", acks=acks, partitions=partitions, compression=compression,
                          flush_beside=True)
            for acks in ("1", "all") for partitions in (1, 12) for compression in ("none", "lz4")
        ),
        KafkaScenario("consume1", "one group reads from the page cache, librdkafka", THROUGHPUT, loads=("consume",),
                      groups=1, preload_messages=_PRELOAD),
        KafkaScenario("consume10", "ten groups at once from the page cache, librdkafka", THROUGHPUT,
                      loads=("consume", "consume"), groups=10, preload_messages=_PRELOAD),
        KafkaScenario("fetch1", "one group, plain Fetch requests", loads=("fetch",), groups=1,
                      preload_messages=_PRELOAD),
        KafkaScenario("fetch10", "ten groups at once, plain Fetch requests", loads=("fetch",), groups=10,
                      preload_messages=_PRELOAD),
        *(
            KafkaScenario(f"fanout{groups}", f"200 msg/s to {groups:,} group{'s' * (groups > 1)} of one consumer each",
                          FAN_OUT if groups == 1000 else NO_GOAL, loads=("paced", "fetch"), groups=groups,
                          messages_per_s=200, window_factor=3.0, warm_up_s=FAN_WARM_UP_S)
            for groups in (1, 10, 1000)
        ),
        KafkaScenario("latency", "5,000 msg/s, produce to consume", Goal(p50_max=1.0, p99_max=1.0),
                      loads=("paced", "follow"), groups=1,
                      messages_per_s=5000, window_factor=2.0),
        KafkaScenario("leave50", "a group of 50, one leaves: until the others have their assignment",
                      Goal(p99_us_max=2e6), loads=("leave",), counted="rebalances", groups=1, members=50,
                      partitions=50, window_factor=5.0),
        KafkaScenario("amqp-to-topic", "AMQP publishes of 100 B, confirmed, into a topic that a Kafka group reads",
                      Goal(rate_min=100_000), loads=("amqp_publish", "group"), groups=1, body_bytes=100, alone=True),
        KafkaScenario("topic-to-amqp", "a Kafka producer's messages of 100 B, read by an AMQP consumer of the stream",
                      Goal(rate_min=100_000), loads=("produce", "amqp_read"), groups=1, body_bytes=100,
                      lag_messages_max=50_000, alone=True),
        KafkaScenario("amqp-fanout1000", "200 msg/s to 1,000 AMQP consumers of the stream", FAN_OUT,
                      loads=("paced", "amqp_fan"), groups=1000, messages_per_s=200, window_factor=3.0,
                      warm_up_s=FAN_WARM_UP_S, alone=True),
        KafkaScenario("amqp-leave10", "an AMQP group of 10 over 12 partitions, one leaves: until all are read again",
                      Goal(p99_us_max=2e6), loads=("paced", "amqp_leave"), counted="rebalances", groups=1, members=10,
                      partitions=12, messages_per_s=240, window_factor=5.0, alone=True),
    )
}  # fmt: skip

"""Requests that are well formed and mean nothing: every API answers them, or closes, and none is a bug of the broker's.

What is asked is drawn from the tables (`protocol.kafka.apis`), each version's fields with values that a client may put
there: names of things that are there and are not, nulls where they may be, the ends of every kind of number.
"""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka_wire import NOW_MS, batch
from kafka_world import KafkaWorld

from broker.server.kafka.handlers import SERVED
from protocol.kafka.apis import APIS
from protocol.kafka.schema import FIXED, NO_UUID

TOPIC, GROUP = "there", "group"
NAMES = ("", TOPIC, "not there", "not-there", GROUP, "1", "-1", "kafka-cluster", "__consumer_offsets", "*",
         "User:guest", "guest", "retention.ms", "cleanup.policy", "num.partitions", "compact", "é" * 200, "a" * 300,
         "SCRAM-SHA-256", "PLAIN", "consumer")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, -2, -3, -4, -5, -6, -7, 4, 5, 7, 8, 12, 100, 1 << 14)
BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
UNSIGNED = {"uint16": 16, "uint32": 32}
SENSIBLE = {
    "acks": -1, "group_id": GROUP, "key_type": 0, "num_partitions": 1, "partition": 0, "partition_index": 0,
    "partition_indexes": [0], "pattern_type": 3, "permission_type": 3, "principal": "User:guest",
    "replication_factor": 1, "transactional_id": None, "validate_only": False, "assignments": [],
}  # fmt: skip
"""What gets further than most: half of the values of these fields."""
ARRAY_MAX = 2
EXAMPLES = 25
"""For each API; the whole takes some seconds."""


def numbers(low, high):
    """Those that mean something, and the ends."""
    return st.sampled_from([*(one for one in NUMBERS if low <= one <= high), low, high])


def values(spec, version, ids):
    """What a field may have in this version."""
    kind = spec.kind
    if kind in BITS:
        found = numbers(-(1 << BITS[kind] - 1), (1 << BITS[kind] - 1) - 1)
    elif kind in UNSIGNED:
        found = numbers(0, (1 << UNSIGNED[kind]) - 1)
    elif kind == "float64":
        found = st.sampled_from((0.0, -1.0, 1e300, float("inf"), float("nan")))
    elif kind == "boolean":
        found = st.booleans()
    elif kind == "uuid":
        found = st.sampled_from(ids)
    elif kind == "string":
        found = st.sampled_from(NAMES)
    elif kind == "octets":
        found = st.sampled_from((b"", b"\0", b"\xff" * 9, b"\0\1\0\0\0\1\0\5there\0\0\0\0"))
    elif kind == "records":
        found = st.sampled_from((b"", b"\0" * 61, batch([b"x"]), batch([b"x"], timestamp_ms=NOW_MS << 10)))
    elif kind == "array":
        one = fields(spec.of, version, ids) if isinstance(spec.of, type) else values(spec.of, version, ids)
        found = st.lists(one, max_size=ARRAY_MAX)
    else:
        assert kind == "struct"
        found = fields(spec.of, version, ids)
    return found | st.none() if spec.is_nullable(version) else found


def fields(of, version, ids):
    """A struct with the fields of this version."""
    made = {name: values(spec, version, ids) for name, spec in of.SPECS.items() if spec.is_in(version)}
    for name in made.keys() & SENSIBLE.keys():
        if SENSIBLE[name] is not None or of.SPECS[name].is_nullable(version):
            made[name] |= st.just(SENSIBLE[name])
    return st.builds(of, **made)


def test_every_kind_of_field_is_known():
    """A kind that is added to the tables is drawn as well."""
    assert {*BITS, *UNSIGNED, "float64", "boolean", "uuid"} == set(FIXED)


@pytest.fixture(scope="module")
def world():
    """A broker with a topic and a group."""
    made = KafkaWorld()
    made.kafka.topics.create(TOPIC, 2, {})
    made.settle()
    return made


@pytest.mark.parametrize("key", sorted(SERVED))
def test_no_handler_raises(world, caplog, key):
    """An error of the peer's is an answer, or the end of its connection (Kafka's `KafkaApis.handle`)."""
    api = APIS[key]
    topic = world.kafka.topics.get(TOPIC) or world.kafka.topics.create(TOPIC, 2, {})
    ids = (NO_UUID, topic.id, b"\1" * 16)
    versions = st.integers(api.min_version, api.max_version)
    requests = versions.flatmap(lambda version: st.tuples(st.just(version), fields(api.request, version, ids)))

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(requests)
    def ask(asked):
        version, request = asked
        client = world.client()
        client.machine.receive(client.octets(api, version, request))
        client.answers()
        client.machine.abort()
        world.kafka.remove(client.machine)
        assert not [one for one in caplog.records if one.exc_info], caplog.text

    caplog.set_level(logging.WARNING)
    ask()

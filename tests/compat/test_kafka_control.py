"""The Kafka control and the benchmark's short runs against it: what later tests against Apache Kafka stand on."""

import json
import os
import subprocess
import sys

import pytest
from needed import need
from waiting import HANG_S

from tools.bench import kafka_measure, window
from tools.bench.kafka_control import kafka_missing, running_kafka
from tools.bench.kafka_measure import run_once
from tools.bench.kafka_scenarios import KAFKA_SCENARIOS
from tools.bench.processes import cpu_s, descendants, is_alive, resident_bytes, written_bytes

pytestmark = pytest.mark.control

LIST_METADATA = """
import json, sys
from confluent_kafka.admin import AdminClient
found = AdminClient({"bootstrap.servers": sys.argv[1]}).list_topics(timeout=float(sys.argv[2]))
print(json.dumps({"brokers": [str(broker) for broker in found.brokers.values()], "topics": sorted(found.topics)}))
"""


def listed(broker):
    """Metadata as librdkafka sees it, from a process of its own: its threads would not survive the bench's forks."""
    words = [sys.executable, "-c", LIST_METADATA, f"{broker.host}:{broker.port}", str(HANG_S)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=True).stdout)


def test_a_client_lists_it(kafka):
    """librdkafka finds one broker, the one at the control's address; its processes are known and use something."""
    found = listed(kafka)
    assert [broker.split("/")[0] for broker in found["brokers"]] == [f"{kafka.host}:{kafka.port}"]
    pids = kafka.pids()
    assert cpu_s(pids) > 0.5
    assert resident_bytes(pids) > 100e6
    assert written_bytes(pids) > 0


@pytest.mark.parametrize("name", ["produce-acksall-p12-lz4", "consume10", "fetch1", "fanout10", "latency"])
def test_a_short_run_has_figures(kafka, name, monkeypatch):
    """A run moves messages, with the broker's CPU for them, and leaves no topic behind.

    Its window begins at two seconds, and is made longer until something has fallen into it: librdkafka's consumers
    rewind together at the end of what is there, and on a busy machine that pause was seen to fill a window of one.
    """
    monkeypatch.setattr(window, "CONNECT_TIMEOUT_S", HANG_S)
    monkeypatch.setattr(window, "FIRST_MESSAGE_TIMEOUT_S", HANG_S)
    monkeypatch.setattr(kafka_measure, "PRELOAD_TIMEOUT_S", HANG_S)
    for seconds in (2.0, 8.0, 32.0):
        try:
            sample = run_once(kafka, KAFKA_SCENARIOS[name], seconds=seconds)
        except window.RunFailed as failed:
            if "nothing was delivered" not in str(failed) or seconds > 8:
                raise
            continue
        if sample.messages > 50:
            break
    assert sample.messages > 50
    assert sample.cpu_us > 0.05
    assert sample.extra["mb_s"] > 0
    assert (sample.p99_us is not None) == (name in ("fanout10", "latency"))
    assert not [topic for topic in listed(kafka)["topics"] if topic.startswith("bench.")]


def test_nothing_outlives_the_control():
    """The process and its directory are gone afterwards."""
    need(kafka_missing())
    before = set(descendants(os.getpid()))
    with running_kafka() as broker:
        started = set(descendants(os.getpid())) - before
        directory = broker.directory
        assert set(broker.pids()) & started
    assert not [pid for pid in started if is_alive(pid)]
    assert not directory.exists()

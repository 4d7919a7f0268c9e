"""What Kafka's clients see of a broker that stops in order, or whose disk has failed."""

import os
import random
import signal
import socket

import pytest
from amqp_harness import InlineWorker
from kafka_wire import Wire
from kafka_world import KafkaWorld, made
from sim_disk import SimDisk
from waiting import HANG_S

from protocol.kafka.records import encode_batch, render_record
from tests.faults.load import exit_code
from tools.bench.control import running_jackalope


class StandingWorker(InlineWorker):
    """A disk that does what it is told when it is told to go on."""

    stands = False
    waiting = []  # noqa: RUF012 - of all, since a world makes its own

    def submit(self, job):
        if StandingWorker.stands:
            StandingWorker.waiting.append((self, job))
        else:
            super().submit(job)

    @classmethod
    def go_on(cls):
        cls.stands = False
        for worker, job in cls.waiting:
            worker.submit(job)
        cls.waiting.clear()


@pytest.fixture
def world(monkeypatch):
    """A broker with a topic `t` on a disk that may be told to stand still."""
    monkeypatch.setattr("amqp_harness.InlineWorker", StandingWorker)
    monkeypatch.setattr(StandingWorker, "stands", False)
    world = KafkaWorld(SimDisk(random.Random(1).randrange))
    world.topics = world.broker.vhosts["/"].topics
    world.topics.create("t", 1, {})
    world.settle()
    return world


def produce(client):
    """One record to `t`; the answer is not waited for."""
    records = encode_batch(0, 0, 1, render_record(0, b"v"), leader_epoch=-1, base_timestamp_ms=1, max_timestamp_ms=1)
    topic = made("Produce", "topic_data")
    one = topic.SPECS["partition_data"].of(index=0, records=records)
    data = [topic(name="t", partition_data=[one])]
    client.machine.receive(client.frame("Produce", 3, topic_data=data, acks=1, timeout_ms=1000))
    client.world.hub.end_turn()


def fetch(client):
    """A fetch of `t` that waits for more than there is."""
    topic = made("Fetch", "topics")
    wanted = topic.SPECS["partitions"].of(partition=0, fetch_offset=0, partition_max_bytes=1000)
    topics = [topic(topic="t", partitions=[wanted])]
    client.machine.receive(client.frame("Fetch", 4, topics=topics, max_wait_ms=60_000, min_bytes=500, max_bytes=1000))
    client.world.hub.end_turn()


def test_what_was_done_is_answered_before_the_end(world):
    """Whoever waits for the disk hears of it; who waits for something to happen, and who waits for nothing, goes."""
    idle, waiting, producing = (world.client() for _ in range(3))
    fetch(waiting)
    StandingWorker.stands = True
    produce(producing)
    world.kafka.end_all(failed=False)
    assert [one.machine.finished for one in (idle, waiting, producing)] == [True, True, False]
    assert producing.machine.paused
    StandingWorker.go_on()
    [answer] = producing.answers()
    assert answer.responses[0].partition_responses[0].error_code == 0
    assert producing.machine.finished


def test_a_failed_disk_leaves_nobody_an_answer(world):
    """Whether it was kept nobody knows."""
    producing = world.client()
    StandingWorker.stands = True
    produce(producing)
    world.kafka.end_all(failed=True)
    assert producing.machine.finished
    StandingWorker.go_on()
    world.settle()
    assert producing.transport.sent == b""


def test_the_end_is_heard_and_no_reset(tmp_path):
    """An idle connection of each face reads the end of its stream, and the broker need not wait for its time-out."""
    settings = ("listeners.kafka=127.0.0.1:0", f"limits.drain_timeout_s={HANG_S:.0f}s")
    with running_jackalope(directory=tmp_path, settings=settings) as broker:
        with Wire(broker.addresses["kafka"]) as wire, socket.create_connection(("127.0.0.1", broker.http_port)) as http:
            http.settimeout(HANG_S)
            wire.ask("ApiVersions", 0)
            http.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"401" in http.recv(1000)
            os.kill(broker.root_pid, signal.SIGTERM)
            assert wire.sock.recv(1) == b""
            rest = b"started"
            while rest:
                rest = http.recv(1000)
        assert exit_code(broker.root_pid) == 0


def test_a_long_request_that_waits_for_others_does_not_hold_the_stop_up(world):
    """It is still being read when the stop comes, and then waits for more members."""
    client = world.client()
    protocols = [made("JoinGroup", "protocols")(name="range", metadata=b"x" * 40_000)]
    join = {
        "group_id": "g", "session_timeout_ms": 30_000, "rebalance_timeout_ms": 60_000, "member_id": "",
        "protocol_type": "consumer", "protocols": protocols,
    }  # fmt: skip
    client.machine.receive(client.frame("JoinGroup", 2, **join))
    assert client.machine.working
    world.kafka.end_all(failed=False)
    assert not client.machine.finished
    world.settle()
    assert client.machine.finished


@pytest.mark.parametrize("validate_only", [False, True])
def test_a_long_answer_is_written_to_its_end(world, validate_only):
    """What was done, or refused, is told, although telling takes several steps and the stop comes before the first."""
    client = world.client()
    topic = made("CreateTopics", "topics")
    topics = [topic(name=f"new-{number}", num_partitions=1, replication_factor=1) for number in range(2000)]
    request = client.frame("CreateTopics", 2, topics=topics, timeout_ms=1000, validate_only=validate_only)
    client.machine.receive(request)
    while client.machine.working:
        world.broker.scheduler.run_slice()
        world.durability.flusher.collect()
        world.hub.end_turn()
        world.kafka.end_all(failed=False)
    [answer] = client.answers()
    assert len(answer.topics) == 2000
    assert client.machine.finished

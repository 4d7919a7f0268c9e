"""The Kafka benchmark's own requests and counting, beside aiokafka's protocol as an independent reading. No broker."""

import struct
from io import BytesIO

import pytest
from aiokafka.protocol.admin import CreateTopicsRequest_v2, DeleteTopicsRequest_v3
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.commit import OffsetCommitRequest_v2
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from click.testing import CliRunner

from tools.bench import kafka_wire
from tools.bench.alternate import Cast, Outcome, alternate
from tools.bench.cli import bench
from tools.bench.control import Broker
from tools.bench.kafka import parse_address
from tools.bench.kafka_amqp_groups import Watch
from tools.bench.kafka_job import KafkaJob, render_bodies, stamped, stamps_in
from tools.bench.kafka_measure import _load_function, kafka_address
from tools.bench.kafka_scenarios import KAFKA_SCENARIOS
from tools.bench.kafka_wire import FetchAnswers, FetchRequest, KafkaError, commit_request
from tools.bench.window import RunFailed, Sample, Unavailable

TOPIC = "bench.tést"


def decode(data, schema):
    """A whole request as aiokafka reads it: its header, its body, and nothing left over."""
    stream = BytesIO(bytes(data))
    assert struct.unpack(">i", stream.read(4))[0] == len(data) - 4
    header, body = RequestHeader_v1.SCHEMA.decode(stream), schema.SCHEMA.decode(stream)
    assert stream.read() == b""
    return header, body


def batch(base_offset, values):
    """A record batch as a client builds it, moved to its offset."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, 1700000000000, None, value, [])
    return struct.pack(">q", base_offset) + bytes(builder.build())[8:]


def answer(records, error=0):
    """An answer to a fetch, without its length."""
    partition = (0, error, 1000, 1000, 0, None, -1, records)
    return memoryview(b"\0\0\0\1" + FetchResponse_v11(0, 0, 0, [(TOPIC, [partition])]).encode())


class Sent:
    """A socket that keeps what is sent and answers with what it was given."""

    def __init__(self, *bodies):
        self.sent = b""
        self._answers = b"".join(struct.pack(">ii", len(body) + 4, 1) + body for body in bodies)

    def sendall(self, data):
        self.sent += data

    def recv(self, size, _flags=0):
        taken, self._answers = self._answers[:size], self._answers[size:]
        return taken


@pytest.fixture
def admin(monkeypatch):
    """An Admin that talks to a `Sent`."""

    def make(*bodies):
        monkeypatch.setattr(kafka_wire, "connect", lambda _host, _port: Sent(*bodies))
        return kafka_wire.Admin("127.0.0.1", 1)

    return make


class TestRequests:
    def test_fetch(self):
        """A fetch is one of version 11 without a session, and only its offset changes from one to the next."""
        wanted = FetchRequest(TOPIC)
        for offset in (0, 2**40 + 1):
            header, body = decode(wanted.at(offset), FetchRequest_v11)
            assert header[:3] == (1, 11, 1)
            assert body[:7] == (-1, 500, 1, 50 << 20, 0, 0, -1)
            assert body[7:] == ([(TOPIC, [(0, -1, offset, -1, 1 << 20)])], [], "")

    def test_commit(self):
        """A commit names its group and no member: a consumer that takes no part in rebalances."""
        header, body = decode(commit_request("g", TOPIC, 77), OffsetCommitRequest_v2)
        assert header[:2] == (8, 2)
        assert body == ("g", -1, "", -1, [(TOPIC, [(0, 77, "")])])

    def test_topics(self, admin):
        """A topic is made with so many partitions of one copy, asked for its ends, and deleted; errors are raised."""
        name = TOPIC.encode()
        named = struct.pack(">ih", 1, len(name)) + name
        ends = named + struct.pack(">i", 2) + struct.pack(">ihqqihqq", 1, 0, -1, 8, 0, 0, -1, 5)
        calls = admin(b"\0\0\0\0" + named + struct.pack(">hh", 0, -1), ends, ends, b"\0\0\0\0" + named + b"\0\0")
        calls.create_topic(TOPIC, 2)
        sent = calls._socket.sent
        _, body = decode(
            sent[: 4 + int.from_bytes(sent[:4], "big")], CreateTopicsRequest_v2
        )  # Version 4 has its fields.
        assert body == ([(TOPIC, 2, 1, [], [])], 10_000, False)
        assert calls.end_offsets(TOPIC, 2) == [5, 8]
        calls._socket.sent = b""
        calls.delete_topic(TOPIC)
        assert decode(calls._socket.sent, DeleteTopicsRequest_v3)[1] == ([TOPIC], 10_000)
        with pytest.raises(KafkaError, match="error 36"):
            admin(b"\0\0\0\0" + named + struct.pack(">hh", 36, -1)).create_topic(TOPIC, 1)
        with pytest.raises(KafkaError, match=r"errors \[29\]"):
            admin(named + struct.pack(">i", 1) + struct.pack(">ihqq", 0, 29, -1, -1)).end_offsets(TOPIC, 1)

    def test_what_is_not_ready_is_asked_again(self, admin):
        """A leader or coordinator that is not there yet is asked again, as clients do; a dropped connection is not."""
        name = TOPIC.encode()
        named = struct.pack(">ih", 1, len(name)) + name + struct.pack(">i", 1)
        ends = [named + struct.pack(">ihqq", 0, error, -1, 9) for error in (5, 0)]
        assert admin(*ends).end_offsets(TOPIC, 1) == [9]
        calls = admin(b"\0\x0f", b"\0\0")
        calls.find_coordinator("g")
        with pytest.raises(KafkaError, match="dropped"):
            calls.api_versions()


def counted(data, wanted):
    """Where the next fetch begins after this answer, and how many records it brought."""
    found = FetchAnswers(TOPIC).read(data, wanted)
    return found.next_offset, found.count


class TestFetchAnswers:
    def test_counts_whole_batches(self):
        """Records are counted by batch headers, from the wanted offset on; a batch that is cut off does not count."""
        first, second = batch(10, [b"a"] * 5), batch(15, [b"b" * 300] * 3)
        assert counted(answer(first + second), 10) == (18, 8)
        assert counted(answer(first + second[:-1]), 10) == (15, 5)
        assert counted(answer(first), 12) == (15, 3)
        assert counted(answer(b""), 12) == (12, 0)

    def test_a_hole_is_an_error(self):
        """Records that were skipped end the run, and so do an error of the broker and an answer that is too short."""
        reader = FetchAnswers(TOPIC)
        with pytest.raises(KafkaError, match="offset 20 where 10 was due"):
            reader.read(answer(batch(20, [b"a"])), 10)
        with pytest.raises(KafkaError, match="error 6"):
            reader.read(answer(b"", error=6), 10)
        with pytest.raises(KafkaError, match="5 bytes"):
            reader.read(memoryview(b"12345"), 0)

    def test_stamps_are_found_in_batches(self):
        """The times in an uncompressed batch come out in their order, without its records being read."""
        bodies = [stamped(body, 10**12 + at) for at, body in enumerate(render_bodies(200, 20))]
        assert stamps_in(bytes(reader_records(bodies))) == [10**12 + at for at in range(20)]
        assert {len(body) for body in bodies} == {200}


def reader_records(bodies):
    return FetchAnswers(TOPIC).read(answer(batch(0, bodies)), 0).records


class TestTables:
    def test_every_scenario_is_runnable(self):
        """Each load that a scenario names exists and the key is its name; the eight cells of producing are there."""
        for name, scenario in KAFKA_SCENARIOS.items():
            assert scenario.name == name
            assert all(callable(_load_function(load)) for load in scenario.loads)
            assert scenario.groups or scenario.counted == "acknowledged"
        assert {row.name for row in KAFKA_SCENARIOS.values() if row.alone} == {
            "amqp-to-topic", "topic-to-amqp", "amqp-fanout1000", "amqp-leave10"
        }  # fmt: skip
        cells = [row for row in KAFKA_SCENARIOS.values() if row.counted == "acknowledged"]
        assert len({(row.acks, row.partitions, row.compression) for row in cells}) == len(cells) == 8

    def test_what_a_shared_group_got_is_counted(self):
        """What came twice and what never came; a partition counts once it brings something that was sent since."""
        watch = Watch()
        for partition, offset in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]:
            watch.note(partition, offset, stamped(b"x" * 50, 5))
        assert (watch.faults(), watch.heard) == ("", {0, 1})
        at_ns = watch.restart()
        watch.note(0, 2, stamped(b"x" * 50, at_ns))
        assert watch.heard == set()
        watch.note(0, 4, stamped(b"x" * 50, at_ns + 1))
        watch.note(1, 2, stamped(b"x" * 50, at_ns + 1))
        assert watch.heard == {0, 1}
        assert watch.faults() == "twice: [(1, 2)] of 1, lost: [(0, 3)] of 1"

    def test_groups_are_shared_out(self):
        """Every group has one consumer, whatever the number of processes; other loads do not count."""
        jobs = [KafkaJob("127.0.0.1", 1, KAFKA_SCENARIOS["consume10"], "r", worker) for worker in range(2)]
        names = [name for job in jobs for name in job.groups()]
        assert len(set(names)) == len(names) == 10
        beside = KafkaJob("127.0.0.1", 1, KAFKA_SCENARIOS["fanout1000"], "r", 1)
        assert len(beside.groups()) == 1000

    def test_bodies(self):
        """Bodies have the wanted length and no two are alike; a run after this one sends the same."""
        bodies = render_bodies(1024, 50)
        assert ({len(body) for body in bodies}, len(set(bodies))) == ({1024}, 50)
        assert bodies == render_bodies(1024, 50)

    def test_addresses(self):
        """kafka://HOST:PORT names a broker that runs already; a broker without a Kafka listener cannot be measured."""
        assert kafka_address(parse_address("kafka://127.0.0.1:9192", 1)) == ("127.0.0.1", 9192)
        assert parse_address("kafka://[::1]").addresses == {"kafka": ("::1", 9092)}
        with pytest.raises(ValueError, match="kafka://HOST:PORT"):
            parse_address("amqp://127.0.0.1:1")
        with pytest.raises(Unavailable, match="no Kafka listener"):
            kafka_address(Broker("x", "127.0.0.1", 1))

    def test_command_line(self):
        """The table is listed, and what is not in it is a mistake of usage."""
        listed = CliRunner().invoke(bench, ["kafka", "--list"])
        assert (listed.exit_code, listed.output.count("\n")) == (0, len(KAFKA_SCENARIOS) + 1)
        assert CliRunner().invoke(bench, ["kafka", "--scenario", "nope"]).exit_code == 2
        assert CliRunner().invoke(bench, ["kafka", "--peer", "rabbitmq"]).exit_code == 2


class TestAlternation:
    def test_order_and_warm_up(self):
        """Brokers take turns, the round before the first counts for nothing, and the third setting is not compared."""
        cast = Cast(*(Broker(name, "127.0.0.1", 1) for name in ("ours", "theirs", "beside")))
        order, records, outcome = [], [], Outcome()

        def run(broker):
            order.append(broker.name)
            return Sample(broker.name, "latency", 100 * len(order), 1.0, 0.1, 0.1)

        row = KAFKA_SCENARIOS["latency"]
        alternate(row, cast, 2, run, outcome, records.append, lambda _text: None, warm_up=True)
        assert order == ["ours", "theirs", "beside"] * 3
        assert [record["type"] for record in records] == ["sample"] * 6 + ["summary"]
        assert outcome.rows[0].ours.rate.low == 400
        assert outcome.rows[0].throughput.median == pytest.approx((400 / 500 + 700 / 800) / 2)
        assert records[-1]["beside"]["name"] == "beside"

    def test_a_run_that_fails_is_a_row_that_fails(self):
        """The reason is recorded, no row is made, and the next scenario may go on."""

        def run(_broker):
            raise RunFailed("nothing came")

        outcome, records = Outcome(), []
        cast = Cast(Broker("ours", "127.0.0.1", 1))
        alternate(KAFKA_SCENARIOS["latency"], cast, 2, run, outcome, records.append, lambda _text: None)
        assert outcome.failed == {"latency": "RunFailed: nothing came"}
        assert (outcome.rows, [record["type"] for record in records]) == ([], ["failed"])
        assert not outcome.goals_met

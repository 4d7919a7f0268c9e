"""Compressed batches that open to far more than they are, wherever the broker opens batches: bounded memory, an error
code, nothing lost, everybody else served."""

import gzip
import struct
import threading
import zlib

import lz4.frame
import pika
import pytest
from kafka_wire import BY_NAME, NOW_MS, Wire, batch
from waiting import PATIENT, wait_until

from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import GZIP, LZ4, SNAPPY, ZSTD, render_record
from tools.bench.control import running_jackalope
from tools.bench.processes import resident_bytes

MIB = 1 << 20
GROWTH_MAX = 300 * MIB
"""What opening may take for a while: `OPENED_BYTES_MAX` and a copy or two. Bombs would be from 220 MiB to 28 GiB."""


def gzip_bomb():
    """1 GiB: a full flush ends on an octet and forgets what was before, so its octets may be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    header = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return header + piece * 850


def zstd_bomb():
    """28 GiB: blocks of 128 KiB that are one octet, repeated (RFC 8878); no content size is announced."""
    return b"\x28\xb5\x2f\xfd\x00\x38" + b"\x02\x00\x10\x00" * 225_000


def zstd_that_lies():
    """The same, announced as 10 octets."""
    return b"\x28\xb5\x2f\xfd\x80\x38" + struct.pack("<I", 10) + b"\x02\x00\x10\x00" * 225_000


BOMBS = {
    "gzip": (GZIP, gzip_bomb),
    "zstd": (ZSTD, zstd_bomb),
    "zstd that lies": (ZSTD, zstd_that_lies),
    "lz4": (LZ4, lambda: lz4.frame.compress(bytes(220 * MIB))),
    "snappy": (SNAPPY, lambda: b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 300_000),
    "snappy in blocks": (
        SNAPPY, lambda: b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + struct.pack(">I", 900_000)
        + b"\x80\x80\x80\x80\x04" + bytes(899_995),
    ),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", BOMBS)
SOME = pytest.mark.parametrize("name", ["gzip", "zstd that lies", "snappy"])
_MADE = {}


def bomb(name):
    """A batch of one record whose records are the bomb: less than 1 MB."""
    if name not in _MADE:
        kind, make = BOMBS[name]
        _MADE[name] = batch([b"x"], attributes=kind, records=make())
        assert len(_MADE[name]) < 1_000_000
    return _MADE[name]


@pytest.fixture(scope="module")
def kafka():
    """A running broker that looks after its topics all the time."""
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.retention_check_s=0.1")
    with running_jackalope(settings=settings, http=False) as broker:
        yield broker


class Watch:
    """What the broker's memory has grown by at most, sampled all the time."""

    def __init__(self, broker, growth_max=GROWTH_MAX):
        self.growth_max = growth_max
        self.pid = broker.root_pid
        self.address = broker.addresses["kafka"]

    def __enter__(self):
        self.before = self.most = resident_bytes([self.pid])
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.over.wait(0.005):
            self.most = max(self.most, resident_bytes([self.pid]))

    def __exit__(self, *error):
        try:
            with Wire(self.address) as wire:
                assert wire.ask("ApiVersions", 3).error_code == 0
        finally:
            self.over.set()
            self.thread.join()
        if error[0] is None:
            assert self.most - self.before < self.growth_max, f"{(self.most - self.before) >> 20} MiB"


@EACH
def test_produced_to_a_compacted_topic(kafka, wire, topic, name):
    """There the broker looks for keys: CORRUPT_MESSAGE, and nothing is stored."""
    wire.create(topic + "-c", configs={"cleanup.policy": "compact"})
    with Watch(kafka):
        assert wire.produce(topic + "-c", bomb(name)).error_code == ErrorCode.CORRUPT_MESSAGE
        assert wire.end(topic + "-c").offset == 0
        assert wire.produce(topic + "-c", batch([b"v"], keys=[b"k"])).base_offset == 0


@EACH
def test_looked_for_by_time(kafka, wire, topic, name):
    """Elsewhere batches are stored as they come, and given back so; only who asks for a time learns that it cannot be
    told. Offsets go on behind it."""
    assert wire.produce(topic, bomb(name)).base_offset == 0
    assert wire.produce(topic, batch([b"after"], timestamp_ms=NOW_MS + 10)).base_offset == 1
    with Watch(kafka):
        assert wire.end(topic, timestamp=NOW_MS - 10).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert wire.end(topic, timestamp=-1).offset == 2
        assert wire.end(topic, timestamp=NOW_MS + 5).offset == 1
        assert bytes(wire.fetch(topic).records).startswith(struct.pack(">q", 0))
        assert wire.fetch(topic, 1).records


@SOME
def test_in_the_way_of_compaction(kafka, wire, topic, name):
    """A topic that becomes compacted with one in it: the pass gives up, again and again, and all else goes on."""
    wire.produce(topic, bomb(name))
    for number in range(3):
        wire.produce(topic, batch([b"%d" % number], keys=[b"k"]))
    with Watch(kafka):
        api = ("IncrementalAlterConfigs", 1)
        alter_configs(wire, api, topic, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
        told = f"what is too old in {topic}-0 in vhost '/', or superseded, stays for now"
        log = kafka.directory / "stderr.log"
        wait_until(lambda: log.read_text().count(told) >= 3, log.read_text)
        assert wire.produce(topic, batch([b"v"], keys=[b"k"])).base_offset == 4
        assert wire.end(topic).offset == 5
    wire.ask("DeleteTopics", 5, topic_names=[topic], timeout_ms=1000)


def alter_configs(wire, api, topic, configs):
    """Set values of a topic."""
    resource = BY_NAME[api[0]].request.SPECS["resources"].of
    config = resource.SPECS["configs"].of
    made = [config(name=name, config_operation=0, value=value) for name, value in configs.items()]
    answer = wire.ask(*api, resources=[resource(resource_type=2, resource_name=topic, configs=made)])
    assert not answer.responses[0].error_code, answer


@SOME
def test_in_the_way_of_an_amqp_reader(kafka, wire, topic, name):
    """Readers of the stream, many at once: none brings the broker down, and who begins behind it reads."""
    wire.produce(topic, batch([b"before"]))
    wire.produce(topic, bomb(name))
    wire.produce(topic, batch([b"after"]))
    with Watch(kafka):
        connections = []
        for _ in range(3):
            connection = pika.BlockingConnection(pika.ConnectionParameters(kafka.host, kafka.port, **PATIENT))
            connections.append(connection)
            channel = connection.channel()
            channel.basic_qos(prefetch_count=10)
            channel.basic_consume(topic, lambda *_: None, arguments={"x-stream-offset": "first"})
        connection = pika.BlockingConnection(pika.ConnectionParameters(kafka.host, kafka.port, **PATIENT))
        connections.append(connection)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=10)
        got = []
        channel.basic_consume(topic, lambda *message: got.append(message[3]), arguments={"x-stream-offset": 2})
        wait_until(lambda: connection.process_data_events(0.1) or got, "the message behind it")
        assert got == [b"after"]
        for one in connections:
            if one.is_open:
                one.close()


def test_many_that_are_large_but_no_bombs(kafka, wire, topic):
    """What is decoded for AMQP's readers is counted as it is opened, not as it is stored: 20 batches of 10 MiB each in
    10 kB are not kept side by side."""
    records = gzip.compress(render_record(0, bytes(10 * MIB)))
    for _ in range(20):
        assert wire.produce(topic, batch([b"x"], attributes=GZIP, records=records)).error_code == 0
    with Watch(kafka, 120 * MIB):
        connection = pika.BlockingConnection(pika.ConnectionParameters(kafka.host, kafka.port, **PATIENT))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        got = []

        def take(channel, method, _, body):
            got.append(len(body))
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(topic, take, arguments={"x-stream-offset": "first"})
        wait_until(lambda: connection.process_data_events(0.1) or len(got) >= 20, lambda: got)
        assert got == [10 * MIB] * 20
        connection.close()

"""Compressed batches that open to far more than they are, wherever the broker opens batches: bounded memory, an error
code, nothing lost, everybody else served."""

import gzip
import struct
import threading
import zlib

import lz4.frame
import pika
import pytest
from kafka_wire import NOW_MS, Wire, batch, resummed
from waiting import PATIENT, wait_until

from protocol.kafka.compression import compress
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import GZIP, LZ4, SNAPPY, ZSTD, render_record, varint
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
@pytest.mark.parametrize("policy", ["delete", "compact"])
def test_a_bomb_is_refused(kafka, wire, topic, name, policy):
    """It is opened piece by piece, to its first record that is none: nothing is stored, and who sends it is told."""
    wire.create(topic + policy, configs={"cleanup.policy": policy})
    with Watch(kafka):
        answer = wire.produce(topic + policy, bomb(name))
        assert answer.error_code in (ErrorCode.INVALID_RECORD, ErrorCode.MESSAGE_TOO_LARGE)
        assert wire.end(topic + policy).offset == 0
        assert wire.produce(topic + policy, batch([b"v"], keys=[b"k"])).base_offset == 0


@pytest.mark.parametrize("kind", [GZIP, ZSTD, LZ4])
def test_one_record_that_is_the_bomb(kafka, wire, topic, kind):
    """A record that says it is 63 MiB, and is, and is followed by more; or that says a gigabyte."""
    for size in (63 * MIB, 1 << 30):
        records = render_record(0, bytes(63 * MIB))
        if size > len(records):
            records = varint(size) + records[5:]
        block = compress(kind, records + render_record(1, bytes(2 * MIB)))
        with Watch(kafka):
            answer = wire.produce(topic, batch([b"x", b"y"], attributes=kind, records=block))
            assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
            assert wire.end(topic).offset == 0


def zstd_of_many(count):
    """Some kilobytes that are so many records."""
    return compress(ZSTD, b"".join(render_record(delta, b"%d" % (delta % 3 * 7)) for delta in range(count)))


def test_requests_keep_their_order_while_one_is_looked_at(kafka, wire, topic):
    """A batch that takes many slices, and small ones behind it on the same connection: their offsets follow."""
    count = 60_000
    large = batch([b""] * count, attributes=ZSTD, records=zstd_of_many(count))
    for records in (batch([b"first"]), large, batch([b"next"]), large, batch([b"last"])):
        wire.send_produce(topic, records)
    answers = [wire.answer()[1].responses[0].partition_responses[0] for _ in range(5)]
    assert [one.error_code for one in answers] == [0] * 5
    assert [one.base_offset for one in answers] == [0, 1, count + 1, count + 2, 2 * count + 2]
    assert wire.end(topic, timestamp=-3).offset == 0
    assert wire.end(topic, timestamp=NOW_MS).offset == 0


def test_a_peer_that_goes_while_its_batch_is_looked_at(kafka, topic, wire):
    """Nothing of it is stored, and others have their turn."""
    count = 60_000
    large = batch([b""] * count, attributes=ZSTD, records=zstd_of_many(count)[:-1] + b"x")
    for _ in range(10):
        with Wire(kafka.addresses["kafka"]) as other:
            other.send_produce(topic, large)
    assert wire.produce(topic, batch([b"x"])).base_offset == 0


def test_too_many_records_are_to_be_split(kafka, wire, topic):
    """Six million in four kilobytes: MESSAGE_TOO_LARGE, which producers split (KIP-126)."""
    count = 1 << 20
    records = compress(ZSTD, render_record(0, b"") * (count + 1))
    header = bytearray(batch([b""], attributes=ZSTD, records=records))
    struct.pack_into(">i", header, 23, count)
    struct.pack_into(">i", header, 57, count + 1)
    assert wire.produce(topic, resummed(header)).error_code == ErrorCode.MESSAGE_TOO_LARGE


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

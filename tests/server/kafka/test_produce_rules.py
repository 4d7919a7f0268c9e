"""Produce: what is stored, what is refused, and what an answer means."""

import os
import signal
import struct

import pytest
from kafka_wire import BY_NAME, NOW_MS, SETTINGS, Closed, Wire, batch, resummed

from protocol.kafka.compression import open_batch
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import parse_header
from tools.bench.control import running_jackalope


def values(found):
    """The values of all records in what a fetch has brought."""
    data, position, got = bytes(found.records), 0, []
    while position < len(data):
        header = parse_header(data, position)
        got += [record.value for record in open_batch(data, position, header)]
        position += header.size
    return got


def test_offsets_follow_one_another(wire, topic):
    """A batch gets the next offsets; the answer says the first, the log's start, and no time of its own."""
    first = wire.produce(topic, batch([b"a", b"b"]))
    second = wire.produce(topic, batch([b"c"]))
    assert (first.error_code, first.base_offset, first.log_start_offset, first.log_append_time_ms) == (0, 0, 0, -1)
    assert second.base_offset == 2
    assert values(wire.fetch(topic)) == [b"a", b"b", b"c"]


def test_a_batch_is_stored_as_it_came(wire, topic):
    """Everything behind the leader epoch is verbatim; base offset and epoch are the broker's."""
    sent = batch([b"one", b"two"])
    wire.produce(topic, batch([b"zero"]))
    wire.produce(topic, sent)
    stored = bytes(wire.fetch(topic, 1).records)
    assert stored[16:] == sent[16:]
    assert parse_header(stored).base_offset == 1
    assert parse_header(stored).leader_epoch >= 0


REFUSED = {
    "flipped": (lambda good: good[:-1] + bytes((good[-1] ^ 1,)), ErrorCode.CORRUPT_MESSAGE),
    "short": (lambda good: good[:-1], ErrorCode.CORRUPT_MESSAGE),
    "half a header": (lambda good: good[:30], ErrorCode.CORRUPT_MESSAGE),
    "nothing": (lambda good: b"", ErrorCode.INVALID_RECORD),
    "null": (lambda good: None, ErrorCode.INVALID_RECORD),
    "old magic": (lambda good: good[:16] + b"\x01" + good[17:], ErrorCode.INVALID_RECORD),
    "oldest magic": (lambda good: good[:16] + b"\x00" + good[17:], ErrorCode.INVALID_RECORD),
    "magic of the future": (lambda good: good[:16] + b"\x03" + good[17:], ErrorCode.CORRUPT_MESSAGE),
    "negative magic": (lambda good: good[:16] + b"\xff" + good[17:], ErrorCode.CORRUPT_MESSAGE),
    "two batches": (lambda good: good + good, ErrorCode.INVALID_RECORD),
    "control": (lambda good: batch([b"x"], attributes=0x20), ErrorCode.INVALID_RECORD),
    "transactional": (lambda good: batch([b"x"], attributes=0x10), ErrorCode.INVALID_RECORD),
    "no such compression": (lambda good: batch([b"x"], attributes=5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    "producer without sequence": (lambda good: batch([b"x"], producer_id=5, epoch=0), ErrorCode.INVALID_RECORD),
    "more records than offsets": (lambda good: resummed(good[:57] + struct.pack(">i", 9) + good[61:]),
                                  ErrorCode.INVALID_RECORD),
    "more records, not summed": (lambda good: good[:57] + struct.pack(">i", 9) + good[61:], ErrorCode.CORRUPT_MESSAGE),
    "no records, no offsets": (lambda good: resummed(good[:8] + struct.pack(">i", 49) + good[12:23] + b"\xff" * 4
                                                     + good[27:57] + bytes(4)), ErrorCode.INVALID_RECORD),
    "less than no records": (lambda good: resummed(good[:57] + struct.pack(">i", -1) + good[61:]),
                             ErrorCode.INVALID_RECORD),
    "offsets below the first": (lambda good: resummed(good[:23] + struct.pack(">i", -7) + good[27:]),
                                ErrorCode.INVALID_RECORD),
    "a length below a header's": (lambda good: good[:8] + struct.pack(">i", -3) + good[12:], ErrorCode.CORRUPT_MESSAGE),
    "an offset of its own": (lambda good: struct.pack(">q", 1 << 62) + good[8:], ErrorCode.INVALID_RECORD),
    "an offset below 0": (lambda good: struct.pack(">q", -1) + good[8:], ErrorCode.INVALID_RECORD),
    "fewer records than offsets": (lambda good: resummed(good[:57] + struct.pack(">i", 1) + good[61:]),
                                   ErrorCode.INVALID_RECORD),
    "a record too few": (lambda good: batch([b"x", b"y"], records=b"\x0e\x00\x00\x00\x01\x02x\x00"),
                         ErrorCode.INVALID_RECORD),
    "a lying record": (lambda good: batch([b"x"], records=b"\x7e\x00\x00\x00\x01\x02x\x00"),
                       ErrorCode.INVALID_RECORD),
    "no records at all": (lambda good: batch([b"x", b"y", b"z"], records=b"\0\0\0"), ErrorCode.INVALID_RECORD),
    "an offset twice": (lambda good: batch([b"x", b"y"], records=2 * b"\x0e\x00\x00\x00\x01\x02x\x00"),
                        ErrorCode.INVALID_RECORD),
    "log append time": (lambda good: batch([b"x"], attributes=0x08), ErrorCode.INVALID_TIMESTAMP),
    "delete horizon": (lambda good: batch([b"x"], attributes=0x40), ErrorCode.INVALID_RECORD),
    "unknown attribute": (lambda good: batch([b"x"], attributes=0x80), ErrorCode.INVALID_RECORD),
    "unknown attribute, signed": (lambda good: batch([b"x"], attributes=-0x8000), ErrorCode.INVALID_RECORD),
    "no gzip": (lambda good: batch([b"x"], attributes=1, records=b"this is not gzip"), ErrorCode.INVALID_RECORD),
    "the future": (lambda good: batch([b"x"], timestamp_ms=1 << 50), ErrorCode.INVALID_TIMESTAMP),
    "too large": (lambda good: batch([b"x" * 1_100_000]), ErrorCode.MESSAGE_TOO_LARGE),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_not_stored(wire, topic, what):
    """Each mistake has its code (LogValidator.validateBatch, UnifiedLog.analyzeAndValidateRecords: a batch whose sum is
    wrong may be tried again, a lying one may not), the connection stays, and nothing of it is in the log."""
    change, code = REFUSED[what]
    answer = wire.produce(topic, change(batch([b"a", b"b"])))
    assert ErrorCode(answer.error_code) is code
    assert answer.error_message
    assert wire.end(topic).offset == 0
    assert wire.produce(topic, batch([b"fine"])).base_offset == 0


def test_a_sequence_without_a_producer_says_nothing(wire, topic):
    """aiokafka's ordinary producer leaves 0 in every batch; Kafka looks at the sequence where there is a producer."""
    assert [wire.produce(topic, batch([b"x"], sequence=0)).base_offset for _ in range(3)] == [0, 1, 2]
    assert values(wire.fetch(topic)) == [b"x", b"x", b"x"]


def test_each_partition_by_itself(wire):
    """One partition's mistake is not the others'."""
    wire.create("three", 3)
    api = BY_NAME["Produce"].request.SPECS["topic_data"].of
    data_class = api.SPECS["partition_data"].of
    data = [data_class(index=0, records=batch([b"x"])), data_class(index=1, records=b"garbage that is long enough"),
            data_class(index=7, records=batch([b"x"]))]  # fmt: skip
    response = wire.ask("Produce", 9, acks=-1, timeout_ms=1000, topic_data=[api(name="three", partition_data=data)])
    codes = [one.error_code for one in response.responses[0].partition_responses]
    assert codes == [0, ErrorCode.CORRUPT_MESSAGE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


def test_acks(wire, topic):
    """acks=0 is not answered, acks=1 and -1 are; anything else is INVALID_REQUIRED_ACKS."""
    wire.send_produce(topic, batch([b"silent"]), acks=0)
    assert wire.produce(topic, batch([b"one"]), acks=1).base_offset == 1
    assert wire.produce(topic, batch([b"all"]), acks=-1).base_offset == 2
    assert wire.produce(topic, batch([b"two"]), acks=2).error_code == ErrorCode.INVALID_REQUIRED_ACKS
    assert values(wire.fetch(topic)) == [b"silent", b"one", b"all"]


def test_a_mistake_with_acks_0_ends_the_connection(wire, topic):
    """There is no other way to be heard."""
    wire.send_produce(topic, b"garbage", acks=0)
    with pytest.raises(Closed):
        wire.ask("ApiVersions", 0)


def test_zstd_needs_a_version_that_knows_it(wire, topic):
    """zstd over Produce 6 is UNSUPPORTED_COMPRESSION_TYPE, and so is what is there for a Fetch of version 9."""
    import zstandard

    from protocol.kafka.records import render_record

    packed = zstandard.compress(render_record(0, b"hello"))
    sent = batch([b"hello"], attributes=4, records=packed)
    assert wire.produce(topic, sent, version=6).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert wire.produce(topic, sent, version=7).error_code == 0
    assert wire.fetch(topic, version=9).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    assert values(wire.fetch(topic, version=10)) == [b"hello"]


def test_log_append_time(wire):
    """The log stamps the batch, which the answer and the records' attributes say; the rest of it stays."""
    wire.create("stamped", configs={"message.timestamp.type": "LogAppendTime"})
    answer = wire.produce("stamped", batch([b"x"]))
    assert answer.log_append_time_ms > NOW_MS
    header = parse_header(bytes(wire.fetch("stamped").records))
    assert (header.attributes & 8, header.max_timestamp_ms) == (8, answer.log_append_time_ms)
    assert wire.end("stamped", timestamp=NOW_MS + 1).offset == 0


class TestIdempotence:
    """A retry is answered as the first time was, a gap is refused (KIP-98)."""

    def send(self, wire, topic, sequence, epoch=0, producer_id=77, count=1):
        return wire.produce(topic, batch([b"x"] * count, producer_id=producer_id, epoch=epoch, sequence=sequence))

    def test_a_retry(self, wire, topic):
        """Any of the last five batches again gets its own offset, and nothing is appended."""
        offsets = [self.send(wire, topic, sequence).base_offset for sequence in range(6)]
        assert offsets == list(range(6))
        assert [self.send(wire, topic, sequence).base_offset for sequence in range(1, 6)] == offsets[1:]
        assert self.send(wire, topic, 0).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert wire.end(topic).offset == 6

    def test_a_gap(self, wire, topic):
        """A sequence that does not follow is OUT_OF_ORDER_SEQUENCE_NUMBER."""
        self.send(wire, topic, 0, count=3)
        assert self.send(wire, topic, 4).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert self.send(wire, topic, 3).base_offset == 3

    def test_the_wrap(self, wire, topic):
        """2**31 - 1 is followed by 0."""
        last = 2**31 - 1
        self.send(wire, topic, last - 1)
        assert self.send(wire, topic, last, count=2).error_code == 0
        assert self.send(wire, topic, 1).error_code == 0

    def test_epochs(self, wire, topic):
        """An older epoch is INVALID_PRODUCER_EPOCH; a new one begins at 0."""
        self.send(wire, topic, 0, epoch=3)
        assert self.send(wire, topic, 1, epoch=2).error_code == ErrorCode.INVALID_PRODUCER_EPOCH
        assert self.send(wire, topic, 1, epoch=4).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert self.send(wire, topic, 0, epoch=4).error_code == 0

    def test_ids_are_never_given_twice(self, wire):
        """Every InitProducerId has another id; a transactional one is refused."""
        ids = [wire.ask("InitProducerId", 4, transactional_id=None).producer_id for _ in range(50)]
        assert len(set(ids)) == 50
        refused = wire.ask("InitProducerId", 4, transactional_id="mine")
        assert refused.error_code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_what_was_answered_survives_a_kill(tmp_path):
    """After kill -9 all that was answered is there, a retry is still recognised, and ids are new."""
    with running_jackalope(settings=SETTINGS, http=False, directory=tmp_path) as broker:
        with Wire(broker.addresses["kafka"]) as wire:
            topic_id = wire.create("kept", 2)
            producer_id = wire.ask("InitProducerId", 4, transactional_id=None).producer_id
            for sequence in range(5):
                sent = batch([b"v%d" % sequence], producer_id=producer_id, epoch=0, sequence=sequence)
                assert wire.produce("kept", sent, partition=1).base_offset == sequence
            epoch = wire.end("kept", 1, timestamp=-2).leader_epoch
        os.kill(broker.root_pid, signal.SIGKILL)
    with (
        running_jackalope(settings=SETTINGS, http=False, directory=tmp_path) as broker,
        Wire(broker.addresses["kafka"]) as wire,
    ):
        found = wire.fetch("kept", 0, partition=1)
        assert values(found) == [b"v0", b"v1", b"v2", b"v3", b"v4"]
        again = batch([b"v4"], producer_id=producer_id, epoch=0, sequence=4)
        assert wire.produce("kept", again, partition=1).base_offset == 4
        gap = batch([b"v6"], producer_id=producer_id, epoch=0, sequence=6)
        assert wire.produce("kept", gap, partition=1).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert wire.ask("InitProducerId", 4, transactional_id=None).producer_id > producer_id
        metadata = wire.ask("Metadata", 12, topics=None)
        assert [(one.name, one.topic_id) for one in metadata.topics] == [("kept", topic_id)]
        assert metadata.topics[0].partitions[0].leader_epoch > epoch

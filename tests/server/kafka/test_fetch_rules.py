"""Fetch, ListOffsets, OffsetsForLeaderEpoch: what is read, when it is answered, and what a session remembers."""

import time

import pytest
from kafka_wire import BY_NAME, NOW_MS, Wire, batch
from topic_world import World
from topic_world import batch as core_batch
from waiting import HANG_MS

from broker.core.topics.compaction import Cleaned, compact
from broker.server.kafka.fetch import Reads
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import parse_header, render_record, with_records
from protocol.kafka.walk import finish


def bases(octets):
    """Base offsets of the batches."""
    data, position, found = bytes(octets), 0, []
    while position < len(data):
        header = parse_header(data, position)
        found.append(header.base_offset)
        position += header.size
    return found


@pytest.fixture
def other(kafka):
    """A second connection."""
    with Wire(kafka.addresses["kafka"]) as made:
        yield made


def test_from_the_batch_that_holds_the_offset(wire, topic):
    """Whole batches come, from the one with the offset in it: the client drops what is in front."""
    for _ in range(3):
        wire.produce(topic, batch([b"x"] * 4))
    assert bases(wire.fetch(topic, 5).records) == [4, 8]
    assert bases(wire.fetch(topic, 8).records) == [8]


def test_the_first_batch_comes_however_large(wire, topic):
    """One batch is returned even if it is larger than every limit, of the first partition that has one (KIP-74)."""
    wire.produce(topic, batch([b"x" * 50_000]))
    wire.produce(topic, batch([b"y"]))
    found = wire.fetch(topic, max_bytes=100, partition_max_bytes=100)
    assert bases(found.records) == [0]
    wire.create("empty-then-full", 3)
    for partition in (1, 2):
        wire.produce("empty-then-full", batch([b"x" * 5000]), partition=partition)
    request = wire.fetch_request({"empty-then-full": {0: 0, 1: 0, 2: 0}}, max_bytes=100)
    partitions = wire.ask("Fetch", 11, request=request).responses[0].partitions
    assert [len(bases(one.records or b"")) for one in partitions] == [0, 1, 0]


def test_limits_hold_for_the_rest(wire, topic):
    """Further batches come only while they fit."""
    for _ in range(5):
        wire.produce(topic, batch([b"x" * 1000]))
    assert bases(wire.fetch(topic, partition_max_bytes=2500).records) == [0, 1]
    assert bases(wire.fetch(topic, max_bytes=3500).records) == [0, 1, 2]


def test_offsets_out_of_range(wire, topic):
    """The end is empty and fine; behind it, and before the log's start, is OFFSET_OUT_OF_RANGE with the start."""
    wire.produce(topic, batch([b"a", b"b"]))
    at_end = wire.fetch(topic, 2)
    assert (at_end.error_code, bytes(at_end.records), at_end.high_watermark) == (0, b"", 2)
    assert wire.fetch(topic, 3).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert wire.fetch(topic, -1).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    delete_before(wire, topic, 1)
    early = wire.fetch(topic, 0)
    assert (early.error_code, early.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 1)


LONG_MS = 2 * HANG_MS
"""A fetch that waits for this to end is a test that hangs."""


def delete_before(wire, topic, offset):
    """DeleteRecords; returns the answer for the partition."""
    topic_class = BY_NAME["DeleteRecords"].request.SPECS["topics"].of
    one = topic_class.SPECS["partitions"].of(partition_index=0, offset=offset)
    response = wire.ask("DeleteRecords", 2, topics=[topic_class(name=topic, partitions=[one])], timeout_ms=1000)
    return response.topics[0].partitions[0]


def settle(wire):
    """What was sent on other connections before is with the broker: there are turns for them between two answers."""
    for _ in range(2):
        wire.ask("ApiVersions", 3)


def test_a_parked_fetch_is_woken_by_data(wire, other, topic):
    """With nothing there it waits, and is answered as soon as something durable is."""
    wire.send("Fetch", 11, request=wire.fetch_request({topic: {0: 0}}, max_wait_ms=LONG_MS))
    settle(other)
    other.produce(topic, batch([b"late"]))
    found = wire.answer()[1].responses[0].partitions[0]
    assert bases(found.records) == [0]


def test_min_bytes(wire, other, topic):
    """It waits until there is as much as it wants."""
    wire.send("Fetch", 11, request=wire.fetch_request({topic: {0: 0}}, max_wait_ms=LONG_MS, min_bytes=3000))
    for _ in range(4):
        other.produce(topic, batch([b"x" * 1000]))
    assert len(wire.answer()[1].responses[0].partitions[0].records) >= 3000


def test_the_time_ends_a_wait(wire, topic):
    """With nothing after max_wait it is answered empty, with a records field that is not null."""
    began = time.monotonic()
    found = wire.fetch(topic, max_wait_ms=300)
    assert time.monotonic() - began >= 0.25
    assert (found.error_code, bytes(found.records)) == (0, b"")


def test_an_error_does_not_wait(wire, topic):
    """One partition's error is answered at once."""
    request = wire.fetch_request({topic: {0: 0, 9: 0}}, max_wait_ms=LONG_MS)
    partitions = wire.ask("Fetch", 11, request=request).responses[0].partitions
    assert [one.error_code for one in partitions] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


def test_a_deleted_topic_wakes(wire, other, topic):
    """Who waits for a topic that goes is told at once."""
    wire.send("Fetch", 11, request=wire.fetch_request({topic: {0: 0}}, max_wait_ms=LONG_MS))
    settle(other)
    other.ask("DeleteTopics", 5, topic_names=[topic], timeout_ms=1000)
    found = wire.answer()[1].responses[0].partitions[0]
    assert found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_answers_keep_the_order_of_requests(wire, other, topic):
    """What is asked behind a fetch that waits is answered behind it."""
    first = wire.send("Fetch", 11, request=wire.fetch_request({topic: {0: 0}}, max_wait_ms=400))
    second = wire.send("ApiVersions", 0)
    third = wire.send_produce(topic, batch([b"x"]))
    assert [wire.answer()[0] for _ in range(3)] == [first, second, third]


def test_ids(wire):
    """From version 13 on topics go by their ids; one that is none is UNKNOWN_TOPIC_ID, a new topic has a new one."""
    topic_id = wire.create("with-id")
    wire.produce("with-id", batch([b"x"]))
    assert bases(wire.fetch(topic_id, version=13).records) == [0]
    assert wire.fetch(bytes(15) + b"\x01", version=13).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    wire.ask("DeleteTopics", 5, topic_names=["with-id"], timeout_ms=1000)
    assert wire.create("with-id") != topic_id
    assert wire.fetch(topic_id, version=13).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert wire.fetch("with-id").high_watermark == 0


def test_leader_epochs(wire, topic):
    """An older epoch than the leader's is FENCED, a newer one UNKNOWN (KIP-320)."""
    wire.produce(topic, batch([b"x"]))
    epoch = wire.end(topic, timestamp=-2).leader_epoch
    assert wire.fetch(topic, epoch=epoch).error_code == 0
    assert wire.fetch(topic, epoch=epoch + 1).error_code == ErrorCode.UNKNOWN_LEADER_EPOCH
    topic_class = BY_NAME["OffsetForLeaderEpoch"].request.SPECS["topics"].of
    one = topic_class.SPECS["partitions"].of(partition=0, current_leader_epoch=-1, leader_epoch=epoch)
    [found] = wire.ask("OffsetForLeaderEpoch", 3, topics=[topic_class(topic=topic, partitions=[one])]).topics
    assert (found.partitions[0].leader_epoch, found.partitions[0].end_offset) == (epoch, 1)


class TestSessions:
    """A client says once what it wants (KIP-227)."""

    def ask(self, wire, wanted, session, **options):
        return wire.ask("Fetch", 11, request=wire.fetch_request(wanted, session=session, **options))

    def test_only_what_has_changed(self, wire):
        """The first answer has everything; later ones what has news, and what was sent is not sent again."""
        wire.create("sess", 3)
        first = self.ask(wire, {"sess": {0: 0, 1: 0, 2: 0}}, (0, 0))
        assert len(first.responses[0].partitions) == 3
        assert self.ask(wire, {}, (first.session_id, 1)).responses == []
        wire.produce("sess", batch([b"x"]), partition=2)
        [found] = self.ask(wire, {}, (first.session_id, 2)).responses
        assert [(one.partition_index, bases(one.records)) for one in found.partitions] == [(2, [0])]
        assert self.ask(wire, {"sess": {2: 1}}, (first.session_id, 3)).responses == []
        assert self.ask(wire, {}, (first.session_id, 4), forgotten=[("sess", [2])]).responses == []
        wire.produce("sess", batch([b"x"]), partition=2)
        assert self.ask(wire, {}, (first.session_id, 5)).responses == []

    def test_mistakes(self, wire, topic):
        """An unknown session is 70, a wrong epoch 71; a session that was closed is unknown."""
        assert self.ask(wire, {}, (12345, 1)).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        made = self.ask(wire, {topic: {0: 0}}, (0, 0)).session_id
        assert made
        assert self.ask(wire, {}, (made, 7)).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
        assert self.ask(wire, {topic: {0: 0}}, (made, -1)).session_id == 0
        assert self.ask(wire, {}, (made, 1)).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    def test_nobody_starves(self, wire):
        """Who had data goes behind the others: with room for one batch each partition has its turn."""
        wire.create("turns", 3)
        for partition in range(3):
            for _ in range(3):
                wire.produce("turns", batch([b"x" * 1000]), partition=partition)
        first = self.ask(wire, {"turns": {0: 0, 1: 0, 2: 0}}, (0, 0), max_bytes=1100)
        seen = [one.partition_index for one in first.responses[0].partitions if one.records]
        for epoch in (1, 2):
            found = self.ask(wire, {}, (first.session_id, epoch), max_bytes=1100)
            seen += [one.partition_index for one in found.responses[0].partitions if one.records]
        assert sorted(seen) == [0, 1, 2]


def test_offsets_by_time(wire, topic):
    """The first record at or behind a time, also within a batch; none is offset -1 and no error; -3 is the latest."""
    for start in (0, 10, 20):
        wire.produce(topic, batch([b"a", b"b"], timestamp_ms=NOW_MS + start))
    assert wire.end(topic, timestamp=-2).offset == 0
    assert wire.end(topic, timestamp=-1).offset == 6
    assert wire.end(topic, timestamp=NOW_MS + 5).offset == 2
    assert (wire.end(topic, timestamp=NOW_MS + 10).offset, wire.end(topic, timestamp=NOW_MS + 10).timestamp) == (
        2, NOW_MS + 10
    )  # fmt: skip
    late = wire.end(topic, timestamp=NOW_MS + 21)
    assert (late.error_code, late.offset, late.timestamp) == (0, -1, -1)
    assert (wire.end(topic, timestamp=-3).offset, wire.end(topic, timestamp=-3).timestamp) == (4, NOW_MS + 20)


def test_delete_records(wire, topic):
    """What is below an offset goes, -1 is everything, and beyond the end is OFFSET_OUT_OF_RANGE."""
    wire.produce(topic, batch([b"x"] * 5))
    assert delete_before(wire, topic, 3).low_watermark == 3
    assert wire.end(topic, timestamp=-2).offset == 3
    assert delete_before(wire, topic, 9).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
    assert delete_before(wire, topic, 1).low_watermark == 3
    assert delete_before(wire, topic, -1).low_watermark == 5
    assert wire.produce(topic, batch([b"y"])).base_offset == 5


def test_a_letter_that_was_replayed_is_not_served_again():
    """Also not to who asks for what somebody has just read: where it stood is the same, what is there is not."""
    with World() as world:
        partition = world.partition()
        partition.append(core_batch(10, NOW_MS), NOW_MS)
        world.sync()
        reads = Reads()

        def records():
            read = reads.read(partition, 0, 1 << 20, at_least_one=True, is_sent=False)
            return sum(parse_header(piece).records for piece in read.pieces)

        assert records() == 10
        for offset in (3, 5):
            partition.settle(offset)
        assert records() == 8


@pytest.mark.parametrize("is_read_between", [False, True])
def test_what_compaction_took_is_not_served_again(is_read_between):
    """A value that was superseded and a key that was deleted, read before and after: what is there is served, no more
    (Kafka's documentation, log compaction: delete.retention.ms)."""
    with World() as world:
        partition = world.partition({"cleanup.policy": "compact", "delete.retention.ms": "0"})
        for value in (b"secret", None, None):
            records = render_record(0, value, b"user")
            header = parse_header(core_batch(1, NOW_MS))
            partition.append(with_records(header, records, 1, 0), NOW_MS)
        world.sync()
        reads, cleaned = Reads(), Cleaned()

        def octets():
            return b"".join(reads.read(partition, 0, 1 << 20, at_least_one=True, is_sent=False).pieces)

        assert b"secret" in octets()
        for pass_number in (1, 2):
            cleaned = finish(compact(partition, cleaned, NOW_MS + pass_number))
            if is_read_between:
                assert b"secret" not in octets()
        assert b"secret" not in octets()
        assert bases(octets())[-1] == 2


def test_a_partition_is_asked_for_its_offsets_once_in_a_request(wire, topic):
    """Each is looked for in the log. Twice is INVALID_REQUEST (Kafka), and the others have their answers."""
    wire.create(f"{topic}-other")
    topic_class = BY_NAME["ListOffsets"].request.SPECS["topics"].of
    one = topic_class.SPECS["partitions"].of
    asked = [
        topic_class(name=topic, partitions=[one(partition_index=0, timestamp=place) for place in (-1, -3)]),
        topic_class(name=f"{topic}-other", partitions=[one(partition_index=0, timestamp=-1)]),
    ]
    twice, once = wire.ask("ListOffsets", 7, replica_id=-1, topics=asked).topics
    assert [answer.error_code for answer in twice.partitions] == [ErrorCode.INVALID_REQUEST] * 2
    assert [(answer.error_code, answer.offset) for answer in once.partitions] == [(0, 0)]

"""Produce says which records of a batch it does not take (KIP-467; Kafka's LogValidator and ReplicaManager)."""

import pytest
from kafka_wire import batch
from kafka_world import KafkaWorld, made

from broker.server.kafka import produce
from protocol.kafka.compression import compress
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import GZIP, HEADER_SIZE

TOPIC, PARTITION = made("Produce", "topic_data"), made("Produce", "topic_data.partition_data")
HOUR_MS = 3_600_000
KEYLESS = "Compacted topic cannot accept message without key."


@pytest.fixture
def world():
    """A broker with a compacted topic and an ordinary one."""
    found = KafkaWorld(request_bytes_max=100 << 20)
    found.kafka.topics.create("compacted", 1, {"cleanup.policy": "compact"})
    found.kafka.topics.create("plain", 2, {})
    found.settle()
    return found


def now_batch(world, values, late_ms=0, **more):
    return batch(values, timestamp_ms=world.broker.scheduler.wall_ms + late_ms, **more)


def produced(world, *batches, version=9):
    """What is answered for each (topic, partition, batch)."""
    topics = [
        TOPIC(name=name, partition_data=[PARTITION(index=index, records=octets)]) for name, index, octets in batches
    ]
    answer = world.client().ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=topics)
    return [one for topic in answer.responses for one in topic.partition_responses]


def blamed(one):
    return [(error.batch_index, error.batch_index_error_message) for error in one.record_errors]


@pytest.mark.parametrize("compressed", [False, True])
def test_only_records_without_a_key_are_blamed(world, compressed):
    """The others, and the other partitions, are told nothing of it; nothing of the batch is stored."""
    bad = now_batch(world, [b"a", b"b", b"c", b"d"], keys=[b"k", None, b"j", None])
    if compressed:
        block = compress(GZIP, bad[HEADER_SIZE:])
        bad = now_batch(world, [None] * 4, records=block, attributes=GZIP)
    refused, taken = produced(world, ("compacted", 0, bad), ("plain", 0, now_batch(world, [b"x"])))
    assert (refused.error_code, refused.base_offset, refused.log_append_time_ms) == (ErrorCode.INVALID_RECORD, -1, -1)
    assert refused.log_start_offset == 0
    assert blamed(refused) == [(1, KEYLESS), (3, KEYLESS)]
    assert (taken.error_code, taken.base_offset, taken.record_errors) == (0, 0, [])
    assert world.kafka.topics.get("compacted").partitions[0].log.next_offset == 0


def test_records_of_the_future_are_blamed(world):
    """Each with its time, and what would be taken (KIP-937)."""
    [refused] = produced(world, ("plain", 0, now_batch(world, [b"a", b"b"], late_ms=2 * HOUR_MS)))
    assert (refused.error_code, refused.base_offset) == (ErrorCode.INVALID_TIMESTAMP, -1)
    time_ms = world.broker.scheduler.wall_ms + 2 * HOUR_MS
    assert [index for index, _ in blamed(refused)] == [0, 1]
    assert blamed(refused)[1][1].startswith(f"Timestamp {time_ms} of message with offset 1 is out of range.")


def test_a_time_that_is_wrong_wins_over_a_missing_key(world):
    """LogValidator.processRecordErrors; of one record the key is what is told."""
    bad = now_batch(world, [b"a", b"b"], keys=[None, b"k"], late_ms=2 * HOUR_MS)
    [refused] = produced(world, ("compacted", 0, bad))
    assert refused.error_code == ErrorCode.INVALID_TIMESTAMP
    assert [index for index, _ in blamed(refused)] == [0, 1]
    assert blamed(refused)[0][1] == KEYLESS


@pytest.mark.parametrize("octets", [b"", None, b"\0" * 80])
def test_a_batch_that_is_none_blames_no_record(world, octets):
    """What cannot be read has no records to name, and has no place in the log."""
    [refused] = produced(world, ("plain", 1, octets))
    assert refused.error_code in (ErrorCode.INVALID_RECORD, ErrorCode.CORRUPT_MESSAGE)
    assert (refused.base_offset, refused.log_append_time_ms, refused.record_errors) == (-1, -1, [])


def test_what_has_no_place_is_at_no_offset(world):
    """An unknown partition, and acks that are none."""
    [refused] = produced(world, ("plain", 9, now_batch(world, [b"x"])))
    assert (refused.error_code, refused.base_offset) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert refused.log_append_time_ms == refused.log_start_offset == -1


def test_one_answer_tells_of_a_bounded_number_of_records(world, monkeypatch):
    """A kilobyte may hold a million of them: the codes are there all the same."""
    monkeypatch.setattr(produce, "BAD_RECORDS_MAX", 3)
    bad = now_batch(world, [b"a", b"b"])
    found = produced(world, *[("compacted", 0, bad)] * 3)
    assert [len(one.record_errors) for one in found] == [2, 1, 0]
    assert {one.error_code for one in found} == {ErrorCode.INVALID_RECORD}


def test_versions_before_have_no_place_for_it(world):
    """Version 7 has the code alone."""
    [refused] = produced(world, ("compacted", 0, now_batch(world, [b"a"])), version=7)
    assert (refused.error_code, refused.record_errors) == (ErrorCode.INVALID_RECORD, [])

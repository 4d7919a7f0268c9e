"""Idempotent producers, compaction or DeleteRecords, and SIGKILL: a retry is stored once, the newer value stays.

KIP-98: Kafka's LogCleaner keeps the last batch of each producer, empty if need be.
"""

import os
import signal

import pytest
from kafka_wire import BY_NAME, Wire, batch
from waiting import wait_until

from protocol.kafka.records import parse_header
from tools.bench.control import running_jackalope

SETTINGS = ("listeners.kafka=127.0.0.1:0", "kafka.retention_check_s=0.1")
CONFIG = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}


def sent(sequence, value, producer_id=7):
    """A value of the key, by a producer."""
    return batch([value], keys=[b"key"], producer_id=producer_id, epoch=0, sequence=sequence)


def records_left(wire):
    """How many records a reader gets."""
    data, position, found = bytes(wire.fetch("state").records), 0, 0
    while position < len(data):
        header = parse_header(data, position)
        found += header.records
        position += header.size
    return found


def delete_before(wire, offset):
    """DeleteRecords."""
    topic_class = BY_NAME["DeleteRecords"].request.SPECS["topics"].of
    one = topic_class.SPECS["partitions"].of(partition_index=0, offset=offset)
    asked = [topic_class(name="state", partitions=[one])]
    (topic,) = wire.ask("DeleteRecords", 1, topics=asked, timeout_ms=1000).topics
    assert not topic.partitions[0].error_code


@pytest.mark.parametrize("what", ["compaction", "delete-records"])
def test_a_retry_after_a_kill_is_stored_once(tmp_path, what):
    """The last batch of a producer is superseded and gone, the broker is killed, the producer sends it again."""
    with running_jackalope(settings=SETTINGS, http=False, directory=tmp_path) as broker:
        with Wire(broker.addresses["kafka"]) as wire:
            wire.create("state", configs=CONFIG)
            assert wire.produce("state", sent(0, b"old")).base_offset == 0
            assert wire.produce("state", sent(1, b"older")).base_offset == 1
            assert wire.produce("state", sent(0, b"newer", 8)).base_offset == 2
            assert wire.produce("state", sent(1, b"newest", 8)).base_offset == 3
            if what == "compaction":
                wait_until(lambda: records_left(wire) == 2)
            else:
                delete_before(wire, 3)
        os.kill(broker.root_pid, signal.SIGKILL)
    with (
        running_jackalope(settings=SETTINGS, http=False, directory=tmp_path) as broker,
        Wire(broker.addresses["kafka"]) as wire,
    ):
        assert wire.produce("state", sent(1, b"older")).base_offset == 1
        assert wire.produce("state", sent(1, b"newest", 8)).base_offset == 3
        assert wire.end("state").offset == 4
        assert wire.produce("state", sent(2, b"next")).base_offset == 4

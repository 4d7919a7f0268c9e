"""Compaction against a model: of each key the last record stays, offsets never change, tombstones have their time."""

import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.topics.compaction import Cleaned, compact, is_due
from broker.core.topics.errors import TopicRefused
from protocol.kafka.compression import open_batch
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import CRC_START, encode_batch, render_record
from tests.core.topics.world import World, batch

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CONFIG = {"cleanup.policy": "compact", "delete.retention.ms": str(HOUR_MS)}


def keyed(pairs, timestamp_ms=NOW_MS):
    """A batch of (key, value) pairs; None is a tombstone."""
    records = b"".join(render_record(delta, value, key) for delta, (key, value) in enumerate(pairs))
    octets = bytearray(
        encode_batch(0, len(pairs) - 1, len(pairs), records, leader_epoch=-1, base_timestamp_ms=timestamp_ms,
                     max_timestamp_ms=timestamp_ms)
    )  # fmt: skip
    struct.pack_into(">i", octets, 53, -1)
    struct.pack_into(">I", octets, CRC_START - 4, crc32c(octets[CRC_START:]))
    return bytes(octets)


def clean(partition, cleaned, now_ms):
    """One whole pass."""
    steps = compact(partition, cleaned, now_ms)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def records(partition):
    """(offset, key, value) of all that a reader gets."""
    return [
        (one.offset, one.key, one.value)
        for found in partition.batches(0)
        for one in open_batch(found.data, found.position, found.header)
    ]


KEYS = st.sampled_from([b"a", b"b", b"c", b"a key that is longer than a digest"])
PAIRS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), min_size=1, max_size=5)
STEPS = st.lists(st.one_of(PAIRS, st.just("pass"), st.just("restart"), st.just("hours")), max_size=25)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_against_a_model(steps):
    """After any passes and restarts each key's last value is what it was, in the order of offsets; no offset changes.

    What a reader gets is a part of what was written; below a pass's end no key is there twice; a tombstone may only be
    missing when it was seen by a pass an hour before another.
    """
    with World() as world:
        partition = world.partition(CONFIG)
        cleaned, now_ms = Cleaned(), NOW_MS
        written = []
        first_seen_ms = {}
        for step in steps:
            if step == "restart":
                partition = world.restart(partition)
            elif step == "hours":
                now_ms += 2 * HOUR_MS
            elif step == "pass":
                cleaned = Cleaned.read(clean(partition, cleaned, now_ms).octets())
                for offset, *_ in written:
                    if offset < cleaned.offset:
                        first_seen_ms.setdefault(offset, now_ms)
                world.sync()
            else:
                base = partition.append(keyed(step), NOW_MS).base_offset
                written += [(base + index, key, value) for index, (key, value) in enumerate(step)]
                world.sync()
        found = records(partition)
        assert set(found) <= set(written)
        assert [one[0] for one in found] == sorted(one[0] for one in found)
        last = {key: (offset, key, value) for offset, key, value in written}
        for offset, key, value in last.values():
            if (offset, key, value) not in found:
                assert value is None
                assert now_ms - first_seen_ms[offset] >= HOUR_MS
                assert key not in {one[1] for one in found}
        below = [key for offset, key, _ in found if offset < cleaned.offset]
        assert len(below) == len(set(below))
        if written:
            assert written[-1] in found


def test_when_a_pass_is_due():
    """Half of the log unseen is due; the last batch alone is not, nor what was seen, until tombstones are old."""
    with World() as world:
        partition = world.partition(CONFIG)
        cleaned = Cleaned()
        assert not is_due(partition, cleaned, NOW_MS)
        partition.append(keyed([(b"a", b"1")]), NOW_MS)
        world.sync()
        assert not is_due(partition, cleaned, NOW_MS)
        partition.append(keyed([(b"a", None)]), NOW_MS)
        world.sync()
        partition.append(keyed([(b"z", b"3")]), NOW_MS)
        world.sync()
        assert is_due(partition, cleaned, NOW_MS)
        cleaned = clean(partition, cleaned, NOW_MS)
        assert records(partition) == [(1, b"a", None), (2, b"z", b"3")]
        assert not is_due(partition, cleaned, NOW_MS + 1)
        assert is_due(partition, cleaned, NOW_MS + HOUR_MS)
        cleaned = clean(partition, cleaned, NOW_MS + HOUR_MS)
        assert records(partition) == [(2, b"z", b"3")]
        assert not is_due(partition, cleaned, NOW_MS + 3 * HOUR_MS)


def test_a_record_without_a_key_is_refused():
    """A compacted topic takes no record without a key: there would be nothing to compact it by."""
    with World() as world:
        partition = world.partition(CONFIG)
        with pytest.raises(TopicRefused) as refused:
            partition.append(batch(1, NOW_MS), NOW_MS)
        assert refused.value.code is ErrorCode.INVALID_RECORD
        assert partition.log.next_offset == 0

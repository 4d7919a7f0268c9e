"""Compaction against a model: of each key the last record stays, offsets never change, tombstones have their time."""

import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from topic_world import World, append_unseen, batch

from broker.core.topics.compaction import Cleaned, compact, is_due
from broker.core.topics.errors import TopicRefused
from broker.log import checkpoint, rewriting
from protocol.kafka.compression import compress, open_batch
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import (
    COMPRESSION,
    CRC_START,
    GZIP,
    ZSTD,
    CorruptBatch,
    encode_batch,
    parse_header,
    render_record,
    with_records,
)

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


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Nothing is carried by checkpoints; files are small, and soon written anew."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 300)
    monkeypatch.setattr(rewriting, "FILES_MAX", 3)


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
OTHERS = st.sampled_from(["pass", "checkpoint", "restart", "crash", "hours"])
STEPS = st.lists(st.one_of(PAIRS, PAIRS, OTHERS), max_size=40)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from(["producer", "zstd", "uncompressed"]))
def test_against_a_model(steps, compression):
    """After any passes, checkpoints that write segments anew, and restarts each key's last value is what it was, in the
    order of offsets; no offset changes.

    What a reader gets is a part of what was written; below a pass's end no key is there twice; a tombstone may only be
    missing when it was seen by a pass an hour before another.
    """
    with World() as world:
        partition = world.partition({**CONFIG, "compression.type": compression})
        world.sync()
        cleaned, now_ms = Cleaned(), NOW_MS
        written = []
        first_seen_ms = {}
        for step in steps:
            if step == "restart":
                partition = world.restart(partition)
            elif step == "crash":
                partition = world.crash(partition)
            elif step == "checkpoint":
                before = records(partition)
                world.checkpoint()
                assert records(partition) == before
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


@pytest.mark.parametrize("moved", [False, True])
def test_what_was_superseded_does_not_count(moved):
    """The ratio is that of what is left, its disk given back or not: two new records are more than one old."""
    with World() as world:
        partition = world.partition(CONFIG)
        for _ in range(50):
            partition.append(keyed([(b"a", b"1")]), NOW_MS)
            world.sync()
        if moved:
            world.checkpoint()
        cleaned = clean(partition, Cleaned(), NOW_MS)
        for number in range(20):
            assert is_due(partition, cleaned, NOW_MS) == (number > 0)
            partition.append(keyed([(b"a", b"1")]), NOW_MS)
            world.sync()


def test_a_record_without_a_key_is_refused():
    """A compacted topic takes no record without a key: there would be nothing to compact it by."""
    with World() as world:
        partition = world.partition(CONFIG)
        with pytest.raises(TopicRefused) as refused:
            partition.append(batch(1, NOW_MS), NOW_MS)
        assert refused.value.code is ErrorCode.INVALID_RECORD
        assert partition.log.next_offset == 0


def disk_bytes(world):
    return sum(len(inode.data) for name, inode in world.disk.files.items() if name.startswith("logs/"))


@pytest.mark.parametrize(("compression", "kind"), [("producer", None), ("zstd", ZSTD), ("uncompressed", 0)])
def test_the_disk_follows_what_is_left(compression, kind):
    """A thousand updates of ten keys, with one now and then that nobody supersedes: a tenth of the disk is left, in the
    topic's compression or else the producer's, and each key's last value."""
    with World() as world:
        partition = world.partition({**CONFIG, "compression.type": compression})
        for number in range(0, 1000, 10):
            keys = [b"rare-%d" % number, *(b"key-%d" % one for one in range(9))]
            octets = keyed([(key, b"value " * 20 + key + b"%d" % number) for key in keys])
            if kind is None:
                header = parse_header(octets)
                octets = with_records(header, compress(GZIP, octets[61:]), header.records, GZIP)
            partition.append(octets, NOW_MS)
            world.sync()
        world.checkpoint()
        size, last = disk_bytes(world), {key: (offset, value) for offset, key, value in records(partition)}
        clean(partition, Cleaned(), NOW_MS)
        world.sync()
        world.checkpoint()
        found = records(partition)
        assert {key: (offset, value) for offset, key, value in found} == last
        assert len(found) == 108 + 10, "the last batch is left alone"
        assert disk_bytes(world) < size * (0.25 if kind == 0 else 0.6)
        kinds = {batch.header.attributes & COMPRESSION for batch in partition.log.read(0)}
        assert kinds == {GZIP if kind is None else kind}
        partition = world.crash(partition)
        assert records(partition) == found


def idempotent(sequence, pairs):
    """A batch of producer 7."""
    octets = keyed(pairs)
    header = parse_header(octets)._replace(producer_id=7, producer_epoch=0, base_sequence=sequence)
    return with_records(header, octets[61:], len(pairs), 0)


@pytest.mark.parametrize("what", ["compaction", "compaction twice", "delete-records"])
def test_idempotence_outlives_what_is_superseded(what):
    """What a producer has sent last is known after a crash even if nothing of it is left in the log: the next is taken,
    the last one again is recognised, a gap is refused."""
    with World() as world:
        partition = world.partition(CONFIG)
        partition.append(idempotent(0, [(b"other", b"0")]), NOW_MS)
        for sequence in (1, 2, 3):
            partition.append(idempotent(sequence, [(b"a", b"%d" % sequence)]), NOW_MS)
        for value in (b"x", b"y"):
            partition.append(keyed([(b"a", value)]), NOW_MS)
        world.sync()
        if what == "compaction twice":  # The first batch is what a look would find, and after it nothing until 3.
            partition = world.crash(partition)
        if what == "delete-records":
            world.topics.delete_records(partition, 4)
        else:
            clean(partition, Cleaned(), NOW_MS)
            assert [offset for offset, *_ in records(partition)] == [0, 4, 5]
        world.sync()
        world.checkpoint()
        partition = world.crash(partition)
        assert partition.append(idempotent(3, [(b"a", b"3")]), NOW_MS).base_offset == 3
        with pytest.raises(TopicRefused) as refused:
            partition.append(idempotent(5, [(b"a", b"5")]), NOW_MS)
        assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert partition.append(idempotent(4, [(b"a", b"4")]), NOW_MS).base_offset == 6


def test_one_partition_that_cannot_be_compacted_is_no_other_ones_concern():
    """A batch that nobody could open, from before the topic was compacted: it is reported, and the others go on."""
    with World() as world:
        bad, good = world.partition(), world.partition(CONFIG)
        header = parse_header(keyed([(b"a", b"1")]))
        for _ in range(3):
            append_unseen(bad, with_records(header, b"nothing of the kind", 1, GZIP))
            good.append(keyed([(b"a", b"1")]), NOW_MS)
        world.sync()
        world.topics.configure(world.topics.get(bad.topic_name), CONFIG)
        reports = []
        scheduler = world.broker.scheduler
        scheduler.report = lambda text, error: reports.append((text, error))

        def sweep(number):
            scheduler.wall_ms = NOW_MS + number * HOUR_MS
            world.topics.tick(scheduler, 0)
            while scheduler.busy:
                scheduler.run_slice()
            return world.topics.troubles.all()

        for number in range(3):
            (line,) = sweep(number)
            assert f"'{bad.topic_name}'" in line
        assert [offset for offset, *_ in records(good)] == [1, 2]
        ((text, error),) = reports
        assert bad.topic_name in text
        assert isinstance(error, CorruptBatch)
        world.topics.configure(world.topics.get(bad.topic_name), {})
        assert sweep(3) == []
        world.topics.configure(world.topics.get(bad.topic_name), CONFIG)
        assert len(sweep(4)) == 1
        assert len(reports) == 2, "it is news again"
        world.topics.delete(world.topics.get(bad.topic_name))
        assert world.topics.troubles.all() == []


UNSEEN = (bytes(3), b"\x0e\0\0\0\x01", b"\x7e\0\0\0\x01\x02x\0", b"\x0e\0\x80\x80\x80\x80\x80\x80")


@pytest.mark.parametrize("octets", UNSEEN)
def test_records_that_were_never_looked_at(octets):
    """Stored by an earlier version: whoever opens them gets an error of the partition, and no other one."""
    with World() as world:
        bad = world.partition(CONFIG)
        for _ in range(3):
            append_unseen(bad, with_records(parse_header(keyed([(b"a", b"1")])), octets, 1, 0))
        world.sync()
        with pytest.raises(CorruptBatch):
            clean(bad, Cleaned(), NOW_MS)
        with pytest.raises(CorruptBatch):
            bad.offset_for(NOW_MS)

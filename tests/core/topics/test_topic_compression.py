"""`compression.type`: what producers send is stored in it, and so is what AMQP and the broker itself append."""

import pytest
from topic_world import World

from broker.core.message import make_origin
from broker.core.streams.records import Restorer
from broker.core.topics.errors import TopicRefused
from broker.log import checkpoint, sealing
from protocol.amqp import content as wire
from protocol.kafka.compression import CHANGED_BYTES_MAX, compress, open_batch, opened
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import (
    COMPRESSION,
    GZIP,
    LOG_APPEND_TIME,
    LZ4,
    NO_COMPRESSION,
    SNAPPY,
    ZSTD,
    clear_sequence,
    encode_batch,
    parse_header,
    render_record,
    with_records,
)

NOW_MS = 1_700_000_000_000
KINDS = {"uncompressed": NO_COMPRESSION, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
kinds = pytest.mark.parametrize("wanted", KINDS)


@pytest.fixture
def world():
    with World() as made:
        yield made


def event(number):
    return b'{"event":"order.created","id":%d,"customer":"c-%d","currency":"EUR"}' % (number, number * 7919 % 1000)


def sent(kind, count=20, *, producer=None, size=0):
    """A producer's batch in this compression; `producer` is (id, epoch, first sequence)."""
    records = b"".join(render_record(delta, event(delta) + bytes(size), b"k%d" % delta) for delta in range(count))
    octets = encode_batch(
        0, count - 1, count, compress(kind, records) if kind else records, leader_epoch=-1, base_timestamp_ms=NOW_MS,
        max_timestamp_ms=NOW_MS, attributes=kind,
    )  # fmt: skip
    if producer is None:
        octets = bytearray(octets)
        clear_sequence(octets)
        return bytes(octets)
    header = parse_header(octets)._replace(
        producer_id=producer[0], producer_epoch=producer[1], base_sequence=producer[2]
    )
    return with_records(header, octets[61:], count, kind)


def stored(partition):
    """The batches of a partition: (header, records)."""
    return [(one.header, list(open_batch(*one[1:], one.header))) for one in partition.batches(0)]


def publish(world, partition, numbers):
    """As AMQP does it: a run of messages into the topic's stream."""
    stream = world.broker.add_vhost("/").streams.get(partition.topic_name)
    messages = [(make_origin(b"", b"key"), wire.encode_content(1, b"", 0, event(one), 131_072)) for one in numbers]
    stream.enqueue(messages)


@kinds
@pytest.mark.parametrize("kind", KINDS.values())
def test_a_producers_batch_is_stored_in_the_topics_compression(world, wanted, kind):
    """With its records, offsets, times, producer, epoch and sequence; one that matches is stored as it came."""
    partition = world.partition({"compression.type": wanted})
    batch = sent(kind, producer=(7, 1, 40))
    partition.append(batch, NOW_MS)
    partition.append(sent(kind, producer=(7, 1, 60)), NOW_MS)
    (first, records), (second, _) = stored(partition)
    assert first.attributes & COMPRESSION == KINDS[wanted]
    assert (first.producer_id, first.producer_epoch, first.base_sequence) == (7, 1, 40)
    assert (first.base_timestamp_ms, first.max_timestamp_ms, first.records) == (NOW_MS, NOW_MS, 20)
    assert (second.base_offset, second.base_sequence) == (20, 60)
    assert [one.value for one in records] == [event(number) for number in range(20)]
    if KINDS[wanted] == kind:
        found = next(partition.log.read(0))
        assert found.data[found.position + 16 : found.position + first.size] == batch[16:]
    with pytest.raises(TopicRefused):
        partition.append(sent(kind, producer=(7, 1, 99)), NOW_MS)


@pytest.mark.parametrize("kind", KINDS.values())
def test_producer_means_as_it_came(world, kind):
    """The default opens nothing."""
    partition = world.partition()
    batch = sent(kind)
    partition.append(batch, NOW_MS)
    found = next(partition.log.read(0))
    assert found.data[found.position + 16 : found.position + found.header.size] == batch[16:]


def test_a_retry_is_known_in_whatever_compression(world):
    """It is the sequence that says so."""
    partition = world.partition({"compression.type": "zstd"})
    first = partition.append(sent(GZIP, producer=(7, 0, 0)), NOW_MS)
    assert partition.append(sent(GZIP, producer=(7, 0, 0)), NOW_MS) == first
    assert len(stored(partition)) == 1


def test_log_append_time_is_stamped_on_what_is_stored(world):
    """The checksum is that of what readers get."""
    partition = world.partition({"compression.type": "lz4", "message.timestamp.type": "LogAppendTime"})
    partition.append(sent(GZIP), NOW_MS + 5)
    ((header, _),) = stored(partition)
    assert header.attributes == LOG_APPEND_TIME | LZ4
    assert header.max_timestamp_ms == NOW_MS + 5


def test_what_opens_to_more_than_a_message_may_be(world):
    """`max.message.bytes` holds for what is stored as well (Kafka)."""
    partition = world.partition({"compression.type": "uncompressed", "max.message.bytes": "5000"})
    with pytest.raises(TopicRefused) as refused:
        partition.append(sent(GZIP, size=1000), NOW_MS)
    assert refused.value.code is ErrorCode.MESSAGE_TOO_LARGE
    assert stored(partition) == []


def test_what_would_take_too_long_is_stored_as_it_came(world):
    """A batch of a few kilobytes that opens to megabytes."""
    partition = world.partition({"compression.type": "zstd"})
    partition.append(sent(GZIP, 1, size=2 * CHANGED_BYTES_MAX), NOW_MS)
    ((header, _),) = stored(partition)
    assert header.attributes == GZIP


WRONG = {
    "not gzip": b"nothing of the kind",
    "fewer": compress(GZIP, render_record(0, b"x")),
    "more": compress(GZIP, b"".join(render_record(delta, b"x") for delta in range(3))),
    "twice the same offset": compress(GZIP, render_record(0, b"x") * 2),
    "a gap": compress(GZIP, render_record(0, b"x") + render_record(2, b"x")),
    "a record too long": compress(GZIP, render_record(0, b"x") + b"\x7e\0\0\x02\x01\x02x\0"),
    "nothing of a record": compress(GZIP, bytes(6)),
}


@pytest.mark.parametrize("configured", ["producer", "zstd"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_batch_that_is_not_what_it_says_is_refused(world, wrong, configured):
    """Whatever the topic makes of it (LogValidator: InvalidRecordException); nothing is stored, the next gets 0."""
    partition = world.partition({"compression.type": configured})
    header = parse_header(sent(GZIP, 2))
    with pytest.raises(TopicRefused) as refused:
        partition.append(with_records(header, WRONG[wrong], 2, GZIP), NOW_MS)
    assert refused.value.code is ErrorCode.INVALID_RECORD
    assert partition.log.next_offset == 0
    assert partition.append(sent(GZIP, 2), NOW_MS).base_offset == 0


def test_more_records_than_a_batch_can_hold_are_refused(world):
    """Whoever means it sends them in smaller batches then (KIP-126)."""
    partition = world.partition()
    header = parse_header(sent(GZIP, 2))._replace(last_offset_delta=2**31 - 2)
    with pytest.raises(TopicRefused) as refused:
        partition.append(with_records(header, compress(GZIP, b"x"), 2**31 - 1, GZIP), NOW_MS)
    assert refused.value.code is ErrorCode.MESSAGE_TOO_LARGE


@kinds
def test_the_records_times_count_whatever_the_header_says(world, wanted):
    """LogValidator takes the largest time of the records; a time index that believed the header would miss them."""
    partition = world.partition({"compression.type": wanted})
    times = (0, 5000, 200)
    records = b"".join(render_record(delta, b"x", None, (), ms) for delta, ms in enumerate(times))
    for lie_ms in (NOW_MS - 10, NOW_MS + 99_000):
        header = parse_header(sent(GZIP, 3))._replace(base_timestamp_ms=NOW_MS, max_timestamp_ms=lie_ms)
        partition.append(with_records(header, compress(GZIP, records), 3, GZIP), NOW_MS)
    world.sync()
    assert tuple(partition.offset_for(NOW_MS + 4000)) == (NOW_MS + 5000, 1)
    assert tuple(partition.offset_for(-3)) == (NOW_MS + 5000, 1)
    assert tuple(partition.offset_for(NOW_MS + 6000)) == (-1, -1)
    late = b"".join(render_record(delta, b"x", None, (), delta * 1 << 40) for delta in range(2))
    with pytest.raises(TopicRefused) as refused:
        partition.append(with_records(parse_header(sent(GZIP, 2)), compress(GZIP, late), 2, GZIP), NOW_MS)
    assert refused.value.code is ErrorCode.INVALID_TIMESTAMP


@kinds
def test_what_amqp_publishes_is_compressed(world, wanted):
    """In batches of what came together, also of several runs; readers of both kinds find it, over a restart."""
    partition = world.partition({"compression.type": wanted})
    for start in range(0, 300, 30):
        publish(world, partition, range(start, start + 30))
    world.sync()
    partition = world.restart(partition)
    found = stored(partition)
    assert [header.attributes for header, _ in found] == [KINDS[wanted]] * len(found)
    assert len(found) < 6
    records = [record for _, some in found for record in some]
    assert [(one.offset, one.key, one.value) for one in records] == [(n, None, event(n)) for n in range(300)]
    assert wire.body(Restorer(None).message(records[7])[1]) == event(7)
    plain = sum(len(opened(one.data, one.position, one.header)) for one in partition.batches(0))
    if KINDS[wanted]:
        assert partition.size_bytes < 0.5 * plain


def test_what_the_broker_appends_is_compressed(world):
    """And a new `compression.type` counts from the next batch on."""
    partition = world.partition({"compression.type": "gzip"})
    partition.append_own(b"".join(render_record(delta, event(delta)) for delta in range(50)), 50, NOW_MS)
    topic = world.topics.get(partition.topic_name)
    world.topics.configure(topic, {"compression.type": "producer"})
    partition.append_own(b"".join(render_record(delta, event(delta)) for delta in range(50)), 50, NOW_MS)
    assert [header.attributes for header, _ in stored(partition)] == [GZIP, NO_COMPRESSION]


def test_a_message_alone_or_a_large_one_is_not(world):
    """What compression would make larger, and what would take too long, is stored open."""
    partition = world.partition({"compression.type": "zstd"})
    partition.append_own(render_record(0, b"x"), 1, NOW_MS)
    partition.append_own(render_record(0, bytes(CHANGED_BYTES_MAX + 1)), 1, NOW_MS)
    assert [header.attributes for header, _ in stored(partition)] == [NO_COMPRESSION] * 2


def test_a_reader_at_the_end_does_not_cut_what_is_gathering(world):
    """Readers see what is durable; what has come since still becomes one batch."""
    partition = world.partition({"compression.type": "zstd"})
    publish(world, partition, range(10))
    world.sync()
    for start in range(10, 40, 10):
        publish(world, partition, range(start, start + 10))
        assert partition.read(0, 1 << 20, at_least_one=True).size
    world.sync()
    assert [header.records for header, _ in stored(partition)] == [10, 30]


def test_segments_are_as_large_as_the_topic_says(world, monkeypatch):
    """`segment.bytes`: the next one begins behind it."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    monkeypatch.setattr(sealing, "STAY_BYTES_MIN", 1 << 30)
    partition = world.partition({"segment.bytes": str(1 << 20)})
    for _ in range(30):
        partition.append(sent(NO_COMPRESSION, 1, size=100_000), NOW_MS)
        world.sync()
    world.checkpoint()
    sizes = [segment.size for segment in partition.log.segments]
    assert len(sizes) == 3
    assert all(1 << 20 <= size < 1.3 * (1 << 20) for size in sizes[:-1])

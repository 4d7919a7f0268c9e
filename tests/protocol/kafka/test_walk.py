"""Every record of a producer's batch is looked at (LogValidator, DefaultRecord.readFrom): the same as reading it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.kafka import compression, walk
from protocol.kafka.compression import compress, open_batch, pieces
from protocol.kafka.records import (
    GZIP,
    LZ4,
    NO_COMPRESSION,
    SNAPPY,
    ZSTD,
    CorruptBatch,
    encode_batch,
    parse_header,
    render_record,
    varint,
)
from protocol.kafka.walk import examine, finish

KINDS = (NO_COMPRESSION, GZIP, SNAPPY, LZ4, ZSTD)
BASE_MS = 1_700_000_000_000
KEY = st.one_of(st.none(), st.sampled_from((b"", b"key", b"k" * 70)))
STRETCH = st.tuples(
    st.integers(1, 80),  # records of one layout
    KEY,
    st.one_of(st.none(), st.sampled_from((0, 3, 50, 57, 58, 8180, 8190, 9000)).map(bytes)),
    st.sampled_from((0, 0, 0, 1, -1, 63, 64, 9000, 3_000_000, -5000)),  # the time of the first
    st.integers(0, 3),  # how much later each further one is
    st.sampled_from(((), (), (), ((b"name", b"value"), (b"", None)))),
)
STRETCHES = st.lists(STRETCH, min_size=1, max_size=6)


def records_of(stretches):
    """Records as a producer renders them."""
    rendered = []
    for count, key, value, time, step, headers in stretches:
        for index in range(count):
            rendered.append(render_record(len(rendered), value, key, headers, time + index * step))
    return rendered


def batch_of(records, count, kind=NO_COMPRESSION):
    """A batch that says `count` records."""
    octets = compress(kind, records) if kind else records
    return encode_batch(0, count - 1, count, octets, leader_epoch=0, base_timestamp_ms=BASE_MS,
                        max_timestamp_ms=BASE_MS, attributes=kind)  # fmt: skip


def seen(data):
    """The facts of a batch, looked at as a view, as connections hand it over."""
    return finish(examine(memoryview(bytearray(data)), 0, parse_header(data)))


def read(data):
    """The same by reading each record, or None where that is not what a producer may send."""
    header = parse_header(data)
    try:
        found = list(open_batch(data, 0, header))
    except (CorruptBatch, IndexError):
        return None
    if [one.offset for one in found] != list(range(header.records)):
        return None
    times = [one.timestamp_ms for one in found]
    return min(times), max(times), times.index(max(times)), any(one.key is None for one in found), False


@settings(max_examples=300, deadline=None)
@given(STRETCHES, st.sampled_from(KINDS), st.sampled_from((1, 40, 300, 1 << 18)))
def test_the_same_as_reading_them(stretches, kind, piece):
    """Whatever records follow each other, however they are compressed and cut into pieces."""
    rendered = records_of(stretches)
    data = batch_of(b"".join(rendered), len(rendered), kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "PIECE_BYTES", piece)
        patch.setattr(walk, "RECORDS_AT_ONCE", 7)
        assert tuple(seen(data)) == read(data)


@settings(max_examples=500, deadline=None)
@given(STRETCHES, st.data())
def test_what_is_changed_is_seen(stretches, data):
    """One octet changed, or one record left out, doubled or moved: refused exactly where reading it would fail."""
    rendered = records_of(stretches)
    what = data.draw(st.sampled_from(("octet", "left out", "doubled", "moved")))
    index = data.draw(st.integers(0, len(rendered) - 1))
    count = len(rendered)
    if what == "octet":
        changed = bytearray(rendered[index])
        changed[data.draw(st.integers(0, min(len(changed), 12) - 1))] = data.draw(st.integers(0, 255))
        rendered[index] = bytes(changed)
    elif what == "left out":
        del rendered[index]
    elif what == "doubled":
        rendered.insert(index, rendered[index])
    else:
        rendered.append(rendered.pop(index))
    octets = batch_of(b"".join(rendered), count)
    wanted = read(octets)
    try:
        got = tuple(seen(octets))
    except CorruptBatch:
        got = None
    if got != wanted:
        assert got is None, (got, wanted)
        assert what == "octet"  # A number too long, or a header without a name, which our own reader bears.


def test_long_runs_are_looked_at_in_columns():
    """Delta widths of one, two and three octets, and times that rise: each record's number and time count."""
    count = 20_000
    rendered = [render_record(delta, b"v" * 10, b"k", (), delta) for delta in range(count)]
    assert tuple(seen(batch_of(b"".join(rendered), count))) == (BASE_MS, BASE_MS + count - 1, count - 1, False, False)
    for wrong in (63, 64, 70, 8190, 8192, 12_345, 19_999):
        changed = rendered.copy()
        changed[wrong] = render_record(wrong ^ 1, b"v" * 10, b"k", (), wrong)
        with pytest.raises(CorruptBatch):
            seen(batch_of(b"".join(changed), count))


@pytest.mark.parametrize(
    "record",
    [
        b"\x00" * 10,
        b"\x80\x80\x80\x80\x80\x01" + b"\x00" * 8,  # a length of six octets: Java reads five
        varint(7) + b"\x00\x00\x00\x01\x01\x02\x01",  # a header whose name has no length
        varint(6) + b"\x00\x00\x00\x01\x01\x01",  # -1 headers
        varint(6) + b"\x00\x00\x00\x01\x01\x80",
        varint(6) + b"\x00\x00\x00\x08\x01\x00",
        varint(15) + b"\x00" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\x00\x01\x01\x00",  # a time past 64 bits
    ],
)
def test_what_clients_do_not_read(record):
    """DefaultRecord.readFrom and ByteUtils.readVarint refuse these."""
    with pytest.raises(CorruptBatch):
        seen(batch_of(record, 1))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_block_that_ends_early_or_late(kind):
    """Every octet cut off, and any that follows: no client opens the one, and the other is work for nothing."""
    records = render_record(0, b"value")
    block = compress(kind, records)
    assert b"".join(pieces(kind, block, 1000)) == records
    for cut in range(len(block)):
        with pytest.raises(CorruptBatch):
            seen(encode_batch(0, 0, 1, block[:cut], leader_epoch=0, base_timestamp_ms=0, max_timestamp_ms=0,
                              attributes=kind))  # fmt: skip
    with pytest.raises(CorruptBatch):
        seen(encode_batch(0, 0, 1, block + b"\x01\x02\x03\x04\x05", leader_epoch=0, base_timestamp_ms=0,
                          max_timestamp_ms=0, attributes=kind))  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_short(kind):
    """60,000 records of many lengths are looked at in steps of some hundred records each."""
    rendered = [render_record(delta, b"v" * (delta % 7), None, (), delta % 3) for delta in range(60_000)]
    data = batch_of(b"".join(rendered), 60_000, kind)
    units = list(examine(data, 0, parse_header(data)))
    assert len(units) >= 50
    assert max(units) <= walk.RECORDS_UNITS


def test_a_time_is_found_without_the_rest():
    """The first record at or behind a time, from an offset on; nothing behind it is looked at."""
    rendered = [render_record(delta, b"v", None, (), delta // 10) for delta in range(1000)] + [b"no record"]
    data = batch_of(b"".join(rendered), 1001)
    for begin, until, wanted in ((0, 50, 500), (505, 50, 505), (0, 0, 0), (700, 3, 700)):
        found = finish(examine(data, 0, parse_header(data), begin, BASE_MS + until))
        assert (found.is_found, found.largest_offset) == (True, wanted)

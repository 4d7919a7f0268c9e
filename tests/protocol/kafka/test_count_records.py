"""Records are counted by their lengths, runs of one length together: the same as one by one."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.kafka.records import (
    HEADER_SIZE,
    CorruptBatch,
    count_records,
    encode_batch,
    parse_header,
    read_varint,
    render_record,
)

STRETCH = st.tuples(st.sampled_from((0, 3, 50, 56, 57, 58, 8180, 9000)), st.integers(1, 20))
SIZES = st.lists(STRETCH, min_size=1, max_size=8)


def one_by_one(data, header):
    """Where the last record ends, or None when they do not fit."""
    at = HEADER_SIZE
    for _ in range(header.records):
        try:
            length, at = read_varint(data, at)
        except CorruptBatch:
            return None
        assume(length > 0)  # Whoever reads it sees that it is nonsense.
        if at + length > header.size:
            return None
        at += length
    return at


def batch_of(sizes):
    """A batch whose values have these sizes."""
    records = b"".join(render_record(delta, b"x" * size) for delta, size in enumerate(sizes))
    octets = encode_batch(
        0, len(sizes) - 1, len(sizes), records, leader_epoch=0, base_timestamp_ms=0, max_timestamp_ms=0
    )
    return bytearray(octets)


@given(SIZES, st.data())
def test_the_same_as_one_by_one(stretches, data):
    """Whatever lengths follow each other, and whatever octet or count is changed."""
    octets = batch_of([size for size, count in stretches for _ in range(count)])
    if data.draw(st.booleans()):
        octets[data.draw(st.integers(57, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = parse_header(octets)
    except CorruptBatch:
        return
    fits = one_by_one(octets, header) == header.size
    if fits:
        count_records(memoryview(octets), 0, header)
    else:
        with pytest.raises(CorruptBatch):
            count_records(memoryview(octets), 0, header)


@pytest.mark.parametrize("count", [1, 9, 1000])
def test_one_record_too_many(count):
    """A count that says one more, or one less, than there are is refused, also within a run."""
    octets = batch_of([100] * count)
    count_records(octets, 0, parse_header(octets))
    for wrong in (count + 1, count - 1):
        changed = octets.copy()
        changed[57:61] = wrong.to_bytes(4, "big")
        header = parse_header(octets)._replace(records=wrong)
        with pytest.raises(CorruptBatch):
            count_records(changed, 0, header)

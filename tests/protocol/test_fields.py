"""Field tables: round trips, limits, hostile lengths, and pamqp as an independent opinion."""

from __future__ import annotations

import datetime
import math
import struct
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode as pamqp_decode
from pamqp import encode as pamqp_encode

from protocol.amqp.errors import SYNTAX_ERROR, PeerError
from protocol.amqp.fields import DEPTH_MAX, ELEMENTS_MAX, Timestamp, decode_table, encode_table

NAMES = st.text(max_size=40).filter(lambda name: len(name.encode()) <= 255)
DECIMALS = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale), st.integers(-(2**31), 2**31 - 1), st.integers(0, 255)
)
SHARED_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=60), st.floats(width=32),
)  # fmt: skip
"""Values that both codecs can carry without loss."""
SCALARS = st.one_of(
    SHARED_SCALARS, st.integers(2**63, 2**64 - 1), st.floats(), st.binary(max_size=60), DECIMALS,
    st.integers(0, 2**64 - 1).map(Timestamp),
)  # fmt: skip


def nested(scalars):
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=20
    )


def tables(scalars):
    return st.dictionaries(NAMES, nested(scalars), max_size=6)


def same(left, right):
    """Equal in value and in type, NaN included; what a consumer of the values could tell apart."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return left == right


def table_of(octets):
    return struct.pack(">I", len(octets)) + octets


def refused(data):
    with pytest.raises(PeerError) as caught:
        decode_table(data)
    assert caught.value.reply_code == SYNTAX_ERROR
    return caught.value.text


@given(tables(SCALARS))
def test_what_is_encoded_comes_back(values):
    """Every value has one type letter, so that decoding gives back the value and its type."""
    wire = encode_table(values)
    decoded, position = decode_table(b"??" + wire + b"!", 2)
    assert same(decoded, values)
    assert position == 2 + len(wire)


@given(tables(SCALARS))
def test_what_is_decoded_can_be_encoded_again(values):
    """A header table may be stored again without a header (BCC): encoding what was decoded never fails."""
    decoded, _ = decode_table(encode_table(values))
    assert encode_table(decoded) == encode_table(values)


@pytest.mark.parametrize(
    ("letter", "octets", "value"),
    [
        ("t", b"\x00", False), ("t", b"\x01", True), ("t", b"\x7f", True),
        ("b", b"\xff", -1), ("B", b"\xff", 255), ("s", b"\xff\xfe", -2), ("u", b"\xff\xfe", 65534),
        ("I", b"\x80\x00\x00\x00", -(2**31)), ("i", b"\xff\xff\xff\xff", 2**32 - 1),
        ("l", b"\x80" + bytes(7), -(2**63)), ("L", b"\xff" * 8, 2**64 - 1),
        ("f", b"\x3f\x80\x00\x00", 1.0), ("d", b"\x3f\xf0" + bytes(6), 1.0),
        ("D", b"\x02\x00\x00\x30\x39", Decimal("123.45")), ("D", b"\x00\xff\xff\xff\xff", Decimal(-1)),
        ("S", b"\x00\x00\x00\x02\xc3\xa4", "ä"), ("S", b"\x00\x00\x00\x01\xff", b"\xff"),
        ("x", b"\x00\x00\x00\x01a", b"a"), ("T", bytes(7) + b"\x05", Timestamp(5)),
        ("F", bytes(4), {}), ("A", bytes(4), []), ("V", b"", None),
    ],
)  # fmt: skip
def test_each_letter(letter, octets, value):
    """RabbitMQ's type letters: `s` is a signed short and `b` a signed octet, unlike in the 0-9-1 text."""
    decoded, _ = decode_table(table_of(b"\x01k" + letter.encode() + octets))
    assert same(decoded, {"k": value})
    # What is decoded can be stored again; only the width may differ.
    assert same(decode_table(encode_table(decoded))[0], {"k": value})


@given(tables(SHARED_SCALARS))
def test_pamqp_reads_what_we_write(values):
    """An independent codec finds the same values in our octets (it reads 'd' and 'f' alike)."""
    wire = encode_table(values)
    consumed, decoded = pamqp_decode.field_table(wire)
    assert consumed == len(wire)
    assert same(decoded, values)


@given(tables(SHARED_SCALARS))
def test_we_read_what_pamqp_writes(values):
    """The same the other way round; pamqp sorts keys and chooses the narrowest integer."""
    wire = pamqp_encode.field_table(values)
    decoded, position = decode_table(wire)
    assert position == len(wire)
    assert same(sort_keys(decoded), sort_keys(values))


def sort_keys(value):
    if isinstance(value, dict):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    return [sort_keys(item) for item in value] if isinstance(value, list) else value


# Keys of up to 128 octets: pamqp cuts longer ones.
@given(
    st.dictionaries(
        st.text(max_size=32), st.none() | st.booleans() | st.text(max_size=20) | st.integers(2**17, 2**31 - 1)
    )
)
def test_byte_for_byte_like_pamqp(values):
    """Where both have only one letter to choose, the octets are the same (keys in pamqp's order)."""
    assert encode_table(dict(sorted(values.items()))) == pamqp_encode.field_table(values)


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(-(2**31), 2**31 - 1))
def test_timestamps_and_decimals_like_pamqp(seconds, scale, unscaled):
    """Timestamps are unsigned seconds; decimals are a scale octet and a signed unscaled value."""
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    number = Decimal(unscaled).scaleb(-scale)
    ours = encode_table({"d": number, "t": Timestamp(seconds)})
    assert ours == pamqp_encode.field_table({"d": number, "t": moment})


def test_of_repeated_names_the_last_wins():
    """A name that stands twice is no error; the last value counts."""
    assert decode_table(table_of(b"\x01kt\x01\x01kt\x00"))[0] == {"k": False}


@given(tables(SCALARS), st.data())
def test_every_truncation_is_a_peer_error(values, data):
    """A table cut anywhere gives 502, never another exception and never a value."""
    wire = encode_table(values)
    refused(wire[: data.draw(st.integers(0, len(wire) - 1))])


@given(st.binary(max_size=300))
def test_arbitrary_octets(octets):
    """Whatever stands in a table, the answer is a dict or 502."""
    try:
        values, position = decode_table(table_of(octets))
    except PeerError as error:
        refusal = error.reply_code
    else:
        refusal = None
        assert isinstance(values, dict)
        assert position == 4 + len(octets)
    assert refusal in (None, SYNTAX_ERROR)


def nest(depth, array=False):
    """A table whose innermost table is the depth-th."""
    inner = bytes(4)
    for _ in range(depth - 1):
        inner = table_of(b"A" + inner) if array else table_of(b"\x00F" + inner)
    return table_of(b"\x00A" + inner) if array else inner


@pytest.mark.parametrize("array", [False, True])
def test_nesting_is_bounded(array):
    """Depth 32 is the last that is read; 100,000 levels end in 502, not in a RecursionError (CVE-2026-69220)."""
    decode_table(nest(DEPTH_MAX, array))
    for depth in (DEPTH_MAX + 2, 580):
        assert "nested too deeply" in refused(nest(depth, array))
    assert "nested too deeply" in refused(_deep(100_000))


def _deep(depth):
    """As `nest`, built from the outside, since each level's length holds all those below."""
    return b"".join(struct.pack(">I", (depth - level) * 6) + b"\x00F" for level in range(depth)) + bytes(4)


def test_elements_are_bounded():
    """4096 values per outermost table, nested or not, however little each takes (zero-width `V`)."""
    assert len(decode_table(table_of(b"\x01aA" + table_of(b"V" * (ELEMENTS_MAX - 1))))[0]["a"]) == ELEMENTS_MAX - 1
    assert "too many" in refused(table_of(b"\x01aA" + table_of(b"V" * ELEMENTS_MAX)))
    half = b"\x00A" + table_of(b"V" * (ELEMENTS_MAX // 2))
    assert "too many" in refused(table_of(half + half))
    assert "too many" in refused(table_of(b"\x00V" * (ELEMENTS_MAX + 1)))


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 2**31 - 1, 1000])
@pytest.mark.parametrize("letter", [b"", b"\x01kS", b"\x01kx", b"\x01kF", b"\x01kA"])
def test_lying_lengths_cost_nothing(letter, length):
    """A declared length never leads to an allocation: 502, and the peak stays within a few KiB."""
    data = table_of(letter + struct.pack(">I", length) + b"abc") if letter else struct.pack(">I", length) + b"abc"
    tracemalloc.start()
    try:
        refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_384


def test_an_inner_length_may_not_leave_its_container():
    """An array inside a table ends with the table even if more octets follow it."""
    inner = b"\x01kA" + struct.pack(">I", 5)
    refused(table_of(inner) + b"VVVVV")


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {1, 2}])
def test_values_without_a_letter_are_refused_by_the_encoder(value):
    """The encoder raises rather than write something else."""
    with pytest.raises((TypeError, struct.error)):
        encode_table({"k": value})

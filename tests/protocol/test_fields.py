"""Field tables: round trips, an independent oracle, and everything a hostile length can say."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode as oracle_decode
from pamqp import encode as oracle_encode

from protocol.amqp.errors import PeerError
from protocol.amqp.fields import DEPTH_MAX, ELEMENTS_MAX, Timestamp, decode_table, encode_table, without_entry

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) <= 255)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=50),
    st.binary(max_size=50).filter(lambda raw: raw != b""),
    st.integers(0, 2**63 - 1).map(Timestamp),
    st.decimals(min_value=-100_000, max_value=100_000, places=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=15,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)


@given(TABLES)
def test_round_trip(table):
    """What is encoded is decoded to the same values, and all of it is consumed."""
    raw = encode_table(table)
    values, end = decode_table(raw)
    assert values == table
    assert end == len(raw)


@given(st.dictionaries(NAMES, st.one_of(st.booleans(), st.integers(0, 2**31 - 1), st.text(max_size=20)), max_size=6))
def test_agrees_with_an_independent_codec(table):
    """pamqp reads our tables, and we read pamqp's."""
    assert oracle_decode.field_table(encode_table(table))[1] == table
    assert decode_table(oracle_encode.field_table(table))[0] == table


@given(st.binary(max_size=300))
def test_arbitrary_octets_raise_nothing_but_peer_error(raw):
    """Whatever comes: values or PeerError 502."""
    try:
        outcome = decode_table(raw)
    except PeerError as error:
        outcome = error
    assert isinstance(outcome, tuple) or outcome.reply_code == 502


@given(TABLES, st.data())
def test_every_truncation_is_refused(table, data):
    """A table cut anywhere is malformed, never half of it."""
    raw = encode_table(table)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(PeerError):
        decode_table(raw[:cut])


@pytest.mark.parametrize("letter", [b"S", b"x", b"F", b"A"])
@pytest.mark.parametrize("length", [1, 2**31, 2**32 - 1])
def test_lying_lengths_allocate_nothing(letter, length):
    """A declared length beyond what holds it is an error before anything of that size is made."""
    body = b"\x01a" + letter + struct.pack(">I", length)
    with pytest.raises(PeerError):
        decode_table(struct.pack(">I", len(body)) + body)


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 1000, 20_000])
@pytest.mark.parametrize("letter", [b"F", b"A"])
def test_nesting_is_bounded(depth, letter):
    """Deep nesting is PeerError, never RecursionError (CVE-2026-69220)."""
    raw = b""
    for _ in range(depth):
        raw = (b"\x01a" if letter == b"F" else b"") + letter + struct.pack(">I", len(raw)) + raw
    raw = raw if letter == b"F" else b"\x01a" + raw
    with pytest.raises(PeerError, match="nested"):
        decode_table(struct.pack(">I", len(raw)) + raw)


def test_elements_are_bounded():
    """Values without width cannot be multiplied (CVE-2026-66079)."""
    array = b"V" * (ELEMENTS_MAX + 1)
    body = b"\x01aA" + struct.pack(">I", len(array)) + array
    with pytest.raises(PeerError, match="too many"):
        decode_table(struct.pack(">I", len(body)) + body)


@given(TABLES, NAMES, VALUES)
def test_cutting_an_entry_leaves_every_other_octet(table, name, value):
    """What remains is what would have been there without the entry, to the octet."""
    table.pop(name, None)
    items = list(table.items())
    before = encode_table(dict([*items[:2], (name, value), *items[2:]]))
    assert without_entry(before, name) == encode_table(table)


def test_unknown_letter_is_named():
    """An unknown field type is 502 and says which."""
    with pytest.raises(PeerError, match="unknown field type 90"):
        decode_table(struct.pack(">I", 3) + b"\x01aZ")


def test_decimal_scale():
    """A decimal is an unscaled integer and a scale."""
    raw = b"\x01aD\x02" + struct.pack(">i", -314)
    assert decode_table(struct.pack(">I", len(raw)) + raw)[0] == {"a": Decimal("-3.14")}

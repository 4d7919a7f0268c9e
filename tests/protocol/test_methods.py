"""Methods: every one there and back, with pamqp's independently generated codec as the second opinion."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands

from protocol.amqp.errors import PeerError
from protocol.amqp.methods import DECODERS, METHODS, NAMES, encode_method, erlang_binary, method_number

SHORTSTR = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
TABLES = st.dictionaries(
    st.text(max_size=32),  # pamqp cuts keys at 128 octets.
    st.none() | st.booleans() | st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1),
    max_size=4,
)
VALUES = {
    "o": st.integers(0, 255), "s": st.integers(0, 2**16 - 1), "l": st.integers(0, 2**32 - 1),
    "q": st.integers(0, 2**64 - 1), "z": SHORTSTR, "Z": st.binary(max_size=60), "F": TABLES, "b": st.booleans(),
}  # fmt: skip


def arguments_of(name):
    return st.tuples(*(VALUES[letter] for letter in METHODS[name][2]))


def pamqp_class(name):
    class_id, method_id, _ = METHODS[name]
    return commands.INDEX_MAPPING.get(class_id << 16 | method_id)


IN_PAMQP = [name for name in METHODS if pamqp_class(name) is not None]
UNSIGNED = {"q": 2**63}  # pamqp reads a longlong as signed.


def test_only_the_obsolete_class_is_unknown_to_pamqp():
    """The table has every method that pamqp has, and beyond it nothing but access.request (spec 0-8)."""
    ours = {class_id << 16 | method_id for class_id, method_id, _ in METHODS.values()}
    assert ours >= set(commands.INDEX_MAPPING)
    assert {NAMES[number] for number in ours - set(commands.INDEX_MAPPING)} == {
        "access.request", "access.request-ok",
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_there_and_back(name):
    """What is encoded is decoded to the same values."""

    @given(arguments_of(name))
    @settings(max_examples=10)
    def check(values):
        payload = encode_method(name, *values)
        assert int.from_bytes(payload[:4], "big") == method_number(name)
        assert DECODERS[method_number(name)](payload) == values

    check()


def _as_pamqp_reads(letter, value):
    if letter == "Z":
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", IN_PAMQP)
def test_pamqp_reads_every_method(name):
    """pamqp finds in our octets the values that we put there, argument by argument."""

    @given(arguments_of(name))
    @settings(max_examples=8, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    def check(values):
        types = METHODS[name][2]
        if any(value >= UNSIGNED.get(letter, 2**64) for letter, value in zip(types, values, strict=True)
               if letter in UNSIGNED):  # fmt: skip
            values = tuple(
                value % 2**63 if letter == "q" else value for letter, value in zip(types, values, strict=True)
            )
        frame = pamqp_class(name)()
        frame.unmarshal(encode_method(name, *values)[4:])
        assert [getattr(frame, attribute) for attribute in frame.__slots__] == [
            _as_pamqp_reads(letter, value) for letter, value in zip(types, values, strict=True)
        ]

    check()


@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", IN_PAMQP)
def test_every_method_byte_for_byte_like_pamqp(name):
    """The other way round: what pamqp encodes we decode, and encode to the same octets where tables are empty."""

    @given(arguments_of(name), st.booleans())
    @settings(max_examples=8)
    def check(values, with_tables):
        types = METHODS[name][2]
        values = tuple(
            value % 2**63 if letter == "q"
            else value.hex().encode() if letter == "Z"
            else {} if letter == "F" and not with_tables
            else value
            for letter, value in zip(types, values, strict=True)
        )  # fmt: skip
        frame = pamqp_class(name)()
        for attribute, letter, value in zip(frame.__slots__, types, values, strict=True):
            setattr(frame, attribute, value.decode() if letter == "Z" else value)
        with mock.patch.object(type(frame), "validate", return_value=None):
            theirs = encode_method(name, *values)[:4] + frame.marshal()
        assert DECODERS[method_number(name)](theirs) == values
        if not with_tables:
            assert theirs == encode_method(name, *values)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_every_truncation_is_a_peer_error(name):
    """A method cut at any octet gives 501 or 502 naming it, and nothing else."""

    @given(arguments_of(name))
    @settings(max_examples=3)
    def check(values):
        payload = encode_method(name, *values)
        for length in range(4, len(payload)):
            with pytest.raises(PeerError) as caught:
                DECODERS[method_number(name)](payload[:length])
            assert caught.value.reply_code in (501, 502)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_octets_after_the_last_argument_are_refused(name):
    """A method is as long as its arguments; RabbitMQ's generated decoder matches the end as well."""
    zeros = {"z": "", "Z": b"", "F": {}, "b": False}
    payload = encode_method(name, *(zeros.get(letter, 0) for letter in METHODS[name][2]))
    with pytest.raises(PeerError):
        DECODERS[method_number(name)](payload + b"\x00")


@given(st.sampled_from(sorted(NAMES)), st.binary(max_size=200))
@settings(max_examples=300)
def test_arbitrary_arguments(number, octets):
    """Whatever follows class and method, the answer is a tuple or a PeerError."""
    try:
        values = DECODERS[number](number.to_bytes(4, "big") + octets)
    except PeerError as error:
        refusal = error.reply_code
    else:
        refusal = None
        assert len(values) == len(METHODS[NAMES[number]][2])
    assert refusal in (None, 501, 502)


def test_a_shortstr_of_256_octets_is_refused_by_the_encoder():
    """A shortstr has one octet of length; the encoder raises rather than cut."""
    with pytest.raises(ValueError, match="range"):
        encode_method("queue.declare-ok", "n" * 256, 0, 0)


@given(st.binary(max_size=10_000))
def test_what_is_printed_of_a_peers_octets_is_short(octets):
    """Error texts show at most 32 octets, since a reply-text has 255."""
    assert len(erlang_binary(octets)) <= 32 * 4 + 5

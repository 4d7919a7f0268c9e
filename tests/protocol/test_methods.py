"""Methods: every row of the table round trips, agrees with an independent codec, and refuses every truncation."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from protocol.amqp.errors import FRAME_ERROR, PeerError
from protocol.amqp.methods import DECODERS, METHODS, encode_method, erlang_binary, method_number

SHORT = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
ARGUMENTS = {
    "o": st.integers(0, 255),
    "s": st.integers(0, 2**16 - 1),
    "l": st.integers(0, 2**32 - 1),
    "q": st.integers(0, 2**64 - 1),
    "z": SHORT,
    "Z": st.binary(max_size=100),
    "F": st.dictionaries(SHORT.filter(bool), st.integers(0, 1000), max_size=3),
    "b": st.booleans(),
}


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
def test_round_trip_and_truncation(name, data):
    """Decoding gives back what was encoded; a payload that is too short is 501 with the culprit's ids."""
    values = tuple(data.draw(ARGUMENTS[letter]) for letter in METHODS[name][2])
    payload = encode_method(name, *values)
    decode = DECODERS[method_number(name)]
    assert decode(payload) == values
    if len(payload) > 4:
        with pytest.raises(PeerError) as caught:
            decode(payload[: data.draw(st.integers(4, len(payload) - 1))])
        assert caught.value.reply_code in (FRAME_ERROR, 502)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("access.")])
def test_numbers_agree_with_an_independent_codec(name):
    """Class and method ids are those of pamqp."""
    class_id, method_id, _ = METHODS[name]
    known = commands.INDEX_MAPPING.get(class_id << 16 | method_id)
    assert known is not None
    assert known.name.lower().replace(".", "") == name.replace("-", "").replace(".", "")


def test_declare_is_read_as_another_codec_writes_it():
    """pamqp's queue.declare means the same here."""
    frame = commands.Queue.Declare(queue="q", durable=True, exclusive=True, arguments={"x-expires": 5})
    payload = struct.pack(">I", frame.index) + frame.marshal()
    assert DECODERS[method_number("queue.declare")](payload) == (
        0, "q", False, True, True, False, False, {"x-expires": 5},
    )  # fmt: skip


def test_names_are_utf8():
    """A shortstr that is not UTF-8 is 501, as on RabbitMQ."""
    payload = encode_method("queue.purge", 0, "ab", False).replace(b"ab", b"\xff\xfe")
    with pytest.raises(PeerError, match="Malformed UTF-8"):
        DECODERS[method_number("queue.purge")](payload)


def test_octets_in_error_texts_look_like_rabbitmqs_and_are_cut():
    """Printable octets as text, others as numbers, never more than a few."""
    assert erlang_binary(b"abc") == '<<"abc">>'
    assert erlang_binary(b"\x00\x14") == "<<0,20>>"
    assert len(erlang_binary(b"x" * 10_000)) < 50

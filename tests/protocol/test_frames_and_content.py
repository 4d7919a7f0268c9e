"""Frames and contents: cut at every octet, checked in every field, and the quick scan agrees with the full parse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from protocol.amqp import content, frames
from protocol.amqp.errors import PeerError

BODIES = st.binary(max_size=300)
FLAG_SETS = st.sets(st.sampled_from([row[0] for row in content.PROPERTIES]))


def properties_octets(flags):
    """(flag word, octets) of some valid properties."""
    sample = {"z": b"\x03abc", "o": b"\x02", "T": b"\x00" * 8, "F": b"\x00\x00\x00\x04\x01aV" + b""}
    sample["F"] = b"\x00\x00\x00\x03\x01aV"
    return sum(flags), b"".join(sample[letter] for flag, _, letter in content.PROPERTIES if flag in flags)


def test_a_frame_cut_anywhere_asks_for_what_it_takes():
    """Missing octets are no error: the answer is how many the frame takes."""
    whole = frames.method_frame(3, "queue.purge", 0, "q", False)
    for cut in range(len(whole)):
        assert frames.next_frame(whole[:cut], 0, 4096) == (7 if cut < 7 else len(whole))
    assert frames.next_frame(whole, 0, 4096)[:2] == (frames.METHOD, 3)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x01\x00\x01\x00\x00\x00\x01x\x00", "invalid_frame_end_marker,0"),
        (b"\x09\x00\x01\x00\x00\x00\x01x\xce", "unknown_frame"),
        (b"\x08\x00\x00\x00\x00\x00\x01x\xce", "unknown_frame"),
        (b"\x03\x00\x01\xff\xff\xff\xff", "frame_too_large"),
    ],
)
def test_broken_frames_are_501(raw, text):
    """Wrong end, unknown type, a heartbeat with payload, a size above the limit: 501 before anything is kept."""
    with pytest.raises(PeerError, match=text) as caught:
        frames.next_frame(raw, 0, 4096)
    assert caught.value.reply_code == 501


@given(BODIES, FLAG_SETS, st.integers(1, 65_535))
def test_scan_recognises_what_is_regular(body, flags, channel):
    """A content of one body frame is recognised whole; cut anywhere it asks for more, never for too much."""
    word, octets = properties_octets(flags)
    whole = content.encode_content(channel, octets, word, body, 131_072)
    after, found, head = content.scan(whole, 0, len(whole), channel, 131_072)
    assert (after, found) == (len(whole), word)
    assert whole[head : head + len(body)] == body
    for cut in range(len(whole)):
        answer, _, need = content.scan(whole[:cut], 0, cut, channel, 131_072)
        assert answer == content.NEED_DATA
        assert cut < need <= len(whole)
    assert content.scan(whole, 0, len(whole), channel ^ 1, 131_072)[0] == content.IRREGULAR
    assert content.body(whole) == body
    moved = content.on_channel(whole, 7, 4096)
    assert content.body(moved) == body
    assert content.header_payload(moved) == content.header_payload(whole)


@given(st.binary(min_size=22, max_size=120))
def test_scan_never_raises_and_never_accepts_what_the_parser_refuses(raw):
    """The quick scan refuses or agrees with the full parse."""
    after, flags, _ = content.scan(raw, 0, len(raw), int.from_bytes(raw[1:3], "big"), 131_072)
    if after > 0:
        assert content.parse_header(content.header_payload(raw))[1] == flags


@given(BODIES, st.text(min_size=1, max_size=20), st.integers(0, 255), st.integers(0, 2**31 - 1))
def test_properties_agree_with_an_independent_codec(body, text, priority, timestamp):
    """Properties written by pamqp are read the same here."""
    import datetime

    stamp = datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC)
    properties = commands.Basic.Properties(
        content_type=text, headers={"a": text}, priority=priority, message_id=text, timestamp=stamp
    )
    payload = b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + properties.marshal()
    assert content.parse_header(payload)[0] == len(body)
    values = content.parse_properties(payload)
    assert values["headers"] == {"a": text}
    assert values["priority"] == priority
    assert values["timestamp"] == timestamp
    assert values["message-id"] == text


def test_a_property_list_that_does_not_fit_is_541():
    """A truncated or overlong list never reaches a consumer."""
    for octets in (b"", b"\x05abc", b"\x03abcd"):
        payload = b"\x00\x3c\x00\x00" + bytes(8) + content.CONTENT_TYPE.to_bytes(2, "big") + octets
        with pytest.raises(PeerError) as caught:
            content.parse_header(payload)
        assert caught.value.reply_code == 541


def test_replacing_a_property_leaves_the_others_alone():
    """Only the named property's octets change."""
    word, octets = properties_octets({content.CONTENT_TYPE, content.REPLY_TO, content.APP_ID})
    changed = content.with_properties(
        content.encode_content(1, octets, word, b"body", 4096), {"reply-to": b"\x05there"}
    )
    values = content.parse_properties(content.header_payload(changed))
    assert values == {"content-type": "abc", "reply-to": "there", "app-id": "abc"}
    assert content.body(changed) == b"body"

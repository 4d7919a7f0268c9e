"""Octets that no client of good will sends: what is wrong is refused, at a cost that what was sent bounds."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio_values import structs
from steps import lines_of

from protocol.kafka.apis import APIS
from protocol.kafka.apis.fetch import FetchPartition, FetchRequest, FetchTopic
from protocol.kafka.headers import (
    RequestHeader,
    UnsupportedVersion,
    read_request,
    read_response,
    write_request,
    write_response,
)
from protocol.kafka.readers import ELEMENTS_MAX, read_uvarint
from protocol.kafka.schema import MalformedRequest
from protocol.kafka.writers import uvarint

REFUSALS = (MalformedRequest, UnsupportedVersion)
ENDS = [(api.key, version) for api in APIS.values() for version in sorted({api.min_version, api.max_version})]


def frame_of(key, version, request):
    """A request as a client sends it, without its size."""
    return write_request(RequestHeader(key, version, 7, "me"), request)[4:]


def body_after_header(key, version, body):
    """The same of octets."""
    return struct.pack(">hhih", key, version, 7, -1) + (b"\0" if APIS[key].is_flexible(version) else b"") + body


def sample(key, version, kind="request"):
    """An arbitrary message, with something in its arrays where the first of a few has nothing."""
    api = APIS[key]
    found = []

    @settings(max_examples=8, deadline=None, database=None, derandomize=True)
    @given(structs(getattr(api, kind), version, flexible=api.is_flexible(version)))
    def draw(value):
        found.append(value)

    draw()
    return max(found, key=lambda value: len(repr(value)))


@pytest.mark.parametrize(("key", "version"), ENDS)
def test_what_is_cut_or_changed_is_refused(key, version):
    """A request that ends anywhere too soon is refused; with any octet changed it is so, or another request."""
    frame = frame_of(key, version, sample(key, version))
    assert read_request(frame)[0] == (key, version, 7, "me")
    for end in range(len(frame)):
        with pytest.raises(REFUSALS):
            read_request(frame[:end])
    for position in range(len(frame)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(frame)
            changed[position] ^= flip
            try:
                read_request(memoryview(changed))
            except REFUSALS:
                continue
    assert read_request(frame + b"\0") == read_request(frame)


@pytest.mark.parametrize(("key", "version"), ENDS)
def test_answers_that_are_cut_are_refused(key, version):
    """The client's side is as careful: nothing but MalformedRequest comes of an answer that ends too soon, or late."""
    response = sample(key, version, "response")
    frame = b"".join(write_response(RequestHeader(key, version, 7, None), response))[4:]
    assert read_response(key, version, frame) == (7, response)
    for octets in (*(frame[:end] for end in range(len(frame))), frame + b"\0"):
        with pytest.raises(MalformedRequest):
            read_response(key, version, octets)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([(api.key, v) for api in APIS.values() for v in range(api.min_version, api.max_version + 1)]),
    st.binary(max_size=200),
)
def test_noise(which, octets):
    """Whatever stands behind a header is a request or refused."""
    try:
        read_request(body_after_header(*which, octets))
    except MalformedRequest:
        pass  # Refused is one of the two answers; any other exception fails the test.
    else:
        assert read_request(body_after_header(*which, octets))[0][:2] == which


@pytest.mark.parametrize("version", [0, 8, 9, 12])
@pytest.mark.parametrize("count", [2**31 - 2, 2**20, 101])
def test_counts_are_not_believed(version, count):
    """A count of elements for which there are not the octets costs nothing."""
    many = uvarint(count + 1) if version >= 9 else struct.pack(">i", count)
    frame = body_after_header(3, version, many + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest, match=r"MetadataRequest\.topics at octet"):
            read_request(frame)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_elements_are_counted():
    """A frame full of the smallest structs there are is refused: each would take many times the octets it came in."""
    empty_topic = b"\x01\x01\0"
    frame = body_after_header(0, 9, b"\0" + struct.pack(">hi", 1, 1000) + uvarint(ELEMENTS_MAX + 2)
                              + empty_topic * (ELEMENTS_MAX + 1) + b"\0")  # fmt: skip
    with pytest.raises(MalformedRequest, match=r"topic_data.*more than 40000 elements"):
        read_request(frame)


def test_elements_are_counted_over_all_arrays():
    """Many arrays that are small enough are as many elements as one that is not."""
    partitions = uvarint(1001) + (struct.pack(">iq", 0, 0) + b"\0") * 1000
    count = ELEMENTS_MAX // 1000
    topics = uvarint(count + 1) + (b"\x02t" + partitions + b"\0") * count
    with pytest.raises(MalformedRequest, match=r"DeleteRecordsTopic\.partitions.*elements in all"):
        read_request(body_after_header(21, 2, topics + struct.pack(">i", 0) + b"\0"))


def test_a_tagged_field_keeps_to_its_size():
    """One that says it is empty may not read on: thousands of them would each read the same octets again."""
    rest = struct.pack(">iiiibii", -1, 0, 0, 0, 0, 0, -1) + b"\x01\x01\x01"
    fields = 20_000
    lying = b"\x00\x05" + uvarint(1 << 20) + b"\0" * 2
    frame = body_after_header(1, 12, rest + uvarint(fields) + lying * fields + bytes(1 << 20))

    def refused():
        with pytest.raises(MalformedRequest, match=r"FetchRequest\.cluster_id"):
            read_request(frame)

    assert lines_of(refused) < fields
    short = body_after_header(1, 12, rest + b"\x01\x00\x04\x02ab!")
    with pytest.raises(MalformedRequest, match="not of the size it says"):
        read_request(short)


def test_unknown_tagged_fields_are_skipped():
    """At every level, also among structs that are otherwise read as rows of a table."""
    partition = FetchPartition(partition=3, fetch_offset=9, partition_max_bytes=5)
    expected = FetchRequest(topics=[FetchTopic(topic="t", partitions=[partition, partition])])
    frame = frame_of(1, 12, expected)
    row = struct.pack(">iiqiqi", 3, -1, 9, -1, -1, 5)
    unknown = b"\x02\x63\x00\x64\x03abc"
    body = struct.pack(">iiiibii", -1, 0, 0, 2**31 - 1, 0, 0, -1) + b"\x02\x02t\x03" + row + b"\0"
    body += row + unknown + unknown + b"\x01\x01" + unknown
    assert read_request(body_after_header(1, 12, body))[1] == expected == read_request(frame)[1]
    header = struct.pack(">hhih", 1, 12, 7, -1) + unknown
    assert read_request(header + body)[1] == expected


@pytest.mark.parametrize(
    ("key", "version", "body", "field"),
    [
        (11, 0, b"\xff\xff", r"JoinGroupRequest\.group_id at octet 12"),
        (11, 0, b"\x00\x02\xff\xff", r"JoinGroupRequest\.group_id at octet 12"),
        (12, 4, b"\0", r"HeartbeatRequest\.group_id at octet 12"),
        (8, 2, b"\x00\x01g" + struct.pack(">i", 5), r"OffsetCommitRequest\.member_id at octet 17"),
        (3, 1, b"\xff\xff\xff\xfe", r"MetadataRequest\.topics at octet 14: a length of -2"),
        (3, 0, b"\xff\xff\xff\xff", r"MetadataRequest\.topics at octet 14: may not be null"),
    ],
)
def test_what_is_wrong_is_said(key, version, body, field):
    """Null where there is none, text that is not UTF-8, octets that end: the message names field and octet."""
    with pytest.raises(MalformedRequest, match=field):
        read_request(body_after_header(key, version, body))


def test_a_varint_has_an_end():
    """Five octets are the most that an unsigned varint has."""
    assert read_uvarint(uvarint(2**32 - 1), 0, 5) == (2**32 - 1, 5)
    with pytest.raises(MalformedRequest):
        read_uvarint(b"\xff" * 6, 0, 6)
    with pytest.raises(MalformedRequest):
        read_uvarint(b"\xff", 0, 1)

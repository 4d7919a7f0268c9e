"""The tables of Kafka's messages, against `kio` (an independent codec), byte for byte, in every version there is."""

import io
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from kio.serial import entity_reader, entity_writer
from kio_values import assert_same, structs, theirs

from protocol.kafka import readers, writers
from protocol.kafka.apis import APIS
from protocol.kafka.codec import encode, read
from protocol.kafka.errors import ErrorCode
from protocol.kafka.headers import (
    RequestHeader,
    UnsupportedVersion,
    read_request,
    read_response,
    request_steps,
    response_steps,
    unsupported_version_response,
    write_request,
    write_response,
)
from protocol.kafka.schema import MalformedRequest

CASES = [
    pytest.param(api, version, kind, id=f"{api.name}-{version}-{kind}")
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
    for kind in ("request", "response")
]


@pytest.mark.parametrize(("api", "version", "kind"), CASES)
def test_against_kio(api, version, kind):
    """What we write kio reads as the same values, and writes as the same octets; those we read as what they were."""
    other = theirs(api.name, version, kind)
    cls = getattr(api, kind)
    flexible = api.is_flexible(version)

    @settings(max_examples=6, deadline=None, database=None)
    @given(structs(cls, version, flexible=flexible))
    def check(value):
        ours = encode(value, version, is_flexible=flexible)
        again, position = read(cls, version, ours, 0, is_flexible=flexible)
        assert (again, position) == (value, len(ours))
        if other is not None:
            known, size = entity_reader(other)(ours, 0)
            assert size == len(ours)
            assert_same(value, known, version, flexible=flexible)
            buffer = io.BytesIO()
            entity_writer(other)(buffer, known)
            assert buffer.getvalue() == ours

    check()


@pytest.fixture
def pausing(monkeypatch):
    """Readers and writers pause at every element."""
    for one in (writers, readers):
        monkeypatch.setattr(one, "PAUSE_ELEMENTS", 1)
        monkeypatch.setattr(one, "_PAUSING", {})


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_what_is_written_in_steps(api, pausing):
    """It is what is written at once, wherever the pauses are."""
    for version in {api.min_version, api.max_version}:
        check_steps(api, version)


def check_steps(api, version):
    """Of any values."""
    header = RequestHeader(api.key, version, 7, None)

    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(structs(api.response, version, flexible=api.is_flexible(version)))
    def check(value):
        assert b"".join(finish(response_steps(header, value))[0]) == b"".join(write_response(header, value))

    check()


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_what_is_read_in_steps(api, pausing):
    """It is what is read at once; what is cut anywhere is refused in the same words."""
    for version in {api.min_version, api.max_version}:
        check_reading(api, version)


def check_reading(api, version):
    """Of any values."""
    header = RequestHeader(api.key, version, 7, "me")

    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(structs(api.request, version, flexible=api.is_flexible(version)))
    def check(value):
        octets = write_request(header, value)[4:]
        for end in (len(octets), len(octets) - 1, len(octets) // 2, 11):
            assert read_so(lambda cut: finish(request_steps(cut))[0], octets[:end]) == read_so(
                read_request, octets[:end]
            )

    check()


def read_so(read_, octets):
    """What is read, or why it is not."""
    try:
        return read_(octets)
    except MalformedRequest as error:
        return str(error)


def finish(steps):
    """(what they make, how many pauses there were)."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, pauses
        pauses += 1


def test_large_pieces_in_steps(pausing):
    """Records that are sent as they are stay pieces of their own, among others, before and behind the first pause."""
    data = APIS[1].response.SPECS["responses"].of.SPECS["partitions"].of
    topic = APIS[1].response.SPECS["responses"].of
    records = [b"a" * 5000, b"b", b"c" * 6000, b"", b"d" * 7000, b"e"]
    partitions = [data(partition_index=n, records=[one]) for n, one in enumerate(records)]
    response = APIS[1].response(responses=[topic(topic="t", partitions=partitions[:1]),
                                           topic(topic="u", partitions=partitions[1:])])  # fmt: skip
    header = RequestHeader(1, 12, 7, None)
    found, pauses = finish(response_steps(header, response))
    assert (b"".join(found), pauses >= 6) == (b"".join(write_response(header, response)), True)
    assert {5000, 6000, 7000} <= {len(one) for one in found}


def test_kio_knows_nearly_all():
    """The oracle has all but a few of the versions, or the test above says little."""
    known = sum(theirs(api.name, version, kind) is not None for api, version, kind in (one.values for one in CASES))
    assert known >= len(CASES) * 0.95, (known, len(CASES))


def test_api_versions_is_answered_whatever_is_asked():
    """A version of ApiVersions above ours gets error 35 in the layout of version 0, with what is served (KIP-511)."""
    with pytest.raises(UnsupportedVersion) as refused:
        read_request(struct.pack(">hhih", 18, 99, 5, -1) + b"whatever")
    answer = b"".join(unsupported_version_response(refused.value))
    correlation_id, response = read_response(18, 0, answer[4:])
    assert correlation_id == 5
    assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
    assert [(key.api_key, key.min_version, key.max_version) for key in response.api_keys] == [(18, 0, 4)]
    with pytest.raises(UnsupportedVersion) as refused:
        read_request(struct.pack(">hhih", 3, 99, 5, -1))
    assert unsupported_version_response(refused.value) is None


def test_the_header_of_api_versions_has_no_tags():
    """Its answer begins like that of version 0 in every version; other flexible answers have a tag section."""
    response = APIS[18].response()
    assert b"".join(write_response(RequestHeader(18, 3, 9, None), response))[4:10] == struct.pack(">ih", 9, 0)
    metadata = b"".join(write_response(RequestHeader(3, 12, 9, None), APIS[3].response()))
    assert metadata[4:9] == struct.pack(">ib", 9, 0)


def test_record_batches_are_not_copied():
    """A request's batches are views of it; an answer's buffers are sent as they are."""
    from protocol.kafka.apis.produce import PartitionProduceData, ProduceRequest, TopicProduceData

    batch = bytes(10_000)
    data = PartitionProduceData(index=0, records=batch)
    request = ProduceRequest(topic_data=[TopicProduceData(name="t", partition_data=[data])])
    frame = write_request(RequestHeader(0, 9, 7, "me"), request)
    view = read_request(memoryview(frame)[4:])[1].topic_data[0].partition_data[0].records
    assert isinstance(view, memoryview)
    assert view == batch
    from protocol.kafka.apis.fetch import FetchableTopicResponse, FetchResponse, PartitionData

    partition = PartitionData(records=[memoryview(batch), memoryview(batch)])
    response = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=[partition])])
    buffers = write_response(RequestHeader(1, 12, 1, None), response)
    assert [len(one) for one in buffers].count(10_000) == 2
    assert len(read_response(1, 12, b"".join(buffers)[4:])[1].responses[0].partitions[0].records) == 20_000

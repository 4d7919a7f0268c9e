"""The tables of Kafka's messages, against `kio` (an independent codec), byte for byte, in every version there is."""

import importlib
import io
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.kafka.apis import APIS
from protocol.kafka.codec import encode, read
from protocol.kafka.errors import ErrorCode
from protocol.kafka.headers import (
    RequestHeader,
    UnsupportedVersion,
    read_request,
    read_response,
    unsupported_version_response,
    write_request,
    write_response,
)
from protocol.kafka.readers import read_uvarint
from protocol.kafka.schema import MalformedRequest, Spec
from protocol.kafka.writers import uvarint

kio = pytest.importorskip("kio")
from kio.serial import entity_reader, entity_writer  # noqa: E402

CASES = [
    pytest.param(api, version, kind, id=f"{api.name}-{version}-{kind}")
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
    for kind in ("request", "response")
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
SMALL = {"int8": 7, "int16": 15, "int32": 31, "int64": 40, "uint16": 16, "uint32": 32}


def values(name, spec, version, *, flexible):
    """What a field may hold. Times stay where a calendar has them; error codes are Kafka's (kio knows no other)."""
    kind = spec.kind
    if kind == "array":
        inner = values(name, spec.of, version, flexible=flexible) if isinstance(spec.of, Spec) else structs(
            spec.of, version, flexible=flexible
        )  # fmt: skip
        found = st.lists(inner, max_size=2)
    elif kind == "struct":
        found = structs(spec.of, version, flexible=flexible)
    elif name.endswith("error_code"):
        found = st.sampled_from([int(code) for code in ErrorCode])
    elif kind in SMALL:
        found = st.integers(0, 2 ** SMALL[kind] - 1)
        if not ("ms" in name.split("_") or "timestamp" in name) and kind.startswith("int"):
            found |= st.integers(-(2 ** SMALL[kind]), -1)
    elif kind == "boolean":
        found = st.booleans()
    elif kind == "float64":
        found = st.floats(allow_nan=False)
    elif kind == "uuid":
        found = st.binary(min_size=16, max_size=16)
    elif kind == "string":
        found = TEXT
    else:
        found = st.binary(max_size=10)
    if spec.is_nullable(version):
        found |= st.none()
    if spec.tag is not None:
        found |= st.just([] if kind == "array" else spec.default)
    return found


def structs(cls, version, *, flexible):
    """Any struct of a class, as a version has it."""
    return st.builds(
        cls,
        **{
            name: values(name, spec, version, flexible=flexible)
            for name, spec in cls.SPECS.items()
            if spec.is_in(version) and (spec.tag is None or flexible)
        },
    )


def module_of(api):
    """kio's name for an API."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", api.name).lower()


def theirs(api, version, kind):
    """kio's class for a message; None where its Kafka has no such version any more."""
    try:
        module = importlib.import_module(f"kio.schema.{module_of(api)}.v{version}.{kind}")
    except ImportError:
        return None
    return getattr(module, f"{api.name}{kind.title()}")


@pytest.mark.parametrize(("api", "version", "kind"), CASES)
def test_against_kio(api, version, kind):
    """What we write kio reads, and writes as the same octets; what kio writes we read as what it was."""
    other = theirs(api, version, kind)
    cls = getattr(api, kind)
    flexible = api.is_flexible(version)

    @settings(max_examples=6, deadline=None, database=None)
    @given(structs(cls, version, flexible=flexible))
    def check(value):
        ours = encode(value, version, is_flexible=flexible)
        again, position = read(cls, version, ours, 0, is_flexible=flexible)
        assert (encode(again, version, is_flexible=flexible), position) == (ours, len(ours))
        if other is not None:
            known, size = entity_reader(other)(ours, 0)
            assert size == len(ours)
            buffer = io.BytesIO()
            entity_writer(other)(buffer, known)
            assert buffer.getvalue() == ours

    check()


def test_kio_knows_nearly_all():
    """The oracle has all but a few of the versions, or the test above says little."""
    known = sum(theirs(*case.values) is not None for case in CASES)
    assert known >= len(CASES) * 0.95, (known, len(CASES))


def request_frame(api_key, version, request):
    """A request as a client sends it, without its size."""
    return write_request(RequestHeader(api_key, version, 7, "me"), request)[4:]


def sample(api, version, kind, seed):
    """One arbitrary message, the same for the same seed."""
    found = []

    @settings(max_examples=1, deadline=None, database=None, derandomize=True)
    @given(structs(getattr(api, kind), version, flexible=api.is_flexible(version)))
    def draw(value):
        found.append(value)

    draw()
    return found[seed % len(found)]


@pytest.mark.parametrize("key", sorted(APIS))
def test_what_is_cut_or_changed_is_refused(key):
    """A request that ends anywhere too soon, or has any octet changed, is MalformedRequest, or another request."""
    api = APIS[key]
    for version in {api.min_version, api.max_version}:
        frame = request_frame(key, version, sample(api, version, "request", 0))
        assert read_request(frame)[0] == (key, version, 7, "me")
        for end in range(len(frame)):
            with pytest.raises((MalformedRequest, UnsupportedVersion)):
                read_request(frame[:end])
        for position in range(len(frame)):
            for flip in (0x01, 0x80, 0xFF):
                changed = bytearray(frame)
                changed[position] ^= flip
                try:
                    read_request(bytes(changed))
                except (MalformedRequest, UnsupportedVersion):
                    continue
        assert read_request(frame + b"\0") == read_request(frame)


@pytest.mark.parametrize("version", [0, 8, 9, 12])
def test_counts_are_not_believed(version):
    """A count of two thousand million elements costs nothing: what is there has to have room for them."""
    api = APIS[3]
    head = struct.pack(">hhih", 3, version, 1, -1)
    many = uvarint(2**31 - 1) if api.is_flexible(version) else struct.pack(">i", 2**31 - 1)
    with pytest.raises(MalformedRequest):
        read_request(head + (b"\0" if api.is_flexible(version) else b"") + many + bytes(100))


def test_a_varint_has_an_end():
    """Five octets are the most that an unsigned varint has."""
    assert read_uvarint(uvarint(2**32 - 1), 0, 5) == (2**32 - 1, 5)
    with pytest.raises(MalformedRequest):
        read_uvarint(b"\xff" * 6, 0, 6)
    with pytest.raises(MalformedRequest):
        read_uvarint(b"\xff", 0, 1)


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
    frame = request_frame(0, 9, ProduceRequest(topic_data=[TopicProduceData(name="t", partition_data=[data])]))
    read = read_request(memoryview(frame))[1].topic_data[0].partition_data[0].records
    assert isinstance(read, memoryview)
    assert read == batch
    from protocol.kafka.apis.fetch import FetchableTopicResponse, FetchResponse, PartitionData

    partition = PartitionData(records=[memoryview(batch), memoryview(batch)])
    response = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=[partition])])
    buffers = write_response(RequestHeader(1, 12, 1, None), response)
    assert [len(one) for one in buffers].count(10_000) == 2
    assert len(read_response(1, 12, b"".join(buffers)[4:])[1].responses[0].partitions[0].records) == 20_000

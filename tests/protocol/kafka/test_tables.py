"""The list of APIs: which versions have a table, and what every table has to keep to."""

import struct

import pytest

from protocol.kafka.apis import APIS
from protocol.kafka.codec import encode, read
from protocol.kafka.headers import RequestHeader, read_response, write_response
from protocol.kafka.schema import Spec

RANGES = {
    0: (3, 12, 9), 1: (4, 17, 12), 2: (1, 9, 6), 3: (0, 13, 9), 8: (2, 9, 8), 9: (1, 9, 6), 10: (0, 5, 3),
    11: (0, 9, 6), 12: (0, 4, 4), 13: (0, 5, 4), 14: (0, 5, 4), 15: (0, 6, 5), 16: (0, 5, 3), 17: (0, 1, None),
    18: (0, 4, 3), 19: (2, 7, 5), 20: (1, 6, 4), 21: (0, 2, 2), 22: (0, 5, 2), 23: (2, 4, 4), 24: (0, 3, 3),
    25: (0, 4, 3), 26: (0, 4, 3), 27: (1, 1, 1), 28: (0, 4, 3), 29: (1, 3, 2), 30: (1, 3, 2), 31: (1, 3, 2),
    32: (1, 4, 4), 33: (0, 2, 2), 34: (1, 2, 2), 35: (1, 4, 2), 36: (0, 2, 2), 37: (0, 3, 2), 42: (0, 2, 2),
    43: (0, 2, 2),
    44: (0, 1, 1), 45: (0, 0, 0), 46: (0, 0, 0), 47: (0, 0, None), 48: (0, 1, 1), 50: (0, 0, 0), 51: (0, 0, 0),
    55: (0, 2, 0), 57: (0, 2, 0), 60: (0, 2, 0),
    61: (0, 0, 0), 65: (0, 0, 0), 66: (0, 2, 0), 74: (0, 1, 0), 75: (0, 0, 0),
}  # fmt: skip
"""Key: lowest version, highest, the first flexible one. Clients choose by these, some of them by lists of their own."""


def classes_of(cls):
    """A message's class and those of all structs in it."""
    found = [cls]
    for spec in cls.SPECS.values():
        of = spec.of.of if isinstance(spec.of, Spec) else spec.of
        if of is not None:
            found += classes_of(of)
    return found


def test_ranges():
    """The versions are those that clients were seen to need: no more, since what is told is called, and no less."""
    assert {key: (api.min_version, api.max_version, api.flexible_from if api.is_flexible(1 << 14) else None)
            for key, api in APIS.items()} == RANGES  # fmt: skip


def test_produce_is_told_from_version_0():
    """librdkafka takes a broker whose Produce begins above 0 for one without message sets; all others tell no lie."""
    assert APIS[0].advertised_min == 0
    assert all(api.advertised_min == api.min_version for api in APIS.values() if api.key != 0)


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_fields_are_in_some_version(api):
    """No field is in no version of its API, and tagged fields stand by ascending tag, as they have to be written."""
    for message in (api.request, api.response):
        for cls in classes_of(message):
            assert cls.__doc__
            for name, spec in cls.SPECS.items():
                assert any(spec.is_in(version) for version in range(api.min_version, api.max_version + 1)), (cls, name)
            tags = [spec.tag for spec in cls.SPECS.values() if spec.tag is not None]
            assert tags == sorted(set(tags)), cls


@pytest.mark.parametrize(
    ("key", "version", "fields", "octets"),
    [
        # Heartbeat 0 and 4: error code alone; throttle time, error code, no tagged fields.
        (12, 0, {"error_code": 27}, "001b"),
        (12, 4, {"error_code": 27}, "00000000001b00"),
        # FindCoordinator 0: error code, node id, host, port.
        (10, 0, {"node_id": 1, "host": "h", "port": 9092}, "0000 00000001 0001 68 00002384"),
        # SaslHandshake 1, never flexible: error code, mechanisms.
        (17, 1, {"mechanisms": ["PLAIN"]}, "0000 00000001 0005 504c41494e"),
        # InitProducerId 2, flexible: throttle time, error code, producer id, epoch, tags.
        (22, 2, {"producer_id": 5, "producer_epoch": 0}, "00000000 0000 0000000000000005 0000 00"),
        # ApiVersions 3: error code, one API, throttle time, then the epoch of features as tagged field 1.
        (18, 3, {"finalized_features_epoch": 7}, "0000 01 00000000 01 01 08 0000000000000007"),
    ],
)
def test_octets_by_hand(key, version, fields, octets):
    """A few answers spelled out, so that not everything hangs on one other codec."""
    api = APIS[key]
    response = api.response(**fields)
    expected = bytes.fromhex(octets)
    assert encode(response, version, is_flexible=api.is_flexible(version)) == expected
    assert read(api.response, version, expected, 0, is_flexible=api.is_flexible(version)) == (response, len(expected))


def test_large_batches_stay_buffers_of_their_own():
    """Small batches are joined to their neighbours, large ones are the very objects given; all are in order."""
    from protocol.kafka.apis.fetch import FetchableTopicResponse, FetchResponse, PartitionData

    large, small = memoryview(b"L" * 5000), b"s" * 50
    held = [[large, small, large], small, None, [], large]
    partitions = [PartitionData(partition_index=number, records=records) for number, records in enumerate(held)]
    response = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])
    for version in (4, 12):
        buffers = write_response(RequestHeader(1, version, 1, None), response)
        assert [one for one in buffers if isinstance(one, memoryview)] == [large] * 3
        assert len(buffers) == 7
        frame = b"".join(buffers)
        assert struct.unpack_from(">ii", frame) == (len(frame) - 4, 1)
        found = read_response(1, version, frame[4:])[1].responses[0].partitions
        assert [one.records for one in found] == [b"".join((large, small, large)), small, None, b"", large]


def test_a_value_that_cannot_be_written_is_named():
    """A mistake of ours says which field it is in, also when the function that found it is made of tables."""
    with pytest.raises(ValueError, match=r"HeartbeatResponse\.error_code"):
        encode(APIS[12].response(error_code=1 << 20), 0, is_flexible=False)
    with pytest.raises(ValueError, match=r"FindCoordinatorResponse\.host"):
        encode(APIS[10].response(host=None), 0, is_flexible=False)

"""What consumer groups write: members' metadata against kio, and the records of `__consumer_offsets` by hand."""

import io

import pytest
from hypothesis import given, settings
from kio.serial import entity_reader, entity_writer
from kio_values import assert_same, structs, theirs

from protocol.kafka.codec import encode, read
from protocol.kafka.group_records import (
    ASSIGNMENT_VERSION_MAX,
    GROUP_VALUE_VERSION_MAX,
    OFFSET_VALUE_VERSION_MAX,
    SUBSCRIPTION_VERSION_MAX,
    Assignment,
    GroupKey,
    GroupMember,
    GroupValue,
    OffsetKey,
    OffsetValue,
    Subscription,
    read_version,
    read_versioned,
    subscribed_topics,
    write_versioned,
)
from protocol.kafka.schema import MalformedRequest


@pytest.mark.parametrize("version", range(4))
@pytest.mark.parametrize(
    ("cls", "name"), [(Subscription, "ConsumerProtocolSubscription"), (Assignment, "ConsumerProtocolAssignment")]
)
def test_against_kio(cls, name, version):
    """Subscriptions and assignments are the same values and octets as another codec makes of them."""
    other = theirs(name, version, "data")

    @settings(max_examples=20, deadline=None, database=None)
    @given(structs(cls, version, flexible=False))
    def check(value):
        ours = encode(value, version, is_flexible=False)
        assert read(cls, version, ours, 0, is_flexible=False) == (value, len(ours))
        known, size = entity_reader(other)(ours, 0)
        assert size == len(ours)
        assert_same(value, known, version, flexible=False)
        buffer = io.BytesIO()
        entity_writer(other)(buffer, known)
        assert buffer.getvalue() == ours

    check()


@pytest.mark.parametrize(
    ("value", "version", "octets"),
    [
        (OffsetKey(group="g", topic="t", partition=2), 1, "0001 0001 67 0001 74 00000002"),
        (OffsetKey(group="g", topic="t", partition=2), 0, "0000 0001 67 0001 74 00000002"),
        (GroupKey(group="g"), 2, "0002 0001 67"),
        (OffsetValue(offset=5, metadata="m", commit_timestamp=6), 0, "0000 0000000000000005 0001 6d 0000000000000006"),
        (
            OffsetValue(offset=5, commit_timestamp=6, expire_timestamp=7),
            1,
            "0001 0000000000000005 0000 0000000000000006 0000000000000007",
        ),
        (
            OffsetValue(offset=5, leader_epoch=1, commit_timestamp=6),
            3,
            "0003 0000000000000005 00000001 0000 0000000000000006",
        ),
        (
            OffsetValue(offset=5, leader_epoch=1, commit_timestamp=6, topic_id=b"\x11" * 16),
            4,
            "0004 0000000000000005 00000001 01 0000000000000006 01 00 10" + "11" * 16,
        ),
        (
            GroupValue(protocol_type="consumer", generation=1, protocol=None, leader=None, current_state_timestamp=9),
            3,
            "0003 0008 636f6e73756d6572 00000001 ffff ffff 0000000000000009 00000000",
        ),
        (
            GroupValue(members=[GroupMember(member_id="m", session_timeout=6)]),
            0,
            "0000 0000 00000000 0000 0000 00000001 0001 6d 0000 0000 00000006 00000000 00000000",
        ),
        (
            GroupValue(protocol="r", leader="m", members=[GroupMember(member_id="m", rebalance_timeout=7)]),
            4,
            "0004 01 00000000 02 72 02 6d ffffffffffffffff 02 02 6d 00 01 01 00000007 00000000 01 01 00 00",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else None,
)
def test_records_by_hand(value, version, octets):
    """Keys and values of every kind of version, compact ones included, are Kafka's octets, and are read back."""
    record = write_versioned(value, version)
    assert record == bytes.fromhex(octets)
    assert read_version(record) == version
    assert read_versioned(type(value), record, version) == value


def test_newest_is_read_with_all_versions():
    """A reader that knows the newest version reads every older one as what it is."""
    value = OffsetValue(offset=5, metadata="m", commit_timestamp=6)
    group = GroupValue(protocol_type="consumer", generation=3, members=[GroupMember(member_id="m", session_timeout=6)])
    for version in range(OFFSET_VALUE_VERSION_MAX + 1):
        assert read_versioned(OffsetValue, write_versioned(value, version), OFFSET_VALUE_VERSION_MAX) == value
        found = read_versioned(GroupValue, write_versioned(group, version), GROUP_VALUE_VERSION_MAX)
        # Before version 1 there was no rebalance timeout to write.
        assert (found.members[0].rebalance_timeout, found.generation) == (-1, 3)


def test_later_metadata_is_read_as_the_last_that_is_known():
    """Consumers may come with a version to be: what is known of it stands at its beginning, the rest is left alone."""
    octets = write_versioned(Subscription(topics=["a", "b"], rack_id="r"), SUBSCRIPTION_VERSION_MAX)
    later = b"\0\x09" + octets[2:] + b"more"
    assert read_versioned(Subscription, later, SUBSCRIPTION_VERSION_MAX).rack_id == "r"
    assert subscribed_topics(later) == {"a", "b"}
    assigned = write_versioned(Assignment(user_data=b"u"), ASSIGNMENT_VERSION_MAX)
    assert read_versioned(Assignment, assigned, ASSIGNMENT_VERSION_MAX).user_data == b"u"


@pytest.mark.parametrize("octets", [b"", b"\0", b"\xff\xff\0\0\0\0", b"\0\0", b"\0\0\x7f\xff\xff\xff", b"not kafka's"])
def test_what_cannot_be_read(octets):
    """Metadata is the members' own business: what is no subscription is refused, or says nothing, and harms nobody."""
    with pytest.raises(MalformedRequest):
        read_versioned(Subscription, octets, SUBSCRIPTION_VERSION_MAX)
    assert subscribed_topics(octets) is None

"""Shares of partitions: as kafka-python's assignors compute them, for any members and topics."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from broker.core.groups.assignors import (
    ASSIGNORS,
    RANGE,
    ROUND_ROBIN,
    assigned_partitions,
    subscribers_of,
    subscription,
    write_assignment,
)
from broker.core.groups.values import JoinedMember
from protocol.kafka.group_records import Subscription, write_versioned

TOPICS = "abcd"
members = st.dictionaries(
    st.text("mnop", min_size=1, max_size=3),
    st.tuples(st.none() | st.text("xyz", min_size=1, max_size=4), st.sets(st.sampled_from(TOPICS))),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "oracle"), [(RANGE, RangePartitionAssignor), (ROUND_ROBIN, RoundRobinPartitionAssignor)]
)
@given(members, st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 9)))
def test_as_kafkas_clients_share_out(name, oracle, given_members, counts):
    """The same partitions to the same members, static members first; topics that are not there are nobody's."""
    instances = [instance for instance, _ in given_members.values() if instance is not None]
    if len(set(instances)) != len(instances):
        return
    if name == ROUND_ROBIN:  # kafka-python's fails where members want different topics.
        given_members = {member_id: (instance, set(TOPICS)) for member_id, (instance, _) in given_members.items()}
    joined = [
        JoinedMember(member_id, instance, write_versioned(Subscription(topics=sorted(topics)), 1))
        for member_id, (instance, topics) in given_members.items()
    ]
    found = ASSIGNORS[name](subscribers_of(joined), counts)
    cluster = SimpleNamespace(
        partitions_for_topic=lambda topic: set(range(counts[topic])) if topic in counts else None,
    )
    theirs = oracle.assign(cluster, [
        SimpleNamespace(
            member_id=member_id, group_instance_id=instance,
            metadata=SimpleNamespace(topics=sorted(topics)),
        )
        for member_id, (instance, topics) in sorted(given_members.items(), key=lambda one: one[1][0] is None)
    ])  # fmt: skip
    expected = {
        member_id: {(topic, partition) for topic, partitions in one.assigned_partitions for partition in partitions}
        for member_id, one in theirs.items()
    }
    assert {member_id: set(share) for member_id, share in found.items()} == expected


def test_in_turns_passes_over_who_does_not_want_a_topic():
    """The example in Kafka's RoundRobinAssignor."""
    wanted = {"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]}
    joined = [JoinedMember(name, None, write_versioned(Subscription(topics=topics), 1))
              for name, topics in wanted.items()]  # fmt: skip
    assert ASSIGNORS[ROUND_ROBIN](subscribers_of(joined), {"t0": 1, "t1": 2, "t2": 3}) == {
        "C0": [("t0", 0)], "C1": [("t1", 0)], "C2": [("t1", 1), ("t2", 0), ("t2", 1), ("t2", 2)],
    }  # fmt: skip


def test_metadata_that_nobody_can_read_gets_nothing():
    """The others get everything."""
    joined = [JoinedMember("a", None, b"\x00"), JoinedMember("b", None, subscription("t"))]
    assert ASSIGNORS[RANGE](subscribers_of(joined), {"t": 3}) == {"a": [], "b": [("t", 0), ("t", 1), ("t", 2)]}


@pytest.mark.parametrize(
    "octets", [b"", b"\x00", b"\xff\xff", b"\x00\x01\x7f\xff\xff\xff", b"\x00\x00\x00\x00\x00\x00"]
)
def test_an_assignment_that_makes_no_sense_is_none(octets):
    """A leader may send what it likes."""
    assert assigned_partitions(octets, "t") == []


def test_assignments_there_and_back():
    """Only the wanted topic's, in order, each once."""
    octets = write_assignment([("t", 2), ("u", 1), ("t", 0), ("t", 2)])
    assert assigned_partitions(octets, "t") == [0, 2]

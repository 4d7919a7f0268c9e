"""Who reads what: the assignors of Kafka's clients that a leader inside the broker can stand in for. Pure.

`range` and `roundrobin` as Kafka's clients compute them (their `RangeAssignor` and `RoundRobinAssignor`, without
racks), so that it does not matter whose member leads a group. Members are in the order that Kafka gives them: static
ones by their instance id, before the others by member id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from broker.core.groups.values import JoinedMember, TopicPartition
from protocol.kafka.group_records import (
    ASSIGNMENT_VERSION_MAX,
    SUBSCRIPTION_VERSION_MAX,
    Assignment,
    OwnedPartitions,
    Subscription,
    read_versioned,
    subscribed_topics,
    write_versioned,
)
from protocol.kafka.schema import MalformedRequest

RANGE, ROUND_ROBIN = "range", "roundrobin"
WRITTEN_VERSION = 1
"""Of subscriptions and assignments; the first with owned partitions, which every client in use reads."""


class Subscriber(NamedTuple):
    """A member and the topics that it wants."""

    member_id: str
    topics: frozenset[str]


Shares = dict[str, list[TopicPartition]]
"""By member id, for every member."""


def subscribers_of(members: Sequence[JoinedMember]) -> list[Subscriber]:
    """In Kafka's order. Whose metadata cannot be read gets nothing."""
    ordered = sorted(members, key=lambda one: (one.instance_id is None, one.instance_id or one.member_id))
    return [Subscriber(one.member_id, subscribed_topics(one.metadata) or frozenset()) for one in ordered]


def assign_ranges(subscribers: Sequence[Subscriber], counts: Mapping[str, int]) -> Shares:
    """Topic by topic: each of its subscribers a range of partitions, the first ones one more."""
    shares: Shares = {one.member_id: [] for one in subscribers}
    for topic, count in sorted(counts.items()):
        wanting = [one for one in subscribers if topic in one.topics]
        if not wanting:
            continue
        width, more = divmod(count, len(wanting))
        first = 0
        for index, one in enumerate(wanting):
            end = first + width + (index < more)
            shares[one.member_id] += [(topic, partition) for partition in range(first, end)]
            first = end
    return shares


def assign_in_turns(subscribers: Sequence[Subscriber], counts: Mapping[str, int]) -> Shares:
    """All partitions of all topics in turns, to whoever is next and wants the topic."""
    shares: Shares = {one.member_id: [] for one in subscribers}
    wanted = frozenset[str]().union(*(one.topics for one in subscribers))
    turns = cycle(subscribers)
    for topic, count in sorted(counts.items()):
        for partition in range(count) if topic in wanted else ():
            taker = next(one for one in turns if topic in one.topics)
            shares[taker.member_id].append((topic, partition))
    return shares


ASSIGNORS: dict[str, Callable[[Sequence[Subscriber], Mapping[str, int]], Shares]] = {
    RANGE: assign_ranges,
    ROUND_ROBIN: assign_in_turns,
}


def subscription(topic: str) -> bytes:
    """The metadata of a member that reads one topic."""
    return write_versioned(Subscription(topics=[topic]), min(WRITTEN_VERSION, SUBSCRIPTION_VERSION_MAX))


def write_assignment(share: Sequence[TopicPartition]) -> bytes:
    """A share on the wire."""
    by_topic: dict[str, list[int]] = {}
    for topic, partition in share:
        by_topic.setdefault(topic, []).append(partition)
    assigned = [OwnedPartitions(topic=topic, partitions=partitions) for topic, partitions in by_topic.items()]
    return write_versioned(Assignment(assigned_partitions=assigned), min(WRITTEN_VERSION, ASSIGNMENT_VERSION_MAX))


def assigned_partitions(assignment: bytes, topic: str) -> list[int]:
    """What an assignment says of one topic; nothing where it cannot be read (a leader may send what it likes)."""
    if not assignment:
        return []
    try:
        read = read_versioned(Assignment, assignment, ASSIGNMENT_VERSION_MAX)
    except MalformedRequest:
        return []
    return sorted({number for one in read.assigned_partitions if one.topic == topic for number in one.partitions})

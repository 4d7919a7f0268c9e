"""A member inside the broker, against a coordinator or with answers of any kind: what it asks next, and what it has."""

import pytest

from broker.core.groups.assignors import assigned_partitions, subscription, write_assignment
from broker.core.groups.coordinator import Coordinator
from broker.core.groups.local_member import CLIENT_ID_PREFIX, LocalMember, Step
from broker.core.groups.values import (
    GroupSettings,
    JoinedMember,
    JoinRequest,
    JoinResult,
    Reply,
    SyncRequest,
    SyncResult,
)
from protocol.kafka.errors import ErrorCode
from protocol.kafka.group_records import subscribed_topics

COUNTS = {"t": 3, "u": 2}


def new_member(counts=COUNTS):
    return LocalMember("t", "tag", "/host", GroupSettings(initial_rebalance_delay_ms=0), counts.get)


def joined(member, **fields):
    """The member after its join was answered; returns the sync that it asks for."""
    member.join()
    values = {"member_id": "m", "generation": 1, "protocol_type": "consumer", "protocol": "range", "leader": "other"}
    return member.joined(JoinResult(ErrorCode.NONE, **{**values, **fields}))


def stable(assignment=(("t", 0),), **fields):
    member = new_member()
    joined(member, **fields)
    member.synced(SyncResult(ErrorCode.NONE, "consumer", "range", write_assignment(assignment)))
    return member


def test_it_joins_with_a_subscription_and_two_assignors():
    """As a consumer of one topic; its client id says what it is."""
    ask = new_member().join()
    assert [name for name, _ in ask.protocols] == ["range", "roundrobin"]
    assert {subscribed_topics(metadata) for _, metadata in ask.protocols} == {frozenset({"t"})}
    assert (ask.client_id, ask.protocol_type) == (f"{CLIENT_ID_PREFIX}tag", "consumer")


def test_a_follower_syncs_with_nothing():
    """The leader brings the assignments."""
    assert joined(new_member()) == SyncRequest(member_id="m", generation=1, protocol_type="consumer", protocol="range")


def test_a_leader_shares_out_what_all_subscribe_to():
    """Also topics that it does not read itself; one that is not there is nobody's."""
    others = JoinedMember("k", None, subscription("u")), JoinedMember("n", None, subscription("nope"))
    ask = joined(new_member(), leader="m", members=(JoinedMember("m", None, subscription("t")), *others))
    assert assigned_partitions(ask.assignments["m"], "t") == [0, 1, 2]
    assert assigned_partitions(ask.assignments["k"], "u") == [0, 1]
    assert assigned_partitions(ask.assignments["n"], "nope") == []


def test_it_has_what_it_was_assigned_of_its_topic():
    """Partitions that there are not, and other topics, are left out."""
    member = stable([("t", 2), ("t", 7), ("u", 0), ("t", -1)])
    assert (member.step, member.assigned) == (Step.STABLE, [2])


@pytest.mark.parametrize(
    ("error", "step", "member_id"),
    [
        (ErrorCode.NONE, Step.STABLE, "m"),
        (ErrorCode.REBALANCE_IN_PROGRESS, Step.JOINING, "m"),
        (ErrorCode.ILLEGAL_GENERATION, Step.OUTSIDE, "m"),
        (ErrorCode.UNKNOWN_MEMBER_ID, Step.OUTSIDE, ""),
        (ErrorCode.COORDINATOR_NOT_AVAILABLE, Step.OUTSIDE, ""),
    ],
)
def test_what_a_heartbeat_tells(error, step, member_id):
    """Told to join it does so at once, under its id as long as the group knows that."""
    member = stable()
    ask = member.beaten(error)
    assert (member.step, member.member_id) == (step, member_id)
    assert (ask is not None) == (step is Step.JOINING)


@pytest.mark.parametrize("error", [ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ErrorCode.GROUP_MAX_SIZE_REACHED])
def test_a_refusal_is_the_end(error):
    """Asking again would not help."""
    member = new_member()
    member.join()
    assert member.joined(JoinResult(error)) is None
    assert (member.step, member.refusal) == (Step.GONE, error)


def test_answers_that_come_too_late_mean_nothing():
    """A join that was answered after the next one was asked, a sync while joining."""
    member = stable()
    assert member.joined(JoinResult(ErrorCode.NONE, "x", 9)) is None
    member.join()
    assert member.synced(SyncResult(ErrorCode.NONE)) is None
    assert (member.step, member.member_id) == (Step.JOINING, "m")


def test_only_a_leader_cares_how_many_partitions_there_are():
    """It joins again when a topic that it has shared out has more."""
    counts = dict(COUNTS)
    leader, follower = new_member(counts), new_member(counts)
    for member, name in ((leader, "m"), (follower, "other")):
        joined(member, leader=name, members=(JoinedMember("m", None, subscription("t")),) if name == "m" else ())
        member.synced(SyncResult(ErrorCode.NONE))
    assert leader.topics_changed() is None
    counts["t"] = 5
    assert isinstance(leader.topics_changed(), JoinRequest)
    assert follower.topics_changed() is None


def test_two_members_and_a_coordinator_come_to_terms():
    """Every partition is somebody's, once."""
    coordinator = Coordinator(GroupSettings(initial_rebalance_delay_ms=0), lambda prefix: f"{prefix}-{len(tickets)}",
                              subscribed_topics)  # fmt: skip
    coordinator.finish_loading(0)
    tickets = {}
    members = [new_member(), new_member()]

    def send(member, ask):
        if ask is not None:
            ticket = object()
            tickets[ticket] = member
            ask_it = coordinator.join if isinstance(ask, JoinRequest) else coordinator.sync
            ask_it("g", ticket, ask, 0)

    for member in members:
        send(member, member.join())
    for _ in range(20):
        for effect in coordinator.take_effects():
            if isinstance(effect, Reply):
                member = tickets[effect.ticket]
                result = effect.result
                send(member, member.joined(result) if isinstance(result, JoinResult) else member.synced(result))
        for member in members:
            if member.step is Step.STABLE:
                send(member, member.beaten(coordinator.heartbeat("g", member.member_id, member.generation, 0)))
    assert [member.step for member in members] == [Step.STABLE] * 2
    assert sorted(members[0].assigned + members[1].assigned) == [0, 1, 2]
    assert members[0].generation == members[1].generation

"""Being a member: sync, heartbeat, leave, static members, connections that close, restarts. A test a rule."""

import pytest
from group_helpers import RANGE, ErrorCode, GroupSettings, Site, error_of

from broker.core.groups.values import SaveGroup, State, StateChanged


def rebalancing(count=2):
    """A site whose group awaits its leader's assignment; the members' join results, the leader's first."""
    site = Site()
    joined = site.stable(count)
    tickets = [site.start_join(member_id=one.member_id) for one in joined]
    return site, [site.result(ticket) for ticket in tickets]


def test_followers_wait_for_the_leaders_sync():
    """Then everybody has its own; whom the leader forgot has an empty assignment, whom it made up is ignored."""
    site, (a, b, c) = rebalancing(3)
    parked = [site.start_sync(b), site.start_sync(c)]
    assert [site.result(ticket) for ticket in parked] == [None, None]
    first = site.sync(a, {a.member_id: b"A", b.member_id: b"B", "stranger": b"X"})
    assert (first.error, first.assignment, first.protocol_type, first.protocol) == (0, b"A", "consumer", "range")
    assert [site.result(ticket).assignment for ticket in parked] == [b"B", b""]
    assert site.state is State.STABLE


def test_a_sync_in_a_stable_group_is_answered_at_once():
    """What a follower would bring is not looked at, nor what the leader brings a second time."""
    site, (a, b) = rebalancing()
    site.sync(a, {b.member_id: b"B"})
    assert site.sync(b, {b.member_id: b"no"}).assignment == b"B"
    assert site.sync(a, {a.member_id: b"no"}).assignment == b""


def test_who_does_not_sync_is_expelled_after_the_rebalance_timeout():
    """A leader, or a follower, that only heartbeats would leave the group where it is for ever. Others rejoin."""
    for lazy in (0, 1):
        site = Site()
        joined = site.stable(2, rebalance_timeout_ms=30_000)
        tickets = [site.start_join(member_id=one.member_id, rebalance_timeout_ms=30_000) for one in joined]
        joined = [site.result(ticket) for ticket in tickets]
        busy = joined[1 - lazy]
        parked = site.start_sync(busy)
        for _ in range(3):
            assert site.beat(joined[lazy]) is ErrorCode.NONE
            site.wait(9_999)
        site.wait(3)
        if lazy == 0:
            assert error_of(site.result(parked)) is ErrorCode.REBALANCE_IN_PROGRESS
        assert site.beat(busy) is ErrorCode.REBALANCE_IN_PROGRESS
        assert site.beat(joined[lazy]) is ErrorCode.UNKNOWN_MEMBER_ID
        assert "did not sync in time" in site.describe().reason
        assert error_of(site.join(member_id=busy.member_id)) is ErrorCode.NONE


def test_nobody_is_expelled_once_all_have_synced():
    """The sync barrier's time passes without effect."""
    site, (a, b) = rebalancing()
    site.sync(a)
    site.sync(b)
    assert site.describe().deadline_ms is None
    for _ in range(40):
        assert site.beat(a) is site.beat(b) is ErrorCode.NONE
        site.wait(10_000)
    assert site.state is State.STABLE


def test_a_sync_names_member_generation_and_protocol():
    """Each has its own error; v5 names type and protocol too."""
    site, (a, b) = rebalancing()
    assert error_of(site.sync(b, member_id="stranger")) is ErrorCode.UNKNOWN_MEMBER_ID
    assert error_of(site.sync(b, generation=a.generation - 1)) is ErrorCode.ILLEGAL_GENERATION
    assert error_of(site.sync(b, protocol="sticky")) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert error_of(site.sync(b, protocol_type="connect")) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert error_of(site.sync(b, group="other")) is ErrorCode.UNKNOWN_MEMBER_ID
    assert error_of(site.sync(a, protocol="range", protocol_type="consumer")) is ErrorCode.NONE


def test_a_sync_while_all_are_to_rejoin_is_told_so():
    """REBALANCE_IN_PROGRESS."""
    site = Site()
    _, b = site.stable(2)
    site.start_join(member_id="")
    assert error_of(site.sync(b)) is ErrorCode.REBALANCE_IN_PROGRESS


def test_assignments_are_bounded():
    """INVALID_REQUEST to the leader that brings too much."""
    site, (a, b) = rebalancing()
    too_much = bytes(site.groups.settings.assignment_bytes_max + 1)
    assert error_of(site.sync(a, {b.member_id: too_much})) is ErrorCode.INVALID_REQUEST
    assert site.state is State.COMPLETING_REBALANCE


def test_heartbeats_by_state():
    """Empty: unknown member; PreparingRebalance: rejoin; CompletingRebalance and Stable: fine."""
    site, (a, b) = rebalancing()
    assert (site.state, site.beat(a)) == (State.COMPLETING_REBALANCE, ErrorCode.NONE)
    site.sync(a)
    assert (site.state, site.beat(b)) == (State.STABLE, ErrorCode.NONE)
    site.start_join(member_id=a.member_id)
    assert (site.state, site.beat(b)) == (State.PREPARING_REBALANCE, ErrorCode.REBALANCE_IN_PROGRESS)
    site.leave((a.member_id,), (b.member_id,))
    assert (site.state, site.beat(b)) == (State.EMPTY, ErrorCode.UNKNOWN_MEMBER_ID)


def test_a_heartbeat_names_member_and_generation():
    """Unknown group and member, another generation."""
    site = Site()
    (a,) = site.stable()
    assert site.beat(a, group="other") is ErrorCode.UNKNOWN_MEMBER_ID
    assert site.groups.heartbeat("g", "x", a.generation, site.now_ms) is ErrorCode.UNKNOWN_MEMBER_ID
    assert site.groups.heartbeat("g", a.member_id, a.generation + 1, site.now_ms) is ErrorCode.ILLEGAL_GENERATION
    assert site.beat(a) is ErrorCode.NONE


@pytest.mark.parametrize("sign", ["heartbeat", "commit", "sync", "rejoin"])
def test_a_session_lasts_from_the_last_sign_of_life(sign):
    """Heartbeat, commit, sync and join all count; without any the member is gone, and the others rejoin."""
    site = Site()
    a, b = site.stable(2, session_timeout_ms=10_000)
    for _ in range(5):
        site.wait(9_000)
        assert site.beat(a) is ErrorCode.NONE
        if sign == "heartbeat":
            assert site.beat(b) is ErrorCode.NONE
        elif sign == "commit":
            assert site.commit(b) is ErrorCode.NONE
        elif sign == "sync":
            assert error_of(site.sync(b)) is ErrorCode.NONE
        else:
            assert error_of(site.join(member_id=b.member_id, session_timeout_ms=10_000)) is ErrorCode.NONE
    site.wait(9_000)
    assert site.beat(a) is ErrorCode.NONE
    site.wait(1_000)
    assert site.beat(a) is ErrorCode.REBALANCE_IN_PROGRESS
    assert site.beat(b) is ErrorCode.UNKNOWN_MEMBER_ID
    assert site.describe().reason == f"member {b.member_id}'s session expired"


def test_who_is_parked_does_not_expire():
    """A join may be parked for longer than a session; its client cannot heartbeat meanwhile."""
    site = Site()
    a, b = site.stable(2, session_timeout_ms=10_000)
    ticket = site.start_join(member_id=a.member_id, session_timeout_ms=10_000)
    for _ in range(5):
        site.wait(9_000)
        assert site.beat(b) is ErrorCode.REBALANCE_IN_PROGRESS
    assert error_of(site.join(member_id=b.member_id)) is ErrorCode.NONE
    assert error_of(site.result(ticket)) is ErrorCode.NONE
    site.wait(10_000)
    assert a.member_id not in {one.member_id for one in site.describe().members}


def test_a_first_join_is_not_parked_for_ever():
    """Its client may have come again meanwhile, as another member: after five minutes it is given up."""
    site = Site()
    hour_ms = 3_600_000
    (a,) = site.stable(rebalance_timeout_ms=hour_ms)
    ticket = site.start_join(rebalance_timeout_ms=hour_ms)
    for _ in range(10):
        assert site.beat(a) is ErrorCode.REBALANCE_IN_PROGRESS
        assert site.result(ticket) is None
        site.wait(30_000)
    assert error_of(site.result(ticket)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert "waited too long" in site.describe().reason


def test_one_who_leaves_makes_the_others_rejoin():
    """Also in its client's own words (v5)."""
    site = Site()
    a, b = site.stable(2)
    assert site.leave((b.member_id, None, "closed")) == (ErrorCode.NONE, [ErrorCode.NONE])
    assert site.describe().reason == f"member {b.member_id} left (closed)"
    assert site.beat(a) is ErrorCode.REBALANCE_IN_PROGRESS
    assert error_of(site.join(member_id=a.member_id)) is ErrorCode.NONE


def test_several_leave_in_one_rebalance_each_with_its_error():
    """v3+: by member id, by instance id alone (an operator's), unknown, fenced, an id that has not joined."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=10))
    tickets = [site.start_join(), site.start_join(instance_id="i"), site.start_join(instance_id="j")]
    site.wait(100)
    a, _, j = map(site.result, tickets)
    pending = site.join(id_required=True)
    error, errors = site.leave(
        (a.member_id,), ("", "i"), ("x",), ("x", "j"), ("", "k"), (pending.member_id,), (j.member_id, "k")
    )
    assert error is ErrorCode.NONE
    unknown = ErrorCode.UNKNOWN_MEMBER_ID
    assert errors == [0, 0, unknown, ErrorCode.FENCED_INSTANCE_ID, unknown, 0, unknown]
    assert [one.instance_id for one in site.describe().members] == ["j"]
    assert site.describe().rebalance_count == 2
    assert site.describe().reason == f"member {a.member_id} left; static member i left"


def test_leaving_what_is_not_known():
    """Each of them is unknown; the request itself is fine."""
    site = Site()
    assert site.leave(("m",), group="other") == (ErrorCode.NONE, [ErrorCode.UNKNOWN_MEMBER_ID])


def test_what_a_leaving_member_had_parked_is_answered():
    """UNKNOWN_MEMBER_ID, to a join and to a sync."""
    site = Site()
    a, b = site.stable(2)
    ticket = site.start_join(member_id=a.member_id)
    site.leave((a.member_id,))
    assert error_of(site.result(ticket)) is ErrorCode.UNKNOWN_MEMBER_ID
    site, (a, b) = rebalancing()
    ticket = site.start_sync(b)
    site.leave((b.member_id,))
    assert error_of(site.result(ticket)) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_static_member_that_was_restarted_takes_its_old_place():
    """Stable, same subscription: a new id, the old assignment, no rebalance; the old id is fenced; it is kept."""
    site = Site()
    a, b = site.stable(2)
    site.leave((b.member_id,))
    ticket = site.start_join(instance_id="i")
    a = site.join(member_id=a.member_id)
    old = site.result(ticket)
    site.sync(a, {old.member_id: b"kept"})
    new = site.join(instance_id="i")
    assert (new.error, new.generation, site.state) == (ErrorCode.NONE, old.generation, State.STABLE)
    assert new.member_id != old.member_id
    assert site.sync(new, instance_id="i").assignment == b"kept"
    fenced = ErrorCode.FENCED_INSTANCE_ID
    assert site.beat(old, instance_id="i") is fenced
    assert error_of(site.sync(old, instance_id="i")) is fenced
    assert error_of(site.join(member_id=old.member_id, instance_id="i")) is fenced
    assert site.beat(old) is ErrorCode.UNKNOWN_MEMBER_ID
    assert new.member_id in {one.member_id for one in site.saved().members}


def static_leader(**fields):
    """A stable group led by static member i, with a follower."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=10))
    tickets = [site.start_join(instance_id="i"), site.start_join()]
    site.wait(100)
    leader, follower = map(site.result, tickets)
    assert leader.leader == leader.member_id
    site.sync(leader, {leader.member_id: b"L"})
    site.sync(follower)
    return site, leader, follower, site.join(instance_id="i", **fields)


def test_a_static_leader_that_was_restarted_is_told_to_skip_the_assignment():
    """v9+: it leads, hears who is in, and is not to assign, since a stable group takes no assignment."""
    site, _, follower, again = static_leader(can_skip_assignment=True)
    assert (again.leader, again.skip_assignment, len(again.members)) == (again.member_id, True, 2)
    assert site.sync(again, {again.member_id: b"no"}).assignment == b"L"
    assert site.beat(follower) is ErrorCode.NONE


def test_an_old_static_leader_does_not_recognise_itself():
    """Before v9 it is told its old id as the leader's, so that it does not assign; it leads all the same."""
    site, old, _, again = static_leader()
    assert (again.leader, again.skip_assignment, again.members) == (old.member_id, False, ())
    assert site.sync(again).assignment == b"L"
    site.start_join(member_id=again.member_id, instance_id="i")
    assert "asked for a rebalance as leader" in site.describe().reason


@pytest.mark.parametrize("protocols", [(("range", b"t,u"),), (("sticky", b"t"), ("range", b"t"))])
def test_a_static_member_that_comes_back_otherwise_makes_a_rebalance(protocols):
    """Other topics, or another protocol by its vote."""
    site = Site()
    old = site.join(instance_id="i", protocols=(("range", b"t"), ("sticky", b"t")))
    site.sync(old)
    assert site.state is State.STABLE
    new = site.join(instance_id="i", protocols=protocols)
    assert (new.error, new.generation) == (ErrorCode.NONE, old.generation + 1)
    assert site.describe().reason == "static member i was restarted"


def test_metadata_that_cannot_be_read_do_not_count_as_changed():
    """They are opaque: what a restarted member owned before may be in them."""
    site = Site()
    old = site.join(instance_id="i", protocols=(("range", b"t?1"),))
    site.sync(old)
    assert site.join(instance_id="i", protocols=(("range", b"t?2"),)).generation == old.generation


def test_what_an_old_static_member_had_parked_is_fenced():
    """Its join, and its sync; one that waits for an assignment begins again, since the leader knows the old id."""
    site = Site()
    (a,) = site.stable()
    first = site.start_join(instance_id="i")
    ticket = site.start_join(instance_id="i")
    assert error_of(site.result(first)) is ErrorCode.FENCED_INSTANCE_ID
    site.join(member_id=a.member_id)
    parked = site.start_sync(site.result(ticket), instance_id="i")
    assert site.state is State.COMPLETING_REBALANCE
    again = site.start_join(instance_id="i")
    assert error_of(site.result(parked)) is ErrorCode.FENCED_INSTANCE_ID
    assert (site.result(again), site.state) == (None, State.PREPARING_REBALANCE)


def test_a_static_member_keeps_its_place_until_its_session_ends():
    """Away while the others rebalance, it is still in the generation; when its session ends, the others rejoin."""
    site = Site()
    old = site.join(instance_id="i", session_timeout_ms=400_000, rebalance_timeout_ms=60_000)
    site.sync(old)
    ticket = site.start_join(rebalance_timeout_ms=60_000)
    site.wait(60_000)
    leader = site.result(ticket)
    assert leader.leader == leader.member_id
    assert {one.instance_id for one in leader.members} == {"i", None}
    site.sync(leader, {old.member_id: b"for i"})
    back = site.join(instance_id="i", session_timeout_ms=400_000)
    assert site.sync(back).assignment == b"for i"
    for _ in range(40):
        assert site.beat(leader) is ErrorCode.NONE
        site.wait(10_000)
    assert site.beat(leader) is ErrorCode.REBALANCE_IN_PROGRESS
    assert site.describe().reason == "static member i's session expired"


def test_only_absent_static_members_are_waited_for_until_their_sessions_end():
    """Nobody could lead: no generation of absent ones is made, over as many rebalance timeouts as it takes."""
    site = Site()
    a = site.join(instance_id="i", session_timeout_ms=300_000, rebalance_timeout_ms=50_000)
    site.sync(a)
    site.forget(site.start_join(rebalance_timeout_ms=50_000))
    site.wait(299_999)
    assert (site.state, site.describe().generation) == (State.PREPARING_REBALANCE, a.generation)
    site.wait(1)
    assert site.state is State.EMPTY


def test_a_member_that_never_heard_its_id_goes_with_its_connection():
    """A client of v0-3 would come again as somebody else; the rest would wait for a ghost."""
    site = Site()
    (a,) = site.stable()
    ghost = site.start_join()
    site.forget(ghost)
    assert [one.member_id for one in site.describe().members] == [a.member_id]
    assert "disconnected before it was in" in site.describe().reason
    assert error_of(site.join(member_id=a.member_id)) is ErrorCode.NONE
    assert site.result(ghost) is None


def test_a_member_whose_connection_closes_may_come_back():
    """Its parked join is forgotten, never answered; it is awaited until its session ends."""
    site = Site()
    a, b = site.stable(2, session_timeout_ms=10_000)
    ticket = site.start_join(member_id=a.member_id, session_timeout_ms=10_000)
    site.wait(9_000)
    site.forget(ticket)
    site.beat(b)
    assert site.describe().members[0].awaited
    site.wait(9_000)
    other = site.start_join(member_id=b.member_id)
    assert site.result(other) is None
    site.wait(1_000)
    assert error_of(site.result(other)) is ErrorCode.NONE
    assert site.result(ticket) is None
    site.forget(ticket)
    site.forget("never heard of")


def test_a_sync_whose_connection_closes_is_forgotten():
    """The member syncs again, and has its assignment."""
    site, (a, b) = rebalancing()
    ticket = site.start_sync(b)
    site.forget(ticket)
    site.sync(a, {b.member_id: b"B"})
    assert site.result(ticket) is None
    assert site.sync(b).assignment == b"B"


def test_members_survive_a_restart():
    """With generation, leader and assignments, and a whole session before them: no rebalance."""
    site = Site()
    a, b = site.stable(2, session_timeout_ms=10_000)
    site.commit(a, 7)
    site.wait(9_000)
    again = site.restarted()
    assert again.state is State.STABLE
    again.wait(9_999)
    assert again.beat(a) is again.beat(b) is ErrorCode.NONE
    assert again.sync(b).assignment == b.member_id.encode()
    assert again.join(member_id=b.member_id).generation == b.generation
    again.wait(10_000)
    assert (again.state, again.describe().generation) == (State.EMPTY, b.generation + 1)


def test_a_rebalance_that_a_restart_cuts_short_begins_again():
    """The last stable generation is what was kept; those who join know their ids still."""
    site = Site()
    a, b = site.stable(2)
    site.start_join(member_id=a.member_id)
    again = site.restarted()
    assert again.state is State.STABLE
    ticket = again.start_join(member_id=a.member_id)
    again.join(member_id=b.member_id)
    assert again.result(ticket).generation == a.generation + 1


def test_an_empty_group_survives_a_restart_with_its_date():
    """The retention of its offsets goes on."""
    site = Site()
    (a,) = site.stable()
    site.commit(a)
    site.leave((a.member_id,))
    site.wait(5_000)
    again = site.restarted()
    assert again.describe().since_ms == site.now_ms - 5_000
    assert again.describe().generation == a.generation + 1


def test_a_describe_says_why_and_whom_the_group_waits_for():
    """State, generation, reason, since when, and who has not rejoined; in Stable also who has what."""
    site = Site()
    a, b = site.stable(2)
    stable = site.describe()
    assert (stable.state, stable.protocol, stable.protocol_type) == (State.STABLE, "range", "consumer")
    assert {(one.metadata, one.assignment) for one in stable.members} == {
        (b"t", a.member_id.encode()),
        (b"t", b.member_id.encode()),
    }
    site.wait(1_000)
    began_ms = site.now_ms
    new = site.start_join(client_id="new")
    site.start_join(member_id=a.member_id)
    site.wait(2_000)
    moving = site.describe()
    assert (moving.state, moving.generation, moving.protocol) == (State.PREPARING_REBALANCE, b.generation, "")
    assert moving.reason == f"member new-{site.ids} joined"
    assert (moving.since_ms, moving.rebalance_began_ms) == (began_ms, began_ms)
    assert moving.deadline_ms == began_ms + 300_000
    assert [(one.member_id, one.seen_ms) for one in moving.members if one.awaited] == [(b.member_id, began_ms - 1_000)]
    assert {one.assignment for one in moving.members} == {b""}
    site.join(member_id=b.member_id)
    assert all(one.awaited for one in site.describe().members)
    site.start_sync(site.result(new))
    assert sum(one.awaited for one in site.describe().members) == 2


def test_a_rebalance_keeps_some_reasons_and_counts_the_rest():
    """Fifty that join are not fifty lines."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=1_000))
    for _ in range(50):
        site.start_join()
    assert site.describe().reason.endswith("member -8 joined; and 42 more")


def test_every_change_of_state_is_told_with_its_reason():
    """For logs and metrics: where to, why, and how long the state before took."""
    site = Site()
    (a,) = site.stable()
    site.wait(5_000)
    site.leave((a.member_id,))
    changes = [effect for effect in site.effects if isinstance(effect, StateChanged)]
    assert [change.state.value for change in changes] == [
        "PreparingRebalance", "CompletingRebalance", "Stable", "PreparingRebalance", "Empty",
    ]  # fmt: skip
    assert (changes[3].took_ms, changes[3].reason) == (5_000, f"member {a.member_id} left")


def test_one_of_fifty_leaves():
    """The other forty-nine are told to rejoin, and the group is stable again once all have."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=100))
    tickets = [site.start_join() for _ in range(50)]
    site.wait(10_000)
    joined = [site.result(ticket) for ticket in tickets]
    saves = [effect for effect in site.effects if isinstance(effect, SaveGroup)]
    assert not saves
    for one in joined:
        site.start_sync(one, {other.member_id: b"1" for other in joined})
    assert site.state is State.STABLE
    site.leave((joined[0].member_id,))
    assert {site.beat(one) for one in joined[1:]} == {ErrorCode.REBALANCE_IN_PROGRESS}
    tickets = [site.start_join(member_id=one.member_id) for one in joined[1:]]
    joined = [site.result(ticket) for ticket in tickets]
    leader = next(one for one in joined if one.member_id == one.leader)
    assert len(leader.members) == 49
    parked = [site.start_sync(one) for one in joined if one is not leader]
    site.sync(leader, {one.member_id: one.member_id.encode() for one in joined})
    assert site.state is State.STABLE
    assert all(site.result(ticket).error is ErrorCode.NONE for ticket in parked)
    assert RANGE[0][0] == site.describe().protocol

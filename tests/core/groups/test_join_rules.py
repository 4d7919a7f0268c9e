"""Joining: ids, the barrier, the vote, who is told what. A test a rule."""

from group_helpers import RANGE, ErrorCode, GroupSettings, Site, error_of

from broker.core.groups.values import JoinResult, Reply, SaveGroup, State


def test_who_comes_without_an_id_gets_one_and_has_to_come_again():
    """v4+: MEMBER_ID_REQUIRED with an id, by which the second join comes in; nobody is a member before."""
    site = Site()
    first = site.join(id_required=True, client_id="app")
    assert (first.error, first.member_id) == (ErrorCode.MEMBER_ID_REQUIRED, "app-1")
    assert not site.describe().members
    second = site.join(id_required=True, member_id=first.member_id)
    assert (second.error, second.member_id, second.generation) == (ErrorCode.NONE, "app-1", 1)


def test_old_clients_and_static_members_join_directly():
    """v0-3 know no MEMBER_ID_REQUIRED; a static member is known by its instance id."""
    assert error_of(Site().join()) is ErrorCode.NONE
    joined = Site().join(id_required=True, instance_id="worker")
    assert (joined.error, joined.member_id) == (ErrorCode.NONE, "worker-1")


def test_an_id_that_nobody_comes_with_expires_with_the_session_timeout():
    """Then it is unknown, and a group that has nothing else is forgotten."""
    site = Site()
    first = site.join(id_required=True, session_timeout_ms=10_000)
    site.wait(9_999)
    assert len(site.groups) == 1
    site.wait(1)
    assert len(site.groups) == 0
    assert error_of(site.join(member_id=first.member_id)) is ErrorCode.UNKNOWN_MEMBER_ID


def test_ids_that_nobody_comes_with_are_bounded():
    """The oldest is given up when there are as many as a group may have members."""
    site = Site(GroupSettings(members_max=3))
    ids = [site.join(id_required=True).member_id for _ in range(4)]
    assert error_of(site.join(member_id=ids[0])) is ErrorCode.UNKNOWN_MEMBER_ID
    assert site.result(site.start_join(member_id=ids[1])) is None
    assert site.describe().pending_count == 2


def test_an_empty_group_waits_for_more_members():
    """The initial delay begins with the first and starts again with each that comes, up to the rebalance timeout: a
    deployment of many makes one generation."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=3_000))
    tickets = [site.start_join(rebalance_timeout_ms=10_000)]
    for _ in range(4):
        site.wait(2_000)
        tickets.append(site.start_join(rebalance_timeout_ms=10_000))
    site.wait(1_999)
    assert {site.result(ticket) for ticket in tickets} == {None}
    site.wait(1)
    assert {site.result(ticket).generation for ticket in tickets} == {1}


def test_the_initial_delay_ends_when_nobody_new_comes():
    """One member waits for it once."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=3_000))
    ticket = site.start_join()
    site.wait(2_999)
    assert site.result(ticket) is None
    site.wait(1)
    assert error_of(site.result(ticket)) is ErrorCode.NONE


def test_only_an_empty_group_delays():
    """A member that comes to a stable group waits for the others' rejoins alone."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=3_000))
    ticket = site.start_join()
    site.wait(3_000)
    old = site.result(ticket)
    site.sync(old)
    new = site.start_join()
    assert site.result(new) is None
    assert error_of(site.join(member_id=old.member_id)) is ErrorCode.NONE
    assert site.result(new).generation == 2


def test_the_barrier_opens_when_all_known_members_have_rejoined():
    """Not one earlier."""
    site = Site()
    a, b, c = site.stable(3)
    first = site.start_join(member_id=a.member_id)
    second = site.start_join(member_id=b.member_id)
    assert (site.result(first), site.result(second)) == (None, None)
    assert [one.member_id for one in site.describe().members if one.awaited] == [c.member_id]
    assert error_of(site.join(member_id=c.member_id)) is ErrorCode.NONE
    assert site.result(first).generation == site.result(second).generation == a.generation + 1


def test_the_barrier_waits_for_the_largest_rebalance_timeout_and_drops_who_is_missing():
    """A member that heartbeats and never rejoins holds everybody up that long, and no longer."""
    site = Site()
    a, b = site.stable(2, rebalance_timeout_ms=60_000)
    site.start_join(member_id=a.member_id, rebalance_timeout_ms=60_000)
    ticket = site.start_join(member_id="", rebalance_timeout_ms=20_000)
    for _ in range(6):
        assert site.beat(b) is ErrorCode.REBALANCE_IN_PROGRESS
        assert site.result(ticket) is None
        site.wait(10_000)
    assert error_of(site.result(ticket)) is ErrorCode.NONE
    assert b.member_id not in {one.member_id for one in site.describe().members}
    assert "did not rejoin in time" in site.describe().reason


def test_the_last_missing_member_completes_the_barrier_by_going():
    """By leaving, by its session's end, and by an id that was given out and is worth nothing any more."""
    for go in ("leave", "expire"):
        site = Site()
        a, b = site.stable(2, session_timeout_ms=10_000)
        ticket = site.start_join(member_id=a.member_id)
        assert site.result(ticket) is None
        site.leave((b.member_id,)) if go == "leave" else site.wait(10_000)
        assert site.result(ticket).generation == a.generation + 1
    site = Site()
    (a,) = site.stable()
    site.join(id_required=True, session_timeout_ms=10_000)
    ticket = site.start_join(member_id=a.member_id)
    assert site.result(ticket) is None
    site.wait(10_000)
    assert error_of(site.result(ticket)) is ErrorCode.NONE


def test_a_group_whose_last_member_goes_is_empty_at_once():
    """Whoever else only has an id does not hold it up; the state is kept."""
    site = Site()
    (a,) = site.stable()
    site.join(id_required=True)
    site.leave((a.member_id,))
    assert site.state is State.EMPTY
    assert site.saved().members == ()
    assert site.saved().generation == a.generation + 1


def test_the_protocol_is_what_most_like_best_of_what_all_offer():
    """A favourite that one member does not know is no candidate."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=10))
    tickets = [
        site.start_join(protocols=(("sticky", b""), ("range", b""), ("roundrobin", b""))),
        site.start_join(protocols=(("sticky", b""), ("range", b""), ("roundrobin", b""))),
        site.start_join(protocols=(("roundrobin", b""), ("range", b""))),
    ]
    site.wait(100)
    assert {site.result(ticket).protocol for ticket in tickets} == {"range"}


def test_who_has_no_protocol_in_common_stays_out():
    """INCONSISTENT_GROUP_PROTOCOL: other protocols, none at all, no type, another type; an empty group takes any."""
    site = Site()
    (a,) = site.stable()
    assert error_of(site.join(protocols=(("sticky", b""),))) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert error_of(site.join(protocols=())) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert error_of(site.join(protocol_type="connect")) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert error_of(site.join("other", protocol_type="")) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert site.state is State.STABLE
    site.leave((a.member_id,))
    assert error_of(site.join(protocols=(("x", b""),), protocol_type="connect")) is ErrorCode.NONE
    assert site.describe().protocol_type == "connect"


def test_a_member_may_exchange_its_own_protocols():
    """Only what the others offer counts; a name that comes twice counts once."""
    site = Site()
    (a,) = site.stable()
    b = site.join(member_id=a.member_id, protocols=(("sticky", b""), ("sticky", b"")))
    assert (b.error, b.protocol) == (ErrorCode.NONE, "sticky")
    assert error_of(site.join()) is ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_only_the_leader_is_told_who_is_in():
    """With everybody's metadata for the chosen protocol."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=10))
    tickets = [
        site.start_join(protocols=(("range", b"a"), ("sticky", b"x"))),
        site.start_join(protocols=(("range", b"b"),), instance_id="i"),
    ]
    site.wait(10)
    site.wait(10)
    leader, follower = map(site.result, tickets)
    assert leader.leader == follower.leader == leader.member_id
    assert [(one.instance_id, one.metadata) for one in leader.members] == [(None, b"a"), ("i", b"b")]
    assert follower.members == ()


def test_the_leader_stays_leader_while_it_rejoins():
    """Its assignor may keep something in memory; another one leads when it is gone."""
    site = Site()
    a, b = site.stable(2)
    site.start_join(member_id=b.member_id, protocols=(("range", b"other"),))
    assert site.join(member_id=a.member_id).leader == a.member_id
    ticket = site.start_join(member_id=b.member_id, protocols=(("range", b"third"),))
    site.leave((a.member_id,))
    assert site.result(ticket).leader == b.member_id


def test_a_follower_that_rejoins_unchanged_disturbs_nobody():
    """Stable: it is told the generation there is, at once (its answer may have got lost)."""
    site = Site()
    _, b = site.stable(2)
    again = site.join(member_id=b.member_id)
    assert (again.error, again.generation, again.members) == (ErrorCode.NONE, b.generation, ())
    assert site.state is State.STABLE
    assert site.sync(again).assignment == b.member_id.encode()


def test_a_join_while_the_assignment_is_awaited_is_answered_at_once():
    """CompletingRebalance, nothing changed: the generation there is; the leader is told the members again. The sync of
    the leader then serves everybody: no loop of joins, and no wait without an end."""
    site = Site()
    a, b = site.stable(2)
    site.start_join(member_id=b.member_id, protocols=(("range", b"t,u"),))
    a = site.join(member_id=a.member_id)
    again = site.join(member_id=b.member_id, protocols=(("range", b"t,u"),))
    assert (again.error, again.generation) == (ErrorCode.NONE, a.generation)
    assert len(site.join(member_id=a.member_id).members) == 2
    parked = site.start_sync(again)
    assert error_of(site.sync(a, {b.member_id: b"mine"})) is ErrorCode.NONE
    assert site.result(parked).assignment == b"mine"


def test_changed_metadata_or_a_leader_that_rejoins_make_a_rebalance():
    """In Stable; a leader does that when the topics' partitions change."""
    site = Site()
    a, b = site.stable(2)
    assert site.result(site.start_join(member_id=a.member_id, reason="partitions changed")) is None
    assert site.state is State.PREPARING_REBALANCE
    assert site.describe().reason == f"member {a.member_id} asked for a rebalance as leader (partitions changed)"
    site = Site()
    a, b = site.stable(2)
    assert site.result(site.start_join(member_id=b.member_id, protocols=(("range", b"u"),))) is None
    assert "changed its metadata" in site.describe().reason


def test_changed_metadata_while_the_assignment_is_awaited_start_over():
    """The parked syncs are told to rejoin."""
    site = Site()
    a, b = site.stable(2)
    site.start_join(member_id=a.member_id)
    b = site.join(member_id=b.member_id)
    parked = site.start_sync(b)
    site.start_join(member_id=b.member_id, protocols=(("range", b"u"),))
    assert error_of(site.result(parked)) is ErrorCode.REBALANCE_IN_PROGRESS
    assert site.state is State.PREPARING_REBALANCE


def test_a_second_join_of_a_parked_member_takes_the_place_of_the_first():
    """The first one's connection is probably gone; it is told to rejoin, and never gets two answers."""
    site = Site()
    a, b = site.stable(2)
    first = site.start_join(member_id=a.member_id)
    second = site.start_join(member_id=a.member_id)
    assert error_of(site.result(first)) is ErrorCode.REBALANCE_IN_PROGRESS
    site.join(member_id=b.member_id)
    assert error_of(site.result(second)) is ErrorCode.NONE


def test_session_timeouts_out_of_range_are_refused():
    """6 s to 30 minutes; both ends are fine."""
    site = Site()
    for timeout_ms in (5_999, 1_800_001, -1):
        assert error_of(site.join(session_timeout_ms=timeout_ms)) is ErrorCode.INVALID_SESSION_TIMEOUT
    for group, timeout_ms in (("a", 6_000), ("b", 1_800_000)):
        assert error_of(site.join(group, session_timeout_ms=timeout_ms)) is ErrorCode.NONE


def test_a_group_needs_a_name():
    """INVALID_GROUP_ID for what makes members."""
    site = Site()
    assert error_of(site.join("")) is ErrorCode.INVALID_GROUP_ID
    assert error_of(site.sync(JoinResult(ErrorCode.NONE, "m", 1), group="")) is ErrorCode.INVALID_GROUP_ID
    assert site.beat(JoinResult(ErrorCode.NONE, "m", 1), group="") is ErrorCode.INVALID_GROUP_ID
    assert site.leave(("m",), group="")[0] is ErrorCode.INVALID_GROUP_ID


def test_a_member_id_that_is_not_known_is_refused():
    """Also for a group that is not known, which is not made by it."""
    site = Site()
    assert error_of(site.join(member_id="stranger")) is ErrorCode.UNKNOWN_MEMBER_ID
    assert len(site.groups) == 0
    site.stable()
    assert error_of(site.join(member_id="stranger")) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_group_has_a_largest_size():
    """GROUP_MAX_SIZE_REACHED for one more, with an id or without; members may always come again."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=0, members_max=2))
    _, b = site.stable(2)
    assert error_of(site.join()) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert error_of(site.join(id_required=True)) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert error_of(site.join(instance_id="i")) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert site.state is State.STABLE
    assert error_of(site.join(member_id=b.member_id)) is ErrorCode.NONE


def test_an_id_that_comes_too_late_for_a_full_group_does_not_hold_up_the_rest():
    """It was the one that the barrier waited for; refused, it is not awaited any more."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=0, members_max=2))
    (a,) = site.stable()
    late = site.join(id_required=True)
    b = site.start_join()
    ticket = site.start_join(member_id=a.member_id)
    assert site.result(ticket) is None
    assert error_of(site.join(member_id=late.member_id)) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert error_of(site.result(ticket)) is error_of(site.result(b)) is ErrorCode.NONE


def test_groups_metadata_and_protocols_are_bounded():
    """No more groups than allowed, no member with too much to say, and a bound on all together."""
    site = Site(
        GroupSettings(initial_rebalance_delay_ms=0, groups_max=1, member_metadata_bytes_max=100, protocols_max=2)
    )
    assert error_of(site.join(protocols=(("range", bytes(96)),))) is ErrorCode.INVALID_REQUEST
    assert error_of(site.join(protocols=tuple((name, b"") for name in "abc"))) is ErrorCode.INVALID_REQUEST
    assert error_of(site.join(protocols=(("range", bytes(95)),))) is ErrorCode.NONE
    assert error_of(site.join("another")) is ErrorCode.GROUP_MAX_SIZE_REACHED
    site = Site(GroupSettings(initial_rebalance_delay_ms=0, bytes_max=1 << 20))
    joined = [site.join(f"g{number}", protocols=(("range", bytes(100_000)),)) for number in range(20)]
    assert {one.error for one in joined} == {ErrorCode.NONE, ErrorCode.GROUP_MAX_SIZE_REACHED}
    assert site.groups.held_bytes <= 1 << 20
    assert error_of(site.join("g0", member_id=joined[0].member_id, protocols=RANGE)) is ErrorCode.NONE


def test_nothing_is_answered_before_what_was_kept_is_known():
    """COORDINATOR_LOAD_IN_PROGRESS for everything."""
    site = Site(load=False)
    loading = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    joined = site.join()
    assert joined.error is loading
    assert error_of(site.sync(joined)) is loading
    assert site.beat(joined) is loading
    assert site.leave(("m",))[0] is loading
    assert site.commit() is loading
    assert site.groups.fetch("g", None)[0] is loading
    assert site.groups.describe("g")[0] is loading
    assert site.groups.listing()[0] is loading
    assert site.groups.delete("g", site.now_ms) is loading
    assert site.groups.delete_offsets("g", [("t", 0)])[0] is loading
    site.groups.finish_loading(site.now_ms)
    assert error_of(site.join()) is ErrorCode.NONE


def test_a_generation_is_kept_before_anybody_hears_of_its_assignment():
    """The save comes before the answers, and the answers say that they wait for it; joins' answers need not."""
    site = Site()
    site.stable(2)
    kinds = [type(effect) for effect in site.effects]
    save = kinds.index(SaveGroup)
    syncs = [effect for effect in site.effects if isinstance(effect, Reply) and effect.after_save]
    assert syncs
    assert all(site.effects.index(effect) > save for effect in syncs)


def test_what_members_say_of_themselves_is_bounded():
    """A member with a megabyte of metadata is refused; a thousand of as much as one may have are taken while they fit
    into what all groups may hold together. (Kafka: group.max.size, and what fits into one record.)
    """
    site = Site()
    settings = site.groups.settings
    assert error_of(site.join(protocols=(("range", bytes(1 << 20)),))) is ErrorCode.INVALID_REQUEST
    taken = 0
    for number in range(settings.members_max):
        protocols = (("range", bytes(settings.member_metadata_bytes_max - 5)),)
        result = site.result(site.start_join(f"g{number % 10}", protocols=protocols))
        taken += result is None or result.error is ErrorCode.NONE
    everything = taken * settings.member_metadata_bytes_max
    assert 0.9 * settings.bytes_max < everything <= settings.bytes_max
    assert everything < 1.1 * settings.members_max * settings.member_metadata_bytes_max / 2

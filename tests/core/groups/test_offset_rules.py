"""Committed offsets: who may commit, what is fetched, what expires; deleting groups and offsets. A test a rule."""

import pytest
from group_helpers import START_MS, ErrorCode, GroupSettings, Site, error_of
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.groups.coordinator import partition_for
from broker.core.groups.offsets import Offsets
from broker.core.groups.values import (
    Committed,
    Committer,
    DropGroup,
    DropOffsets,
    Fetched,
    SaveOffsets,
    State,
    StateChanged,
)

DAY_MS = 86_400_000


def fetch(site, topic="t", partition=0, group="g"):
    """The offset, -1 for none."""
    error, found = site.groups.fetch(group, {topic: [partition]})
    assert error is found[topic][partition].error is ErrorCode.NONE
    return found[topic][partition].offset


def sweep(site):
    """A round of retention."""
    while site.groups.retention.sweep(site.now_ms):
        pass
    site.drain()


def test_a_simple_consumer_commits_while_the_group_is_empty():
    """Generation -1 and no id: fine for a group that is not known or Empty, UNKNOWN_MEMBER_ID once it has members."""
    site = Site()
    assert site.commit(offset=5) is ErrorCode.NONE
    assert site.state is State.EMPTY
    (a,) = site.stable()
    assert site.commit(offset=6) is ErrorCode.UNKNOWN_MEMBER_ID
    assert fetch(site) == 5
    site.leave((a.member_id,))
    assert site.commit(offset=7) is ErrorCode.NONE
    assert fetch(site) == 7


def test_a_member_commits_with_its_generation():
    """Another generation, another id, another holder of its instance id, and a group that is not known."""
    site = Site()
    (a,) = site.stable()
    assert site.commit(a) is ErrorCode.NONE

    def commit_as(member_id, generation, instance_id=None, group="g"):
        return site.groups.commit(group, Committer(member_id, generation, instance_id), [], site.now_ms)[0]

    assert commit_as(a.member_id, a.generation + 1) is ErrorCode.ILLEGAL_GENERATION
    assert commit_as(a.member_id, -1) is ErrorCode.ILLEGAL_GENERATION
    assert commit_as("stranger", a.generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit_as(a.member_id, a.generation, "i") is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit_as(a.member_id, a.generation, group="other") is ErrorCode.ILLEGAL_GENERATION
    assert len(site.groups) == 1


def test_commits_by_state():
    """PreparingRebalance: allowed, partitions are handed over so; CompletingRebalance: REBALANCE_IN_PROGRESS."""
    site = Site()
    a, b = site.stable(2)
    ticket = site.start_join(member_id=a.member_id)
    assert site.commit(b, 3) is ErrorCode.NONE
    b = site.join(member_id=b.member_id)
    assert site.commit(b, 4) is ErrorCode.REBALANCE_IN_PROGRESS
    assert fetch(site) == 3
    site.sync(site.result(ticket))
    assert site.commit(b, 4) is ErrorCode.NONE


def test_a_transaction_may_bring_offsets_in_any_state():
    """TxnOffsetCommit is not held up by a rebalance, and needs no member; what it names is checked."""
    site = Site()
    a, b = site.stable(2)
    ticket = site.start_join(member_id=a.member_id)
    b = site.join(member_id=b.member_id)
    group = site.groups._table.by_id["g"].group
    assert (site.state, site.result(ticket) is None) == (State.COMPLETING_REBALANCE, False)
    assert group.check_commit(Committer(b.member_id, b.generation), 0, in_transaction=True) is ErrorCode.NONE
    assert group.check_commit(Committer(), 0, in_transaction=True) is ErrorCode.NONE
    old = Committer(b.member_id, b.generation - 1)
    assert group.check_commit(old, 0, in_transaction=True) is ErrorCode.ILLEGAL_GENERATION


def test_a_note_beside_an_offset_is_bounded():
    """4096 characters; the other offsets of the request are kept."""
    site = Site()
    assert site.commit(metadata="x" * 4097) is ErrorCode.OFFSET_METADATA_TOO_LARGE
    assert fetch(site) == -1
    assert site.commit(metadata="x" * 4096) is ErrorCode.NONE


def test_an_offset_is_kept_with_leader_epoch_note_and_time():
    """The effect has what a fetch gives back; a restart gives back the same."""
    site = Site()
    site.commit(offset=9, metadata="note")
    saved = [effect for effect in site.effects if isinstance(effect, SaveOffsets)]
    assert saved == [SaveOffsets("g", ((("t", 0), Committed(9, 3, "note", START_MS)),))]
    for one in (site, site.restarted()):
        assert one.groups.fetch("g", None) == (ErrorCode.NONE, {"t": {0: Fetched(9, 3, "note")}})


def test_fetching_what_was_never_committed_is_no_error():
    """-1, for a group, a topic, a partition that is not known; null topics are all there are."""
    site = Site()
    assert site.groups.fetch("nobody", None) == (ErrorCode.NONE, {})
    assert site.groups.fetch("nobody", {"t": [0, 1]}) == (ErrorCode.NONE, {"t": {0: Fetched(), 1: Fetched()}})
    assert len(site.groups) == 0
    site.commit(topic="t", offset=1)
    site.commit(topic="u", offset=2)
    assert fetch(site, "x") == fetch(site, "t", 1) == -1
    found = site.groups.fetch("g", None)[1]
    assert {topic: found[topic][0].offset for topic in found} == {"t": 1, "u": 2}


def test_offsets_of_a_transaction_wait_for_its_end():
    """Staged ones count when it is committed and never when it is aborted; a reader that asks for stable offsets is
    told to wait meanwhile, others see the old one."""
    offsets = Offsets()
    offsets.commit("t", 0, Committed(1))
    offsets.stage(77, "t", 0, Committed(5))
    assert offsets.fetch({"t": [0]})["t"][0].offset == 1
    assert offsets.fetch({"t": [0]}, require_stable=True)["t"][0].error is ErrorCode.UNSTABLE_OFFSET_COMMIT
    assert offsets.expired(DAY_MS, 1, None) == ()
    assert offsets.end_transaction(77, commit=False) == ()
    assert offsets.fetch(None, require_stable=True)["t"][0].offset == 1
    offsets.stage(77, "t", 0, Committed(5))
    assert offsets.end_transaction(77, commit=True) == ((("t", 0), Committed(5)),)
    assert offsets.fetch(None, require_stable=True)["t"][0].offset == 5
    offsets.delete("t", 0)
    assert offsets.held_bytes == 0


def test_retention_starts_when_the_group_becomes_empty():
    """Not at the commit: a consumer that stood still for a month, and was stopped yesterday, keeps its place."""
    site = Site()
    (a,) = site.stable(session_timeout_ms=60_000)
    site.commit(a)
    for _ in range(1000):
        site.wait(50_000)
        site.beat(a)
    site.now_ms += 30 * DAY_MS
    site.leave((a.member_id,))
    site.wait(7 * DAY_MS - 1)
    sweep(site)
    assert fetch(site) == 1
    site.wait(1)
    sweep(site)
    assert fetch(site) == -1
    assert [type(effect) for effect in site.effects if isinstance(effect, DropGroup | DropOffsets)] == [
        DropOffsets,
        DropGroup,
    ]
    assert len(site.groups) == len(site.restarted().groups) == 0


def test_retention_of_an_empty_group_goes_on_over_a_restart():
    """It is not begun anew."""
    site = Site()
    (a,) = site.stable()
    site.commit(a)
    site.leave((a.member_id,))
    site.wait(4 * DAY_MS)
    again = site.restarted()
    again.wait(3 * DAY_MS)
    sweep(again)
    assert len(again.groups) == 0


def test_an_offset_that_is_set_on_an_empty_group_has_its_retention_before_it():
    """An operator who rewinds a group on its sixth day means it to be used."""
    site = Site()
    (a,) = site.stable()
    site.leave((a.member_id,))
    site.commit(topic="u")
    site.wait(6 * DAY_MS)
    site.commit(topic="t")
    site.wait(2 * DAY_MS)
    sweep(site)
    assert (fetch(site, "t"), fetch(site, "u")) == (1, -1)


def test_offsets_of_a_simple_consumer_age_from_their_commit():
    """There are no members whose going would count."""
    site = Site()
    site.commit(topic="t")
    site.wait(4 * DAY_MS)
    site.commit(topic="u")
    site.wait(3 * DAY_MS)
    sweep(site)
    assert (fetch(site, "t"), fetch(site, "u")) == (-1, 1)


def test_subscribed_topics_of_a_live_group_never_expire():
    """What nobody subscribes to any more does; if subscriptions cannot be read, nothing does."""
    for metadata, left in ((b"t", (1, -1)), (b"t?", (1, 1))):
        site = Site()
        (a,) = site.stable(protocols=(("range", metadata),))
        site.commit(a, topic="t")
        site.commit(a, topic="u")
        site.now_ms += 8 * DAY_MS
        sweep(site)
        assert (fetch(site, "t"), fetch(site, "u")) == left


def test_nothing_expires_during_a_rebalance_or_in_another_kind_of_group():
    """Subscriptions are not settled, or there are none."""
    site = Site()
    (a,) = site.stable()
    site.commit(a, topic="u")
    site.start_join()
    site.now_ms += 8 * DAY_MS
    sweep(site)
    assert fetch(site, "u") == 1
    site = Site()
    (a,) = site.stable(protocol_type="connect")
    site.commit(a, topic="u")
    site.now_ms += 8 * DAY_MS
    sweep(site)
    assert fetch(site, "u") == 1


def test_old_clients_bring_their_own_retention():
    """OffsetCommit v2-4: it goes by that, from the commit."""
    site = Site()
    site.commit(retention_ms=1_000)
    site.wait(999)
    sweep(site)
    assert fetch(site) == 1
    site.wait(1)
    sweep(site)
    assert fetch(site) == -1


def test_a_round_of_retention_goes_in_steps():
    """Many groups are not looked at in one."""
    site = Site()
    for number in range(5_000):
        site.commit(group=f"g{number}")
    site.wait(7 * DAY_MS)
    steps = 1
    while site.groups.retention.sweep(site.now_ms):
        steps += 1
    assert steps == 6
    assert len(site.groups) == site.groups.held_bytes == 0


def test_a_group_is_deleted_with_its_offsets_when_it_is_empty():
    """NON_EMPTY_GROUP with members, GROUP_ID_NOT_FOUND for none; nothing of it comes back after a restart."""
    site = Site()
    assert site.groups.delete("g", site.now_ms) is ErrorCode.GROUP_ID_NOT_FOUND
    (a,) = site.stable()
    site.commit(a)
    assert site.groups.delete("g", site.now_ms) is ErrorCode.NON_EMPTY_GROUP
    site.leave((a.member_id,))
    assert site.groups.delete("g", site.now_ms) is ErrorCode.NONE
    site.drain()
    (dead,) = (one for one in site.effects if isinstance(one, StateChanged) and one.state is State.DEAD)
    assert dead.reason == "the group is deleted"
    assert len(site.groups) == len(site.restarted().groups) == site.groups.held_bytes == 0
    assert site.groups.next_deadline_ms is None


def test_a_group_that_was_deleted_begins_anew():
    """An id that was given out before is worth nothing in it."""
    site = Site()
    pending = site.join(id_required=True)
    assert site.groups.delete("g", site.now_ms) is ErrorCode.NONE
    assert error_of(site.join(member_id=pending.member_id)) is ErrorCode.UNKNOWN_MEMBER_ID
    assert site.join().generation == 1


def test_offsets_of_subscribed_topics_are_not_deleted():
    """86 for those; others go, known or not; any of an Empty group; another kind of group has to be Empty."""
    site = Site()
    (a,) = site.stable()
    site.commit(a, topic="t")
    site.commit(a, topic="u")
    places = [("t", 0), ("u", 0), ("x", 0)]
    subscribed = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    assert site.groups.delete_offsets("g", places) == (ErrorCode.NONE, [subscribed, 0, 0])
    assert (fetch(site, "t"), fetch(site, "u")) == (1, -1)
    site.leave((a.member_id,))
    assert site.groups.delete_offsets("g", places) == (ErrorCode.NONE, [0, 0, 0])
    site.drain()
    assert fetch(site.restarted(), "t") == fetch(site, "t") == -1
    assert site.groups.delete_offsets("x", places)[0] is ErrorCode.GROUP_ID_NOT_FOUND
    site.stable(protocol_type="connect")
    assert site.groups.delete_offsets("g", places) == (ErrorCode.NON_EMPTY_GROUP, [])


def test_a_deleted_topics_offsets_go_with_it():
    """A topic of the same name that comes later begins at its beginning."""
    site = Site()
    (a,) = site.stable()
    site.commit(a, topic="t")
    site.commit(a, topic="u")
    for _ in site.groups.drop_topic("t"):
        pass
    site.drain()
    for one in (site, site.restarted()):
        assert (fetch(one, "t"), fetch(one, "u")) == (-1, 1)


def test_groups_are_listed_by_state():
    """All, or those in some states; what is only an offset store has no protocol type."""
    site = Site()
    site.stable()
    site.commit(group="simple")
    everything = [("g", "consumer", State.STABLE), ("simple", "", State.EMPTY)]
    assert site.groups.listing() == (ErrorCode.NONE, everything)
    assert site.groups.listing(["stable"])[1] == everything[:1]
    assert site.groups.listing(["Dead"])[1] == []


def test_a_group_that_is_not_there_is_dead():
    """With an error beside it, for those versions that want one."""
    error, description = Site().groups.describe("g")
    assert (error, description.state.value) == (ErrorCode.GROUP_ID_NOT_FOUND, "Dead")


def test_state_names_are_a_contract():
    """Clients compare them as text."""
    names = ["Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"]
    assert [state.value for state in State] == names


def java_hash(text):
    """By the definition: the sum of unit * 31 ** (n - 1 - i), in 32 bits."""
    raw = text.encode("utf-16-be", "surrogatepass")
    units = [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
    value = sum(unit * 31 ** (len(units) - 1 - i) for i, unit in enumerate(units)) % (1 << 32)
    return value - (1 << 32) if value >= 1 << 31 else value


@settings(deadline=None)
@given(st.text(max_size=20))
def test_the_partition_of_a_group_is_javas_hash_of_it(group_id):
    """Its absolute value modulo the number of partitions."""
    expected = java_hash(group_id)
    assert partition_for(group_id, 50) == (0 if expected == -(1 << 31) else abs(expected)) % 50


@pytest.mark.parametrize(
    ("group_id", "hash_code"),
    [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", -(1 << 31)), ("\N{PILE OF POO}", 1772556)],
)
def test_javas_hash_of_some_strings(group_id, hash_code):
    """Known values: nothing, a letter, a word, the smallest integer (whose absolute value is none), a pair."""
    assert java_hash(group_id) == hash_code
    assert partition_for(group_id, 1 << 20) == (0 if hash_code == -(1 << 31) else abs(hash_code)) % (1 << 20)


def test_what_groups_hold_is_counted():
    """Members, metadata, assignments, offsets: up and down to nothing."""
    site = Site(GroupSettings(initial_rebalance_delay_ms=0))
    (a,) = site.stable(protocols=(("range", bytes(10_000)),))
    site.commit(a, metadata="x" * 1_000)
    assert 11_000 < site.groups.held_bytes < 15_000
    assert abs(site.restarted().groups.held_bytes - site.groups.held_bytes) < 100
    site.leave((a.member_id,))
    site.groups.delete("g", site.now_ms)
    assert site.groups.held_bytes == 0

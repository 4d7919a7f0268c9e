"""Consumers of AMQP in consumer groups: a rule a test."""

import random

import pytest
from amqp_harness import World, deliveries, refusal
from pamqp.header import ContentHeader
from sim_disk import SimDisk

from broker.core.groups.values import GroupSettings, State
from broker.server.local_members import COMMIT_EVERY_MS, DRAIN_MS

START_MS = 1_760_000_000_000


@pytest.fixture
def world():
    """A broker with a disk, whose groups do not wait for more members at first."""
    return without_delay(World(SimDisk(random.Random(1).randrange), wall_ms=START_MS))


def without_delay(world):
    world.hub.group_settings = GroupSettings(initial_rebalance_delay_ms=0)
    return world


def declare(world, name="t", partitions=4):
    client = world.connect()
    client.declare(name, durable=True, x_queue_type="stream", x_partitions=partitions)
    return client


class Member:
    """A consumer of a group on a connection of its own; keeps what it was delivered."""

    def __init__(self, world, group="g", topic="t", prefetch=100, **arguments):
        self.world = world
        self.client = world.connect(capabilities={"consumer_cancel_notify": True})
        self.client.call(1, "basic.qos", 0, prefetch, False)
        self.frames = self.client.consume(topic, "c", x_group=group, **arguments)
        self.got = []
        self.headers = []

    def poll(self):
        """What has come since: [(delivery tag, redelivered, body)]."""
        self.world.advance(100)
        frames = self.frames + self.client.frames()
        self.frames = [frame for frame in frames if frame[0] in ("basic.cancel", "channel.close")]
        for kind, _, payload in frames:
            if kind == "header":
                header = ContentHeader()
                header.unmarshal(payload)
                self.headers.append(header.properties.headers)
        new = [(tag, again, body) for _, tag, again, body in deliveries(frames)]
        self.got += new
        return new

    def bodies(self):
        return [body for _, _, body in self.poll()]

    def ack(self, tag, multiple=False):
        self.client.send(1, "basic.ack", tag, multiple)

    def reject(self, tag, requeue=False):
        self.client.send(1, "basic.nack", tag, False, requeue)

    @property
    def reading(self):
        return next(iter(self.client.machine.channels[1].consumers.values())).queue


def fill(client, count, topic="t", first=0):
    for number in range(first, first + count):
        client.publish(topic, b"%d" % number, headers={"x-partition-key": f"k{number}"})


def committed(world, group="g", topic="t"):
    """By partition."""
    _, found = world.hub.groups_of("/").coordinator.fetch(group, None)
    return {partition: one.offset for partition, one in found.get(topic, {}).items()}


def ends(world, topic="t"):
    stream = world.broker.vhosts["/"].streams.get(topic)
    return {partition.index: partition.high_watermark for partition in stream.topic.partitions}


def commit_time(world):
    world.advance(COMMIT_EVERY_MS)
    world.advance(COMMIT_EVERY_MS)


def test_one_member_gets_everything_from_the_start(world):
    """A new group begins at the first offset; its only member has all partitions."""
    fill(declare(world), 20)
    member = Member(world)
    assert sorted(map(int, member.bodies())) == list(range(20))
    assert member.reading.partitions == [0, 1, 2, 3]


def test_partitions_are_shared_out_and_every_record_goes_to_one_member(world):
    """Two members have half of the partitions each; what comes in is delivered once."""
    client = declare(world)
    one, two = Member(world), Member(world)
    one.poll(), two.poll()
    assert sorted(one.reading.partitions + two.reading.partitions) == [0, 1, 2, 3]
    assert len(one.reading.partitions) == 2
    fill(client, 40)
    got = one.bodies() + two.bodies()
    assert sorted(map(int, got)) == list(range(40))


@pytest.mark.parametrize(("offset", "expected"), [("first", [0, 1, 2]), ("next", []), (1, [1, 2])])
def test_where_a_group_begins(world, offset, expected):
    """`x-stream-offset` counts where nothing is committed, and only there: that it began is committed at once."""
    client = declare(world, partitions=1)
    fill(client, 3)
    member = Member(world, x_stream_offset=offset)
    assert [int(body) for body in member.bodies()] == expected
    member.client.drop()
    world.advance(100)
    fill(client, 1, first=3)
    assert [int(body) for body in Member(world, x_stream_offset="next").bodies()] == [*expected, 3]


def test_the_lowest_unacknowledged_is_committed(world):
    """Acknowledged out of order: what is committed is the lowest offset that is not; it is there after a kill."""
    fill(declare(world, partitions=1), 10)
    member = Member(world)
    member.poll()
    for tag in (1, 2, 4, 5, 10):
        member.ack(tag)
    commit_time(world)
    assert committed(world) == {0: 2}
    again = without_delay(world.kill(wall_ms=START_MS + 100_000))
    assert committed(again) == {0: 2}
    assert [int(body) for body in Member(again).bodies()] == list(range(2, 10))


def test_commits_come_in_intervals_and_not_per_acknowledgement(world):
    """Nothing is committed before the interval; then it is one record, however many acknowledgements there were."""
    fill(declare(world, partitions=1), 50)
    member = Member(world)
    member.poll()
    commit_time(world)
    records = sum(end for end in ends_of_offsets(world))
    for tag in range(1, 41):
        member.ack(tag)
    assert committed(world) == {0: 0}
    commit_time(world)
    assert committed(world) == {0: 40}
    assert sum(ends_of_offsets(world)) == records + 1


def ends_of_offsets(world):
    topic = world.broker.vhosts["/"].topics.get("__consumer_offsets")
    return [partition.log.next_offset for partition in topic.partitions]


def test_what_is_filtered_out_or_missing_is_as_good_as_acknowledged(world):
    """A group with a filter gets past what it does not want."""
    client = declare(world, partitions=1)
    for number in range(6):
        client.publish("t", b"%d" % number, headers={"x-stream-filter-value": "ab"[number % 2]})
    member = Member(world, x_stream_filter="a")
    assert member.bodies() == [b"0", b"2", b"4"]
    member.ack(3, multiple=True)
    commit_time(world)
    member.poll()
    commit_time(world)
    assert committed(world)[0] >= 5


def test_a_new_member_takes_partitions_over_where_they_were_left(world):
    """What was acknowledged is committed before partitions change hands; kept partitions go on where they were."""
    fill(declare(world, partitions=2), 20)
    one = Member(world)
    one.poll()
    for tag, _, _ in one.got[:]:
        one.ack(tag)
    two = Member(world)
    two.poll()
    one.poll()
    assert two.got == []
    assert committed(world) == ends(world)
    assert len(one.got) == 20


def test_kept_partitions_keep_what_is_out(world):
    """A rebalance that leaves a member its partition does not deliver again what is with it, and its acks count."""
    fill(declare(world, partitions=2), 20)
    one = Member(world)
    one.poll()
    two = Member(world)
    world.advance(DRAIN_MS)
    two.poll()
    one.poll()
    assert len(one.got) == 20
    kept, moved = one.reading.partitions, two.reading.partitions
    lost = {body for _, _, body in two.got}
    assert {b for _, _, b in one.got} > lost
    for tag, _, _ in one.got:
        one.ack(tag)  # Those of the lost partition mean nothing, and are no error.
    commit_time(world)
    assert one.frames == []
    now, end = committed(world), ends(world)
    assert now[kept[0]] == end[kept[0]]
    assert now[moved[0]] == 0


def test_a_rebalance_waits_for_what_is_with_consumers_but_not_for_ever(world):
    """What is acknowledged within the time goes to nobody else; then the partitions change hands."""
    client = declare(world, partitions=2)
    fill(client, 20)
    one = Member(world)
    one.poll()
    two = Member(world)
    assert two.bodies() == []
    for tag in range(1, 19):
        one.ack(tag)
    assert two.bodies() == []
    one.ack(20, multiple=True)
    assert two.bodies() == []
    assert len(two.reading.partitions) == 1
    fill(client, 20)
    three = Member(world)
    world.advance(DRAIN_MS - 200)
    assert world.hub.groups_of("/").coordinator.describe("g")[1].state is State.PREPARING_REBALANCE
    world.advance(200)
    assert world.hub.groups_of("/").coordinator.describe("g")[1].state is State.STABLE
    assert len(one.reading.partitions + two.reading.partitions + three.reading.partitions) == 2


def test_a_dead_connection_gives_its_partitions_to_the_others(world):
    """What was not acknowledged comes to whoever takes over, marked as delivered before."""
    client = declare(world, partitions=2)
    one, two = Member(world), Member(world)
    one.poll(), two.poll()
    fill(client, 20)
    one.poll(), two.poll()
    one.client.drop()
    world.advance(DRAIN_MS)
    two.poll()
    assert two.reading.partitions == [0, 1]
    assert {int(body) for _, _, body in two.got} == set(range(20))
    assert {body for _, again, body in two.got if again} == {body for _, _, body in one.got}


def test_a_cancelled_consumer_may_still_acknowledge(world):
    """It leaves when nothing is with it any more, and then what it acknowledged is committed."""
    fill(declare(world, partitions=1), 5)
    one = Member(world)
    one.poll()
    one.client.call(1, "basic.cancel", "c", False)
    two = Member(world)
    commit_time(world)
    for tag in range(1, 6):
        one.ack(tag)
    world.advance(100)
    two.poll()
    assert two.got == []
    assert committed(world) == {0: 5}
    assert two.reading.partitions == [0]


def test_a_cancelled_consumer_without_deliveries_leaves_at_once(world):
    """The group is empty then."""
    declare(world)
    one = Member(world)
    one.poll()
    one.client.call(1, "basic.cancel", "c", False)
    assert world.hub.groups_of("/").coordinator.describe("g")[1].state is State.EMPTY


def test_a_consumer_that_is_gone_before_it_was_in_leaves_nobody_behind(world):
    """Whether its join waits for others, or is answered and nobody has looked at that."""
    declare(world)
    one = Member(world)
    one.client.machine.abort()
    world.settle()
    world.hub.group_settings = GroupSettings(initial_rebalance_delay_ms=500)
    coordinator = world.hub.groups_of("/").coordinator
    assert coordinator.describe("g")[1].members == ()
    two, three = Member(world), Member(world)
    two.client.drop()
    world.settle()
    world.advance(500)
    world.advance(500)
    assert len(coordinator.describe("g")[1].members) == 1
    assert three.reading.partitions == [0, 1, 2, 3]


def test_a_requeued_message_comes_again_with_its_count(world):
    """Redelivered, `x-delivery-count` counts up; over the limit it is gone, or a dead letter."""
    fill(declare(world, partitions=1), 1)
    member = Member(world, x_delivery_limit=2)
    for expected in (None, 1, 2):
        ((tag, again, _),) = member.poll()
        assert again is (expected is not None)
        assert member.headers[-1].get("x-delivery-count") == expected
        member.reject(tag, requeue=True)
    assert member.poll() == []
    commit_time(world)
    assert committed(world) == {0: 1}


def test_failed_deliveries_are_counted_over_members_and_restarts(world):
    """A record that kills its consumer reaches the delivery limit all the same."""
    fill(declare(world, partitions=1), 2)
    for round_number in range(3):
        member = Member(world, x_delivery_limit=3)
        member.poll()
        assert member.headers[0].get("x-delivery-count") == (round_number or None)
        member.ack(2)
        member.client.drop()
        world.advance(100)
    world = without_delay(world.kill(wall_ms=START_MS + 100_000))
    member = Member(world, x_delivery_limit=3)
    member.poll()
    assert member.headers[0].get("x-delivery-count") == 3
    member.reject(1, requeue=True)
    member.ack(2)
    commit_time(world)
    assert committed(world) == {0: 2}


def test_without_a_dead_letter_topic_a_reject_is_an_acknowledgement(world):
    """As for queues without a dead letter exchange: it is gone for this group."""
    fill(declare(world, partitions=1), 2)
    member = Member(world)
    member.poll()
    member.reject(1)
    commit_time(world)
    assert committed(world) == {0: 1}


def test_a_rejected_record_becomes_a_dead_letter(world):
    """The record as it was, with cause, attempts and origin; it is there before its offset is committed."""
    client = declare(world, partitions=1)
    client.publish("t", b"poison", headers={"x-partition-key": "k", "order": 7}, content_type="text/plain")
    member = Member(world, x_dead_letter_topic="t.dead")
    member.poll()
    member.reject(1, requeue=True)
    ((tag, _, _),) = member.poll()
    member.reject(tag)
    again = without_delay(world.kill(wall_ms=START_MS + 100_000))
    reader = Member(again, group="dead", topic="t.dead")
    assert reader.bodies() == [b"poison"]
    (headers,) = reader.headers
    death = headers.pop("x-death")[0]
    assert (death["queue"], death["reason"], death["count"], death["exchange"]) == ("t", "rejected", 2, "")
    assert headers == {
        "order": 7, "x-partition-key": "k", "x-death-group": "g", "x-death-partition": 0, "x-death-offset": 0,
        "x-first-death-queue": "t", "x-first-death-reason": "rejected", "x-first-death-exchange": "",
        "x-last-death-queue": "t", "x-last-death-reason": "rejected", "x-last-death-exchange": "",
        "x-stream-offset": 0,
    }  # fmt: skip
    record = records(again, "t.dead")[0]
    assert (record.key, record.value) == (b"k", b"poison")
    assert dict(record.headers)[b"order"] == b"7"


def records(world, topic):
    from protocol.kafka.compression import open_batch

    found = []
    for partition in world.broker.vhosts["/"].streams.get(topic).topic.partitions:
        for batch in partition.batches(0):
            found += list(open_batch(batch.data, batch.position, batch.header))
    return found


def test_a_dead_letter_and_its_offset_are_in_one_frame(world):
    """Killed at once after a reject: the letter is there, and the record does not come again."""
    fill(declare(world, partitions=1), 3)
    member = Member(world, x_dead_letter_topic="t.dead")
    member.poll()
    member.reject(1)
    again = without_delay(world.kill(wall_ms=START_MS + 100_000))
    assert committed(again) == {0: 1}
    assert [record.value for record in records(again, "t.dead")] == [b"0"]


def test_over_the_delivery_limit_it_is_a_dead_letter(world):
    """The reason is `delivery_limit`, and attempts are counted."""
    fill(declare(world, partitions=1), 1)
    member = Member(world, x_dead_letter_topic="t.dead", x_delivery_limit=1)
    for _ in range(2):
        ((tag, _, _),) = member.poll()
        member.reject(tag, requeue=True)
    assert member.poll() == []
    reader = Member(world, group="dead", topic="t.dead")
    reader.poll()
    death = reader.headers[0]["x-death"][0]
    assert (death["reason"], death["count"]) == ("delivery_limit", 2)


def test_when_the_dead_letter_topic_is_gone_the_consumer_is_cancelled(world):
    """Nothing is lost: the record comes again to whoever consumes next."""
    client = declare(world, partitions=1)
    fill(client, 1)
    reported = []
    world.broker.scheduler.report = lambda what, why: reported.append((what, why))
    member = Member(world, x_dead_letter_topic="t.dead")
    member.poll()
    client.call(1, "queue.delete", 0, "t.dead", False, False, False)
    member.reject(1)
    member.poll()
    assert [name for name, _, _ in member.frames] == ["basic.cancel"]
    assert "cancelled" in reported[0][0]
    assert Member(world).bodies() == [b"0"]


def test_a_consumer_of_kafkas_and_one_of_ours_share_a_group(world):
    """The leader, whichever it is, gives each its part; a rebalance is heard of at once."""
    from broker.core.groups.assignors import assigned_partitions, subscription
    from broker.core.groups.values import JoinRequest, SyncRequest

    declare(world)
    member = Member(world)
    member.poll()
    groups = world.hub.groups_of("/")
    asker = KafkaMember()
    join = JoinRequest(client_id="k", protocols=(("range", subscription("t")),))
    groups.coordinator.join("g", asker, join, groups.now_ms)
    groups.carry_out()
    world.settle()
    joined = asker.results.pop()
    assert joined.generation == 2
    sync = SyncRequest(member_id=joined.member_id, generation=2)
    groups.coordinator.sync("g", KafkaMember.of(asker), sync, groups.now_ms)
    groups.carry_out()
    world.settle()
    theirs = assigned_partitions(asker.results.pop().assignment, "t")
    assert sorted(theirs + member.reading.partitions) == [0, 1, 2, 3]
    assert len(theirs) == 2


class KafkaMember:
    """Takes answers of the coordinator."""

    def __init__(self):
        self.results = []

    @classmethod
    def of(cls, other):
        new = cls()
        new.results = other.results
        return new

    def reply(self, result, *, after_save):
        self.results.append(result)


def test_new_partitions_are_shared_out(world):
    """The topic grows: the members get what is new."""
    client = declare(world, partitions=1)
    member = Member(world)
    member.poll()
    topics = world.broker.vhosts["/"].topics
    topics.add_partitions(topics.get("t"), 3)
    world.advance(100)
    assert member.reading.partitions == [0, 1, 2]
    fill(client, 20)
    assert len(member.bodies()) == 20


def test_a_deleted_topic_cancels_its_consumers(world):
    """As with queues; the group has no member then."""
    client = declare(world)
    member = Member(world)
    member.poll()
    client.call(1, "queue.delete", 0, "t", False, False, False)
    member.poll()
    assert [name for name, _, _ in member.frames] == ["basic.cancel"]
    assert world.hub.groups_of("/").coordinator.describe("g")[1].members == ()


def test_members_of_the_last_run_do_not_come_back(world):
    """After a restart nobody waits for them."""
    fill(declare(world), 8)
    member = Member(world)
    member.poll()
    again = without_delay(world.kill(wall_ms=START_MS + 1_000))
    again.hub.restore_groups()
    assert again.hub.groups_of("/").coordinator.describe("g")[1].members == ()
    assert len(Member(again).bodies()) == 8


def test_a_commit_of_an_old_generation_is_refused(world):
    """A member that the group has thrown out commits nothing over the next owner's head, and comes back."""
    fill(declare(world, partitions=1), 10)
    one = Member(world)
    one.poll()
    groups = world.hub.groups_of("/")
    (description,) = groups.coordinator.describe("g")[1].members
    from broker.core.groups.values import Leaver

    groups.coordinator.leave("g", [Leaver(description.member_id)], groups.now_ms)
    groups.carry_out()
    for tag in range(1, 11):
        one.client.machine.channels[1]  # Still open.
        one.ack(tag)
    assert committed(world) == {0: 0}
    world.advance(3_000)
    world.advance(3_000)
    assert one.reading.partitions == [0]
    assert len(one.poll()) + len(one.got) >= 20


def test_a_partition_is_read_so_far_ahead_and_no_further(world, monkeypatch):
    """One message that is never acknowledged stops its partition after so many others."""
    monkeypatch.setattr("broker.core.streams.claim.SPAN_MAX", 10)
    fill(declare(world, partitions=1), 30)
    member = Member(world, prefetch=1000)
    for _ in range(5):
        for tag, _, body in member.poll():
            if body != b"0":
                member.ack(tag)
    assert len(member.got) == 10
    member.ack(1)
    assert len(member.poll()) == 10


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"x_group": ""}, 406), ({"x_group": 7}, 406), ({"x_group": "g" * 256}, 406),
        ({"x_group": "g", "x_delivery_limit": "x"}, 406), ({"x_group": "g", "x_delivery_limit": -2}, 406),
        ({"x_group": "g", "x_dead_letter_topic": "t"}, 406), ({"x_group": "g", "x_dead_letter_topic": 1}, 406),
        ({"x_group": "g", "x_dead_letter_topic": "q"}, 406), ({"x_group": "g", "x_stream_offset": "foo"}, 406),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(world, arguments, code):
    """406 that says which, and no member is left behind."""
    client = declare(world)
    client.declare("q")
    client.call(1, "basic.qos", 0, 10, False)
    assert refusal(client.consume("t", **arguments))[0] == code
    assert world.hub.groups_of("/").coordinator.describe("g")[1].members == ()


def test_a_group_on_a_queue_is_refused(world):
    """Queues have competing consumers without it; to ignore it would be to promise something."""
    client = world.connect()
    client.declare("q")
    assert refusal(client.consume("q", x_group="g"))[0] == 406


def test_permissions(world):
    """`read` for the group's name, `write` for the topic of dead letters, `configure` to make that."""
    declare(world)
    world.allow("u", "^$", "^w", "^(t|g)$")
    for arguments, code in (
        ({"x_group": "other"}, 403), ({"x_group": "g", "x_dead_letter_topic": "nope"}, 403),
        ({"x_group": "g", "x_dead_letter_topic": "w"}, 403),
    ):  # fmt: skip
        client = world.connect(user="u")
        client.call(1, "basic.qos", 0, 10, False)
        assert refusal(client.consume("t", **arguments))[0] == code


def test_a_group_with_another_kind_of_member_is_refused(world):
    """Where members agree on an assignor that a consumer here does not know: 406 at once."""
    from broker.core.groups.values import JoinRequest

    declare(world)
    groups = world.hub.groups_of("/")
    join = JoinRequest(client_id="k", protocols=(("cooperative-sticky", b""),))
    groups.coordinator.join("g", KafkaMember(), join, groups.now_ms)
    groups.carry_out()
    client = world.connect(capabilities={"consumer_cancel_notify": True})
    client.call(1, "basic.qos", 0, 10, False)
    frames = client.consume("t", x_group="g")
    code, text = refusal(frames)
    assert (code, len(frames)) == (406, 1)
    assert not world.broker.vhosts["/"].streams.get("t").consumers
    assert "INCONSISTENT_GROUP_PROTOCOL" in text

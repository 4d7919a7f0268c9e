"""Requests that name very many things are answered in short steps: nobody else waits for them."""

import pytest
from kafka_wire import batch
from kafka_world import KafkaWorld, made
from steps import StepCounter, assert_short_steps

from broker.core.scheduler import SLICE_UNITS
from broker.server.kafka import handlers
from broker.server.kafka.slot import Slot
from protocol.kafka.headers import read_request
from protocol.kafka.readers import ELEMENTS_MAX

COUNT = 10_000
NAMING_LINES = 7
"""What a step may run for each name that a request has, of which ELEMENTS_MAX is the most: to find those twice, say.
What the broker has of its own, partitions or offsets, has no such bound, and is cut."""
NOW_MS = 1_900_000_000_000
NAMES = [f"nowhere-{number}" for number in range(COUNT)]


def topics(api, field, part, *, wide=False, **values):
    """The elements of a request for COUNT topics of one partition each, or for one topic of COUNT partitions."""
    topic = made(api, field)
    name = "topic" if "topic" in topic.SPECS else "name"
    spec = topic.SPECS[part].of
    is_plain = not hasattr(spec, "SPECS")

    def one(index):
        if is_plain:
            return index
        key = next(key for key in ("partition_index", "index", "partition") if key in spec.SPECS)
        return spec(**{key: index}, **values)

    if wide:
        return [topic(**{name: "wide", part: [one(index) for index in range(COUNT)]})]
    return [topic(**{name: name_, part: [one(0)]}) for name_ in NAMES]


def many(api, field, **values):
    """COUNT elements that differ in their names."""
    element = made(api, field)
    name = next(key for key in ("name", "resource_name", "user") if key in element.SPECS)
    return [element(**{name: name_}, **values) for name_ in NAMES]


CREATED = {"num_partitions": 1, "replication_factor": 1}
FETCHED = {"partition_max_bytes": 1 << 20}
ACL = {"resource_type": 2, "resource_pattern_type": 3, "principal": "User:a", "host": "*", "operation": 3,
       "permission_type": 3}  # fmt: skip
BATCHES = {"records": batch([b"x"])}

REQUESTS = [
    ("Metadata", 9, lambda: {"topics": many("Metadata", "topics")}),
    ("Metadata", 9, lambda: {"topics": None}),
    ("DescribeTopicPartitions", 0, lambda: {"topics": many("DescribeTopicPartitions", "topics"),
                                            "response_partition_limit": 2000, "cursor": None}),
    ("FindCoordinator", 4, lambda: {"key_type": 0, "coordinator_keys": NAMES}),
    ("DescribeGroups", 5, lambda: {"groups": NAMES}),
    ("DeleteGroups", 2, lambda: {"groups_names": NAMES}),
    ("ListOffsets", 6, lambda: {"topics": topics("ListOffsets", "topics", "partitions", timestamp=-1)}),
    ("ListOffsets", 6, lambda: {"topics": topics("ListOffsets", "topics", "partitions", wide=True, timestamp=-2)}),
    ("OffsetForLeaderEpoch", 4, lambda: {"topics": topics("OffsetForLeaderEpoch", "topics", "partitions", wide=True)}),
    ("Produce", 9, lambda: {"acks": -1, "topic_data": [made("Produce", "topic_data")(name=name) for name in NAMES]}),
    ("Produce", 9, lambda: {"acks": -1, "topic_data": topics("Produce", "topic_data", "partition_data", wide=True,
                                                             **BATCHES)}),
    ("Fetch", 11, lambda: {"topics": topics("Fetch", "topics", "partitions", **FETCHED), "max_bytes": 1 << 20}),
    ("Fetch", 11, lambda: {"topics": topics("Fetch", "topics", "partitions", wide=True, **FETCHED),
                           "max_bytes": 1 << 20}),
    ("OffsetCommit", 8, lambda: {"group_id": "g", "generation_id_or_member_epoch": -1,
                                 "topics": topics("OffsetCommit", "topics", "partitions", wide=True,
                                                  committed_offset=0, committed_metadata="")}),
    ("OffsetFetch", 7, lambda: {"group_id": "g", "topics": topics("OffsetFetch", "topics", "partition_indexes")}),
    ("OffsetFetch", 7, lambda: {"group_id": "committed", "topics": None}),
    ("OffsetDelete", 0, lambda: {"group_id": "committed", "topics": topics("OffsetDelete", "topics", "partitions",
                                                                           wide=True)}),
    ("LeaveGroup", 4, lambda: {"group_id": "g", "members": [made("LeaveGroup", "members")(
        member_id=name, group_instance_id=None) for name in NAMES]}),
    ("CreateTopics", 7, lambda: {"topics": many("CreateTopics", "topics", **CREATED)}),
    ("DeleteTopics", 5, lambda: {"topic_names": NAMES}),
    ("CreatePartitions", 3, lambda: {"topics": many("CreatePartitions", "topics", count=2, assignments=None)}),
    ("DeleteRecords", 2, lambda: {"topics": topics("DeleteRecords", "topics", "partitions", wide=True, offset=0)}),
    ("DescribeConfigs", 4, lambda: {"resources": many("DescribeConfigs", "resources", resource_type=2,
                                                      configuration_keys=None)}),
    ("AlterConfigs", 2, lambda: {"resources": many("AlterConfigs", "resources", resource_type=2)}),
    ("IncrementalAlterConfigs", 1, lambda: {"resources": many("IncrementalAlterConfigs", "resources",
                                                              resource_type=2)}),
    ("DescribeLogDirs", 4, lambda: {"topics": None}),
    ("DescribeQuorum", 2, lambda: {"topics": [made("DescribeQuorum", "topics")(topic_name=name) for name in NAMES]}),
    ("DescribeQuorum", 2, lambda: {"topics": [made("DescribeQuorum", "topics")(
        topic_name="wide", partitions=[made("DescribeQuorum", "topics.partitions")(partition_index=index)
                                       for index in range(COUNT)])]}),
    ("ElectLeaders", 2, lambda: {"topic_partitions": topics("ElectLeaders", "topic_partitions", "partitions",
                                                            wide=True)}),
    ("AlterPartitionReassignments", 0, lambda: {"topics": topics("AlterPartitionReassignments", "topics", "partitions",
                                                                 wide=True, replicas=None)}),
    ("DescribeProducers", 0, lambda: {"topics": topics("DescribeProducers", "topics", "partition_indexes", wide=True)}),
    ("CreateAcls", 3, lambda: {"creations": many("CreateAcls", "creations", **ACL)}),
    ("DescribeUserScramCredentials", 0, lambda: {"users": many("DescribeUserScramCredentials", "users")}),
    ("AlterUserScramCredentials", 0, lambda: {"deletions": many("AlterUserScramCredentials", "deletions",
                                                                mechanism=1)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "version", "fields"), REQUESTS, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(REQUESTS)]
)
def test_a_request_for_very_many(name, version, fields):
    """It is answered, whole, and no step of it is long, beside reading the request and writing the answer, which
    ELEMENTS_MAX bounds."""

    def scenario(counter):
        world = KafkaWorld(auto_create_topics=False, acls_max=100_000)
        registry = world.broker.vhosts["/"].topics
        registry.create("wide", 10_000, {})
        client = world.client()
        if "committed" in str(fields.__code__.co_consts):
            client.ask("OffsetCommit", 8, group_id="committed", generation_id_or_member_epoch=-1,
                       topics=topics("OffsetCommit", "topics", "partitions", wide=True, committed_offset=0,
                                     committed_metadata=""))  # fmt: skip
        request = read_request(memoryview(client.frame(name, version, **fields()))[4:])
        world.settle()
        counter.run_while_busy(world.broker.scheduler)
        slot = Slot(client.machine, request[0])
        client.machine.slots.append(slot)
        steps = handlers.handler_of(slot.header.api_key)(client.machine, slot, request[1])
        ended = []
        answer_when_durable = world.kafka.answer_when_durable
        later = []
        world.kafka.answer_when_durable = lambda *answer: later.append(answer)

        def step():
            try:
                next(steps)
            except StopIteration as done:
                ended.append(done.value)

        while not ended:
            counter.run(step)
        for answer in later:
            answer_when_durable(*answer)
        if ended[0] is not None:
            slot.answer(ended[0])
        [answer] = client.answers()
        assert answer is not None
        assert counter.lines_worst < NAMING_LINES * COUNT

    assert_short_steps(scenario)


def longest_step(world, client, name, version, **fields):
    """The lines of the longest step of an answer."""
    counter = StepCounter()
    request = read_request(memoryview(client.frame(name, version, **fields))[4:])
    slot = Slot(client.machine, request[0])
    client.machine.slots.append(slot)
    world.kafka.answer_when_durable = lambda *_: None
    steps = handlers.handler_of(slot.header.api_key)(client.machine, slot, request[1])
    ended = []
    while not ended:
        counter.run(lambda: next(steps, None) is None and ended.append(True))
    return counter.lines_worst


@pytest.mark.parametrize("count", [SLICE_UNITS - 1, SLICE_UNITS, 2 * SLICE_UNITS])
def test_topics_that_fill_a_slice_each(count):
    """What one of them has left over counts for the next."""
    world = KafkaWorld(auto_create_topics=False)
    for number in range(9):
        world.broker.vhosts["/"].topics.create(f"wide-{number}", count, {})
    assert longest_step(world, world.client(), "Metadata", 9, topics=None) < 2.5 * 13 * SLICE_UNITS


def test_groups_that_fill_a_slice_each():
    """The offsets of many groups, each less than a slice."""
    world = KafkaWorld(auto_create_topics=False)
    client = world.client()
    world.broker.vhosts["/"].topics.create("wide", 99, {})
    names = [f"g{number}" for number in range(60)]
    offset = made("OffsetCommit", "topics.partitions")
    offsets = [offset(partition_index=index, committed_offset=0, committed_metadata="") for index in range(99)]
    committed = [made("OffsetCommit", "topics")(name="wide", partitions=offsets)]
    for name in names:
        client.ask("OffsetCommit", 8, group_id=name, generation_id_or_member_epoch=-1, topics=committed)
    groups = [made("OffsetFetch", "groups")(group_id=name, topics=None) for name in names]
    one = longest_step(world, client, "OffsetFetch", 8, groups=groups[:1])
    assert longest_step(world, client, "OffsetFetch", 8, groups=groups) < 3 * one


@pytest.mark.parametrize("event", ["data", "time"])
def test_a_parked_fetch_of_very_many(event):
    """Whatever wakes it, it is looked at in short steps."""

    def scenario(counter):
        world = KafkaWorld(auto_create_topics=False)
        registry = world.broker.vhosts["/"].topics
        registry.create("wide", 10_000, {})
        client = world.client()
        fields = {"topics": topics("Fetch", "topics", "partitions", wide=True, **FETCHED), "max_bytes": 1 << 20}
        for topic in fields["topics"]:
            topic.partitions = topic.partitions[:10_000]
        client.machine.receive(client.frame("Fetch", 11, max_wait_ms=500, min_bytes=1, **fields))
        counter.run_while_busy(world.broker.scheduler)
        assert not client.transport.sent
        if event == "data":
            registry.get("wide").partitions[9_999].append(batch([b"x"]), NOW_MS)
            world.hub.end_turn()
            world.durability.flusher.collect()
        else:
            world.hub.now_ms += 1000
            counter.run(lambda: [call(world.hub.now_ms) for call in world.hub.on_tick])
        counter.run_while_busy(world.broker.scheduler)
        [answer] = client.answers()
        assert len(answer.responses[0].partitions) == 10_000

    assert_short_steps(scenario)


def test_a_long_request_is_read_and_answered_in_steps():
    """As many as may be asked for, a group being one of the larger elements; what comes behind waits for it."""

    def scenario(counter):
        world = KafkaWorld()
        client = world.client()
        names = [f"group-{number}" for number in range(ELEMENTS_MAX - 1000)]
        frames = client.frame("DescribeGroups", 5, groups=names) + client.frame("ApiVersions", 3)
        counter.run(client.machine.receive, frames)
        counter.run_while_busy(world.broker.scheduler)
        while client.machine.more:
            client.machine.proceed()
        described, versions = client.answers()
        assert [one.group_id for one in described.groups] == names
        assert versions.api_keys

    assert_short_steps(scenario)


def test_others_are_answered_meanwhile():
    """A request that takes long holds back those behind it on its own connection, and no other connection."""
    world = KafkaWorld()
    client, other = world.client(), world.client()
    client.machine.receive(client.frame("DescribeGroups", 5, groups=NAMES) + client.frame("ApiVersions", 3))
    other.machine.receive(other.frame("ApiVersions", 3))
    world.hub.end_turn()
    assert not client.transport.sent
    assert other.transport.sent
    world.settle()
    while client.machine.more:
        client.machine.proceed()
    groups, versions = client.answers()
    assert len(groups.groups) == COUNT
    assert versions.api_keys


def test_a_peer_that_goes_in_the_middle_takes_its_question_along():
    """What is left of it is not looked up."""
    world = KafkaWorld()
    client = world.client()
    looked = []
    client.machine.hub.may_see = lambda _, group_id: looked.append(group_id)
    client.machine.receive(client.frame("DescribeGroups", 5, groups=NAMES))
    while not looked:
        world.broker.scheduler.run_slice()
    client.machine.abort()
    world.settle()
    assert 0 < len(looked) < COUNT / 10


def test_a_peer_that_goes_in_the_middle_leaves_its_wishes():
    """What is to be changed is changed whole, as by Kafka's controller, whose step is one for all topics."""
    world = KafkaWorld()
    topics_ = world.broker.vhosts["/"].topics
    for api, version, field, wanted in (
        ("CreateTopics", 7, {"topics": many("CreateTopics", "topics", **CREATED)[:500]}, 500),
        ("DeleteTopics", 5, {"topic_names": NAMES[:500]}, 0),
    ):
        client = world.client()
        client.machine.receive(client.frame(api, version, **field))
        assert topics_.partition_count not in (0, 500)
        client.machine.abort()
        world.settle()
        assert topics_.partition_count == wanted


@pytest.mark.parametrize("wrong", ["a step", "the answer"])
def test_a_bug_in_the_middle_ends_one_connection(wrong, monkeypatch):
    """A handler that raises, or whose response cannot be written: its connection is closed, others are served."""
    world = KafkaWorld()
    client, other = world.client(), world.client()

    def steps(*_):
        yield 1
        if wrong == "a step":
            raise KeyError("a bug")
        return object()

    monkeypatch.setitem(handlers._HANDLERS, 15, steps)
    client.machine.receive(client.frame("DescribeGroups", 5, groups=["g"]))
    world.settle()
    assert client.machine.finished
    assert other.ask("ApiVersions", 3).api_keys


def test_more_elements_than_a_request_may_have():
    """The connection is closed: nobody asks for so many."""
    world = KafkaWorld()
    client = world.client()
    client.machine.receive(client.frame("DescribeGroups", 5, groups=[""] * (ELEMENTS_MAX + 1)))
    world.settle()
    assert client.machine.finished

"""Metadata and the administration of topics."""

import itertools

import pytest
from kafka_wire import BY_NAME, batch

from protocol.kafka.errors import ErrorCode

NAMES = map("made-{}".format, itertools.count())


def metadata(wire, topics, version=12, **options):
    """{name: topic} of an answer."""
    api = BY_NAME["Metadata"].request
    asked = None if topics is None else [api.SPECS["topics"].of(name=name) for name in topics]
    return {one.name: one for one in wire.ask("Metadata", version, topics=asked, **options).topics}


def test_all_topics_or_none(wire, topic):
    """Null asks for all topics; an empty list for none, but in version 0 for all."""
    assert topic in metadata(wire, None)
    assert metadata(wire, []) == {}
    assert topic in metadata(wire, [], version=0)


def test_the_address_is_the_one_that_was_dialled(wire, kafka):
    """A client is told to come back where it came in."""
    response = wire.ask("Metadata", 9, topics=[])
    [broker] = response.brokers
    assert (broker.host, broker.port) == kafka.addresses["kafka"]
    assert response.controller_id == broker.node_id
    assert len(response.cluster_id) == 22


def test_topics_are_created_on_first_use(wire):
    """If the client allows it; else UNKNOWN_TOPIC_OR_PARTITION."""
    name = next(NAMES)
    found = metadata(wire, [name], allow_auto_topic_creation=False)[name]
    assert found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    found = metadata(wire, [name], allow_auto_topic_creation=True)[name]
    assert (found.error_code, len(found.partitions)) == (0, 1)
    assert wire.produce(name, batch([b"x"])).base_offset == 0
    assert metadata(wire, ["no/name"], allow_auto_topic_creation=True)["no/name"].error_code == (
        ErrorCode.INVALID_TOPIC_EXCEPTION
    )


def creating(wire, *, version=7, validate_only=False, **fields):
    """The result of creating one topic."""
    topic_class = BY_NAME["CreateTopics"].request.SPECS["topics"].of
    fields = {"num_partitions": 1, "replication_factor": 1, **fields}
    return wire.ask("CreateTopics", version, topics=[topic_class(**fields)], validate_only=validate_only).topics[0]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": ""}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"name": ".."}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"name": "a" * 250}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"name": "sp ace"}, ErrorCode.INVALID_TOPIC_EXCEPTION),
        ({"name": "x", "num_partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ({"name": "x", "num_partitions": 1_000_000}, ErrorCode.INVALID_PARTITIONS),
        ({"name": "x", "replication_factor": 3}, ErrorCode.INVALID_REPLICATION_FACTOR),
    ],
)
def test_what_cannot_be_created(wire, fields, code):
    """Names, numbers of partitions and of replicas that are none."""
    result = creating(wire, **fields)
    assert ErrorCode(result.error_code) is code
    assert result.error_message


def test_create(wire):
    """-1 is the default; a topic that is there, or would collide with one, is refused; validating changes nothing."""
    name = next(NAMES)
    assert creating(wire, name=name, validate_only=True).error_code == 0
    assert name not in metadata(wire, None)
    made = creating(wire, name=name, num_partitions=-1, replication_factor=-1)
    assert (made.error_code, made.num_partitions, made.replication_factor) == (0, 1, 1)
    assert metadata(wire, [name])[name].topic_id == made.topic_id
    assert creating(wire, name=name).error_code == ErrorCode.TOPIC_ALREADY_EXISTS
    assert creating(wire, name="a.b").error_code == 0
    assert creating(wire, name="a_b").error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    topic_class = BY_NAME["CreateTopics"].request.SPECS["topics"].of
    twice = [topic_class(name="twice", num_partitions=1, replication_factor=1)] * 2
    assert {one.error_code for one in wire.ask("CreateTopics", 7, topics=twice).topics} == {ErrorCode.INVALID_REQUEST}


def test_more_partitions(wire, topic):
    """A topic grows, and never shrinks."""

    def grow(count):
        topic_class = BY_NAME["CreatePartitions"].request.SPECS["topics"].of
        wanted = [topic_class(name=topic, count=count, assignments=None)]
        return wire.ask("CreatePartitions", 3, topics=wanted, timeout_ms=1000).results[0].error_code

    assert grow(4) == 0
    assert len(metadata(wire, [topic])[topic].partitions) == 4
    assert grow(4) == ErrorCode.INVALID_PARTITIONS
    assert grow(2) == ErrorCode.INVALID_PARTITIONS
    assert wire.produce(topic, batch([b"x"]), partition=3).base_offset == 0


def test_delete(wire, topic):
    """By name or by id; what is not there says so; the name is free again, and empty."""
    wire.produce(topic, batch([b"x"]))
    state = BY_NAME["DeleteTopics"].request.SPECS["topics"].of
    topic_id = metadata(wire, [topic])[topic].topic_id
    [gone] = wire.ask("DeleteTopics", 6, topics=[state(topic_id=topic_id)], timeout_ms=1000).responses
    assert (gone.error_code, gone.name) == (0, topic)
    [again] = wire.ask("DeleteTopics", 6, topics=[state(name=topic)], timeout_ms=1000).responses
    assert again.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    [again] = wire.ask("DeleteTopics", 6, topics=[state(topic_id=topic_id)], timeout_ms=1000).responses
    assert again.error_code == ErrorCode.UNKNOWN_TOPIC_ID
    wire.create(topic)
    assert wire.end(topic).offset == 0


class TestConfiguration:
    """Kafka's names, values and sources."""

    def describe(self, wire, name, keys=None, kind=2):
        resource = BY_NAME["DescribeConfigs"].request.SPECS["resources"].of
        asked = [resource(resource_type=kind, resource_name=name, configuration_keys=keys)]
        [result] = wire.ask("DescribeConfigs", 4, resources=asked, include_synonyms=True).results
        return result if result.error_code else {one.name: one for one in result.configs}

    def alter(self, wire, name, *changes, validate_only=False):
        resource = BY_NAME["IncrementalAlterConfigs"].request.SPECS["resources"].of
        one = resource.SPECS["configs"].of
        configs = [one(name=key, config_operation=operation, value=value) for key, operation, value in changes]
        asked = [resource(resource_type=2, resource_name=name, configs=configs)]
        return wire.ask("IncrementalAlterConfigs", 1, resources=asked, validate_only=validate_only).responses[0]

    def test_describe(self, wire):
        """All of Kafka's names with type, source and what it would be otherwise."""
        wire.create("described", configs={"retention.ms": "1000"})
        found = self.describe(wire, "described")
        assert len(found) >= 31
        own, other = found["retention.ms"], found["segment.bytes"]
        assert (own.value, own.config_source, [one.value for one in own.synonyms]) == ("1000", 1, ["1000"])
        assert [(one.name, one.value, one.source) for one in other.synonyms] == [("log.segment.bytes", "1073741824", 5)]
        assert (other.value, other.config_source, other.config_type) == ("1073741824", 5, 3)
        assert set(self.describe(wire, "described", ["retention.ms"])) == {"retention.ms"}
        assert self.describe(wire, "nowhere").error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert "num.partitions" in self.describe(wire, "1", kind=4)

    def test_incremental(self, wire, topic):
        """Set, delete, append to and subtract from a list; a mistake changes nothing."""
        assert self.alter(wire, topic, ("cleanup.policy", 2, "compact"), ("retention.ms", 0, "5")).error_code == 0
        found = self.describe(wire, topic)
        assert (found["cleanup.policy"].value, found["retention.ms"].value) == ("delete,compact", "5")
        self.alter(wire, topic, ("cleanup.policy", 3, "delete"), ("retention.ms", 1, None))
        found = self.describe(wire, topic)
        assert (found["cleanup.policy"].value, found["retention.ms"].value) == ("compact", "604800000")
        for change in (("retention.ms", 0, "many"), ("no.such.key", 0, "1"), ("retention.ms", 2, "1")):
            assert self.alter(wire, topic, ("segment.ms", 0, "7"), change).error_code == ErrorCode.INVALID_CONFIG
        assert self.alter(wire, topic, ("segment.ms", 0, "7"), validate_only=True).error_code == 0
        assert self.describe(wire, topic)["segment.ms"].config_source == 5

    def test_the_old_way_replaces(self, wire):
        """AlterConfigs leaves nothing of what was set before."""
        wire.create("replaced", configs={"retention.ms": "1000", "segment.ms": "9"})
        resource = BY_NAME["AlterConfigs"].request.SPECS["resources"].of
        configs = [resource.SPECS["configs"].of(name="segment.ms", value="10")]
        asked = [resource(resource_type=2, resource_name="replaced", configs=configs)]
        assert wire.ask("AlterConfigs", 2, resources=asked).responses[0].error_code == 0
        found = self.describe(wire, "replaced")
        assert (found["segment.ms"].value, found["retention.ms"].config_source) == ("10", 5)

    def test_max_message_bytes_holds_at_once(self, wire, topic):
        """A changed value counts for the next batch."""
        self.alter(wire, topic, ("max.message.bytes", 0, "200"))
        assert wire.produce(topic, batch([b"x" * 300])).error_code == ErrorCode.MESSAGE_TOO_LARGE

    def test_a_compacted_topic_wants_keys(self, wire):
        """A record without a key is INVALID_RECORD there."""
        wire.create("compacted", configs={"cleanup.policy": "compact"})
        assert wire.produce("compacted", batch([b"x"])).error_code == ErrorCode.INVALID_RECORD
        assert wire.produce("compacted", batch([b"x"], keys=[b"k"])).error_code == 0


def test_describe_topic_partitions(wire):
    """In order, as many partitions as are wanted, and a cursor for the rest."""
    for name, count in (("paged-a", 3), ("paged-b", 2)):
        wire.create(name, count)
    api = BY_NAME["DescribeTopicPartitions"].request
    topics = [api.SPECS["topics"].of(name=name) for name in ("paged-b", "paged-a")]
    cursor, seen = None, []
    while True:
        found = wire.ask("DescribeTopicPartitions", 0, topics=topics, response_partition_limit=2, cursor=cursor)
        seen += [(one.name, part.partition_index) for one in found.topics for part in one.partitions]
        if found.next_cursor is None:
            break
        cursor = api.SPECS["cursor"].of(
            topic_name=found.next_cursor.topic_name, partition_index=found.next_cursor.partition_index
        )
    assert seen == [("paged-a", 0), ("paged-a", 1), ("paged-a", 2), ("paged-b", 0), ("paged-b", 1)]


def test_log_directories(wire, topic):
    """The size of a partition is what its batches take."""
    wire.produce(topic, batch([b"x" * 1000]))
    api = BY_NAME["DescribeLogDirs"].request
    asked = [api.SPECS["topics"].of(topic=topic, partitions=[0])]
    [result] = wire.ask("DescribeLogDirs", 4, topics=asked).results
    [found] = result.topics[0].partitions
    assert 1000 < found.partition_size < 1200
    assert result.usable_bytes > 0


def test_a_cluster_of_one(wire, topic):
    """Nothing to elect, nothing to move, one broker."""
    assert len(wire.ask("DescribeCluster", 1).brokers) == 1
    api = BY_NAME["ElectLeaders"].request.SPECS["topic_partitions"].of
    [elected] = wire.ask(
        "ElectLeaders", 2, topic_partitions=[api(topic=topic, partitions=[0])]
    ).replica_election_results
    assert elected.partition_result[0].error_code == ErrorCode.ELECTION_NOT_NEEDED
    topic_class = BY_NAME["AlterPartitionReassignments"].request.SPECS["topics"].of
    one = topic_class.SPECS["partitions"].of
    wanted = [topic_class(name=topic, partitions=[one(partition_index=0), one(partition_index=0, replicas=[1, 2])])]
    [moved] = wire.ask("AlterPartitionReassignments", 0, topics=wanted).responses
    assert [one.error_code for one in moved.partitions] == [
        ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, ErrorCode.INVALID_REPLICA_ASSIGNMENT
    ]  # fmt: skip
    assert wire.ask("ListPartitionReassignments", 0, topics=None).topics == []


def test_a_configuration_is_described_once_in_a_request(wire, topic):
    """A request may name a hundred thousand resources: what it names again is refused, and its first time answered."""
    resource = BY_NAME["DescribeConfigs"].request.SPECS["resources"].of
    asked = [resource(resource_type=2, resource_name=topic, configuration_keys=["retention.ms"]) for _ in range(2)]
    first, again = wire.ask("DescribeConfigs", 4, resources=asked).results
    assert (first.error_code, [one.name for one in first.configs]) == (0, ["retention.ms"])
    assert (again.error_code, again.configs) == (ErrorCode.INVALID_REQUEST, [])

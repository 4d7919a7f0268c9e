"""What administrators ask of a single node, as Apache Kafka 4.3 answers it; the places in its source are named."""

import pytest
from kafka_world import KafkaWorld, made

from protocol.kafka.errors import ErrorCode
from protocol.kafka.schema import NO_UUID

NOT_ASKED = -(1 << 31)
ALL_OF_TOPIC, ALL_OF_GROUP, ALL_OF_CLUSTER = 3576, 3400, 8096
"""AclEntry.supportedOperations as bits."""
UNKNOWN_ID = b"\1" * 16


@pytest.fixture
def world():
    """A broker with a topic."""
    found = KafkaWorld()
    found.kafka.topics.create("there", 2, {})
    found.settle()
    return found


@pytest.fixture
def client(world):
    return world.client()


def client_of(world, name, configure="", write="", read=""):
    """A connection of a user who is no administrator."""
    world.allow(name, configure, write, read)
    found = world.client()
    found.machine.user = world.access.users[name]
    return found


def topics_of(api, **fields):
    return [made(api, "topics")(**fields)]


class TestById:
    """Topics by their ids (KIP-516)."""

    @pytest.mark.parametrize("name", [None, ""])
    @pytest.mark.parametrize("version", [12, 13])
    def test_metadata(self, world, client, name, version):
        """Java's client sends an empty name (KafkaApis.handleTopicMetadataRequest)."""
        topic_id = world.kafka.topics.get("there").id
        [found] = client.ask("Metadata", version, topics=topics_of("Metadata", name=name, topic_id=topic_id)).topics
        assert (found.error_code, found.name, found.topic_id) == (0, "there", topic_id)
        [found] = client.ask("Metadata", version, topics=topics_of("Metadata", name=name, topic_id=UNKNOWN_ID)).topics
        assert (found.error_code, found.name, found.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, None, UNKNOWN_ID)

    @pytest.mark.parametrize("version", [10, 11])
    @pytest.mark.parametrize("asked", [{"name": None}, {"name": None, "topic_id": UNKNOWN_ID},
                                       {"name": "there", "topic_id": UNKNOWN_ID}])  # fmt: skip
    def test_metadata_before_ids_count(self, client, version, asked):
        """There is a place for an id, and it may not be used: INVALID_REQUEST, and no exception."""
        answer = client.ask("Metadata", version, topics=topics_of("Metadata", **asked))
        assert [one.error_code for one in answer.topics] == [ErrorCode.INVALID_REQUEST]
        assert (answer.brokers, answer.controller_id) == ([], -1)

    def test_metadata_of_nothing(self, client):
        """Neither a name nor an id; Kafka has an exception there and answers -1."""
        answer = client.ask("Metadata", 13, topics=topics_of("Metadata", name=None))
        assert answer.error_code == ErrorCode.INVALID_REQUEST

    def test_metadata_of_no_name(self, client):
        """A name that no topic may have is INVALID_TOPIC_EXCEPTION, whether it would be created or not."""
        for name in ("", "not a name"):
            for creates in (False, True):
                [found] = client.ask(
                    "Metadata", 9, topics=topics_of("Metadata", name=name), allow_auto_topic_creation=creates
                ).topics
                assert found.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION

    @pytest.mark.parametrize(("asked", "text"), [
        ({"name": "there", "topic_id": UNKNOWN_ID}, "You may not specify both topic name and topic id."),
        ({"name": None}, "Neither topic name nor id were specified."),
    ])  # fmt: skip
    def test_delete_by_one_of_both(self, world, client, asked, text):
        """ControllerApis.deleteTopics."""
        [found] = client.ask("DeleteTopics", 6, topics=topics_of("DeleteTopics", **asked)).responses
        assert (found.error_code, found.error_message) == (ErrorCode.INVALID_REQUEST, text)
        assert world.kafka.topics.get("there") is not None

    def test_delete_twice_in_a_request(self, world, client):
        """A name that is there twice is an error, and nothing is deleted."""
        asked = topics_of("DeleteTopics", name="there") * 2
        [found] = client.ask("DeleteTopics", 6, topics=asked).responses
        assert (found.error_code, found.error_message) == (ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
        assert world.kafka.topics.get("there") is not None


class TestRights:
    """What is answered to who may not."""

    def test_deleting_does_not_tell_what_is_there(self, world):
        """The same for topics that are there and that are not; an id has no name (ControllerApis.deleteTopics)."""
        client = client_of(world, "nobody")
        names = [made("DeleteTopics", "topics")(name=name) for name in ("there", "not-there")]
        found = client.ask("DeleteTopics", 6, topics=names).responses
        assert {(one.error_code, one.topic_id) for one in found} == {(ErrorCode.TOPIC_AUTHORIZATION_FAILED, NO_UUID)}
        topic_id = world.kafka.topics.get("there").id
        [found] = client.ask(
            "DeleteTopics", 6, topics=topics_of("DeleteTopics", name=None, topic_id=topic_id)
        ).responses
        assert (found.error_code, found.name) == (ErrorCode.TOPIC_AUTHORIZATION_FAILED, None)

    @pytest.mark.parametrize(("write", "code"), [("", 31), ("^$", 31), ("^orders$", 0)])
    def test_a_producer_id(self, world, write, code):
        """For who may write to some topic (KIP-679: KafkaApis.handleInitProducerIdRequest)."""
        answer = client_of(world, "one", write=write, read=".*").ask("InitProducerId", 4, transactional_id=None)
        assert (answer.error_code, answer.producer_id >= 0) == (code, not code)

    def test_what_is_the_clusters(self, world):
        """Its configuration, its directories and its reassignments are not everybody's to see."""
        client = client_of(world, "one", configure=".*", write=".*", read=".*")
        resource = made("DescribeConfigs", "resources")(resource_type=4, resource_name="1", configuration_keys=None)
        [found] = client.ask("DescribeConfigs", 4, resources=[resource]).results
        assert (found.error_code, found.configs) == (ErrorCode.CLUSTER_AUTHORIZATION_FAILED, [])
        assert client.ask("DescribeLogDirs", 4, topics=None).error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        assert client.ask("ListPartitionReassignments", 0, topics=None).error_code == 31
        assert client.ask("ListConfigResources", 1).error_code == 31
        assert client.ask("DescribeClientQuotas", 1).error_code == 31

    def test_operations(self, world, client):
        """As bits, where they are asked for (KIP-430)."""
        asked = {"include_topic_authorized_operations": True, "include_cluster_authorized_operations": True}
        answer = client.ask("Metadata", 10, topics=topics_of("Metadata", name="there"), **asked)
        assert answer.topics[0].topic_authorized_operations == ALL_OF_TOPIC
        assert answer.cluster_authorized_operations == ALL_OF_CLUSTER
        answer = client.ask("DescribeCluster", 2, include_cluster_authorized_operations=True)
        assert answer.cluster_authorized_operations == ALL_OF_CLUSTER
        [group] = client.ask("DescribeGroups", 5, groups=["g"], include_authorized_operations=True).groups
        assert group.authorized_operations == ALL_OF_GROUP
        answer = client.ask("Metadata", 10, topics=topics_of("Metadata", name="there"))
        assert answer.topics[0].topic_authorized_operations == answer.cluster_authorized_operations == NOT_ASKED

    def test_operations_of_a_reader(self, world):
        """READ, DESCRIBE and DESCRIBE_CONFIGS of the topic, nothing of the cluster."""
        asked = {"include_topic_authorized_operations": True, "include_cluster_authorized_operations": True}
        client = client_of(world, "reader", read=".*")
        answer = client.ask("Metadata", 10, topics=topics_of("Metadata", name="there"), **asked)
        assert answer.topics[0].topic_authorized_operations == 1 << 3 | 1 << 8 | 1 << 10
        assert answer.cluster_authorized_operations == 0


def test_log_directories(world, client):
    """The path, with what there is room for (KIP-827)."""
    [found] = client.ask("DescribeLogDirs", 4, topics=None).results
    assert (found.error_code, found.log_dir) == (0, world.store.disk.path)
    assert found.total_bytes == world.store.disk.total_bytes() >= found.usable_bytes > 0


def test_replicas_onto_a_directory(world, client):
    """Where they are; elsewhere there is none (ReplicaManager.alterReplicaLogDirs)."""

    def move(path):
        topic = made("AlterReplicaLogDirs", "dirs.topics")(name="there", partitions=[0, 9])
        directory = made("AlterReplicaLogDirs", "dirs")(path=path, topics=[topic])
        [found] = client.ask("AlterReplicaLogDirs", 2, dirs=[directory]).results
        return [one.error_code for one in found.partitions]

    assert move(world.store.disk.path) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert move("/elsewhere") == [ErrorCode.LOG_DIR_NOT_FOUND] * 2


@pytest.mark.parametrize(("version", "known"), [(6, ()), (7, (-3,)), (8, (-3, -4)), (9, (-3, -4, -5))])
def test_what_stands_for_a_time(client, version, known):
    """KafkaApis.handleListOffsetRequest: what a version does not have yet is UNSUPPORTED_VERSION."""
    for time_ms in (-3, -4, -5, -6, -7, -100):
        partition = made("ListOffsets", "topics.partitions")(
            partition_index=0, timestamp=time_ms, current_leader_epoch=-1
        )
        asked = topics_of("ListOffsets", name="there", partitions=[partition])
        [found] = client.ask("ListOffsets", version, replica_id=-1, topics=asked).topics[0].partitions
        if time_ms in known:
            assert (found.error_code, found.offset) == (0, 0 if time_ms == -4 else -1)
        else:
            assert (found.error_code, found.offset) == (ErrorCode.UNSUPPORTED_VERSION, -1)


def test_unknown_groups(client):
    """Dead without an error up to version 5, GROUP_ID_NOT_FOUND since (KIP-1043)."""
    for version, code in ((5, 0), (6, ErrorCode.GROUP_ID_NOT_FOUND)):
        [found] = client.ask("DescribeGroups", version, groups=["none"]).groups
        assert (found.error_code, found.group_state) == (code, "Dead")
    assert found.error_message == "Group none not found."


def test_deleting_offsets(client):
    """Of no group: 24; of topics that are not there: 3 (GroupCoordinatorService.deleteOffsets)."""
    partition = made("OffsetCommit", "topics.partitions")(partition_index=0, committed_offset=1)
    asked = topics_of("OffsetCommit", name="there", partitions=[partition])
    client.ask("OffsetCommit", 7, group_id="g", generation_id_or_member_epoch=-1, topics=asked)
    asked = [
        made("OffsetDelete", "topics")(
            name=name, partitions=[made("OffsetDelete", "topics.partitions")(partition_index=index)]
        )
        for name, index in (("there", 0), ("there", 9), ("not-there", 0))
    ]
    found = client.ask("OffsetDelete", 0, group_id="g", topics=asked).topics
    assert [one.partitions[0].error_code for one in found] == [0, 3, 3]
    assert client.ask("OffsetDelete", 0, group_id="", topics=asked).error_code == ErrorCode.INVALID_GROUP_ID


def test_transactions_and_quotas(client):
    """There is none of either; what is asked wrongly is told (KIP-664, KIP-1152, KIP-546)."""
    answer = client.ask("ListTransactions", 2, state_filters=["Ongoing", "bogus"], transactional_id_pattern="a.*")
    assert (answer.error_code, answer.unknown_state_filters, answer.transaction_states) == (0, ["bogus"], [])
    answer = client.ask("ListTransactions", 2, transactional_id_pattern="(")
    assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
    component = made("DescribeClientQuotas", "components")
    for asked, code in (
        ([], 0),
        ([component(entity_type="user", match_type=2)], 0),
        ([component(entity_type="user", match_type=9)], 42),
        ([component(entity_type="user", match_type=0)], 42),
        ([component(entity_type="", match_type=1)], 42),
        ([component(entity_type="host", match_type=1)], 35),
        ([component(entity_type="user", match_type=1)] * 2, 42),
    ):
        answer = client.ask("DescribeClientQuotas", 1, components=asked)
        assert (answer.error_code, answer.entries) == (code, None if code else [])


def test_whom_a_cluster_is_asked_of(client):
    """A broker is no controller, and there is no third kind (KIP-919)."""
    for kind, code in ((1, 0), (2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (9, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)):
        assert client.ask("DescribeCluster", 2, endpoint_type=kind).error_code == code


class TestQuorum:
    """KIP-595: the one voter, and the journal as the log of metadata."""

    @staticmethod
    def ask(client, version, *topics):
        """Describe [(topic, partitions)]."""
        partition = made("DescribeQuorum", "topics.partitions")
        asked = [
            made("DescribeQuorum", "topics")(
                topic_name=name, partitions=[partition(partition_index=n) for n in indexes]
            )
            for name, indexes in topics
        ]
        return client.ask("DescribeQuorum", version, topics=asked)

    @pytest.mark.parametrize("version", [0, 1, 2])
    def test_this_node_leads_and_is_the_voter(self, world, client, version):
        """Its high watermark is what is synced, and goes on with what is changed."""
        before = None
        for name in ("first", "second"):
            answer = self.ask(client, version, ("__cluster_metadata", [0]))
            [one] = answer.topics[0].partitions
            assert (answer.error_code, one.error_code, one.leader_id, one.leader_epoch) == (0, 0, 1, 1)
            [voter] = one.current_voters
            assert (voter.replica_id, voter.replica_directory_id, one.observers) == (1, NO_UUID, [])
            assert voter.log_end_offset == one.high_watermark == world.store.journal.synced
            assert voter.last_caught_up_timestamp == (world.kafka.wall_ms if version else -1)
            assert [node.node_id for node in answer.nodes] == ([1] if version > 1 else [])
            assert before is None or one.high_watermark > before
            before = one.high_watermark
            world.kafka.topics.create(name, 1, {})
            world.settle()

    @pytest.mark.parametrize("asked", [
        [("there", [0])], [("__cluster_metadata", [1])], [("__cluster_metadata", [0, 0])],
        [("__cluster_metadata", [0]), ("there", [0, 1])],
    ])  # fmt: skip
    def test_nothing_else_may_be_asked(self, client, asked):
        """RaftUtil.hasValidTopicPartition: then all of it is unknown, as Kafka 4.3.1 answers."""
        answer = self.ask(client, 2, *asked)
        assert answer.error_code == 0
        assert [(one.topic_name, [p.error_code for p in one.partitions]) for one in answer.topics] == [
            (name, [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * len(indexes)) for name, indexes in asked
        ]

    def test_not_for_everybody(self, world):
        """It is the cluster's to describe, and features its to alter."""
        client = client_of(world, "one", configure=".*", write=".*", read=".*")
        answer = self.ask(client, 2, ("__cluster_metadata", [0]))
        assert (answer.error_code, answer.topics) == (ErrorCode.CLUSTER_AUTHORIZATION_FAILED, [])
        assert client.ask("UpdateFeatures", 2).error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED


class TestFeatures:
    """KIP-584: there is none, and none can be had."""

    @pytest.mark.parametrize("version", [0, 1, 2])
    @pytest.mark.parametrize(("level", "text"), [
        (1, "Local controller 1 does not support this feature."), (0, "Feature group.version not found."),
        (-1, "A feature version cannot be less than 0."),
    ])  # fmt: skip
    def test_what_is_not_supported(self, client, version, level, text):
        """The texts of Kafka 4.3.1 for a feature that it does not have."""
        update = made("UpdateFeatures", "feature_updates")(feature="group.version", max_version_level=level)
        answer = client.ask("UpdateFeatures", version, feature_updates=[update])
        assert (answer.error_code, answer.results) == (ErrorCode.INVALID_UPDATE_VERSION, [])
        front = "The update failed for all features since the following feature had an error: "
        assert answer.error_message == f"{front}Invalid update version {level} for feature group.version. {text}"

    def test_what_is_asked_wrongly(self, client):
        """An unknown kind of update comes before all else."""
        update = made("UpdateFeatures", "feature_updates")(feature="f", max_version_level=-1, upgrade_type=9)
        answer = client.ask("UpdateFeatures", 1, feature_updates=[update])
        assert "The controller does not support the given upgrade type." in answer.error_message

    def test_nothing_to_update(self, client):
        """That succeeds; and no feature is told to who asks for versions."""
        assert client.ask("UpdateFeatures", 2).error_code == 0
        answer = client.ask("ApiVersions", 4, client_software_name="x", client_software_version="1")
        assert (answer.supported_features, answer.finalized_features, answer.finalized_features_epoch) == ([], [], -1)

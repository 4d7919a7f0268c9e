"""The broker's configuration, shown and changed as Kafka 4.3 does (KIP-226, KIP-339; ConfigAdminManager,
DynamicBrokerConfig, ConfigHelper)."""

import logging

import pytest
from kafka_world import KafkaWorld, made

from broker.core.topics import registry
from protocol.kafka.errors import ErrorCode

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
ON_TOPIC, ON_THIS, ON_ALL, STATIC, DEFAULT = 1, 2, 3, 4, 5
RATE = "leader.replication.throttled.rate"


def alter(client, kind, name, *changes, validate_only=False):
    """(error code, message) of IncrementalAlterConfigs; a change is (key, operation, value)."""
    config = made("IncrementalAlterConfigs", "resources.configs")
    resource = made("IncrementalAlterConfigs", "resources")(
        resource_type=kind,
        resource_name=name,
        configs=[config(name=key, config_operation=operation, value=value) for key, operation, value in changes],
    )
    [found] = client.ask("IncrementalAlterConfigs", 1, resources=[resource], validate_only=validate_only).responses
    return found.error_code, found.error_message


def replace(client, kind, name, *pairs):
    """The same of AlterConfigs."""
    config = made("AlterConfigs", "resources.configs")
    configs = [config(name=key, value=value) for key, value in pairs]
    resource = made("AlterConfigs", "resources")(resource_type=kind, resource_name=name, configs=configs)
    [found] = client.ask("AlterConfigs", 2, resources=[resource]).responses
    return found.error_code, found.error_message


def describe(client, kind, name, keys=None):
    """{key: what is told}, or the result where it is an error."""
    resource = made("DescribeConfigs", "resources")(resource_type=kind, resource_name=name, configuration_keys=keys)
    [found] = client.ask("DescribeConfigs", 4, resources=[resource], include_synonyms=True).results
    return found if found.error_code else {one.name: one for one in found.configs}


def value_of(client, kind, name, key):
    """(value, where it comes from)."""
    found = describe(client, kind, name, [key])[key]
    return found.value, found.config_source


class TestAltering:
    """What is set holds, is kept, and may be taken back."""

    def test_topics_follow_without_an_override_of_their_own(self, world, client):
        """This broker's value wins over that of all, the topic's own over both."""
        topic = world.kafka.topics.get("there")
        assert alter(client, BROKER, "", ("log.retention.ms", SET, "5000")) == (0, None)
        assert topic.config.retention_ms == topic.partitions[1].config.retention_ms == 5000
        assert value_of(client, TOPIC, "there", "retention.ms") == ("5000", ON_ALL)
        assert alter(client, BROKER, "1", ("log.retention.ms", SET, "6000")) == (0, None)
        assert value_of(client, TOPIC, "there", "retention.ms") == ("6000", ON_THIS)
        assert topic.config.retention_ms == 6000
        found = describe(client, TOPIC, "there", ["retention.ms"])["retention.ms"]
        assert [(one.name, one.value, one.source) for one in found.synonyms] == [
            ("log.retention.ms", "6000", ON_THIS), ("log.retention.ms", "5000", ON_ALL),
            ("log.retention.hours", "168", DEFAULT),
        ]  # fmt: skip
        assert alter(client, TOPIC, "there", ("retention.ms", SET, "7000")) == (0, None)
        assert (topic.config.retention_ms, value_of(client, TOPIC, "there", "retention.ms")) == (
            7000,
            ("7000", ON_TOPIC),
        )
        for name in ("", "1"):
            assert alter(client, BROKER, name, ("log.retention.ms", DELETE, None)) == (0, None)
        assert alter(client, TOPIC, "there", ("retention.ms", DELETE, None)) == (0, None)
        assert topic.config.retention_ms == 604_800_000
        assert value_of(client, TOPIC, "there", "retention.ms") == ("604800000", DEFAULT)

    def test_new_topics_too_but_not_the_brokers_own(self, world, client):
        """`__consumer_offsets` is configured by the broker alone."""
        alter(client, BROKER, "", ("message.max.bytes", SET, "100"))
        assert world.kafka.topics.create("new", 1, {}).config.max_message_bytes == 100
        own = world.kafka.topics.create("__own", 1, {}, internal=True)
        assert own.config.max_message_bytes == 1_048_588

    def test_a_restart_finds_it(self, world, client):
        """It is in the catalog, before the topics that follow it."""
        alter(client, BROKER, "", ("log.cleanup.policy", APPEND, "compact"), (RATE, SET, "1000"))
        alter(client, BROKER, "1", ("message.max.bytes", SET, "3000"))
        world.disk.kill()
        again = KafkaWorld(world.disk)
        config = again.kafka.topics.get("there").config
        assert (config.compact, config.delete, config.max_message_bytes) == (True, True, 3000)
        assert describe(again.client(), BROKER, "").keys() == {"log.cleanup.policy", RATE}
        assert value_of(again.client(), BROKER, "1", "message.max.bytes") == ("3000", ON_THIS)

    def test_what_is_not_known_any_more_keeps_nobody_from_starting(self, world, client, monkeypatch):
        """It is left aside, and the topics have their defaults."""
        alter(client, BROKER, "", ("log.retention.ms", SET, "5000"))
        monkeypatch.delitem(registry.BrokerConfig.__init__.__globals__["ALTERABLE"], "log.retention.ms")
        world.disk.kill()
        again = KafkaWorld(world.disk)
        assert again.kafka.topics.get("there").config.retention_ms == 604_800_000
        assert any("broker configuration" in one for one in again.broker.left_aside)

    def test_throttles_are_kept(self, client):
        """kafka-reassign-partitions sets them, and --verify deletes them whether they are there or not."""
        assert alter(client, BROKER, "1", (RATE, DELETE, None)) == (0, None)
        assert alter(client, BROKER, "1", (RATE, SET, "1000")) == (0, None)
        assert value_of(client, BROKER, "1", RATE) == ("1000", ON_THIS)
        assert alter(client, BROKER, "1", (RATE, DELETE, None), ("nope", DELETE, None)) == (0, None)
        assert value_of(client, BROKER, "1", RATE) == (str(2**63 - 1), DEFAULT)

    def test_all_at_once(self, client):
        """AlterConfigs replaces what a scope has."""
        assert replace(client, BROKER, "1", (RATE, "5"), ("log.retention.ms", "5000")) == (0, None)
        assert replace(client, BROKER, "1", (RATE, "6")) == (0, None)
        assert value_of(client, BROKER, "1", RATE) == ("6", ON_THIS)
        assert value_of(client, BROKER, "1", "log.retention.ms") == (None, DEFAULT)
        assert replace(client, BROKER, "1") == (0, None)
        assert value_of(client, BROKER, "1", RATE) == (str(2**63 - 1), DEFAULT)

    def test_only_validated(self, world, client):
        """Nothing changes."""
        assert alter(client, BROKER, "", ("log.retention.ms", SET, "5000"), validate_only=True) == (0, None)
        assert describe(client, BROKER, "") == {}
        assert world.kafka.topics.get("there").config.retention_ms == 604_800_000

    @pytest.mark.parametrize(("name", "changes", "refused"), [
        ("1", [("node.id", SET, "7")], (42, "Cannot update these configs dynamically: [node.id]")),
        ("", [("num.partitions", SET, "3")], (42, "Cannot update these configs dynamically: [num.partitions]")),
        ("1", [("log.retention.ms", SET, None)], (42, "Null value not supported for : log.retention.ms")),
        ("1", [(RATE, SET, "1"), (RATE, SET, "2")], (42, "Error due to duplicate config keys")),
        ("1", [(RATE, APPEND, "1")], (40, f"Can't APPEND to key {RATE} because its type is not LIST.")),
        ("2", [(RATE, SET, "1")], (42, "Unexpected broker id, expected 1, but received 2")),
        ("x", [(RATE, SET, "1")], (42, "Node id must be an integer, but it is: x")),
    ])  # fmt: skip
    def test_refused(self, client, name, changes, refused):
        """With Kafka's codes and words; what stands beside it is not done."""
        assert alter(client, BROKER, name, ("log.retention.bytes", SET, "1"), *changes) == refused
        assert describe(client, BROKER, "") == {}

    def test_a_value_that_is_none(self, client):
        """Of a broker it is INVALID_REQUEST, of a topic INVALID_CONFIG."""
        assert alter(client, BROKER, "1", ("log.retention.ms", SET, "x"))[0] == ErrorCode.INVALID_REQUEST
        assert alter(client, TOPIC, "there", ("retention.ms", SET, "x"))[0] == ErrorCode.INVALID_CONFIG


class TestNulls:
    """A null is no value, and none is had by deleting."""

    def test_of_topics(self, client):
        """ConfigAdminManager.preprocess; what is not there may be deleted."""
        null = (ErrorCode.INVALID_REQUEST, "Null value not supported for : retention.ms")
        assert alter(client, TOPIC, "there", ("retention.ms", SET, None)) == null
        assert replace(client, TOPIC, "there", ("retention.ms", None)) == null
        assert alter(client, TOPIC, "there", ("retention.ms", DELETE, None), ("nope", DELETE, None)) == (0, None)

    def test_of_new_topics(self, world, client):
        """ReplicationControlManager.createTopic: INVALID_CONFIG."""
        config = made("CreateTopics", "topics.configs")(name="retention.ms", value=None)
        topic = made("CreateTopics", "topics")(name="new", num_partitions=1, replication_factor=1, configs=[config])
        [found] = client.ask("CreateTopics", 7, topics=[topic]).topics
        assert found.error_code == ErrorCode.INVALID_CONFIG
        assert found.error_message == "Null value not supported for topic configs: retention.ms"
        assert world.kafka.topics.get("new") is None


class TestDescribing:
    """What is told."""

    def test_no_keys_are_all(self, client):
        """An empty list as well as null (ConfigHelper.describeConfigs)."""
        for kind, name in ((TOPIC, "there"), (BROKER, "1"), (GROUP, "g")):
            assert describe(client, kind, name, []).keys() == describe(client, kind, name).keys() != set()

    def test_what_tools_look_for(self, world, client):
        """Listeners, directories, sizes, groups and offsets: what is true here, and what Kafka has by default."""
        found = describe(client, BROKER, "1")
        assert found.keys() >= {
            "advertised.listeners", "listeners", "log.dirs", "log.retention.ms", "log.retention.hours",
            "message.max.bytes",
            "min.insync.replicas", "offsets.retention.minutes", "offsets.topic.num.partitions", "group.max.size",
            "group.min.session.timeout.ms", "auto.create.topics.enable", "num.partitions", "log.cleanup.policy",
        }  # fmt: skip
        assert found["advertised.listeners"].value == "PLAINTEXT://127.0.0.1:9092"
        assert found["log.dirs"].value == world.store.disk.path
        assert (found["node.id"].value, found["node.id"].read_only) == ("1", True)
        assert (found["message.max.bytes"].value, found["message.max.bytes"].read_only) == ("1048588", False)
        assert found["log.retention.ms"].value is None
        size = found["group.max.size"]
        assert [(one.value, one.source) for one in size.synonyms] == [("1000", STATIC), ("2147483647", DEFAULT)]
        assert all(one.config_type for one in found.values())

    def test_all_brokers_have_what_was_set_for_them(self, client):
        """Nothing, as long as nothing was."""
        assert describe(client, BROKER, "") == {}
        alter(client, BROKER, "", (RATE, SET, "5"))
        assert {name: (one.value, one.config_source) for name, one in describe(client, BROKER, "").items()} == {
            RATE: ("5", ON_ALL)
        }

    @pytest.mark.parametrize(("kind", "name", "code", "text"), [
        (TOPIC, "", 17, None), (TOPIC, "no name", 17, None), (TOPIC, "not-there", 3, None),
        (BROKER, "2", 42, "Unexpected broker id, expected 1 or empty string, but received 2"),
        (BROKER, "x", 42, "Broker id must be an integer, but it is: x"),
        (BROKER_LOGGER, "", 42, "Broker id must not be empty"),
        (CLIENT_METRICS, "", 42, "Client metrics subscription name must not be empty"),
        (GROUP, "", 42, "Group name must not be empty"),
        (0, "x", 42, None), (99, "x", 42, None),
    ])  # fmt: skip
    def test_refused(self, client, kind, name, code, text):
        """With Kafka's codes and words."""
        found = describe(client, kind, name)
        assert found.error_code == code
        assert text in (None, found.error_message)

    def test_groups_and_client_metrics(self, client):
        """What they have by default is told; nothing here would follow what was set, so that it is refused."""
        found = describe(client, GROUP, "g")["consumer.session.timeout.ms"]
        assert (found.value, found.synonyms[0].name) == ("45000", "group.consumer.session.timeout.ms")
        assert describe(client, CLIENT_METRICS, "m").keys() == {"interval.ms", "match", "metrics"}
        assert alter(client, GROUP, "g", ("nope", SET, "1")) == (40, "Unknown group config name: nope")
        assert alter(client, GROUP, "g", ("consumer.session.timeout.ms", SET, "50000"))[0] == 42
        assert alter(client, GROUP, "g", ("consumer.session.timeout.ms", DELETE, None)) == (0, None)
        assert alter(client, CLIENT_METRICS, "m", ("interval.ms", SET, "1"))[0] == 42
        assert alter(client, 3, "x", ("a", SET, "1")) == (42, "Unknown resource type 3")

    def test_loggers(self, client):
        """KIP-412; they hold until the process ends."""
        logger = logging.getLogger("jackalope.kafka")
        before = logger.level
        try:
            assert alter(client, BROKER_LOGGER, "1", ("jackalope.kafka", SET, "ERROR")) == (0, None)
            assert logger.level == logging.ERROR
            assert value_of(client, BROKER_LOGGER, "1", "jackalope.kafka") == ("ERROR", 6)
            assert alter(client, BROKER_LOGGER, "1", ("jackalope.kafka", DELETE, None)) == (0, None)
            assert logger.level == logging.NOTSET
        finally:
            logger.setLevel(before)
        assert alter(client, BROKER_LOGGER, "1", ("nope", SET, "INFO")) == (40, "Logger nope does not exist!")
        assert alter(client, BROKER_LOGGER, "1", ("root", SET, "LOUD"))[0] == ErrorCode.INVALID_CONFIG
        assert alter(client, BROKER_LOGGER, "1", ("root", DELETE, None))[0] == ErrorCode.INVALID_REQUEST
        assert alter(client, BROKER_LOGGER, "", ("root", SET, "INFO"))[0] == ErrorCode.INVALID_REQUEST
        assert replace(client, BROKER_LOGGER, "1", ("root", "INFO")) == (42, "Unknown resource type 8")

    def test_what_has_a_configuration(self, client):
        """ListConfigResources (KIP-1142)."""
        found = client.ask("ListConfigResources", 1).config_resources
        assert [(one.resource_type, one.resource_name) for one in found] == [(8, "1"), (4, "1"), (2, "there")]
        assert client.ask("ListConfigResources", 1, resource_types=[99]).error_code == ErrorCode.UNSUPPORTED_VERSION


def test_many_topics_follow_in_slices(world, client):
    """A thousand topics do not follow in one step, nor is anybody answered later for it."""
    for number in range(100):
        world.kafka.topics.create(f"t{number}", 1, {})
    world.settle()
    client.machine.receive(
        client.frame(
            "IncrementalAlterConfigs",
            1,
            resources=[
                made("IncrementalAlterConfigs", "resources")(
                    resource_type=BROKER,
                    resource_name="",
                    configs=[
                        made("IncrementalAlterConfigs", "resources.configs")(
                            name="log.retention.ms", config_operation=SET, value="5000"
                        )
                    ],
                )
            ],
        )
    )
    topics = world.kafka.topics.all()
    world.broker.scheduler.run_slice()
    followed = sum(topic.config.retention_ms == 5000 for topic in topics)
    assert 0 < followed < len(topics)
    world.settle()
    assert all(topic.config.retention_ms == 5000 for topic in topics)

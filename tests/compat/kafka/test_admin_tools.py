"""Kafka's own command line tools, on both brokers: what they print and how they end."""

import json
import subprocess

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from needed import need
from waiting import HANG_S

from tools.bench.control import BrokerStartError
from tools.bench.kafka_control import fetch_kafka, kafka_missing

TOOLS = "org.apache.kafka.tools."
REASSIGN = TOOLS + "reassign.ReassignPartitionsCommand"
FEATURES = TOOLS + "FeatureCommand"
QUORUM = TOOLS + "MetadataQuorumCommand"
CONFIGS = "kafka.admin.ConfigCommand"


@pytest.fixture(scope="session")
def jars():
    """Where Kafka's jars are."""
    need(kafka_missing())
    try:
        return fetch_kafka()
    except BrokerStartError as error:
        need(str(error))


@pytest.fixture
def tool(jars, server):
    """Runs a tool against the broker; what it has printed. It has to end with `status`."""

    def run(command, *arguments, status=0):
        done = subprocess.run(
            ["java", "-Xmx200m", "-cp", f"{jars}/*", command, "--bootstrap-server", server, *arguments],
            capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


def create(server, topic, partitions):
    """Make a topic."""
    admin = AdminClient({"bootstrap.servers": server})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(HANG_S)


def test_a_reassignment_is_verified(tool, server, topic, tmp_path):
    """With a throttle, which --verify takes away again: it is a configuration of the broker."""
    create(server, topic, 1)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [1]}]}))
    tool(REASSIGN, "--reassignment-json-file", str(plan), "--execute", "--throttle", "1000000")
    printed = tool(REASSIGN, "--reassignment-json-file", str(plan), "--verify")
    assert f"Reassignment of partition {topic}-0 is completed." in printed
    assert "Clearing broker-level throttles on broker 1" in printed


def test_the_brokers_configuration(tool):
    """Set for all brokers and for this one, described, deleted."""
    key, value = "log.cleaner.min.compaction.lag.ms", "1234"
    for entity in (("--entity-default",), ("--entity-name", "1")):
        broker = ("--entity-type", "brokers", *entity)
        tool(CONFIGS, "--alter", *broker, "--add-config", f"{key}={value}")
        assert f"  {key}={value} sensitive=false" in tool(CONFIGS, "--describe", *broker)
        tool(CONFIGS, "--alter", *broker, "--delete-config", key)
    assert f"  {key}=0 " in tool(CONFIGS, "--describe", "--entity-type", "brokers", "--entity-name", "1", "--all")


def test_log_directories(tool, server, topic):
    """kafka-log-dirs: the broker's directory without an error, and the topic's partitions in it."""
    create(server, topic, 2)
    [told] = [line for line in tool(TOOLS + "LogDirsCommand", "--describe", "--topic-list", topic).splitlines()
              if line.startswith("{")]  # fmt: skip
    [directory] = json.loads(told)["brokers"][0]["logDirs"]
    assert (directory["error"], directory["logDir"][0]) == (None, "/")
    assert {one["partition"] for one in directory["partitions"]} == {f"{topic}-0", f"{topic}-1"}


def test_the_quorum(tool):
    """kafka-metadata-quorum: one voter, which leads and lags behind nobody."""
    told = dict(line.split(":", 1) for line in tool(QUORUM, "describe", "--status").splitlines() if ":" in line)
    told = {name: value.strip() for name, value in told.items()}
    assert (told["LeaderId"], told["MaxFollowerLag"], told["CurrentObservers"]) == ("1", "0", "[]")
    assert [voter["id"] for voter in json.loads(told["CurrentVoters"])] == [1]
    assert int(told["HighWatermark"]) > 0
    [row] = [line.split() for line in tool(QUORUM, "describe", "--replication").splitlines() if line[:1].isdigit()]
    assert (row[0], row[3], row[-1]) == ("1", "0", "Leader")


def test_features(tool):
    """kafka-features: what is not supported cannot be had; whatever there is, is described."""
    tool(FEATURES, "describe")
    printed = tool(FEATURES, "upgrade", "--feature", "no.such=1", status=1)
    assert "Could not upgrade no.such to 1." in printed
    assert "Invalid update version 1 for feature no.such. Local controller 1 does not support this feature." in printed

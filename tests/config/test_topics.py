"""Topics of the configuration: declared at start, grown and configured later, never shortened."""

from pathlib import Path

import pytest
from topic_world import World

from broker.config import check, load
from broker.topology import declare_topology

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "examples" / "topics.yaml"


def declared(world, tmp_path, text):
    """The topics after a start with this text below `topics`."""
    path = tmp_path / "c.yaml"
    path.write_text("vhosts: {/: {topics: " + text + "}}\n")
    conflicts = declare_topology(world.broker, load([str(path)], []), 0)
    return {topic.name: (len(topic.partitions), topic.overrides) for topic in world.topics.all()}, conflicts


def test_created_then_changed(tmp_path):
    """A new file makes more of them, and other values; the same file changes nothing."""
    with World() as world:
        assert declared(world, tmp_path, "{a: {}}") == ({"a": (1, {})}, [])
        text = "{a: {partitions: 3, config: {retention.ms: 5, preallocate: true}}, b: {}}"
        wanted = {"a": (3, {"retention.ms": "5", "preallocate": "true"}), "b": (1, {})}
        for _ in range(2):
            assert declared(world, tmp_path, text) == (wanted, [])


def test_fewer_partitions(tmp_path):
    """They stay, the rest of it is applied, and it is told with line and remedy."""
    with World() as world:
        declared(world, tmp_path, "{a: {partitions: 3}}")
        text = "{a: {partitions: 2, config: {retention.ms: null, cleanup.policy: [compact, delete]}}, b: {}}"
        found, (conflict,) = declared(world, tmp_path, text)
        assert found == {"a": (3, {"cleanup.policy": "compact,delete"}), "b": (1, {})}
        assert conflict == (
            f"{tmp_path / 'c.yaml'}:1: vhosts./.topics.a.partitions: it has 3 partitions, which stay, and cannot be "
            "given 2; write partitions: 3 here"
        )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{'no/name': {}}", "topics.no/name: Topic name is invalid"),
        (
            "{a: {config: {retention.msec: 5}}}",
            "Unknown topic config name: retention.msec; did you mean 'retention.ms'",
        ),
        ("{a: {config: {retention.ms: soon}}}", "Invalid value soon"),
        ("{a: {config: {retention.ms: {a: 1}}}}", "expected text, a number"),
        ("{a.b: {}, a_b: {}}", "collides with topic 'a.b'"),
    ],
)
def test_what_cannot_be_declared(tmp_path, text, wanted):
    """It is found without a data directory (Topic.validate, TopicConfig of Apache Kafka), in the line where it is."""
    path = tmp_path / "c.yaml"
    path.write_text("vhosts:\n  /:\n    topics: " + text + "\n")
    (error,) = check([str(path)], []).errors
    assert error.startswith(f"{path}:3: vhosts./.topics.")
    assert wanted in error


def test_a_topic_with_the_name_of_a_queue(tmp_path):
    """One name is one thing."""
    path = tmp_path / "c.yaml"
    path.write_text("vhosts: {/: {topics: {a: {}}, queues: {a: {}}}}\n")
    assert "'a' is a queue already" in check([str(path)], []).errors[0]


def test_the_example():
    """conf/examples/topics.yaml declares what it says."""
    with World() as world:
        assert declare_topology(world.broker, load([str(EXAMPLE)], []), 0) == []
        assert {topic.name: len(topic.partitions) for topic in world.topics.all()} == {"events": 12, "customers": 3}
        assert world.topics.get("customers").config.compact

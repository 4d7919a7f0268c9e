"""Topics of the configuration: declared at start, grown and configured later, never shortened."""

from pathlib import Path

import pytest

from broker.config import load
from broker.errors import ConfigError
from broker.topology import declare_topics
from tests.core.topics.world import World

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "examples" / "topics.yaml"


def declared(world, tmp_path, text):
    """The topics after a start with this text below `topics`."""
    path = tmp_path / "c.yaml"
    path.write_text("vhosts: {/: {topics: " + text + "}}\n")
    declare_topics(world.broker.add_vhost("/"), load([str(path)], []).vhosts["/"])
    return {topic.name: (len(topic.partitions), topic.overrides) for topic in world.topics.all()}


def test_created_then_changed(tmp_path):
    """A new file makes more of them, and other values; the same file changes nothing."""
    with World() as world:
        assert declared(world, tmp_path, "{a: {}}") == {"a": (1, {})}
        text = "{a: {partitions: 3, config: {retention.ms: 5, preallocate: true}}, b: {}}"
        wanted = {"a": (3, {"retention.ms": "5", "preallocate": "true"}), "b": (1, {})}
        for _ in range(2):
            assert declared(world, tmp_path, text) == wanted
        with pytest.raises(ConfigError, match="topic 'a': it has 3 partitions and cannot be given 2"):
            declared(world, tmp_path, "{a: {partitions: 2}}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{'no/name': {}}", "Topic name is invalid"),
        ("{a: {config: {retention.msec: 5}}}", "Unknown topic config name: retention.msec"),
        ("{a: {config: {retention.ms: soon}}}", "Invalid value soon"),
    ],
)
def test_what_cannot_be_declared(tmp_path, text, wanted):
    """It is a sentence with the topic's name."""
    with World() as world, pytest.raises(ConfigError, match=wanted):
        declared(world, tmp_path, text)


def test_the_example():
    """conf/examples/topics.yaml declares what it says."""
    with World() as world:
        declare_topics(world.broker.add_vhost("/"), load([str(EXAMPLE)], []).vhosts["/"])
        assert {topic.name: len(topic.partitions) for topic in world.topics.all()} == {"events": 12, "customers": 3}
        assert world.topics.get("customers").config.compact

"""The table of a topic's configuration: what it says to work has a typed value that somebody asks for."""

import dataclasses
from pathlib import Path

import pytest

from broker.core.topics import config
from broker.core.topics.config import KEYS, TopicConfig, read_config

OTHER = {
    "cleanup.policy": "compact", "compression.type": "zstd", "message.timestamp.type": "LogAppendTime",
    "min.cleanable.dirty.ratio": "0.25", "follower.replication.throttled.replicas": "*",
    "leader.replication.throttled.replicas": "*", "preallocate": "true", "remote.storage.enable": "true",
    "unclean.leader.election.enable": "true",
}  # fmt: skip
TOPICS = Path(config.__file__).parent


@pytest.mark.parametrize("name", KEYS)
def test_a_key_works_or_says_that_it_does_not(name):
    """A value other than the default changes what partitions ask for, if and only if the table says so."""
    kind = name.removeprefix("compression.").removesuffix(".level")
    base = {"compression.type": kind} if name == f"compression.{kind}.level" else {}
    value = OTHER.get(name) or ("2097152" if name == "segment.bytes" else "5")
    assert (read_config({**base, name: value}) != read_config(base)) == KEYS[name].works


def test_nothing_is_read_that_nobody_asks_for():
    """Each typed value is used by the code of topics, beside the table itself."""
    code = "".join(path.read_text() for path in TOPICS.glob("*.py") if path.name != "config.py")
    assert [field.name for field in dataclasses.fields(TopicConfig) if f"config.{field.name}" not in code] == []

"""What a restart finds of topics."""

import pytest
from topic_world import World, batch

from broker.core import catalog
from broker.core.metadata import at_once
from broker.core.topics.proposing import PARTITIONS_PER_TOPIC_MAX

NOW_MS = 1_700_000_000_000
COMPACT = {"log.cleanup.policy": "compact"}


@pytest.mark.parametrize("overrides", [{}, {"cleanup.policy": "compact"}])
def test_the_widest_topic_comes_back(overrides):
    """As many partitions as a topic may have, each with its log and its start; more than a field table has room for."""
    with World() as world:
        topic = world.topics.create("wide", PARTITIONS_PER_TOPIC_MAX, overrides)
        last = topic.partitions[-1]
        last.append(batch(2, NOW_MS, key=b"k"), NOW_MS)
        world.sync()
        world.topics.delete_records(last, 1)
        world.sync()
        again = world.crash(last)
        found = world.topics.get("wide")
        assert len(found.partitions) == PARTITIONS_PER_TOPIC_MAX
        assert (again.start_offset, again.log.next_offset) == (1, 2)
        assert [one.log.uuid for one in found.partitions] == [one.log.uuid for one in topic.partitions]


def test_an_older_catalog_is_read():
    """Logs and starts of the first versions were lists of numbers."""
    with World() as world:
        partition = world.partition({"cleanup.policy": "compact"})
        partition.append(batch(3, NOW_MS, key=b"k"), NOW_MS)
        key = catalog.key(catalog.TOPIC, "/", partition.topic_name)
        known = {
            "id": world.topics.get(partition.topic_name).id.hex(),
            "internal": False,
            "logs": [partition.log.number],
            "starts": [2],
        }
        world.store.put(key, catalog.value(known, {"cleanup.policy": "compact"}))
        world.store.delete(catalog.FORMAT)
        world.sync()
        again = world.crash(partition)
        assert (again.start_offset, again.log.next_offset) == (2, 3)


def test_a_topic_that_grows_before_it_follows_a_new_default():
    """It is compacted from then on, so the catalog has to know where its partitions begin: a job says that later."""
    with World() as world:
        partition = world.partition()
        partition.append(batch(3, NOW_MS, key=b"k"), NOW_MS)
        world.sync()
        at_once(world.topics.metadata, world.topics.broker_config.propose_replace, "all", COMPACT)
        world.topics.add_partitions(world.topics.get(partition.topic_name), 2)
        for _ in world.topics.follow_defaults():
            pass
        partition.pass_over(0, 2)  # As compaction does: the partition begins where it did.
        world.sync()
        assert world.crash(partition).start_offset == 0

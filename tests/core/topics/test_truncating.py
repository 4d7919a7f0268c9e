"""A partition that is cut back: nothing that was known of what is gone is believed, before and after a restart."""

import itertools

import pytest
from topic_world import World, batch

from broker.core import catalog
from broker.core.topics.compaction import Cleaned
from broker.core.topics.errors import TopicRefused
from broker.core.topics.truncating import truncate
from tests.core.topics.test_producers import sent

NOW_MS = 1_700_000_000_000


def saved(world, partition, kind):
    """What is written down of it."""
    return world.store.catalog.get(catalog.partition_key(kind, "/", partition.topic_name, partition.index))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("saves", ["never", "before", "behind", "before what is cut"])
def test_a_retry_of_what_is_gone_is_something_new(saves, restarts):
    """And one of what is there is not."""
    with World() as world:
        partition = world.partition()
        for sequence in range(4):
            if (saves, sequence) in {("before", 1), ("behind", 3), ("before what is cut", 2)}:
                world.topics._save(partition)
            partition.append(sent(1, sequence), NOW_MS)
        partition.append(sent(2), NOW_MS)
        if saves == "behind":
            world.topics._save(partition)
        world.sync()
        truncate(world.store, "/", partition, 2)
        world.sync()
        if restarts:
            partition = world.crash(partition)
        assert partition.append(sent(1, 1), NOW_MS).base_offset == 1
        assert partition.log.next_offset == 2
        with pytest.raises(TopicRefused):
            partition.append(sent(1, 3), NOW_MS)
        assert [partition.append(sent(1, sequence), NOW_MS).base_offset for sequence in (2, 3)] == [2, 3]
        assert partition.append(sent(2), NOW_MS).base_offset == 4


def test_a_crash_leaves_the_cut_and_what_was_written_down_or_neither():
    """They are in one frame."""
    with World() as world:
        partition = world.partition()
        for sequence in range(4):
            partition.append(sent(1, sequence), NOW_MS)
        world.topics._save(partition)
        world.sync()
        before = saved(world, partition, catalog.PRODUCERS)
        truncate(world.store, "/", partition, 2)
        assert int.from_bytes(saved(world, partition, catalog.PRODUCERS)[:8], "big") == 2
        partition = world.crash(partition)
        assert (partition.log.next_offset, saved(world, partition, catalog.PRODUCERS)) == (4, before)
        truncate(world.store, "/", partition, 4)
        assert not world.store.dirty, "there is nothing to cut"


def test_what_compaction_has_done_ends_with_the_log():
    with World() as world:
        partition = world.partition({"cleanup.policy": "compact"})
        for number in range(4):
            partition.append(batch(1, NOW_MS + number, key=b"k"), NOW_MS)
        key = catalog.partition_key(catalog.CLEANED, "/", partition.topic_name, 0)
        world.store.put(key, Cleaned(4, 3, ((5, 1), (6, 4))).octets())
        truncate(world.store, "/", partition, 2)
        assert Cleaned.read(world.store.catalog[key]) == Cleaned(2, 2, ((5, 1), (6, 2)))


def test_what_was_read_is_not_given_again():
    """Caches of what was read go by `settled_count`; the start of the log is not behind its end."""
    with World() as world:
        partition = world.partition()
        for _ in range(4):
            partition.append(batch(1, NOW_MS), NOW_MS)
        world.sync()
        partition.delete_before(3)
        counts = [partition.settled_count]
        for offset in (3, 1, 0):
            truncate(world.store, "/", partition, offset)
            counts.append(partition.settled_count)
            assert (partition.start_offset, partition.high_watermark, partition.messages_in) == (offset, offset, offset)
        assert all(first < second for first, second in itertools.pairwise(counts))

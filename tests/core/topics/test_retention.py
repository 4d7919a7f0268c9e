"""What of a topic is too old, or too much, goes from the front; nothing else does."""

import pytest
from topic_world import World, batch

from broker.core.topics.retention import expire

NOW_MS = 1_700_000_000_000


@pytest.fixture
def world():
    with World() as made:
        yield made


def run(partition, now_ms=NOW_MS):
    """One look at the partition; returns where it begins."""
    for _ in expire([partition], now_ms):
        pass
    return partition.start_offset


def test_old_batches_go(world):
    """Batches whose largest time is past retention.ms go, to the last; the offsets go on where they were."""
    partition = world.partition({"retention.ms": "1000"})
    for age_ms in (5000, 4000, 2000, 900, 100):
        partition.append(batch(3, NOW_MS - age_ms), NOW_MS)
    world.sync()
    assert run(partition) == 9
    assert run(partition, NOW_MS + 10_000) == 15
    assert partition.append(batch(1, NOW_MS), NOW_MS).base_offset == 15


def test_what_is_not_durable_stays(world):
    """Retention does not reach the high watermark."""
    partition = world.partition({"retention.ms": "0"})
    partition.append(batch(2, NOW_MS - 5000), NOW_MS)
    world.sync()
    partition.append(batch(2, NOW_MS - 5000), NOW_MS)
    assert run(partition) == 2
    world.sync()
    assert run(partition) == 4


def test_a_later_time_keeps_what_is_behind(world):
    """Only what has nothing that stays in front of it goes."""
    partition = world.partition({"retention.ms": "1000"})
    for age_ms in (5000, 0, 5000):
        partition.append(batch(1, NOW_MS - age_ms), NOW_MS)
    world.sync()
    assert run(partition) == 1


def test_minus_one_keeps_all(world):
    """retention.ms -1 is for ever, and so is a policy without delete."""
    for overrides in ({"retention.ms": "-1"}, {"retention.ms": "1", "cleanup.policy": "compact"}):
        partition = world.partition(overrides)
        partition.append(batch(1, NOW_MS - 5000, key=b"k"), NOW_MS)
        world.sync()
        assert run(partition) == 0


def test_too_many_octets(world):
    """retention.bytes drops the oldest while more than that is there, and never below it."""
    partition = world.partition({"retention.bytes": "300000"})
    for _ in range(100):
        partition.append(batch(1, NOW_MS, size=10_000), NOW_MS)
        world.sync()
    assert partition.size_bytes > 1_000_000
    start = run(partition)
    assert start > 60
    assert partition.size_bytes >= 300_000


def test_the_start_survives(world):
    """After a restart the partition begins where it did."""
    partition = world.partition({"retention.ms": "1000"})
    partition.append(batch(4, NOW_MS - 5000), NOW_MS)
    partition.append(batch(4, NOW_MS), NOW_MS)
    world.sync()
    assert run(partition) == 4
    world.sync()
    partition = world.restart(partition)
    assert (partition.start_offset, partition.high_watermark) == (4, 8)
    assert partition.read(4, 1000, at_least_one=True).size

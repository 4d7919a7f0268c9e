"""What of a group's offsets is in the log of `__consumer_offsets`, around commits, truncations and crashes."""

import random

import pytest
from sim_disk import SimDisk

from broker.core.broker import Broker
from broker.core.groups.storage import TOPIC, GroupStore
from broker.core.groups.values import Committed, DropOffsets, SaveOffsets
from broker.log.recovery import open_store

PLACE = ("billing", "orders", 0)


class Known:
    """A coordinator that only takes in what it is told."""

    def __init__(self):
        self.offsets = {}

    def load_offset(self, group_id, topic, partition, committed):
        self.offsets[group_id, topic, partition] = committed.offset

    def load_group(self, snapshot):
        raise AssertionError(snapshot)

    def finish_loading(self, now_ms):
        pass


class World:
    """A broker's groups on a disk that forgets. What is saved is in a frame, `write` takes it to the disk, and
    `commit` tells whoever waits for that."""

    def __init__(self):
        self.disk = SimDisk(random.Random(1).randrange)
        self._open()
        self.groups = GroupStore(self.topics)

    def _open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)
        self.broker = Broker(lambda count: 0, None, self.store)
        self.broker.restore(0)
        self.topics = self.broker.add_vhost("/").topics

    def save(self, offset):
        self.groups.save(SaveOffsets("billing", ((("orders", 0), Committed(offset, 1, "", 0, None)),)), 0)

    def drop(self):
        self.groups.save(DropOffsets("billing", (("orders", 0),), "deleted"), 0)

    def write(self):
        self.store.flush()

    def commit(self):
        self.store.pledges.committed(self.store.synced_frame)

    @property
    def log(self):
        return next(one.log for one in self.topics.get(TOPIC).partitions if one.log.next_offset)

    def alive(self):
        """The offsets in the log that are not settled."""
        return [offset for offset in range(self.log.next_offset) if offset not in self.log.settled]

    def load(self):
        """What a coordinator that is loaded now knows of the group."""
        known = Known()
        self.groups = GroupStore(self.topics)
        self.groups.load(known, 0)
        return known.offsets.get(PLACE)

    def crash(self):
        """What a coordinator knows after a stop that nobody has prepared."""
        self.store.close()
        self.disk.kill()
        self._open()
        return self.load()


@pytest.fixture
def world():
    """A group with one committed offset, 100."""
    world = World()
    world.save(100)
    world.write()
    world.commit()
    return world


def test_an_append_that_is_taken_back_leaves_what_it_was_to_supersede(world):
    """The older offset was acknowledged; without it the group would begin anew."""
    world.save(101)
    world.write()
    world.log.truncate(1)
    world.write()
    assert world.load() == 100


def test_what_is_superseded_is_settled_with_the_commit(world):
    """One record a place is left, before and after a crash."""
    for offset in range(101, 111):
        world.save(offset)
    world.write()
    assert len(world.alive()) == 11
    world.commit()
    assert world.alive() == [10]
    world.write()
    assert world.crash() == 110
    assert world.alive() == [10]


def test_a_crash_before_the_settling(world):
    """The newer offset counts, and the older is settled by the start."""
    world.save(101)
    world.write()
    assert world.crash() == 101
    assert world.alive() == [1]


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_deletion_takes_all_records_with_it(world, is_committed):
    """Those as well that wait for their settling: none of them comes back."""
    world.save(101)
    world.write()
    if is_committed:
        world.commit()
    world.save(102)
    world.drop()
    assert world.alive() == []
    world.write()
    assert world.crash() is None


def test_a_place_that_is_deleted_and_made_anew(world):
    """The settlings that waited for the old one leave the new one alone."""
    world.save(101)
    world.write()
    world.drop()
    world.save(5)
    world.save(6)
    assert world.alive() == [2, 3]
    world.commit()
    assert world.alive() == [2, 3]
    world.write()
    world.commit()
    assert world.alive() == [3]
    assert world.load() == 6
